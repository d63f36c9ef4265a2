//! Both queues of a device and their journal.
//!
//! The two live in one journal, so that a packet's answer enters the outbound queue and the packet leaves the inbound one
//! in the same record: no cut can separate the two.
//!
//! A journal is a sequence of records: length (four bytes, big-endian), CRC-32 of what follows it, and as many bytes of
//! JSON. The last record may be torn by a cut and is then left out. The shell appends what [`Queues::take_changes`] gives
//! and calls [`Queues::stored`] when it is on the disk; before that nothing that follows from it may leave the device.

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::EpochMs;
use simtide_protocol::second_layer::payload::PACKET_BYTES_MAX;
use simtide_protocol::second_layer::{Acknowledged, Item, ItemId, UplinkContent};

use crate::inbound::{CardKey, Inbound, Queued};
use crate::outbound::{Outbound, Pending};

/// Size at which the shell should start the journal anew with [`Queues::snapshot`], in bytes.
pub const JOURNAL_BYTES_MAX: u64 = 1 << 20;
/// Most bytes of one record: a packet in base64 and what stands around it, or many receipts.
const RECORD_BYTES_MAX: usize = PACKET_BYTES_MAX * 2 + 64 * 1024;
/// The version of the format.
const VERSION: u32 = 1;
/// Length and checksum.
const HEAD_BYTES: usize = 8;

const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Record {
    /// The head of a journal: format, and the last number that an uplink got.
    Start { version: u32, last: u64 },
    /// An item has come.
    Fetched { queued: Queued },
    /// A read receipt is owed for an item.
    Owed { card: CardKey, item: ItemId },
    /// The server knows these receipts.
    Receipted { card: CardKey, items: Vec<ItemId> },
    /// The card has answered an item; the answer, where there is one, is on its way.
    Answered { card: CardKey, item: ItemId, uplink: Option<Pending> },
    /// The card has sent something.
    Kept { uplink: Pending },
    /// A service centre has taken an uplink.
    Taken { card: CardKey, n: u64 },
    /// The server has these uplinks.
    Acknowledged { card: CardKey, n: Vec<u64> },
}

/// The inbound and the outbound queue of one device.
#[derive(Debug, Default)]
pub struct Queues {
    inbound: Inbound,
    outbound: Outbound,
    changes: Vec<u8>,
    storing: bool,
}

/// How a journal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// With a whole record.
    Whole,
    /// So many bytes at the end are left out: a record that was being written when the power went.
    Torn(usize),
    /// So many bytes are left out that no cut explains: a record within the journal is damaged. What it said is forgotten:
    /// packets may reach the card again, which refuses them by their counters.
    Damaged(usize),
}

/// Why a journal cannot be used at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// It does not begin as a journal does.
    #[error("the file is no queue of a device: name another one with --queue, or move it away")]
    Foreign,
    /// It was written by another version.
    #[error("the queue has format {0}, this version reads format {VERSION}: use the version that wrote it")]
    Version(u32),
}

/// Why something was not taken into a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// There is no room.
    #[error("the queue is full: it is offered again later")]
    Full,
    /// It waits already, or it has been dealt with and only its receipt is owed.
    #[error("the item is known")]
    Known,
}

impl Queues {
    /// Reads a journal; an empty one gives empty queues. A cut at any byte gives the state before or after the record.
    pub fn from_journal(journal: &[u8]) -> Result<(Queues, Tail), JournalError> {
        let mut queues = Queues::default();
        let mut rest = journal;
        let mut is_first = true;
        while !rest.is_empty() {
            let Some((record, after)) = read(rest) else { break };
            match (&record, is_first) {
                (Record::Start { version, .. }, _) if *version != VERSION => {
                    return Err(JournalError::Version(*version));
                }
                (Record::Start { .. }, _) => {}
                (_, true) => return Err(JournalError::Foreign),
                (_, false) => {}
            }
            queues.apply(record);
            is_first = false;
            rest = after;
        }
        let tail = match rest {
            [] => Tail::Whole,
            // A journal is made with its head in one piece, so a first record is never torn.
            _ if is_first => return Err(JournalError::Foreign),
            rest if is_torn(rest) => Tail::Torn(rest.len()),
            rest => Tail::Damaged(rest.len()),
        };
        Ok((queues, tail))
    }

