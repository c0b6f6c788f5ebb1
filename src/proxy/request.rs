//! What happens to a request before it may go anywhere: it is read strictly, its client is told, the guard and the routes decide.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::PoisonError;

use http::header::{HOST, SET_COOKIE};
use http::{HeaderValue, Method};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tracing::warn;

use crate::config::Place;
use crate::edge::conn::Conn;
use crate::gate::alarm::AlarmVerdict;
use crate::gate::cidr::CidrSet;
use crate::gate::client::{self, Client};
use crate::gate::guard::{Admission, GuardAnswer};
use crate::gate::hygiene::{self, HttpVersion, Refusal};
use crate::gate::path::{Form, OriginForm, as_url, canonical};
use crate::proxy::Gateway;
use crate::proxy::answer::{Answer, Fixed, share};
use crate::proxy::choice;
use crate::proxy::context::{Course, Exchange};
use crate::proxy::headers::{self, Origin, RequestId, host, lines, scheme_of};
use crate::proxy::own_answers::preflight;
use crate::proxy::rate::Rates;
use crate::proxy::site::Site;
use crate::upstream::Held;

/// What is to become of a request.
pub(super) enum Admitted {
    /// It goes on to an endpoint.
    Forward,
    /// The gate answers.
    Answer(Answer),
    /// The gate answers what the route says.
    Fixed(Fixed),
    /// The gate answers how it is.
    Health,
}

/// The connection under a session.
pub(super) fn conn(session: &Session) -> Option<&Conn> {
    Conn::of(session.stream()?.as_ref())
}

/// Shows a request that cannot be taken as it came, as far as it could be read: the framework was given another one for it.
pub(super) fn restore_refused(session: &mut Session) -> pingora::Result<()> {
    let Some(refused) = conn(session).and_then(Conn::refused).cloned() else {
        return Ok(());
    };
    let request = session.req_header_mut();
    request.remove_header(&HOST);
    if let Ok(method) = Method::from_bytes(refused.method.as_bytes()) {
        request.set_method(method);
    }
    headers::set_target(request, refused.target.as_bytes());
    Ok(())
}

fn identify(session: &Session, trusted: &CidrSet) -> Client {
    match peer(session) {
        Some(peer) => client::identify(peer, trusted, lines(session.req_header())),
        None => Client::UNKNOWN,
    }
}

fn peer(session: &Session) -> Option<IpAddr> {
    Some(session.client_addr()?.as_inet()?.ip())
}

impl Gateway {
    /// Decides what becomes of a request.
    pub(super) fn admit(&self, session: &Session, exchange: &mut Exchange) -> Admitted {
        let request = session.req_header();
        let client = identify(session, &exchange.site.trusted);
        exchange.client = Some(client);
        exchange.request_id = RequestId::of(request, &client);
        if let Some(refused) = conn(session).and_then(Conn::refused) {
            return self.unreadable(exchange, refused.refusal);
        }
        if let Some(refused) = self.bounded(session, exchange, &client) {
            return refused;
        }
        let method = request.method.as_str();
        if let Err(refusal) = hygiene::check_request(version(request), method, lines(request)) {
            return Admitted::Answer(
                exchange.refuse(Answer::refused(refusal.status(), refusal.reason()), refusal.reason()),
            );
        }
        // Two names for one host are a riddle (RFC 9113 section 8.3.1).
        if request
            .uri
            .authority()
            .is_some_and(|authority| version(request) == HttpVersion::Http2 && authority.as_str() != host(request))
        {
            return Admitted::Answer(exchange.refuse(Answer::refused(400, "host"), "host"));
        }
        let form = match OriginForm::parse(headers::target(request), method == "OPTIONS") {
            Ok(Form::Origin(form)) => form,
            Ok(Form::Asterisk) => return Admitted::Answer(exchange.refuse(Answer::not_found(404), "asterisk")),
            Err(malformed) => {
                let answer = Answer::refused(malformed.status(), malformed.reason());
                return Admitted::Answer(exchange.refuse(answer, malformed.reason()));
            }
        };
        let site = exchange.site.clone();
        match site.guard.admit(&client, form.path()) {
            Admission::Open => self.route(session, exchange, &site, form.path()),
            Admission::Internal { path } => self.internal(session, exchange, &site, form.path(), path),
            Admission::Deny { reason, .. } => {
                self.metrics.guard_denied.with_label_values(&[reason.as_str()]).inc();
                let answer = self.watch(&site, &client);
                let answer = answer.unwrap_or(Answer::not_found(site.guard.deny_status));
                Admitted::Answer(exchange.refuse(answer, reason.as_str()))
            }
        }
    }

