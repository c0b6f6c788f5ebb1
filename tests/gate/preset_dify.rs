//! The preset `dify`: the process and what it depends on are two questions, and the service that answers the second one need not be there.

use std::net::SocketAddr;
use std::time::Duration;

use difygate::gate::state::State;
use difygate::server::Gate;
use difygate::simulated_dify::{Cluster, Health, SimulatedDify};

use crate::admin::admin;
use crate::support::{edge, gate, instances, known, nobody, until, until_state};
use crate::wire::ask;

const QUICK: &str = "preset: dify, interval: 100ms, timeout: 100ms, rise: 1, fall: 2";

/// A gate before api processes, each with the port where something beside it may tell of its dependencies.
async fn gate_before(apis: &[SimulatedDify], beside: &[u16]) -> Gate {
    let endpoints = apis.iter().zip(beside).map(|(api, port)| {
        api.set(|switches| switches.health = Health::Real);
        format!("{{address: \"{}\", probe: {{port: {port}}}}}", api.address())
    });
    let endpoints: Vec<String> = endpoints.collect();
    gate(&format!(
        "upstreams: {{dify: {{probe: {{{QUICK}}}, pools: {{main: {{endpoints: [{}]}}}}}}}}\n",
        endpoints.join(", ")
    ))
    .await
}

fn ports(services: &[SimulatedDify]) -> Vec<u16> {
    services.iter().map(|service| service.address().port()).collect()
}

async fn cause(gate: &Gate, api: &SimulatedDify) -> String {
    known(gate, api.address()).await.cause.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_process_beside_a_well_service_is_out_and_named() {
    let (apis, services) = (instances::<2>().await, instances::<2>().await);
    let gate = gate_before(&apis, &ports(&services)).await;
    until_state(&gate, apis[1].address(), State::Up).await;
    apis[0].freeze();
    until_state(&gate, apis[0].address(), State::Down).await;
    let cause = cause(&gate, &apis[0]).await;
    assert!(cause.starts_with("probe `process` failed (timeout)"), "{cause}");
    for _ in 0..10 {
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.instance(), "dify-1");
    }
    apis[0].thaw();
    until("it to serve again", async || {
        known(&gate, apis[0].address()).await.state.is_routable()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booting_process_beside_a_well_service_is_not_up() {
    let (apis, services) = (instances::<1>().await, instances::<1>().await);
    apis[0].set(|switches| switches.boot = Duration::from_secs(600));
    apis[0].restart().await.unwrap();
    let gate = gate_before(&apis, &ports(&services)).await;
    until("the process to be found silent", async || {
        cause(&gate, &apis[0])
            .await
            .starts_with("probe `process` failed (timeout)")
    })
    .await;
    assert!(!known(&gate, apis[0].address()).await.state.is_routable());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_instance_lacks_alone_takes_it_out_and_is_named() {
    let (apis, services) = (instances::<2>().await, instances::<2>().await);
    let gate = gate_before(&apis, &ports(&services)).await;
    services[0].set(|switches| switches.health = Health::failing(["database"]));
    until_state(&gate, apis[0].address(), State::Down).await;
    assert_eq!(
        cause(&gate, &apis[0]).await,
        "probe `dependencies` failed (status): status 503, failed: database"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_and_the_cache_are_shared_unless_the_file_says_otherwise() {
    let (apis, services) = (instances::<2>().await, instances::<2>().await);
    let gate = gate_before(&apis, &ports(&services)).await;
    for service in &services {
        service.set(|switches| switches.health = Health::failing(["cache"]));
    }
    until("the shared failure", async || {
        admin(&gate, "/api/v1/status").await.json()["upstreams"][0]["shared_failure"] == "cache"
    })
    .await;
    for api in &apis {
        assert_eq!(known(&gate, api.address()).await.state, State::Up);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_not_there_is_not_missed_and_found_when_it_comes() {
    let (apis, beside) = (instances::<1>().await, nobody());
    let gate = gate_before(&apis, &[beside.port()]).await;
    until_state(&gate, apis[0].address(), State::Up).await;
    let explained = admin(&gate, &format!("/api/v1/endpoints/{}", apis[0].address()))
        .await
        .text();
    assert!(explained.contains("\"outcome\":\"absent\""), "{explained}");
    let service = SimulatedDify::start_at(&Cluster::new(), "service", beside)
        .await
        .unwrap();
    service.set(|switches| switches.health = Health::failing(["database"]));
    until_state(&gate, apis[0].address(), State::Down).await;
    // It goes away, and what it said last stands.
    service.kill().await;
    until("it to be missed", async || {
        let explained = admin(&gate, &format!("/api/v1/endpoints/{}", apis[0].address()))
            .await
            .text();
        explained.contains("what it said last stands")
    })
    .await;
    assert_eq!(known(&gate, apis[0].address()).await.state, State::Down);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_restarted_takes_nobody_out() {
    let (apis, services) = (instances::<1>().await, instances::<1>().await);
    let gate = gate_before(&apis, &ports(&services)).await;
    until_state(&gate, apis[0].address(), State::Up).await;
    services[0].kill().await;
    let beside: SocketAddr = services[0].address();
    until("it to be missed", async || {
        let explained = admin(&gate, &format!("/api/v1/endpoints/{}", apis[0].address()))
            .await
            .text();
        explained.matches("what it said last stands").count() > 3
    })
    .await;
    assert_eq!(
        known(&gate, apis[0].address()).await.state,
        State::Up,
        "{beside} is away"
    );
}
