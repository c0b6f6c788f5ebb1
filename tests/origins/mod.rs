//! What tests of real servers and real clients share: the programs that `make origins` installs, and a gate before endpoints.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use difygate::config;
use difygate::server::Gate;

/// A file below `target/origins`, which `make origins` fills.
pub(crate) fn installed(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/origins").join(name);
    assert!(path.exists(), "{} is missing: run `make origins`", path.display());
    path
}

/// A file of `tests/origins`.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/origins").join(name)
}

/// A gate on free ports before `endpoints`, with `keys` added at the top of its configuration and `upstream` in its upstream's.
pub(crate) fn gate(endpoints: &[SocketAddr], upstream: &str, keys: &str) -> Gate {
    let endpoints: Vec<String> = endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    let listeners = if keys.contains("listeners:") {
        ""
    } else {
        "listeners: [{address: \"127.0.0.1:8080\"}]"
    };
    let text = format!(
        "log: {{access: \"off\"}}\n\
         {listeners}\n\
         upstreams: {{dify: {{{upstream}, pools: {{main: {{endpoints: [{}]}}}}}}}}\n\
         {keys}\n",
        endpoints.join(", ")
    );
    let mut config =
        config::parse(&text, Path::new("test.yaml"), &config::unset).unwrap_or_else(|e| panic!("{e}\n{text}"));
    for listener in &mut config.listeners {
        listener.address.set_port(0);
    }
    config.admin.set_port(0);
    Gate::start(config).unwrap()
}

/// Writes a certificate for `host`, which nobody but itself vouches for, and its key into a folder; returns the two as a listener names them, and the
/// certificate's path.
pub(crate) fn certificate(folder: &Path, host: &str) -> (String, PathBuf) {
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let pair = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
    std::fs::write(&cert, own.self_signed(&pair).unwrap().pem()).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    let named = format!(
        "{{certificates: [{{cert: {}, key: {}}}]}}",
        cert.display(),
        key.display()
    );
    (named, cert)
}
