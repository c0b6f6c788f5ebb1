//! WebSockets whose endpoint fails: before the handshake is answered it goes elsewhere, afterwards the client is told.

use std::net::SocketAddr;

use crate::admin::{admin, metric};
use crate::severing::UPGRADE;
use crate::support::{Arrived, Upstream, edge, gate_before, until_idle};
use crate::wire::Wire;

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
/// A close frame, not masked: code 1011.
const FAILED: &[u8] = b"\x88\x10\x03\xf3upstream ended";

/// An endpoint that passes its probes, and answers a handshake with these bytes before it ends the connection.
async fn endpoint(answer: &'static [u8]) -> Upstream {
    Upstream::start(move |mut arrived: Arrived| async move {
        if arrived.head.contains("Upgrade: websocket") {
            arrived.send(answer).await;
        } else {
            arrived.answer("Connection: close\r\n", "{}").await;
        }
    })
    .await
}

/// Whether each of the first handshakes gets a WebSocket, though it goes to `failing` first now and then.
async fn gets_through(failing: SocketAddr, refuses: bool) {
    let well = endpoint(SWITCHED.as_bytes()).await;
    let keys = "probe: {interval: 60s, timeout: 20s}, balance: round_robin";
    let gate = gate_before(&[failing, well.address], keys).await;
    for _ in 0..4 {
        let mut wire = Wire::to(edge(&gate)).await;
        wire.send(UPGRADE).await;
        let head = wire.head().await;
        assert_eq!(head.status, 101, "{}", head.head);
    }
    let again = if refuses { "refused" } else { "reset" };
    let label = format!("reason=\"{again}\"");
    assert!(metric(&gate, "difygate_retries_total", &label).await >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_is_sent_again_where_a_get_would_be() {
    let refusing = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    gets_through(endpoint(refusing).await.address, true).await;
    gets_through(endpoint(b"").await.address, false).await;
}

/// What a client that says this gets of an endpoint that sends this, hears what was said, and ends; and how that is told.
async fn left(sends: &'static [u8], says: &'static [u8]) -> (Vec<u8>, &'static str) {
    let upstream = Upstream::start(move |mut arrived: Arrived| async move {
        arrived.send([SWITCHED.as_bytes(), sends].concat()).await;
        arrived.read(says.len()).await;
    })
    .await;
    let gate = gate_before(&[upstream.address], "").await;
    let mut wire = Wire::to(edge(&gate)).await;
    wire.send(UPGRADE).await;
    assert_eq!(wire.head().await.status, 101);
    wire.send(says).await;
    let got = wire.ended().await;
    drop(wire);
    until_idle(&gate).await;
    for how in ["upstream", "complete", "client"] {
        let label = format!("how=\"{how}\"");
        let text = admin(&gate, "/metrics").await.text();
        let counted = text
            .lines()
            .find(|line| line.contains("stream_end_total{") && line.contains(&label));
        if counted.is_some_and(|line| line.ends_with(" 1")) {
            return (got, how);
        }
    }
    panic!("it ended in no known way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_endpoint_dies_is_told_by_a_close_frame() {
    let told = |before: &[u8]| [before, FAILED].concat();
    assert_eq!(left(b"", b"").await, (told(b""), "upstream"));
    assert_eq!(left(b"\x81\x02hi", b"").await, (told(b"\x81\x02hi"), "upstream"));
    // Within a frame there is no place for another one.
    assert_eq!(left(b"\x81\x05hel", b"").await, (b"\x81\x05hel".to_vec(), "upstream"));
    // Who closes as WebSockets do has not died, whoever began.
    let goodbye = b"\x88\x02\x03\xe8";
    assert_eq!(left(goodbye, b"").await, (goodbye.to_vec(), "complete"));
    assert_eq!(left(b"", b"\x88\x80\x00\x00\x00\x00").await, (Vec::new(), "complete"));
}
