//! Files that are named for their content, while two releases live: a page of one asks for what only the other has. What one pool does not have is
//! looked for in the others before the client sees anything.

use http::StatusCode;
use pingora::ErrorSource;
use pingora::proxy::Session;

use crate::gate::names::PoolName;
use crate::proxy::Gateway;
use crate::proxy::context::Exchange;
use crate::proxy::direct::{Answered, Lost};
use crate::upstream::snapshot::Side;

impl Gateway {
    /// The answer to `request`, of which one is `answered` already: where that is a file that is not there, the first other pool's that has it.
    pub(super) async fn seek(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        request: &[u8],
        answered: Answered,
    ) -> pingora::Result<Answered> {
        let is_missing = answered.head.status == StatusCode::NOT_FOUND;
        if !is_missing || !is_asset(request, &exchange.site.overlap.assets) {
            return Ok(answered);
        }
        for pool in others(exchange) {
            let Some(course) = &mut exchange.course else {
                break;
            };
            let tried = std::mem::take(&mut course.tried);
            let before = (course.pool.replace(pool), course.attempt.take(), tried);
            let found = self.attempt(session, exchange, request).await;
            if let Ok(other) = &found {
                self.hear(exchange, other.head.status.as_u16());
            }
            match found {
                Ok(other) if has_it(other.head.status) => return Ok(other),
                Err(Lost::Request(e)) if *e.esource() == ErrorSource::Downstream => return Err(e),
                // Nobody there has it, or can say so; what was found first holds.
                Ok(_) | Err(_) => {}
            }
            exchange.answer = None;
            if let Some(course) = &mut exchange.course {
                (course.pool, course.attempt, course.tried) = before;
            }
        }
        Ok(answered)
    }
}

/// The other pools in which somebody may serve, that with traffic first.
fn others(exchange: &Exchange) -> Vec<PoolName> {
    let Some((course, attempt)) = exchange.attempt() else {
        return Vec::new();
    };
    let asked = &attempt.endpoint.owner().id.pool;
    let world = course.upstream.owner().flow.world.load();
    let lives = |side: &&Side| side.pool != *asked && side.routable.all().next().is_some();
    let mut pools: Vec<PoolName> = world.sides().filter(lives).map(|side| side.pool.clone()).collect();
    pools.sort_by_key(|pool| std::cmp::Reverse(world.direction.weight(pool)));
    pools
}

fn has_it(status: StatusCode) -> bool {
    status.is_success() || status == StatusCode::NOT_MODIFIED
}

/// Whether a request, as it is sent, is for such a file.
fn is_asset(request: &[u8], assets: &[String]) -> bool {
    let target = request.strip_prefix(b"GET ").or_else(|| request.strip_prefix(b"HEAD "));
    target.is_some_and(|target| assets.iter().any(|asset| target.starts_with(asset.as_bytes())))
}
