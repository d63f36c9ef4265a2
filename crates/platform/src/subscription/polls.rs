//! Polls of a card whose change is open: they carry the personalization message, or ask where the change stands.
//!
//! The copy of a poll is the same message as in short messages: a card carries out each change once, so both may be under
//! way. It travels inside a session, so it cannot come late as a packet can; but a session that broke may have left it in
//! the device, to be executed after the platform has given up. The next session of the card is the fence of this copy: a
//! card has one at a time.

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::EpochMs;

use super::change::Change;
use super::machine::Out;
use super::settings::Bearer;
use super::types::{CardSays, State};

/// Seconds that a message waits for the next poll of its card before it goes by short messages: more than the period of
/// every profile.
pub const POLL_WITHIN_S: u32 = 40 * 24 * 3_600;
/// Milliseconds after which a session that has said nothing counts as broken; the shell says so earlier.
const SESSION_MS: i64 = 3_600_000;

/// What a session of the card carries, or has left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum InPoll {
    /// Nothing.
    #[default]
    Nothing,
    /// The question where the change stands.
    Question,
    /// The message.
    Message,
    /// The session is over, and nobody knows whether the card has executed the message, or still will.
    LeftBehind,
}

/// What a poll is to carry for a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PollWork {
    /// The personalization message.
    Personalization,
    /// The question where the change stands.
    Status,
}

impl Change {
    /// What the session that has begun with [`super::Event::PollOpened`] carries.
    pub fn poll_work(&self) -> Option<PollWork> {
        match self.packets.in_poll {
            InPoll::Message => Some(PollWork::Personalization),
            InPoll::Question => Some(PollWork::Status),
            InPoll::Nothing | InPoll::LeftBehind => None,
        }
    }

    /// A session of the card has begun: whatever an earlier one has left behind is dead.
    pub(super) fn poll_opened(&mut self, now: EpochMs) {
        self.packets.in_poll = match self.state {
            State::Armed | State::Sent | State::Unknown if !self.give_up => InPoll::Message,
            State::Sent | State::Unknown => InPoll::Question,
            State::Applied | State::Attached if !self.is_settled() => InPoll::Question,
            _ => InPoll::Nothing,
        };
        if self.state == State::Armed {
            self.note(now, State::Sent);
            self.due = Some(now.plus_ms(SESSION_MS));
        }
    }

    /// What the card has said in the session; `None`: the session is over without an answer.
    pub(super) fn poll_ended(&mut self, now: EpochMs, says: Option<CardSays>, out: &mut Out) {
        let carried = std::mem::take(&mut self.packets.in_poll);
        let Some(says) = says else {
            if matches!(carried, InPoll::Message | InPoll::LeftBehind) {
                self.packets.in_poll = InPoll::LeftBehind;
                // Where packets are under way too, their own time goes on.
                if self.state == State::Sent && !self.has_packets_under_way() {
                    self.unknown(now, out);
                }
            }
            return;
        };
        if !matches!(carried, InPoll::Message | InPoll::Question) {
            // A session that nobody has opened, or one that has been given up already.
            self.packets.in_poll = carried;
            return;
        }
        let is_final = !self.has_packets_under_way();
        self.says(now, says, is_final, out);
    }

    /// Whether a personalization packet may still have an effect.
    fn has_packets_under_way(&self) -> bool {
        self.packets.live.is_some() || self.packets.asked == Some(super::types::PacketKind::Personalization)
    }

    /// Whether a copy in a session may still have an effect.
    pub(super) const fn may_be_in_session(&self) -> bool {
        matches!(self.packets.in_poll, InPoll::Message | InPoll::LeftBehind)
    }

    /// Whether a session carries the message now.
    pub(super) const fn is_in_session(&self) -> bool {
        matches!(self.packets.in_poll, InPoll::Message)
    }

    /// The message does not fit into short messages: it waits for a poll.
    pub(super) fn only_by_poll(&mut self, now: EpochMs, out: &mut Out) {
        self.terms.bearer = Bearer::Poll;
        self.not_queued(now, super::types::PacketKind::Personalization, out);
        if self.state == State::Armed {
            self.due = Some(self.poll_within(now));
        }
    }

    /// Until when the message waits for a poll alone.
    pub(super) fn poll_within(&self, now: EpochMs) -> EpochMs {
        self.armed_at.unwrap_or(now).plus_ms(i64::from(POLL_WITHIN_S) * 1_000)
    }
}
