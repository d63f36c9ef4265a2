//! How fast a link sends: exactly the agreed rate, less while the SMSC throttles.
//!
//! The rate is a line in time: every short message moves the line by one interval, and nothing leaves before the
//! line. A late wake-up catches up at most [`SLACK`], so in any second at most `rate * (1 s + SLACK) + 1` leave.
//!
//! ESME_RTHROTTLED cuts the rate once per congestion (answers to what was sent before the last cut do not cut again),
//! to 70 % of what the SMSC was seen to accept but never to less than half, and the link is silent for one second:
//! SMSCs count by the second. Every acceptance then adds a little, so that the rate climbs by 3 % of the agreed (or
//! learned) one per second.

use std::time::Duration;

/// How much lost time a late wake-up may catch up.
pub const SLACK: Duration = Duration::from_millis(5);
/// Silence after a cut.
const SILENCE: Duration = Duration::from_secs(1);
/// Share of the agreed rate that is regained per second after a cut.
const INCREASE: f64 = 0.03;
/// What a cut leaves of the rate that the SMSC was seen to accept.
const DECREASE: f64 = 0.7;
/// What a cut leaves at least of the rate in force.
const DECREASE_MAX: f64 = 0.5;
/// The slowest rate, in short messages per second: a link that throttles for hours is still probed.
const RATE_MIN: f64 = 0.2;

/// The pace of one link; pure, `now` is the time since the link started.
#[derive(Debug, Clone)]
pub struct Pace {
    /// The agreed rate; `None` is without limit.
    agreed_per_s: Option<f64>,
    /// The rate in force; `None` until a limit is known.
    rate_per_s: Option<f64>,
    /// Nothing leaves before.
    line: Duration,
    /// Throttle answers to what left before this moment belong to the last cut.
    cut_at: Option<Duration>,
    /// The most that a link without an agreed rate saw accepted in one second before a cut.
    learned_per_s: f64,
    seen: Observed,
}

impl Pace {
    /// A pace of `rate_per_s` short messages per second; 0 is without limit.
    pub fn new(rate_per_s: u32) -> Self {
        let agreed = (rate_per_s > 0).then_some(f64::from(rate_per_s));
        Pace {
            agreed_per_s: agreed,
            rate_per_s: agreed,
            line: Duration::ZERO,
            cut_at: None,
            learned_per_s: 1.0,
            seen: Observed::default(),
        }
    }

    /// How many short messages may leave now.
    pub fn allowed(&mut self, now: Duration) -> usize {
        let Some(interval) = self.interval() else { return usize::MAX };
        self.line = self.line.max(now.saturating_sub(SLACK));
        if self.line > now {
            return 0;
        }
        let passed = (now - self.line).as_nanos() / interval.as_nanos().max(1);
        usize::try_from(passed).unwrap_or(usize::MAX).saturating_add(1)
    }

    /// `n` short messages have left.
    pub fn sent(&mut self, n: usize) {
        if let Some(interval) = self.interval() {
            self.line += interval.saturating_mul(u32::try_from(n).unwrap_or(u32::MAX));
        }
    }

    /// When the next short message may leave; `None` is at once.
    pub fn next_at(&self, now: Duration) -> Option<Duration> {
        (self.rate_per_s.is_some() && self.line > now).then_some(self.line)
    }

    /// The SMSC accepted one short message.
    pub fn accepted(&mut self, now: Duration) {
        self.seen.add(now);
        if let (Some(rate), Some(_)) = (self.rate_per_s, self.cut_at) {
            let reference = self.agreed_per_s.unwrap_or(self.learned_per_s);
            let most = self.agreed_per_s.unwrap_or(f64::MAX);
            self.rate_per_s = Some((rate + INCREASE * reference / rate).min(most));
        }
    }

    /// The SMSC throttled a short message that left at `sent_at`. Answers whether the rate was cut.
    pub fn throttled(&mut self, now: Duration, sent_at: Duration) -> bool {
        if self.cut_at.is_some_and(|cut_at| sent_at < cut_at) {
            return false;
        }
        let accepted = self.seen.per_s(now);
        self.learned_per_s = self.learned_per_s.max(accepted);
        let rate = match self.rate_per_s {
            Some(rate) => (rate.min(accepted) * DECREASE).max(rate * DECREASE_MAX),
            None => accepted * DECREASE,
        };
        self.rate_per_s = Some(rate.max(RATE_MIN));
        self.cut_at = Some(now);
        self.line = self.line.max(now + SILENCE);
        true
    }

    /// The rate in force, in short messages per second; `None` is without limit.
    pub fn rate_per_s(&self) -> Option<f64> {
        self.rate_per_s
    }

