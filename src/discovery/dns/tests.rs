//! Names that a host may stand for, and what becomes of them while a name server fails.

use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::Record;
use hickory_resolver::proto::rr::rdata::A;
use hickory_resolver::proto::serialize::binary::{BinDecodable, BinEncodable};
use tokio::net::UdpSocket;

use super::*;

/// What a name server says of each name: its IPv4 address, or a failure of its own; of others that there are none.
type Says = Arc<Mutex<Vec<(&'static str, Option<[u8; 4]>)>>>;

async fn server(says: Says) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut question = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut question).await {
            let asked = Message::from_bytes(&question[..length]).unwrap();
            let query = asked.queries[0].clone();
            let mut answer = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
            let name = query.name().to_string();
            let found = says.lock().unwrap().iter().find(|(known, _)| *known == name).copied();
            match found {
                None => answer.metadata.response_code = ResponseCode::NXDomain,
                Some((_, None)) => answer.metadata.response_code = ResponseCode::ServFail,
                Some((_, Some([a, b, c, d]))) if query.query_type() == RecordType::A => {
                    let data = RData::A(A::new(a, b, c, d));
                    answer.answers.push(Record::from_rdata(query.name().clone(), 60, data));
                }
                Some(_) => {}
            }
            answer.queries.push(query);
            socket.send_to(&answer.to_bytes().unwrap(), peer).await.unwrap();
        }
    });
    address
}

async fn client(says: &Says, search: &[&str], ndots: usize) -> Client {
    let mut client = Client::new(Some(server(says.clone()).await)).unwrap();
    client.search = search.iter().map(|name| Name::from_utf8(name).unwrap()).collect();
    client.ndots = ndots;
    client
}

#[tokio::test]
async fn a_host_is_looked_for_in_the_order_of_resolv_conf() {
    let client = client(&Says::default(), &["a.test.", "b.test."], 1).await;
    for (host, expected) in [
        ("dify", &["dify.a.test.", "dify.b.test.", "dify."][..]),
        ("dify.ns", &["dify.ns.", "dify.ns.a.test.", "dify.ns.b.test."]),
        ("dify.", &["dify."]),
        ("dify.ns.", &["dify.ns."]),
    ] {
        let candidates = client.candidates(host).unwrap();
        let names: Vec<String> = candidates.iter().map(Name::to_string).collect();
        assert_eq!(names, expected, "{host}");
    }
}

#[tokio::test]
async fn another_name_does_not_stand_in_for_one_that_fails() {
    let says = Says::default();
    let client = client(&says, &["a.test.", "b.test."], 1).await;
    let address = Address::parse("dify:80").unwrap();
    let mut known = Known::default();
    let (own, other) = ("dify.a.test.", ("dify.b.test.", Some([10, 0, 0, 2])));
    let mut look = async |all: Vec<_>| {
        *says.lock().unwrap() = all;
        let looked = addresses(&client, &mut known, &address).await?;
        Ok::<_, String>(looked.found[0].address.to_string())
    };
    // Nothing is known yet, so any name that answers will do.
    assert_eq!(look(vec![(own, None), other]).await.as_deref(), Ok("10.0.0.2:80"));
    assert_eq!(
        look(vec![(own, Some([10, 0, 0, 1])), other]).await.as_deref(),
        Ok("10.0.0.1:80")
    );
    let failed = look(vec![(own, None), other]).await.unwrap_err();
    assert!(failed.starts_with("A: "), "{failed}");
    // Where it is known not to be there any more, the next name counts.
    assert_eq!(look(vec![other]).await.as_deref(), Ok("10.0.0.2:80"));
    assert_eq!(look(Vec::new()).await, Err("it has no address".to_owned()));
}
