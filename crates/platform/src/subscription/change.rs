//! One change: its record.

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::{CardId, ChangeId, EpochMs, Imsi, Msisdn};

use super::polls::InPoll;
use super::request::{Evidence, Request, Side, Terms};
use super::types::{CardRefusal, Command, Identity, PacketKind, Raised, Reason, State};

/// Times of state changes kept at most; the first and the latest win.
pub const STEPS_MAX: usize = 24;
/// How often register 2 is asked before the message has left.
pub const TRIES_MAX: u16 = 12;
/// How often the personalization message is sent, each time with a new counter, when fences prove that it has not arrived.
pub const SENDS_MAX: u8 = 3;
/// Seconds that the message waits for other packets of the card to end.
pub const QUEUE_WITHIN_S: u32 = 3 * 24 * 3_600;
/// Validity of the personalization message in seconds.
pub const SEND_VALIDITY_S: u32 = 24 * 3_600;
/// Validity of a fence in seconds.
pub const FENCE_VALIDITY_S: u32 = 6 * 3_600;
/// Seconds in which register 2 is asked to take identity 2 back.
pub const GIVE_BACK_WITHIN_S: u32 = 7 * 24 * 3_600;
/// Longest pause between two tries of the same effect, in seconds.
pub const PAUSE_S_MAX: u32 = 3_600;

/// One change of operator: everything that decides about it and nothing secret. Stored as JSON.
///
/// | state | waits for | events | next | deadline |
/// |---|---|---|---|---|
/// | Requested | operator 1, as its rule says | `Consent`, `Acknowledged(Before)` | Authorised; Failed | asked again with growing pauses; Failed at the end of `consent_within_s` |
/// | Authorised | identity 2 of register 2 | `Reserved`, `DidNot(Reserve)` | Reserved; Failed | [`TRIES_MAX`] tries, then Failed |
/// | Reserved | access for identity 2 | `Did(Arm)`, `DidNot(Arm)` | Armed; Failed | [`TRIES_MAX`] tries, then Failed |
/// | Armed | a place for the packet, or a poll | at once, `Tick`, `PollOpened` | Sent; Failed | [`QUEUE_WITHIN_S`], then Failed; by poll first [`super::POLL_WITHIN_S`] |
/// | Sent | the card's proof | `Proof`, `PollEnded`, `Report`, `Seen`, `Lost`, `NotQueued` | Applied, Attached, Refused, Unknown; Armed where nothing has left | validity of the message, then Unknown |
/// | Unknown | the proof of a fence, or register 2 | `Proof(Fence)`, `PollEnded`, `Proof`, `Report`, `Seen` | Applied, Attached, Reverted; Armed (sent again), Refused, Failed, Cancelled only by a fence | none: asks for ever, at most once a day |
/// | Applied | identity 2 in the network | `Seen`, `Report`, `Proof(Fence)` | Attached; Reverted where guarded | none: [`super::Alarm::NotSeen`], and the card is asked |
/// | Attached, guarded | the card's commit | `Report(Committed)`, `Proof(Fence)` | stays, and goes on as below; Reverted | none: the card is asked |
/// | Attached | register 1 takes access away | `Did(Withdraw)` | Withdrawn | none: tried for ever, [`super::Alarm::RegisterRefuses`] |
/// | Withdrawn | register 1 deletes | `Did(Retire)` | Retired | the same |
/// | Retired | operator 1's acknowledgement | `Acknowledged(After)` | Done | none: told for ever, [`super::Alarm::NotAcknowledged`] |
/// | Done | nothing | | | |
/// | Refused, Reverted, Failed, Cancelled | register 2 takes identity 2 back | `Did(Release)`, `Reserved` where it is not known what it holds | closed | [`GIVE_BACK_WITHIN_S`], then closed with [`super::Alarm::RegisterRefuses`] |
/// | any before Sent | | `Cancel` | Cancelled | |
/// | Sent, Unknown | | `Cancel` | Unknown: cancelled as soon as a fence proves identity 1 | |
///
/// # Invariants
/// - B1 at every moment at least one register accepts the identity on the card: `Arm` has been answered before a packet is
///   reserved, `Withdraw` follows B3, `Release` follows B4.
/// - B2 and B8 are the card's: one identity, and identity 2 with the reset after the proof has left.
/// - B3 `Withdraw` and `Retire` are commanded only after register 2 has seen identity 2 and, where guarded, after the card
///   has proven that it committed.
/// - B4 once a packet may have left, `Release` is commanded only after the card's authenticated word that it has identity
///   1, when no copy of the message can have an effect any more: the word is the answer to the last message itself, or
///   that of a fence.
/// - B5 Done and the closed states leave one register that knows the card: the others have answered. The one exception is
///   a register 2 that has not taken identity 2 back within [`GIVE_BACK_WITHIN_S`]: it is on no card.
/// - B6 a wrong admin code ends the change at once; [`admin_code_failures`] counts over changes and locks.
/// - B7 one open change per card is the store's: `PutCase`.
///
/// **The fence.** A message that was given up may still arrive, days later. An Unknown is resolved by the authenticated
/// proof, on the same key set, of a packet with a higher counter than every personalization packet: the card will refuse
/// all of those from then on. What it says without that is believed only where it cannot be overtaken: that identity 2 is
/// there, or was. A copy that went in a poll is fenced by the card's next session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Names it: at the card, at registers, in the API.
    pub id: ChangeId,
    /// IdSC.
    pub card: CardId,
    /// Where the card leaves.
    pub from: Side,
    /// Where it goes.
    pub to: Side,
    /// Identity 1.
    pub imsi: Imsi,
    /// Its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msisdn: Option<Msisdn>,
    /// What holds.
    pub terms: Terms,
    /// The user's agreement.
    pub evidence: Evidence,
    /// Where it stands.
    pub state: State,
    /// Identity 2, once register 2 has given it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Why it ended, or is ending, without success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// When it entered which state; the first is the request.
    pub steps: Vec<(EpochMs, State)>,
    /// What people had to look at: each kind once, with its latest time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<Raised>,
    /// What register 2 may hold for it.
    pub(super) reservation: Reservation,
    /// Operator 1 has acknowledged the notice that belongs to the state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) acknowledged: bool,
    /// The guarded card has proven that it keeps identity 2.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) committed: bool,
    /// Somebody wants to stop it as soon as it is certain that the card has identity 1.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) give_up: bool,
    /// Packets.
    pub(super) packets: Packets,
    /// How often the effect of this state was tried.
    #[serde(default)]
    pub(super) tries: u16,
    /// How often its register has said that the identity is not there.
    #[serde(default)]
    pub(super) absences: u8,
    /// How often the notice was.
    #[serde(default)]
    pub(super) notices: u16,
    /// When register 2 first let identity 2 in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) armed_at: Option<EpochMs>,
    /// When the effect is tried again, or the state's deadline comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) due: Option<EpochMs>,
    /// When the notice is sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) notice_due: Option<EpochMs>,
    /// When the card is asked again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fence_due: Option<EpochMs>,
}

