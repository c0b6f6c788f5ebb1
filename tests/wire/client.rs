//! A client of HTTP/1.1 that sends what it is told, byte for byte, and judges nothing.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use crate::message::Message;
use crate::reader::{Fault, Framed, Head, Read, Reader};
use crate::split::{self, Split};

/// What a client does beside sending its requests and reading the answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Manner {
    #[default]
    Plain,
    /// It sends no body before it is told to go on.
    Waits,
    /// It says that it sends nothing more: by FIN, within TLS by close_notify and FIN.
    HalfCloses,
    /// The same, within TLS by close_notify alone.
    SaysGoodbye,
    /// It sends so many bytes of its body less than it said, and ends its side of the connection.
    EndsEarly(usize),
    /// The same, and resets the connection.
    Resets(usize),
    /// It begins to read late.
    ReadsLate,
}

/// An answer as a client got it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) http2: bool,
    pub(crate) interim: Vec<u16>,
    pub(crate) status: u16,
    pub(crate) head: Head,
    pub(crate) read: Read,
}

/// All that a client saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Talk {
    pub(crate) answers: Vec<Answer>,
    /// How the connection ended before all answers were there, or after the last one where that said so.
    pub(crate) end: Option<Fault>,
    /// The answer to one more request, where the connection was kept.
    pub(crate) next: Option<Result<Answer, Fault>>,
    /// What came that nobody asked for.
    pub(crate) unasked: Vec<u8>,
}

/// What a client is to do.
#[derive(Debug)]
pub(crate) struct Job<'j> {
    pub(crate) requests: &'j [Message],
    pub(crate) trial: u64,
    pub(crate) manner: Manner,
    pub(crate) split: Split,
}

/// Carries a job out over a connection. `reset` makes its end a reset.
pub(crate) async fn talk<S>(stream: S, job: &Job<'_>, reset: impl FnOnce(&S), rng: &mut fastrand::Rng) -> Talk
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if matches!(job.manner, Manner::Resets(_)) {
        reset(&stream);
    }
    let (reader, mut writer) = tokio::io::split(stream);
    if matches!(job.manner, Manner::Resets(_)) {
        return leave(&mut writer, job, rng).await;
    }
    let (mut reader, mut talk) = (Reader::new(reader), Talk::default());
    let (goes_on, sent) = (Notify::new(), AtomicBool::new(false));
    let is_over = {
        let sending = async {
            // A peer that has given up takes no more, and what it said is there to be read.
            let _ = send(&mut writer, job, &goes_on, rng).await;
            sent.store(true, Ordering::Relaxed);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = sending => true,
            is_over = listen(&mut reader, job, &goes_on, &mut talk) => is_over,
        }
    };
    let sent = sent.into_inner();
    if is_over && sent {
        talk.end.get_or_insert(reader.end().await);
    } else if !sent {
        // Who was answered before that sends no more, and goes.
    } else if matches!(job.manner, Manner::Plain | Manner::Waits | Manner::ReadsLate) {
        let next = crate::message::get("/next").render(job.trial);
        let _ = writer.write_all(&next.bytes).await;
        let _ = writer.flush().await;
        talk.next = Some(read(&mut reader, "GET", &goes_on).await);
    } else if talk.end.is_none() {
        talk.end = Some(reader.end().await);
    }
    talk.unasked = reader.left().to_vec();
    talk
}

/// Sends a part and is gone.
async fn leave<W: AsyncWrite + Unpin>(writer: &mut W, job: &Job<'_>, rng: &mut fastrand::Rng) -> Talk {
    let _ = send(writer, job, &Notify::new(), rng).await;
    // The part is to be there before the connection is gone.
    split::apart().await;
    Talk::default()
}

async fn send<W: AsyncWrite + Unpin>(
    writer: &mut W,
    job: &Job<'_>,
    goes_on: &Notify,
    rng: &mut fastrand::Rng,
) -> io::Result<()> {
    let mut all = crate::message::Rendered::default();
    for request in job.requests {
        let one = request.render(job.trial);
        let start = all.bytes.len();
        all.marks.extend(one.marks.iter().map(|mark| start + mark));
        all.body = start + one.body;
        all.marks.push(all.body);
        all.bytes.extend(one.bytes);
    }
    let mut segments = split::cut(&all, job.split, rng);
    match job.manner {
        Manner::Plain | Manner::ReadsLate => split::write(writer, &segments).await?,
        Manner::Waits => {
            let body = all.bytes.split_off(all.body);
            split::write(writer, &[all.bytes]).await?;
            goes_on.notified().await;
            split::write(writer, &[body]).await?;
        }
        Manner::HalfCloses | Manner::SaysGoodbye => {
            split::write(writer, &segments).await?;
            writer.shutdown().await?;
        }
        Manner::EndsEarly(less) | Manner::Resets(less) => {
            all.bytes.truncate(all.bytes.len() - less);
            all.marks.retain(|mark| *mark < all.bytes.len());
            all.body = all.body.min(all.bytes.len());
            segments = split::cut(&all, Split::Body, rng);
            split::write(writer, &segments).await?;
            if matches!(job.manner, Manner::EndsEarly(_)) {
                writer.shutdown().await?;
            }
        }
    }
    Ok(())
}

/// Reads all answers; tells whether the connection is to end then.
async fn listen<R>(reader: &mut Reader<R>, job: &Job<'_>, goes_on: &Notify, talk: &mut Talk) -> bool
where
    R: AsyncRead + Unpin,
{
    if job.manner == Manner::ReadsLate {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    }
    for request in job.requests {
        let answer = match read(reader, request.method(), goes_on).await {
            Ok(answer) => answer,
            Err(fault) => {
                talk.end = Some(fault);
                return true;
            }
        };
        let (ends, fault) = (ends(&answer), answer.read.fault.clone());
        talk.answers.push(answer);
        if fault.is_some() {
            talk.end = fault;
        }
        if talk.end.is_some() || ends {
            return true;
        }
    }
    false
}

/// Whether an answer says that the connection ends with it.
pub(crate) fn ends(answer: &Answer) -> bool {
    let head = &answer.head;
    let old = head.start.starts_with("HTTP/1.0") && !head.says("connection", "keep-alive");
    head.says("connection", "close") || old || answer.read.framed == Framed::UntilClose || answer.status == 101
}

/// Reads the answer to a request of this method.
async fn read<R: AsyncRead + Unpin>(reader: &mut Reader<R>, method: &str, goes_on: &Notify) -> Result<Answer, Fault> {
    let mut interim = Vec::new();
    loop {
        let head = reader.head().await?;
        let status = head.status();
        if !head.start.starts_with("HTTP/1.") || !(100..600).contains(&status) {
            return Err(Fault::Malformed(format!("no answer: {:?}", head.start)));
        }
        if status < 200 && status != 101 {
            interim.push(status);
            if status == 100 {
                goes_on.notify_one();
            }
            continue;
        }
        let framed = head.framing(Framed::UntilClose)?;
        let bodiless = method == "HEAD" || matches!(status, 101 | 204 | 304);
        let read = reader.body(if bodiless { Framed::None } else { framed }).await;
        return Ok(Answer {
            http2: false,
            interim,
            status,
            head,
            read,
        });
    }
}
