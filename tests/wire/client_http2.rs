//! A client of HTTP/2, by the library that also real clients use; what that would refuse to write comes frame by frame from elsewhere.

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{Request, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::client::{Answer, Job, Manner, Talk};
use crate::message::{Field, Framing, Message, Start, get};
use crate::origin_http2::{fields, headers, send};
use crate::reader::{Fault, Framed, Head};
use crate::{patience, split};

/// Fields that belong to one connection of HTTP/1.1 (RFC 9113 section 8.2.2), and `Host`, for which `:authority` stands.
const NOT_IN_HTTP2: [&str; 6] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// Carries a job out over a connection.
pub(crate) async fn talk<S>(stream: S, job: &Job<'_>, rng: &mut fastrand::Rng) -> Talk
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let window = [16 << 10, 65_535, 1 << 20][rng.usize(..3)];
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(window)
        .max_send_buffer_size(4 << 20)
        .max_header_list_size(256 << 10)
        .data_frame_budget(1 << 30)
        .enable_push(false);
    let mut talk = Talk::default();
    let (mut client, connection) = match timeout(patience(), builder.handshake::<_, Bytes>(stream)).await {
        Ok(Ok(shaken)) => shaken,
        Ok(Err(e)) => return talk.ended(fault(&e)),
        Err(_) => return talk.ended(Fault::Stuck),
    };
    let driving = tokio::spawn(connection);
    for request in job.requests {
        match one(&mut client, request, job, rng).await {
            Ok(answer) => talk.answers.push(answer),
            Err(fault) => talk.end = Some(fault),
        }
    }
    if matches!(job.manner, Manner::Plain | Manner::Waits | Manner::ReadsLate) {
        let next = Job {
            manner: Manner::Plain,
            ..*job
        };
        talk.next = Some(one(&mut client, &get("/next"), &next, rng).await);
    }
    driving.abort();
    talk
}

impl Talk {
    fn ended(mut self, fault: Fault) -> Self {
        self.end = Some(fault);
        self
    }
}

fn fault(e: &h2::Error) -> Fault {
    if e.is_io() || e.is_reset() || e.is_go_away() {
        Fault::Reset
    } else {
        Fault::Malformed(e.to_string())
    }
}

fn head(request: &Message, trial: u64) -> Result<Request<()>, Fault> {
    let bad = |what: String| Fault::Malformed(format!("the client could not send this: {what}"));
    let Start::Request { method, .. } = &request.start else {
        return Err(bad("no request".into()));
    };
    let host = request.all("host").next().unwrap_or(b"h");
    let uri = [b"https://", host, &request.target(trial)].concat();
    let uri = Uri::from_maybe_shared(Bytes::from(uri)).map_err(|e| bad(e.to_string()))?;
    let mut head = Request::builder().method(*method).uri(uri).body(()).unwrap();
    *head.version_mut() = http::Version::HTTP_2;
    let keeps = |name: &[u8]| !NOT_IN_HTTP2.iter().any(|not| name.eq_ignore_ascii_case(not.as_bytes()));
    let kept: Vec<Field> = request.fields.iter().filter(|(name, _)| keeps(name)).cloned().collect();
    *head.headers_mut() = headers(&kept);
    if let Framing::Length(length) = request.framing {
        head.headers_mut().insert("content-length", (length as u64).into());
    }
    Ok(head)
}

async fn one(
    client: &mut SendRequest<Bytes>,
    request: &Message,
    job: &Job<'_>,
    rng: &mut fastrand::Rng,
) -> Result<Answer, Fault> {
    let head = head(request, job.trial)?;
    let ready = std::future::poll_fn(|cx| client.poll_ready(cx));
    timeout(patience(), ready)
        .await
        .map_err(|_| Fault::Stuck)?
        .map_err(|e| fault(&e))?;
    let bodiless = matches!(request.framing, Framing::None);
    let (answer, mut out) = client.send_request(head, bodiless).map_err(|e| fault(&e))?;
    let goes_on = Notify::new();
    let mut answer = Box::pin(read(answer, job.manner, &goes_on));
    if bodiless {
        return answer.await;
    }
    let sending = async {
        if job.manner == Manner::Waits {
            goes_on.notified().await;
        }
        upload(&mut out, request, job, rng).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = sending => Err(Fault::Stuck),
        answer = &mut answer => answer,
    }
}

async fn upload(out: &mut SendStream<Bytes>, request: &Message, job: &Job<'_>, rng: &mut fastrand::Rng) {
    let body = request.body(job.trial);
    let less = match job.manner {
        Manner::EndsEarly(less) | Manner::Resets(less) => less,
        _ => 0,
    };
    let ends = less == 0 && request.trailers.is_empty();
    let sent = send(out, &body[..body.len() - less.min(body.len())], ends, rng).await;
    if sent.is_some() && ends && body.is_empty() {
        let _ = out.send_data(Bytes::new(), true);
    } else if sent.is_some() && less > 0 {
        split::apart().await;
        out.send_reset(Reason::CANCEL);
    } else if sent.is_some() && !request.trailers.is_empty() {
        let _ = out.send_trailers(headers(&request.trailers));
    }
}

async fn read(mut answer: ResponseFuture, manner: Manner, goes_on: &Notify) -> Result<Answer, Fault> {
    let mut got = Answer {
        http2: true,
        ..Answer::default()
    };
    let head = loop {
        let interim = std::future::poll_fn(|cx| answer.poll_informational(cx));
        match timeout(patience(), interim).await {
            Err(_) => return Err(Fault::Stuck),
            Ok(Some(Ok(interim))) => {
                got.interim.push(interim.status().as_u16());
                if interim.status() == StatusCode::CONTINUE {
                    goes_on.notify_one();
                }
            }
            Ok(Some(Err(e))) => return Err(fault(&e)),
            Ok(None) => break timeout(patience(), answer).await,
        }
    };
    let (parts, mut body) = match head {
        Err(_) => return Err(Fault::Stuck),
        Ok(Err(e)) => return Err(fault(&e)),
        Ok(Ok(head)) => head.into_parts(),
    };
    if manner == Manner::ReadsLate {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    }
    got.status = parts.status.as_u16();
    got.head = Head {
        target: Vec::new(),
        start: String::new(),
        fields: fields(&parts.headers),
    };
    got.read.framed = Framed::UntilClose;
    loop {
        match timeout(patience(), body.data()).await {
            Err(_) => got.read.fault = Some(Fault::Stuck),
            Ok(None) => break,
            Ok(Some(Err(e))) => got.read.fault = Some(fault(&e)),
            Ok(Some(Ok(part))) => {
                got.read.body.extend_from_slice(&part);
                let _ = body.flow_control().release_capacity(part.len());
                continue;
            }
        }
        return Ok(got);
    }
    match timeout(patience(), body.trailers()).await {
        Err(_) => got.read.fault = Some(Fault::Stuck),
        Ok(Ok(trailers)) => got.read.trailers = trailers.as_ref().map(fields).unwrap_or_default(),
        Ok(Err(e)) => got.read.fault = Some(fault(&e)),
    }
    Ok(got)
}
