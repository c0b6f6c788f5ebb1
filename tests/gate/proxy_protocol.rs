//! The PROXY protocol: whom a connection is from, by the word of a load balancer that is believed.

use std::net::SocketAddr;

use difygate::server::Gate;

use crate::admin::admin;
use crate::support::{Upstream, edge, gate, until};
use crate::wire::Wire;

const REQUEST: &[u8] = b"GET /v1/info HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

async fn proxied(version: &str, trusted: &str) -> (Gate, Upstream) {
    let echo = Upstream::echo().await;
    let text = format!(
        "listeners: [{{address: \"127.0.0.1:8080\", proxy_protocol: {version}, header_timeout: 3s}}]\ntrusted_proxies: [\"{trusted}\"]\n\
         upstreams: {{dify: {{pools: {{main: {{endpoints: [\"{}\"]}}}}}}}}\n",
        echo.address
    );
    (gate(&text).await, echo)
}

/// A header of version 2 of the address family `family` with these addresses and a further field.
fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let field = [0x04, 0, 3, 1, 2, 3];
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, family]);
    let length = u16::try_from(addresses.len() + field.len()).unwrap();
    header.extend(length.to_be_bytes());
    header.extend(addresses);
    header.extend(field);
    header
}

fn v2_ip4() -> Vec<u8> {
    v2(1, 0x11, &[203, 0, 113, 7, 10, 0, 0, 1, 0x30, 0x39, 0, 80])
}

/// What the upstream was told of the client, or nothing where the connection was closed.
async fn told(address: SocketAddr, header: &[u8]) -> Option<String> {
    told_in(usize::MAX, address, header).await
}

/// The same, sent in segments of so many bytes.
async fn told_in(step: usize, address: SocketAddr, header: &[u8]) -> Option<String> {
    let mut wire = Wire::to(address).await;
    for segment in [header, REQUEST].concat().chunks(step) {
        if !wire.offer(segment).await {
            return None;
        }
        tokio::task::yield_now().await;
    }
    let head = wire.try_head().await?;
    assert_eq!(head.status, 200);
    let text = String::from_utf8(wire.ended().await).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    let own = lines.filter(|(name, _)| name.eq_ignore_ascii_case("x-real-ip"));
    own.map(|(_, value)| value.to_owned()).next()
}

async fn refused(gate: &Gate) -> usize {
    let metrics = admin(gate, "/metrics").await.text();
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with("difygate_proxy_header_refused_total"));
    lines
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_is_whom_the_header_names() {
    let (gate, _echo) = proxied("any", "127.0.0.0/8").await;
    let v6 = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], [0; 16]].concat();
    for (header, client) in [
        (b"PROXY TCP4 203.0.113.7 10.0.0.1 12345 80\r\n".to_vec(), "203.0.113.7"),
        (b"PROXY TCP6 2001:db8::9 ::1 12345 80\r\n".to_vec(), "2001:db8::9"),
        (v2_ip4(), "203.0.113.7"),
        (v2(1, 0x21, &[&v6[..], &[0, 1, 0, 80]].concat()), "2001:db8::9"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0, 0x00, &[]), "127.0.0.1"),
    ] {
        // A load balancer may send the header by itself, and the network cut it.
        for step in [usize::MAX, header.len(), 7, 1] {
            let told = told_in(step, edge(&gate), &header).await;
            assert_eq!(told.as_deref(), Some(client), "{header:?} in segments of {step}");
        }
    }
    assert_eq!(refused(&gate).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_behind_a_balancer_is_no_internal_one() {
    let (gate, echo) = proxied("v1", "127.0.0.0/8").await;
    for (client, status) in [("203.0.113.7", 404), ("10.1.2.3", 200)] {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(format!("PROXY TCP4 {client} 10.0.0.1 12345 80\r\n")).await;
        wire.send("GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .await;
        assert_eq!(wire.answer().await.status, status, "{client}");
    }
    assert_eq!(echo.arrivals(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_header_is_closed_and_counted() {
    let (gate, echo) = proxied("v2", "127.0.0.0/8").await;
    let mut long = v2_ip4();
    long[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    let mut short = v2_ip4();
    short[14..16].copy_from_slice(&4u16.to_be_bytes());
    let wrong = [
        b"".to_vec(),
        b"PROXY TCP4 203.0.113.7 10.0.0.1 12345 80\r\n".to_vec(),
        b"PROXY ".to_vec(),
        [b"PROXY ".to_vec(), vec![b'x'; 200]].concat(),
        long,
        short,
    ];
    for header in &wrong {
        assert_eq!(told(edge(&gate), header).await, None, "{header:?}");
    }
    // One that says nothing is closed when its time is over.
    let mut silent = Wire::to(edge(&gate)).await;
    assert!(silent.ended().await.is_empty());
    until("all of them to be counted", async || {
        refused(&gate).await == wrong.len() + 1
    })
    .await;
    assert_eq!(echo.arrivals(), 0);
    assert_eq!(told(edge(&gate), &v2_ip4()).await.as_deref(), Some("203.0.113.7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_trusted_proxy_is_believed() {
    let (gate, echo) = proxied("any", "192.0.2.0/24").await;
    assert_eq!(told(edge(&gate), &v2_ip4()).await, None);
    until("it to be counted", async || refused(&gate).await == 1).await;
    assert_eq!(echo.arrivals(), 0);
}
