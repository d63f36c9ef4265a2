//! What the application keeps across power loss.

use crate::card::Card;
use crate::storage::Kind;
use simtide_protocol::ids::{ChangeId, Imsi};
use simtide_protocol::personalization::{Answer, CHANGES_MAX, DIGEST_BYTES, OperatorEntry, State, Status};
use simtide_protocol::profile::{FilePath, Profile};
use simtide_protocol::scp80::Counter;
use zeroize::Zeroizing;

/// Entries of the application.
pub(super) mod index {
    /// Admin code (8) and attempts left (1).
    pub(in crate::subscription) const ADMIN_CODE: u16 = 0;
    /// What became of changes.
    pub(in crate::subscription) const CHANGES: u16 = 1;
    /// The message that a reset carries out: change id (8), whether its proof has left (1), body.
    pub(in crate::subscription) const STAGED: u16 = 2;
    /// The entries of identity 1, while identity 2 is on trial.
    pub(in crate::subscription) const KEPT: u16 = 3;
    /// Counter of the card's own messages (5), reference of the last one in parts (1).
    pub(in crate::subscription) const UPLINK: u16 = 4;
    /// Where the card's own messages go.
    pub(in crate::subscription) const SERVICE_NUMBER: u16 = 5;
    /// A change whose outcome is still to be told (8), and how often that was tried (1).
    pub(in crate::subscription) const NOTICE: u16 = 6;
    /// The operators of the menu.
    pub(in crate::subscription) const OPERATORS: u16 = 7;
    /// The trial of identity 2.
    pub(in crate::subscription) const TRIAL: u16 = 8;
}

/// One remembered change: id (8), state, refusal, agreed.
const CHANGE_BYTES: usize = 11;

impl Card {
    /// Reads an entry of the application.
    pub(super) fn own(&self, index: u16) -> Option<&[u8]> {
        self.storage.get(Kind::Personalization, index)
    }

    pub(super) fn put_own(&mut self, index: u16, bytes: &[u8]) {
        self.storage.put(Kind::Personalization, index, bytes);
    }

    pub(super) fn remove_own(&mut self, index: u16) {
        self.storage.remove(Kind::Personalization, index);
    }

    /// The admin code and how often it may still be tried.
    pub(super) fn admin_code(&self) -> Option<(Zeroizing<[u8; 8]>, u8)> {
        let (code, attempts) = self.own(index::ADMIN_CODE)?.split_first_chunk()?;
        Some((Zeroizing::new(*code), *attempts.first()?))
    }

    pub(crate) fn set_admin_code(&mut self, code: &[u8; 8], attempts: u8) {
        let mut entry = Zeroizing::new([0; 9]);
        entry[..8].copy_from_slice(code);
        entry[8] = attempts;
        self.put_own(index::ADMIN_CODE, &entry[..]);
    }

    /// Counts a wrong code; a right one gives all attempts back. How many are left.
    pub(super) fn count_attempt(&mut self, right: bool) -> u8 {
        let Some((code, attempts)) = self.admin_code() else { return 0 };
        let all = self.profile.personalization.attempts;
        let left = if right { all } else { attempts.saturating_sub(1) };
        self.set_admin_code(&code, left);
        left
    }

    fn changes(&self) -> Vec<Answer> {
        let entries = self.own(index::CHANGES).unwrap_or_default().as_chunks::<CHANGE_BYTES>().0;
        let changes = entries.iter().filter_map(|entry| {
            let (change, rest) = entry.split_first_chunk()?;
            let state = State::from_codes(rest[0], Some(rest[1]))?;
            Some(Answer { change: ChangeId::from_bytes(*change), state, agreed: rest[2] != 0 })
        });
        changes.collect()
    }

    /// What became of a change; none for one that was never seen. The user is being asked: that is not stored.
    pub(super) fn remembered(&self, change: ChangeId) -> Option<Answer> {
        let question = self.session.as_ref().and_then(|session| session.applet.question.as_ref());
        if question.is_some_and(|question| question.change() == change) {
            return Some(Answer { change, state: State::Asking, agreed: false });
        }
        self.changes().into_iter().rev().find(|answer| answer.change == change)
    }

