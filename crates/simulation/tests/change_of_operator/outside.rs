//! What happens outside of the platform: the device and its user, the networks.

use simtide_device::{Event as DeviceEvent, Kind, UserAction};
use simtide_platform::subscription::Event;
use simtide_protocol::ids::Imsi;

use crate::phone::Out;
use crate::scenarios::User;
use crate::world::{Crash, HOUR_MS, Happening, MINUTE_MS, World, imsi_1, imsi_2};

/// Milliseconds that a network takes to let a device in or to refuse it.
const ATTACH_MS: i64 = 5_000;
/// Milliseconds until a message is tried again that the phone did not take, or could not.
const AGAIN_MS: i64 = MINUTE_MS;
/// Milliseconds that a device is off whose power has gone.
const CUT_MS: i64 = MINUTE_MS;
/// Times that a message is tried at a phone that does not take it.
const TRIES_MAX: u32 = 200;
/// 3GPP TS 24.008, 10.5.3.6: IMSI unknown in HLR; network failure.
const UNKNOWN: u8 = 0x02;
const FAILURE: u8 = 0x11;

impl World {
    pub(super) fn happens(&mut self, what: Happening) -> Result<(), Crash> {
        match what {
            Happening::Said(tpdu) => return self.said(&tpdu),
            Happening::Consent(granted) => return self.event(Event::Consent { granted }, None),
            Happening::Cancel => return self.event(Event::Cancel, None),
            Happening::Resolve => return self.event(Event::Resolve, None),
            Happening::Late(verb, imsi) => drop(self.carry_out(verb, imsi)),
            Happening::Attack => self.attack(),
            Happening::Message(tpdu) => self.message(tpdu),
            Happening::Outcome { reference, accepted } => {
                self.device(DeviceEvent::SubmitOutcome { reference, accepted });
            }
            Happening::User(action) => self.device(DeviceEvent::User(action)),
            Happening::PowerOff => self.device(DeviceEvent::PowerOff),
            Happening::PowerOn => {
                self.device(DeviceEvent::PowerOn);
                for tpdu in std::mem::take(&mut self.waiting) {
                    self.later(2_000, Happening::Message(tpdu));
                }
            }
            Happening::Moves => {
                self.phone.moves(Kind::Computer, self.now);
                self.wanted();
                self.later(HOUR_MS, Happening::PowerOn);
            }
            Happening::Attach(imsi) => self.attach(imsi),
        }
        Ok(())
    }

    pub(super) fn device(&mut self, event: DeviceEvent) {
        self.phone.handle(self.now, event);
        self.wanted();
        self.check();
    }

    /// A part reaches the phone, or waits for it.
    fn message(&mut self, tpdu: Vec<u8>) {
        if !self.phone.is_on() {
            self.waiting.push(tpdu);
            return;
        }
        self.messages += 1;
        let id = self.messages;
        self.handed.insert(id, tpdu.clone());
        self.device(DeviceEvent::Sms { id, service_center: "+43660".into(), tpdu });
    }

    /// What the phone wants of the world.
    fn wanted(&mut self) {
        while let Some(out) = self.phone.out.pop_front() {
            match out {
                Out::Attach(imsi) => self.later(ATTACH_MS, Happening::Attach(imsi)),
                Out::Submit { reference, tpdu } => self.submitted(reference, tpdu),
                Out::Report { id, taken } => {
                    let tpdu = self.handed.remove(&id).unwrap();
                    self.refused += u32::from(!taken);
                    match () {
                        () if taken || self.refused > TRIES_MAX => {}
                        () if self.phone.is_on() => self.later(AGAIN_MS, Happening::Message(tpdu)),
                        () => self.waiting.push(tpdu),
                    }
                }
                Out::Question => self.asked(),
                Out::PowerCut => self.later(CUT_MS, Happening::PowerOn),
            }
        }
    }

    /// "Change to operator Second?"
    fn asked(&mut self) {
        self.questions += 1;
        match self.scenario.user {
            User::Yes(after_ms) => self.later(after_ms, Happening::User(UserAction::Confirm)),
            User::NotAsked => panic!("{}: nobody was to be asked", self.scenario.name),
            User::No => self.later(20_000, Happening::User(UserAction::Deny)),
            User::Silent => {}
            User::SwitchesOff if self.questions == 1 => {
                self.later(20_000, Happening::PowerOff);
                self.later(40_000, Happening::PowerOn);
            }
            User::SwitchesOff => self.later(20_000, Happening::User(UserAction::Confirm)),
        }
    }

    /// The network of an identity asks its register, and the card proves itself.
    fn attach(&mut self, imsi: Imsi) {
        if !self.phone.is_attaching(imsi) {
            return;
        }
        let number = if imsi == imsi_1() { 1 } else { 2 };
        let register = if number == 1 { &self.first } else { &self.second };
        let is_shut = number == 2 && self.now < self.began_at() + self.scenario.shut_until_ms;
        if is_shut {
            return self.device(DeviceEvent::AttachRefused { cause: FAILURE });
        }
        if !register.accepts(imsi) {
            return self.device(DeviceEvent::AttachRefused { cause: UNKNOWN });
        }
        if !self.phone.device.is_idle() {
            // It is sending a message, or shows something: the network asks again.
            return self.later(AGAIN_MS, Happening::Attach(imsi));
        }
        let sequence = self.next_sequence();
        let is_challenged = number == 1 || !self.scenario.unchallenged;
        if is_challenged && !self.phone.answers(self.now, number, sequence) {
            // The power went; or the card is somebody else, which the checks would have found.
            return self.wanted();
        }
        let register = if number == 1 { &mut self.first } else { &mut self.second };
        register.attach(imsi);
        self.device(DeviceEvent::Attached);
    }

    /// Whom the card was last found to be.
    pub fn card_imsi(&self) -> Imsi {
        if self.found == 1 { imsi_1() } else { imsi_2() }
    }
}
