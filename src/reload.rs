//! The way to the one who loads configurations: an operator's signal or command goes in, what it changed comes out.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::config::ServerSettings;
use crate::config::changes::Change;

/// What is wanted.
#[derive(Debug)]
pub enum Wanted {
    /// The file is to be loaded again.
    Reload,
    /// What would this text change, if it were the file's?
    Diff(String),
}

/// What a configuration changed, or would.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Loaded {
    /// The configuration that is in force, counted from 1.
    pub generation: u64,
    /// What changed, or would.
    pub changes: Vec<Change>,
}

/// The configuration that is in force.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Counts the configurations that were, from 1.
    pub generation: u64,
    /// Since when.
    pub at: Instant,
    /// What it says of the process.
    pub server: ServerSettings,
}

/// Everything that is wrong with a configuration, which changed nothing.
pub type Refused = String;

/// One question, and where its answer goes.
pub type Question = (Wanted, oneshot::Sender<Result<Loaded, Refused>>);

/// The way to the loader.
#[derive(Clone, Debug)]
pub struct Loader(mpsc::Sender<Question>);

impl Loader {
    /// A loader and the end at which its questions come out, one after the other.
    pub fn new() -> (Self, mpsc::Receiver<Question>) {
        let (sender, receiver) = mpsc::channel(8);
        (Self(sender), receiver)
    }

    /// Asks, and waits until it is done; `None` if the gate is stopping.
    pub async fn ask(&self, wanted: Wanted) -> Option<Result<Loaded, Refused>> {
        let (reply, answer) = oneshot::channel();
        self.0.send((wanted, reply)).await.ok()?;
        answer.await.ok()
    }
}
