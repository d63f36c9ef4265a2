//! The clock of campaigns: real time, or a faster one from an anchor on.
//!
//! Every time that cards, plans and campaigns see is virtual; deadlines of sockets are real and use the runtime's
//! own timers. At rate 1 with both anchors 0 virtual time is real time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use simtide_protocol::ids::EpochMs;

/// `virtual = virtual_anchor + (real - real_anchor) * rate`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clock {
    /// Real epoch milliseconds at which both times were anchored.
    pub real_anchor_ms: i64,
    /// Virtual epoch milliseconds at that moment.
    pub virtual_anchor_ms: i64,
    /// Virtual milliseconds per real one; finite and above 0.
    pub rate: f64,
}

impl Clock {
    /// Real time.
    pub const REAL: Clock = Clock { real_anchor_ms: 0, virtual_anchor_ms: 0, rate: 1.0 };

    /// The virtual time now.
    pub fn now(&self) -> EpochMs {
        self.at(real_ms())
    }

    /// The virtual time at a real one (epoch milliseconds).
    pub fn at(&self, real_ms: i64) -> EpochMs {
        let since_anchor_ms = real_ms.saturating_sub(self.real_anchor_ms);
        if self.rate == 1.0 {
            return EpochMs(self.virtual_anchor_ms.saturating_add(since_anchor_ms));
        }
        EpochMs(self.virtual_anchor_ms.saturating_add((since_anchor_ms as f64 * self.rate) as i64))
    }

    /// How long to wait, in real time, until a virtual time has come; zero when it has passed.
    pub fn until(&self, then: EpochMs) -> Duration {
        self.real(then.0.saturating_sub(self.now().0))
    }

    /// A span of virtual milliseconds in real time; negative spans are zero.
    pub fn real(&self, virtual_ms: i64) -> Duration {
        Duration::from_secs_f64((virtual_ms.max(0) as f64 / self.rate / 1000.0).min(SPAN_MAX_S))
    }
}

/// Longest wait that is handed to a timer: a year.
const SPAN_MAX_S: f64 = 366.0 * 86_400.0;

/// Real epoch milliseconds; a system clock before 1970 counts as 0.
fn real_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_time_is_the_default() {
        assert_eq!(Clock::REAL.at(1_800_000_000_123), EpochMs(1_800_000_000_123));
        assert_eq!(Clock::REAL.real(1_500), Duration::from_millis(1_500));
    }

    #[test]
    fn a_fast_clock_runs_from_its_anchor() {
        let clock = Clock { real_anchor_ms: 1_000, virtual_anchor_ms: 500_000, rate: 1_000.0 };
        assert_eq!(clock.at(1_000), EpochMs(500_000));
        assert_eq!(clock.at(1_060), EpochMs(560_000));
        assert_eq!(clock.real(60_000), Duration::from_millis(60));
        assert_eq!(clock.real(-5), Duration::ZERO);
        assert_eq!(clock.until(EpochMs(i64::MIN)), Duration::ZERO);
    }
}
