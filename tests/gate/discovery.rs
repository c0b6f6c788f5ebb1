//! Endpoints that are found: by a name service and in a file, with all that can go wrong on the way.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use difygate::gate::state::State;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::admin::admin;
use crate::cli::file;
use crate::reload::Asking;
use crate::support::{QUICK, edge, gate, instances, known, nobody, until, until_state};
use crate::wire::ask;

/// What the name service says.
#[derive(Clone)]
enum Says {
    Addresses(Vec<Ipv4Addr>),
    /// Priority, weight and port of targets that are all `localhost`.
    Targets(Vec<[u16; 3]>),
    /// No such name, by 3, or a failure of its own, by 2.
    Code(u8),
    Nothing,
}

/// A name service with one answer to everything.
struct Names {
    address: SocketAddr,
    says: Arc<Mutex<(Says, u32)>>,
}

impl Names {
    async fn start(says: Says, ttl: u32) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let says = Arc::new(Mutex::new((says, ttl)));
        let shared = says.clone();
        tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut question).await {
                let (says, ttl) = shared.lock().unwrap().clone();
                if let Some(answer) = answer(&question[..length], &says, ttl) {
                    socket.send_to(&answer, peer).await.unwrap();
                }
            }
        });
        Self { address, says }
    }

    fn say(&self, says: Says) {
        self.says.lock().unwrap().0 = says;
    }
}

/// A message of RFC 1035 section 4, with the question's own name in each record.
fn answer(question: &[u8], says: &Says, ttl: u32) -> Option<Vec<u8>> {
    let name = question[12..].iter().position(|byte| *byte == 0)?;
    let asked = &question[12..12 + name + 5];
    let kind = u16::from_be_bytes([asked[name + 1], asked[name + 2]]);
    let (code, records): (u8, Vec<(u16, Vec<u8>)>) = match says {
        Says::Nothing => return None,
        Says::Code(code) => (*code, Vec::new()),
        Says::Addresses(addresses) if kind == 1 => (0, addresses.iter().map(|ip| (1, ip.octets().to_vec())).collect()),
        Says::Targets(targets) if kind == 33 => {
            let data = |target: &[u16; 3]| {
                let numbers = target.iter().flat_map(|number| number.to_be_bytes());
                numbers.chain(*b"\x09localhost\0").collect()
            };
            (0, targets.iter().map(|target| (33, data(target))).collect())
        }
        Says::Addresses(_) | Says::Targets(_) => (0, Vec::new()),
    };
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    answer.extend(asked);
    for (kind, data) in records {
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1]);
        answer.extend(ttl.to_be_bytes());
        answer.extend((data.len() as u16).to_be_bytes());
        answer.extend(data);
    }
    Some(answer)
}

