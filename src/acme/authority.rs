//! An authority that issues certificates, and the conversation with it. The protocol is the library's; the connections, and whom they trust, are
//! the gate's own.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use instant_acme::{
    Account, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeType, Error, HttpClient, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{AcmeError, Challenges, Proof, Wanted};
use crate::store::Store;
use crate::tls::{Authorities, TlsTerms};

/// One question and its answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Larger answers are none of an authority's.
const LARGEST: usize = 1 << 20;

/// How long an authority may take to look for the proofs, and then to issue.
const PATIENCE: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(120));

/// An authority at which the gate has an account.
pub(super) struct Authority(Account);

impl Authority {
    /// The account that was opened there once, or a new one.
    pub(super) async fn of(wanted: &Wanted, store: &Store, authorities: Arc<Authorities>) -> Result<Self, AcmeError> {
        let web = || {
            Account::builder_with_http(Box::new(Web {
                authorities: authorities.clone(),
                terms: TlsTerms {
                    server_name: None,
                    files: wanted.trust(),
                },
            }))
        };
        let name = wanted.account();
        match store.read(&name) {
            Ok(Some(credentials)) => return Ok(Self(web().from_credentials(credentials).await?)),
            Ok(None) => {}
            Err(e) => warn!(error = %e, name, "the account with the authority cannot be read; another one is opened"),
        }
        let email = wanted.email.as_ref().map(|email| format!("mailto:{email}"));
        let contact = email.as_deref();
        let account = NewAccount {
            contact: contact.as_slice(),
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let (account, credentials) = web().create(&account, wanted.directory.clone(), None).await?;
        info!(directory = wanted.directory, "opened an account with the authority");
        let kept = store.write(&name, &credentials);
        kept.map_err(|source| AcmeError::Unkept {
            path: store.path().join(name),
            source,
        })?;
        Ok(Self(account))
    }

    /// A new key and the certificate for it, with its chain, in PEM.
    pub(super) async fn issue(&self, hosts: &[String], challenges: &Challenges) -> Result<String, AcmeError> {
        let identifiers: Vec<Identifier> = hosts.iter().cloned().map(Identifier::Dns).collect();
        let mut order = self.0.new_order(&NewOrder::new(&identifiers)).await?;
        let proofs = prove(&mut order, challenges).await?;
        let status = order.poll_ready(&PATIENCE).await?;
        drop(proofs);
        if status != OrderStatus::Ready {
            return Err(unproven(&mut order).await?);
        }
        let key = order.finalize().await?;
        let chain = order.poll_certificate(&PATIENCE).await?;
        Ok(format!("{key}{chain}"))
    }
}

/// Gives the proofs that an order asks for.
async fn prove(order: &mut Order, challenges: &Challenges) -> Result<Vec<Proof>, AcmeError> {
    let mut proofs = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let host = authorization.identifier().to_string();
        let Some(mut challenge) = authorization.challenge(ChallengeType::Http01) else {
            let why = "the authority asks for another proof than HTTP-01".to_owned();
            return Err(AcmeError::Unproven { host, why });
        };
        proofs.push(challenges.put(&challenge.token, challenge.key_authorization().as_str()));
        challenge.set_ready().await?;
    }
    Ok(proofs)
}

/// Which host the authority does not believe to be the gate's, and why.
async fn unproven(order: &mut Order) -> Result<AcmeError, AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let authorization = authorization?;
        let problem = authorization
            .challenges
            .iter()
            .find_map(|challenge| challenge.error.as_ref());
        if let Some(problem) = problem {
            return Ok(AcmeError::Unproven {
                host: authorization.identifier().to_string(),
                why: problem.to_string(),
            });
        }
    }
    Ok(AcmeError::Authority(Error::Str("a reason why the order is not ready")))
}

/// Connections to an authority.
struct Web {
    authorities: Arc<Authorities>,
    terms: TlsTerms,
}

impl HttpClient for Web {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (authorities, terms) = (self.authorities.clone(), self.terms.clone());
        Box::pin(async move {
            let asked = timeout(DEADLINE, ask(&authorities, &terms, request)).await;
            let answered = asked.unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}").into()));
            Ok(answered.map_err(Error::Other)?.into())
        })
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn ask(
    authorities: &Authorities,
    terms: &TlsTerms,
    request: Request<BodyWrapper<Bytes>>,
) -> Result<Response<Full<Bytes>>, Failure> {
    let (mut head, body) = request.into_parts();
    let url = std::mem::take(&mut head.uri);
    let authority = url.authority().filter(|_| url.scheme_str() == Some("https"));
    let authority = authority.ok_or_else(|| format!("{url} is no https URL"))?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let at = |e: &dyn std::fmt::Display| format!("{authority}: {e}");
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(443))).await;
    let stream = stream.map_err(|e| at(&e))?;
    let stream = authorities.secure(stream, host, terms).await.map_err(|e| at(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    head.uri = Uri::from(url.path_and_query().cloned().ok_or("a URL without a path")?);
    head.headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
    let answer = sender.send_request(Request::from_parts(head, body)).await?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, LARGEST).collect().await?.to_bytes();
    Ok(Response::from_parts(head, Full::new(body)))
}
