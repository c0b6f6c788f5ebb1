//! The cookie that keeps a browser in the pool where its first request of a cutover went. Nobody but the gate can make one, and one of another
//! cutover decides nothing. Each deployment has a cookie of its own, for several may be reached by one host.

use std::fmt;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use http::header::COOKIE;
use pingora::http::RequestHeader;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use crate::gate::direction::{Direction, Share};
use crate::gate::names::PoolName;

/// The cookies' names begin with this; a deployment's name follows.
const NAME: &[u8] = b"difygate_pool_";
/// A browser has one of each; of more than this many only the first ones are looked at.
const MOST: usize = 4;

/// The key that cookies are signed with.
pub(crate) struct SplitKey {
    bytes: [u8; 32],
    key: hmac::Key,
}

/// The key itself is nobody's business.
impl fmt::Debug for SplitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SplitKey")
    }
}

impl SplitKey {
    /// A key that nobody knows.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub(crate) fn random() -> io::Result<Self> {
        let mut bytes = [0; 32];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.map_err(|_| io::Error::other("the system gives no random numbers"))?;
        Ok(Self::from_bytes(bytes))
    }

    /// A key that is known from before.
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self {
            bytes,
            key: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
        }
    }

    /// The key, to be kept where nobody else reads it.
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// The pool of a request by its cookie, if the gate gave it that for this cutover.
    pub(super) fn pool(&self, request: &RequestHeader, direction: &Direction, share: &Share) -> Option<PoolName> {
        let lines = request.headers.get_all(COOKIE).into_iter();
        let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
        let own = |pair| value(pair).filter(|(deployment, _)| *deployment == share.deployment.as_bytes());
        let values = pairs.filter_map(own).map(|(_, value)| value).take(MOST);
        values.filter_map(|value| self.read(value, direction, share)).next()
    }

    fn read(&self, value: &[u8], direction: &Direction, share: &Share) -> Option<PoolName> {
        let mut parts = std::str::from_utf8(value).ok()?.rsplitn(3, '.');
        let (mac, cutover, pool) = (parts.next()?, parts.next()?, parts.next()?);
        if cutover.parse() != Ok(share.cutover) {
            return None;
        }
        let known = [&share.pool, &direction.active].into_iter();
        let pool = known.into_iter().find(|known| known.as_str() == pool)?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        hmac::verify(
            &self.key,
            signed(&share.deployment, &text(pool, share.cutover)).as_bytes(),
            &mac,
        )
        .ok()?;
        Some(pool.clone())
    }

    /// The `Set-Cookie` line that keeps a browser in a pool. It ends with the browser's session.
    pub(super) fn give(&self, pool: &PoolName, share: &Share, secure: bool) -> Option<HeaderValue> {
        let (text, deployment) = (text(pool, share.cutover), share.deployment.as_str());
        let mac = URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, signed(deployment, &text).as_bytes()));
        let name = std::str::from_utf8(NAME).unwrap_or_default();
        let secure = if secure { "; Secure" } else { "" };
        HeaderValue::try_from(format!(
            "{name}{deployment}={text}.{mac}; Path=/; HttpOnly; SameSite=Lax{secure}"
        ))
        .ok()
    }
}

fn text(pool: &PoolName, cutover: u64) -> String {
    format!("{pool}.{cutover}")
}

/// What is signed. No name holds a line break, so no two deployments sign the same.
fn signed(deployment: &str, text: &str) -> String {
    format!("{deployment}\n{text}")
}

/// The deployment and the value of a pair of the `Cookie` header, if it is the gate's own.
fn value(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let own = pair.trim_ascii().strip_prefix(NAME)?;
    let end = own.iter().position(|byte| *byte == b'=')?;
    Some((own.get(..end)?, own.get(end + 1..)?))
}

