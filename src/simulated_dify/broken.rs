//! Answers that no HTTP library would send: each is a few bytes and a way to go on from there.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

/// A way to answer a probe that is wrong. Each is sent after the whole request was read, unless it says
/// otherwise. "Closes" means that a FIN follows, "hangs" that nothing does until the prober goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BrokenAnswer {
    /// Nothing at all; hangs.
    HangBeforeHeaders,
    /// A status line and half a header; hangs.
    HangMidHeader,
    /// A passing head and half its body; hangs.
    HangMidBody,
    /// A passing answer, one byte each 200 ms.
    Drip,
    /// Chunks without end, as fast as they are read.
    EndlessBody,
    /// A body of 100 MB with its right length; closes.
    HugeBody,
    /// A body that is not JSON, declared as JSON; closes.
    InvalidJson,
    /// 20,000 nested arrays; closes.
    DeepJson,
    /// A passing body after a byte order mark; closes.
    BomJson,
    /// A passing body in UTF-16, with its byte order mark; closes.
    Utf16Json,
    /// A passing status beside a `NaN`, which JSON does not have; closes.
    NanJson,
    /// A `Content-Length` longer than the passing body; hangs.
    LengthTooLong,
    /// A `Content-Length` that cuts the passing body in half, with the rest following; closes.
    LengthTooShort,
    /// A chunk size that is not a number; closes.
    ChunkedGarbage,
    /// A passing chunk without the last chunk; closes.
    ChunkedWithoutEnd,
    /// A chunk extension of 1 MB; then a proper end, and closes.
    ChunkedHugeExtension,
    /// A body without any head, as before HTTP/1.0; closes.
    Http09,
    /// A passing answer in HTTP/1.0, whose end is the close. Correct, and rare.
    Http10,
    /// A passing answer in a version that does not exist; closes.
    Http99,
    /// The banner of an SSH port; hangs.
    SshBanner,
    /// What a TLS port says to cleartext: a fatal alert; closes.
    TlsAlert,
    /// `100 Continue`, unasked, before a passing answer; closes.
    UnaskedContinue,
    /// `103 Early Hints` without end, never an answer.
    EarlyHintsFlood,
    /// `101 Switching Protocols`, unasked; hangs.
    UnaskedSwitch,
    /// A passing answer with 257 headers; closes.
    ManyHeaders,
    /// A passing answer with one header of 2 MB; closes.
    HugeHeader,
    /// The connection is reset as soon as it is accepted, whatever it would have asked.
    ResetOnAccept,
    /// The connection is closed as soon as it is accepted, whatever it would have asked.
    CloseOnAccept,
}

/// How a broken answer goes on after its first bytes.
enum Then {
    Close,
    Hang,
    Reset,
    /// One byte each 200 ms, then hang.
    Drip(String),
    /// The same piece so many times.
    Repeat(Vec<u8>, usize),
}

const PASSING: &str = r#"{"status":"healthy","details":{"database":true}}"#;
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
const DRIP_PAUSE: Duration = Duration::from_millis(200);

impl BrokenAnswer {
    /// Every kind there is, so that a test can try them all.
    pub const ALL: [Self; 28] = [
        Self::HangBeforeHeaders,
        Self::HangMidHeader,
        Self::HangMidBody,
        Self::Drip,
        Self::EndlessBody,
        Self::HugeBody,
        Self::InvalidJson,
        Self::DeepJson,
        Self::BomJson,
        Self::Utf16Json,
        Self::NanJson,
        Self::LengthTooLong,
        Self::LengthTooShort,
        Self::ChunkedGarbage,
        Self::ChunkedWithoutEnd,
        Self::ChunkedHugeExtension,
        Self::Http09,
        Self::Http10,
        Self::Http99,
        Self::SshBanner,
        Self::TlsAlert,
        Self::UnaskedContinue,
        Self::EarlyHintsFlood,
        Self::UnaskedSwitch,
        Self::ManyHeaders,
        Self::HugeHeader,
        Self::ResetOnAccept,
        Self::CloseOnAccept,
    ];

    /// Whether it comes before the client has said anything, and so hits traffic as well as probes.
    pub fn needs_no_request(self) -> bool {
        matches!(self, Self::ResetOnAccept | Self::CloseOnAccept)
    }

