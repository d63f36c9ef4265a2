//! Messages on their way: sealed packets in short messages, and everything that becomes of them.

use std::sync::LazyLock;

use simtide_platform::subscription::{CardSays, Event, PacketKind};
use simtide_protocol::apdu::Command as Apdu;
use simtide_protocol::card_file::Secret;
use simtide_protocol::ids::{ChangeId, EpochMs, Tar};
use simtide_protocol::personalization::{
    Message, OperatorFile, OperatorFiles, Options, Protection, Uplink, commands, read_status,
};
use simtide_protocol::profile::ApplicationKind;
use simtide_protocol::scp80::{
    CommandHeader, Counter, Key, KeySet, Kic, Kid, Security, Spi, open_response, seal,
};
use simtide_protocol::script::compact::Script;
use simtide_protocol::sms::{
    Address, Arrival, Deliver, Element, PacketKind as Direction, Reference, Submit, Timestamp, UserData,
    segment,
};

use crate::phone::{ADMIN_CODE, KIC, KID, identity, profile};
use crate::scenarios::{Air, Content, Parts};
use crate::world::{CHANGE, Crash, Happening, RowState, World, card_id};

/// Milliseconds from a message's leaving to its first part at the phone, and between two parts.
const WAY_MS: i64 = 5_000;
const PART_MS: i64 = 500;
/// Milliseconds that a network takes to accept a message of the phone.
const SENDING_MS: i64 = 2_000;
/// Milliseconds from the phone to the platform.
const BACK_MS: i64 = 3_000;
/// How far above the card's counter a forger sets its own.
const FORGED_AHEAD: u64 = 1_000;

/// The message, whether it asks the user, and whether it is guarded.
type Wanted = (Content, bool, bool);

/// Bodies that were made once: every run sends the same.
static PERSONALIZATION: LazyLock<Vec<(Wanted, Vec<u8>)>> = LazyLock::new(|| {
    let flags = [(false, false), (true, false), (false, true), (true, true)];
    let each = |(asks, guarded)| {
        Content::ALL
            .map(|content| ((content, asks, guarded), personalization(CHANGE, content, asks, guarded)))
    };
    flags.into_iter().flat_map(each).collect()
});

fn script(commands: &[Vec<u8>]) -> Vec<u8> {
    let (last, first) = commands.split_last().unwrap();
    let mut script = Script::new();
    for command in first {
        script.push(&Apdu::parse(command).unwrap());
    }
    script.finish_with(&Apdu::parse(last).unwrap()).unwrap()
}

/// The data of a packet that carries identity 2.
fn personalization(change: ChangeId, content: Content, ask_user: bool, guarded: bool) -> Vec<u8> {
    let number = "43670000001".parse().unwrap();
    let identity = identity(2);
    let mut files = OperatorFiles::of_subscription(&identity.imsi, 2, Some(&number))
        .with_service_provider_name("Second")
        .with_home_network("001", "02");
    if content == Content::Malformed {
        // EF.IMSI is not written past the identity.
        files.push(OperatorFile::Other("3F00/7FF0/6F07".parse().unwrap()), vec![8; 9]);
    }
    let guard_s = guarded.then_some(900);
    let message = Message {
        change,
        options: Options { ask_user, agreed: false, guard_s, wait_for_service: false },
        operator_name: "Second".into(),
        service_number: None,
        identity,
        files,
    };
    let code = if content == Content::WrongCode { [0; 8] } else { ADMIN_CODE };
    let sealed = message.seal(Protection::AdminCode, &card_id(), &Secret::new(&code).unwrap()).unwrap();
    script(&commands(&sealed))
}

/// The application's receiver.
fn tar(kind: ApplicationKind) -> Tar {
    profile().application(kind).unwrap().tar
}

pub fn keys(kic: &[u8; 16]) -> KeySet {
    KeySet::new(Some(Key::new(kic).unwrap()), Some(Key::new(&KID).unwrap()))
}

