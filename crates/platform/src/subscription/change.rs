//! One change: its record.

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::{CardId, ChangeId, EpochMs, Imsi, Msisdn};

use super::request::{Evidence, Request, Side, Terms};
use super::types::{CardRefusal, Command, Event, Identity, PacketKind, Reason, State};

/// Times of state changes kept at most; the latest win.
pub const STEPS_MAX: usize = 24;

/// One change of operator: everything that decides about it and nothing secret. Stored as JSON.
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
    /// What register 2 may hold for it.
    pub(super) reservation: Reservation,
    /// Operator 1 has acknowledged the notice that belongs to the state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) acknowledged: bool,
    /// Somebody wants to stop it as soon as it is certain that the card has identity 1.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) give_up: bool,
    /// Packets.
    pub(super) packets: Packets,
    /// How often the effect of this state was tried.
    #[serde(default)]
    pub(super) tries: u16,
    /// How often the notice was.
    #[serde(default)]
    pub(super) notices: u16,
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
    /// What the card said of this change when it could still be overtaken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refusal: Option<CardRefusal>,
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

    /// When [`Event::Tick`] is to come; `None`: it is closed.
    pub fn due(&self) -> Option<EpochMs> {
        [self.due, self.notice_due, self.fence_due].into_iter().flatten().min().filter(|_| self.is_open())
    }

    /// The packet of which nobody has said what came of its commit: after a start the shell looks for its row and
    /// answers [`Event::Queued`] or [`Event::NotQueued`].
    pub fn awaits_queue(&self) -> Option<PacketKind> {
        self.packets.asked
    }

    /// Whether [`Event::Cancel`] stops it at once.
    pub fn may_be_cancelled(&self) -> bool {
        matches!(self.state, State::Requested | State::Authorised | State::Reserved | State::Armed)
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
            reservation: Reservation::None,
            acknowledged: false,
            give_up: false,
            packets: Packets::default(),
            tries: 0,
            notices: 0,
            due: None,
            notice_due: None,
            fence_due: None,
        };
        (change, Vec::new())
    }

    /// Takes an event in. Every event is possible in every state, once or repeatedly, in any order.
    pub fn handle(&mut self, _now: EpochMs, _event: Event) -> Vec<Command> {
        Vec::new()
    }
}
