//! A real card in a real device, both as they are in the product. What is stored survives; the power may go at any command.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use simtide_card::secure_channel::NoChannels;
use simtide_card::{Card, Environment, KeySetPersonalization, Personalization, Secret};
use simtide_device::{
    Authentication, Command, Device, Event, Kind, Notice, Prompt, Registration, Settings, SmsReport,
};
use simtide_protocol::aka::{AkaFunctions, Functions, Sqn, Vector};
use simtide_protocol::apdu::Command as Apdu;
use simtide_protocol::ids::{EpochMs, Imsi};
use simtide_protocol::personalization::Identity;
use simtide_protocol::profile::Profile;
use simtide_protocol::scp80::{Counter, Key};

use crate::world::{imsi_1, imsi_2};

pub const ADMIN_CODE: [u8; 8] = *b"ADMCODE1";
pub const K_1: [u8; 16] = [0x31; 16];
pub const K_2: [u8; 16] = [0xA5; 16];
const OPC: [u8; 16] = [0x5A; 16];
pub const KIC: [u8; 16] = [0x11; 16];
pub const KID: [u8; 16] = [0x22; 16];
/// Commands without which a device is not at rest: more are a loop.
const COMMANDS_MAX: u32 = 5_000;
const USIM: [u8; 7] = [0xA0, 0x00, 0x00, 0x00, 0x87, 0x10, 0x02];
/// The indicator that every vector of this world carries (3GPP TS 33.102, C.1.2: IND).
const SQN_INDEX: u8 = 3;

static PROFILE: LazyLock<Arc<Profile>> = LazyLock::new(|| Arc::new(Profile::standard()));
/// The card as it left its vendor.
static NEW_CARD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let key = |bytes: &[u8]| Key::new(bytes).unwrap();
    let personalization = Personalization {
        iccid: "8988211000000000011".parse().unwrap(),
        eid: None,
        identity: identity(1),
        msisdn: Some("43660000001".parse().unwrap()),
        key_sets: vec![KeySetPersonalization {
            index: 1,
            kic: key(&KIC),
            kid: key(&KID),
            kik: None,
            counter: Counter::ZERO,
        }],
        psk: None,
        adm1: Secret::new(ADMIN_CODE),
        pin1: None,
        puk1: None,
        files: Vec::new(),
    };
    Card::personalised(PROFILE.clone(), &personalization).snapshot()
});
static FUNCTIONS: LazyLock<[Functions; 2]> =
    LazyLock::new(|| [1, 2].map(|number| identity(number).functions().unwrap()));

/// Identity 1, of operator 1's register, and identity 2, of operator 2's.
pub fn identity(number: u8) -> Identity {
    let (imsi, k) = if number == 1 { (imsi_1(), K_1) } else { (imsi_2(), K_2) };
    Identity::milenage(imsi, &k, &OPC).unwrap()
}

pub fn profile() -> &'static Profile {
    &PROFILE
}

/// A challenge of the register that has this identity.
pub fn vector(number: u8, sequence: u64) -> Vector {
    let functions = &FUNCTIONS[usize::from(number) - 1];
    let sqn = Sqn::from_parts(sequence, SQN_INDEX);
    match functions {
        Functions::Milenage(functions) => challenge(functions, sqn),
        Functions::Tuak(functions) => challenge(functions, sqn),
    }
}

fn challenge(functions: &impl AkaFunctions, sqn: Sqn) -> Vector {
    Vector::new(functions, [0x42; 16], sqn, [0x80, 0x00])
}

/// What the phone wants of the world.
#[derive(Debug)]
pub enum Out {
    /// To be let in.
    Attach(Imsi),
    /// A message to leave.
    Submit { reference: u32, tpdu: Vec<u8> },
    /// What became of a message that was handed over.
    Report { id: u64, taken: bool },
    /// "Change to operator X?".
    Question,
    /// The power went.
    PowerCut,
}

/// Where the power goes: at this command to the card, before it is carried out or after, with the answer unsaid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub command: u32,
    pub carried_out: bool,
}

pub struct Phone {
    pub device: Device,
    card: Card,
    /// Everything that the card has stored, in order.
    journal: Vec<u8>,
    pub out: VecDeque<Out>,
    /// Commands to the card so far.
    pub commands: u32,
    cut: Option<Cut>,
    /// Resets of the card so far.
    pub resets: u32,
    /// A question is on the display.
    pub is_asking: bool,
    /// A logical channel of the card on which nobody but the test works.
    channel: Option<u8>,
}

impl Phone {
    pub fn new(kind: Kind, answer_within_s: u16, cut: Option<Cut>) -> Phone {
        Phone {
            device: device(kind, answer_within_s),
            card: Card::restore(PROFILE.clone(), &NEW_CARD).unwrap(),
            journal: NEW_CARD.clone(),
            out: VecDeque::new(),
            commands: 0,
            cut,
            resets: 0,
            is_asking: false,
            channel: None,
        }
    }

