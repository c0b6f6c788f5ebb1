//! Which pool a request goes to while users are moved, and whether it goes on at all: decided once, when it is routed, and anew after it had to wait
//! because traffic was paused.

use std::pin::pin;

use http::Method;
use http::header::ACCEPT;
use pingora::http::RequestHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tokio::time::{Instant, timeout_at};

use crate::gate::client::Client;
use crate::gate::direction::{Share, Split, Traffic};
use crate::gate::names::PoolName;
use crate::gate::ring;
use crate::gate::route::without_port;
use crate::gate::scheme::Scheme;
use crate::proxy::Gateway;
use crate::proxy::answer::Answer;
use crate::proxy::choice;
use crate::proxy::context::{Course, Exchange};
use crate::proxy::direct::while_there;
use crate::proxy::headers::{host, scheme_of};
use crate::proxy::site::Site;

impl Gateway {
    /// Finds the pool of a request; an answer means that it goes nowhere, and why. Where nobody is moved, it costs a look at the direction and one for
    /// a header.
    pub(super) fn steer(
        &self,
        session: &Session,
        exchange: &mut Exchange,
        site: &Site,
    ) -> Option<(Answer, &'static str)> {
        let request = session.req_header();
        let overlap = &site.overlap;
        let names_pool = request.headers.contains_key(&overlap.preview_header) || !overlap.preview_hosts.is_empty();
        let wanted = names_pool.then(|| wanted(request, exchange)).flatten();
        let course = exchange.course.as_mut()?;
        if let Some(pool) = wanted {
            return preview(course, pool);
        }
        // A run that goes on can be stopped.
        if let Some(pool) = running(request, course) {
            course.go_to(pool);
            course.is_bound = true;
            return None;
        }
        if let Traffic::Stop { message } = course.world.traffic() {
            let answer = Answer::maintenance(message, prefers_html(request));
            return Some((answer, "maintenance"));
        }
        let direction = course.world.direction.clone();
        let share = direction.share.as_ref()?;
        let (pool, is_drawn) = match &share.split {
            Split::Request => (takes(share, fastrand::u64(..)), false),
            Split::Header(name) => {
                let value = request.headers.get(name.as_str())?;
                // Another cutover draws other ones first.
                let key = ring::hash(value.as_bytes()) ^ share.cutover;
                (takes(share, ring::hash(&key.to_le_bytes())), false)
            }
            Split::Cookie => match self.split_key.pool(request, &direction, share) {
                Some(pool) => (Some(pool), false),
                None => (takes(share, fastrand::u64(..)), true),
            },
        };
        let pool = pool.unwrap_or_else(|| direction.active.clone());
        if is_drawn {
            let client = exchange.client.unwrap_or(Client::UNKNOWN);
            let is_https = scheme_of(request, &client, self.door.is_secure()) == Scheme::Https;
            exchange.cookie = self.split_key.give(&pool, share, is_https);
        }
        if let Some(course) = &mut exchange.course {
            course.go_to(pool);
        }
        None
    }

    /// Lets a request wait while traffic is paused, and finds its pool anew once it is not. One whose client leaves is dropped.
    pub(super) async fn hold(&self, session: &mut Session, exchange: &mut Exchange) -> pingora::Result<()> {
        let course = exchange.course.as_ref();
        let Some(course) = course.filter(|course| course.is_paused()) else {
            return Ok(());
        };
        let flow = course.upstream.owner().flow.clone();
        let since = self.clock.now();
        let until = Instant::from_std(since) + exchange.site.overlap.longest_pause;
        loop {
            let mut resumed = pin!(flow.resumed.notified());
            resumed.as_mut().enable();
            let world = flow.world.load_full();
            if *world.traffic() != Traffic::Pause {
                break;
            }
            let waiting = async {
                tokio::select! {
                    resumed = timeout_at(until, resumed) => Some(resumed.is_ok()),
                    () = flow.closed() => None,
                }
            };
            let Some(has_resumed) = while_there(session, waiting).await? else {
                return Err(choice::shutting_down(exchange));
            };
            if !has_resumed {
                return Err(unserved(exchange, Answer::paused(), "paused"));
            }
        }
        exchange.held = self.clock.now() - since;
        // What was drawn before belongs to a cutover that may be over.
        exchange.cookie = None;
        if let Some(course) = &mut exchange.course {
            (course.world, course.pool) = (flow.world.load_full(), None);
        }
        let site = exchange.site.clone();
        match self.steer(session, exchange, &site) {
            Some((answer, reason)) => Err(unserved(exchange, answer, reason)),
            None => Ok(()),
        }
    }
}

/// A request that was routed and is not served.
fn unserved(exchange: &mut Exchange, answer: Answer, reason: &'static str) -> Box<Error> {
    let status = ErrorType::HTTPStatus(answer.status);
    exchange.refuse(answer, reason);
    Error::new_in(status)
}

fn takes(share: &Share, number: u64) -> Option<PoolName> {
    share.takes(number).then(|| share.pool.clone())
}

/// The pool that an internal client asks for. What a stranger says of pools is nothing.
fn wanted(request: &RequestHeader, exchange: &Exchange) -> Option<PoolName> {
    let overlap = &exchange.site.overlap;
    let named = request.headers.get(&overlap.preview_header);
    let named = named.map(|name| PoolName::new(name.to_str().unwrap_or_default()));
    let asked = || {
        let host = without_port(host(request));
        let mut known = overlap.preview_hosts.iter();
        known
            .find(|(known, _)| host.eq_ignore_ascii_case(known))
            .map(|(_, pool)| pool.clone())
    };
    let wanted = named.or_else(asked)?;
    let client = exchange.client.as_ref()?;
    exchange.site.guard.is_internal(client).then_some(wanted)
}

fn preview(course: &mut Course, pool: PoolName) -> Option<(Answer, &'static str)> {
    let upstream = course.upstream.owner();
    let name = upstream.settings.name.as_str();
    let known = course.world.sides().any(|side| side.pool == pool);
    if !known {
        return Some((
            Answer::no_pool(name, upstream.settings.pools.iter().map(|pool| pool.name.as_str())),
            "no_pool",
        ));
    }
    (course.pool, course.is_bound) = (Some(pool), true);
    None
}

/// The pool that runs the task which a request stops, where that is known.
fn running(request: &RequestHeader, course: &Course) -> Option<PoolName> {
    if request.method != Method::POST {
        return None;
    }
    let path = request.raw_path().split(|byte| *byte == b'?').next()?;
    let path = std::str::from_utf8(path.strip_suffix(b"/stop")?).ok()?;
    let mut segments = path.rsplit('/');
    let (task, kind) = (segments.next()?, segments.next()?);
    let is_task = matches!(kind, "chat-messages" | "completion-messages" | "tasks");
    if task.is_empty() || !is_task {
        return None;
    }
    course.upstream.owner().flow.streams.task_pool(task)
}

/// Whether a page is wanted rather than data: what is asked for first is HTML.
fn prefers_html(request: &RequestHeader) -> bool {
    let accept = request.headers.get(ACCEPT).map(|accept| accept.as_bytes());
    let kind = accept.and_then(|accept| accept.trim_ascii_start().get(..9));
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/html"))
}

impl Course {
    /// Goes to a pool if somebody may serve there, else to the one that serves.
    fn go_to(&mut self, pool: PoolName) {
        self.pool = Some(pool).filter(|pool| self.world.lives(pool));
    }

    /// Whether it waits until traffic goes on.
    fn is_paused(&self) -> bool {
        !self.is_bound && *self.world.traffic() == Traffic::Pause
    }
}
