//! Which bearer carries a delivery: by presence, coverage, size, urgency and cost.
//!
//! Every bearer is given the time after which it is expected to have reached the card, and every short message counts
//! as so many seconds of waiting, by urgency: the one with the least is tried first. Two of the three are passive: a
//! card that polls, or a device that asks on the second interface, is served whoever's turn it is.

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::{EpochMs, ServiceNumber};

/// What carries a delivery to its card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bearer {
    /// A script of the card's next poll.
    Poll,
    /// Short messages through the SMS server.
    Sms,
    /// The second interface: the entitlement channel, whatever IP connection the device has.
    Ip,
}

impl Bearer {
    /// All of them.
    pub const ALL: [Bearer; 3] = [Bearer::Poll, Bearer::Sms, Bearer::Ip];

    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Bearer::Poll => "poll",
            Bearer::Sms => "sms",
            Bearer::Ip => "ip",
        }
    }
}

/// What brought something that a card says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brought {
    /// The bearer.
    pub by: Bearer,
    /// Where it was addressed to: the originating address that the card's device had set, where that is a number.
    pub to: Option<ServiceNumber>,
}

impl From<Bearer> for Brought {
    fn from(by: Bearer) -> Brought {
        Brought { by, to: None }
    }
}

/// A set of bearers; in JSON a list of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Bearer>", into = "Vec<Bearer>")]
pub struct Bearers(u8);

impl Bearers {
    /// All bearers.
    pub const ALL: Bearers = Bearers(0b111);
    /// No bearer.
    pub const NONE: Bearers = Bearers(0);

    /// Whether it is in the set.
    pub const fn contains(self, bearer: Bearer) -> bool {
        self.0 & (1 << bearer as u8) != 0
    }

    /// The set with one more.
    #[must_use]
    pub const fn with(self, bearer: Bearer) -> Bearers {
        Bearers(self.0 | 1 << bearer as u8)
    }

    /// Whether nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in it.
    pub fn iter(self) -> impl Iterator<Item = Bearer> {
        Bearer::ALL.into_iter().filter(move |bearer| self.contains(*bearer))
    }
}

impl FromIterator<Bearer> for Bearers {
    fn from_iter<T: IntoIterator<Item = Bearer>>(bearers: T) -> Bearers {
        bearers.into_iter().fold(Bearers::NONE, Bearers::with)
    }
}

impl From<Vec<Bearer>> for Bearers {
    fn from(bearers: Vec<Bearer>) -> Bearers {
        bearers.into_iter().collect()
    }
}

impl From<Bearers> for Vec<Bearer> {
    fn from(bearers: Bearers) -> Vec<Bearer> {
        bearers.iter().collect()
    }
}

/// How much waiting a short message is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    /// Whenever the card comes by itself.
    Low,
    /// Soon, at reasonable cost.
    #[default]
    Normal,
    /// At once, whatever it costs: also by SMS while a device has it over IP.
    High,
}

/// What is known of where a card can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Presence {
    /// It has a telephone number, and there is a link to an SMSC.
    pub sms: bool,
    /// There is a second interface to offer on.
    pub ip: bool,
    /// The last short message that reached its device.
    pub sms_reached: Option<EpochMs>,
    /// The last short message that the network gave up or let expire.
    pub sms_failed: Option<EpochMs>,
    /// When its device was last authenticated on the second interface.
    pub ip_seen: Option<EpochMs>,
    /// When it polls by itself; `None`: it does not.
    pub next_poll: Option<EpochMs>,
}

impl Presence {
    /// Whether the card seems to be without cellular coverage: what was last sent to it was not delivered.
    pub fn without_coverage(&self) -> bool {
        self.sms_failed.is_some_and(|failed| self.sms_reached.is_none_or(|reached| reached < failed))
    }
}

/// How deliveries are carried: `[delivery]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long a delivery is tried unless it says otherwise, in seconds.
    pub validity_s: u32,
    /// How long the network may try one set of short messages, in seconds.
    pub sms_validity_s: u32,
    /// Sets of short messages with the same packet at most.
    pub sms_attempts_max: u8,
    /// Short messages of one packet at most; a larger one goes by the other bearers only.
    pub sms_parts_max: u8,
    /// What one short message is worth, in seconds of waiting, at normal urgency; 60 times as much at low urgency,
    /// nothing at high.
    pub sms_worth_s: u32,
    /// A device that was authenticated on the second interface within so many seconds counts as present there.
    pub ip_fresh_s: u32,
    /// How long a device that is present takes to fetch and to bring the proof, in seconds.
    pub ip_wait_s: u32,
    /// What waiting for a device that has not been seen there counts as, in seconds; the same for short messages to
    /// a card that seems to be without coverage.
    pub absent_s: u32,
    /// How late a poll may be, in seconds.
    pub poll_grace_s: u32,
    /// Pause after all bearers were tried, in seconds; doubled with every round.
    pub round_pause_s: u32,
    /// Plain secured data of one packet at most, in bytes.
    pub packet_bytes_max: u32,
    /// How often the platform looks by itself for what is available for cards whose devices a push reaches, in seconds;
    /// beside that whenever a campaign has changed.
    pub look_every_s: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            validity_s: 7 * 86_400,
            sms_validity_s: 900,
            sms_attempts_max: 4,
            sms_parts_max: 16,
            sms_worth_s: 60,
            ip_fresh_s: 86_400,
            ip_wait_s: 300,
            absent_s: 86_400,
            poll_grace_s: 7_200,
            round_pause_s: 600,
            packet_bytes_max: 1_024,
            look_every_s: 3_600,
        }
    }
}

