//! What choosing an endpoint costs each request, and proof that it allocates nothing: `cargo bench --bench selection`.

#![allow(missing_docs, clippy::disallowed_methods, clippy::unwrap_used)] // a benchmark times itself

mod counting;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use counting::assert_allocates_nothing;
use criterion::{Criterion, criterion_group, criterion_main};
use difygate::config;
use difygate::gate::keeper::Slot;
use difygate::gate::names::{Address, EndpointId};
use difygate::gate::ring::Ring;
use difygate::gate::state::Tier;
use difygate::metrics::Metrics;
use difygate::upstream::snapshot::{Candidate, Draw, Picked, Routable};
use difygate::upstream::{Endpoint, Held, Upstream};

const CONFIG: &str = "
listeners: [{address: \"127.0.0.1:8080\"}]
upstreams: {dify: {balance: BALANCE, pools: {main: {endpoints: [\"127.0.0.1:81\"]}}}}
";

fn upstream(balance: &str, metrics: &Metrics) -> Upstream {
    let text = CONFIG.replace("BALANCE", balance);
    let config = config::parse(&text, Path::new("bench.yaml"), &config::unset).expect("the configuration is valid");
    Upstream::new(
        config.upstreams.into_iter().next().expect("there is one upstream"),
        metrics,
    )
}

fn candidates(count: usize, metrics: &Metrics) -> Vec<Candidate> {
    let candidate = |number: usize| {
        let address = Address::parse(&format!("10.{}.{}.1:80", number / 250, number % 250)).expect("an address");
        let id = EndpointId {
            upstream: difygate::gate::names::UpstreamName::new("dify"),
            pool: difygate::gate::names::PoolName::new("main"),
            address: address.clone(),
        };
        Candidate {
            endpoint: Arc::new(Endpoint::new(id, Slot::default(), Arc::default(), metrics)),
            socket: address.literal().expect("a literal"),
            place: number,
            weight: 1,
            tier: Tier::Fit,
            share: 100,
            cap: u32::MAX,
            share_cap: u32::MAX,
            on_trial: false,
        }
    };
    (0..count).map(candidate).collect()
}

fn choosing(c: &mut Criterion) {
    let metrics = Metrics::new().expect("metrics");
    let mut group = c.benchmark_group("choose");
    for balance in ["least_request", "round_robin", "ewma", "{hash: client}"] {
        for count in [3, 8, 100, 10_000] {
            let upstream = upstream(balance, &metrics);
            let candidates = candidates(count, &metrics);
            let _busy: Vec<_> = candidates
                .iter()
                .step_by(2)
                .map(|c| Held::new(c.endpoint.clone()))
                .collect();
            let names: Vec<String> = candidates.iter().map(|c| c.endpoint.id.address.to_string()).collect();
            let ring = Arc::new(Ring::new(names.iter().map(|name| (name.as_str(), 1))));
            let routable = Routable {
                candidates: candidates.into(),
                reserve: Box::default(),
                failing: "".into(),
                outage: None,
                ring: balance.contains("hash").then_some(ring),
            };
            let choose = || {
                let draw = Draw {
                    random: fastrand::u64(..),
                    key: Some(fastrand::u64(..)),
                    now: 1,
                };
                match routable.pick(&upstream, draw, &[]) {
                    Picked::Candidate(chosen) => Some(chosen.socket),
                    Picked::Full | Picked::Nobody => None,
                }
            };
            if balance == "round_robin" && count > 100 {
                continue;
            }
            assert!(choose().is_some());
            assert_allocates_nothing(balance, choose);
            group.bench_function(format!("{balance}/{count}"), |bencher| {
                bencher.iter(|| black_box(choose()))
            });
        }
    }
    group.finish();
}

criterion_group!(benches, choosing);
criterion_main!(benches);
