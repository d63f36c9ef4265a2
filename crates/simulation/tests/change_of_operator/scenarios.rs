//! The ways that a change can go.

use simtide_platform::subscription::{ConsentRule, State};

use crate::card::Mood;
use crate::world::{DAY_MS, HOUR_MS, MINUTE_MS};

/// What the air does to a message or a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Air {
    Arrives,
    Lost,
    /// So many milliseconds later than usual.
    Late(i64),
    /// Twice, the copy so many milliseconds later.
    Twice(i64),
}

/// One way that a change can go.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub name: &'static str,
    pub consent: ConsentRule,
    /// What operator 1 says when it is asked; `None`: nothing, ever.
    pub granted: Option<bool>,
    pub guarded: bool,
    pub mood: Mood,
    /// What happens to personalization messages, in their order; the last holds for all further ones.
    pub messages: Vec<Air>,
    pub fences: Vec<Air>,
    /// What happens to the card's answers and reports.
    pub proofs: Vec<Air>,
    /// The device is off from here to there.
    pub off: Option<(i64, i64)>,
    /// Milliseconds between the proof and the reset.
    pub reset_ms: i64,
    /// Network 2 does not let the phone in, so long.
    pub shut_until_ms: i64,
    /// The device is let in, and the card does not learn of it before its guard ends.
    pub forgets_commit: bool,
    /// Register 2 never reports attaches.
    pub blind: bool,
    /// Another packet of the card is open so long.
    pub busy_until_ms: i64,
    pub cancel_at: Option<i64>,
    pub resolve_at: Option<i64>,
    /// Notices that operator 1 does not acknowledge.
    pub notices_lost: u32,
    /// How it ends when nothing else goes wrong; `None`: only the invariants are judged.
    pub end: Option<State>,
}

impl Scenario {
    pub fn new(name: &'static str, end: State) -> Scenario {
        Scenario {
            name,
            consent: ConsentRule::InformAfter,
            granted: Some(true),
            guarded: false,
            mood: Mood::Good,
            messages: vec![Air::Arrives],
            fences: vec![Air::Arrives],
            proofs: vec![Air::Arrives],
            off: None,
            reset_ms: 2_000,
            shut_until_ms: 0,
            forgets_commit: false,
            blind: false,
            busy_until_ms: 0,
            cancel_at: None,
            resolve_at: None,
            notices_lost: 0,
            end: Some(end),
        }
    }
}

/// All of them.
pub fn scenarios() -> Vec<Scenario> {
    let mut all = plain();
    all.extend(air());
    all.extend(people());
    all.extend(guarded());
    all
}

fn way(name: &'static str, end: State, change: impl FnOnce(&mut Scenario)) -> Scenario {
    let mut scenario = Scenario::new(name, end);
    change(&mut scenario);
    scenario
}

fn plain() -> Vec<Scenario> {
    use State::{Done, Failed};
    vec![
        way("nothing goes wrong", Done, |_| {}),
        way("operator 1 is asked and agrees", Done, |way| way.consent = ConsentRule::Ask),
        way("operator 1 says no", Failed, |way| {
            (way.consent, way.granted) = (ConsentRule::Ask, Some(false));
        }),
        way("operator 1 never answers", Failed, |way| {
            (way.consent, way.granted) = (ConsentRule::Ask, None);
        }),
        way("operator 1 is informed before", Done, |way| {
            (way.consent, way.notices_lost) = (ConsentRule::InformBefore, 2);
        }),
        way("operator 1 acknowledges late", Done, |way| way.notices_lost = 6),
        way("another packet of the card is open", Done, |way| way.busy_until_ms = 30 * MINUTE_MS),
        way("another packet is open for ever", Failed, |way| way.busy_until_ms = 25 * DAY_MS),
        way("the device is off for two days", Done, |way| way.off = Some((3_000, 2 * DAY_MS))),
        way("the device is off between proof and reset", Done, |way| {
            way.off = Some((7_000, 3 * DAY_MS));
        }),
        way("the reset comes late", Done, |way| way.reset_ms = 5 * HOUR_MS),
        way("network 2 is shut for a day", Done, |way| way.shut_until_ms = DAY_MS),
        way("register 2 reports nothing", State::Applied, |way| way.blind = true),
    ]
}

