//! The bodies that an instance sends: a page, a JSON object, a file of any size, a stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::journal::content;

/// A JSON body may be this long.
const JSON_LIMIT: usize = 1024 * 1024;

/// What ends a connection, or a body, without an orderly end.
#[derive(Debug, thiserror::Error)]
#[error("cut off on purpose")]
pub(crate) struct Cut;

/// Any body; an error in it cuts the connection.
pub(crate) type Body = UnsyncBoxBody<Bytes, Cut>;

/// The JSON object that a request carries.
pub(crate) async fn received(request: Request<Incoming>) -> Result<Option<Value>, Cut> {
    let body = Limited::new(request.into_body(), JSON_LIMIT).collect().await;
    let body = body.map_err(|_| Cut)?.to_bytes();
    Ok(serde_json::from_slice::<Value>(&body).ok().filter(Value::is_object))
}

/// A whole answer of this content type.
pub(crate) fn whole(status: StatusCode, content_type: &'static str, content: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(content.into()).map_err(|never| match never {});
    with_type(status, content_type, body.boxed_unsync())
}

/// A JSON answer.
pub(crate) fn object(status: StatusCode, content: &Value) -> Response<Body> {
    whole(status, "application/json", content.to_string())
}

/// An error in the shape of Dify's API.
pub(crate) fn failure(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    object(
        status,
        &json!({"code": code, "message": message, "status": status.as_u16()}),
    )
}

/// A page as `web` or Flask serves one.
pub(crate) fn page(status: StatusCode, title: &str) -> Response<Body> {
    let html = format!("<!doctype html>\n<html lang=en>\n<title>{title}</title>\n<h1>{title}</h1>\n");
    whole(status, "text/html; charset=utf-8", html)
}

/// A file of `size` bytes, made as it is sent: with the [`content`] of an exchange, or all the same letter.
pub(crate) fn file(size: u64, exchange: Option<u64>) -> Response<Body> {
    let file = File {
        sent: 0,
        left: size,
        exchange,
    };
    with_type(StatusCode::OK, "application/octet-stream", file.boxed_unsync())
}

/// A body that is fed from elsewhere: each `Some` is sent at once as a chunk, `None` ends it well, and a feeder
/// that goes away without `None` cuts it.
pub(crate) fn fed(content_type: &'static str) -> (mpsc::Sender<Option<Bytes>>, Response<Body>) {
    let (feeder, chunks) = mpsc::channel(16);
    (
        feeder,
        with_type(
            StatusCode::OK,
            content_type,
            Fed {
                chunks,
                abandoned: false,
            }
            .boxed_unsync(),
        ),
    )
}

fn with_type(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

struct Fed {
    chunks: mpsc::Receiver<Option<Bytes>>,
    abandoned: bool,
}

impl hyper::body::Body for Fed {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.chunks.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(fed)) => Poll::Ready(fed.map(|chunk| Ok(Frame::data(chunk)))),
            // An error throws away what is still buffered, so what was fed is given one turn to leave.
            Poll::Ready(None) if !self.abandoned => {
                self.abandoned = true;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) => Poll::Ready(Some(Err(Cut))),
        }
    }
}

struct File {
    sent: u64,
    left: u64,
    exchange: Option<u64>,
}

impl hyper::body::Body for File {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        static PIECE: [u8; 64 * 1024] = [b'd'; 64 * 1024];
        let size = usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE.len());
        let from = self.sent;
        self.sent += size as u64;
        self.left -= size as u64;
        let piece = |exchange| {
            let mut piece = vec![0; size];
            content(exchange, from, &mut piece);
            Bytes::from(piece)
        };
        let piece = self
            .exchange
            .map_or_else(|| Bytes::from_static(&PIECE).slice(..size), piece);
        Poll::Ready((size > 0).then(|| Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
