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
use difygate::metrics::Metrics;
use difygate::upstream::snapshot::{Candidate, Routable};
use difygate::upstream::{Endpoint, Held, Upstream};

const CONFIG: &str = "
listeners: [{address: \"127.0.0.1:8080\"}]
upstreams: {dify: {balance: BALANCE, pools: {main: {endpoints: [\"127.0.0.1:81\"]}}}}
";

fn upstream(balance: &str, metrics: &Metrics) -> Upstream {
    let text = CONFIG.replace("BALANCE", balance);
    let config = config::parse(&text, Path::new("bench.yaml"), &|_| None).expect("the configuration is valid");
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
            endpoint: Arc::new(Endpoint::new(id, Slot::at(number), 1, metrics)),
            socket: address.literal().expect("a literal"),
            share: 100,
            on_trial: false,
        }
    };
    (0..count).map(candidate).collect()
}

fn choosing(c: &mut Criterion) {
    let metrics = Metrics::new().expect("metrics");
    let mut group = c.benchmark_group("choose");
    for balance in ["least_request", "round_robin"] {
        for count in [3, 8, 100, 10_000] {
            let upstream = upstream(balance, &metrics);
            let candidates = candidates(count, &metrics);
            let _busy: Vec<_> = candidates
                .iter()
                .step_by(2)
                .map(|c| Held::new(c.endpoint.clone()))
                .collect();
            let routable = Routable {
                candidates: candidates.into(),
                reserve: Box::default(),
            };
            let choose = || {
                routable
                    .pick(&upstream, fastrand::u64(..), &[])
                    .map(|chosen| chosen.socket)
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