fn security() -> Security {
    Security { spi: Spi::new(0x16, 0x39), kic: Kic(0x12), kid: Kid(0x12) }
}

/// The SMS-DELIVERs of a packet.
pub fn messages(data: &[u8], counter: u64, keys: &KeySet) -> Vec<Vec<u8>> {
    let header = CommandHeader {
        security: security(),
        tar: tar(ApplicationKind::Personalization),
        counter: Counter::new(counter).unwrap(),
    };
    let packet = seal(&header, keys, data).unwrap();
    let parts = segment(&packet, Direction::Command, Reference::after(counter as u8)).unwrap();
    let deliver = |part| {
        let user_data = UserData::from_octets(part).unwrap();
        Deliver::data_download(Address::number("1234").unwrap(), Timestamp([0x22; 7]), user_data).to_bytes()
    };
    parts.into_iter().map(deliver).collect()
}

/// A message under a code that is wrong, of another change: what locks the card in the end.
pub fn wrong_code(change: u64, counter: u64) -> Vec<Vec<u8>> {
    messages(&personalization(ChangeId(change), Content::WrongCode, false, false), counter, &keys(&KIC))
}

impl World {
    /// The message leaves; then its row says so. A crash in between sends it twice: the same bytes.
    pub(super) fn transmit(&mut self, counter: u64) -> Result<(), Crash> {
        let Some(row) = self.rows.get(&counter).filter(|row| row.state == RowState::Queued) else {
            return Ok(());
        };
        let kind = row.kind;
        let rules = match kind {
            PacketKind::Personalization => &self.scenario.messages,
            PacketKind::Fence => &self.scenario.fences,
        };
        let sent_before = self.transmitted.iter().filter(|(_, sent)| *sent == kind).count();
        let rule = *rules.get(sent_before).or(rules.last()).unwrap();
        self.transmitted.push((counter, kind));
        let parts = self.parts(counter, kind);
        if kind == PacketKind::Personalization {
            assert!(parts.len() > 1, "a message of several parts");
        }
        let order = match kind {
            PacketKind::Personalization if sent_before == 0 => self.scenario.parts,
            _ => Parts::InOrder,
        };
        match rule {
            Air::Arrives => self.parts_leave(&parts, order, 0),
            Air::Lost => {}
            Air::Late(by) => self.parts_leave(&parts, order, by),
            Air::Twice(by) => {
                self.parts_leave(&parts, order, 0);
                self.parts_leave(&parts, Parts::InOrder, by);
            }
        }
        self.on_air.insert(counter, parts);
        self.check();
        self.point()?;
        if let Some(row) = self.rows.get_mut(&counter).filter(|row| row.state == RowState::Queued) {
            row.state = RowState::Submitted;
        }
        Ok(())
    }

    fn parts(&self, counter: u64, kind: PacketKind) -> Vec<Vec<u8>> {
        let scenario = &self.scenario;
        let fence;
        let data = match kind {
            PacketKind::Fence => {
                fence = script(&[read_status()]);
                &fence
            }
            PacketKind::Personalization => {
                let wanted = (scenario.content, scenario.asks_user(), scenario.guarded);
                let found = PERSONALIZATION.iter().find(|(known, _)| *known == wanted);
                &found.unwrap().1
            }
        };
        messages(data, counter, &keys(&KIC))
    }

    fn parts_leave(&mut self, parts: &[Vec<u8>], order: Parts, by: i64) {
        let mut places: Vec<(usize, i64)> = (0..parts.len()).map(|place| (place, 0)).collect();
        match order {
            Parts::InOrder => {}
            Parts::Reversed => places.reverse(),
            Parts::Without(lost) => places.retain(|(place, _)| *place != lost),
            Parts::Twice(twice, after) => places.push((twice, after)),
            Parts::Late(late, after) => places[late].1 = after,
        }
        for (turn, (place, after)) in places.into_iter().enumerate() {
            let tpdu = parts[place].clone();
            self.later(WAY_MS + PART_MS * turn as i64 + by + after, Happening::Message(tpdu));
        }
    }

