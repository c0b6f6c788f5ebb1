//! What is known of the endpoints of a pool, as a cutover asks for it.

use std::time::Instant;

use super::Driver;
use crate::gate::cutover::EndpointSeen;
use crate::gate::keeper::Known;
use crate::gate::names::{PoolName, UpstreamName};
use crate::mailbox::Looked;

impl Driver {
    /// The endpoints of a pool, and what their probes have said since a time.
    pub(super) fn look(&self, upstream: &UpstreamName, pool: &PoolName, since: Instant) -> Vec<Looked> {
        let index = self
            .serving
            .iter()
            .position(|serving| serving.upstream.settings.name == *upstream);
        let members = index.into_iter().flat_map(|index| self.pool(index, pool));
        members
            .map(|(watched, known)| Looked {
                address: known.id.address.clone(),
                seen: seen(known, since),
                in_flight: watched.endpoint.in_flight.get(),
            })
            .collect()
    }
}

fn seen(known: &Known, since: Instant) -> EndpointSeen {
    let passes = |probe: &str| {
        let records = known.history.iter().rev().filter(|record| &*record.probe == probe);
        let mut fresh = records.take_while(|record| record.at >= since).peekable();
        let asked = fresh.peek().is_some();
        let passes = fresh.take_while(|record| record.report.outcome.is_pass()).count();
        (asked, u32::try_from(passes).unwrap_or(u32::MAX))
    };
    let all = || known.verdicts.iter().map(|(terms, _)| passes(&terms.name));
    let mut passing = known
        .history
        .iter()
        .rev()
        .filter(|record| record.report.outcome.is_pass());
    EndpointSeen {
        name: format!("{}/{}", known.id.upstream, known.id.address),
        state: known.state.to_string(),
        fit: known.state.is_routable(),
        passes: all().map(|(_, passes)| passes).min().unwrap_or_default(),
        asked: all().all(|(asked, _)| asked),
        version: passing.find_map(|record| record.report.version.clone()),
    }
}