    /// Sends the answer on a connection whose request was read, and stays until it is over.
    pub(crate) async fn send(self, mut stream: TcpStream) {
        let (first, then) = self.script();
        if stream.write_all(&first).await.is_err() {
            return;
        }
        match then {
            Then::Close => {}
            Then::Hang => until_the_peer_goes(&mut stream).await,
            Then::Reset => drop(stream.set_zero_linger()),
            Then::Drip(bytes) => drip(&mut stream, bytes.as_bytes()).await,
            Then::Repeat(piece, times) => {
                for _ in 0..times {
                    if stream.write_all(&piece).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn script(self) -> (Vec<u8>, Then) {
        use Then::{Close, Drip, Hang, Repeat, Reset};
        let half = &PASSING[..PASSING.len() / 2];
        match self {
            Self::HangBeforeHeaders => (vec![], Hang),
            Self::HangMidHeader => (b"HTTP/1.1 200 OK\r\nContent-Ty".to_vec(), Hang),
            Self::HangMidBody => (sized(PASSING.len(), half), Hang),
            Self::Drip => (vec![], Drip(text(sized(PASSING.len(), PASSING)))),
            Self::EndlessBody => (chunked(""), Repeat(chunk(&[b' '; 4096]), usize::MAX)),
            Self::HugeBody => (sized(100_000_000, ""), Repeat(vec![b' '; 100_000], 1_000)),
            Self::InvalidJson => (whole(b"{\"status\": healthy"), Close),
            Self::DeepJson => (whole("[".repeat(20_000).as_bytes()), Close),
            Self::BomJson => (whole(format!("\u{feff}{PASSING}").as_bytes()), Close),
            Self::Utf16Json => (whole(&utf16(PASSING)), Close),
            Self::NanJson => (whole(br#"{"status":"healthy","details":{"load":NaN}}"#), Close),
            Self::LengthTooLong => (sized(PASSING.len() + 1_000, PASSING), Hang),
            Self::LengthTooShort => (sized(half.len(), PASSING), Close),
            Self::ChunkedGarbage => (chunked("so many\r\n"), Close),
            Self::ChunkedWithoutEnd => ([chunked(""), chunk(PASSING.as_bytes())].concat(), Close),
            Self::ChunkedHugeExtension => {
                let size = PASSING.len();
                (
                    chunked(&format!(
                        "{size:x};x={}\r\n{PASSING}\r\n0\r\n\r\n",
                        "x".repeat(1_000_000)
                    )),
                    Close,
                )
            }
            Self::Http09 => (PASSING.into(), Close),
            Self::Http10 => (format!("HTTP/1.0 200 OK\r\n\r\n{PASSING}").into(), Close),
            Self::Http99 => (
                text(sized(PASSING.len(), PASSING)).replacen("1.1", "9.9", 1).into(),
                Close,
            ),
            Self::SshBanner => (b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), Hang),
            Self::TlsAlert => (vec![0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46], Close),
            Self::UnaskedContinue => (
                [b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), sized(PASSING.len(), PASSING)].concat(),
                Close,
            ),
            Self::EarlyHintsFlood => (
                vec![],
                Repeat(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".to_vec(), usize::MAX),
            ),
            Self::UnaskedSwitch => (
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".to_vec(),
                Hang,
            ),
            Self::ManyHeaders => (with_headers(&"X-More: 1\r\n".repeat(255)), Close),
            Self::HugeHeader => (with_headers(&format!("X-Huge: {}\r\n", "x".repeat(2_000_000))), Close),
            Self::ResetOnAccept => (vec![], Reset),
            Self::CloseOnAccept => (vec![], Close),
        }
    }
}

/// A head that declares `length`, whatever body follows it.
fn sized(length: usize, body: &str) -> Vec<u8> {
    format!("{OK}Content-Length: {length}\r\n\r\n{body}").into()
}

fn whole(body: &[u8]) -> Vec<u8> {
    [&sized(body.len(), ""), body].concat()
}

/// Little-endian, after its byte order mark.
fn utf16(body: &str) -> Vec<u8> {
    format!("\u{feff}{body}")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect()
}

/// A head and, with `Content-Length` and `Content-Type`, two headers more than `headers` has.
fn with_headers(headers: &str) -> Vec<u8> {
    format!("{OK}{headers}Content-Length: {}\r\n\r\n{PASSING}", PASSING.len()).into()
}

fn chunked(rest: &str) -> Vec<u8> {
    format!("{OK}Transfer-Encoding: chunked\r\n\r\n{rest}").into()
}

fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn drip(stream: &mut TcpStream, bytes: &[u8]) {
    for byte in bytes {
        if stream.write_all(&[*byte]).await.is_err() {
            return;
        }
        sleep(DRIP_PAUSE).await;
    }
    until_the_peer_goes(stream).await;
}

async fn until_the_peer_goes(stream: &mut TcpStream) {
    let mut ignored = [0; 1024];
    while stream.read(&mut ignored).await.is_ok_and(|length| length > 0) {}
}
