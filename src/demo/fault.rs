//! Faults that a simulated Dify is made to have, and their mending.

use std::io;

use crate::simulated_dify::{Health, SimulatedDify, Traffic};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `/healthz` and traffic answer 503: the database is gone.
    DatabaseFails,
    /// `/healthz` says so while traffic is still well.
    HealthFails,
    /// Traffic is refused while `/healthz` is well: a grey failure.
    TrafficFails,
    /// Connections of traffic are closed instead of answered, while `/healthz` is well.
    TrafficBreaks,
    /// It accepts connections and says nothing.
    Freezes,
    /// Its port is closed.
    Dies,
}

impl Fault {
    /// Makes `dify` have it.
    pub async fn strike(self, dify: &SimulatedDify) {
        match self {
            Self::DatabaseFails => dify.set(|switches| {
                switches.health = Health::failing(["database"]);
                switches.traffic = Traffic::Status(503);
            }),
            Self::HealthFails => dify.set(|switches| switches.health = Health::failing(["database"])),
            Self::TrafficFails => dify.set(|switches| switches.traffic = Traffic::Status(503)),
            Self::TrafficBreaks => dify.set(|switches| switches.traffic = Traffic::Close),
            Self::Freezes => dify.freeze(),
            Self::Dies => dify.kill().await,
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// The port of a dead instance was taken meanwhile.
    pub async fn mend(self, dify: &SimulatedDify) -> io::Result<()> {
        match self {
            Self::DatabaseFails | Self::HealthFails | Self::TrafficFails | Self::TrafficBreaks => {
                dify.set(|switches| {
                    switches.health = Health::Passing;
                    switches.traffic = Traffic::Normal;
                })
            }
            Self::Freezes => dify.thaw(),
            Self::Dies => dify.restart().await?,
        }
        Ok(())
    }
}
