//! What must hold of requests as they arrive at the origin.

use crate::client::Answer;
use crate::ledger::{Arrival, echo, hash};
use crate::message::{Message, Start, path_of, values};
use crate::reader::Fault;
use crate::rules::fields::{OWN, lower, same, show};
use crate::rules::{Trial, Verdict, require};
use crate::ways::{Carried, Client};

/// A request arrived as it was sent, and its answer, which tells what arrived, came back.
pub(super) fn passed(
    trial: &Trial<'_>,
    request: &Message,
    arrival: Option<&Arrival>,
    answer: Option<&Answer>,
) -> Verdict {
    let Some(answer) = answer else {
        let how = if arrival.is_some() {
            "it arrived"
        } else {
            "it did not arrive"
        };
        return Err(format!("no answer; {how}; connection {:?}", trial.talk.end));
    };
    require(answer.status == 200, || format!("answered {}", answer.status))?;
    let Some(arrival) = arrival else {
        return Err("answered 200, and nothing arrived".to_owned());
    };
    as_sent(trial, request, arrival)?;
    require(answer.read.fault.is_none(), || {
        format!("its answer broke off: {:?}", answer.read.fault)
    })?;
    let told = if request.method() == "HEAD" {
        String::new()
    } else {
        echo(arrival)
    };
    require(answer.read.body == told.as_bytes(), || {
        format!("another answer came: {:?}", answer.read.body.escape_ascii().to_string())
    })
}

fn as_sent(trial: &Trial<'_>, request: &Message, arrival: &Arrival) -> Verdict {
    require(arrival.fault.is_none(), || {
        format!("it arrived broken: {:?}", arrival.fault)
    })?;
    require(arrival.method == request.method(), || {
        format!("arrived as {}", arrival.method)
    })?;
    let target = match trial.case.target {
        Some(target) => (path_of(trial.number) + target).into_bytes(),
        None => request.target(trial.number),
    };
    require(is_same_target(trial, &arrival.target, &target), || {
        format!("arrived for {}", arrival.target.escape_ascii())
    })?;
    let body = trial.case.body.as_deref().unwrap_or(request.body(trial.number));
    require(arrival.length == body.len() && arrival.hash == hash(body), || {
        format!("{} of {} bytes arrived, or others", arrival.length, body.len())
    })?;
    same_host(trial, request, arrival)?;
    let sent = if matches!(request.start, Start::Raw(_)) {
        &[][..]
    } else {
        &request.fields
    };
    same(trial, sent, &arrival.fields, &OWN)?;
    // The framework, which carries requests on to HTTP/2 and takes them from it, has no trailers of requests.
    let has_trailers = trial.case.trailers && (trial.way.0 != Client::Http2 && trial.way.1 != Carried::ToHttp2);
    let trailers = !has_trailers || lower(&arrival.trailers) == lower(&request.trailers);
    require(trailers, || {
        format!("its trailers arrived as {}", show(&arrival.trailers))
    })
}

/// HTTP/2 can carry no target with bytes that a URL must encode, so they are encoded on the way there.
fn is_same_target(trial: &Trial<'_>, arrived: &[u8], sent: &[u8]) -> bool {
    arrived == sent || trial.way.1 == Carried::ToHttp2 && !sent.contains(&b'%') && decoded(arrived) == sent
}

fn decoded(target: &[u8]) -> Vec<u8> {
    let mut parts = target.split(|byte| *byte == b'%');
    let mut all = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        all.push(u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap());
        all.extend_from_slice(rest);
    }
    all
}

fn same_host(trial: &Trial<'_>, request: &Message, arrival: &Arrival) -> Verdict {
    let name = if arrival.http2 { ":authority" } else { "host" };
    let hosts: Vec<_> = values(&arrival.fields, name).collect();
    let expected = trial.case.arrive.iter().find(|(name, _)| *name == "host");
    let sent: Vec<&[u8]> = match expected {
        Some((_, lines)) => lines.iter().map(Vec::as_slice).collect(),
        None => request.all("host").collect(),
    };
    // A message that is given as it stands says by itself what its host is; one without is sent on with any.
    let fits = if sent.is_empty() {
        hosts.len() == 1
    } else {
        hosts == sent
    };
    require(fits || !trial.is_gate, || format!("arrived with Host {hosts:?}"))
}

/// What every request at the origin must be, whatever it came from.
pub(super) fn arrived_well(arrival: &Arrival) -> Verdict {
    let wrong = |what: &str| Err(format!("arrived {what}: {} {}", arrival.line, show(&arrival.fields)));
    if let Some(Fault::Malformed(why)) = &arrival.fault
        && !arrival.http2
    {
        return wrong(why);
    }
    if arrival.http2 {
        let foreign = [
            "connection",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "upgrade",
        ];
        let found = foreign
            .iter()
            .find(|name| values(&arrival.fields, name).next().is_some());
        return found.map_or(Ok(()), |name| wrong(&format!("in HTTP/2 with {name}")));
    }
    if !arrival.line.ends_with(" HTTP/1.1") && !arrival.line.ends_with(" HTTP/1.0") {
        return wrong("in another version");
    }
    let hosts = values(&arrival.fields, "host").count();
    if hosts != 1 && !(hosts == 0 && arrival.line.ends_with(" HTTP/1.0")) {
        return wrong(&format!("with {hosts} Host lines"));
    }
    for name in ["keep-alive", "proxy-connection"] {
        if values(&arrival.fields, name).next().is_some() {
            return wrong(&format!("with {name}"));
        }
    }
    Ok(())
}