    /// Answers a head that could not be read.
    fn unreadable(&self, exchange: &mut Exchange, refusal: Refusal) -> Admitted {
        let answer = Answer::refused(refusal.status(), refusal.reason());
        match refusal {
            Refusal::UriTooLong | Refusal::HeadersTooLarge => self.limited(exchange, answer, refusal.reason()),
            Refusal::Host
            | Refusal::ContentLength
            | Refusal::TransferEncoding
            | Refusal::Expect
            | Refusal::Method
            | Refusal::MethodNotServed
            | Refusal::Head => Admitted::Answer(exchange.refuse(answer, refusal.reason())),
        }
    }

    /// What is too large to be looked at, or comes too often.
    fn bounded(&self, session: &Session, exchange: &mut Exchange, client: &Client) -> Option<Admitted> {
        let request = session.req_header();
        let bounds = &self.door.settings.limits.bounds;
        if let Err(refusal) = hygiene::check_size(bounds, headers::target(request).len(), lines(request)) {
            let answer = Answer::refused(refusal.status(), refusal.reason());
            return Some(self.limited(exchange, answer, refusal.reason()));
        }
        self.too_often(self.rates.as_deref(), exchange, client)
    }

    /// Counts a request, which may be one too many.
    fn too_often(&self, rates: Option<&Rates>, exchange: &mut Exchange, client: &Client) -> Option<Admitted> {
        let wait = rates?.ask(client.address).err()?;
        Some(self.limited(exchange, Answer::too_many(Some(wait)), "client_rate"))
    }

    /// Refuses what a limit does not let on.
    fn limited(&self, exchange: &mut Exchange, answer: Answer, limit: &'static str) -> Admitted {
        self.door.limit(limit);
        Admitted::Answer(exchange.refuse(answer, limit))
    }

    fn internal(&self, session: &Session, exchange: &mut Exchange, site: &Site, path: &str, guarded: &str) -> Admitted {
        let client = exchange.client.unwrap_or(Client::UNKNOWN);
        if let Some(answer) = self.watch(site, &client) {
            return Admitted::Answer(exchange.refuse(answer, "alarm"));
        }
        match site.guard.answer {
            GuardAnswer::Summary if guarded == "/healthz" => Admitted::Health,
            GuardAnswer::Summary => Admitted::Answer(exchange.refuse(Answer::not_found(404), "guarded")),
            GuardAnswer::Forward => self.route(session, exchange, site, path),
        }
    }

    /// Notices a client that asks for guarded paths abnormally often; an answer means that it is to be refused for it.
    fn watch(&self, site: &Site, client: &Client) -> Option<Answer> {
        let now = self.clock.now();
        let mut alarm = site.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(requests) = alarm.observe_total(now) {
            self.metrics.guard_alarms.inc();
            warn!(
                requests,
                "guarded paths are asked for abnormally often by all clients together"
            );
        }
        match alarm.observe(client.address, now) {
            AlarmVerdict::Quiet | AlarmVerdict::Ongoing => None,
            AlarmVerdict::Raised { client, requests } => {
                self.metrics.guard_alarms.inc();
                let client = client.map_or_else(|| "unknown".to_owned(), |client| client.to_string());
                warn!(client, requests, "guarded paths are asked for abnormally often");
                None
            }
            AlarmVerdict::Blocked => Some(Answer::too_many(None)),
        }
    }