    /// Stores what became of a change; the oldest that is over is forgotten where there are too many.
    pub(super) fn remember(&mut self, answer: Answer) -> Answer {
        let mut changes = self.changes();
        match changes.iter_mut().find(|other| other.change == answer.change) {
            Some(other) => *other = answer,
            None => changes.push(answer),
        }
        if changes.len() > CHANGES_MAX {
            let oldest = changes.iter().position(|change| change.state.is_over()).unwrap_or(0);
            changes.remove(oldest);
        }
        let entry: Vec<u8> = changes
            .iter()
            .flat_map(|Answer { change, state, agreed }| {
                let (state, refusal) = state.codes();
                let mut entry = [0; CHANGE_BYTES];
                entry[..8].copy_from_slice(&change.to_bytes());
                entry[8..].copy_from_slice(&[state, refusal.unwrap_or_default(), u8::from(*agreed)]);
                entry
            })
            .collect();
        self.put_own(index::CHANGES, &entry);
        answer
    }

    /// Whether a change is staged or on trial, or its user is being asked.
    pub(super) fn has_open_change(&self) -> bool {
        let asking = self.session.as_ref().is_some_and(|session| session.applet.question.is_some());
        asking || self.own(index::STAGED).is_some() || self.own(index::TRIAL).is_some()
    }

    /// GET STATUS.
    pub(super) fn change_status(&self) -> Status {
        let mut changes = self.changes();
        if let Some(question) = self.session.as_ref().and_then(|session| session.applet.question.as_ref()) {
            if changes.len() == CHANGES_MAX {
                changes.remove(0);
            }
            changes.push(Answer { change: question.change(), state: State::Asking, agreed: false });
        }
        let attempts_left = self.admin_code().map_or(0, |(_, attempts)| attempts);
        Status { changes, digest: self.digest(), attempts_left }
    }

    /// The content of EF.IMSI.
    pub(super) fn imsi_file(&self) -> Option<[u8; 9]> {
        self.read_file(&imsi_path(&self.profile)?)?.try_into().ok()
    }

    /// The digest of the identity that AUTHENTICATE serves; zeros where there is none.
    pub(crate) fn digest(&self) -> [u8; DIGEST_BYTES] {
        let imsi = self.imsi_file().and_then(|file| Imsi::from_file(&file).ok());
        imsi.and_then(|imsi| self.subscriber_digest(&imsi)).unwrap_or_default()
    }

    /// The operators of the menu: those that it was given, else the profile's.
    pub(super) fn operators(&self) -> Vec<OperatorEntry> {
        let given = self.own(index::OPERATORS);
        let given = given.and_then(|list| simtide_protocol::personalization::decode_operators(list).ok());
        given.unwrap_or_else(|| self.profile.personalization.operators.clone())
    }

    pub(super) fn set_operators(&mut self, list: &[u8]) {
        self.put_own(index::OPERATORS, list);
    }

    /// Where the card's own messages go; none where it sends none.
    pub(super) fn service_number(&self) -> Option<String> {
        let stored = self.own(index::SERVICE_NUMBER).and_then(|number| std::str::from_utf8(number).ok());
        let number = stored.unwrap_or(&self.profile.personalization.service_number);
        Some(number.to_owned()).filter(|number| !number.is_empty())
    }

    /// The next counter of the card's own messages, stored before it is used, and the reference for one in parts.
    pub(super) fn next_uplink(&mut self) -> Option<(Counter, u8)> {
        let (last, reference) = match self.own(index::UPLINK) {
            Some(&[a, b, c, d, e, reference]) => (Counter::from([a, b, c, d, e]).value(), reference),
            _ => (0, 0),
        };
        let counter = Counter::new(last.checked_add(1)?)?;
        let reference = reference.wrapping_add(1).max(1);
        let mut entry = counter.to_bytes().to_vec();
        entry.push(reference);
        self.put_own(index::UPLINK, &entry);
        Some((counter, reference))
    }
}

/// Where EF.IMSI lies.
pub(super) fn imsi_path(profile: &Profile) -> Option<FilePath> {
    profile.path_in_application(&Profile::USIM_AID, &[0x6F07])
}
