//! The ways that a change can go.

use simtide_device::Kind;
use simtide_platform::subscription::{ConsentRule, State};

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

/// What it does to the parts of the first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    InOrder,
    Reversed,
    /// This one is lost.
    Without(usize),
    /// This one comes again, so many milliseconds later.
    Twice(usize, i64),
    /// This one comes so many milliseconds later.
    Late(usize, i64),
}

/// What the personalization message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Right,
    WrongCode,
    Malformed,
}

impl Content {
    pub const ALL: [Content; 3] = [Content::Right, Content::WrongCode, Content::Malformed];
}

/// Whether the card asks its user, and what the user does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    NotAsked,
    /// Yes, after so many milliseconds.
    Yes(i64),
    No,
    Silent,
    /// Switches the device off over the question; when asked again, yes.
    SwitchesOff,
}

/// One way that a change can go.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub name: String,
    pub consent: ConsentRule,
    /// What operator 1 says when it is asked; `None`: nothing, ever.
    pub granted: Option<bool>,
    pub guarded: bool,
    pub content: Content,
    /// The card has counted too many wrong codes before.
    pub locked: bool,
    pub user: User,
    pub kind: Kind,
    /// What happens to personalization messages, in their order; the last holds for all further ones.
    pub messages: Vec<Air>,
    pub parts: Parts,
    pub fences: Vec<Air>,
    /// What happens to the card's messages.
    pub proofs: Vec<Air>,
    /// The device is off from here to there.
    pub off: Option<(i64, i64)>,
    /// When the card goes into another device.
    pub moves_at: Option<i64>,
    /// Milliseconds that the network takes to accept the phone's first message: the reset waits for it.
    pub sending_ms: i64,
    /// The network takes no message of the phone, so long.
    pub takes_nothing_until_ms: i64,
    /// Network 2 does not let the phone in, so long.
    pub shut_until_ms: i64,
    /// Network 2 lets the phone in without a challenge: a guarded card does not learn of it.
    pub unchallenged: bool,
    /// When somebody on the air replays and forges.
    pub attacks_at: &'static [i64],
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
    pub fn new(name: impl Into<String>, end: State) -> Scenario {
        Scenario {
            name: name.into(),
            consent: ConsentRule::InformAfter,
            granted: Some(true),
            guarded: false,
            content: Content::Right,
            locked: false,
            user: User::NotAsked,
            kind: Kind::Phone,
            messages: vec![Air::Arrives],
            parts: Parts::InOrder,
            fences: vec![Air::Arrives],
            proofs: vec![Air::Arrives],
            off: None,
            moves_at: None,
            sending_ms: 2_000,
            takes_nothing_until_ms: 0,
            shut_until_ms: 0,
            unchallenged: false,
            attacks_at: &[],
            blind: false,
            busy_until_ms: 0,
            cancel_at: None,
            resolve_at: None,
            notices_lost: 0,
            end: Some(end),
        }
    }

    pub fn asks_user(&self) -> bool {
        self.user != User::NotAsked
    }
}

/// All of them.
pub fn scenarios() -> Vec<Scenario> {
    let mut all = plain();
    all.extend(air());
    all.extend(parts());
    all.extend(people());
    all.extend(phones());
    all.extend(guarded());
    all.extend(attacked());
    all
}