impl Settings {
    /// Seconds that a short message is worth at this urgency.
    fn worth_s(&self, urgency: Urgency) -> i64 {
        let normal = i64::from(self.sms_worth_s);
        match urgency {
            Urgency::Low => normal * 60,
            Urgency::Normal => normal,
            Urgency::High => 0,
        }
    }
}

/// The bearers that can carry something of `sms_parts` short messages before `limit`, the best first.
pub fn order(
    allowed: Bearers,
    presence: &Presence,
    sms_parts: u8,
    urgency: Urgency,
    settings: &Settings,
    now: EpochMs,
    limit: EpochMs,
) -> Vec<Bearer> {
    let seconds_to = |date: EpochMs| date.ms_since(now) / 1_000;
    let cost_s = |bearer| match bearer {
        Bearer::Sms if !presence.sms || sms_parts > settings.sms_parts_max => None,
        Bearer::Sms => {
            let away = if presence.without_coverage() { i64::from(settings.absent_s) } else { 0 };
            Some(away + i64::from(sms_parts) * settings.worth_s(urgency))
        }
        Bearer::Ip if !presence.ip => None,
        Bearer::Ip => {
            let fresh_s = i64::from(settings.ip_fresh_s);
            let here = presence.ip_seen.is_some_and(|seen| -seconds_to(seen) <= fresh_s);
            Some(i64::from(if here { settings.ip_wait_s } else { settings.absent_s }))
        }
        Bearer::Poll => presence.next_poll.filter(|date| *date < limit).map(|date| seconds_to(date).max(0)),
    };
    let mut bearers: Vec<_> =
        allowed.iter().filter_map(|bearer| cost_s(bearer).map(|cost| (cost, bearer))).collect();
    bearers.sort_by_key(|(cost, _)| *cost);
    bearers.into_iter().map(|(_, bearer)| bearer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: EpochMs = EpochMs(1_000_000_000);
    const LIMIT: EpochMs = EpochMs(1_000_000_000 + 7 * 86_400_000);

    fn chosen(presence: Presence, parts: u8, urgency: Urgency) -> Vec<Bearer> {
        order(Bearers::ALL, &presence, parts, urgency, &Settings::default(), NOW, LIMIT)
    }

    fn reachable() -> Presence {
        Presence { sms: true, ip: true, next_poll: Some(NOW.plus_s(86_400 * 3)), ..Presence::default() }
    }

    #[test]
    fn a_covered_card_gets_short_messages_and_one_without_coverage_gets_ip() {
        use Bearer::{Ip, Poll, Sms};
        assert_eq!(chosen(reachable(), 1, Urgency::Normal), [Sms, Ip, Poll]);
        let failed = Presence { sms_failed: Some(NOW), ..reachable() };
        assert_eq!(chosen(failed, 1, Urgency::Normal)[0], Ip);
        let back = Presence { sms_reached: Some(NOW.plus_s(1)), ..failed };
        assert_eq!(chosen(back, 1, Urgency::Normal)[0], Sms);
    }

    #[test]
    fn size_cost_and_urgency_weigh_against_presence() {
        use Bearer::{Ip, Poll, Sms};
        let present = Presence { ip_seen: Some(NOW.plus_s(-60)), ..reachable() };
        assert_eq!(chosen(present, 4, Urgency::Normal), [Sms, Ip, Poll], "four messages are cheap enough");
        assert_eq!(chosen(present, 6, Urgency::Normal), [Ip, Sms, Poll], "six are not");
        assert_eq!(chosen(present, 6, Urgency::High), [Sms, Ip, Poll]);
        assert_eq!(chosen(present, 17, Urgency::High), [Ip, Poll], "too large");
        let soon = Presence { next_poll: Some(NOW.plus_s(600)), ..reachable() };
        assert_eq!(chosen(soon, 1, Urgency::Low), [Poll, Sms, Ip]);
        assert_eq!(chosen(soon, 1, Urgency::Normal), [Sms, Poll, Ip]);
    }

    #[test]
    fn what_is_not_there_or_not_allowed_is_not_tried() {
        assert_eq!(chosen(Presence::default(), 1, Urgency::High), []);
        let late = Presence { next_poll: Some(LIMIT), ..Presence::default() };
        assert_eq!(chosen(late, 1, Urgency::Low), []);
        let sms_only = Bearers::NONE.with(Bearer::Sms);
        let settings = Settings::default();
        let only = order(sms_only, &reachable(), 1, Urgency::Low, &settings, NOW, LIMIT);
        assert_eq!(only, [Bearer::Sms]);
        assert_eq!(serde_json::to_string(&Bearers::ALL).unwrap(), r#"["poll","sms","ip"]"#);
    }
}
