//! Connections to an endpoint that wait for the next request.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Coarse;
use crate::http1::Connection;

/// No more than this many wait for each endpoint; what comes back beyond them is closed.
const MOST: usize = 256;

/// Servers close connections that have rested for a second or more (gunicorn 2 s, Node 5 s); so many milliseconds are far below that.
const BRISK: u64 = 500;

/// The waiting connections of one endpoint, the most recently used last.
#[derive(Debug, Default)]
pub struct Idle {
    waiting: Mutex<Vec<Waiting>>,
    /// How many wait, to be read without the lock; right but for those who hold it.
    count: AtomicU32,
    /// Whether the endpoint has no room: there a kept connection holds a place that another one waits for.
    is_crowded: AtomicBool,
}

/// A connection, and since when and until when it waits, in milliseconds of the coarse clock.
#[derive(Debug)]
struct Waiting {
    since: u64,
    until: u64,
    connection: Connection,
}

/// A connection that has waited.
#[derive(Debug)]
pub struct Kept {
    /// The connection.
    pub connection: Connection,
    /// Whether it has hardly rested.
    pub brisk: bool,
}

impl Idle {
    /// A connection that waits, if there is one. The youngest is taken, so that the others grow old and go.
    pub fn take(&self) -> Option<Kept> {
        let now = Coarse::get().millis();
        let mut waiting = self.lock();
        while let Some(Waiting {
            since,
            until,
            mut connection,
        }) = waiting.pop()
        {
            if until > now && !connection.is_stale() {
                let brisk = now.saturating_sub(since) < BRISK;
                return Some(Kept { connection, brisk });
            }
        }
        None
    }

    /// Keeps a connection for the next request, if one can be sent there and comes within `at_most`. The clock may be late by a tick.
    pub fn keep(&self, connection: Connection, at_most: Duration) {
        let at_most = u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX);
        let mut waiting = self.lock();
        if connection.is_reusable() && waiting.len() < MOST && !self.is_crowded.load(Ordering::Relaxed) {
            let since = Coarse::get().millis();
            let until = since.saturating_add(at_most);
            waiting.push(Waiting {
                since,
                until,
                connection,
            });
        }
    }

    /// Closes what has waited long enough.
    pub fn close_old(&self) {
        let now = Coarse::get().millis();
        self.lock().retain(|waiting| waiting.until > now);
    }

    /// How many wait.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Keeps no connection while the endpoint is `crowded`, and closes those that wait. Requests on kept connections would be served one after the other
    /// there, while a new connection stays in the queue of the kernel.
    pub fn crowd(&self, crowded: bool) {
        if self.is_crowded.swap(crowded, Ordering::Relaxed) != crowded && crowded {
            self.lock().clear();
        }
    }

    /// Closes those that have waited longest until `most` are left.
    pub fn trim(&self, most: u32) {
        if self.count() > most {
            let mut waiting = self.lock();
            let beyond = waiting.len().saturating_sub(most as usize);
            waiting.drain(..beyond);
        }
    }

    fn lock(&self) -> Counting<'_> {
        Counting {
            waiting: self.waiting.lock().unwrap_or_else(PoisonError::into_inner),
            count: &self.count,
        }
    }
}

/// The waiting connections under their lock, which are counted when it is given back.
struct Counting<'a> {
    waiting: MutexGuard<'a, Vec<Waiting>>,
    count: &'a AtomicU32,
}

impl Deref for Counting<'_> {
    type Target = Vec<Waiting>;

    fn deref(&self) -> &Vec<Waiting> {
        &self.waiting
    }
}

impl DerefMut for Counting<'_> {
    fn deref_mut(&mut self) -> &mut Vec<Waiting> {
        &mut self.waiting
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        let count = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        self.count.store(count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Wire;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn nothing_is_kept_where_there_is_no_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let connect = async || Connection::over(Wire::Clear(TcpStream::connect(at).await.unwrap()));
        let (idle, long) = (Idle::default(), Duration::from_secs(600));
        idle.keep(connect().await, long);
        assert_eq!(idle.count(), 1);
        idle.crowd(true);
        idle.keep(connect().await, long);
        assert_eq!(idle.count(), 0, "each of them would hold a place");
        idle.crowd(false);
        idle.keep(connect().await, long);
        assert!(idle.take().is_some());
    }
}