    /// The whole state as a new journal.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut journal = Vec::new();
        write(&mut journal, &Record::Start { version: VERSION, last: self.outbound.last() });
        for queued in self.inbound.all() {
            write(&mut journal, &Record::Fetched { queued: queued.clone() });
        }
        for (card, item) in self.inbound.receipts() {
            write(&mut journal, &Record::Owed { card: *card, item: item.clone() });
        }
        for uplink in self.outbound.all() {
            write(&mut journal, &Record::Kept { uplink: uplink.clone() });
        }
        journal
    }

    /// The inbound queue.
    pub fn inbound(&self) -> &Inbound {
        &self.inbound
    }

    /// The outbound queue.
    pub fn outbound(&self) -> &Outbound {
        &self.outbound
    }

    /// What is to be appended to the journal. [`Self::stored`] follows when it is on the disk.
    pub fn take_changes(&mut self) -> Option<Vec<u8>> {
        if self.changes.is_empty() {
            return None;
        }
        self.storing = true;
        Some(std::mem::take(&mut self.changes))
    }

    /// What was taken is on the disk.
    pub fn stored(&mut self) {
        self.storing = false;
    }

    /// Whether everything is on the disk.
    pub fn is_durable(&self) -> bool {
        self.changes.is_empty() && !self.storing
    }

    /// Takes an item for a card, with a receipt owed for it. An item that is known gets its receipt again.
    pub fn fetch(&mut self, card: CardKey, item: Item, now: EpochMs) -> Result<(), QueueError> {
        let answered = self.outbound.all().any(|pending| {
            let id = match &pending.content {
                UplinkContent::Proof { id, .. } => id.as_ref(),
                UplinkContent::Submit { .. } => None,
            };
            pending.card == card && id == Some(&item.id)
        });
        let owed = self.inbound.receipts_of(card).any(|owed| *owed == item.id);
        if owed || answered || self.inbound.contains(card, &item.id) {
            if !owed {
                self.change(Record::Owed { card, item: item.id });
            }
            return Err(QueueError::Known);
        }
        if !self.inbound.has_room(item.packet.len()) {
            return Err(QueueError::Full);
        }
        let id = item.id.clone();
        self.change(Record::Fetched { queued: Queued { card, item, at: now } });
        self.change(Record::Owed { card, item: id });
        Ok(())
    }

    /// The server has these read receipts.
    pub fn receipted(&mut self, card: CardKey, items: Vec<ItemId>) {
        if !items.is_empty() {
            self.change(Record::Receipted { card, items });
        }
    }

    /// The card has answered an item: it is forgotten, and what the card said goes up.
    pub fn answered(&mut self, card: CardKey, item: ItemId, content: Option<UplinkContent>) {
        let uplink = content.map(|content| self.pending(card, content));
        self.change(Record::Answered { card, item, uplink });
    }

    /// The card has sent something by itself.
    pub fn keep(&mut self, card: CardKey, content: UplinkContent) -> Result<u64, QueueError> {
        if !self.outbound.has_room() {
            // What a service centre has taken is on its way.
            let Some(Pending { n, card, .. }) = self.outbound.dispensable() else {
                return Err(QueueError::Full);
            };
            let (n, card) = (vec![*n], *card);
            self.change(Record::Acknowledged { card, n });
        }
        let uplink = self.pending(card, content);
        let n = uplink.n;
        self.change(Record::Kept { uplink });
        Ok(n)
    }

    fn pending(&self, card: CardKey, content: UplinkContent) -> Pending {
        Pending { n: self.outbound.next(), card, content, by_sms: false }
    }

    /// A service centre has taken an uplink of a card.
    pub fn taken(&mut self, card: CardKey, n: u64) {
        if self.outbound.unsent_of(card).any(|uplink| uplink.n == n) {
            self.change(Record::Taken { card, n });
        }
    }

    /// The server has dealt with these uplinks of a card.
    pub fn acknowledged(&mut self, card: CardKey, acknowledged: &[Acknowledged]) {
        let waiting: Vec<u64> = self.outbound.of(card).map(|uplink| uplink.n).collect();
        let n: Vec<u64> = acknowledged.iter().map(|one| one.n).filter(|n| waiting.contains(n)).collect();
        if !n.is_empty() {
            self.change(Record::Acknowledged { card, n });
        }
    }

    fn change(&mut self, record: Record) {
        write(&mut self.changes, &record);
        self.apply(record);
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Start { last, .. } => self.outbound.given(last),
            Record::Fetched { queued } => self.inbound.push(queued),
            Record::Owed { card, item } => self.inbound.owe(card, item),
            Record::Receipted { card, items } => self.inbound.receipted(card, &items),
            Record::Answered { card, item, uplink } => {
                self.inbound.remove(card, &item);
                if let Some(uplink) = uplink {
                    self.outbound.push(uplink);
                }
            }
            Record::Kept { uplink } => self.outbound.push(uplink),
            Record::Taken { card, n } => self.outbound.taken(card, n),
            Record::Acknowledged { card, n } => self.outbound.acknowledged(card, &n),
        }
    }
}

