//! The clock that devices see: real time, or a faster one from an anchor on.
//!
//! Sockets keep to real time. The anchors are the ones that the platform's configuration names, so that both agree.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use simtide_protocol::ids::EpochMs;

/// Longest wait that is handed to a timer, in seconds: a year.
const WAIT_MAX_S: f64 = 366.0 * 86_400.0;

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
    pub const REAL: Self = Self { real_anchor_ms: 0, virtual_anchor_ms: 0, rate: 1.0 };

    /// The virtual time now.
    pub fn now(&self) -> EpochMs {
        let since_anchor_ms = real_now().0.saturating_sub(self.real_anchor_ms);
        if self.rate == 1.0 {
            return EpochMs(self.virtual_anchor_ms.saturating_add(since_anchor_ms));
        }
        // Casts of floats saturate.
        EpochMs(self.virtual_anchor_ms.saturating_add((since_anchor_ms as f64 * self.rate) as i64))
    }

    /// How long a span of virtual time lasts in real time; nothing for a negative one.
    pub fn real(&self, virtual_ms: i64) -> Duration {
        Duration::from_secs_f64((virtual_ms.max(0) as f64 / self.rate / 1000.0).min(WAIT_MAX_S))
    }
}

/// Real time; a system clock before 1970 counts as 0.
pub fn real_now() -> EpochMs {
    EpochMs(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64))
}

impl FromStr for Clock {
    type Err = BadClock;

    /// `real`, or `REAL_MS:VIRTUAL_MS:RATE`.
    fn from_str(text: &str) -> Result<Self, BadClock> {
        if text == "real" {
            return Ok(Self::REAL);
        }
        let bad = || BadClock(text.to_owned());
        let fields: Vec<&str> = text.split(':').collect();
        let [real, virtual_anchor, rate] = fields[..] else { return Err(bad()) };
        let clock = Self {
            real_anchor_ms: real.parse().map_err(|_| bad())?,
            virtual_anchor_ms: virtual_anchor.parse().map_err(|_| bad())?,
            rate: rate.parse().map_err(|_| bad())?,
        };
        if clock.rate.is_finite() && clock.rate > 0.0 { Ok(clock) } else { Err(bad()) }
    }
}

/// A text that describes no clock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no clock: use `real`, or REAL_MS:VIRTUAL_MS:RATE with a rate above 0")]
pub struct BadClock(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read() {
        assert_eq!("real".parse(), Ok(Clock::REAL));
        let clock = Clock { real_anchor_ms: 1_000, virtual_anchor_ms: -5, rate: 2.5 };
        assert_eq!("1000:-5:2.5".parse(), Ok(clock));
        for wrong in ["", "1", "1:2", "1:2:0", "1:2:-1", "1:2:nan", "1:2:inf", "1:2:3:4", "a:2:3"] {
            assert!(wrong.parse::<Clock>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn spans() {
        let clock = Clock { real_anchor_ms: 0, virtual_anchor_ms: 0, rate: 1_000.0 };
        assert_eq!(clock.real(60_000), Duration::from_millis(60));
        assert_eq!(clock.real(-1), Duration::ZERO);
        assert!(clock.real(i64::MAX) <= Duration::from_secs_f64(WAIT_MAX_S));
    }
}
