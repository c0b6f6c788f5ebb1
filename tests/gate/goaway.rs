//! How HTTP/2 connections end: GOAWAY comes where no request is under way, or late in the drain, and requests that come before it are served.

use bytes::Bytes;
use difygate::server::{Gate, Stopped};
use difygate::simulated_dify::SimulatedDify;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::support::{dify_upstream, edge, gate, instances, soon, until};
use crate::wire::chat;

/// A gate that speaks HTTP/2 in the clear, before one instance.
async fn gate_of(difys: &[SimulatedDify; 1], listener: &str, server: &str) -> Gate {
    gate(&format!(
        "listeners: [{{address: \"127.0.0.1:8080\", http2: cleartext{listener}}}]\nserver: {{lame_duck: 0s, {server}}}\n{}",
        dify_upstream(&[difys[0].address()], "")
    ))
    .await
}

/// A connection, and what tells how it ended.
struct Client {
    sender: SendRequest<Bytes>,
    ended: oneshot::Receiver<Result<(), h2::Error>>,
}

impl Client {
    async fn to(gate: &Gate) -> Self {
        let stream = TcpStream::connect(edge(gate)).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let (tell, ended) = oneshot::channel();
        tokio::spawn(async move { tell.send(connection.await) });
        Self { sender, ended }
    }

    /// Begins a request, unless the connection takes none any more.
    async fn begin(&mut self, path: &str, body: Option<String>) -> Result<ResponseFuture, h2::Error> {
        let mut sender = soon("room for a request", self.sender.clone().ready()).await?;
        let request = http::Request::builder().uri(format!("http://dify.example{path}"));
        let Some(body) = body else {
            return Ok(sender.send_request(request.body(()).unwrap(), true)?.0);
        };
        let request = request.method("POST").header("content-length", body.len());
        let (answer, mut out) = sender.send_request(request.body(()).unwrap(), false)?;
        out.send_data(body.into(), true)?;
        Ok(answer)
    }

    /// A question that must be answered.
    async fn ask(&mut self) {
        let answer = self.begin("/v1/info", None).await.unwrap();
        assert_eq!(whole(answer).await.0, 200);
    }

    /// A stream of so many events, once its first one is there.
    async fn stream(&mut self, events: u64) -> RecvStream {
        let chat = self
            .begin("/v1/chat-messages", Some(chat("streaming", events, 20)))
            .await;
        let answer = soon("an answer", chat.unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        let first = soon("an event", body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(first.len()).unwrap();
        body
    }

    /// Waits for the end of the connection, which must be a good one.
    async fn ended(self) {
        let Self { sender, ended } = self;
        let ended = soon("the end of the connection", ended).await.unwrap();
        ended.unwrap_or_else(|e| panic!("{e}"));
        let refused = sender.ready().await.map(drop).unwrap_err();
        assert!(
            refused.is_go_away() && refused.reason() == Some(Reason::NO_ERROR),
            "{refused}"
        );
    }
}

/// The rest of a body.
async fn rest(mut body: RecvStream) -> String {
    let mut text = Vec::new();
    while let Some(part) = soon("a part", body.data()).await {
        let part = part.unwrap_or_else(|e| panic!("{e}"));
        body.flow_control().release_capacity(part.len()).unwrap();
        text.extend_from_slice(&part);
    }
    String::from_utf8(text).unwrap()
}

async fn whole(answer: ResponseFuture) -> (u16, String) {
    let answer = soon("an answer", answer).await.unwrap();
    (answer.status().as_u16(), rest(answer.into_body()).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_request_is_under_way_others_are_served_and_then_the_connection_ends() {
    for replaced in [false, true] {
        let difys = instances().await;
        let gate = gate_of(&difys, "", "drain_timeout: 60s").await;
        let mut client = Client::to(&gate).await;
        let stream = client.stream(50).await;
        let stopping = async {
            if replaced {
                gate.make_way().await
            } else {
                gate.stop().await
            }
        };
        let asking = async {
            until("the gate to accept nothing", async || {
                TcpStream::connect(edge(&gate)).await.is_err()
            })
            .await;
            client.ask().await;
            client.ask().await;
            let text = rest(stream).await;
            assert!(text.contains("message_end"), "{text}");
            client.ended().await;
        };
        let (stopped, ()) = tokio::join!(soon("the gate to stop", stopping), asking);
        assert_eq!(stopped, Stopped::Drained);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_rests_serves_one_more_request_where_another_process_has_taken_over() {
    let difys = instances().await;
    let gate = gate_of(&difys, "", "drain_timeout: 60s").await;
    let mut client = Client::to(&gate).await;
    client.ask().await;
    let asking = async {
        until("the gate to accept nothing", async || {
            TcpStream::connect(edge(&gate)).await.is_err()
        })
        .await;
        client.ask().await;
        client.ended().await;
    };
    let (stopped, ()) = tokio::join!(soon("the gate to stop", gate.make_way()), asking);
    assert_eq!(stopped, Stopped::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_never_without_a_request_takes_no_more_late_in_the_drain() {
    let difys = instances().await;
    let gate = gate_of(&difys, "", "drain_timeout: 4s").await;
    let mut client = Client::to(&gate).await;
    let stream = client.stream(10_000).await;
    let asking = async {
        let mut asked = 0;
        while let Ok(answer) = client.begin("/v1/info", None).await {
            match soon("an answer", answer).await {
                Ok(answer) => assert_eq!(answer.status(), 200),
                // It was begun as GOAWAY left, which says that it was not looked at (RFC 9113 section 6.8).
                Err(e) => {
                    assert!(e.is_go_away() && e.reason() == Some(Reason::NO_ERROR), "{e}");
                    break;
                }
            }
            asked += 1;
        }
        assert!(asked > 1, "{asked}");
        let text = rest(stream).await;
        assert!(
            text.trim_end().ends_with('}') && text.contains("gateway_drained"),
            "{text}"
        );
        client.ended().await;
    };
    let (stopped, ()) = tokio::join!(soon("the gate to stop", gate.stop()), asking);
    assert_eq!(stopped, Stopped::Cut(1), "no request but the stream");
}

/// Reads frames until GOAWAY, and returns the last stream and the code.
async fn goaway(stream: &mut TcpStream) -> (u32, u32) {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let [a, b, c, kind, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if kind == 7 {
            let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            return (number(0), number(4));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_nobody_uses_ends_with_goaway() {
    let difys = instances().await;
    let gate = gate_of(&difys, ", idle_timeout: 300ms", "drain_timeout: 60s").await;
    let mut stream = TcpStream::connect(edge(&gate)).await.unwrap();
    let opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // The headers of GET http://h/v1/info (RFC 7541): three of the static table, and two that are spelled out.
    let fields = b"\x82\x86\x04\x08/v1/info\x01\x01h";
    let head = [0, 0, fields.len() as u8, 1, 5, 0, 0, 0, 1];
    stream.write_all(&[&opening[..], &head, fields].concat()).await.unwrap();
    assert_eq!(soon("GOAWAY", goaway(&mut stream)).await, (1, 0));
    let mut end = Vec::new();
    soon("the end", stream.read_to_end(&mut end)).await.unwrap();
    assert_eq!(end, b"", "nothing more");
    assert_eq!(difys[0].tally().traffic(), 1);
}