fn write(journal: &mut Vec<u8>, record: &Record) {
    // Records are made of texts and numbers: they always have a form in JSON.
    let content = serde_json::to_vec(record).unwrap_or_default();
    journal.extend_from_slice(&(content.len() as u32).to_be_bytes());
    journal.extend_from_slice(&CRC.checksum(&content).to_be_bytes());
    journal.extend_from_slice(&content);
}

/// The first record and what follows it; `None` where there is no whole one.
fn read(journal: &[u8]) -> Option<(Record, &[u8])> {
    let (length, rest) = journal.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let length =
        usize::try_from(u32::from_be_bytes(*length)).ok().filter(|length| *length <= RECORD_BYTES_MAX)?;
    let (content, rest) = rest.split_at_checked(length)?;
    if CRC.checksum(content) != u32::from_be_bytes(*checksum) {
        return None;
    }
    Some((serde_json::from_slice(content).ok()?, rest))
}

/// Whether a cut explains these bytes: a record that reaches beyond the end, or space that was never written.
fn is_torn(rest: &[u8]) -> bool {
    let Some((length, _)) = rest.split_first_chunk::<4>() else { return true };
    let length = u32::from_be_bytes(*length) as usize;
    rest.iter().all(|byte| *byte == 0) || (length <= RECORD_BYTES_MAX && HEAD_BYTES + length >= rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use simtide_protocol::second_layer::Verdict;

    const NOW: EpochMs = EpochMs(1_800_000_000_000);

    fn card(last: char) -> CardKey {
        CardKey::Imsi(format!("00101000000000{last}").parse().unwrap())
    }

    fn item(name: &str) -> Item {
        Item {
            id: name.parse().unwrap(),
            packet: vec![0x15; 30],
            originating_address: "1234".into(),
            proof_wanted: true,
        }
    }

    fn proof(name: &str) -> Option<UplinkContent> {
        let (id, originating_address) = (Some(name.parse().unwrap()), "1234".into());
        Some(UplinkContent::Proof { id, originating_address, packet: vec![2, 0x71, 0] })
    }

    /// What somebody can see of the queues.
    fn seen(queues: &Queues) -> String {
        let inbound: Vec<_> = queues.inbound.all().map(|queued| (queued.card, &queued.item.id)).collect();
        let receipts: Vec<_> = queues.inbound.receipts().collect();
        let outbound: Vec<_> = queues.outbound.all().collect();
        format!("{inbound:?} {receipts:?} {outbound:?} {}", queues.outbound.last())
    }

    /// A life of the queues: the journal after each change, and what was seen then.
    fn life() -> Vec<(Vec<u8>, String)> {
        let (mut queues, _) = Queues::from_journal(&[]).unwrap();
        let mut journal = queues.snapshot();
        let mut states = vec![(journal.clone(), seen(&queues))];
        let mut step = |change: &dyn Fn(&mut Queues)| {
            change(&mut queues);
            assert!(!queues.is_durable());
            journal.extend(queues.take_changes().unwrap());
            assert!(!queues.is_durable());
            queues.stored();
            assert!(queues.is_durable());
            states.push((journal.clone(), seen(&queues)));
        };
        step(&|queues| queues.fetch(card('1'), item("a-1"), NOW).unwrap());
        step(&|queues| queues.fetch(card('1'), item("a-2"), NOW).unwrap());
        step(&|queues| queues.fetch(card('2'), item("b-1"), NOW).unwrap());
        step(&|queues| queues.receipted(card('1'), vec!["a-1".parse().unwrap()]));
        step(&|queues| queues.answered(card('1'), "a-1".parse().unwrap(), proof("a-1")));
        step(&|queues| queues.keep(card('2'), UplinkContent::Submit { tpdu: vec![1] }).map(drop).unwrap());
        step(&|queues| queues.answered(card('1'), "a-2".parse().unwrap(), None));
        step(&|queues| queues.taken(card('1'), 1));
        let done = |n| Acknowledged { n, verdict: Verdict::Accepted };
        step(&|queues| queues.acknowledged(card('1'), &[done(1), done(2), done(9)]));
        states
    }

    #[test]
    fn a_cut_at_any_byte_gives_the_state_before_or_after() {
        let states = life();
        let whole = &states.last().unwrap().0;
        let head = states[0].0.len();
        for cut in head..=whole.len() {
            let (queues, tail) = Queues::from_journal(&whole[..cut]).unwrap();
            // A change takes one record or two; in between there is one that no step shows.
            let after = states.iter().rposition(|(journal, _)| journal.len() <= cut).unwrap();
            if states[after].0.len() == cut {
                assert_eq!((seen(&queues), tail), (states[after].1.clone(), Tail::Whole));
            }
            // Nothing that was durable is lost, and nothing answered comes back.
            let (before, _) = Queues::from_journal(&states[after].0).unwrap();
            assert!(queues.outbound.last() >= before.outbound.last());
            assert!(matches!(tail, Tail::Whole | Tail::Torn(_)), "{cut}: {tail:?}");
            // A new journal says the same.
            let (again, _) = Queues::from_journal(&queues.snapshot()).unwrap();
            assert_eq!(seen(&again), seen(&queues));
        }
        // Before the head there is no journal: the shell makes it in one piece.
        assert_eq!(Queues::from_journal(&whole[..head - 1]).unwrap_err(), JournalError::Foreign);
    }

    #[test]
    fn space_that_was_never_written_is_a_cut_and_damage_is_told() {
        let states = life();
        let whole = &states.last().unwrap().0;
        let mut longer = whole.clone();
        longer.extend([0; 300]);
        assert_eq!(Queues::from_journal(&longer).unwrap().1, Tail::Torn(300));
        for at in (states[0].0.len()..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            let (queues, tail) = Queues::from_journal(&damaged).unwrap();
            assert!(tail != Tail::Whole, "{at}");
            assert!(queues.outbound.last() <= 2);
        }
        assert_eq!(
            Queues::from_journal(b"hello, this is something else").unwrap_err(),
            JournalError::Foreign
        );
        let mut other = Vec::new();
        write(&mut other, &Record::Start { version: 9, last: 0 });
        assert_eq!(Queues::from_journal(&other).unwrap_err(), JournalError::Version(9));
    }

    #[test]
    fn what_is_known_is_not_taken_twice_and_gets_its_receipt() {
        let mut queues = Queues::default();
        let one = card('1');
        queues.fetch(one, item("a-1"), NOW).unwrap();
        assert_eq!(queues.fetch(one, item("a-1"), NOW), Err(QueueError::Known));
        queues.receipted(one, vec!["a-1".parse().unwrap()]);
        assert_eq!(queues.fetch(one, item("a-1"), NOW), Err(QueueError::Known));
        assert_eq!(queues.inbound().receipts_of(one).count(), 1);
        // Answered, and the proof is still on its way.
        queues.answered(one, "a-1".parse().unwrap(), proof("a-1"));
        assert_eq!(queues.fetch(one, item("a-1"), NOW), Err(QueueError::Known));
        // The server has everything and offers it again all the same: then it wants it done again.
        queues.receipted(one, vec!["a-1".parse().unwrap()]);
        queues.acknowledged(one, &[Acknowledged { n: 1, verdict: Verdict::Accepted }]);
        assert_eq!(queues.fetch(one, item("a-1"), NOW), Ok(()));
        // Another card has nothing to do with it.
        assert_eq!(queues.fetch(card('2'), item("a-1"), NOW), Ok(()));
    }

    #[test]
    fn the_queues_are_full_at_their_maximum() {
        let mut queues = Queues::default();
        for number in 0..crate::inbound::INBOUND_MAX {
            queues.fetch(card('1'), item(&format!("a-{number}")), NOW).unwrap();
        }
        assert_eq!(queues.fetch(card('1'), item("b-1"), NOW), Err(QueueError::Full));
        for _ in 0..crate::outbound::OUTBOUND_MAX {
            queues.keep(card('1'), UplinkContent::Submit { tpdu: vec![1] }).unwrap();
        }
        assert!(queues.keep(card('1'), UplinkContent::Submit { tpdu: vec![1] }).is_err());
        // One that is on its way by short message gives its place.
        queues.taken(card('1'), 3);
        queues.taken(card('1'), 3);
        assert_eq!(queues.keep(card('2'), UplinkContent::Submit { tpdu: vec![1] }), Ok(513));
        assert!(queues.outbound().of(card('1')).all(|uplink| uplink.n != 3));
        assert!(queues.keep(card('1'), UplinkContent::Submit { tpdu: vec![1] }).is_err());
        let mut queues = Queues::default();
        let mut large = item("a-1");
        large.packet = vec![0; crate::inbound::INBOUND_BYTES_MAX + 1];
        assert_eq!(queues.fetch(card('1'), large, NOW), Err(QueueError::Full));
    }
}
