//! A Dify that behaves, and misbehaves, on command: the real gate is shown, tested and measured before it.
//!
//! Each [`SimulatedDify`] listens on a real socket and answers as Dify 1.14 does: health, chat, workflow runs over
//! server-sent events, uploads, webhooks, WebSockets, and the console's login and apps. Instances of one [`Cluster`]
//! share their runs and their apps, as real ones share PostgreSQL and Redis. [`Switches`] change the behaviour while requests wait;
//! the [`Tally`] counts what arrived, so that a test can prove what did not.
//!
//! ```no_run
//! # use difygate::simulated_dify::{Cluster, Health, SimulatedDify};
//! # async fn story() -> std::io::Result<()> {
//! let cluster = Cluster::new();
//! let dify = SimulatedDify::start(&cluster, "dify-1").await?;
//! dify.set(|switches| switches.health = Health::failing(["database"]));
//! dify.tally().until(|counts| counts.probes >= 2).await;
//! dify.kill().await;
//! # Ok(())
//! # }
//! ```

mod api;
mod body;
mod broken;
mod connection;
mod console;
mod instance;
mod journal;
mod probe;
mod process;
mod run;
mod stream;
mod switches;
mod tally;
#[cfg(test)]
mod tests;
mod websocket;

pub use broken::BrokenAnswer;
pub use console::{ADMIN_KEY, ConsoleApp, EMAIL, PASSWORD, WORKSPACE};
pub use instance::SimulatedDify;
pub use journal::{Deed, EXCHANGE, Entry, Journal, content};
pub use run::Cluster;
pub use switches::{Health, Switches, Traffic};
pub use tally::{Counts, Tally};
