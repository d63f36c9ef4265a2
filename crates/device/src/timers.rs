//! The eight timers of TIMER MANAGEMENT (ETSI TS 102 223, 6.4.21).

use simtide_protocol::ids::EpochMs;

/// Running and expired timers.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    timers: [Timer; 8],
}

#[derive(Debug, Clone, Copy, Default)]
struct Timer {
    started: EpochMs,
    end: Option<EpochMs>,
    /// It has ended and the card has not been told.
    expired: bool,
}

impl Timers {
    /// Starts timer 1 to 8 anew. A duration of 0 counts as a second, or a card could keep its device spinning.
    pub fn start(&mut self, timer: u8, now: EpochMs, duration_s: u32) {
        let end = Some(now.plus_s(i64::from(duration_s.max(1))));
        self.timers[place(timer)] = Timer { started: now, end, expired: false };
    }

    /// Stops a timer and gives the seconds that were left; `None` where it did not run.
    pub fn stop(&mut self, timer: u8, now: EpochMs) -> Option<u32> {
        let left_s = self.left_s(timer, now);
        self.timers[place(timer)] = Timer::default();
        left_s
    }

    /// The seconds that are left of a running timer.
    pub fn left_s(&self, timer: u8, now: EpochMs) -> Option<u32> {
        self.timers[place(timer)].end.map(|end| seconds(end.ms_since(now)))
    }

    /// When the next one ends.
    pub fn next(&self) -> Option<EpochMs> {
        self.timers.iter().filter_map(|timer| timer.end).min()
    }

    /// Notes which ones have ended.
    pub fn expire(&mut self, now: EpochMs) {
        for timer in &mut self.timers {
            if timer.end.is_some_and(|end| end <= now) {
                timer.end = None;
                timer.expired = true;
            }
        }
    }

    /// A timer whose end the card is to be told, and how many seconds it ran (7.4.2).
    pub fn take_expired(&mut self, now: EpochMs) -> Option<(u8, u32)> {
        let (number, timer) = (1..).zip(&mut self.timers).find(|(_, timer)| timer.expired)?;
        timer.expired = false;
        Some((number, seconds(now.ms_since(timer.started))))
    }

    /// The card could not take it.
    pub fn expire_again(&mut self, timer: u8) {
        self.timers[place(timer)].expired = true;
    }
}

fn place(timer: u8) -> usize {
    usize::from(timer.wrapping_sub(1) & 7)
}

/// Whole seconds, not below 0.
fn seconds(ms: i64) -> u32 {
    u32::try_from(ms.max(0) / 1000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_end_in_their_order() {
        let mut timers = Timers::default();
        let start = EpochMs(1_000);
        timers.start(8, start, 5);
        timers.start(1, start, 10);
        assert_eq!(timers.next(), Some(EpochMs(6_000)));
        timers.expire(EpochMs(5_999));
        assert_eq!(timers.take_expired(EpochMs(5_999)), None);
        timers.expire(EpochMs(6_000));
        assert_eq!(timers.next(), Some(EpochMs(11_000)));
        assert_eq!(timers.take_expired(EpochMs(6_000)), Some((8, 5)));
        assert_eq!(timers.take_expired(EpochMs(6_000)), None);
        timers.expire_again(8);
        timers.start(8, start, 1);
        assert_eq!(timers.take_expired(EpochMs(6_000)), None);
        assert_eq!(timers.stop(1, EpochMs(4_000)), Some(7));
        assert_eq!(timers.stop(1, EpochMs(4_000)), None);
    }
}
