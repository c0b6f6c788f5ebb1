//! The acceptance list of a Dify behind the gate: what was seen of a running Dify, item by item, asked of the replicas that the operator names, with a gate
//! before them. Nothing but those addresses and this machine is spoken to, no process is stopped, and at most 20 runs are started.

pub(crate) mod arguments;
mod prompts;

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::before::Before;
use super::client::{Ask, Whole};
use arguments::Arguments;

/// How long one exchange may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// A user who waits longer waits too long.
const TOO_LONG: Duration = Duration::from_secs(5);
/// How long the gate keeps an idle connection (`timeouts.pool_idle`).
const POOL_IDLE: Duration = Duration::from_secs(1);
const READS: usize = 100;

/// What was seen of Dify, and cannot be caused from outside.
const NOT_FROM_OUTSIDE: [&str; 5] = [
    "a booting replica is not served from, and runs what was queued",
    "SIGTERM: new connections for about 1 s, streams for 30 s",
    "a killed worker: its streams are cut, and it is silent while it boots",
    "PostgreSQL away: 500 at once while `/health` is 200",
    "Redis away: requests hang for half a minute while `/health` is 200",
];

/// What came of an item, and what was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    Passed(String),
    Failed(String),
    NotApplicable(String),
}

use Finding::{Failed, NotApplicable, Passed};

/// An item of the list.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) name: &'static str,
    pub(crate) finding: Finding,
}

impl Item {
    pub(crate) fn line(&self) -> String {
        let (word, measured) = match &self.finding {
            Passed(measured) => ("passed", measured),
            Failed(measured) => ("**failed**", measured),
            NotApplicable(why) => ("not applicable", why),
        };
        format!(
            "| {} | {word} | {} |",
            self.name,
            measured.replace('|', "/").replace('\n', " ")
        )
    }
}

/// A Dify and the gate before it.
pub(crate) struct Trial {
    pub(crate) arguments: Arguments,
    pub(crate) gate: Before,
}

fn passes(holds: bool, measured: String) -> Finding {
    if holds { Passed(measured) } else { Failed(measured) }
}

/// Runs the list; each item is handed over as it is done.
pub(crate) async fn run(arguments: Arguments, mut done: impl FnMut(&Item)) -> Vec<Item> {
    let mut items = Vec::new();
    let mut note = |name, finding| {
        let item = Item { name, finding };
        done(&item);
        items.push(item);
    };
    note(
        "each replica's `/health` is 200 JSON with `status: ok`",
        health(&arguments).await,
    );
    note(
        "`/healthz` is unknown to Dify, or keeps the contract",
        healthz(&arguments).await,
    );
    note(
        "an idle connection outlives the gate's pool (1 s)",
        keep_alive(&arguments).await,
    );
    let began = Instant::now();
    let gate = match Before::start(&arguments.replicas, "probe: {preset: dify}").await {
        Ok(gate) => gate,
        Err(why) => {
            note("the gate finds every replica fit by the preset `dify`", Failed(why));
            return items;
        }
    };
    let took = began.elapsed().as_secs_f64();
    note(
        "the gate finds every replica fit by the preset `dify`",
        Passed(format!("{} fit after {took:.2} s", arguments.replicas.len())),
    );
    let trial = Trial { arguments, gate };
    note(
        "100 reads, eight at a time: none fails, none takes 5 s",
        trial.reads().await,
    );
    note("a wrong key is answered as without the gate", trial.wrong_key().await);
    note(
        "a WebSocket handshake is answered as without the gate",
        trial.websocket().await,
    );
    note(
        "an upload above 15 MB is answered as without the gate",
        trial.upload().await,
    );
    for (name, result) in trial.prompts().await {
        note(name, result);
    }
    note("nobody was taken out of rotation", trial.ejections().await);
    for name in NOT_FROM_OUTSIDE {
        note(name, NotApplicable("this list stops no process".to_owned()));
    }
    items
}

async fn health(arguments: &Arguments) -> Finding {
    let (mut told, mut all) = (Vec::new(), true);
    for replica in &arguments.replicas {
        let answer = Ask::get("/health").whole(replica, PATIENCE).await;
        let fits = |answer: &Whole| answer.status == 200 && answer.json()["status"] == "ok";
        all &= answer.as_ref().is_ok_and(fits);
        told.push(match answer {
            Ok(answer) => {
                let version = answer.json()["version"].as_str().unwrap_or("no version").to_owned();
                format!("{} {version} in {:.0} ms", answer.status.as_u16(), millis(answer.took))
            }
            Err(why) => why,
        });
    }
    passes(all, told.join("; "))
}

async fn healthz(arguments: &Arguments) -> Finding {
    let (mut told, mut all) = (Vec::new(), true);
    for replica in &arguments.replicas {
        let answer = Ask::get("/healthz").whole(replica, PATIENCE).await;
        let keeps =
            |answer: &Whole| answer.status == 404 || answer.status == 200 && answer.json()["status"] == "healthy";
        all &= answer.as_ref().is_ok_and(keeps);
        told.push(brief(&answer));
    }
    passes(all, told.join("; "))
}

