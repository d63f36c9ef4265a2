//! The demo holds the vendor's file, so it can open what it sees on the air: each message as the card or the platform
//! reads it. Keys and admin codes are never shown.

use std::collections::BTreeMap;

use simtide_protocol::card_file::CardRow;
use simtide_protocol::ids::EpochMs;
use simtide_protocol::personalization::{Uplink, UplinkHead};
use simtide_protocol::scp80::{self, CommandHeader, Key, KeySet, Security};
use simtide_protocol::sms::{Arrival, Element, Limits, Reassembly};
use simtide_simulation::smsc::{Entry, Happened};
use zeroize::Zeroizing;

use super::wording;

/// Incomplete messages that are kept for each card.
const OPEN_PER_CARD: usize = 2;
/// Commands of a card whose proofs may still come.
const COMMANDS_MAX: usize = 8;

/// Opens packets with the cards' own keys.
pub struct Opener {
    cards: Vec<Card>,
    /// Which card had a number last: tried first.
    numbers: BTreeMap<String, usize>,
    parts: Reassembly<(bool, String)>,
}

/// What opens one card's packets.
struct Card {
    row: CardRow,
    key_sets: BTreeMap<u8, KeySet>,
    /// How its latest commands were protected: so are their proofs.
    commands: Vec<Security>,
}

impl Opener {
    /// For the cards of the vendor's file.
    pub fn new(rows: &[CardRow]) -> Self {
        let cards: Vec<Card> = rows.iter().map(Card::new).collect();
        let limits = Limits { open_max: cards.len() * OPEN_PER_CARD, ..Limits::PLATFORM };
        Self { cards, numbers: BTreeMap::new(), parts: Reassembly::new(limits) }
    }

    /// What a message says, line by line, once all its parts are there; nothing where no card's keys open it.
    pub fn open(&mut self, entry: &Entry) -> Vec<String> {
        let (to_card, number) = match entry.event {
            Happened::Delivered => (true, &entry.destination),
            Happened::Originated => (false, &entry.source),
            _ => return Vec::new(),
        };
        let sender = (to_card, number.clone());
        let Ok(Arrival::Whole(whole)) = self.parts.accept(entry.time, sender, &entry.user_data.0) else {
            return Vec::new();
        };
        let is_response = whole.contains(Element::RESPONSE_PACKET);
        let first = self.numbers.get(number).copied();
        let others = (0..self.cards.len()).filter(|place| Some(*place) != first);
        for place in first.into_iter().chain(others) {
            let card = &mut self.cards[place];
            let lines = match (to_card, is_response) {
                (true, _) => card.command(&whole.data),
                (false, true) => card.proof(&whole.data),
                (false, false) => card.uplink(&whole.data),
            };
            if let Some(lines) = lines {
                self.numbers.insert(number.clone(), place);
                return lines;
            }
        }
        Vec::new()
    }
}

impl Card {
    fn new(row: &CardRow) -> Self {
        let keys = |secret: &simtide_protocol::card_file::Secret| Key::new(secret.as_bytes()).ok();
        let sets = row.key_sets.iter().map(|set| (set.index, KeySet::new(keys(&set.kic), keys(&set.kid))));
        Self { key_sets: sets.collect(), row: row.clone(), commands: Vec::new() }
    }

    fn command(&mut self, packet: &[u8]) -> Option<Vec<String>> {
        let (security, tar) = CommandHeader::clear_part(packet).ok()?;
        let opened = scp80::open(packet, self.key_sets.get(&security.kid.index())?).ok()?;
        let data = Zeroizing::new(opened.data);
        if !self.commands.contains(&security) {
            self.commands.truncate(COMMANDS_MAX - 1);
            self.commands.insert(0, security);
        }
        let counter = opened.header.counter.value();
        let mut lines = vec![format!("for card {}, TAR {tar}, counter {counter}:", self.row.iccid)];
        lines.extend(wording::script(&data, &self.row));
        Some(lines)
    }

    fn proof(&self, packet: &[u8]) -> Option<Vec<String>> {
        let opened = self.commands.iter().find_map(|security| {
            let keys = self.key_sets.get(&security.kid.index())?;
            scp80::open_response(packet, security, keys).ok().filter(|opened| opened.authenticated)
        })?;
        let header = opened.header;
        let status = header.status.text();
        let head =
            format!("proof of card {} for counter {}: {status}", self.row.iccid, header.counter.value());
        let mut lines = vec![head];
        lines.extend(wording::answer(&opened.data));
        Some(lines)
    }

    fn uplink(&self, packet: &[u8]) -> Option<Vec<String>> {
        let head = UplinkHead::of(packet)?;
        let (said, counter) = Uplink::open(packet, head.tar, self.key_sets.get(&head.key_index)?).ok()?;
        let counter = counter.value();
        let head = format!("card {} by itself, TAR {}, counter {counter}:", self.row.iccid, head.tar);
        Some(vec![head, wording::uplink(&said)])
    }
}

/// The messages of one moment and what the platform says of it, in their order.
#[derive(Default)]
pub struct Story(Vec<(EpochMs, Vec<String>)>);

impl Story {
    /// A line with what belongs to it.
    pub fn tell(&mut self, at: EpochMs, line: String, inside: Vec<String>) {
        let inside = inside.into_iter().map(|line| format!("             | {line}"));
        self.0.push((at, std::iter::once(line).chain(inside).collect()));
    }

    /// All lines, the earliest first.
    pub fn lines(mut self) -> Vec<String> {
        self.0.sort_by_key(|(at, _)| *at);
        self.0.into_iter().flat_map(|(_, lines)| lines).collect()
    }
}

