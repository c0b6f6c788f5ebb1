//! Server-sent events as Dify sends them: a ping at once and after each silence, `data:` lines, no ids.

use std::sync::Arc;

use bytes::Bytes;
use hyper::Response;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::body::{Body, fed};
use super::connection::Connection;
use super::instance::App;
use super::run::Run;
use super::switches::Traffic;

const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";
const PING: Bytes = Bytes::from_static(b"event: ping\n\n");

type Feeder = mpsc::Sender<Option<Bytes>>;

/// Shows a run from its event number `from` on. A client that leaves does not end the run.
pub(crate) fn show(connection: &Connection, run: Arc<Run>, from: usize) -> Response<Body> {
    let (feeder, response) = fed(EVENT_STREAM);
    let app = connection.app.clone();
    let open = app.tally.open(|counts| &mut counts.streams);
    connection.process.spawn(async move {
        tokio::select! {
            biased;
            () = feeder.closed() => {}
            _ = feed(&app, &run, from, &feeder) => {}
        }
        drop(open);
    });
    response
}

/// What a streaming run is while Redis is down: one ping, a long silence, a clean end.
pub(crate) fn lone_ping(connection: &Connection) -> Response<Body> {
    let (feeder, response) = fed(EVENT_STREAM);
    let app = connection.app.clone();
    connection.process.spawn(async move {
        let _ = feeder.send(Some(PING)).await;
        redis_answers(&app).await;
        let _ = feeder.send(None).await;
    });
    response
}

/// Waits as long as a call to Redis takes; no time at all when it is up, and no longer once it is.
pub(crate) async fn redis_answers(app: &App) {
    app.board
        .hold(|switches| {
            if let Traffic::RedisDown(wait) = switches.traffic {
                wait
            } else {
                Default::default()
            }
        })
        .await;
}

/// A 200 that breaks off in its body.
pub(crate) fn cut_short(connection: &Connection) -> Response<Body> {
    let (feeder, response) = fed("application/json");
    // The feeder goes without saying that this was all, which cuts the body.
    connection.process.spawn(async move {
        let _ = feeder
            .send(Some(Bytes::from_static(b"{\"answer\": \"to be cont")))
            .await;
    });
    response
}

async fn feed(app: &App, run: &Run, from: usize, feeder: &Feeder) -> Result<(), mpsc::error::SendError<Option<Bytes>>> {
    let mut progress = run.watch();
    let mut sent = from;
    feeder.send(Some(PING)).await?;
    // It fails when the run is forgotten, and then there is nothing to wait for.
    let _ = progress.wait_for(|progress| progress.taken).await;
    loop {
        let (fresh, ended) = {
            let progress = progress.borrow_and_update();
            (progress.events.get(sent..).unwrap_or_default().to_vec(), progress.ended)
        };
        sent += fresh.len();
        for event in fresh {
            feeder.send(Some(event)).await?;
        }
        if ended {
            return feeder.send(None).await;
        }
        if timeout(app.board.read(|switches| switches.ping_every), progress.changed())
            .await
            .is_err()
        {
            feeder.send(Some(PING)).await?;
        }
    }
}