fn way(name: impl Into<String>, end: State, change: impl FnOnce(&mut Scenario)) -> Scenario {
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
            (way.off, way.sending_ms) = (Some((8_000, 3 * DAY_MS)), HOUR_MS);
        }),
        way("the reset comes late", Done, |way| way.sending_ms = 5 * HOUR_MS),
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
            way.shut_until_ms = 4 * DAY_MS;
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
    let user = |name, user, end| way(name, end, |way| way.user = user);
    vec![
        user("the user says yes", User::Yes(20_000), Done),
        user("the user says no", User::No, Refused),
        way("the user says no and the proof is lost", Refused, |way| {
            (way.user, way.proofs) = (User::No, vec![Air::Lost, Air::Arrives]);
        }),
        way("the user says no and a copy follows", Refused, |way| {
            (way.user, way.messages) = (User::No, vec![Air::Twice(2_000)]);
        }),
        user("the user never answers", User::Silent, Refused),
        user("the user thinks for ten hours", User::Yes(10 * HOUR_MS), Done),
        way("asked for at once while the user thinks", Done, |way| {
            (way.user, way.resolve_at) = (User::Yes(HOUR_MS), Some(10 * MINUTE_MS));
        }),
        way("cancelled while the user thinks", Done, |way| {
            (way.user, way.cancel_at) = (User::Yes(HOUR_MS), Some(10 * MINUTE_MS));
        }),
        user("the device is switched off over the question", User::SwitchesOff, Done),
        way("the device has no display", Refused, |way| (way.kind, way.user) = (Kind::Meter, User::Silent)),
        way("the admin code is wrong", Refused, |way| way.content = Content::WrongCode),
        way("the admin code is wrong and the proof is lost", Refused, |way| {
            (way.content, way.proofs) = (Content::WrongCode, vec![Air::Lost, Air::Arrives]);
        }),
        way("the card is locked", Refused, |way| way.locked = true),
        way("the message is malformed", Refused, |way| way.content = Content::Malformed),
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

/// A message takes three parts or more.
fn parts() -> Vec<Scenario> {
    use Parts::{Late, Reversed, Twice, Without};
    use State::Done;
    let mut all = vec![way("the parts come in reverse", Done, |way| way.parts = Reversed)];
    for part in 0..3 {
        let one = |what: &str, parts| way(format!("part {part} {what}"), Done, |way| way.parts = parts);
        all.push(one("is lost", Without(part)));
        all.push(one("comes twice", Twice(part, 500)));
        all.push(one("comes twice, days later", Twice(part, 2 * DAY_MS)));
        all.push(one("comes an hour late", Late(part, HOUR_MS)));
        all.push(one("comes after the fence", Late(part, 2 * DAY_MS)));
    }
    all
}

/// What becomes of the device.
fn phones() -> Vec<Scenario> {
    use State::Done;
    vec![
        way("the network takes no proof", Done, |way| way.takes_nothing_until_ms = 20 * MINUTE_MS),
        way("the network takes no proof for a minute", Done, |way| way.takes_nothing_until_ms = 70_000),
        way("the card moves to another device before the message", Done, |way| way.moves_at = Some(2_000)),
        way("the card moves to another device between two parts", Done, |way| way.moves_at = Some(5_700)),
        way("the card moves to another device before the reset", Done, |way| {
            (way.moves_at, way.sending_ms) = (Some(8_000), HOUR_MS);
        }),
        way("the card moves to another device over the question", Done, |way| {
            (way.moves_at, way.user) = (Some(10_000), User::Yes(20_000));
        }),
        way("the card moves to another device before it attaches", Done, |way| way.moves_at = Some(11_000)),
        way("the device is off over the question", Done, |way| {
            (way.off, way.user) = (Some((10_000, HOUR_MS)), User::Yes(20_000));
        }),
        way("the device is off between two parts", Done, |way| way.off = Some((5_700, HOUR_MS))),
        way("the device is off before it attaches", Done, |way| way.off = Some((11_000, 2 * DAY_MS))),
    ]
}

/// Somebody replays and forges at every stage.
fn attacked() -> Vec<Scenario> {
    use State::{Done, Refused, Reverted};
    const TIMES: [i64; 8] = [5_700, 7_000, 9_000, 20_000, MINUTE_MS, HOUR_MS, 2 * DAY_MS, 5 * DAY_MS];
    let attacked = |name: &str, end, change: fn(&mut Scenario)| {
        way(name, end, |way| {
            way.attacks_at = &TIMES;
            change(way);
        })
    };
    vec![
        attacked("attacked", Done, |_| {}),
        attacked("attacked, and the proof is lost", Done, |way| way.proofs = vec![Air::Lost, Air::Arrives]),
        attacked("attacked, and the message is lost", Done, |way| {
            way.messages = vec![Air::Lost, Air::Arrives];
        }),
        attacked("attacked, and the user says no", Refused, |way| way.user = User::No),
        attacked("attacked, guarded, and it commits", Done, |way| way.guarded = true),
        attacked("attacked, guarded, and it goes back", Reverted, |way| {
            (way.guarded, way.shut_until_ms) = (true, DAY_MS);
        }),
    ]
}

fn guarded() -> Vec<Scenario> {
    use Air::{Arrives, Lost};
    use State::{Done, Reverted};
    let guarded = |name: &str, end, change: fn(&mut Scenario)| {
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
        guarded("guarded, seen by register 2, and it goes back", Reverted, |way| way.unchallenged = true),
        guarded("guarded, seen, goes back, and the report is lost", Reverted, |way| {
            (way.unchallenged, way.proofs) = (true, vec![Arrives, Lost, Arrives]);
        }),
        guarded("guarded, goes back, and a copy arrives later", Reverted, |way| {
            (way.shut_until_ms, way.messages) = (DAY_MS, vec![Air::Twice(3 * DAY_MS)]);
        }),
    ]
}
