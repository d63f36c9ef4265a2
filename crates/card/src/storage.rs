//! What survives power loss: entries by key, and the journal of their changes.
//!
//! Everything persistent is an entry. What changes during one command is collected and leaves as **one** journal
//! record, so that after a cut at any byte the card is as before the command or as after it.
//!
//! ```text
//! record = length of payload (4) | payload | CRC-32 of payload (4)
//! payload = { key (4) | length (4), FFFFFFFF: removed | bytes }*
//! ```

use simtide_protocol::scp80::crc32;
use std::collections::{BTreeMap, BTreeSet};
use zeroize::Zeroize;

/// Largest payload of one record: more than any card holds.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// The length that stands for a removed entry.
const REMOVED: u32 = u32::MAX;

/// What an entry is about; together with an index it is the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub(crate) enum Kind {
    /// Name of the profile, to refuse a journal of another one.
    Profile = 0x01,
    /// ICCID and EID.
    Identity = 0x02,
    /// Content of a file, by file.
    Content = 0x10,
    /// State and size of a file, by file.
    Attributes = 0x11,
    /// Definition of a file made by CREATE FILE, by file.
    Created = 0x12,
    /// A PIN or code with its counters, by place.
    Pin = 0x20,
    /// K, OPc, algorithm.
    Subscriber = 0x30,
    /// Highest sequence numbers.
    SequenceNumbers = 0x31,
    /// The personalization application's own: see `subscription`.
    Personalization = 0x32,
    /// An OTA key set with its counter, by index.
    KeySet = 0x40,
    /// PSK identity and key.
    Psk = 0x41,
    /// A load file, by place.
    LoadFile = 0x50,
    /// An application instance, by place.
    Instance = 0x51,
    /// Data objects stored by STORE DATA, by tag.
    StoredData = 0x52,
    /// Version of the operating system.
    OperatingSystem = 0x60,
    /// The recurring-poll agent's own state.
    Poll = 0x70,
}

/// Why a journal cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// Nothing whole is in it: the card was never stored.
    #[error("the journal holds no complete record: personalise the card again")]
    Empty,
    /// A record in the middle is damaged; what follows cannot be trusted.
    #[error("the journal is damaged at byte {at}, before its end: restore the card from a copy")]
    Damaged {
        /// Where the damaged record starts.
        at: usize,
    },
    /// It belongs to a card of another profile.
    #[error("the journal belongs to a card of profile {found}, not {expected}: use that profile")]
    Profile {
        /// The profile that was given.
        expected: String,
        /// The profile that stands in the journal.
        found: String,
    },
}

/// The entries of one card.
#[derive(Default)]
pub(crate) struct Storage {
    entries: BTreeMap<u32, Box<[u8]>>,
    changed: BTreeSet<u32>,
}

fn key(kind: Kind, index: u16) -> u32 {
    u32::from(kind as u16) << 16 | u32::from(index)
}

impl Storage {
    pub(crate) fn get(&self, kind: Kind, index: u16) -> Option<&[u8]> {
        self.entries.get(&key(kind, index)).map(AsRef::as_ref)
    }

    /// Stores an entry; what it was before is wiped.
    pub(crate) fn put(&mut self, kind: Kind, index: u16, bytes: &[u8]) {
        let key = key(kind, index);
        if self.entries.get(&key).is_some_and(|old| old.as_ref() == bytes) {
            return;
        }
        if let Some(mut old) = self.entries.insert(key, bytes.into()) {
            old.zeroize();
        }
        self.changed.insert(key);
    }

    pub(crate) fn remove(&mut self, kind: Kind, index: u16) {
        let key = key(kind, index);
        if let Some(mut old) = self.entries.remove(&key) {
            old.zeroize();
            self.changed.insert(key);
        }
    }

    /// The entries of a kind, with their indexes, ascending.
    pub(crate) fn all(&self, kind: Kind) -> impl Iterator<Item = (u16, &[u8])> {
        self.entries
            .range(key(kind, 0)..=key(kind, u16::MAX))
            // The low half of the key is the index.
            .map(|(key, bytes)| (*key as u16, bytes.as_ref()))
    }

    /// The first index that a kind does not use.
    pub(crate) fn free_index(&self, kind: Kind) -> u16 {
        (0..u16::MAX).find(|index| self.get(kind, *index).is_none()).unwrap_or(u16::MAX)
    }

    /// One journal record of what has changed since the last call.
    pub(crate) fn take_changes(&mut self) -> Option<Vec<u8>> {
        let changed = std::mem::take(&mut self.changed);
        (!changed.is_empty()).then(|| self.record(changed.iter()))
    }