    /// The card goes into another device.
    pub fn moves(&mut self, kind: Kind, now: i64) {
        self.handle(now, Event::PowerOff);
        self.device = device(kind, 60);
    }

    pub fn is_on(&self) -> bool {
        !self.device.has_no_card()
    }

    pub fn is_attaching(&self, imsi: Imsi) -> bool {
        self.device.registration() == Registration::Attaching && self.device.files().imsi == Some(imsi)
    }

    /// Takes an event and does everything that follows from it until the device waits for the world.
    pub fn handle(&mut self, now: i64, event: Event) {
        if event == Event::PowerOff {
            self.power_off();
        }
        self.device.handle(EpochMs(now), event);
        for _ in 0..COMMANDS_MAX {
            let Some(command) = self.device.next_command() else { return };
            let answer = match command {
                Command::Reset => self.exchange(None).map(Event::CardReset),
                Command::Transmit(command) => self.exchange(Some(&command)).map(Event::CardAnswer),
                other => {
                    self.notice(other);
                    continue;
                }
            };
            if answer.is_none() {
                self.out.push_back(Out::PowerCut);
            }
            self.device.handle(EpochMs(now), answer.unwrap_or(Event::PowerOff));
        }
        panic!("the device does not come to rest");
    }

    fn notice(&mut self, command: Command) {
        match command {
            Command::Attach { imsi, .. } => self.out.push_back(Out::Attach(imsi)),
            Command::SubmitSms { reference, tpdu } => self.out.push_back(Out::Submit { reference, tpdu }),
            Command::ReportSms { id, report } => {
                self.out.push_back(Out::Report { id, taken: matches!(report, SmsReport::Accepted(_)) });
            }
            Command::Show(Prompt::Key { yes_no: true, .. }) => {
                self.is_asking = true;
                self.out.push_back(Out::Question);
            }
            Command::Clear => self.is_asking = false,
            Command::Notice(Notice::CardUnusable | Notice::CommandUnreadable | Notice::FetchLimit) => {
                panic!("the card and its device do not understand each other")
            }
            _ => {}
        }
    }

    fn power_off(&mut self) {
        self.card.power_off();
        self.channel = None;
        self.is_asking = false;
    }

    /// One command, or the reset; `None`: the power has gone.
    fn exchange(&mut self, command: Option<&[u8]>) -> Option<Vec<u8>> {
        self.commands += 1;
        let cut = self.cut.filter(|cut| cut.command == self.commands);
        if cut.is_some_and(|cut| !cut.carried_out) {
            self.lose_power();
            return None;
        }
        let answer = match command {
            Some(command) => in_environment(|environment| self.card.transmit(environment, command)),
            None => {
                (self.resets, self.channel) = (self.resets + 1, None);
                in_environment(|environment| self.card.reset(environment))
            }
        };
        self.journal.extend(self.card.take_changes().unwrap_or_default());
        if cut.is_some() {
            self.lose_power();
            return None;
        }
        Some(answer)
    }

    /// What the card had not stored is gone.
    fn lose_power(&mut self) {
        self.power_off();
        self.card = Card::restore(PROFILE.clone(), &self.journal).unwrap();
    }

    /// Answers a challenge of the network that has this identity: whether RES is right.
    pub fn answers(&mut self, now: i64, number: u8, sequence: u64) -> bool {
        let vector = vector(number, sequence);
        self.handle(now, Event::Authenticate { id: sequence, rand: vector.rand, autn: vector.autn });
        match self.device.take_authentication(sequence) {
            Some(Authentication::Success(answer)) => answer.res == vector.xres,
            _ => false,
        }
    }

    /// B2: exactly one whole identity, by both EF.IMSI and by AUTHENTICATE under either key. A card that is switched on
    /// is read on a logical channel of its own; one that is off, and one that may be on trial, for which the right key
    /// would be the commit, as a copy of what it has stored.
    pub fn whole_identity(&mut self, sequence: u64, may_be_on_trial: bool) -> u8 {
        if self.is_on() && self.opens_channel() {
            self.read_in_place(sequence, may_be_on_trial)
        } else {
            self.whole_identity_of_copy(sequence)
        }
    }

    /// Whether it keeps K1 or K2 beside the one in use: staged, or kept by a guarded swap.
    pub fn keeps_other(&self) -> bool {
        let stored = self.card.snapshot();
        [K_1, K_2].iter().all(|key| stored.windows(key.len()).any(|window| window == key))
    }

    fn opens_channel(&mut self) -> bool {
        if self.channel.is_none() {
            let answer = self.apdu(&Apdu::new(0x00, 0x70, 0x00, 0x00).with_le(1));
            self.channel = answer.strip_suffix(&[0x90, 0x00]).and_then(|data| data.first().copied());
        }
        self.channel.is_some()
    }