/// What register 2 may hold for a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Reservation {
    /// Nothing, for sure.
    #[default]
    None,
    /// It is being asked for the first time since that was sure.
    Asked,
    /// Perhaps an identity: it was asked, and no answer settled it.
    Perhaps,
    /// Identity 2.
    Held,
}

/// The change's packets, by counter: all are of the key set of the personalization application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Packets {
    /// Times the personalization message was given to the store.
    pub(super) sent: u8,
    /// Times that it found no place.
    #[serde(default)]
    pub(super) waits: u16,
    /// Times a fence was.
    pub(super) fences: u16,
    /// The commit with a packet of this kind was asked for, and nobody has said what came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) asked: Option<PacketKind>,
    /// Highest counter of a personalization packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) last: Option<u64>,
    /// A personalization packet that may still have an effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) live: Option<u64>,
    /// What a session of the card carries.
    #[serde(default)]
    pub(super) in_poll: InPoll,
}

impl Change {
    /// Whether it still has something to do. A card has one open change at most.
    pub fn is_open(&self) -> bool {
        match self.state {
            State::Done => false,
            state if state.is_closing() => self.reservation != Reservation::None,
            _ => true,
        }
    }

    /// When `Event::Tick` is to come; `None`: it is closed.
    pub fn due(&self) -> Option<EpochMs> {
        [self.due, self.notice_due, self.fence_due].into_iter().flatten().min().filter(|_| self.is_open())
    }

    /// The packet of which nobody has said what came of its commit: after a start the shell looks for its row and
    /// answers `Event::Queued` or `Event::NotQueued`.
    pub fn awaits_queue(&self) -> Option<PacketKind> {
        self.packets.asked
    }

    /// Whether `Event::Cancel` stops it at once.
    pub fn may_be_cancelled(&self) -> bool {
        matches!(self.state, State::Requested | State::Authorised | State::Reserved | State::Armed)
    }

    /// Keeps the alarms among the commands; those of one kind are one.
    pub(super) fn keep_alarms(&mut self, now: EpochMs, commands: &[Command]) {
        for command in commands {
            let Command::Alarm(alarm) = *command else { continue };
            self.alarms.retain(|raised| raised.alarm.kind() != alarm.kind());
            self.alarms.push(Raised { at: now, alarm });
        }
    }

    /// When it began.
    pub fn began_at(&self) -> EpochMs {
        self.steps.first().map_or(EpochMs(0), |(at, _)| *at)
    }
}

/// Wrong admin codes since a change of the card succeeded, from its changes, latest first.
pub fn admin_code_failures<'a>(latest_first: impl IntoIterator<Item = &'a Change>) -> u8 {
    let since_success = latest_first.into_iter().take_while(|change| change.state != State::Done);
    let wrong = since_success.filter(|change| {
        matches!(change.reason, Some(Reason::Card(CardRefusal::WrongCode | CardRefusal::Locked)))
    });
    wrong.count().min(usize::from(u8::MAX)) as u8
}

impl Change {
    /// Begins a change that was admitted.
    pub fn begin(now: EpochMs, request: Request) -> (Change, Vec<Command>) {
        let change = Change {
            id: request.id,
            card: request.card,
            from: request.from,
            to: request.to,
            imsi: request.imsi,
            msisdn: request.msisdn,
            terms: request.terms,
            evidence: request.evidence,
            state: State::Requested,
            identity: None,
            reason: None,
            steps: vec![(now, State::Requested)],
            alarms: Vec::new(),
            reservation: Reservation::None,
            acknowledged: false,
            committed: false,
            give_up: false,
            packets: Packets::default(),
            tries: 0,
            absences: 0,
            notices: 0,
            armed_at: None,
            due: None,
            notice_due: None,
            fence_due: None,
        };
        let mut change = change;
        let mut commands = Vec::new();
        change.effect(now, &mut commands);
        (change, commands)
    }
}
