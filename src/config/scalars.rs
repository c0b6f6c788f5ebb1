//! Values that are written as text and mean something: times, sizes, status sets. Each is parsed at one place, which the schema names by
//! its `format`.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error as _};

/// A time such as `500ms`, `2s`, `30m` or `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(pub(super) Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let wrong = || format!("`{text}` is no time; write a number and ms, s, m or h, such as 500ms or 2s");
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        let millis = number
            .checked_mul(millis)
            .filter(|millis| *millis <= 366 * 24 * 3_600_000);
        millis
            .map(|millis| Self(Duration::from_millis(millis)))
            .ok_or_else(|| format!("`{text}` is longer than a year"))
    }
}

/// A number of bytes such as `64KiB`, `100MiB` or `1000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let wrong =
            || format!("`{text}` is no size; write a number of bytes, or one with KiB, MiB or GiB, such as 100MiB");
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let shift = match unit {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err(wrong()),
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(wrong)
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at_checked(digits).unwrap_or((text, ""))
}

/// Status codes such as `200`, `200-299` or `200,301`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statuses(pub(super) Vec<RangeInclusive<u16>>);

impl FromStr for Statuses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no set of status codes; write `200`, `200-299` or `200,301`");
        let code = |text: &str| {
            text.trim()
                .parse::<u16>()
                .ok()
                .filter(|code| (100..=599).contains(code))
        };
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (code(first)?, code(last)?);
            (first <= last).then_some(first..=last)
        };
        text.split(',')
            .map(range)
            .collect::<Option<_>>()
            .map(Self)
            .ok_or_else(wrong)
    }
}

macro_rules! inline_schema {
    ($type:ident, $schema:tt) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

macro_rules! text {
    ($type:ident, $format:literal, $kinds:tt, $examples:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = serde_json::Value::deserialize(deserializer)?;
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                text.parse().map_err(D::Error::custom)
            }
        }

        inline_schema!($type, {"type": $kinds, "format": $format, "examples": $examples});
    };
}

text!(Time, "time", "string", ["500ms", "2s", "30m"]);
text!(Size, "size", ["string", "integer"], ["64KiB", "100MiB", 1000]);
text!(
    Statuses,
    "statuses",
    ["string", "integer"],
    ["200", "200-299", "200,301"]
);

macro_rules! label {
    ($($(#[$doc:meta])* $type:ident, $format:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
        #[serde(transparent)]
        pub(super) struct $type(pub(super) String);

        inline_schema!($type, {"type": "string", "format": $format});
    )*};
}

label! {
    /// A network, an address or a preset: `10.0.0.0/8`, `10.0.0.5`, `private`.
    Cidr, "cidr";
    /// An endpoint's address: `host:port`.
    Endpoint, "endpoint";
    /// An address to listen on: `0.0.0.0:8080`.
    Socket, "socket";
    /// A path, starting with `/`.
    UrlPath, "path";
    /// A regular expression.
    Pattern, "regex";
    /// A request method.
    Method, "method";
}

/// Checks a text against the `format` that a schema names; a format that nobody knows checks nothing.
pub(super) fn check_format(format: &str, text: &str) -> Result<(), String> {
    match format {
        "time" => text.parse::<Time>().map(drop),
        "size" => text.parse::<Size>().map(drop),
        "statuses" => text.parse::<Statuses>().map(drop),
        "cidr" => crate::gate::cidr::CidrSet::parse_one(text)
            .map(drop)
            .map_err(|e| e.to_string()),
        "endpoint" => crate::gate::names::Address::parse(text)
            .map(drop)
            .map_err(|e| format!("`{text}` {e}")),
        "socket" => socket(text).map(drop),
        "path" if text.starts_with('/') => Ok(()),
        "path" => Err(format!("`{text}` is no path; a path starts with /")),
        "pointer" if text.is_empty() || text.starts_with('/') => Ok(()),
        "pointer" => Err(format!("`{text}` is no JSON pointer; write `/status` (RFC 6901)")),
        "regex" => pattern(text),
        "method" => method(text).map(drop),
        _ => Ok(()),
    }
}

/// A regular expression; of the library's picture of an error its last line is enough.
fn pattern(text: &str) -> Result<(), String> {
    regex::Regex::new(text).map(drop).map_err(|e| {
        let picture = e.to_string();
        let why = picture.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("`{text}` is no regular expression: {why}")
    })
}

/// An address to listen on.
pub(super) fn socket(text: &str) -> Result<std::net::SocketAddr, String> {
    let wrong = || format!("`{text}` is no address to listen on; write an IP address and a port, such as 0.0.0.0:8080");
    let address: std::net::SocketAddr = text.parse().map_err(|_| wrong())?;
    match address.port() {
        0 => Err(format!("`{text}` has port 0; choose a port from 1 to 65535")),
        _ => Ok(address),
    }
}

/// A request method.
pub(super) fn method(text: &str) -> Result<http::Method, String> {
    match text {
        "GET" | "HEAD" | "POST" | "OPTIONS" | "PUT" => text.parse().map_err(|_| text.to_owned()),
        _ => Err(format!(
            "`{text}` is no method for a probe; use GET, HEAD, POST, PUT or OPTIONS"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_sizes_and_statuses_are_read() {
        assert_eq!("500ms".parse(), Ok(Time(Duration::from_millis(500))));
        assert_eq!("30m".parse(), Ok(Time(Duration::from_secs(1_800))));
        assert_eq!("100MiB".parse(), Ok(Size(100 << 20)));
        assert_eq!("1000".parse(), Ok(Size(1_000)));
        assert_eq!("200-299, 301".parse(), Ok(Statuses(vec![200..=299, 301..=301])));
    }

    #[test]
    fn anything_else_says_what_to_write() {
        for text in [
            "2",
            "s",
            "-2s",
            "2 s",
            "2S",
            "1.5s",
            "99999999999999999999s",
            "9999999h",
        ] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
        for text in ["MiB", "1MB", "-1", "99999999999GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        for text in ["", "2xx", "99", "600", "300-200", "200,"] {
            assert!(text.parse::<Statuses>().is_err(), "{text}");
        }
    }
}
