//! Short messages put together again: parts in any order, twice, interleaved with other senders'.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::ids::EpochMs;

use super::SmsError;
use super::udh::{Concatenation, Element, UserDataHeader};

/// What a [`Reassembly`] holds at most. A full one forgets what waited longest, so strangers cannot block it for
/// good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Incomplete messages at once.
    pub open_max: usize,
    /// Bytes of one message.
    pub size_max: usize,
    /// Milliseconds that an incomplete message is kept after its last new part.
    pub timeout_ms: i64,
}

/// Parts of messages that are not complete. `K` says who sent them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reassembly<K> {
    limits: Limits,
    /// In the order of their last new part.
    open: VecDeque<Open<K>>,
}

/// What became of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// The message is complete.
    Whole(Assembled),
    /// Other parts are missing.
    Waiting,
    /// This part was there already.
    Duplicate,
}

/// A complete message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembled {
    /// The information elements of all parts without the concatenation ones.
    pub elements: Vec<Element>,
    /// The data of all parts, without headers.
    pub data: Vec<u8>,
    /// How many short messages it took.
    pub parts: u8,
}

/// Why a part is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReassemblyError {
    /// Its header is malformed.
    #[error(transparent)]
    Header(#[from] SmsError),
    /// The whole would be too long.
    #[error("the parts of this message have more than the {0} bytes that are allowed together")]
    TooLong(usize),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Open<K> {
    sender: K,
    reference: u16,
    wide: bool,
    total: u8,
    since: EpochMs,
    parts: BTreeMap<u8, Part>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    elements: Vec<Element>,
    data: Vec<u8>,
}

impl Limits {
    /// What a card can afford.
    pub const CARD: Limits = Limits { open_max: 4, size_max: 4096, timeout_ms: 24 * 3_600_000 };
    /// What a platform keeps per subscriber.
    pub const PLATFORM: Limits = Limits { open_max: 4, size_max: 8192, timeout_ms: 24 * 3_600_000 };
}

impl Assembled {
    /// Whether there is an element of this kind in any part.
    pub fn contains(&self, id: u8) -> bool {
        self.elements.iter().any(|element| element.id == id)
    }
}

impl<K: Eq> Reassembly<K> {
    /// Empty.
    pub fn new(limits: Limits) -> Self {
        Self { limits, open: VecDeque::new() }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes the user data of one message that has a header (TP-UDHI). A message that is no part of several is whole
    /// at once.
    ///
    /// A part that comes again with other contents starts the message anew: references are reused.
    pub fn accept(&mut self, now: EpochMs, sender: K, user_data: &[u8]) -> Result<Arrival, ReassemblyError> {
        self.expire(now);
        let (header, body) = UserDataHeader::split(user_data)?;
        let concatenation = header.concatenation()?;
        let mut elements = header.elements;
        elements.retain(|e| !matches!(e.id, Element::CONCATENATION | Element::CONCATENATION_WIDE));
        let Some(Concatenation { reference, wide, total, number }) =
            concatenation.filter(|part| part.total > 1)
        else {
            return Ok(Arrival::Whole(Assembled { elements, data: body.to_vec(), parts: 1 }));
        };
        let known = self.open.iter().position(|open| {
            open.sender == sender && open.reference == reference && open.wide == wide && open.total == total
        });
        let mut open = match known.and_then(|at| self.open.remove(at)) {
            Some(open) => open,
            None => Open { sender, reference, wide, total, since: now, parts: BTreeMap::new() },
        };
        let part = Part { elements, data: body.to_vec() };
        match open.parts.get(&number) {
            Some(known) if *known == part => {
                self.open.push_back(open);
                self.open.make_contiguous().sort_by_key(|open| open.since);
                return Ok(Arrival::Duplicate);
            }
            Some(_) => open.parts.clear(),
            None => {}
        }
        let size: usize = open.parts.values().map(|part| part.data.len()).sum();
        if size + part.data.len() > self.limits.size_max {
            return Err(ReassemblyError::TooLong(self.limits.size_max));
        }
        open.since = now;
        open.parts.insert(number, part);
        if open.parts.len() == usize::from(total) {
            let (mut elements, mut data) = (Vec::new(), Vec::new());
            for part in open.parts.into_values() {
                elements.extend(part.elements);
                data.extend(part.data);
            }
            return Ok(Arrival::Whole(Assembled { elements, data, parts: total }));
        }
        while self.open.len() >= self.limits.open_max.max(1) {
            self.open.pop_front();
        }
        self.open.push_back(open);
        Ok(Arrival::Waiting)
    }

    /// Forgets what has waited too long.
    pub fn expire(&mut self, now: EpochMs) {
        let timeout_ms = self.limits.timeout_ms;
        self.open.retain(|open| now.ms_since(open.since) < timeout_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sms::{PacketKind, Reference, segment};

    const NOW: EpochMs = EpochMs(1_000);

    fn parts(seed: u8, reference: u8, size: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let packet: Vec<u8> = (0..size).map(|at| (at as u8).wrapping_mul(7) ^ seed).collect();
        let parts = segment(&packet, PacketKind::Command, Reference::after(reference - 1)).unwrap();
        (packet, parts)
    }

    fn whole(arrival: Result<Arrival, ReassemblyError>) -> Assembled {
        match arrival {
            Ok(Arrival::Whole(assembled)) => assembled,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn parts_backwards_twice_and_interleaved_with_another_sender() {
        let mut reassembly = Reassembly::new(Limits::CARD);
        let (packet_a, parts_a) = parts(1, 5, 500);
        let (packet_b, parts_b) = parts(2, 5, 500);
        for at in [3, 2, 1] {
            assert_eq!(reassembly.accept(NOW, "a", &parts_a[at]), Ok(Arrival::Waiting));
            assert_eq!(reassembly.accept(NOW, "a", &parts_a[at]), Ok(Arrival::Duplicate));
            assert_eq!(reassembly.accept(NOW, "b", &parts_b[3 - at]), Ok(Arrival::Waiting));
        }
        let a = whole(reassembly.accept(NOW, "a", &parts_a[0]));
        assert!(a.contains(Element::COMMAND_PACKET) && a.parts == 4);
        assert_eq!(a.data, packet_a);
        assert_eq!(whole(reassembly.accept(NOW, "b", &parts_b[3])).data, packet_b);
        assert!(reassembly.is_empty());
    }

    #[test]
    fn a_reused_reference_starts_anew() {
        let mut reassembly = Reassembly::new(Limits::CARD);
        let (_, old) = parts(1, 9, 300);
        let (packet, new) = parts(2, 9, 300);
        reassembly.accept(NOW, (), &old[0]).unwrap();
        reassembly.accept(NOW, (), &old[1]).unwrap();
        // The second part differs from the one that is there: nothing of the old message may be mixed in.
        for part in &new[1..] {
            assert_eq!(reassembly.accept(NOW, (), part), Ok(Arrival::Waiting));
        }
        assert_eq!(whole(reassembly.accept(NOW, (), &new[0])).data, packet);
    }

    #[test]
    fn the_oldest_gives_way_at_the_limit() {
        let mut reassembly = Reassembly::new(Limits { open_max: 2, ..Limits::CARD });
        let (_, parts) = parts(1, 1, 200);
        for (at, sender) in ["a", "b", "c"].into_iter().enumerate() {
            let now = EpochMs(at as i64);
            assert_eq!(reassembly.accept(now, sender, &parts[0]), Ok(Arrival::Waiting));
        }
        assert_eq!(
            reassembly.accept(NOW, "a", &parts[1]),
            Ok(Arrival::Waiting),
            "its first part is forgotten"
        );
        whole(reassembly.accept(NOW, "c", &parts[1]));
    }

    #[test]
    fn what_waits_too_long_or_grows_too_large_is_dropped() {
        let limits = Limits { open_max: 2, size_max: 250, timeout_ms: 1_000 };
        let mut reassembly = Reassembly::new(limits);
        let (_, parts) = parts(1, 1, 260);
        reassembly.accept(EpochMs(0), (), &parts[0]).unwrap();
        assert_eq!(reassembly.accept(EpochMs(10), (), &parts[1]), Err(ReassemblyError::TooLong(250)));
        assert!(reassembly.is_empty());
        reassembly.accept(EpochMs(0), (), &parts[0]).unwrap();
        reassembly.expire(EpochMs(999));
        assert!(!reassembly.is_empty());
        reassembly.expire(EpochMs(1_000));
        assert!(reassembly.is_empty());
    }

    #[test]
    fn one_part_of_one_is_whole() {
        let mut reassembly = Reassembly::new(Limits::CARD);
        let message = [0x07, 0x70, 0x00, 0x00, 0x03, 0x01, 0x01, 0x01, 0xAB];
        let assembled = whole(reassembly.accept(NOW, (), &message));
        assert_eq!((assembled.data.as_slice(), assembled.elements.len()), (&[0xAB][..], 1));
        assert!(matches!(reassembly.accept(NOW, (), &[9]), Err(ReassemblyError::Header(_))));
    }
}
