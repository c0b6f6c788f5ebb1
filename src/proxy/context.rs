//! What one request carries through the proxy. All of it is dropped with the request, however it ends, so every count comes down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;

use crate::config::RouteSettings;
use crate::gate::client::Client;
use crate::gate::names::PoolName;
use crate::gate::outage::PATIENCE;
use crate::gate::pace::Pace;
use crate::gate::retry::RetryClass;
use crate::proxy::answer::Answer;
use crate::proxy::headers::RequestId;
use crate::proxy::site::{Destination, Site};
use crate::proxy::stream::OpenStream;
use crate::proxy::upload::Upload;
use crate::upstream::line::Line;
use crate::upstream::settings::Timeouts;
use crate::upstream::snapshot::{Routable, Side, World};
use crate::upstream::streams::Why;
use crate::upstream::tries::Pass;
use crate::upstream::{Endpoint, Held, OnTrial, Retrying, Upstream};

/// One request and its answer.
pub(crate) struct Exchange {
    pub(crate) start: Instant,
    /// What the configuration says of it.
    pub(crate) site: Arc<Site>,
    pub(crate) request_id: RequestId,
    pub(crate) client: Option<Client>,
    /// The route that takes it, once that is found.
    pub(crate) to: Option<Destination>,
    pub(crate) course: Option<Course>,
    /// The body, where it is sent on as it comes.
    pub(crate) upload: Option<Box<Upload>>,
    /// Body bytes received from the client.
    pub(crate) received: u64,
    /// How the client keeps up with a body that is sent on as it comes, and since when; nothing once it is over.
    pub(crate) receiving: Option<(Instant, Pace)>,
    /// How it keeps up with the answer.
    pub(crate) taking: Pace,
    /// Since the request until the first byte of its answer.
    pub(crate) first_byte: Option<Duration>,
    pub(crate) stream: Option<Box<OpenStream>>,
    /// Whether an endpoint may have got some of it.
    pub(crate) sent: bool,
    /// Whether the framework has sent the head of the attempt under way.
    pub(crate) wrote: bool,
    /// Whether the framework can have trailers for the answer, and then whether they can go to the client behind its chunks.
    pub(crate) trails: bool,
    /// The cookie that its answer is to bring.
    pub(crate) cookie: Option<HeaderValue>,
    /// How long it waited because traffic was paused.
    pub(crate) held: Duration,
    /// Why the gate cut it short.
    pub(crate) cut: Option<Why>,
    /// Whether the endpoint kept it waiting for too long.
    pub(crate) overdue: bool,
    /// What the gate answers itself.
    pub(crate) answer: Option<Answer>,
    /// Whether it did so after a failure, to the last byte.
    pub(crate) answer_sent: bool,
    /// Why it refused.
    pub(crate) refused: Option<&'static str>,
}

/// Where a request goes and what may be done with it.
pub(crate) struct Course {
    pub(crate) upstream: Held<Upstream>,
    /// Who may serve it, as of its last choice.
    pub(crate) world: Arc<World>,
    /// The pool that it goes to; the one that serves where none is named.
    pub(crate) pool: Option<PoolName>,
    /// Whether it is for that pool and no other one, whatever becomes of traffic.
    pub(crate) is_bound: bool,
    pub(crate) timeouts: Timeouts,
    pub(crate) body_limit: u64,
    pub(crate) class: RetryClass,
    /// What decides who serves it, where keys decide.
    pub(crate) key: Option<u64>,
    pub(crate) attempt: Option<Attempt>,
    /// Endpoints that failed it.
    pub(crate) tried: Vec<Arc<Endpoint>>,
    pub(crate) made: u32,
    /// Connections on which nothing of it could be sent, and which count as no attempt.
    pub(crate) unsent: u32,
    pub(crate) retrying: Option<Retrying>,
}

impl Course {
    /// Who may serve it in its pool.
    pub(crate) fn routable(&self) -> &Routable {
        &self.world.side(self.pool.as_ref()).routable
    }

    /// How long the attempt under way may wait for its first byte.
    pub(crate) fn patience(&self) -> Duration {
        let pass = self.attempt.as_ref().and_then(|attempt| attempt.pass.as_ref());
        let usual = self.timeouts.first_byte;
        pass.filter(|pass| pass.is_repeatable())
            .map_or(usual, |_| usual.min(PATIENCE))
    }

