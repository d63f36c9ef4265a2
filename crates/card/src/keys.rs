//! OTA key sets, TLS keys, and their replacement.

use crate::card::Card;
use crate::personalization::KeySetPersonalization;
use crate::storage::Kind;
use simtide_protocol::scp80::{CmacLength, Counter, Key, KeySet};
use zeroize::Zeroizing;

/// One key set as it is stored: counter (5), then KIc, KID, KIK, each behind its length.
struct StoredKeys {
    counter: Counter,
    kic: Option<Key>,
    kid: Option<Key>,
    kik: Option<Key>,
}

impl Card {
    pub(crate) fn set_key_set(&mut self, set: &KeySetPersonalization) {
        let entry = encode(set.counter, [Some(&set.kic), Some(&set.kid), set.kik.as_ref()]);
        self.storage.put(Kind::KeySet, set.index.into(), &entry);
    }

    /// All key sets with their index, as the receiver of secured packets needs them.
    pub(crate) fn keyring(&self) -> Vec<(u8, KeySet)> {
        let sets = self.storage.all(Kind::KeySet).filter_map(|(index, entry)| {
            let index = u8::try_from(index).ok()?;
            let stored = decode(entry)?;
            let mut keys = KeySet::new(stored.kic, stored.kid);
            keys.cmac_length = self.profile.key_set(index).map_or(CmacLength::Eight, |set| set.cmac_length);
            Some((index, keys))
        });
        sets.collect()
    }

    /// The highest counter accepted with each key set.
    pub(crate) fn counters(&self) -> Vec<(u8, Counter)> {
        let sets = self.storage.all(Kind::KeySet);
        sets.filter_map(|(index, entry)| Some((u8::try_from(index).ok()?, decode(entry)?.counter))).collect()
    }

    pub(crate) fn set_counter(&mut self, index: u8, counter: Counter) {
        let Some(stored) = self.storage.get(Kind::KeySet, index.into()).and_then(decode) else { return };
        let entry = encode(counter, [stored.kic.as_ref(), stored.kid.as_ref(), stored.kik.as_ref()]);
        self.storage.put(Kind::KeySet, index.into(), &entry);
    }

    /// The key under which PUT KEY carries keys of this set.
    pub(crate) fn key_encryption_key(&self, index: u8) -> Option<Key> {
        self.storage.get(Kind::KeySet, index.into()).and_then(decode)?.kik
    }

    /// Replaces some keys of a set, by key id: 1 KIc, 2 KID, 3 KIK. The counter starts anew (ETSI TS 102 225, 5.1.4).
    pub(crate) fn replace_keys(&mut self, index: u8, first_key_id: u8, keys: &[Key]) -> bool {
        let stored = self.storage.get(Kind::KeySet, index.into()).and_then(decode);
        let (kic, kid, kik) =
            stored.map_or((None, None, None), |stored| (stored.kic, stored.kid, stored.kik));
        let mut places = [kic.as_ref(), kid.as_ref(), kik.as_ref()];
        for (key_id, key) in (first_key_id..).zip(keys) {
            let Some(place) = places.get_mut(usize::from(key_id).wrapping_sub(1)) else { return false };
            *place = Some(key);
        }
        let entry = encode(Counter::ZERO, places);
        self.storage.put(Kind::KeySet, index.into(), &entry);
        true
    }

    /// Key ids and key sizes of a set, for GET DATA.
    pub(crate) fn key_sizes(&self, index: u8) -> Vec<(u8, u8)> {
        let Some(stored) = self.storage.get(Kind::KeySet, index.into()).and_then(decode) else {
            return Vec::new();
        };
        let keys = [stored.kic, stored.kid, stored.kik];
        (1..).zip(&keys).filter_map(|(id, key)| Some((id, key.as_ref()?.as_bytes().len() as u8))).collect()
    }

    pub(crate) fn set_psk(&mut self, identity: &[u8], key: &Key) {
        let mut entry = Zeroizing::new(vec![key.as_bytes().len() as u8]);
        entry.extend_from_slice(key.as_bytes());
        entry.extend_from_slice(identity);
        self.storage.put(Kind::Psk, 0, &entry);
    }

    /// Identity and key of TLS; `None` where the card has none.
    pub(crate) fn psk(&self) -> Option<(Vec<u8>, Key)> {
        let (length, rest) = self.storage.get(Kind::Psk, 0)?.split_first()?;
        let (key, identity) = rest.split_at_checked((*length).into())?;
        Some((identity.to_vec(), Key::new(key).ok()?))
    }
}

fn encode(counter: Counter, keys: [Option<&Key>; 3]) -> Zeroizing<Vec<u8>> {
    let mut entry = Zeroizing::new(Vec::with_capacity(5 + 3 * 33));
    entry.extend_from_slice(&counter.to_bytes());
    for key in keys {
        let bytes = key.map(Key::as_bytes).unwrap_or_default();
        entry.push(bytes.len() as u8);
        entry.extend_from_slice(bytes);
    }
    entry
}

fn decode(entry: &[u8]) -> Option<StoredKeys> {
    let (counter, mut rest) = entry.split_first_chunk::<5>()?;
    let mut next = || -> Option<Option<Key>> {
        let (length, after) = rest.split_first()?;
        let (key, after) = after.split_at_checked((*length).into())?;
        rest = after;
        Some(Key::new(key).ok())
    };
    Some(StoredKeys { counter: Counter::from(*counter), kic: next()?, kid: next()?, kik: next()? })
}
