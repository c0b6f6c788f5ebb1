//! Which pages of other origins may read a route's answers: the CORS protocol of the Fetch standard (section 3.2), as a filter in front of a service
//! that does not speak it, or not as its operator wants.

use std::time::Duration;

/// What pages of other origins may do on a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Whose pages may.
    pub origins: Vec<OriginPattern>,
    /// Whether they may use the visitor's cookies.
    pub credentials: bool,
    /// What they may ask with, as `Access-Control-Allow-Methods` has it.
    pub methods: String,
    /// Which headers they may send; what they ask for where absent.
    pub headers: Option<String>,
    /// Which headers of the answer they may read, besides those that every page may.
    pub expose: String,
    /// For how long a browser may keep the answer to its question.
    pub max_age: Duration,
}

/// One origin (RFC 6454), or many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// Every one.
    Any,
    /// This one, lower-case.
    Exact(String),
    /// Every host below one: the scheme with its slashes, and the end of what follows, from the dot on.
    Below(String, String),
}

/// The headers of answers by which a service says who may read them.
pub const HEADERS: [&str; 6] = [
    "Access-Control-Allow-Origin",
    "Access-Control-Allow-Credentials",
    "Access-Control-Allow-Methods",
    "Access-Control-Allow-Headers",
    "Access-Control-Expose-Headers",
    "Access-Control-Max-Age",
];

/// A header of an answer.
pub type Line = (&'static str, String);

impl OriginPattern {
    /// Reads `*`, `https://app.example.com`, `http://localhost:3000` or `https://*.example.com`.
    ///
    /// # Errors
    /// Why a browser would never send such an origin.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let text = text.to_ascii_lowercase();
        let parts = text.split_once("://");
        let Some((scheme, host)) = parts.filter(|(scheme, _)| matches!(*scheme, "http" | "https")) else {
            return Err(format!("`{text}` is no origin; write one as https://app.example.com"));
        };
        let name = host.strip_prefix("*.").unwrap_or(host);
        if name.is_empty() || name.contains(['*', '/', '?', '#', '@', ' ', ',']) || !name.is_ascii() {
            let message = format!(
                "`{text}` is no origin: a scheme, a host and a port where it is not the usual one, and no path"
            );
            return Err(message);
        }
        let usual = if scheme == "https" { ":443" } else { ":80" };
        if name.ends_with(usual) {
            return Err(format!("`{text}` names the usual port, which browsers leave out"));
        }
        Ok(match host.strip_prefix('*') {
            Some(end) => Self::Below(format!("{scheme}://"), end.to_owned()),
            None => Self::Exact(text),
        })
    }

    fn fits(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == origin,
            Self::Below(scheme, end) => {
                let host = origin.strip_prefix(scheme.as_str());
                let label = host.and_then(|host| host.strip_suffix(end.as_str()));
                label.is_some_and(|label| !label.is_empty() && !label.contains(['/', ':', '@']))
            }
        }
    }
}

impl Cors {
    /// Whether answers are the same for everybody, so that a cache need not keep them apart.
    pub fn is_open(&self) -> bool {
        !self.credentials && self.origins.contains(&OriginPattern::Any)
    }

    /// What an answer tells the browser about a page of `origin`; nothing about one that may not read it.
    pub fn answer(&self, origin: &str) -> Vec<Line> {
        let mut lines = self.admit(origin);
        if !lines.is_empty() && !self.expose.is_empty() {
            lines.push(("Access-Control-Expose-Headers", self.expose.clone()));
        }
        lines
    }

    /// The answer to a browser that asks before a request with the headers `asked`; nothing where the page may not ask at all.
    pub fn preflight(&self, origin: &str, asked: Option<&str>) -> Vec<Line> {
        let mut lines = self.admit(origin);
        if lines.is_empty() {
            return lines;
        }
        lines.push(("Access-Control-Allow-Methods", self.methods.clone()));
        if let Some(headers) = self.headers.as_deref().or(asked) {
            lines.push(("Access-Control-Allow-Headers", headers.to_owned()));
        }
        lines.push(("Access-Control-Max-Age", self.max_age.as_secs().to_string()));
        lines
    }

    fn admit(&self, origin: &str) -> Vec<Line> {
        let own = origin.to_ascii_lowercase();
        if !self.origins.iter().any(|pattern| pattern.fits(&own)) {
            return Vec::new();
        }
        let told = if self.is_open() { "*" } else { origin };
        let mut lines = vec![("Access-Control-Allow-Origin", told.to_owned())];
        if self.credentials {
            lines.push(("Access-Control-Allow-Credentials", "true".to_owned()));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str], credentials: bool) -> Cors {
        Cors {
            origins: origins.iter().map(|text| OriginPattern::parse(text).unwrap()).collect(),
            credentials,
            methods: "GET, POST".to_owned(),
            headers: None,
            expose: "X-Trace-Id".to_owned(),
            max_age: Duration::from_secs(600),
        }
    }

    #[test]
    fn an_origin_fits_as_a_whole_or_below_a_host() {
        let listed = cors(
            &[
                "https://app.example.com",
                "https://*.example.org",
                "http://localhost:3000",
            ],
            true,
        );
        for (origin, expected) in [
            ("https://app.example.com", true),
            ("https://APP.example.com", true),
            ("http://app.example.com", false),
            ("https://app.example.com:8443", false),
            ("https://app.example.com.evil.test", false),
            ("https://a.example.org", true),
            ("https://a.b.example.org", true),
            ("https://example.org", false),
            ("https://evilexample.org", false),
            ("https://evil.test/.example.org", false),
            ("https://evil.test:1.example.org", false),
            ("http://localhost:3000", true),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(!listed.answer(origin).is_empty(), expected, "{origin}");
        }
    }

    #[test]
    fn everybody_is_told_as_a_star_and_only_without_cookies() {
        let open = cors(&["*"], false);
        let told = vec![
            ("Access-Control-Allow-Origin", "*".to_owned()),
            ("Access-Control-Expose-Headers", "X-Trace-Id".to_owned()),
        ];
        assert_eq!(open.answer("https://a.test"), told);
        let one = cors(&["https://a.test"], true);
        let told: Vec<&str> = one.answer("https://a.test").iter().map(|(name, _)| *name).collect();
        assert_eq!(
            told[..2],
            ["Access-Control-Allow-Origin", "Access-Control-Allow-Credentials"]
        );
    }

    #[test]
    fn a_browser_that_asks_first_gets_what_it_asked_for_unless_the_list_is_shorter() {
        let mut cors = cors(&["https://a.test"], false);
        let allowed = |cors: &Cors, asked| {
            let lines = cors.preflight("https://a.test", asked);
            lines
                .into_iter()
                .find(|(name, _)| *name == "Access-Control-Allow-Headers")
                .map(|(_, value)| value)
        };
        assert_eq!(allowed(&cors, Some("authorization")).as_deref(), Some("authorization"));
        assert_eq!(allowed(&cors, None), None);
        cors.headers = Some("Content-Type".to_owned());
        assert_eq!(allowed(&cors, Some("authorization")).as_deref(), Some("Content-Type"));
        assert!(cors.preflight("https://b.test", None).is_empty());
    }

    #[test]
    fn what_no_browser_sends_is_no_origin() {
        for text in [
            "",
            "example.com",
            "null",
            "ftp://a.test",
            "https://",
            "https://a.test/",
            "https://*",
            "https://a.*.test",
            "https://a.test:443",
            "http://a.test:80",
            "https://*.*.test",
            "https://a b",
        ] {
            assert!(OriginPattern::parse(text).is_err(), "{text}");
        }
    }
}