    fn interval(&self) -> Option<Duration> {
        self.rate_per_s.map(|rate| Duration::from_secs_f64(1.0 / rate))
    }
}

/// What was accepted in this second and in the one before.
#[derive(Debug, Clone, Default)]
struct Observed {
    second: u64,
    count: usize,
    before: usize,
}

impl Observed {
    fn add(&mut self, now: Duration) {
        let second = now.as_secs();
        if second != self.second {
            self.before = if second == self.second + 1 { self.count } else { 0 };
            self.second = second;
            self.count = 0;
        }
        self.count += 1;
    }

    fn per_s(&self, now: Duration) -> f64 {
        let (count, before) = match now.as_secs() - self.second.min(now.as_secs()) {
            0 => (self.count, self.before),
            1 => (0, self.count),
            _ => (0, 0),
        };
        (count.max(before) as f64).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Drives a pace with a wake-up every `step_ms` and returns the times of all that left.
    fn drive(pace: &mut Pace, from_ms: u64, to_ms: u64, step_ms: u64) -> Vec<u64> {
        let mut left = Vec::new();
        for now in (from_ms..to_ms).step_by(step_ms as usize) {
            let n = pace.allowed(ms(now)).min(10_000);
            pace.sent(n);
            (0..n).for_each(|_| pace.accepted(ms(now)));
            left.extend(std::iter::repeat_n(now, n));
        }
        left
    }

    #[test]
    fn the_agreed_rate_is_met_exactly_and_never_exceeded_in_any_second() {
        for rate in [1_u32, 7, 100, 500, 3_000] {
            let left = drive(&mut Pace::new(rate), 10_000, 20_000, 1);
            let expected = rate as usize * 10;
            assert!(left.len().abs_diff(expected) <= 1 + rate as usize / 200 + 1, "{rate}: {}", left.len());
            let bound = (f64::from(rate) * 1.005) as usize + 1;
            for (i, &at) in left.iter().enumerate() {
                let within = left[i..].iter().take_while(|&&other| other < at + 1_000).count();
                assert!(within <= bound, "{rate}: {within} in one second");
            }
        }
    }

    #[test]
    fn an_idle_link_saves_up_no_burst() {
        let mut pace = Pace::new(100);
        assert_eq!(pace.allowed(ms(60_000)), 1);
    }

    #[test]
    fn a_throttle_cuts_once_per_congestion_and_the_rate_climbs_back() {
        let mut pace = Pace::new(100);
        drive(&mut pace, 0, 2_000, 1);
        assert!(pace.throttled(ms(2_000), ms(1_990)));
        assert_eq!(pace.rate_per_s(), Some(70.0));
        assert!(!pace.throttled(ms(2_001), ms(1_995)), "an answer to what left before the cut");
        assert_eq!(pace.rate_per_s(), Some(70.0));
        assert_eq!((pace.allowed(ms(2_999)), pace.next_at(ms(2_001))), (0, Some(ms(3_000))));
        let mut now = 3_000;
        while pace.rate_per_s() < Some(100.0) {
            drive(&mut pace, now, now + 1, 1);
            now += 1;
            assert!(now < 60_000, "the rate does not come back");
        }
        assert!((12_000..=14_500).contains(&now), "3 per second and second: back after 10 s, was {now}");
    }

    #[test]
    fn a_cut_follows_what_was_accepted_but_never_below_half() {
        let mut pace = Pace::new(100);
        (0..80).for_each(|i| pace.accepted(ms(i)));
        assert!(pace.throttled(ms(900), ms(900)));
        assert_eq!(pace.rate_per_s(), Some(56.0));
        assert!(pace.throttled(ms(9_000), ms(9_000)));
        assert_eq!(pace.rate_per_s(), Some(28.0), "nothing was accepted lately");
    }

    #[test]
    fn a_link_without_a_rate_learns_one_from_what_was_accepted() {
        let mut pace = Pace::new(0);
        assert_eq!(pace.allowed(ms(0)), usize::MAX);
        (0..400).for_each(|_| pace.accepted(ms(100)));
        (0..300).for_each(|_| pace.accepted(ms(1_100)));
        assert!(pace.throttled(ms(1_200), ms(1_100)));
        assert_eq!(pace.rate_per_s(), Some(280.0));
        assert_eq!(pace.allowed(ms(1_200)), 0);
        assert_eq!(pace.next_at(ms(1_200)), Some(ms(2_200)));
    }

    #[test]
    fn an_endless_throttle_never_stops_the_probe() {
        let mut pace = Pace::new(10);
        for second in 0..100 {
            pace.throttled(ms(second * 1_000), ms(second * 1_000));
        }
        assert_eq!(pace.rate_per_s(), Some(RATE_MIN));
    }
}
