//! An endpoint that reads every request body to its end and holds its length against the one that the client named, so that a proxy which loses a
//! part of a body is seen to.

#![allow(dead_code)] // each benchmark uses a part of it

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The request header that names the length of the body, in bytes.
pub(crate) const LENGTH: &str = "x-body-length";
/// A path whose requests are accepted, and neither read nor answered.
pub(crate) const STALLED: &str = "/stalled";

const ANSWER: &str = "{\"status\":\"healthy\",\"pad\":\"123456\"}";

/// Serves HTTP/1.1 until the runtime ends.
pub(crate) async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let connection = http1::Builder::new()
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(connection);
    }
}

/// Answers 200, or 400 where the body is not as long as the request says, or ends early.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == STALLED {
        std::future::pending::<()>().await;
    }
    let named = request.headers().get(LENGTH).and_then(|named| named.to_str().ok());
    let expected: usize = named.map_or(0, |named| named.parse().expect("a length"));
    let mut body = request.into_body();
    let (mut received, mut is_whole) = (0, true);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => received += frame.data_ref().map_or(0, Bytes::len),
            Err(_) => is_whole = false,
        }
    }
    let (status, text) = if is_whole && received == expected {
        (StatusCode::OK, Bytes::from_static(ANSWER.as_bytes()))
    } else {
        (
            StatusCode::BAD_REQUEST,
            format!("{{\"received\":{received},\"expected\":{expected}}}").into(),
        )
    };
    let mut answer = Response::new(Full::new(text));
    *answer.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(http::header::CONTENT_TYPE, json);
    Ok(answer)
}
