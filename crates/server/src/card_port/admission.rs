//! Admission before TLS: a permit per session, a short line, then a reset.
//!
//! Nobody knows who connects before the handshake, so the permit only caps; who comes is the planner's business. A
//! refusal here costs a fifth of serving. A session under way is never dropped for another.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Refusals that are remembered for the peak of demand.
const REFUSED_MAX: usize = 1_000_000;

/// The permits of a card port.
#[derive(Debug)]
pub struct Admission {
    permits: Arc<Semaphore>,
    sessions_max: u32,
    waiting: AtomicU32,
    waiting_max: u32,
    wait: Duration,
    peak: AtomicU32,
    demand_peak: AtomicU32,
    /// Mean time that a permit is held, in microseconds.
    held_us: AtomicU64,
    /// Refusals of the last mean session: those cards would have been there too.
    refused: Mutex<VecDeque<Instant>>,
}

/// Permission for one session; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    since: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let held_us = self.since.elapsed().as_micros() as u64;
        let mean_us = self.admission.held_us.load(Ordering::Relaxed);
        let next_us = if mean_us == 0 { held_us } else { mean_us - mean_us / 16 + held_us / 16 };
        self.admission.held_us.store(next_us, Ordering::Relaxed);
    }
}

/// The answer to a connection.
#[derive(Debug)]
pub enum Door {
    /// A session is free.
    Open(Permit),
    /// All are taken, but the line has room: call `Admission::wait`.
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
            peak: AtomicU32::new(0),
            demand_peak: AtomicU32::new(0),
            held_us: AtomicU64::new(0),
            refused: Mutex::default(),
        })
    }

    /// Sessions open now, those in their handshake included.
    pub fn open(&self) -> u32 {
        self.sessions_max - self.permits.available_permits() as u32
    }

    /// Most sessions that were open at once.
    pub fn peak(&self) -> u32 {
        self.peak.load(Ordering::Relaxed)
    }

    /// Most sessions that were wanted at once: open, in line, or refused within the time that a session takes.
    pub fn demand_peak(&self) -> u32 {
        self.demand_peak.load(Ordering::Relaxed)
    }

    /// Mean time that a session takes.
    pub fn session_time(&self) -> Duration {
        Duration::from_micros(self.held_us.load(Ordering::Relaxed))
    }

    fn permit(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Permit {
        let open = self.open();
        self.peak.fetch_max(open, Ordering::Relaxed);
        self.note_demand(false);
        Permit { admission: self.clone(), since: Instant::now(), _permit: permit }
    }

    fn note_demand(&self, refused: bool) {
        let now = Instant::now();
        let mut recent = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused && recent.len() < REFUSED_MAX {
            recent.push_back(now);
        }
        let session = self.session_time();
        while recent.front().is_some_and(|at| now.duration_since(*at) > session) {
            recent.pop_front();
        }
        let line = self.waiting.load(Ordering::Relaxed).min(self.waiting_max);
        self.demand_peak.fetch_max(self.open() + line + recent.len() as u32, Ordering::Relaxed);
    }

    /// Asks for a session without waiting. Those in line go first.
    pub fn knock(self: &Arc<Self>) -> Door {
        if self.waiting.load(Ordering::Relaxed) == 0
            && let Ok(permit) = self.permits.clone().try_acquire_owned()
        {
            return Door::Open(self.permit(permit));
        }
        let place = self.waiting.fetch_add(1, Ordering::Relaxed);
        let line = InLine(self.clone());
        let full = place >= self.waiting_max;
        self.note_demand(full);
        if full { Door::Closed } else { Door::Line(line) }
    }
}

impl InLine {
    /// Waits for a session; `None` when the wait is over without one.
    pub async fn wait(self) -> Option<Permit> {
        let acquire = self.0.permits.clone().acquire_owned();
        match tokio::time::timeout(self.0.wait, acquire).await {
            Ok(Ok(permit)) => Some(self.0.permit(permit)),
            // The semaphore is never closed: the wait is over.
            Ok(Err(_)) | Err(_) => {
                self.0.note_demand(true);
                None
            }
        }
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
