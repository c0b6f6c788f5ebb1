//! What must hold of answers as they come to the client.

use crate::client::{Answer, ends};
use crate::message::{Message, Start, values};
use crate::reader::{Fault, Framed};
use crate::rules::fields::{OWN_OF_ANSWERS, lower, same, show};
use crate::rules::{Trial, Verdict, require, said};
use crate::table::Kept;

/// The client sees that the answer is not whole.
pub(super) fn broken(trial: &Trial<'_>, answer: Option<&Answer>) -> Verdict {
    match answer {
        Some(answer) if answer.status == 502 => said(trial, Some(answer), &[502]),
        Some(answer) if answer.read.fault.is_none() => {
            let length = answer.read.body.len();
            Err(format!(
                "a whole answer {} of {length} bytes came of a broken one",
                answer.status
            ))
        }
        Some(answer) => require(answer.read.fault != Some(Fault::Stuck), || {
            "the answer is stuck".to_owned()
        }),
        None => require(!matches!(trial.talk.end, Some(Fault::Stuck) | None), || {
            "no answer, no end".to_owned()
        }),
    }
}

/// The answer came back as the origin gave it.
pub(super) fn whole(trial: &Trial<'_>, answer: Option<&Answer>) -> Verdict {
    let (Some(answer), Some(reply)) = (answer, &trial.case.reply) else {
        return Err(format!("no answer; connection {:?}", trial.talk.end));
    };
    let status = match &reply.last.start {
        Start::Answer { status, .. } => *status,
        Start::Request { .. } | Start::Raw(_) => 200,
    };
    let own = values(&answer.head.fields, "x-trial").next();
    require(own.is_none_or(|own| own == trial.number.to_string().as_bytes()), || {
        format!(
            "the answer of trial {} came, {}",
            own.unwrap_or_default().escape_ascii(),
            answer.status
        )
    })?;
    require(answer.status == status, || format!("answered {}", answer.status))?;
    require(own.is_some(), || "an answer of no trial came".to_owned())?;
    require(answer.read.fault.is_none(), || {
        format!("broken: {:?} after {} bytes", answer.read.fault, answer.read.body.len())
    })?;
    let to_head = trial.requests.iter().any(|request| request.method() == "HEAD");
    let bodiless = to_head || matches!(status, 204 | 205 | 304);
    let body = trial.case.body.as_deref().unwrap_or(reply.last.body(trial.number));
    let body = if bodiless { &[][..] } else { body };
    require(answer.read.body == body, || {
        format!("{} of {} bytes came, or others", answer.read.body.len(), body.len())
    })?;
    if !matches!(reply.last.start, Start::Raw(_)) {
        same(trial, &reply.last.fields, &answer.head.fields, &OWN_OF_ANSWERS)?;
        let has_room = answer.http2 || answer.read.framed == Framed::Chunked;
        let trailers = !has_room || lower(&answer.read.trailers) == lower(&reply.last.trailers);
        require(trailers, || {
            format!("its trailers came as {}", show(&answer.read.trailers))
        })?;
    }
    Ok(())
}

/// What every answer must be, whatever it came from.
pub(super) fn well_formed(trial: &Trial<'_>, answer: &Answer) -> Verdict {
    let head = &answer.head;
    let to_old = trial.requests.iter().any(Message::is_http_1_0);
    let has = |name: &str| head.one(name).is_some();
    require(!to_old || answer.interim.is_empty(), || "1xx to HTTP/1.0".to_owned())?;
    require(!to_old || answer.read.framed != Framed::Chunked, || {
        "chunks to HTTP/1.0".to_owned()
    })?;
    for name in ["keep-alive", "proxy-connection", "te"] {
        require(!has(name), || format!("with {name}"))?;
    }
    require(!has("upgrade") || matches!(answer.status, 101 | 426), || {
        "with Upgrade".to_owned()
    })?;
    let bodiless = answer.status == 204;
    require(
        !bodiless || !(has("content-length") || has("transfer-encoding")),
        || "204 with a length".to_owned(),
    )?;
    let promised = has("trailer") && answer.read.fault.is_none();
    require(!promised || !answer.read.trailers.is_empty() || !trial.is_gate, || {
        "Trailer without trailers".to_owned()
    })?;
    if !answer.http2 {
        return Ok(());
    }
    for name in ["connection", "transfer-encoding"] {
        require(!has(name), || format!("in HTTP/2 with {name}"))?;
    }
    let lengths: Vec<_> = values(&head.fields, "content-length").collect();
    let to_head = trial.requests.iter().any(|request| request.method() == "HEAD");
    let free = to_head || answer.status == 304 || answer.read.fault.is_some();
    let fits = match lengths.as_slice() {
        [] => true,
        [length] => free || std::str::from_utf8(length).is_ok_and(|text| text.parse() == Ok(answer.read.body.len())),
        _ => false,
    };
    require(fits, || format!("in HTTP/2 with Content-Length {lengths:?}"))
}

/// The connection goes on, or does not, as the row says; one that goes on serves the next request right.
pub(super) fn kept(trial: &Trial<'_>, answer: Option<&Answer>) -> Verdict {
    let Some(answer) = answer else {
        return Ok(());
    };
    let (case, talk) = (trial.case, &trial.talk);
    if let Some(next) = &talk.next {
        let next = next
            .as_ref()
            .map_err(|fault| format!("said that it goes on, and ended: {fault:?}"))?;
        let own = values(&next.head.fields, "x-trial").next();
        let right = next.status == 200 && own == Some(trial.number.to_string().as_bytes());
        require(right, || {
            format!("the next request on the connection was answered {}", next.status)
        })?;
        return require(case.kept != Kept::No || answer.http2, || {
            "the connection goes on".to_owned()
        });
    }
    if answer.http2 {
        return Ok(());
    }
    require(!(case.kept == Kept::Yes && ends(answer)), || {
        "the connection ends needlessly".to_owned()
    })?;
    match &talk.end {
        Some(Fault::Closed) => Ok(()),
        Some(fault) => Err(format!("the connection ended by {fault:?}")),
        None => Ok(()),
    }
}
