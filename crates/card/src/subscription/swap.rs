//! One identity for another, whole or not at all: staged, proven, carried out by the reset.

use super::memory::index;
use crate::card::Card;
use crate::storage::Kind;
use simtide_protocol::ids::ChangeId;
use simtide_protocol::personalization::{Answer, Message, Refusal, State};
use zeroize::Zeroizing;

/// The length that stands for an entry that was not there.
const ABSENT: u32 = u32::MAX;

impl Card {
    /// Keeps the message for the reset after its proof. Until then everything is as it was.
    pub(super) fn stage(&mut self, message: &Message, agreed: bool) -> Answer {
        let change = message.change;
        let Ok(body) = message.body() else {
            let refused = State::Refused(Refusal::Malformed);
            return self.remember(Answer { change, state: refused, agreed });
        };
        let mut entry = Zeroizing::new(Vec::with_capacity(9 + body.len()));
        entry.extend_from_slice(&change.to_bytes());
        entry.push(0);
        entry.extend_from_slice(&body);
        self.put_own(index::STAGED, &entry);
        self.remember(Answer { change, state: State::Staged, agreed })
    }

    /// Whether a reset is to change the identity.
    pub(super) fn waits_for_reset(&self) -> bool {
        self.own(index::STAGED).is_some() || self.trial().is_some_and(|trial| trial.reverting)
    }

    /// The change that is staged and whose proof has not left.
    pub(super) fn unproven(&self) -> Option<ChangeId> {
        let (change, rest) = self.own(index::STAGED)?.split_first_chunk()?;
        (rest.first() == Some(&0)).then_some(ChangeId::from_bytes(*change))
    }

    /// The proof has left: from now on every reset carries the change out.
    pub(super) fn release_staged(&mut self) {
        let Some(entry) = self.own(index::STAGED) else { return };
        let mut entry = Zeroizing::new(entry.to_vec());
        if let Some(proven) = entry.get_mut(8) {
            *proven = 1;
        }
        self.put_own(index::STAGED, &entry);
    }

    /// The reset: what is staged becomes what is, or identity 1 comes back. One record of the journal.
    pub(crate) fn swap_identity(&mut self) {
        if self.unproven().is_some() {
            // The power went before the proof had left: identity 1 still has to carry it.
            return;
        }
        if let Some((change, message)) = self.staged() {
            self.remove_own(index::STAGED);
            let Some(message) = message else {
                // Invariant: what was staged had been read before.
                self.remember(Answer { change, state: State::Refused(Refusal::Malformed), agreed: false });
                return;
            };
            self.become_other(&message);
        } else {
            self.count_reset();
        }
    }

    fn staged(&self) -> Option<(ChangeId, Option<Message>)> {
        let (change, rest) = self.own(index::STAGED)?.split_first_chunk()?;
        let change = ChangeId::from_bytes(*change);
        let body = rest.get(1..).unwrap_or_default();
        Some((change, Message::of_body(change, body).ok()))
    }

    fn become_other(&mut self, message: &Message) {
        let agreed = self.remembered_agreement(message.change);
        let contents = self.contents(message);
        let touched: Vec<(Kind, u16)> = contents
            .keys()
            .filter_map(|path| Some((Kind::Content, self.content_entry(path)?)))
            .chain([
                (Kind::Subscriber, 0),
                (Kind::SequenceNumbers, 0),
                (Kind::Personalization, index::SERVICE_NUMBER),
            ])
            .collect();
        if message.options.guard_s.is_some() {
            let kept = self.keep(&touched);
            self.put_own(index::KEPT, &kept);
        }
        for (path, content) in &contents {
            self.write_file(path, content);
        }
        self.set_subscriber(&message.identity);
        // The array of sequence numbers is the old network's.
        self.storage.remove(Kind::SequenceNumbers, 0);
        if let Some(number) = message.service_number {
            self.put_own(index::SERVICE_NUMBER, format!("+{number}").as_bytes());
        }
        let state = match message.options.guard_s {
            Some(guard_s) => {
                self.begin_trial(message.change, guard_s, message.options.wait_for_service);
                State::Trial
            }
            None => State::Active,
        };
        self.remember(Answer { change: message.change, state, agreed });
    }

    /// The entries of identity 1 as they are, those included that are not there.
    fn keep(&self, entries: &[(Kind, u16)]) -> Zeroizing<Vec<u8>> {
        let size: usize = entries
            .iter()
            .map(|(kind, place)| 8 + self.storage.get(*kind, *place).map_or(0, <[u8]>::len))
            .sum();
        let mut kept = Zeroizing::new(Vec::with_capacity(size));
        for (kind, place) in entries {
            kept.extend_from_slice(&(*kind as u16).to_be_bytes());
            kept.extend_from_slice(&place.to_be_bytes());
            match self.storage.get(*kind, *place) {
                Some(bytes) => {
                    kept.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
                    kept.extend_from_slice(bytes);
                }
                None => kept.extend_from_slice(&ABSENT.to_be_bytes()),
            }
        }
        kept
    }

    /// Identity 1 comes back, entry by entry, and identity 2 is wiped.
    pub(super) fn bring_back(&mut self) {
        let kept = Zeroizing::new(self.own(index::KEPT).unwrap_or_default().to_vec());
        self.remove_own(index::KEPT);
        let mut rest = &kept[..];
        while let Some(((kind, place, bytes), after)) = next_kept(rest) {
            match bytes {
                Some(bytes) => self.storage.put(kind, place, bytes),
                None => self.storage.remove(kind, place),
            }
            rest = after;
        }
    }
}

type Kept<'a> = (Kind, u16, Option<&'a [u8]>);

/// The next entry that was kept, and what follows it.
fn next_kept(bytes: &[u8]) -> Option<(Kept<'_>, &[u8])> {
    let (kind, rest) = bytes.split_first_chunk()?;
    let (place, rest) = rest.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let kinds = [Kind::Content, Kind::Subscriber, Kind::SequenceNumbers, Kind::Personalization];
    let kind = kinds.into_iter().find(|known| *known as u16 == u16::from_be_bytes(*kind))?;
    let (place, length) = (u16::from_be_bytes(*place), u32::from_be_bytes(*length));
    if length == ABSENT {
        return Some(((kind, place, None), rest));
    }
    let (value, rest) = rest.split_at_checked(length as usize)?;
    Some(((kind, place, Some(value)), rest))
}
