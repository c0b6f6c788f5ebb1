//! One connection, from the listen queue to its end. Its first request head is read here, because an answer
//! that breaks HTTP cannot come from an HTTP library.

use std::io::{self, Cursor};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, join};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::broken::BrokenAnswer;
use super::instance::App;
use super::process::Process;
use super::switches::{Health, Switches};
use super::tally::{Counts, Open};
use super::{api, probe};

/// A longer first head goes to the HTTP library as far as it was read.
const HEAD_LIMIT: usize = 64 * 1024;

/// What a request needs to know of the connection that it came on. Its worker slot is free when this drops.
pub(crate) struct Connection {
    pub(crate) app: Arc<App>,
    pub(crate) process: Process,
    _slot: Open,
}

/// Accepts while there are free slots, until the process is asked to finish.
pub(crate) async fn accept(app: Arc<App>, process: Process, listener: Arc<TcpListener>) {
    tokio::select! {
        () = accept_all(app, process.clone(), listener) => {}
        () = process.terminating() => {}
    }
}

async fn accept_all(app: Arc<App>, process: Process, listener: Arc<TcpListener>) {
    let mut switches = app.board.watch();
    loop {
        let slots = switches.borrow_and_update().slots;
        let free = app.tally.watch();
        let accepted = tokio::select! {
            biased;
            _ = switches.changed() => continue,
            accepted = accept_one(slots, free, &listener) => accepted,
        };
        match accepted {
            Ok(stream) => {
                app.tally.add(|counts| counts.accepted += 1);
                let slot = app.tally.open(|counts| &mut counts.connections);
                let connection = Connection {
                    app: app.clone(),
                    process: process.clone(),
                    _slot: slot,
                };
                process.spawn(serve(connection, stream));
            }
            // Out of descriptors, most likely: the next attempt may succeed, a busy loop would not help.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn accept_one(
    slots: usize,
    mut counts: watch::Receiver<Counts>,
    listener: &TcpListener,
) -> io::Result<TcpStream> {
    let slots = u64::try_from(slots).unwrap_or(u64::MAX);
    let _ = counts.wait_for(|counts| counts.connections < slots).await;
    Ok(listener.accept().await?.0)
}

async fn serve(connection: Connection, mut stream: TcpStream) {
    let (at_once, keep_alive) = connection
        .app
        .board
        .read(|switches| (broken(switches), switches.keep_alive));
    let _ = stream.set_nodelay(true);
    if let Some(answer) = at_once.filter(|answer| answer.needs_no_request()) {
        return answer.send(stream).await;
    }
    let Ok(Ok(head)) = timeout(keep_alive, read_head(&mut stream)).await else {
        return;
    };
    let path = path_of(&head);
    // Read again: the switch may have been flipped while the client was silent.
    match connection.app.board.read(broken).filter(|_| probe::is_probe(path)) {
        Some(answer) => {
            connection.app.tally.arrival(path, true);
            answer.send(stream).await;
        }
        None => serve_http(connection, head, stream, keep_alive).await,
    }
}

async fn serve_http(connection: Connection, head: Vec<u8>, stream: TcpStream, keep_alive: Duration) {
    let connection = Arc::new(connection);
    let (reader, writer) = stream.into_split();
    let socket = TokioIo::new(join(Cursor::new(head).chain(reader), writer));
    let service = service_fn(|request| api::answer(connection.clone(), request));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(keep_alive)
        // A client that gave up does not undo its request: a queued POST is executed all the same.
        .half_close(true)
        .serve_connection(socket, service)
        .with_upgrades();
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => ended,
        () = connection.process.terminating() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if ended.is_err_and(|error| error.is_parse()) {
        connection.app.tally.add(|counts| counts.malformed += 1);
    }
}

fn broken(switches: &Switches) -> Option<BrokenAnswer> {
    if let Health::Broken(answer) = switches.health {
        Some(answer)
    } else {
        None
    }
}

/// Reads until the blank line that ends a head. What follows it, if anything, comes along.
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD_LIMIT {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    Ok(head)
}

/// The path in a request line, without its query; empty where there is none.
fn path_of(head: &[u8]) -> &str {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let target = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    std::str::from_utf8(path).unwrap_or_default()
}