    /// The phone has handed a message to its network.
    pub(super) fn submitted(&mut self, reference: u32, tpdu: Vec<u8>) {
        let accepted = self.now >= self.began_at() + self.scenario.takes_nothing_until_ms;
        let sending_ms = if self.proofs_sent == 0 { self.scenario.sending_ms } else { SENDING_MS };
        self.later(sending_ms, Happening::Outcome { reference, accepted });
        if !accepted {
            return;
        }
        self.submits += 1;
        let rules = &self.scenario.proofs;
        let rule = *rules.get(self.proofs_sent).or(rules.last()).unwrap();
        self.proofs_sent += 1;
        self.said.push(tpdu.clone());
        let said = Happening::Said(tpdu);
        match rule {
            Air::Arrives => self.later(BACK_MS, said),
            Air::Lost => {}
            Air::Late(by) => self.later(BACK_MS + by, said),
            Air::Twice(by) => {
                self.later(BACK_MS, said.clone());
                self.later(BACK_MS + by, said);
            }
        }
    }

    /// A message of a phone reaches the platform, as the product takes it in: parts are put together, a proof belongs to
    /// the packet that its counter names, what the card says by itself counts with a counter that is new.
    pub(super) fn said(&mut self, tpdu: &[u8]) -> Result<(), Crash> {
        let submit = Submit::from_bytes(tpdu).unwrap();
        let arrival = self.reassembly.accept(EpochMs(self.now), (), &submit.user_data.octets);
        let Ok(Arrival::Whole(whole)) = arrival else { return Ok(()) };
        if whole.contains(Element::RESPONSE_PACKET) {
            return self.proven(&whole.data);
        }
        let tar = profile().personalization.uplink_tar;
        let Ok((Uplink::Notice(notice), counter)) = Uplink::open(&whole.data, tar, &keys(&KIC)) else {
            return Ok(());
        };
        if counter.value() <= self.uplink_counter || notice.change != CHANGE {
            return Ok(());
        }
        let says = CardSays::of_state(notice.state, self.scenario.guarded);
        self.event(Event::Report(says), None)?;
        // In the same commit.
        self.uplink_counter = counter.value();
        Ok(())
    }

    fn proven(&mut self, packet: &[u8]) -> Result<(), Crash> {
        let Ok(response) = open_response(packet, &security(), &keys(&KIC)) else { return Ok(()) };
        let counter = response.header.counter.value();
        let Some(row) = self.rows.get(&counter).filter(|_| response.authenticated) else { return Ok(()) };
        let kind = row.kind;
        let second = self.sealed.map(|_| identity(2).digest());
        let says = CardSays::of_proof(self.change(), kind, response.header.status, &response.data, second);
        self.event(Event::Proof { kind, counter, says }, Some((counter, RowState::Proven)))
    }

    /// Somebody on the air says again whatever was said, in both directions, and things that nobody has said.
    pub(super) fn attack(&mut self) {
        let ahead = self.transmitted.last().map_or(0, |(counter, _)| *counter) + FORGED_AHEAD;
        let forged = messages(&personalization(CHANGE, Content::Right, false, false), ahead, &keys(&[9; 16]));
        let replayed: Vec<Vec<u8>> = self.on_air.values().flatten().cloned().collect();
        for (turn, tpdu) in forged.into_iter().chain(replayed).enumerate() {
            self.later(1 + turn as i64, Happening::Message(tpdu));
        }
        for tpdu in self.said.clone() {
            let mut forged = tpdu.clone();
            *forged.last_mut().unwrap() ^= 1;
            self.later(1, Happening::Said(forged));
            self.later(2, Happening::Said(tpdu));
        }
    }
}