/// Another way to `to`, at `at`.
async fn way(at: SocketAddr, to: SocketAddr) {
    let listener = TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(to).await {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
}

fn by_name(names: &Names, port: u16) -> String {
    format!(
        "upstreams: {{dify: {{{QUICK}, pools: {{main: {{dns: {{name: \"dify.example.com:{port}\", server: \"{}\"}}}}}}}}}}\n",
        names.address
    )
}

const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[tokio::test(flavor = "multi_thread")]
async fn each_address_of_a_name_is_an_endpoint_and_nobody_notices_that_it_moves() {
    let difys = instances::<2>().await;
    let first = difys[0].address();
    let second = SocketAddr::from((SECOND, first.port()));
    way(second, difys[1].address()).await;
    let names = Names::start(Says::Addresses(vec![FIRST]), 1).await;
    let gate = gate(&by_name(&names, first.port())).await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.instance(), "dify-0");
    let asking = Asking::start(edge(&gate));
    names.say(Says::Addresses(vec![FIRST, SECOND]));
    until("the second to be asked", async || difys[1].tally().traffic() > 0).await;
    names.say(Says::Addresses(vec![SECOND]));
    until("the first to be asked no more", async || {
        let before = difys[0].tally().traffic();
        asking.some_more().await;
        difys[0].tally().traffic() == before
    })
    .await;
    assert_eq!(asking.failed().await, Vec::<String>::new());
    assert!(known(&gate, second).await.state.is_routable());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_service_that_fails_changes_nothing() {
    let difys = instances::<1>().await;
    let names = Names::start(Says::Addresses(vec![FIRST]), 1).await;
    let gate = gate(&by_name(&names, difys[0].address().port())).await;
    let asking = Asking::start(edge(&gate));
    let stale = async || {
        let metrics = admin(&gate, "/metrics").await.text();
        metrics.contains("difygate_discovery_stale{pool=\"main\",upstream=\"dify\"} 1\n")
    };
    for fault in [Says::Code(3), Says::Code(2), Says::Addresses(Vec::new()), Says::Nothing] {
        names.say(fault);
        until("the failure to be noticed", stale).await;
        asking.some_more().await;
        names.say(Says::Addresses(vec![FIRST]));
        until("the recovery to be noticed", async || !stale().await).await;
    }
    assert_eq!(asking.failed().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_starts_before_its_names_resolve() {
    let difys = instances::<1>().await;
    let names = Names::start(Says::Code(3), 1).await;
    let gate = gate(&by_name(&names, difys[0].address().port())).await;
    let refused = ask(edge(&gate), "GET /v1/info").await;
    assert_eq!(refused.status, 503, "{refused:?}");
    names.say(Says::Addresses(vec![FIRST]));
    until("the name to resolve", async || {
        ask(edge(&gate), "GET /v1/info").await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_down_is_looked_up_again_at_once() {
    let difys = instances::<2>().await;
    let first = difys[0].address();
    let second = SocketAddr::from((SECOND, first.port()));
    way(second, difys[1].address()).await;
    let names = Names::start(Says::Addresses(vec![FIRST]), 300).await;
    let gate = gate(&by_name(&names, first.port())).await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.instance(), "dify-0");
    names.say(Says::Addresses(vec![SECOND]));
    difys[0].kill().await;
    until("the other address to be found long before five minutes", async || {
        ask(edge(&gate), "GET /v1/info").await.status == 200
    })
    .await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.instance(), "dify-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_targets_of_a_service_have_ports_and_weights_of_their_own() {
    let difys = instances::<3>().await;
    let port = |index: usize| difys[index].address().port();
    let targets = Says::Targets(vec![[1, 30, port(0)], [1, 10, port(1)], [2, 10, port(2)]]);
    let names = Names::start(targets, 1).await;
    let gate = gate(&format!(
        "upstreams: {{dify: {{{QUICK}, balance: round_robin, pools: {{main: {{dns: {{srv: _http._tcp.dify.example.com, server: \"{}\"}}}}}}}}}}\n",
        names.address
    ))
    .await;
    until("both to be fit", async || {
        let all = gate.handle().mailbox.known().await.unwrap();
        all.len() == 2 && all.iter().all(|one| one.known.state == State::Up)
    })
    .await;
    let before: Vec<u64> = difys.iter().map(|dify| dify.tally().traffic()).collect();
    for _ in 0..40 {
        assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    }
    let shares: Vec<u64> = difys
        .iter()
        .zip(before)
        .map(|(dify, before)| dify.tally().traffic() - before)
        .collect();
    assert_eq!(shares, [30, 10, 0], "those of a worse priority wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_followed_and_what_cannot_be_read_changes_nothing() {
    let difys = instances::<2>().await;
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, &format!("# blue\n{}\n", difys[0].address()));
    let gate = gate(&format!(
        "upstreams: {{dify: {{{QUICK}, pools: {{main: {{file: {path}}}}}}}}}\n"
    ))
    .await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.instance(), "dify-0");
    file(
        &folder,
        &format!("{}\n{} weight=2\n", difys[0].address(), difys[1].address()),
    );
    let joined = async || gate.handle().mailbox.known().await.unwrap().len() == 2;
    until("the second to be found", joined).await;
    until_state(&gate, difys[1].address(), State::Ramping).await;
    file(&folder, "not an address\n");
    until("the mistake to be noticed", async || {
        let metrics = admin(&gate, "/metrics").await.text();
        metrics.contains("difygate_discovery_stale{pool=\"main\",upstream=\"dify\"} 1\n")
    })
    .await;
    assert!(joined().await);
    file(&folder, &format!("{}\n", difys[1].address()));
    until("the first to leave", async || !joined().await).await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.instance(), "dify-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_written_down_serves_beside_who_is_found() {
    let difys = instances::<2>().await;
    let names = Names::start(Says::Addresses(vec![FIRST]), 1).await;
    let written = difys[1].address();
    let gate = gate(&format!(
        "upstreams: {{dify: {{{QUICK}, pools: {{main: {{endpoints: [\"{written}\", \"{}\"], dns: {{name: \"dify:{}\", server: \"{}\"}}}}}}}}}}\n",
        nobody(),
        difys[0].address().port(),
        names.address
    ))
    .await;
    until("the found one to be asked", async || {
        ask(edge(&gate), "GET /v1/info").await.status == 200 && difys[0].tally().traffic() > 0
    })
    .await;
    until("the written one to be asked", async || {
        ask(edge(&gate), "GET /v1/info").await.status == 200 && difys[1].tally().traffic() > 0
    })
    .await;
}