fn air() -> Vec<Scenario> {
    use Air::{Arrives, Late, Lost, Twice};
    use State::{Done, Failed};
    vec![
        way("the message is lost once", Done, |way| way.messages = vec![Lost, Arrives]),
        way("the message is always lost", Failed, |way| way.messages = vec![Lost]),
        way("the message arrives twice", Done, |way| way.messages = vec![Twice(1_000)]),
        way("a copy arrives days later", Done, |way| way.messages = vec![Twice(4 * DAY_MS)]),
        way("the message arrives after the fence", Done, |way| {
            way.messages = vec![Late(2 * DAY_MS), Arrives];
        }),
        way("all messages arrive after the fence", Failed, |way| way.messages = vec![Late(3 * DAY_MS)]),
        way("the message arrives with the fence", Done, |way| {
            way.messages = vec![Late(DAY_MS + 10 * MINUTE_MS - 1), Arrives];
        }),
        way("the proof is lost", Done, |way| way.proofs = vec![Lost, Arrives]),
        way("the proof and five fences are lost", Done, |way| {
            way.messages = vec![Arrives];
            way.reset_ms = 10 * DAY_MS;
            way.proofs = vec![Lost, Lost, Lost, Lost, Lost, Lost, Arrives];
        }),
        way("all proofs are lost", Done, |way| way.proofs = vec![Lost]),
        way("the proof comes late", Done, |way| way.proofs = vec![Late(30 * HOUR_MS), Arrives]),
        way("proofs come twice", Done, |way| way.proofs = vec![Twice(2 * DAY_MS)]),
        way("fences are lost", Done, |way| {
            (way.messages, way.fences) = (vec![Lost, Arrives], vec![Lost, Lost, Arrives]);
        }),
        way("fences come late", Done, |way| {
            (way.messages, way.fences) = (vec![Lost, Arrives], vec![Late(DAY_MS), Late(2 * DAY_MS), Arrives]);
        }),
        way("fences come twice", Done, |way| {
            (way.messages, way.fences) = (vec![Lost, Arrives], vec![Twice(3 * DAY_MS)]);
        }),
    ]
}

fn people() -> Vec<Scenario> {
    use State::{Cancelled, Done, Refused};
    let mood = |name, mood, end| way(name, end, |way| way.mood = mood);
    vec![
        mood("the user says no", Mood::UserNo, Refused),
        way("the user says no and the proof is lost", Refused, |way| {
            (way.mood, way.proofs) = (Mood::UserNo, vec![Air::Lost, Air::Arrives]);
        }),
        way("the user says no and a copy follows", Refused, |way| {
            (way.mood, way.messages) = (Mood::UserNo, vec![Air::Twice(2_000)]);
        }),
        mood("the user never answers", Mood::UserSilent, Refused),
        mood("the user thinks for a minute", Mood::Thinks(MINUTE_MS), Done),
        mood("the user thinks for a day", Mood::Thinks(DAY_MS), Done),
        mood("the user thinks and the device restarts", Mood::ThinksAndReset, Done),
        mood("the device has no display", Mood::NoDisplay, Refused),
        mood("the admin code is wrong", Mood::WrongCode, Refused),
        mood("the card is locked", Mood::Locked, Refused),
        mood("the card is busy once", Mood::BusyOnce, Done),
        mood("the message is malformed", Mood::Malformed, Refused),
        way("cancelled while operator 1 is asked", Cancelled, |way| {
            (way.consent, way.cancel_at) = (ConsentRule::Ask, Some(MINUTE_MS));
        }),
        way("cancelled while the packet waits", Cancelled, |way| {
            (way.busy_until_ms, way.cancel_at) = (HOUR_MS, Some(10 * MINUTE_MS));
        }),
        way("cancelled before the message arrives", Cancelled, |way| {
            (way.messages, way.cancel_at) = (vec![Air::Late(HOUR_MS)], Some(1_000));
        }),
        way("cancelled after the card took it", Done, |way| way.cancel_at = Some(6_000)),
        way("asked for at once", Done, |way| {
            (way.messages, way.resolve_at) = (vec![Air::Late(HOUR_MS), Air::Arrives], Some(10_000));
        }),
    ]
}

fn guarded() -> Vec<Scenario> {
    use Air::{Arrives, Lost};
    use State::{Done, Reverted};
    let guarded = |name, end, change: fn(&mut Scenario)| {
        way(name, end, |way| {
            way.guarded = true;
            change(way);
        })
    };
    vec![
        guarded("guarded, and it commits", Done, |_| {}),
        guarded("guarded, and the commit's report is lost", Done, |way| {
            way.proofs = vec![Arrives, Lost, Arrives];
        }),
        guarded("guarded, and no proof but the fence's comes", Done, |way| {
            way.proofs = vec![Lost, Lost, Lost, Arrives];
        }),
        guarded("guarded, and it goes back", Reverted, |way| way.shut_until_ms = DAY_MS),
        guarded("guarded, and the report of going back is lost", Reverted, |way| {
            (way.shut_until_ms, way.proofs) = (DAY_MS, vec![Arrives, Lost, Arrives]);
        }),
        guarded("guarded, goes back, and all proofs are lost but the last", Reverted, |way| {
            (way.shut_until_ms, way.proofs) = (DAY_MS, vec![Lost, Lost, Lost, Lost, Arrives]);
        }),
        guarded("guarded, seen by register 2, and it goes back", Reverted, |way| way.forgets_commit = true),
        guarded("guarded, seen, goes back, and the report is lost", Reverted, |way| {
            (way.forgets_commit, way.proofs) = (true, vec![Arrives, Lost, Arrives]);
        }),
        guarded("guarded, goes back, and a copy arrives later", Reverted, |way| {
            (way.shut_until_ms, way.messages) = (DAY_MS, vec![Air::Twice(3 * DAY_MS)]);
        }),
    ]
}
