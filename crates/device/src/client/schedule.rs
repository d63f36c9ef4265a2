//! When the client module asks, and how long it waits after a failure.

use simtide_protocol::ids::EpochMs;

/// First pause after a failure, in seconds.
pub const RETRY_S_MIN: u32 = 10;
/// Longest pause after failures, in seconds.
pub const RETRY_S_MAX: u32 = 3_600;
/// How far a period or a pause is shifted at random, in percent: devices that woke together drift apart.
pub const JITTER_PERCENT: u32 = 20;
/// Shortest time between two queries that come from notifications, in seconds: nobody drives a device by messages.
pub const NOTIFIED_S_MIN: u32 = 10;

/// The times of one device.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// The next query without any other reason.
    query_at: Option<EpochMs>,
    /// Nothing is asked before.
    not_before: Option<EpochMs>,
    /// The last query that a notification led to.
    notified_at: Option<EpochMs>,
    failures: u32,
}

impl Schedule {
    /// A query has succeeded; the next one comes after about so many seconds.
    pub fn succeeded(&mut self, now: EpochMs, period_s: u32, random: u32) {
        self.failures = 0;
        self.not_before = None;
        let at = now.plus_ms(jittered_ms(period_s, random));
        // A notification may have come while the query was under way.
        let owed = self.notified_at.filter(|later| *later > now);
        self.query_at = Some(owed.map_or(at, |later| at.min(later)));
    }

    /// A query has failed: a pause that doubles, or the one that the server asked for.
    pub fn failed(&mut self, now: EpochMs, retry_after_s: Option<u32>, random: u32) {
        let doubled_s = RETRY_S_MIN.saturating_mul(1 << self.failures.min(16)).min(RETRY_S_MAX);
        self.failures = self.failures.saturating_add(1);
        let pause_s = retry_after_s.map_or(doubled_s, |asked_s| asked_s.clamp(1, RETRY_S_MAX));
        // Never before the server wants to be asked again.
        let jitter_ms = i64::from(random % (pause_s * 10 * JITTER_PERCENT + 1));
        let at = now.plus_s(i64::from(pause_s)).plus_ms(jitter_ms);
        self.not_before = Some(at);
        self.query_at = Some(at);
    }

    /// Whether a notification may lead to a query now. One that comes too soon after another leads to one later: what it
    /// tells of may have come to wait after the query before.
    pub fn notified(&mut self, now: EpochMs) -> bool {
        let gap_ms = i64::from(NOTIFIED_S_MIN) * 1000;
        match self.notified_at.map(|before| (before, now.ms_since(before))) {
            // The later query is on its way.
            Some((_, since_ms)) if (-gap_ms..0).contains(&since_ms) => false,
            Some((before, since_ms)) if (0..gap_ms).contains(&since_ms) => {
                let later = before.plus_s(NOTIFIED_S_MIN.into());
                self.notified_at = Some(later);
                let later = self.not_before.map_or(later, |at| at.max(later));
                self.query_at = Some(self.query_at.map_or(later, |at| at.min(later)));
                false
            }
            _ => {
                self.notified_at = Some(now);
                true
            }
        }
    }

    /// Whether the time of the next query has come.
    pub fn is_due(&self, now: EpochMs) -> bool {
        self.query_at.is_some_and(|at| at <= now)
    }

    /// Whether the pause after a failure is over.
    pub fn may_ask(&self, now: EpochMs) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// A clock that was set back must not put the device to sleep for years.
    pub fn keep_near(&mut self, now: EpochMs, period_s: u32) {
        let far = now.plus_s(2 * i64::from(period_s.max(RETRY_S_MAX)));
        for at in [&mut self.query_at, &mut self.not_before] {
            if at.is_some_and(|at| at > far) {
                *at = Some(now);
            }
        }
    }

    /// When to come back.
    pub fn next(&self) -> Option<EpochMs> {
        self.query_at
    }

    /// Another card, another start.
    pub fn forget(&mut self) {
        *self = Self { notified_at: self.notified_at, ..Self::default() };
    }
}

/// So many seconds, up to [`JITTER_PERCENT`] more or less, in milliseconds.
fn jittered_ms(seconds: u32, random: u32) -> i64 {
    let span = i64::from(seconds) * 1000 * i64::from(JITTER_PERCENT) / 100;
    let shift = if span == 0 { 0 } else { i64::from(random) % (2 * span + 1) - span };
    i64::from(seconds) * 1000 + shift
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: EpochMs = EpochMs(1_800_000_000_000);

    #[test]
    fn periods_differ_and_stay_near() {
        let mut times = std::collections::BTreeSet::new();
        for random in (0..u32::MAX).step_by(100_000_007) {
            let mut schedule = Schedule::default();
            schedule.succeeded(NOW, 86_400, random);
            let after_ms = schedule.next().unwrap().ms_since(NOW);
            assert!((69_120_000..=103_680_000).contains(&after_ms), "{after_ms}");
            assert!(!schedule.is_due(NOW) && schedule.may_ask(NOW));
            times.insert(after_ms);
        }
        assert!(times.len() > 40);
    }

    #[test]
    fn pauses_double_up_to_their_maximum() {
        let mut schedule = Schedule::default();
        let mut last_ms = 0;
        for _ in 0..40 {
            schedule.failed(NOW, None, 0);
            let pause_ms = schedule.next().unwrap().ms_since(NOW);
            assert!(pause_ms >= last_ms && pause_ms <= i64::from(RETRY_S_MAX) * 1200);
            assert!(!schedule.may_ask(NOW));
            last_ms = pause_ms;
        }
        assert!(last_ms >= i64::from(RETRY_S_MAX) * 1000);
        schedule.failed(NOW, Some(120), 7);
        assert!((120_000..=144_000).contains(&schedule.next().unwrap().ms_since(NOW)));
        schedule.succeeded(NOW, 10, 0);
        schedule.failed(NOW, None, 0);
        assert_eq!(schedule.next().unwrap().ms_since(NOW), i64::from(RETRY_S_MIN) * 1000);
    }

    #[test]
    fn a_notification_that_comes_too_soon_leads_to_a_query_later() {
        let mut schedule = Schedule::default();
        schedule.succeeded(NOW, 86_400, 0);
        assert!(schedule.notified(NOW));
        let later = NOW.plus_s(NOTIFIED_S_MIN.into());
        for ms in [1, 500, 9_999] {
            assert!(!schedule.notified(NOW.plus_ms(ms)));
            // The query of the first one is answered meanwhile.
            schedule.succeeded(NOW.plus_ms(ms), 86_400, 0);
            assert_eq!(schedule.next(), Some(later), "{ms}");
        }
        assert!(schedule.is_due(later));
        schedule.succeeded(later, 86_400, 0);
        assert!(schedule.next().unwrap() > later.plus_s(3_600), "once");
        // Where the server has asked for a pause, that is kept.
        assert!(schedule.notified(later.plus_s(60)));
        schedule.failed(later.plus_s(61), Some(120), 0);
        assert!(!schedule.notified(later.plus_s(62)));
        let next = schedule.next().unwrap();
        assert!(next >= later.plus_s(61 + 120) && schedule.may_ask(next));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_stop_it() {
        let mut schedule = Schedule::default();
        schedule.succeeded(NOW, 86_400, 0);
        let earlier = NOW.plus_s(-20 * 366 * 86_400);
        schedule.keep_near(earlier, 86_400);
        assert!(schedule.is_due(earlier));
        assert!(schedule.notified(NOW) && !schedule.notified(NOW.plus_s(1)) && schedule.notified(earlier));
    }
}
