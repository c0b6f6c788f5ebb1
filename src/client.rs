//! A small HTTP client for the live commands: one request, one answer, within a deadline.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The URL is not one that can be asked.
    #[error("{0} is no http URL of the form http://host:port")]
    Url(String),
    /// Nobody listens there.
    #[error("cannot connect to {url} (is the gate running, and is this its `admin.address`?)")]
    Connect {
        /// The URL.
        url: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The answer broke off, or is none.
    #[error("{url} does not answer in HTTP")]
    Http {
        /// The URL.
        url: String,
        /// What is wrong with it.
        source: hyper::Error,
    },
    /// The request cannot be written.
    #[error("the request cannot be written")]
    Request(#[from] http::Error),
    /// The deadline passed.
    #[error("{url} did not answer within {after:?}")]
    Timeout {
        /// The URL.
        url: String,
        /// The deadline.
        after: Duration,
    },
}

/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// Gets `path` from the service at `base`, such as `http://127.0.0.1:9900`.
///
/// # Errors
/// There is no answer; an answer of any status is none.
pub async fn get(base: &str, path: &str) -> Result<(http::StatusCode, Bytes), ClientError> {
    send(http::Method::GET, base, path, &[], Bytes::new()).await
}

/// Sends a request with further headers and a JSON body to the service at `base`.
///
/// # Errors
/// There is no answer; an answer of any status is none.
pub async fn send(
    method: http::Method,
    base: &str,
    path: &str,
    headers: &[(&str, String)],
    body: Bytes,
) -> Result<(http::StatusCode, Bytes), ClientError> {
    let url = format!("{}{path}", base.trim_end_matches('/'));
    let uri: http::Uri = url.parse().map_err(|_| ClientError::Url(url.clone()))?;
    let Some(authority) = uri.authority().filter(|_| uri.scheme_str() == Some("http")) else {
        return Err(ClientError::Url(url));
    };
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let exchange = async {
        let stream = TcpStream::connect(&address)
            .await
            .map_err(|source| ClientError::Connect {
                url: base.to_owned(),
                source,
            })?;
        let failed = |source| ClientError::Http {
            url: url.clone(),
            source,
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        tokio::spawn(connection);
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let request = http::Request::builder()
            .method(method)
            .uri(target)
            .header(http::header::HOST, authority.as_str())
            .header(http::header::CONTENT_TYPE, "application/json");
        let with = |request: http::request::Builder, (name, value): &(&str, String)| request.header(*name, value);
        let request = headers.iter().fold(request, with).body(Full::new(body))?;
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(failed)?.to_bytes();
        Ok((status, body))
    };
    let answered = tokio::time::timeout(DEADLINE, exchange).await;
    answered.unwrap_or(Err(ClientError::Timeout {
        url: url.clone(),
        after: DEADLINE,
    }))
}
