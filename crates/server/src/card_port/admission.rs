//! Admission before TLS: a permit per session, a short line, then a reset.
//!
//! Nobody knows who connects before the handshake, so the permit only caps; who comes is the planner's business. A
//! refusal here costs a fifth of serving. A session under way is never dropped for another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The permits of a card port.
#[derive(Debug)]
pub struct Admission {
    permits: Arc<Semaphore>,
    sessions_max: u32,
    waiting: AtomicU32,
    waiting_max: u32,
    wait: Duration,
}

/// The answer to a connection.
#[derive(Debug)]
pub enum Door {
    /// A session is free.
    Open(OwnedSemaphorePermit),
    /// All are taken, but the line has room: call [`Admission::wait`].
    Line(InLine),
    /// All are taken and the line is full.
    Closed,
}

/// A place in the line; given back when dropped.
#[derive(Debug)]
pub struct InLine(Arc<Admission>);

impl Admission {
    /// `sessions_max` permits, a line of `waiting_max` connections that wait at most `wait`.
    pub fn new(sessions_max: u32, waiting_max: u32, wait: Duration) -> Arc<Self> {
        Arc::new(Admission {
            permits: Arc::new(Semaphore::new(sessions_max as usize)),
            sessions_max,
            waiting: AtomicU32::new(0),
            waiting_max,
            wait,
        })
    }

    /// Sessions open now, those in their handshake included.
    pub fn open(&self) -> u32 {
        self.sessions_max - self.permits.available_permits() as u32
    }

    /// Asks for a session without waiting. Those in line go first.
    pub fn knock(self: &Arc<Self>) -> Door {
        if self.waiting.load(Ordering::Relaxed) == 0
            && let Ok(permit) = self.permits.clone().try_acquire_owned()
        {
            return Door::Open(permit);
        }
        let place = self.waiting.fetch_add(1, Ordering::Relaxed);
        let line = InLine(self.clone());
        if place < self.waiting_max { Door::Line(line) } else { Door::Closed }
    }
}

impl InLine {
    /// Waits for a session; `None` when the wait is over without one.
    pub async fn wait(self) -> Option<OwnedSemaphorePermit> {
        let acquire = self.0.permits.clone().acquire_owned();
        // The semaphore is never closed.
        tokio::time::timeout(self.0.wait, acquire).await.ok()?.ok()
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn permits_then_a_line_then_a_closed_door() {
        let admission = Admission::new(2, 1, Duration::ZERO);
        let Door::Open(first) = admission.knock() else { panic!("free") };
        let Door::Open(_second) = admission.knock() else { panic!("free") };
        assert_eq!(admission.open(), 2);
        let Door::Line(line) = admission.knock() else { panic!("line") };
        assert!(matches!(admission.knock(), Door::Closed));
        drop(first);
        assert!(line.wait().await.is_some());
        // The permit was dropped with the answer; the line is empty again.
        let Door::Open(_third) = admission.knock() else { panic!("free") };
        let Door::Line(line) = admission.knock() else { panic!("line") };
        assert!(line.wait().await.is_none(), "the wait ends");
        assert_eq!(admission.open(), 2);
    }
}
