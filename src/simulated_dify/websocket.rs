//! The WebSocket side (RFC 6455): the handshake, and an echo that answers each frame with itself.

use std::io;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::body::{Body, failure, page, whole};
use super::connection::Connection;

/// The constant that RFC 6455 section 1.3 appends to the key.
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Longer payloads end the connection.
const PAYLOAD_LIMIT: u64 = 16 * 1024 * 1024;

const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Whether the request asks for a WebSocket.
pub(crate) fn is_upgrade<B>(request: &Request<B>) -> bool {
    request
        .headers()
        .get(UPGRADE)
        .is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The answer to an upgrade: 101 and an echo on `api_websocket`, 500 on a plain api.
pub(crate) fn answer<B: Send + 'static>(connection: Arc<Connection>, request: Request<B>) -> Response<Body> {
    if !connection.app.board.read(|switches| switches.websocket) {
        return page(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error");
    }
    let Some(accept) = request
        .headers()
        .get(SEC_WEBSOCKET_KEY)
        .and_then(|key| accept_of(key.as_bytes()))
    else {
        return failure(StatusCode::BAD_REQUEST, "bad_request", "Sec-WebSocket-Key is missing.");
    };
    connection.process.clone().spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            // An echo ends when its peer goes, in whatever way.
            let _ = echo(TokioIo::new(upgraded)).await;
        }
        drop(connection);
    });
    let mut response = whole(StatusCode::SWITCHING_PROTOCOLS, "text/plain", "");
    let headers = response.headers_mut();
    headers.clear();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

fn accept_of(key: &[u8]) -> Option<HeaderValue> {
    let digest = sha1_smol::Sha1::from([key, ACCEPT_SUFFIX.as_bytes()].concat())
        .digest()
        .bytes();
    HeaderValue::from_str(&STANDARD.encode(digest)).ok()
}

async fn echo(mut socket: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    loop {
        let first = socket.read_u8().await?;
        let payload = read_payload(&mut socket).await?;
        let opcode = first & 0x0f;
        match opcode {
            PONG => continue,
            PING => write_frame(&mut socket, first ^ PING ^ PONG, &payload).await?,
            _ => write_frame(&mut socket, first, &payload).await?,
        }
        if opcode == CLOSE {
            return socket.shutdown().await;
        }
    }
}

async fn read_payload(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let second = socket.read_u8().await?;
    let length = match second & 0x7f {
        126 => u64::from(socket.read_u16().await?),
        127 => socket.read_u64().await?,
        short => u64::from(short),
    };
    if length > PAYLOAD_LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut mask = [0; 4];
    if second & 0x80 != 0 {
        socket.read_exact(&mut mask).await?;
    }
    let mut payload = Vec::new();
    socket.take(length).read_to_end(&mut payload).await?;
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    Ok(payload)
}

async fn write_frame(socket: &mut (impl AsyncWrite + Unpin), first: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(short as u8),
        medium @ 126..65_536 => {
            frame.push(126);
            frame.extend((medium as u16).to_be_bytes());
        }
        long => {
            frame.push(127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    socket.write_all(&frame).await?;
    socket.flush().await
}