#[cfg(test)]
mod tests {
    use simtide_protocol::ids::ChangeId;
    use simtide_protocol::personalization::{
        self, Answer, Identity, Message, OperatorFiles, Options, Protection, State,
    };
    use simtide_protocol::scp80::{Counter, Kic, Kid, ResponseHeader, ResponseStatus, Spi};
    use simtide_protocol::script::compact::{self, Script};
    use simtide_protocol::sms::{PacketKind, Reference, segment};
    use simtide_simulation::vendor::Order;

    use super::*;

    const K: [u8; 16] = [0xC4; 16];
    const OPC: [u8; 16] = [0x9E; 16];
    const SECURITY: Security = Security { spi: Spi::new(0x16, 0x39), kic: Kic(0x12), kid: Kid(0x12) };

    fn rows() -> Vec<CardRow> {
        let order = Order {
            seed: 3,
            cards: 3,
            network: "00101".into(),
            profile: "standard".parse().unwrap(),
            device_kind: "phone".into(),
            dated: 0,
            first_poll: EpochMs(0),
            spread_ms: 0,
        };
        order.rows().unwrap()
    }

    fn entries(event: Happened, packet: &[u8], kind: PacketKind) -> Vec<Entry> {
        let parts = segment(packet, kind, Reference::after(6)).unwrap();
        let entry = |part: Vec<u8>| Entry {
            time: EpochMs(1),
            event,
            id: 1,
            source: "4670".into(),
            destination: "4670".into(),
            user_data: simtide_simulation::smsc::Hex(part),
        };
        parts.into_iter().map(entry).collect()
    }

    fn personalization(row: &CardRow, protection: Protection) -> Vec<u8> {
        let imsi = "001020000000007".parse().unwrap();
        let message = Message {
            change: ChangeId(0xAB),
            options: Options { ask_user: true, ..Options::default() },
            operator_name: "Operator Two".into(),
            service_number: Some("4670000".parse().unwrap()),
            identity: Identity::milenage(imsi, &K, &OPC).unwrap(),
            files: OperatorFiles::of_subscription(&imsi, 2, None),
        };
        let sealed = message.seal(protection, &row.card_id(), row.admin_code.as_ref().unwrap()).unwrap();
        let commands = personalization::commands(&sealed);
        let parsed: Vec<_> =
            commands.iter().map(|one| simtide_protocol::apdu::Command::parse(one).unwrap()).collect();
        let (last, before) = parsed.split_last().unwrap();
        let mut script = Script::new();
        before.iter().for_each(|one| script.push(one));
        script.finish_with(last).unwrap()
    }

    #[test]
    fn a_message_is_read_from_its_parts_and_no_key_is_in_it() {
        let rows = rows();
        for protection in [Protection::AdminCode, Protection::DerivedKeys] {
            let mut opener = Opener::new(&rows);
            let counter = Counter::new(5).unwrap();
            let tar = "BFFF20".parse().unwrap();
            let header = CommandHeader { security: SECURITY, tar, counter };
            let keys = Card::new(&rows[1]).key_sets.remove(&1).unwrap();
            let packet = scp80::seal(&header, &keys, &personalization(&rows[1], protection)).unwrap();
            let mut parts = entries(Happened::Delivered, &packet, PacketKind::Command);
            assert!(parts.len() > 1);
            parts.reverse();
            let lines: Vec<Vec<String>> = parts.iter().map(|part| opener.open(part)).collect();
            let (last, before) = lines.split_last().unwrap();
            assert!(before.iter().all(Vec::is_empty));
            let text = last.join("\n");
            for said in [
                &format!("for card {}, TAR BFFF20, counter 5", rows[1].iccid),
                "change 00000000000000ab to \"Operator Two\"",
                "IMSI 001020000000007, milenage, K ****, OPc ****",
                "EF.AD 00000002",
                "the user is asked first",
                "from then on it sends to 4670000",
            ] {
                assert!(text.contains(said), "{said} in {text}");
            }
            let by_code = text.contains("admin code ****");
            assert_eq!(by_code, protection == Protection::AdminCode, "{text}");
            let code = rows[1].admin_code.as_ref().unwrap().as_bytes();
            for secret in [&K[..], &OPC, code, rows[1].ki.as_ref().unwrap().as_bytes()] {
                assert!(!text.to_lowercase().contains(&hex::encode(secret)), "{text}");
            }

            let answer = Answer { change: ChangeId(0xAB), state: State::Staged, agreed: true }.encode();
            let status = simtide_protocol::apdu::StatusWord(0x9000);
            let data = compact::Response { executed: 2, status, data: answer }.encode();
            let header = ResponseHeader { tar, counter, status: ResponseStatus::PorOk };
            let proof = scp80::seal_response(&header, &SECURITY, &keys, &data, Default::default()).unwrap();
            let parts = entries(Happened::Originated, &proof, PacketKind::Response);
            let lines = opener.open(&parts[0]).join("\n");
            assert!(lines.contains("for counter 5: PoR OK"), "{lines}");
            assert!(lines.contains("change 00000000000000ab: staged, the user said yes"), "{lines}");
        }
    }

    #[test]
    fn what_no_card_can_open_says_nothing() {
        let rows = rows();
        let stranger = KeySet::new(Key::new(&[1; 16]).ok(), Key::new(&[2; 16]).ok());
        let header = CommandHeader {
            security: SECURITY,
            tar: "BFFF20".parse().unwrap(),
            counter: Counter::new(1).unwrap(),
        };
        let packet = scp80::seal(&header, &stranger, &personalization::read_status()).unwrap();
        let mut opener = Opener::new(&rows);
        for part in entries(Happened::Delivered, &packet, PacketKind::Command) {
            assert!(opener.open(&part).is_empty());
        }
    }
}
