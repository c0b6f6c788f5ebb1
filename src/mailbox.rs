//! Messages to the driver, the one writer, and its replies.

use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::gate::keeper::{Known, ProbeReport, Ticket};

/// What can be said to the driver.
#[derive(Debug)]
pub enum Message {
    /// A probe was answered.
    Probed {
        /// Which one.
        ticket: Ticket,
        /// With what.
        report: Box<ProbeReport>,
        /// When.
        at: Instant,
    },
    /// Somebody wants to know everything.
    Ask(oneshot::Sender<Vec<Known>>),
}

/// The way to the driver.
#[derive(Clone, Debug)]
pub struct Mailbox(mpsc::UnboundedSender<Message>);

impl Mailbox {
    /// A mailbox and the end that the driver reads.
    ///
    /// It is unbounded, since what goes in is bounded by the probes under way and the admin's requests.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Message>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Hands in an answer. It is lost if the driver has stopped, and then nobody needs it.
    pub fn probed(&self, ticket: Ticket, report: ProbeReport, at: Instant) {
        let _ = self.0.send(Message::Probed {
            ticket,
            report: Box::new(report),
            at,
        });
    }

    /// All that is known, or `None` if the driver has stopped.
    pub async fn known(&self) -> Option<Vec<Known>> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(Message::Ask(sender)).ok()?;
        receiver.await.ok()
    }
}