    fn read_in_place(&mut self, sequence: u64, may_be_on_trial: bool) -> u8 {
        let channel = self.channel.unwrap();
        let mut send = |command: &Apdu<'_>| self.apdu(command);
        let identity = imsi_of(channel, &mut send);
        assert!(!authenticates(channel, 3 - identity, sequence, &mut send), "B2: keys of another identity");
        if identity == 2 && may_be_on_trial && self.keeps_other() {
            self.whole_identity_of_copy(sequence + 1);
        } else {
            let mut send = |command: &Apdu<'_>| self.apdu(command);
            assert!(authenticates(channel, identity, sequence + 1, &mut send), "B2: not its own keys");
        }
        identity
    }

    /// What the card is with its next reset.
    fn whole_identity_of_copy(&self, sequence: u64) -> u8 {
        let mut copy = Card::restore(PROFILE.clone(), &self.card.snapshot()).unwrap();
        in_environment(|environment| copy.reset(environment));
        let mut send =
            |command: &Apdu<'_>| in_environment(|environment| copy.transmit(environment, &command.encode()));
        let identity = imsi_of(0, &mut send);
        assert!(!authenticates(0, 3 - identity, sequence, &mut send), "B2: keys of another identity");
        assert!(authenticates(0, identity, sequence + 1, &mut send), "B2: not its own keys");
        identity
    }

    fn apdu(&mut self, command: &Apdu<'_>) -> Vec<u8> {
        let answer = in_environment(|environment| self.card.transmit(environment, &command.encode()));
        self.journal.extend(self.card.take_changes().unwrap_or_default());
        answer
    }

    /// Whether a copy of the card, as it is stored, would take what is in these messages.
    pub fn would_take(&self, messages: &[Vec<u8>]) -> bool {
        let mut phone = Phone {
            device: device(Kind::Meter, 60),
            card: Card::restore(PROFILE.clone(), &self.card.snapshot()).unwrap(),
            journal: self.card.snapshot(),
            out: VecDeque::new(),
            commands: 0,
            cut: None,
            resets: 0,
            is_asking: false,
            channel: None,
        };
        phone.handle(0, Event::PowerOn);
        for tpdu in messages {
            phone.handle(0, Event::Sms { id: 0, service_center: "+43660".into(), tpdu: tpdu.clone() });
        }
        let stored = phone.card.snapshot();
        stored.windows(K_2.len()).any(|window| window == K_2)
    }

    /// For comparisons: what has been stored, and what was reset.
    pub fn version(&self) -> (usize, u32, bool) {
        (self.journal.len(), self.resets, self.is_on())
    }
}

fn device(kind: Kind, answer_within_s: u16) -> Device {
    Device::new(Settings { user_answer_timeout_s: answer_within_s, ..Settings::of(kind) })
}

fn in_environment<R>(act: impl FnOnce(&mut Environment<'_>) -> R) -> R {
    let mut random = |buffer: &mut [u8]| buffer.fill(0x5A);
    act(&mut Environment { channels: &NoChannels, random: &mut random })
}

/// EF.IMSI of the USIM and of DF.GSM, which agree.
fn imsi_of(channel: u8, send: &mut impl FnMut(&Apdu<'_>) -> Vec<u8>) -> u8 {
    let [usim, gsm] = [[0x7F, 0xF0, 0x6F, 0x07], [0x7F, 0x20, 0x6F, 0x07]].map(|path| {
        if path[1] == 0xF0 {
            select_usim(channel, send);
        }
        let selected = send(&Apdu::new(channel, 0xA4, 0x08, 0x0C).with_data(&path));
        assert_eq!(selected, [0x90, 0x00], "{}", hex::encode(path));
        let mut content = send(&Apdu::new(channel, 0xB0, 0x00, 0x00).with_le(9));
        content.truncate(content.len() - 2);
        content
    });
    assert_eq!(usim, gsm, "B2: two identities");
    match Imsi::from_file(&usim).unwrap() {
        imsi if imsi == imsi_1() => 1,
        imsi if imsi == imsi_2() => 2,
        imsi => panic!("B2: {imsi} is on the card"),
    }
}

fn select_usim(channel: u8, send: &mut impl FnMut(&Apdu<'_>) -> Vec<u8>) {
    let selected = send(&Apdu::new(channel, 0xA4, 0x04, 0x0C).with_data(&USIM));
    assert_eq!(selected, [0x90, 0x00]);
}

fn authenticates(
    channel: u8,
    number: u8,
    sequence: u64,
    send: &mut impl FnMut(&Apdu<'_>) -> Vec<u8>,
) -> bool {
    select_usim(channel, send);
    let vector = vector(number, sequence);
    let data = [&[16][..], &vector.rand, &[16], &vector.autn].concat();
    match send(&Apdu::new(channel, 0x88, 0x00, 0x81).with_data(&data).with_le(256)).as_slice() {
        [0xDB, 8, rest @ ..] => rest.starts_with(&vector.xres),
        [0x98, 0x62] => false,
        other => panic!("AUTHENTICATE: {}", hex::encode(other)),
    }
}
