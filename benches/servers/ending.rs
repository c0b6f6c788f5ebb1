//! How each server behaves at its end, seen directly: whether its port takes connections after SIGTERM, whether they are answered, and what becomes of a
//! stream that goes on.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::client::Ask;
use crate::launch::free_port;
use crate::load::{End, Kind, end, prompt};
use crate::program::{Program, Server};

/// The stream lasts so long, which is more than each server's own limit.
const STREAM: f64 = 50.0;

/// How a new connection is received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reception {
    Answered,
    /// It is accepted, and nothing is answered within half a second.
    Silent,
    Refused,
}

async fn visit(at: &str) -> Reception {
    if TcpStream::connect(at).await.is_err() {
        return Reception::Refused;
    }
    match Ask::get("/health").whole(at, Duration::from_millis(500)).await {
        Ok(_) => Reception::Answered,
        Err(why) if why.starts_with("no connection") => Reception::Refused,
        Err(_) => Reception::Silent,
    }
}

/// A line of the table: the server, its port, its stream, its process.
pub(crate) async fn observe(program: Program) -> Result<String, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut server = Server::start(program, free_port(), folder.path())?;
    server.answers().await?;
    let at = server.address.to_string();
    let stream = prompt("long", true, STREAM, 1.0).send(&at).await?;
    let stream = tokio::spawn(async move {
        let answer = stream.rest().await;
        (end(Kind::Stream, answer), Instant::now())
    });
    sleep(Duration::from_secs(1)).await;
    let told = Instant::now();
    server.signal(Signal::SIGTERM);
    let (mut answered, mut silent, mut refused) = (None, None, None);
    while told.elapsed() < Duration::from_secs(60) && !server.has_ended() {
        let asked = told.elapsed();
        match visit(&at).await {
            Reception::Answered => answered = Some(asked),
            Reception::Silent => silent = Some(asked),
            Reception::Refused => {
                refused.get_or_insert(asked);
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
    let lasted = told.elapsed();
    let (how, when) = timeout(Duration::from_secs(5), stream)
        .await
        .map_err(|_| "its stream outlives it")?
        .map_err(|e| e.to_string())?;
    let seconds =
        |time: Option<Duration>| time.map_or_else(|| "–".to_owned(), |time| format!("{:.1}", time.as_secs_f64()));
    let ended = when.saturating_duration_since(told).as_secs_f64();
    let stream = match how {
        End::Served => format!("whole, {ended:.1}"),
        End::Refused(..) | End::Broken(_) => format!("cut, {ended:.1}"),
    };
    Ok(format!(
        "| {} | {} | {} | {} | {stream} | {:.1} |",
        program.name,
        seconds(answered),
        seconds(silent),
        seconds(refused),
        lasted.as_secs_f64(),
    ))
}

pub(crate) const HEAD: &str = "| server | last answer | last connection that was accepted and not answered | first refused | a stream of 50 s | process ended |\n|---|---|---|---|---|---|";