    fn route(&self, session: &Session, exchange: &mut Exchange, site: &Site, path: &str) -> Admitted {
        let request = session.req_header();
        let own = self.proof(path);
        if let Some(fixed) = own.or_else(|| self.to_https(request, exchange.client.as_ref(), path)) {
            return Admitted::Fixed(fixed);
        }
        let Some(to) = site.find(host(request), path) else {
            return Admitted::Answer(exchange.refuse(Answer::not_found(404), "no_route"));
        };
        exchange.to = Some(to.clone());
        let client = exchange.client.unwrap_or(Client::UNKNOWN);
        if let Some(refused) = self.too_often(to.rates.as_deref(), exchange, &client) {
            return refused;
        }
        let route = &to.route;
        if let Some(answer) = route.cors.as_ref().and_then(|cors| preflight(cors, request)) {
            return match answer {
                Ok(fixed) => Admitted::Fixed(fixed),
                Err(answer) => Admitted::Answer(exchange.refuse(answer, "cors")),
            };
        }
        if let Some(fixed) = self.fixed(route, request, &client) {
            return Admitted::Fixed(fixed);
        }
        let Some(upstream) = to.upstream.clone() else {
            return Admitted::Answer(exchange.refuse(Answer::internal(), "no_upstream"));
        };
        if route.strip_prefix && behind(&route.path, path.as_bytes()).is_none() {
            return Admitted::Answer(exchange.refuse(Answer::not_found(404), "no_route"));
        }
        let body_limit = route.body_limit.unwrap_or(self.door.settings.body_limit);
        if content_length(request).is_some_and(|length| length > body_limit) {
            return self.limited(exchange, Answer::too_large(body_limit), "too_large");
        }
        exchange.course = Some(Course {
            // In the reading that routes take, so that no spelling of a webhook is taken for a harmless GET.
            class: route
                .retry
                .unwrap_or_else(|| upstream.settings.retry.class(request.method.as_str(), &canonical(path))),
            key: choice::key(&upstream.settings.balance, request, &client),
            world: upstream.flow.world.load_full(),
            pool: None,
            is_bound: false,
            upstream: Held::new(upstream),
            timeouts: route.timeouts,
            body_limit,
            attempt: None,
            tried: Vec::new(),
            made: 0,
            unsent: 0,
            retrying: None,
        });
        if let Some((answer, reason)) = self.steer(session, exchange, site) {
            return Admitted::Answer(exchange.refuse(answer, reason));
        }
        Admitted::Forward
    }

