//! What the acceptance list is run against: `--replica URL`, once for each replica, `--key K` and `--inputs JSON`.

use serde_json::Value;

/// More replicas than this are nobody's trial.
const MOST: usize = 16;

/// What is asked for.
#[derive(Debug, PartialEq)]
pub(crate) struct Arguments {
    /// `host:port` of each replica of Dify's api.
    pub(crate) replicas: Vec<String>,
    /// The key of a chat app, `app-...`.
    pub(crate) key: Option<String>,
    /// The inputs that the app wants.
    pub(crate) inputs: Value,
}

impl Arguments {
    /// Reads the words of a command line.
    ///
    /// # Errors
    /// An option that does not exist, has no value or one that cannot be used, or no replica.
    pub(crate) fn parse(words: &[String]) -> Result<Self, String> {
        let (mut replicas, mut key, mut inputs) = (Vec::new(), None, None);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (name, own) = word
                .split_once('=')
                .map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
            if !matches!(name, "--replica" | "--key" | "--inputs") {
                return Err(format!(
                    "{word}: no such option; there are --replica URL, --key K and --inputs JSON"
                ));
            }
            let value = own.or_else(|| words.next().map(String::as_str));
            let value = value.ok_or_else(|| format!("{name} wants a value"))?;
            match name {
                "--replica" => replicas.push(authority(value)?),
                "--key" => once(name, &mut key, printable(value)?)?,
                _ => once(name, &mut inputs, object(value)?)?,
            }
        }
        if replicas.is_empty() {
            return Err("--replica URL is wanted, once for each replica".to_owned());
        }
        if replicas.len() > MOST {
            return Err(format!("{} replicas are more than {MOST}", replicas.len()));
        }
        if let Some(twice) = replicas
            .iter()
            .enumerate()
            .find(|(at, one)| replicas[..*at].contains(one))
        {
            return Err(format!("--replica http://{} is given twice", twice.1));
        }
        Ok(Self {
            replicas,
            key,
            inputs: inputs.unwrap_or_else(|| serde_json::json!({})),
        })
    }
}

fn once<T>(name: &str, slot: &mut Option<T>, value: T) -> Result<(), String> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{name} is given twice")),
    }
}

/// `host:port` of a URL `http://host:port`.
fn authority(url: &str) -> Result<String, String> {
    let wrong = |why: &str| format!("--replica {url}: {why}; a URL of the form http://HOST:PORT is wanted");
    let uri: http::Uri = url.parse().map_err(|_| wrong("this is no URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(wrong("only http is spoken to replicas"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong("a path has no place here"));
    }
    let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("a user has no place here"));
    }
    let port = authority.port_u16().filter(|port| *port > 0);
    let port = port.ok_or_else(|| wrong("it names no port"))?;
    Ok(format!("{}:{port}", authority.host()))
}

fn printable(key: &str) -> Result<String, String> {
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("--key: a key is one word of printable ASCII characters".to_owned());
    }
    Ok(key.to_owned())
}

fn object(text: &str) -> Result<Value, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("--inputs: {e}"))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err("--inputs: a JSON object is wanted".to_owned())
    }
}