    /// The dependencies that every endpoint of its pool lacks by now, where that is why it may not wait there.
    pub(crate) fn outage(&self) -> Option<Arc<str>> {
        let world = self.upstream.owner().flow.world.load();
        world.side(self.pool.as_ref()).routable.outage.clone()
    }

    /// Goes to the pool that stands by for its own, if one does and somebody may serve there.
    pub(crate) fn stand_by(&mut self) -> bool {
        let spare = self.world.direction.stands_by(self.pool.as_ref());
        let spare = spare
            .filter(|_| !self.is_bound)
            .filter(|spare| !self.world.side(Some(*spare)).routable.candidates.is_empty());
        let found = spare.cloned();
        let stands_by = found.is_some();
        self.pool = found.or(self.pool.take());
        stands_by
    }

    /// Looks anew at who may serve. It stays in the pool where it began, unless nobody is left for it there.
    pub(crate) fn look_again(&mut self) {
        let now = self.upstream.owner().flow.world.load_full();
        let before = std::mem::replace(&mut self.world, now);
        if self.is_bound || self.pool.is_none() && Arc::ptr_eq(&before, &self.world) {
            return;
        }
        let began = self.pool.take().unwrap_or_else(|| before.main.pool.clone());
        let is_left = |side: &Side| {
            let mut all = side.routable.all();
            all.any(|one| !self.tried.iter().any(|tried| Arc::ptr_eq(tried, &one.endpoint)))
        };
        let mut others = self.world.others.iter();
        let stays = others.any(|side| side.pool == began && is_left(side));
        self.pool = stays.then_some(began);
    }
}

/// The attempt under way.
pub(crate) struct Attempt {
    pub(crate) endpoint: Held<Endpoint>,
    pub(crate) line: Option<Arc<Line>>,
    /// Whether it is the one that tries an endpoint which was held back.
    pub(crate) trial: Option<OnTrial>,
    /// Whether it is one of the few that are sent while all endpoints lack a dependency.
    pub(crate) pass: Option<Pass>,
    /// How often all was ended that the endpoint served, before this.
    pub(crate) cuts: u64,
}

impl Attempt {
    /// Why all is to end that its endpoint served by now, if it is.
    pub(crate) fn severed(&self) -> Option<Why> {
        self.endpoint.owner().recall.severed_since(self.cuts)
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.rest();
        }
    }
}

impl Exchange {
    pub(crate) fn new(start: Instant, site: Arc<Site>) -> Self {
        Self {
            start,
            site,
            request_id: RequestId::none(),
            client: None,
            to: None,
            course: None,
            upload: None,
            received: 0,
            receiving: None,
            taking: Pace::default(),
            first_byte: None,
            stream: None,
            sent: false,
            wrote: false,
            trails: false,
            cookie: None,
            held: Duration::ZERO,
            cut: None,
            overdue: false,
            answer: None,
            answer_sent: false,
            refused: None,
        }
    }

    /// Notes what the gate will answer, and why.
    pub(crate) fn refuse(&mut self, answer: Answer, reason: &'static str) -> Answer {
        self.refused = Some(reason);
        self.answer = Some(answer.clone());
        answer
    }

    /// Its route, once that is found.
    pub(crate) fn route(&self) -> Option<&RouteSettings> {
        self.to.as_ref().map(|to| &*to.route)
    }

    /// How long its stream may be silent before that counts, if it is one and that is counted.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let course = self.course.as_ref().filter(|_| self.stream.is_some())?;
        let silence = course.upstream.owner().settings.terms.outlier.stream_silence;
        (!silence.is_zero()).then_some(silence)
    }

    /// Its course and the attempt under way.
    pub(crate) fn attempt(&self) -> Option<(&Course, &Attempt)> {
        let course = self.course.as_ref()?;
        Some((course, course.attempt.as_ref()?))
    }

    /// Whether it ended because the endpoint kept it waiting for too long.
    pub(crate) fn is_overdue(&self) -> bool {
        self.overdue || self.line().is_some_and(Line::is_overdue)
    }

    /// Why all is to end that its endpoint served by now, if it is.
    pub(crate) fn severed(&self) -> Option<Why> {
        self.attempt()?.1.severed()
    }

    /// The connection of the attempt under way.
    pub(crate) fn line(&self) -> Option<&Line> {
        self.course.as_ref()?.attempt.as_ref()?.line.as_deref()
    }
}