    /// Writes what the framework sends on, and lets the guard see it once more.
    pub(super) fn prepare(
        &self,
        session: &Session,
        request: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> pingora::Result<()> {
        let target = self.final_target(session.req_header(), exchange)?;
        if *target != *request.raw_path()
            && (std::str::from_utf8(&target).is_err() || request.set_raw_path(&target).is_err())
        {
            // The framework's URLs have no such bytes, nor has HTTP/2.
            request.set_raw_path(as_url(&target).as_bytes())?;
        }
        let client = exchange.client.unwrap_or(Client::UNKNOWN);
        headers::forward(request, &self.origin(session, &client, exchange))
    }

    /// The head of a request that the gate sends itself, after the guard has seen it once more.
    pub(super) fn head(&self, session: &Session, exchange: &mut Exchange) -> pingora::Result<Vec<u8>> {
        let request = session.req_header();
        let target = self.final_target(request, exchange)?;
        let client = exchange.client.unwrap_or(Client::UNKNOWN);
        let origin = self.origin(session, &client, exchange);
        let is_chunked = exchange.upload.as_ref().is_some_and(|upload| upload.is_chunked());
        Ok(headers::write_head(request, &target, &origin, is_chunked))
    }

    /// The target that is sent on. The guard has the last word on it.
    fn final_target<'r>(&self, request: &'r RequestHeader, exchange: &mut Exchange) -> pingora::Result<Cow<'r, [u8]>> {
        let Some(client) = exchange.client else {
            return Error::e_explain(ErrorType::InternalError, "a request without a client");
        };
        let Ok(Form::Origin(form)) = OriginForm::parse(headers::target(request), false) else {
            return Error::e_explain(ErrorType::InternalError, "a target that was not admitted");
        };
        self.guard_again(&client, form.path(), exchange)?;
        let route = exchange.route().filter(|route| route.strip_prefix);
        let Some(mut target) = route.map(|route| behind(&route.path, form.target()).unwrap_or_default().to_owned())
        else {
            return Ok(form.into_target());
        };
        if target.first() != Some(&b'/') {
            target.insert(0, b'/');
        }
        // What is behind a prefix may be what another one guards.
        let path = match OriginForm::parse(&target, false) {
            Ok(Form::Origin(form)) => form.path().to_owned(),
            Ok(Form::Asterisk) | Err(_) => {
                exchange.answer = Some(Answer::refused(400, "malformed"));
                return Error::e_explain(ErrorType::HTTPStatus(400), "a malformed target behind a prefix");
            }
        };
        self.guard_again(&client, &path, exchange)?;
        Ok(Cow::Owned(target))
    }

    /// The guard has the last word on what is sent on.
    fn guard_again(&self, client: &Client, path: &str, exchange: &mut Exchange) -> pingora::Result<()> {
        let guard = &exchange.site.guard;
        let Admission::Deny { reason, .. } = guard.admit(client, path) else {
            return Ok(());
        };
        self.metrics.guard_denied.with_label_values(&[reason.as_str()]).inc();
        let status = guard.deny_status;
        exchange.answer = Some(Answer::not_found(status));
        let status = ErrorType::HTTPStatus(status);
        Error::e_explain(status, "a guarded path after routing")
    }

    /// Changes the headers of an answer as the route says.
    pub(super) fn edit(
        &self,
        session: &Session,
        response: &mut ResponseHeader,
        exchange: &Exchange,
    ) -> pingora::Result<()> {
        if let Some(cookie) = &exchange.cookie {
            response.append_header(SET_COOKIE, cookie.clone())?;
        }
        let Some(route) = exchange.route() else {
            return Ok(());
        };
        if let Some(cors) = &route.cors {
            share(session.req_header(), response, cors)?;
        }
        for name in &route.response.remove {
            response.remove_header(name);
        }
        if route.response.set.is_empty() {
            return Ok(());
        }
        let client = exchange.client.unwrap_or(Client::UNKNOWN);
        for (name, template) in &route.response.set {
            let text = template.fill(|place| self.told(place, session.req_header(), &client));
            if let Ok(value) = HeaderValue::try_from(text) {
                response.insert_header(name.clone(), value)?;
            }
        }
        Ok(())
    }
}

/// What stands behind a prefix that is cut off: nothing, or the rest of the path from a slash on.
fn behind<'t>(prefix: &str, target: &'t [u8]) -> Option<&'t [u8]> {
    let rest = target.strip_prefix(prefix.as_bytes())?;
    let ends = prefix.ends_with('/') || rest.first().is_none_or(|next| matches!(next, b'/' | b'?'));
    ends.then_some(rest)
}

impl Gateway {
    /// What a request says, where a template asks for it.
    pub(super) fn told<'r>(&self, place: Place, request: &'r RequestHeader, client: &Client) -> Cow<'r, str> {
        let scheme = scheme_of(request, client, self.door.is_secure());
        headers::told(place, request, client, scheme)
    }

    fn origin<'a>(&self, session: &Session, client: &'a Client, exchange: &'a Exchange) -> Origin<'a> {
        Origin {
            route: exchange.route(),
            preview_header: &exchange.site.overlap.preview_header,
            client,
            peer: peer(session).map(|peer| peer.to_canonical()),
            scheme: scheme_of(session.req_header(), client, self.door.is_secure()),
            request_id: &exchange.request_id,
        }
    }
}

fn version(request: &RequestHeader) -> HttpVersion {
    match request.version {
        http::Version::HTTP_10 => HttpVersion::Http10,
        http::Version::HTTP_2 => HttpVersion::Http2,
        _ => HttpVersion::Http11,
    }
}

/// The length that a body has by its header.
pub(super) fn content_length(request: &RequestHeader) -> Option<u64> {
    request
        .headers
        .get(http::header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}
