//! Services that are asked over HTTP, and what is known of those around Dify: where they tell how they are, what a good answer looks like, and how a
//! key is shown. Never anything that works for its answer: a list of models, and no inference.

use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;

use crate::config::parse::Findings;
use crate::config::raw::Expect;
use crate::config::raw::healthz::{Http, Preset};
use crate::config::{probes, scalars};
use crate::gate::health::ProbePlan;
use crate::healthz::Kind;
use crate::probe::spec::ProbeSpec;
use crate::tls::{TlsFiles, TlsTerms};
use crate::url::HttpUrl;

/// What is known of a service.
#[derive(Default)]
struct Known {
    /// Where it is, for what is at one place only.
    url: Option<&'static str>,
    path: &'static str,
    /// A path that bare addresses of it leave out.
    below: &'static str,
    headers: &'static [(&'static str, &'static str)],
    status: Option<&'static str>,
    /// What must stand in the answer.
    json: Option<(&'static str, &'static str)>,
    /// The header that shows a key, and what comes before the key in it.
    key: Option<(&'static str, &'static str)>,
}

const BEARER: Option<(&str, &str)> = Some(("authorization", "Bearer "));

fn known(preset: Preset) -> Known {
    let says_ok = Some(("/status", "ok"));
    let at = |path| Known {
        path,
        ..Known::default()
    };
    match preset {
        Preset::DifyApi => Known {
            json: says_ok,
            ..at("/health")
        },
        Preset::PluginDaemon => Known {
            json: says_ok,
            ..at("/health/check")
        },
        Preset::DifyWeb => Known {
            headers: &[("accept-language", "en")],
            // The page sends a visitor without a session to /signin: the renderer works.
            status: Some("200,307"),
            ..at("/apps")
        },
        Preset::Sandbox => Known {
            // The whole answer is one word of JSON.
            json: Some(("", "ok")),
            ..at("/health")
        },
        Preset::LocalSandbox => at("/healthz"),
        Preset::Weaviate => Known {
            key: BEARER,
            ..at("/v1/.well-known/ready")
        },
        Preset::Qdrant => Known {
            key: Some(("api-key", "")),
            ..at("/readyz")
        },
        Preset::Milvus => at("/healthz"),
        Preset::Pinecone => Known {
            url: Some("https://api.pinecone.io"),
            key: Some(("api-key", "")),
            ..at("/indexes")
        },
        Preset::Openai => Known {
            below: "/v1",
            json: Some(("/object", "list")),
            key: BEARER,
            ..at("/models")
        },
    }
}

/// How often a service is asked of which nothing else is said: what others run, and count, is not asked every second by every instance.
pub(super) fn interval(preset: Preset) -> Option<Duration> {
    matches!(preset, Preset::Pinecone | Preset::Openai).then_some(Duration::from_secs(30))
}

pub(super) fn http(key: &str, raw: Http, timeout: Duration, findings: &mut Findings<'_>) -> Option<Kind> {
    let known = raw.preset.map(known).unwrap_or_default();
    let url = place(key, raw.url.as_deref(), raw.path.map(|path| path.0), &known, findings)?;
    let defaults = ProbeSpec::default();
    let mut headers = with_key(key, raw.headers.unwrap_or_default(), raw.api_key, &known, findings);
    if raw.preset == Some(Preset::Pinecone) && !has(&headers, "api-key") {
        findings.error(key, "Pinecone answers nobody without `api_key`");
    }
    for (name, value) in known.headers {
        if !has(&headers, name) {
            headers.insert((*name).to_owned(), (*value).to_owned());
        }
    }
    let spec = ProbeSpec {
        plan: Arc::new(ProbePlan {
            timeout,
            ..ProbePlan::default()
        }),
        path: url.target,
        method: raw
            .method
            .and_then(|method| scalars::method(&method.0).ok())
            .unwrap_or(defaults.method),
        tls: url.secure.then(|| TlsTerms {
            server_name: None,
            files: TlsFiles {
                ca: raw.ca.map(Into::into),
                identity: None,
            },
        }),
        headers: probes::headers(key, headers, findings),
        expect: probes::expect(key, raw.expect.unwrap_or_else(|| expected(&known)), findings),
        host: None,
        port: None,
        reuse: false,
    };
    Some(Kind::Http {
        address: url.address,
        spec: Box::new(spec),
    })
}

/// Where a service is asked: its URL, and behind that the path.
fn place(
    key: &str,
    url: Option<&str>,
    path: Option<String>,
    known: &Known,
    findings: &mut Findings<'_>,
) -> Option<HttpUrl> {
    let Some(text) = url.or(known.url) else {
        findings.error(key, "the key `url` is missing");
        return None;
    };
    let Some(mut url) = HttpUrl::parse(text) else {
        // A URL may hold a user and a password.
        let wrong = if text.contains('@') {
            "may hold no user; write `headers`".to_owned()
        } else {
            format!("\"{text}\" is no URL, such as http://127.0.0.1:5001/health")
        };
        findings.error(&format!("{key}.url"), wrong);
        return None;
    };
    let (below, path) = match path {
        Some(path) => ("", path),
        None => (known.below, known.path.to_owned()),
    };
    if !path.is_empty() {
        if url.target.contains('?') {
            findings.error(&format!("{key}.url"), "holds a query, after which no path can come");
        }
        let base = match url.target.trim_end_matches('/') {
            "" => below,
            base => base,
        };
        url.target = format!("{base}{path}");
    }
    Some(url)
}

fn has(headers: &IndexMap<String, String>, name: &str) -> bool {
    headers.keys().any(|known| known.eq_ignore_ascii_case(name))
}

fn with_key(
    key: &str,
    mut headers: IndexMap<String, String>,
    secret: Option<String>,
    known: &Known,
    findings: &mut Findings<'_>,
) -> IndexMap<String, String> {
    match (secret, known.key) {
        (Some(_), Some((name, _))) if has(&headers, name) => {
            findings.error(
                &format!("{key}.api_key"),
                format!("is told in `headers` as `{name}` too"),
            );
        }
        (Some(secret), Some((name, scheme))) => {
            headers.insert(name.to_owned(), format!("{scheme}{secret}"));
        }
        (Some(_), None) => {
            let message = "goes with the presets weaviate, qdrant, pinecone and openai, which know its header; write `headers` instead";
            findings.error(&format!("{key}.api_key"), message);
        }
        (None, _) => {}
    }
    headers
}

fn expected(known: &Known) -> Expect {
    Expect {
        status: known.status.and_then(|status| status.parse().ok()),
        json: known
            .json
            .map(|(pointer, value)| IndexMap::from([(pointer.to_owned(), value.into())])),
        ..Expect::default()
    }
}
