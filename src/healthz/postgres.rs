//! PostgreSQL: a connection, a login and `SELECT 1`, in the clear or within TLS.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, NoTls, Socket};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::check::{Tools, told};
use super::opportunistic;
use crate::tls::TlsTerms;

/// A database and how it is reached.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// Where, and as whom.
    pub login: Config,
    /// The host whose name is verified.
    pub host: String,
    /// How the connection is secured.
    pub security: Security,
}

/// How a connection is secured.
#[derive(Clone, Debug)]
pub enum Security {
    /// Not at all.
    Clear,
    /// As libpq's `sslmode=prefer`: within TLS that nobody verifies where the server has it, and in the clear where it does not, or refuses the login
    /// within TLS.
    Prefer,
    /// Within TLS, and verified.
    Verified(TlsTerms),
}

impl Security {
    /// Its terms, where the other side is verified.
    pub fn verified(&self) -> Option<&TlsTerms> {
        match self {
            Self::Verified(terms) => Some(terms),
            Self::Clear | Self::Prefer => None,
        }
    }
}

impl Postgres {
    pub(super) async fn ask(&self, tools: &Tools) -> Result<(), String> {
        let asked = match &self.security {
            Security::Clear => select(&self.login, NoTls).await,
            Security::Prefer => self.prefer().await?,
            Security::Verified(terms) => {
                let connector = tools.authorities.connector(&self.host, terms);
                let (connector, name) = connector.map_err(|e| told(&e))?;
                let mut login = self.login.clone();
                login.ssl_mode(SslMode::Require);
                select(&login, Handshake { connector, name }).await
            }
        };
        asked.map_err(|e| told(&e))
    }

    async fn prefer(&self) -> Result<Result<(), tokio_postgres::Error>, String> {
        let (connector, name) = opportunistic::connector(&self.host).map_err(|e| told(&e))?;
        let mut login = self.login.clone();
        login.ssl_mode(SslMode::Prefer);
        let within = select(&login, Handshake { connector, name }).await;
        let Err(e) = within else {
            return Ok(Ok(()));
        };
        if !may_pass_in_the_clear(&e) {
            return Ok(Err(e));
        }
        // Where that fails as well, the first error tells more.
        Ok(select(&self.login, NoTls).await.map_err(|_| e))
    }
}

/// Whether a login that failed within TLS may succeed without: the handshake failed, or the server wants nobody within TLS (`hostnossl` in pg_hba.conf).
fn may_pass_in_the_clear(e: &tokio_postgres::Error) -> bool {
    match e.code() {
        Some(code) => *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        None => e.to_string().contains("TLS"),
    }
}

/// A new connection each time: one that is kept would not notice that no further one can be had.
async fn select<T>(login: &Config, tls: T) -> Result<(), tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket, Stream: Send + 'static>,
{
    let (client, connection) = login.connect(tls).await?;
    // It ends with the client.
    let driven = tokio::spawn(connection);
    let asked = client.simple_query("SELECT 1").await;
    drop(client);
    if asked.is_ok() {
        // The server is told that this was all, and need not find out.
        drop(driven.await);
    }
    asked.map(drop)
}

/// What the driver asks for a handshake.
#[derive(Clone)]
struct Handshake {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl MakeTlsConnect<Socket> for Handshake {
    type Stream = Secured;
    type TlsConnect = Self;
    type Error = Infallible;

    fn make_tls_connect(&mut self, _: &str) -> Result<Self, Infallible> {
        Ok(self.clone())
    }
}

impl TlsConnect<Socket> for Handshake {
    type Stream = Secured;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Secured>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move { self.connector.connect(self.name, stream).await.map(Secured) })
    }
}

/// A connection within TLS, as the driver wants it.
struct Secured(TlsStream<Socket>);

impl tokio_postgres::tls::TlsStream for Secured {
    /// The login is not bound to the certificate, which is verified anyhow.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
