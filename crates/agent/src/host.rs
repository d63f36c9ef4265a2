//! A device with its connections and its subscription: everything that a shell does apart from the card itself.

use std::time::Duration;

use simtide_device::{Command, Device, Event, Menu, Notice, Prompt};
use simtide_protocol::ids::{EpochMs, Imsi, Msisdn};

use crate::links::Links;
use crate::network::{Line, NetworkEvent};
use crate::port::thread::Request;

/// How long a service centre may take to answer for a message, in seconds.
pub const SUBMIT_TIMEOUT_S: u64 = 30;

/// Around a device: where its events go, what leads to the network, who looks at its display.
pub trait Surroundings {
    /// A way by which tasks hand events to this device.
    fn teller(&self) -> impl Fn(Event) + Send + Sync + 'static;
    /// The line to the network.
    fn line(&self) -> &Line;
    /// What the radio adds to the opening of a connection and to each of its round trips.
    fn latency(&self) -> Duration;
    /// Something for a person or an application.
    fn show(&self, shown: Shown);
}

/// What a device puts before people and applications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// The card's menu.
    Menu(Option<Menu>),
    /// A text or a question.
    Prompt(Prompt),
    /// What was shown is over.
    Clear,
    /// Text of the idle screen.
    Idle(String),
    /// A message that is not for the card.
    Sms(Vec<u8>),
    /// For the operator of the device.
    Notice(Notice),
}

/// The device and what its shell keeps for it.
#[derive(Debug)]
pub struct Host {
    device: Device,
    links: Links,
    subscriber: Option<(Imsi, Option<Msisdn>)>,
    submitting: Option<u32>,
}

impl Host {
    /// A host that is switched off.
    pub fn new(device: Device) -> Self {
        Self { device, links: Links::default(), subscriber: None, submitting: None }
    }

    /// The machine.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Who is registered.
    pub fn subscriber(&self) -> Option<Imsi> {
        self.subscriber.map(|(imsi, _)| imsi)
    }

    /// Hands over an event; [`Self::next_request`] follows.
    pub fn handle(&mut self, now: EpochMs, event: Event) {
        if let Event::SubmitOutcome { reference, .. } = event
            && self.submitting == Some(reference)
        {
            self.submitting = None;
        }
        self.device.handle(now, event);
    }

    /// Hands over what the network says; [`Self::next_request`] follows.
    pub fn network(&mut self, now: EpochMs, line: &Line, event: NetworkEvent) {
        match event {
            NetworkEvent::Up => {
                if let Some((imsi, msisdn)) = self.subscriber {
                    line.attach(imsi, msisdn);
                }
            }
            NetworkEvent::Down => {
                if let Some(reference) = self.submitting {
                    self.handle(now, Event::SubmitOutcome { reference, accepted: false });
                }
            }
            NetworkEvent::Attached { imsi } if self.subscriber() == Some(imsi) => {
                self.handle(now, Event::Attached);
            }
            NetworkEvent::Deliver { imsi, id, service_center, tpdu } if self.subscriber() == Some(imsi) => {
                self.handle(now, Event::Sms { id, service_center, tpdu });
            }
            NetworkEvent::Submitted { imsi, reference, accepted } if self.subscriber() == Some(imsi) => {
                self.handle(now, Event::SubmitOutcome { reference, accepted });
            }
            // For an identity that this card had before.
            NetworkEvent::Attached { .. } | NetworkEvent::Deliver { .. } | NetworkEvent::Submitted { .. } => {
            }
        }
    }

    /// Does everything that the device asks for, up to its next request to the card.
    pub fn next_request(&mut self, now: EpochMs, around: &impl Surroundings) -> Option<Request> {
        loop {
            match self.device.next_command()? {
                Command::Reset => return Some(Request::Reset),
                Command::Transmit(apdu) => return Some(Request::Transmit(apdu)),
                command => self.execute(now, around, command),
            }
        }
    }

    fn execute(&mut self, now: EpochMs, around: &impl Surroundings, command: Command) {
        match command {
            Command::Attach { imsi, msisdn } => {
                self.subscriber = Some((imsi, msisdn));
                around.line().attach(imsi, msisdn);
            }
            Command::Detach { imsi } => {
                self.subscriber = None;
                around.line().detach(imsi);
            }
            Command::OpenChannel { link, remote } => {
                self.links.open(link, remote, around.latency(), around.teller());
            }
            Command::Receive { link, bytes_max } => self.links.receive(link, bytes_max),
            Command::Send { link, bytes } => self.links.send(link, bytes),
            Command::CloseChannel { link } => self.links.close(link),
            Command::SubmitSms { reference, tpdu } => self.submit(now, around, reference, tpdu),
            Command::ReportSms { id, report } => around.line().report(id, report),
            Command::SmsReceived { tpdu } => around.show(Shown::Sms(tpdu)),
            Command::MenuChanged(menu) => around.show(Shown::Menu(menu)),
            Command::Show(prompt) => around.show(Shown::Prompt(prompt)),
            Command::Clear => around.show(Shown::Clear),
            Command::IdleText(text) => around.show(Shown::Idle(text)),
            Command::Notice(notice) => around.show(Shown::Notice(notice)),
            // Nobody here has asked.
            Command::Authenticated { id } => drop(self.device.take_authentication(id)),
            // `next_request` hands these out.
            Command::Reset | Command::Transmit(_) => {}
        }
    }

    fn submit(&mut self, now: EpochMs, around: &impl Surroundings, reference: u32, tpdu: Vec<u8>) {
        let taken = self.subscriber.is_some_and(|(imsi, _)| around.line().submit(imsi, reference, tpdu));
        if !taken {
            return self.handle(now, Event::SubmitOutcome { reference, accepted: false });
        }
        self.submitting = Some(reference);
        let tell = around.teller();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(SUBMIT_TIMEOUT_S)).await;
            // Without effect where an answer came before.
            tell(Event::SubmitOutcome { reference, accepted: false });
        });
    }
}
