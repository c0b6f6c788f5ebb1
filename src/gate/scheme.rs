//! The scheme and the port that a client used, from what trusted proxies say.
//!
//! Proxies say it in many headers. An endpoint that reads two which contradict each other refuses the request (gunicorn answers 400) or believes the
//! wrong one. So the gate reads them all, sends one `X-Forwarded-Proto` and one `X-Forwarded-Port`, and removes the rest.

use std::borrow::Cow;

use crate::gate::client::unquoted;

/// The scheme of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Within TLS.
    Https,
}

impl Scheme {
    /// The scheme of a connection.
    pub fn of_connection(is_secure: bool) -> Self {
        if is_secure { Self::Https } else { Self::Http }
    }

    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port of a URL that names none (RFC 9110 sections 4.2.1 and 4.2.2).
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// Reads a scheme's name. A WebSocket has one of its own (RFC 6455 section 3); `ssl` is what gunicorn expects in `X-Forwarded-Protocol`.
    fn named(text: &[u8]) -> Option<Self> {
        let is = |names: &[&str]| names.iter().any(|name| text.eq_ignore_ascii_case(name.as_bytes()));
        if is(&["https", "wss", "ssl"]) {
            Some(Self::Https)
        } else if is(&["http", "ws"]) {
            Some(Self::Http)
        } else {
            None
        }
    }

    /// Reads whether TLS was on.
    fn switched(text: &[u8]) -> Option<Self> {
        if text.eq_ignore_ascii_case(b"on") {
            Some(Self::Https)
        } else if text.eq_ignore_ascii_case(b"off") {
            Some(Self::Http)
        } else {
            None
        }
    }
}

/// How a header says the scheme.
#[derive(Clone, Copy)]
enum Form {
    /// By its name; of a list the first one, which is that of the client's own connection.
    Name,
    /// In the `proto` of RFC 7239.
    Forwarded,
    /// By `on` or `off`.
    Switch,
}

/// Headers that say the scheme; where they contradict each other the first one counts. `X-Forwarded-Proto` is the one that proxies set and overwrite,
/// so that what stands beside it may be the client's own.
const SAYING: [(&str, Form); 8] = [
    ("x-forwarded-proto", Form::Name),
    ("forwarded", Form::Forwarded),
    ("x-forwarded-protocol", Form::Name),
    ("x-forwarded-scheme", Form::Name),
    ("x-url-scheme", Form::Name),
    ("x-scheme", Form::Name),
    ("x-forwarded-ssl", Form::Switch),
    ("front-end-https", Form::Switch),
];

/// Whether a header says nothing but the scheme or the port that the client used.
pub fn is_scheme_header(name: &str) -> bool {
    let may_be = matches!(name.as_bytes().first(), Some(b'x' | b'X' | b'f' | b'F'));
    let is_saying = || {
        let mut saying = SAYING.iter().filter(|(_, form)| !matches!(form, Form::Forwarded));
        saying.any(|(saying, _)| name.eq_ignore_ascii_case(saying))
    };
    may_be && (name.eq_ignore_ascii_case(PORT) || is_saying())
}

const PORT: &str = "x-forwarded-port";

/// The scheme that the headers of a trusted proxy say; `None` where none of them says one that can be read.
pub fn scheme<'h>(headers: impl Iterator<Item = (&'h str, &'h [u8])>) -> Option<Scheme> {
    let mut found: Option<(usize, Scheme)> = None;
    for (name, value) in headers {
        let Some(rank) = SAYING.iter().position(|(saying, _)| name.eq_ignore_ascii_case(saying)) else {
            continue;
        };
        if found.is_none_or(|(best, _)| rank < best)
            && let Some((_, form)) = SAYING.get(rank)
            && let Some(scheme) = said(*form, value)
        {
            found = Some((rank, scheme));
        }
    }
    found.map(|(_, scheme)| scheme)
}

fn said(form: Form, value: &[u8]) -> Option<Scheme> {
    match form {
        Form::Name => Scheme::named(first(value)),
        Form::Switch => Scheme::switched(first(value)),
        Form::Forwarded => {
            let pairs = value
                .split(unquoted(b','))
                .flat_map(|element| element.split(unquoted(b';')));
            let mut protos = pairs.filter_map(proto);
            let text = protos.next()?;
            let inside = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\""));
            Scheme::named(inside.unwrap_or(text))
        }
    }
}

/// The first member of a list.
fn first(value: &[u8]) -> &[u8] {
    value
        .split(|byte| *byte == b',')
        .next()
        .unwrap_or_default()
        .trim_ascii()
}

