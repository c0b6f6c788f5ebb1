//! Endpoints that are found: by a name service and in a file, with all that can go wrong on the way.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use difygate::gate::state::State;
use difygate::server::Gate;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::admin::admin;
use crate::cli::{difygate, file, run};
use crate::reload::Asking;
use crate::support::{QUICK, edge, gate, instances, known, nobody, until, until_state};
use crate::wire::{Wire, ask};

/// What the name service says.
#[derive(Clone)]
enum Says {
    Addresses(Vec<Ipv4Addr>),
    /// Priority, weight and port of targets that are all `localhost`.
    Targets(Vec<[u16; 3]>),
    /// Each family by itself, IPv4 and IPv6.
    Families(Family<Ipv4Addr>, Family<Ipv6Addr>),
    /// No such name, by 3, or a failure of its own, by 2.
    Code(u8),
    Nothing,
}

/// What the name service says of one family of addresses.
#[derive(Clone)]
enum Family<Ip> {
    Has(Vec<Ip>),
    /// An answer with a code, such as SERVFAIL, 2.
    Code(u8),
    Silent,
}

/// A code, and the kind and the data of each record.
type Answer = (u8, Vec<(u16, Vec<u8>)>);

impl<Ip> Family<Ip> {
    fn answer(&self, kind: u16, data: impl Fn(&Ip) -> Vec<u8>) -> Option<Answer> {
        match self {
            Self::Has(all) => Some((0, all.iter().map(|ip| (kind, data(ip))).collect())),
            Self::Code(code) => Some((*code, Vec::new())),
            Self::Silent => None,
        }
    }
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
    let (code, records): Answer = match says {
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
        Says::Families(v4, _) if kind == 1 => v4.answer(1, |ip| ip.octets().to_vec())?,
        Says::Families(_, v6) if kind == 28 => v6.answer(28, |ip| ip.octets().to_vec())?,
        Says::Addresses(_) | Says::Targets(_) | Says::Families(..) => (0, Vec::new()),
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
async fn a_name_service_that_fails_for_long_is_logged_once_a_minute_and_when_it_is_well_again() {
    let difys = instances::<1>().await;
    let names = Names::start(Says::Code(3), 1).await;
    let (folder, edge, admin) = (tempfile::tempdir().unwrap(), nobody(), nobody());
    let text = format!(
        "log: {{access: \"off\"}}\nadmin: {{address: \"{admin}\"}}\nlisteners: [{{address: \"{edge}\"}}]\n{}",
        by_name(&names, difys[0].address().port())
    );
    let log = folder.path().join("log");
    let mut gate = difygate(&["run", "-c", &file(&folder, &text)]);
    let _process = gate.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    until("the gate to listen", async || TcpStream::connect(admin).await.is_ok()).await;
    until("five failures", async || {
        let mut wire = Wire::to(admin).await;
        wire.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await;
        let metrics = wire.answer().await.text();
        (5..60).any(|failures| {
            metrics.contains(&format!(
                "difygate_discovery_failures_total{{pool=\"main\",upstream=\"dify\"}} {failures}\n"
            ))
        })
    })
    .await;
    names.say(Says::Addresses(vec![FIRST]));
    let logged = |what: &str| std::fs::read_to_string(&log).unwrap().matches(what).count();
    until("the recovery in the log", async || {
        logged("endpoints can be looked up again") == 1
    })
    .await;
    assert_eq!(logged("endpoints cannot be looked up"), 1);
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

/// Where the endpoints of the gate listen, in order.
async fn places(gate: &Gate) -> Vec<String> {
    let all = gate.handle().mailbox.known().await.unwrap();
    let mut places: Vec<String> = all.iter().map(|one| one.known.id.address.to_string()).collect();
    places.sort();
    places
}

async fn is_stale(gate: &Gate) -> bool {
    let metrics = admin(gate, "/metrics").await.text();
    metrics.contains("difygate_discovery_stale{pool=\"main\",upstream=\"dify\"} 1\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn half_an_answer_keeps_what_was_known_of_the_other_family() {
    const SIXTH: Ipv6Addr = Ipv6Addr::LOCALHOST;
    let port = nobody().port();
    let (v4, v6) = (Family::Has(vec![FIRST]), Family::Has(vec![SIXTH]));
    let names = Names::start(Says::Families(v4.clone(), v6.clone()), 1).await;
    let gate = gate(&by_name(&names, port)).await;
    let both = [format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
    assert_eq!(places(&gate).await, both);
    let halves = [
        Says::Families(v4.clone(), Family::Code(2)),
        Says::Families(Family::Code(5), v6.clone()),
        Says::Families(v4.clone(), Family::Silent),
    ];
    for half in halves {
        names.say(half);
        until("half an answer to be noticed", async || is_stale(&gate).await).await;
        assert_eq!(places(&gate).await, both);
        names.say(Says::Families(v4.clone(), v6.clone()));
        until("the whole answer to be noticed", async || !is_stale(&gate).await).await;
    }
    // The family that answers is believed meanwhile, and so is one that says it has nothing.
    names.say(Says::Families(Family::Has(vec![FIRST, SECOND]), Family::Code(2)));
    until("the new address to be found", async || places(&gate).await.len() == 3).await;
    assert!(places(&gate).await.contains(&both[1]));
    names.say(Says::Families(v4, Family::Has(Vec::new())));
    until("the other family to be gone", async || places(&gate).await == both[..1]).await;
    assert!(!is_stale(&gate).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_family_that_never_answers_is_nothing_to_complain_of() {
    let port = nobody().port();
    let says = Says::Families(Family::Has(vec![FIRST]), Family::Code(2));
    let names = Names::start(says, 1).await;
    let gate = gate(&by_name(&names, port)).await;
    assert_eq!(places(&gate).await, [format!("127.0.0.1:{port}")]);
    assert!(!is_stale(&gate).await);
    names.say(Says::Families(Family::Has(vec![SECOND]), Family::Code(2)));
    until("the other address to be found", async || {
        places(&gate).await == [format!("127.0.0.2:{port}")]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_down_has_its_own_pool_looked_up_again() {
    let [first, second] = instances::<2>().await;
    let port = first.address().port();
    way(SocketAddr::from((SECOND, port)), second.address()).await;
    let early = Names::start(Says::Addresses(vec![FIRST]), 300).await;
    let late = Names::start(Says::Code(2), 300).await;
    let pool = |names: &Names, port: u16| {
        format!(
            "{{dns: {{name: \"dify.example.com:{port}\", server: \"{}\"}}}}",
            names.address
        )
    };
    let gate = gate(&format!(
        "upstreams: {{dify: {{{QUICK}, active: late, pools: {{early: {}, late: {}}}}}}}\n",
        pool(&early, nobody().port()),
        pool(&late, port)
    ))
    .await;
    // The finder of the other pool waits first by then, for it has found somebody a look before this one.
    until("the other pool to be found", async || places(&gate).await.len() == 1).await;
    late.say(Says::Addresses(vec![FIRST]));
    until("the instance to serve", async || {
        ask(edge(&gate), "GET /v1/info").await.status == 200
    })
    .await;
    late.say(Says::Addresses(vec![SECOND]));
    first.kill().await;
    until("the other address to be found long before five minutes", async || {
        ask(edge(&gate), "GET /v1/info").await.status == 200
    })
    .await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.instance(), "dify-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_may_end_in_a_dot() {
    let [dify] = instances::<1>().await;
    let port = dify.address().port();
    let names = Names::start(Says::Addresses(vec![FIRST]), 1).await;
    let gate = gate(&by_name(&names, port).replace("dify.example.com:", "dify.example.com.:")).await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.instance(), "dify-0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_found_by_every_spelling_of_its_address() {
    let port = nobody().port();
    let folder = tempfile::tempdir().unwrap();
    let path = file(
        &folder,
        &format!("LOCALHOST:{port}\nlocalhost:0{port}\n[0:0:0:0:0:0:0:1]:{port}\n"),
    );
    let gate = gate(&format!(
        "upstreams: {{dify: {{{QUICK}, pools: {{main: {{file: {path}, endpoints: [\"[::1]:{port}\"]}}}}}}}}\n"
    ))
    .await;
    assert_eq!(
        places(&gate).await,
        [format!("[::1]:{port}"), format!("localhost:{port}")]
    );
    let url = format!("http://{}", gate.admin());
    for spelled in ["LocalHost", "localhost.", "[0:0::1]", "[::1]"] {
        for port in [format!("{port}"), format!("0{port}")] {
            let address = format!("{spelled}:{port}");
            for words in [&["explain", &address][..], &["endpoint", "enable", &address]] {
                let (code, _, err) = run(&[words, &["--admin", &url]].concat()).await;
                assert_eq!(code, 0, "{words:?}: {err}");
            }
        }
    }
}