/// How long the first replica keeps an idle connection.
async fn keep_alive(arguments: &Arguments) -> Finding {
    let Some(replica) = arguments.replicas.first() else {
        return NotApplicable("no replica".to_owned());
    };
    let watch = async {
        let mut stream = TcpStream::connect(replica).await?;
        let request = format!("GET /health HTTP/1.1\r\nHost: {replica}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let (mut buffer, mut answered) = ([0; 4096], None);
        // Until it closes; the last byte of the answer starts the clock.
        while stream.read(&mut buffer).await? > 0 {
            answered = Some(Instant::now());
        }
        std::io::Result::Ok(answered.map(|at| at.elapsed()))
    };
    match timeout(Duration::from_secs(10), watch).await {
        Err(_) => Passed("still open after 10 s".to_owned()),
        Ok(Ok(Some(kept))) => passes(kept > POOL_IDLE, format!("closed after {:.2} s", kept.as_secs_f64())),
        Ok(Ok(None)) => Failed("closed without an answer".to_owned()),
        Ok(Err(e)) => Failed(e.to_string()),
    }
}

impl Trial {
    /// A request as the app's user makes it.
    fn keyed(&self, ask: Ask) -> Ask {
        match &self.arguments.key {
            Some(key) => ask.with("authorization", &format!("Bearer {key}")),
            None => ask,
        }
    }

    async fn reads(&self) -> Finding {
        let path = if self.arguments.key.is_some() {
            "/v1/parameters?user=difygate"
        } else {
            "/console/api/ping"
        };
        let (mut failed, mut longest, mut why) = (0, Duration::ZERO, String::new());
        for _ in 0..READS.div_ceil(8) {
            let round = (0..8).map(|_| {
                let (ask, edge) = (self.keyed(Ask::get(path)), self.gate.edge.clone());
                tokio::spawn(async move { ask.whole(&edge, PATIENCE).await })
            });
            for asked in round.collect::<Vec<_>>() {
                let answer = asked.await.unwrap_or_else(|e| Err(e.to_string()));
                match &answer {
                    Ok(answer) if answer.status == 200 => longest = longest.max(answer.took),
                    Ok(_) | Err(_) => (failed, why) = (failed + 1, brief(&answer)),
                }
            }
        }
        let measured = format!("GET {path}: {failed} failed, longest {:.0} ms {why}", millis(longest));
        passes(failed == 0 && longest < TOO_LONG, measured)
    }

    /// Holds an answer through the gate against the one of a replica: status, and `code` where it is JSON.
    async fn same(&self, ask: Ask) -> Finding {
        let Some(replica) = self.arguments.replicas.first() else {
            return NotApplicable("no replica".to_owned());
        };
        let direct = ask.clone().whole(replica, PATIENCE).await;
        let through = ask.whole(&self.gate.edge, PATIENCE).await;
        let key = |answer: &Result<Whole, String>| {
            answer
                .as_ref()
                .ok()
                .map(|answer| (answer.status, answer.json()["code"].clone()))
        };
        let measured = format!("direct {}, through the gate {}", brief(&direct), brief(&through));
        passes(key(&direct).is_some() && key(&direct) == key(&through), measured)
    }

    async fn wrong_key(&self) -> Finding {
        let ask = Ask::get("/v1/parameters?user=difygate").with("authorization", "Bearer app-of-nobody");
        self.same(ask).await
    }

    async fn websocket(&self) -> Finding {
        let ask = Ask::get("/socket.io/?EIO=4&transport=websocket")
            .with("connection", "Upgrade")
            .with("upgrade", "websocket")
            .with("sec-websocket-version", "13")
            .with("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let Some(replica) = self.arguments.replicas.first() else {
            return NotApplicable("no replica".to_owned());
        };
        let head = async |at: &str| match timeout(PATIENCE, ask.clone().send(at)).await {
            Ok(Ok(reply)) => reply.status.as_u16().to_string(),
            Ok(Err(why)) => why,
            Err(_) => "no answer".to_owned(),
        };
        let (direct, through) = (head(replica).await, head(&self.gate.edge).await);
        passes(
            direct == through,
            format!("direct {direct}, through the gate {through}"),
        )
    }

    async fn upload(&self) -> Finding {
        if self.arguments.key.is_none() {
            return NotApplicable("without --key".to_owned());
        }
        let mut body = b"--part\r\nContent-Disposition: form-data; name=\"user\"\r\n\r\ndifygate\r\n--part\r\n\
            Content-Disposition: form-data; name=\"file\"; filename=\"large.txt\"\r\nContent-Type: text/plain\r\n\r\n"
            .to_vec();
        body.resize(body.len() + 16 * 1024 * 1024, b'x');
        body.extend_from_slice(b"\r\n--part--\r\n");
        let ask = Ask {
            method: http::Method::POST,
            path: "/v1/files/upload".to_owned(),
            headers: vec![("content-type", "multipart/form-data; boundary=part".to_owned())],
            body: body.into(),
        };
        self.same(self.keyed(ask)).await
    }

    async fn ejections(&self) -> Finding {
        let (mut told, mut all) = (Vec::new(), 0);
        for replica in &self.arguments.replicas {
            match self.gate.ejections(replica).await {
                Ok(count) => {
                    all += count;
                    told.push(format!("{replica}: {count}"));
                }
                Err(why) => return Failed(why),
            }
        }
        passes(all == 0, told.join("; "))
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// An answer in a few words.
fn brief(answer: &Result<Whole, String>) -> String {
    match answer {
        Ok(answer) => match answer.json()["code"].as_str() {
            Some(code) => format!("{} {code}", answer.status.as_u16()),
            None => format!("{} {}", answer.status.as_u16(), answer.header("content-type")),
        },
        Err(why) => why.clone(),
    }
}