/// The value of a pair of `Forwarded` (RFC 7239 section 4) that says the scheme.
fn proto(pair: &[u8]) -> Option<&[u8]> {
    let at = pair.iter().position(|byte| *byte == b'=')?;
    let (name, value) = pair.split_at(at);
    let is_proto = name.trim_ascii().eq_ignore_ascii_case(b"proto");
    is_proto.then(|| value.get(1..).unwrap_or_default().trim_ascii())
}

/// A line of `Forwarded` without what it says of the scheme; `None` where nothing is left, or where a quoted string in it has no end.
pub fn without_proto(line: &[u8]) -> Option<Cow<'_, [u8]>> {
    // One more separator at the end is found unless it stands within a quoted string.
    let closed = [line, b","].concat();
    // Quotes are told by what stands before them, so the parts are read from the first on.
    #[allow(clippy::double_ended_iterator_last)]
    if closed.split(unquoted(b',')).last().is_none_or(|last| !last.is_empty()) {
        return None;
    }
    let pairs = || {
        line.split(unquoted(b','))
            .flat_map(|element| element.split(unquoted(b';')))
    };
    if !pairs().any(|pair| proto(pair).is_some()) {
        return Some(Cow::Borrowed(line));
    }
    let elements = line.split(unquoted(b',')).filter_map(|element| {
        let kept = element.split(unquoted(b';')).map(<[u8]>::trim_ascii);
        let kept: Vec<&[u8]> = kept.filter(|pair| !pair.is_empty() && proto(pair).is_none()).collect();
        (!kept.is_empty()).then(|| kept.join(&b';'))
    });
    let elements: Vec<Vec<u8>> = elements.collect();
    (!elements.is_empty()).then(|| Cow::Owned(elements.join(&b", "[..])))
}

/// The port that a client used: what a trusted proxy says, else the one of the host that the client named, else the one of the scheme. `said` are the
/// headers of a trusted proxy, and empty for anybody else.
pub fn port<'h>(said: impl Iterator<Item = (&'h str, &'h [u8])>, host: &[u8], scheme: Scheme) -> u16 {
    let (mut port, mut outer_host) = (None, None);
    for (name, value) in said {
        if name.eq_ignore_ascii_case(PORT) {
            port = port.or_else(|| number(first(value)));
        } else if name.eq_ignore_ascii_case("x-forwarded-host") {
            outer_host = outer_host.or(Some(first(value)));
        }
    }
    let named = || port_of(outer_host.unwrap_or(host));
    port.or_else(named).unwrap_or(scheme.default_port())
}

/// The port of `host:port` or `[address]:port`.
fn port_of(host: &[u8]) -> Option<u16> {
    let at = host.iter().rposition(|byte| *byte == b':')?;
    let (name, port) = host.split_at(at);
    let is_address = name.contains(&b':') && !name.ends_with(b"]");
    number(port.get(1..)?).filter(|_| !is_address)
}