/// A `Cookie` line without the gate's own, the others byte for byte as they were; `None` where it has none of the gate's own. An empty line is
/// none.
pub(super) fn without_own(line: &HeaderValue) -> Option<Option<HeaderValue>> {
    let pairs = || line.as_bytes().split(|byte| *byte == b';');
    pairs().find(|pair| value(pair).is_some())?;
    let mut rest: Vec<u8> = Vec::with_capacity(line.len());
    for pair in pairs().filter(|pair| value(pair).is_none()) {
        if !rest.is_empty() {
            rest.push(b';');
        }
        let first = rest.is_empty();
        rest.extend_from_slice(if first { pair.trim_ascii_start() } else { pair });
    }
    Some(
        HeaderValue::from_maybe_shared(bytes::Bytes::from(rest))
            .ok()
            .filter(|rest| !rest.is_empty()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::direction::Split;

    fn direction(cutover: u64) -> (Direction, Share) {
        let share = Share {
            pool: PoolName::new("green"),
            percent: 50,
            split: Split::Cookie,
            deployment: "dify".to_owned(),
            cutover,
        };
        let direction = Direction {
            share: Some(share.clone()),
            ..Direction::to(PoolName::new("blue"))
        };
        (direction, share)
    }

    /// What a browser sends back.
    fn cookie(key: &SplitKey, pool: &str, cutover: u64) -> String {
        let given = key.give(&PoolName::new(pool), &direction(cutover).1, true).unwrap();
        let given = given.to_str().unwrap().to_owned();
        assert!(given.ends_with("; Path=/; HttpOnly; SameSite=Lax; Secure"), "{given}");
        given.split(';').next().unwrap().to_owned()
    }

    fn pool(key: &SplitKey, lines: &[&str], cutover: u64) -> Option<String> {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for line in lines {
            request.append_header(COOKIE, *line).unwrap();
        }
        let (direction, share) = direction(cutover);
        key.pool(&request, &direction, &share).map(|pool| pool.to_string())
    }

    #[test]
    fn the_gates_own_cookie_of_this_cutover_decides_and_nothing_else() {
        let key = SplitKey::random().unwrap();
        let own = cookie(&key, "green", 7);
        assert_eq!(pool(&key, &[&own], 7).as_deref(), Some("green"));
        assert_eq!(
            pool(&key, &["a=b", &format!("x=1;  {own} ; y=2")], 7).as_deref(),
            Some("green")
        );
        assert_eq!(pool(&key, &[&cookie(&key, "blue", 7)], 7).as_deref(), Some("blue"));
        assert_eq!(
            pool(&SplitKey::from_bytes(*key.bytes()), &[&own], 7).as_deref(),
            Some("green")
        );
        let (_, mac) = own.rsplit_once('.').unwrap();
        for none in [
            cookie(&key, "green", 6),
            cookie(&key, "red", 7),
            cookie(&SplitKey::from_bytes([0; 32]), "green", 7),
            format!("difygate_pool_dify=blue.7.{mac}"),
            format!("difygate_pool_dify=green.07.{mac}x"),
            format!("{own}A"),
            own.replace("difygate_pool_dify", "difygate_pool_dify2"),
            own.replace("difygate_pool_dify", "xdifygate_pool_dify"),
            "difygate_pool_dify".to_owned(),
            "difygate_pool_dify=".to_owned(),
            "difygate_pool_dify=green.7.".to_owned(),
            "difygate_pool_dify=green.7.!!".to_owned(),
            "difygate_pool_dify=....".to_owned(),
            format!("difygate_pool_dify=green.99999999999999999999.{mac}"),
            format!("difygate_pool_dify={}", "a".repeat(60_000)),
        ] {
            assert_eq!(pool(&key, &[&none], 7), None, "{none:.80}");
        }
        assert_eq!(
            pool(&key, &["difygate_pool_dify=forged.7.x", &own], 7).as_deref(),
            Some("green")
        );
        let many = "difygate_pool_dify=x; ".repeat(1_000);
        assert_eq!(pool(&key, &[&many, &own], 7), None, "nobody is made to work for free");
    }

    #[test]
    fn each_deployment_has_a_cookie_of_its_own() {
        let key = SplitKey::random().unwrap();
        let of = |deployment: &str| {
            let (direction, share) = direction(7);
            let deployment = deployment.to_owned();
            (direction, Share { deployment, ..share })
        };
        let give = |deployment: &str, pool: &str| {
            let given = key.give(&PoolName::new(pool), &of(deployment).1, false).unwrap();
            given.to_str().unwrap().split(';').next().unwrap().to_owned()
        };
        let (web, api) = (give("web", "green"), give("api", "blue"));
        let pool = |deployment: &str, line: &str| {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            request.append_header(COOKIE, line).unwrap();
            let (direction, share) = of(deployment);
            key.pool(&request, &direction, &share).map(|pool| pool.to_string())
        };
        let both = format!("{web}; {api}");
        assert_eq!(pool("web", &both).as_deref(), Some("green"));
        assert_eq!(pool("api", &both).as_deref(), Some("blue"));
        assert_eq!(pool("files", &both), None);
        let renamed = web.replace("difygate_pool_web", "difygate_pool_api");
        assert_eq!(pool("api", &renamed), None, "it was signed for another one");
    }

    #[test]
    fn the_other_cookies_stay_as_they_are() {
        for (line, rest) in [
            ("difygate_pool_dify=x", Some("")),
            ("a=1; difygate_pool_dify=x", Some("a=1")),
            ("difygate_pool_dify=x; a=1", Some("a=1")),
            ("a=1;difygate_pool_dify=x;  b=\"2;3\" ; c", Some("a=1;  b=\"2;3\" ; c")),
            ("a=1; difygate_pool_dify=x; difygate_pool_dify=y; b=2", Some("a=1; b=2")),
            ("a=difygate_pool_dify=x", None),
            ("a=1;; ;b", None),
            ("difygate_pool_dify=x; difygate_pool_web=y; a=1", Some("a=1")),
            ("difygate_pools=x", None),
            ("difygate_pool=x", None),
            ("difygate_pool_dify", None),
            ("", None),
        ] {
            let told = without_own(&HeaderValue::from_static(line));
            let told = told.map(|rest| rest.map_or(String::new(), |rest| rest.to_str().unwrap().to_owned()));
            assert_eq!(told.as_deref(), rest, "{line}");
        }
        let raw = HeaderValue::from_bytes(b"a=\xff\xfe; difygate_pool_dify=x; b=\xe4").unwrap();
        assert_eq!(without_own(&raw).unwrap().unwrap().as_bytes(), b"a=\xff\xfe; b=\xe4");
    }
}
