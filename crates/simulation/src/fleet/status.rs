//! How the fleet is, in figures.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;
use simtide_protocol::ids::EpochMs;

use super::Fleet;

/// What is counted as it happens.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Commands to cards.
    pub apdus: AtomicU64,
    /// Messages delivered to devices.
    pub messages: AtomicU64,
    /// Sessions that began.
    sessions: AtomicU64,
    /// Sessions that are open.
    open: AtomicU64,
    /// Most sessions that were open together.
    peak: AtomicU64,
}

impl Counters {
    pub fn session_began(&self) {
        self.sessions.fetch_add(1, Relaxed);
        let open = self.open.fetch_add(1, Relaxed) + 1;
        self.peak.fetch_max(open, Relaxed);
    }

    pub fn session_ended(&self) {
        self.open.fetch_sub(1, Relaxed);
    }
}

/// One line about a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Virtual time.
    pub now: EpochMs,
    /// Cards in the process.
    pub cards: u64,
    /// Cards that someone has bought.
    pub in_field: u64,
    /// Devices that are on.
    pub on: u64,
    /// Subscribers that are registered.
    pub attached: u64,
    /// Devices with an open connection.
    pub sessions_open: u64,
    /// Most of them together.
    pub sessions_peak: u64,
    /// Sessions that began.
    pub sessions: u64,
    /// Messages that came.
    pub messages: u64,
    /// Commands to cards.
    pub apdus: u64,
    /// Resident memory of the process.
    pub rss_bytes: u64,
}

impl Status {
    pub(super) fn of(fleet: &Fleet) -> Self {
        let (mut in_field, mut on, mut attached) = (0, 0, 0);
        for index in 0..fleet.index_end() {
            let slot = fleet.slot(index);
            in_field += u64::from(slot.is_in_field());
            on += u64::from(slot.is_on());
            attached += u64::from(slot.subscriber().is_some());
        }
        let counters = &fleet.counters;
        Self {
            now: fleet.clock.now(),
            cards: fleet.cards() as u64,
            in_field,
            on,
            attached,
            sessions_open: counters.open.load(Relaxed),
            sessions_peak: counters.peak.load(Relaxed),
            sessions: counters.sessions.load(Relaxed),
            messages: counters.messages.load(Relaxed),
            apdus: counters.apdus.load(Relaxed),
            rss_bytes: rss_bytes().unwrap_or_default(),
        }
    }
}

/// Resident memory of this process, where the system tells it.
pub fn rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