    /// One journal record of everything.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        self.record(self.entries.keys())
    }

    fn record<'a>(&self, keys: impl Iterator<Item = &'a u32>) -> Vec<u8> {
        let mut record = vec![0; 4];
        for key in keys {
            record.extend_from_slice(&key.to_be_bytes());
            match self.entries.get(key) {
                Some(bytes) => {
                    record.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
                    record.extend_from_slice(bytes);
                }
                None => record.extend_from_slice(&REMOVED.to_be_bytes()),
            }
        }
        let payload_size = record.len() - 4;
        record[..4].copy_from_slice(&(payload_size as u32).to_be_bytes());
        let check = crc32(&record[4..]);
        record.extend_from_slice(&check.to_be_bytes());
        record
    }

    /// Replays a journal; a last record that is not whole is as if it had never been begun.
    pub(crate) fn restore(journal: &[u8]) -> Result<Self, JournalError> {
        let mut storage = Self::default();
        let mut at = 0;
        while let Some((payload, size)) = whole_record(&journal[at..]) {
            storage.replay(payload).ok_or(JournalError::Damaged { at })?;
            at += size;
        }
        // A record that ends within the journal and does not check out is damage, unless nothing follows it.
        let announced = journal[at..].first_chunk().map(|length| u32::from_be_bytes(*length) as usize);
        if announced.is_some_and(|length| length <= PAYLOAD_BYTES_MAX && at + 8 + length < journal.len()) {
            return Err(JournalError::Damaged { at });
        }
        if at == 0 { Err(JournalError::Empty) } else { Ok(storage) }
    }

    fn replay(&mut self, mut payload: &[u8]) -> Option<()> {
        while !payload.is_empty() {
            let (key, rest) = payload.split_first_chunk()?;
            let (length, rest) = rest.split_first_chunk()?;
            let (key, length) = (u32::from_be_bytes(*key), u32::from_be_bytes(*length));
            payload = if length == REMOVED {
                self.entries.remove(&key);
                rest
            } else {
                let (bytes, rest) = rest.split_at_checked(length as usize)?;
                self.entries.insert(key, bytes.into());
                rest
            };
        }
        Some(())
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.entries.values_mut().for_each(|bytes| bytes.zeroize());
    }
}

/// The payload of the record at the start, and the record's size.
fn whole_record(journal: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = journal.split_first_chunk()?;
    let length = u32::from_be_bytes(*length) as usize;
    let (payload, rest) = rest.split_at_checked(length)?;
    let check = rest.first_chunk()?;
    (crc32(payload) == u32::from_be_bytes(*check)).then_some((payload, length + 8))
}

/// How much of a journal is whole: a shell cuts off the rest before it appends.
pub fn whole_journal(journal: &[u8]) -> usize {
    let mut at = 0;
    while let Some((_, size)) = whole_record(&journal[at..]) {
        at += size;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_cut_at_any_byte_is_one_of_the_states_that_were() {
        let mut storage = Storage::default();
        let mut journal = Vec::new();
        let mut states = Vec::new();
        for step in 0..4_u8 {
            storage.put(Kind::Content, u16::from(step), &vec![step; 3 * usize::from(step)]);
            storage.put(Kind::Pin, 0, &[step]);
            storage.remove(Kind::Content, 1);
            journal.extend(storage.take_changes().unwrap());
            states.push((journal.len(), storage.entries.clone()));
        }
        assert_eq!(storage.take_changes(), None);
        for cut in 0..=journal.len() {
            let expected = states.iter().rev().find(|(length, _)| *length <= cut);
            match (Storage::restore(&journal[..cut]), expected) {
                (Ok(restored), Some((length, entries))) => {
                    assert_eq!(restored.entries, *entries);
                    assert_eq!(whole_journal(&journal[..cut]), *length);
                }
                (Err(JournalError::Empty), None) => {}
                _ => panic!("cut at {cut}"),
            }
        }
        assert_eq!(Storage::restore(&storage.snapshot()).unwrap().entries, storage.entries);
    }

    #[test]
    fn damage_in_the_middle_is_not_taken_for_a_cut() {
        let mut storage = Storage::default();
        let mut journal = Vec::new();
        for step in 0..3_u8 {
            storage.put(Kind::Content, 0, &[step; 8]);
            journal.extend(storage.take_changes().unwrap());
        }
        let size = journal.len() / 3;
        journal[size + 10] ^= 1;
        assert!(matches!(Storage::restore(&journal), Err(JournalError::Damaged { at }) if at == size));
    }
}