/// A port's number.
fn number(text: &[u8]) -> Option<u16> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(text).ok().filter(|_| is_plain)?.parse().ok()?;
    (number > 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme_of(lines: &[(&str, &str)]) -> Option<Scheme> {
        scheme(lines.iter().map(|(name, value)| (*name, value.as_bytes())))
    }

    #[test]
    fn every_way_to_say_the_scheme_is_read() {
        const HTTPS: Option<Scheme> = Some(Scheme::Https);
        const HTTP: Option<Scheme> = Some(Scheme::Http);
        for (name, value, expected) in [
            ("X-Forwarded-Proto", "https", HTTPS),
            ("X-Forwarded-Proto", "HTTPS", HTTPS),
            ("X-Forwarded-Proto", "https, http", HTTPS),
            ("X-Forwarded-Proto", "http,https", HTTP),
            ("X-Forwarded-Proto", " wss ", HTTPS),
            ("X-Forwarded-Proto", "ws", HTTP),
            ("x-forwarded-proto", "", None),
            ("X-Forwarded-Proto", "ftp", None),
            ("X-Forwarded-Proto", "foo, https", None),
            ("X-Forwarded-Ssl", "on", HTTPS),
            ("X-Forwarded-Ssl", "Off", HTTP),
            ("X-Forwarded-Ssl", "https", None),
            ("X-Forwarded-Protocol", "ssl", HTTPS),
            ("X-Forwarded-Scheme", "https", HTTPS),
            ("X-Url-Scheme", "https", HTTPS),
            ("X-Scheme", "http", HTTP),
            ("Front-End-Https", "on", HTTPS),
            ("Forwarded", "proto=https", HTTPS),
            (
                "Forwarded",
                "for=192.0.2.1; Proto = \"HTTPS\" ;by=x, for=10.0.0.1;proto=http",
                HTTPS,
            ),
            ("Forwarded", "for=192.0.2.1, for=10.0.0.1;proto=https", HTTPS),
            ("Forwarded", "for=\"a;proto=https\";proto=http", HTTP),
            ("Forwarded", "for=192.0.2.1", None),
            ("X-Forwarded-Host", "https", None),
        ] {
            assert_eq!(scheme_of(&[(name, value)]), expected, "{name}: {value}");
        }
    }

    #[test]
    fn where_headers_contradict_each_other_the_first_of_the_list_that_can_be_read_counts() {
        let all: Vec<(&str, &str)> = vec![
            ("Front-End-Https", "off"),
            ("X-Forwarded-Ssl", "on"),
            ("X-Scheme", "http"),
            ("X-Url-Scheme", "https"),
            ("X-Forwarded-Scheme", "http"),
            ("X-Forwarded-Protocol", "ssl"),
            ("Forwarded", "proto=http"),
            ("X-Forwarded-Proto", "https"),
        ];
        let mut expected = Scheme::Https;
        for length in (1..=all.len()).rev() {
            let mut lines = all.get(..length).unwrap().to_vec();
            assert_eq!(scheme_of(&lines), Some(expected), "{lines:?}");
            lines.reverse();
            assert_eq!(scheme_of(&lines), Some(expected), "{lines:?}");
            expected = if expected == Scheme::Https {
                Scheme::Http
            } else {
                Scheme::Https
            };
        }
        let unreadable = [("X-Forwarded-Proto", "?"), ("X-Forwarded-Ssl", "on")];
        assert_eq!(scheme_of(&unreadable), Some(Scheme::Https));
        let twice = [("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "http")];
        assert_eq!(scheme_of(&twice), Some(Scheme::Https));
    }

    #[test]
    fn headers_that_say_nothing_else_are_known_by_name() {
        for (name, expected) in [
            ("X-Forwarded-Proto", true),
            ("x-forwarded-ssl", true),
            ("X-FORWARDED-PORT", true),
            ("front-end-https", true),
            ("forwarded", false),
            ("x-forwarded-for", false),
            ("host", false),
            ("", false),
        ] {
            assert_eq!(is_scheme_header(name), expected, "{name}");
        }
    }

    #[test]
    fn forwarded_loses_what_it_says_of_the_scheme_and_nothing_else() {
        for (line, expected) in [
            ("for=192.0.2.1", Some("for=192.0.2.1")),
            ("for=192.0.2.1 ; by=x", Some("for=192.0.2.1 ; by=x")),
            ("proto=https", None),
            ("proto=https, proto=http", None),
            ("for=192.0.2.1;proto=https", Some("for=192.0.2.1")),
            (
                "for=\"[2001:db8::1]:4711\"; PROTO=\"https\";host=h, proto=http ,for=10.0.0.1",
                Some("for=\"[2001:db8::1]:4711\";host=h, for=10.0.0.1"),
            ),
            ("for=\"_a;proto=https\";proto = https", Some("for=\"_a;proto=https\"")),
            ("for=\"192.0.2.1;proto=https", None),
            ("for=\"a\\\";proto=https", None),
        ] {
            let left = without_proto(line.as_bytes());
            assert_eq!(left.as_deref(), expected.map(str::as_bytes), "{line}");
        }
    }

    #[test]
    fn the_port_is_what_a_trusted_proxy_says_or_the_host_names_or_the_scheme_has() {
        #[allow(clippy::type_complexity)] // a table
        let ports: [(&[(&str, &str)], &str, Scheme, u16); 14] = [
            (&[], "h", Scheme::Http, 80),
            (&[], "h", Scheme::Https, 443),
            (&[], "h:8080", Scheme::Http, 8080),
            (&[], "[2001:db8::1]", Scheme::Https, 443),
            (&[], "[2001:db8::1]:8443", Scheme::Https, 8443),
            (&[], "2001:db8::1", Scheme::Https, 443),
            (&[], "h:", Scheme::Http, 80),
            (&[], "h:0", Scheme::Http, 80),
            (&[], "h:65536", Scheme::Http, 80),
            (&[("X-Forwarded-Port", "8443")], "h:80", Scheme::Https, 8443),
            (&[("X-Forwarded-Port", "443, 80")], "h:80", Scheme::Https, 443),
            (&[("X-Forwarded-Port", "none")], "h:8080", Scheme::Http, 8080),
            (
                &[("X-Forwarded-Host", "outer:9443, inner:1")],
                "h:80",
                Scheme::Https,
                9443,
            ),
            (&[("X-Forwarded-Host", "outer")], "h:8080", Scheme::Https, 443),
        ];
        for (said, host, scheme, expected) in ports {
            let lines = said.iter().map(|(name, value)| (*name, value.as_bytes()));
            assert_eq!(
                port(lines, host.as_bytes(), scheme),
                expected,
                "{said:?} {host} {scheme:?}"
            );
        }
    }
}
