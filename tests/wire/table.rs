//! A row of the table: what is sent, what the origin answers, and the rule that must hold.

use crate::client::Manner;
use crate::http2::Request as Frames;
use crate::ledger::{Reply, Then, When};
use crate::message::{Framing, Message, Start, get, post};
use crate::split::Split;
use crate::ways::{Carried, Client, Way};

/// What must become of the last request of a row; those before it arrive and are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// It arrives as it was sent, and its answer comes back.
    Same,
    /// The gate refuses it with one of these statuses and its own error body, and nothing of it arrives.
    Refused(&'static [u16]),
    /// Either of the two; the RFC lets a server choose.
    SameOr(&'static [u16]),
    /// Its body is faulty: the gate says so with one of these statuses, and no whole request arrives.
    Cut(&'static [u16]),
    /// It arrives as it was sent, or its body is found faulty.
    SameOrCut(&'static [u16]),
    /// The client never sent it as a whole: no whole request arrives, and no answer tells of success.
    Lost,
    /// The gate answers it itself with one of these statuses, and nothing arrives.
    Own(&'static [u16]),
    /// The origin's answer comes back as it was given.
    Whole,
    /// The origin's answer is faulty from its head on: the client gets 502.
    Bad,
    /// The origin's answer breaks off: the client gets 502, or sees the break.
    Broken,
    /// As it was given, or 502, or a break that the client sees.
    WholeOrBroken,
}

/// Who can send a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    All,
    Http1,
    Http2,
}

/// Whether the connection goes on after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Yes,
    No,
    Either,
}

/// A row.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) group: &'static str,
    pub(crate) name: String,
    pub(crate) requests: Vec<Message>,
    /// Instead of requests: frames of HTTP/2, which may break its rules.
    pub(crate) frames: Option<Frames>,
    pub(crate) reply: Option<Reply>,
    pub(crate) manner: Manner,
    pub(crate) split: Split,
    pub(crate) expect: Expect,
    pub(crate) over: Over,
    pub(crate) kept: Kept,
    /// Fields that arrive otherwise than they were sent: in which lines.
    pub(crate) arrive: Vec<(&'static str, Vec<Vec<u8>>)>,
    /// What stands behind the trial's prefix in the target, where it is another one.
    pub(crate) target: Option<&'static str>,
    /// The body of a message that is given as it stands.
    pub(crate) body: Option<Vec<u8>>,
    /// Whether trailers are compared.
    pub(crate) trailers: bool,
}

/// A row of one request.
pub(crate) fn case(group: &'static str, name: impl Into<String>, request: Message) -> Case {
    cases(group, name, vec![request])
}

/// A row of several requests on one connection, sent without waiting.
pub(crate) fn cases(group: &'static str, name: impl Into<String>, requests: Vec<Message>) -> Case {
    let last = requests.last();
    let old = last.is_some_and(|request| request.is_http_1_0() && !request.says("connection", "keep-alive"));
    let closes = requests.iter().any(|request| request.says("connection", "close"));
    let is_raw = requests.iter().any(|request| matches!(request.start, Start::Raw(_)));
    Case {
        group,
        name: name.into(),
        kept: if old || closes { Kept::No } else { Kept::Yes },
        over: if is_raw || requests.len() > 1 || old {
            Over::Http1
        } else {
            Over::All
        },
        requests,
        frames: None,
        reply: None,
        manner: Manner::Plain,
        split: Split::Random,
        expect: Expect::Same,
        arrive: Vec::new(),
        target: None,
        body: None,
        trailers: true,
    }
}

/// A row of frames.
pub(crate) fn frames(name: &str, frames: Frames) -> Case {
    Case {
        frames: Some(frames),
        over: Over::Http2,
        ..cases("HTTP/2 frames", name, Vec::new())
    }
}

/// A row of an answer.
pub(crate) fn answered(group: &'static str, name: impl Into<String>, reply: impl Into<Reply>) -> Case {
    let reply = reply.into();
    Case {
        reply: Some(reply),
        expect: Expect::Whole,
        ..cases(group, name, Vec::new())
    }
}

impl Case {
    fn expecting(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    pub(crate) fn refused(self, statuses: &'static [u16]) -> Self {
        self.either().expecting(Expect::Refused(statuses))
    }

    pub(crate) fn same_or(self, statuses: &'static [u16]) -> Self {
        self.either().expecting(Expect::SameOr(statuses))
    }

    pub(crate) fn cut(self, statuses: &'static [u16]) -> Self {
        self.either().expecting(Expect::Cut(statuses))
    }

    pub(crate) fn same_or_cut(self, statuses: &'static [u16]) -> Self {
        self.either().expecting(Expect::SameOrCut(statuses))
    }

    pub(crate) fn lost(self) -> Self {
        self.either().expecting(Expect::Lost)
    }

    pub(crate) fn own(self, statuses: &'static [u16]) -> Self {
        self.either().expecting(Expect::Own(statuses))
    }

    pub(crate) fn bad(self) -> Self {
        self.either().expecting(Expect::Bad)
    }

    pub(crate) fn broken(self) -> Self {
        self.either().expecting(Expect::Broken)
    }

    pub(crate) fn whole_or_broken(self) -> Self {
        self.either().expecting(Expect::WholeOrBroken)
    }

    /// Whether the connection goes on is the gate's choice.
    pub(crate) fn either(mut self) -> Self {
        self.kept = Kept::Either;
        self
    }

    /// The connection must not go on.
    pub(crate) fn ends(mut self) -> Self {
        self.kept = Kept::No;
        self
    }

    pub(crate) fn over(mut self, over: Over) -> Self {
        self.over = over;
        self
    }

    pub(crate) fn split(mut self, split: Split) -> Self {
        self.split = split;
        if let Some(reply) = &mut self.reply {
            reply.split = split;
        }
        self
    }

    pub(crate) fn manner(mut self, manner: Manner) -> Self {
        self.manner = manner;
        self
    }

    /// With a field that arrives in these lines.
    pub(crate) fn arrives(mut self, name: &'static str, lines: &[&str]) -> Self {
        let lines = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
        self.arrive.push((name, lines));
        self
    }

    /// With a field that does not arrive.
    pub(crate) fn drops(self, name: &'static str) -> Self {
        self.arrives(name, &[])
    }

    pub(crate) fn at(mut self, target: &'static str) -> Self {
        self.target = Some(target);
        self
    }

    pub(crate) fn says(mut self, body: &str) -> Self {
        self.body = Some(body.into());
        self
    }

    pub(crate) fn without_trailers(mut self) -> Self {
        self.trailers = false;
        self
    }

    /// Asked for by another request than a plain one.
    pub(crate) fn asked(mut self, request: Message) -> Self {
        self.over = if request.is_http_1_0() { Over::Http1 } else { self.over };
        self.kept = if request.is_http_1_0() { Kept::Either } else { self.kept };
        self.requests = vec![request];
        self
    }

    fn reply_with(mut self, change: impl FnOnce(&mut Reply)) -> Self {
        change(self.reply.as_mut().unwrap());
        self
    }

    /// With an interim answer before it.
    pub(crate) fn after(self, interim: Message) -> Self {
        self.reply_with(|reply| reply.interim.push(interim))
    }

    /// So many bytes at its end are not sent, and the connection ends so.
    pub(crate) fn less(self, bytes: usize, then: Then) -> Self {
        self.reply_with(|reply| (reply.cut, reply.then) = (bytes, then))
            .broken()
    }

    /// With bytes behind its end.
    pub(crate) fn more(self, bytes: impl AsRef<[u8]>) -> Self {
        self.reply_with(|reply| reply.more = bytes.as_ref().to_vec())
    }

    pub(crate) fn then(self, then: Then) -> Self {
        self.reply_with(|reply| reply.then = then)
    }

    /// Given before the request's body is read.
    pub(crate) fn early(self) -> Self {
        self.reply_with(|reply| reply.when = When::Early)
    }

    /// What tells this row on a way from every other, whatever rows stand beside it.
    pub(crate) fn fingerprint(&self, way: Way) -> u64 {
        let text = format!("{}: {} {way:?}", self.group, self.name);
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        digest
            .as_ref()
            .iter()
            .take(8)
            .fold(0, |all, byte| all << 8 | u64::from(*byte))
    }

    /// The requests of this row on a way, if it can be sent there.
    pub(crate) fn on(&self, (client, carried): Way) -> Option<Vec<Message>> {
        let fits = match self.over {
            Over::All => true,
            Over::Http1 => client != Client::Http2,
            Over::Http2 => client == Client::Http2,
        };
        let fits = fits && (client == Client::Tls || self.manner != Manner::SaysGoodbye);
        let raw_reply = self.reply.as_ref().is_some_and(is_raw);
        if !fits || (raw_reply && carried == Carried::ToHttp2) {
            return None;
        }
        if self.frames.is_some() {
            return (carried != Carried::Streamed).then(Vec::new);
        }
        if self.reply.is_some() && self.requests.is_empty() {
            return Some(vec![match carried {
                Carried::Streamed => expecting(post("/x").chunked(&[3])),
                Carried::Direct | Carried::ToHttp2 => get("/x"),
            }]);
        }
        if carried != Carried::Streamed {
            let expects = |request: &Message| request.says("expect", "100-continue") && !request.is_http_1_0();
            let expects = self.requests.iter().any(expects);
            return (carried == Carried::ToHttp2 || !expects).then(|| self.requests.clone());
        }
        let can = |request: &Message| {
            matches!(request.framing, Framing::Length(_) | Framing::Chunked(_)) && !request.is_http_1_0()
        };
        let expects = |request: &Message| request.all("expect").next().is_some();
        let any = self.requests.iter().any(|request| can(request) || expects(request));
        any.then(|| {
            let all = self.requests.iter().cloned();
            all.map(|request| {
                if can(&request) && !expects(&request) {
                    expecting(request)
                } else {
                    request
                }
            })
            .collect()
        })
    }
}

fn expecting(request: Message) -> Message {
    request.field("Expect", "100-continue")
}

/// Whether an answer cannot be given in HTTP/2.
fn is_raw(reply: &Reply) -> bool {
    matches!(reply.last.start, Start::Raw(_))
        || !reply.more.is_empty()
        || matches!(&reply.last.start, Start::Answer { line, .. } if !line.ends_with(" Status"))
}
