//! An HTTP/1.1 client: one connection and one request each, and the answer part by part, so that a stream can be followed and a broken answer is told from a
//! whole one.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The longest body that is kept, in bytes; what is beyond is an error.
const LONGEST: usize = 4 * 1024 * 1024;

/// A request to a service at `host:port`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Ask {
    pub(crate) fn get(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn post(path: &str, body: &serde_json::Value) -> Self {
        Self {
            method: Method::POST,
            path: path.to_owned(),
            headers: vec![("content-type", "application/json".to_owned())],
            body: body.to_string().into(),
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// Sends it, and returns once the head of the answer is there.
    pub(crate) async fn send(self, authority: &str) -> Result<Reply, String> {
        let began = Instant::now();
        let stream = TcpStream::connect(authority)
            .await
            .map_err(|e| format!("no connection: {e}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        tokio::spawn(connection.with_upgrades());
        let request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header(http::header::HOST, authority);
        let request = self
            .headers
            .into_iter()
            .fold(request, |request, (name, value)| request.header(name, value));
        let request = request.body(Full::new(self.body)).map_err(|e| e.to_string())?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| format!("no answer: {e}"))?;
        let (head, body) = response.into_parts();
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body,
            began,
        })
    }

    /// The whole exchange, for `patience` at the most.
    pub(crate) async fn whole(self, authority: &str, patience: Duration) -> Result<Whole, String> {
        let exchange = async { self.send(authority).await?.rest().await };
        let answer = tokio::time::timeout(patience, exchange).await;
        answer.unwrap_or_else(|_| Err(format!("no whole answer within {patience:?}")))
    }
}

/// An answer whose body is still to come.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    began: Instant,
}

/// An answer that came to its end.
#[derive(Clone, Debug)]
pub(crate) struct Whole {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    /// From the request to the first byte of the body, or to the end where there is none.
    pub(crate) first_byte: Duration,
    pub(crate) took: Duration,
}

impl Whole {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        header(&self.headers, name)
    }
}

/// A header's value, or nothing.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

impl Reply {
    /// The next part of the body; nothing at its end.
    pub(crate) async fn part(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(e)) => return Err(format!("the answer broke off: {e}")),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Reads on until the text so far holds `wanted`; returns the text.
    pub(crate) async fn until(&mut self, wanted: &str) -> Result<String, String> {
        let mut text = String::new();
        while !text.contains(wanted) {
            match self.part().await? {
                Some(part) => text.push_str(&String::from_utf8_lossy(&part)),
                None => return Err(format!("the answer ended without {wanted}")),
            }
        }
        Ok(text)
    }

    /// Reads to the end.
    pub(crate) async fn rest(mut self) -> Result<Whole, String> {
        let (mut text, mut first_byte) = (Vec::new(), None);
        while let Some(part) = self.part().await? {
            first_byte.get_or_insert(self.began.elapsed());
            text.extend_from_slice(&part);
            if text.len() > LONGEST {
                return Err(format!("the answer is longer than {LONGEST} bytes"));
            }
        }
        let took = self.began.elapsed();
        Ok(Whole {
            status: self.status,
            headers: self.headers,
            text: String::from_utf8_lossy(&text).into_owned(),
            first_byte: first_byte.unwrap_or(took),
            took,
        })
    }
}
