//! A device with a card in one process, driven step by step: no sockets, what it sends and answers is kept.

use std::collections::VecDeque;
use std::sync::Arc;

use simtide_card::secure_channel::NoChannels;
use simtide_card::{Card, Environment, Personalization};
use simtide_device::{Command, Device, Event, Kind, Settings, SmsReport};
use simtide_protocol::ids::{EpochMs, Imsi};
use simtide_protocol::profile::Profile;
use simtide_protocol::sms::Address;

use super::sgs::Sms;

/// A meter, switched on.
pub struct Phone {
    /// Who has registered.
    pub imsi: Option<Imsi>,
    /// SMS-SUBMITs that wait for the network, with their numbers.
    pub outgoing: VecDeque<(u32, Vec<u8>)>,
    reports: VecDeque<SmsReport>,
    device: Device,
    card: Card,
    now: EpochMs,
}

impl Phone {
    /// A phone with a card that has just left the factory.
    pub fn start(personalization: &Personalization, now: EpochMs) -> Phone {
        let mut phone = Phone {
            imsi: None,
            outgoing: VecDeque::new(),
            reports: VecDeque::new(),
            device: Device::new(Settings::of(Kind::Meter)),
            card: Card::personalised(Arc::new(Profile::standard()), personalization),
            now,
        };
        phone.event(Event::PowerOn);
        phone
    }

    /// The network is there.
    pub fn attached(&mut self) {
        self.event(Event::Attached);
    }

    /// A message arrives; the answer is its delivery report.
    pub fn deliver(&mut self, id: u64, sms: &Sms) -> SmsReport {
        let centre = Address::from_data_object(&sms.service_centre);
        let plus = if centre.kind == Address::INTERNATIONAL { "+" } else { "" };
        let service_center = format!("{plus}{}", centre.number);
        self.event(Event::Sms { id, service_center, tpdu: sms.tpdu.clone() });
        self.reports.pop_front().expect("the phone does not answer the message")
    }

    /// The network has answered for a message.
    pub fn submitted(&mut self, reference: u32, accepted: bool) {
        self.event(Event::SubmitOutcome { reference, accepted });
    }

    /// A command APDU on the card's own port: data and status word.
    pub fn transmit(&mut self, command: &[u8]) -> Vec<u8> {
        let mut random = |buffer: &mut [u8]| buffer.fill(0x5A);
        self.card.transmit(&mut Environment { channels: &NoChannels, random: &mut random }, command)
    }

    fn event(&mut self, event: Event) {
        self.device.handle(self.now, event);
        while let Some(command) = self.device.next_command() {
            let answer = match command {
                Command::Reset => {
                    let mut random = |buffer: &mut [u8]| buffer.fill(0x5A);
                    let mut environment = Environment { channels: &NoChannels, random: &mut random };
                    Event::CardReset(self.card.reset(&mut environment))
                }
                Command::Transmit(apdu) => Event::CardAnswer(self.transmit(&apdu)),
                Command::Attach { imsi, .. } => {
                    self.imsi = Some(imsi);
                    continue;
                }
                Command::SubmitSms { reference, tpdu } => {
                    self.outgoing.push_back((reference, tpdu));
                    continue;
                }
                Command::ReportSms { report, .. } => {
                    self.reports.push_back(report);
                    continue;
                }
                Command::OpenChannel { link, .. } => Event::ChannelFailed(link),
                _ => continue,
            };
            self.device.handle(self.now, answer);
        }
    }
}
