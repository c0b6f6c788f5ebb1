//! What a client in the clear speaks, told by its first bytes: HTTP/2 begins with words that no request of HTTP/1.1 begins with (RFC 9113
//! section 3.3, "with prior knowledge").

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first bytes of a connection.
#[derive(Debug, Default)]
pub(super) struct Opening {
    /// They are read, and belong to what follows.
    pub(super) bytes: BytesMut,
    /// Whether they are those of HTTP/2.
    pub(super) is_http2: bool,
}

/// Reads until it is clear what a client speaks, but no longer than `patience`: one that says nothing would be waited for without end.
///
/// # Errors
/// It says too little in time, or its connection broke.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin), patience: Duration) -> io::Result<Opening> {
    let mut opening = Opening::default();
    let reading = async {
        while PREFACE.starts_with(&opening.bytes) && opening.bytes.len() < PREFACE.len() {
            let left = PREFACE.len() - opening.bytes.len();
            if (&mut *stream).take(left as u64).read_buf(&mut opening.bytes).await? == 0 {
                break;
            }
        }
        Ok::<(), io::Error>(())
    };
    timeout(patience, reading)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    opening.is_http2 = opening.bytes == PREFACE;
    Ok(opening)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_told_by_the_first_bytes_and_none_is_lost() {
        for (sent, is_http2, read_bytes) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"[..], true, 24),
            (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", false, 24),
            (b"PRI * HTTP/2.0\r\n\r\nXX", false, 20),
            (b"P", false, 1),
            (b"", false, 0),
        ] {
            for step in [1, 7, 64] {
                let (mut client, mut server) = tokio::io::duplex(64);
                let pieces: Vec<Vec<u8>> = sent.chunks(step).map(<[u8]>::to_vec).collect();
                tokio::spawn(async move {
                    for piece in pieces {
                        // The server may have read enough.
                        let _ = client.write_all(&piece).await;
                        tokio::task::yield_now().await;
                    }
                });
                let opening = read(&mut server, Duration::from_secs(1)).await.unwrap();
                assert_eq!(opening.is_http2, is_http2);
                assert!(sent.starts_with(&opening.bytes) && opening.bytes.len() <= read_bytes);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_has_an_end() {
        let (mut client, mut server) = tokio::io::duplex(64);
        client.write_all(b"PRI * ").await.unwrap();
        let silent = read(&mut server, Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
    }
}
