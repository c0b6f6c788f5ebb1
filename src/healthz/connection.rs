//! Connections to what is checked, in the clear or within TLS. Whoever is asked is always verified: a login tells a password.

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::check::{Tools, told};
use crate::gate::names::Address;
use crate::tls::TlsTerms;

/// What a protocol is spoken over.
pub(super) trait Conversation: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Conversation for T {}

/// A new connection to `address`.
pub(super) async fn connect(
    address: &Address,
    tls: Option<&TlsTerms>,
    tools: &Tools,
) -> Result<Pin<Box<dyn Conversation>>, String> {
    let stream = TcpStream::connect((address.host(), address.port()))
        .await
        .map_err(|e| e.to_string())?;
    let Some(terms) = tls else {
        return Ok(Box::pin(stream));
    };
    let (connector, name) = tools
        .authorities
        .connector(address.host(), terms)
        .map_err(|e| told(&e))?;
    let secured = connector.connect(name, stream).await;
    Ok(Box::pin(secured.map_err(|e| format!("TLS: {}", told(&e)))?))
}
