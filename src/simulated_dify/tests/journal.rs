//! The journal: what arrived and what took effect, by the numbers that requests bear.

use serde_json::json;

use super::{ask, ended_well};
use crate::simulated_dify::{Cluster, Deed, SimulatedDify, content};

fn numbered(method: &str, path: &str, exchange: u64, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: dify\r\nConnection: close\r\nX-Exchange: {exchange}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn what_arrives_and_what_takes_effect_is_in_the_journal_of_the_cluster() {
    let cluster = Cluster::new();
    let dify = SimulatedDify::start(&cluster, "dify-1").await.unwrap();
    let prompt = json!({"inputs": {"events": 1, "gap_ms": 1}, "response_mode": "streaming"}).to_string();
    assert!(ended_well(
        &ask(&dify, &numbered("POST", "/v1/chat-messages", 7, &prompt)).await
    ));
    let answer = ask(&dify, &numbered("POST", "/v1/files/upload", 8, "abc")).await;
    assert!(answer.contains("x-exchange: 8\r\n"), "{answer}");
    ask(&dify, &numbered("GET", "/v1/parameters", 9, "")).await;
    ask(&dify, &super::get("/v1/parameters")).await;
    let all = cluster.journal().entries();
    let found: Vec<_> = all.iter().map(|entry| (entry.exchange, entry.deed)).collect();
    let sum = sha1_smol::Sha1::from("abc").digest().bytes();
    assert_eq!(
        found,
        [
            (7, Deed::Arrived),
            (7, Deed::Executed([0; 20])),
            (8, Deed::Arrived),
            (8, Deed::Executed(sum)),
            (9, Deed::Arrived)
        ]
    );
    assert!(all.iter().all(|entry| entry.instance == "dify-1"));
}

#[tokio::test]
async fn the_content_of_a_file_belongs_to_its_exchange_and_place() {
    let cluster = Cluster::new();
    let dify = SimulatedDify::start(&cluster, "dify-1").await.unwrap();
    let mut expected = vec![0; 200_000];
    content(5, 0, &mut expected);
    let mut part = vec![0; 1_001];
    content(5, 77_777, &mut part);
    assert_eq!(part, expected[77_777..][..1_001]);
    assert_ne!(expected[..1_000], expected[1_000..2_000]);
    content(6, 0, &mut part);
    assert_ne!(part, expected[..1_001]);
    let mut socket = super::send(&dify, &numbered("GET", "/files/size/200000", 5, "")).await;
    let mut answer = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut answer)
        .await
        .unwrap();
    assert!(answer.ends_with(&expected));
}
