//! Certificates, keys and authorities as files: followed however they change, and taken, named or warned of whatever they hold.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::SystemTime;

use difygate::gate::state::State;
use difygate::server::{Gate, StartError};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::admin::metric;
use crate::authority::Authority;
use crate::cli::{file, run};
use crate::support::{
    QUICK, addresses, dify_upstream, edge, gate, instances, nobody, settings, soon, until, until_state,
};
use crate::tls::listener;
use crate::wire::ask;

const HOST: &str = "dify.example.com";

/// Puts a file in the place of another by a rename, with the length and the modification time that all such files have here.
fn replace(path: &Path, text: &[u8]) {
    let mut whole = text.to_vec();
    assert!(whole.len() < 4_000);
    whole.resize(4_000, b'\n');
    let new = path.with_extension("new");
    std::fs::write(&new, whole).unwrap();
    let file = std::fs::File::options().write(true).open(&new).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Shakes hands with a gate whose certificate `server` has signed, as one whom `client` has signed where there is one, and asks it for something.
struct Client(Arc<ClientConfig>);

impl Client {
    fn new(server: &Authority, client: Option<&Authority>) -> Self {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(server.path("ca.pem")).unwrap();
        roots.add(ca).unwrap();
        let config = ClientConfig::builder_with_provider(tokio_rustls::rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Self(Arc::new(match client {
            None => config.with_no_client_auth(),
            Some(client) => {
                client.sign(client.folder.path(), "client", &["client"]);
                let cert = CertificateDer::from_pem_file(client.path("client.crt")).unwrap();
                let key = PrivateKeyDer::from_pem_file(client.path("client.key")).unwrap();
                config.with_client_auth_cert(vec![cert], key).unwrap()
            }
        }))
    }

    /// Whether it was answered, and whether its session was one that it had before.
    async fn ask(&self, edge: SocketAddr) -> Option<bool> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let asking = async {
            let stream = TcpStream::connect(edge).await.unwrap();
            let name = ServerName::try_from(HOST).unwrap();
            let mut stream = TlsConnector::from(self.0.clone()).connect(name, stream).await.ok()?;
            let request = format!("GET /v1/info HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            let resumed = stream.get_ref().1.handshake_kind() == Some(tokio_rustls::rustls::HandshakeKind::Resumed);
            answer.starts_with(b"HTTP/1.1 200").then_some(resumed)
        };
        soon("an answer within TLS", asking).await
    }

    async fn is_served(&self, edge: SocketAddr) -> bool {
        self.ask(edge).await.is_some()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_authorities_for_clients_count_from_the_next_handshake_on() {
    let difys = instances::<1>().await;
    let (own, old, new) = (Authority::new(), Authority::new(), Authority::new());
    let ca = own.path("clients.pem");
    let of = |authority: &Authority| std::fs::read(authority.path("ca.pem")).unwrap();
    replace(&ca, &of(&old));
    let text = format!(
        "{}{}",
        listener(&own.shown("dify", &[HOST]), &format!(", client_ca: {}", ca.display())),
        dify_upstream(&addresses(&difys), QUICK)
    );
    let gate = gate(&text).await;
    let (edge, [known, unknown]) = (edge(&gate), [&old, &new].map(|one| Client::new(&own, Some(one))));
    assert_eq!(known.ask(edge).await, Some(false));
    assert_eq!(known.ask(edge).await, Some(true), "sessions are kept");
    assert_eq!(unknown.ask(edge).await, None);
    replace(&ca, b"no authority");
    until("the broken file to be noticed", async || {
        metric(&gate, "difygate_tls_certificates_loaded_total", "failed").await > 0.0
    })
    .await;
    assert!(known.is_served(edge).await && !unknown.is_served(edge).await);
    replace(&ca, &of(&new));
    until("the new authority to count", async || unknown.is_served(edge).await).await;
    assert_eq!(known.ask(edge).await, None, "not even by a session that it had");
    assert_eq!(unknown.ask(edge).await, Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_the_same_length_and_time_is_another_one() {
    let difys = instances::<1>().await;
    let (old, new, third) = (Authority::new(), Authority::new(), Authority::new());
    let clients = [&old, &new, &third].map(|one| Client::new(one, None));
    let folder = tempfile::tempdir().unwrap();
    // As the kubelet writes secrets: what is read are links into a folder that is itself a link, which is switched.
    for (version, authority) in [("..1", &old), ("..2", &new)] {
        let at = folder.path().join(version);
        std::fs::create_dir(&at).unwrap();
        sign(authority, &at);
    }
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, folder.path().join(name)).unwrap();
    link("..1", "..data");
    link("..data/tls.crt", "tls.crt");
    link("..data/tls.key", "tls.key");
    let [cert, key] = ["tls.crt", "tls.key"].map(|name| folder.path().join(name).display().to_string());
    let shown = format!("{{cert: {cert}, key: {key}}}");
    let gate = gate(&format!(
        "{}{}",
        listener(&shown, ""),
        dify_upstream(&addresses(&difys), QUICK)
    ))
    .await;
    assert!(clients[0].is_served(edge(&gate)).await);
    link("..2", "..data_tmp");
    std::fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
    until("the link to be noticed", async || {
        clients[1].is_served(edge(&gate)).await
    })
    .await;
    sign(&third, &folder.path().join("..2"));
    until("the rename to be noticed", async || {
        clients[2].is_served(edge(&gate)).await
    })
    .await;
}

/// A certificate and its key as `tls.crt` and `tls.key`, put in the place of others.
fn sign(authority: &Authority, folder: &Path) {
    authority.sign(authority.folder.path(), "tls", &[HOST]);
    // The key first: a certificate without its key is one that cannot be used.
    for name in ["tls.key", "tls.crt"] {
        replace(&folder.join(name), &std::fs::read(authority.path(name)).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_changes_while_the_gate_starts_is_shown() {
    let (old, new) = (Authority::new(), Authority::new());
    let certificate = old.shown("tls", &[HOST]);
    // An endpoint that answers no probe keeps the gate from serving for as long as the first round may take.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = format!(
        "{}{}",
        listener(&certificate, ""),
        dify_upstream(&[silent.local_addr().unwrap()], "probe: {timeout: 1s, interval: 2s}")
    );
    let gate = Gate::start(settings(&text)).unwrap();
    new.sign(old.folder.path(), "tls", &[HOST]);
    let connector = TlsConnector::from(Client::new(&new, None).0);
    until("the new certificate to be shown", async || {
        let stream = TcpStream::connect(edge(&gate)).await.unwrap();
        connector
            .connect(ServerName::try_from(HOST).unwrap(), stream)
            .await
            .is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_for_tls_to_endpoints_are_followed_as_well() {
    let difys = instances::<1>().await;
    let (theirs, other) = (Authority::new(), Authority::new());
    let shown = theirs.shown("endpoint", &["127.0.0.1"]);
    let endpoint = gate(&format!(
        "{}{}",
        listener(&shown, &format!(", client_ca: {}", theirs.ca())),
        dify_upstream(&addresses(&difys), QUICK)
    ))
    .await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // Whom to trust and what to show, both of the wrong authority at first.
    let write = |authority: &Authority, ca: bool| {
        authority.sign(authority.folder.path(), "own", &["gate"]);
        let names = [("ca.pem", "ca.pem"), ("own.key", "own.key"), ("own.crt", "own.crt")];
        for (name, from) in names.into_iter().filter(|(name, _)| (*name == "ca.pem") == ca) {
            replace(&at(name), &std::fs::read(authority.path(from)).unwrap());
        }
    };
    write(&other, true);
    write(&other, false);
    let [ca, cert, key] = ["ca.pem", "own.crt", "own.key"].map(|name| at(name).display().to_string());
    let terms = format!("{QUICK}, tls: {{ca: {ca}, cert: {cert}, key: {key}}}");
    let gate = gate(&dify_upstream(&[edge(&endpoint)], &terms)).await;
    until_state(&gate, edge(&endpoint), State::Down).await;
    write(&theirs, true);
    write(&theirs, false);
    until_state(&gate, edge(&endpoint), State::Up).await;
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
    // What cannot be used changes nothing.
    std::fs::write(at("own.key"), "no key").unwrap();
    write(&theirs, true);
    assert_eq!(ask(edge(&gate), "GET /v1/info").await.status, 200);
}

async fn openssl(folder: &Path, arguments: &str) {
    let words = arguments.split(' ').filter(|word| !word.is_empty());
    let mut command = tokio::process::Command::new("openssl");
    command.current_dir(folder).args(words).stdin(Stdio::null());
    let output = soon("openssl", command.output()).await.unwrap();
    assert!(output.status.success(), "{arguments}: {output:?}");
}

/// What a gate says that is to show a certificate; nothing where it starts.
fn refusal(cert: &Path, key: &Path) -> Option<String> {
    let certificate = format!("{{cert: {}, key: {}}}", cert.display(), key.display());
    let text = format!("{}{}", listener(&certificate, ""), dify_upstream(&[nobody()], ""));
    match Gate::start(settings(&text)) {
        Ok(_) => None,
        Err(e @ StartError::Tls { .. }) => Some(format!("{:#}", anyhow::Error::from(e))),
        Err(e) => panic!("{e}"),
    }
}

/// How a private key is made, and the kind by which it is refused, if it is.
const KEYS: &[(&str, &str)] = &[
    ("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048", ""),
    ("ecparam -name prime256v1 -genkey", ""),
    ("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384", ""),
    ("genpkey -algorithm ED25519", ""),
    ("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521", "is P-521,"),
    ("ecparam -name secp521r1 -genkey", "is P-521,"),
    ("ecparam -name secp256k1 -genkey", "is secp256k1,"),
    ("genpkey -algorithm ED448", "is Ed448,"),
    ("genrsa -traditional 1024", "is RSA of 1024 bits,"),
    ("genpkey -algorithm RSA-PSS", "is RSA for PSS alone,"),
];

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_taken_or_refused_with_their_kind_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    for (make, kind) in KEYS {
        // An option of genrsa stands behind the others.
        let (make, bits) = make.strip_suffix(" 1024").map_or((*make, ""), |make| (make, "1024"));
        openssl(folder.path(), &format!("{make} -out tls.key {bits}")).await;
        let request = "req -x509 -new -key tls.key -subj /CN=dify -days 30 -out tls.crt";
        openssl(folder.path(), request).await;
        let told = refusal(&cert, &key);
        if kind.is_empty() {
            assert_eq!(told, None, "{make}");
            continue;
        }
        let told = told.unwrap_or_else(|| panic!("{make} was taken"));
        for part in [&key.display().to_string(), *kind, "openssl genpkey", "P-256"] {
            assert!(told.contains(part), "{make}: {part} is missing in {told}");
        }
    }
}

/// How files are made of `plain.crt` and `plain.key`.
const FORMS: &[&str] = &[
    "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out plain.key",
    "req -x509 -new -key plain.key -subj /CN=dify -days 30 -out plain.crt",
    "pkey -in plain.key -aes256 -passout pass:hush -out pkcs8.key",
    "ec -in plain.key -aes256 -passout pass:hush -out legacy.key",
    "ec -in plain.key -no_public -out half.key",
    "ecparam -name prime256v1 -genkey -param_enc explicit -noout -out described.key",
    "x509 -in plain.crt -trustout -out trusted.crt",
    "x509 -in plain.crt -outform DER -out binary.crt",
    "pkey -in plain.key -outform DER -out binary.key",
    "pkcs12 -export -in plain.crt -inkey plain.key -passout pass: -out store.crt",
];

/// A certificate or a key that is refused, why, and the command that helps.
const UNFIT: &[(&str, &str, &str)] = &[
    ("pkcs8.key", "is encrypted", "openssl pkey -in "),
    ("legacy.key", "is encrypted", "openssl pkey -in "),
    (
        "half.key",
        "P-256, is damaged, or lacks its public half",
        "-noout -check",
    ),
    ("described.key", "is described, not named", "-param_enc named_curve"),
    ("openssh.key", "as OpenSSH has it", "ssh-keygen -p -m PKCS8 -f "),
    ("binary.key", "is binary", "openssl pkey -inform DER -in "),
    ("no.key", "it holds no private key", "but: CERTIFICATE"),
    ("binary.crt", "is binary", "openssl x509 -inform DER -in "),
    ("store.crt", "is binary", "openssl pkcs12 -nodes -in "),
    ("trusted.crt", "`TRUSTED CERTIFICATE`", "openssl x509 -in "),
    ("mixed.crt", "`TRUSTED CERTIFICATE`", "openssl x509 -in "),
    ("wide.crt", "in UTF-16", "iconv "),
    ("no.crt", "it holds no certificate", "but: PRIVATE KEY"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_pem_is_not_is_refused_with_the_command_that_helps() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for command in FORMS {
        openssl(folder.path(), command).await;
    }
    let text = |name: &str| std::fs::read_to_string(at(name)).unwrap();
    let write = |name: &str, content: &str| std::fs::write(at(name), content).unwrap();
    let (cert, key) = (text("plain.crt"), text("plain.key"));
    write("marked.crt", &format!("\u{feff}{cert}"));
    write("marked.key", &format!("\u{feff}{}", key.replace('\n', "\r\n")));
    let marked = refusal(&at("marked.crt"), &at("marked.key"));
    assert_eq!(marked, None, "a byte order mark is no part of it");
    write("mixed.crt", &format!("{cert}{}", text("trusted.crt")));
    write("no.crt", &key);
    write("no.key", &cert);
    let label = "OPENSSH PRIVATE KEY";
    write(
        "openssh.key",
        &format!("-----BEGIN {label}-----\nb3Bl\n-----END {label}-----\n"),
    );
    let wide = format!("\u{feff}{cert}");
    let wide: Vec<u8> = wide.encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(at("wide.crt"), wide).unwrap();
    for (name, why, help) in UNFIT {
        let (cert, key) = match name.strip_suffix(".key") {
            Some(_) => (at("plain.crt"), at(name)),
            None => (at(name), at("plain.key")),
        };
        let told = refusal(&cert, &key).unwrap_or_else(|| panic!("{name} was taken"));
        for part in [&at(name).display().to_string(), *why, *help] {
            assert!(told.contains(part), "{part} is missing in {told}");
        }
    }
    // The command makes a key that is taken.
    openssl(
        folder.path(),
        "ec -in described.key -param_enc named_curve -out named.key",
    )
    .await;
    openssl(
        folder.path(),
        "req -x509 -new -key named.key -subj /CN=dify -out named.crt",
    )
    .await;
    assert_eq!(refusal(&at("named.crt"), &at("named.key")), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_warns_of_certificates_that_do_not_hold_and_refuses_keys_of_others() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let within = |name: &str, begins: i64, ends: i64| {
        authority.sign_within(authority.folder.path(), name, &[HOST], [begins, ends]);
        let path = |kind: &str| authority.path(&format!("{name}.{kind}")).display().to_string();
        (path("crt"), path("key"))
    };
    let shown = |(cert, key): &(String, String)| format!("{{cert: {cert}, key: {key}}}");
    let (good, late) = (within("good", -10, 90), within("late", -90, -2));
    let (soon, early) = (within("soon", -90, 5), within("early", 3, 90));
    let certificates = [&good, &late, &soon, &early].map(shown).join(", ");
    let check = async |certificates: &str, own: &(String, String)| {
        let text = format!(
            "{}upstreams: {{dify: {{tls: {}, pools: {{main: {{endpoints: [\"10.0.0.11:443\"]}}}}}}}}\n",
            listener(certificates, ""),
            shown(own).replacen('{', &format!("{{ca: {}, ", authority.ca()), 1),
        );
        run(&["check", "-c", &file(&folder, &text)]).await
    };
    let (code, out, err) = check(&certificates, &late).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("valid"), "{out}");
    let warnings: Vec<&str> = err.lines().collect();
    assert_eq!(warnings.len(), 4, "{err}");
    for (warning, (key, (path, _), what)) in warnings.into_iter().zip([
        ("listeners[0].tls.certificates[1].cert", &late, "expired on "),
        ("listeners[0].tls.certificates[2].cert", &soon, "in 5 days"),
        ("listeners[0].tls.certificates[3].cert", &early, "does not hold before "),
        ("upstreams.dify.tls.cert", &late, "expired on "),
    ]) {
        let begins = format!("difygate.yaml: warning: {key}: {path}: the certificate ");
        assert!(warning.contains(&begins) && warning.contains(what), "{warning}");
    }
    let (code, _, err) = check(&shown(&good), &good).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let made =
        "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-521 -nodes -keyout ca.key -subj /CN=root -days 30 -out ca.pem";
    openssl(authority.folder.path(), &format!("req {made}")).await;
    let (code, _, err) = check(&shown(&good), &good).await;
    let warning = format!(
        "warning: upstreams.dify.tls.ca: {}: the key of the authority \"CN=root\" is P-521, ",
        authority.ca()
    );
    assert!(code == 0 && err.contains(&warning), "{err}");
    let mixed = (good.0.clone(), soon.1.clone());
    for (certificates, own) in [(&mixed, &good), (&good, &mixed)] {
        let (code, _, err) = check(&shown(certificates), own).await;
        let mismatch = format!("{}: it is not the private key of the certificate in {}", soon.1, good.0);
        assert!(code == 1 && err.contains(&mismatch), "{err}");
    }
}
