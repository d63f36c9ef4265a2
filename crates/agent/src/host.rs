//! A device with its connections and its subscription: everything that a shell does apart from the card itself.

use std::time::Duration;

use simtide_device::client::{self, ClientNotice};
use simtide_device::{Command, Device, Event, Menu, Notice, Prompt};
use simtide_protocol::ids::{EpochMs, Imsi, Msisdn};

use crate::entitlement::IpBearer;
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
    /// A way by which tasks hand events to this device's client module, where it has one.
    fn client_teller(&self) -> impl Fn(client::Event) + Send + Sync + 'static {
        |_| ()
    }
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
    /// The same, from the client module.
    Client(ClientNotice),
}

/// The device and what its shell keeps for it.
#[derive(Debug)]
pub struct Host {
    device: Device,
    links: Links,
    subscriber: Option<(Imsi, Option<Msisdn>)>,
    submitting: Option<Submitting>,
    /// The network has registered the subscriber, and its line stands.
    covered: bool,
    ip: Option<Box<IpBearer>>,
}

/// A message that is with the network.
#[derive(Debug)]
struct Submitting {
    reference: u32,
    /// Kept where it can go another way.
    tpdu: Option<Vec<u8>>,
}

impl Host {
    /// A host that is switched off.
    pub fn new(device: Device) -> Self {
        Self { device, links: Links::default(), subscriber: None, submitting: None, covered: false, ip: None }
    }

    /// The same with a client module, which reaches the card where the network does not.
    pub fn with_ip(mut self, ip: IpBearer) -> Self {
        self.ip = Some(Box::new(ip));
        self
    }

    /// The client module with its queues.
    pub fn ip(&self) -> Option<&IpBearer> {
        self.ip.as_deref()
    }

    /// Why the device cannot go on: its queue cannot be written.
    pub fn failure(&self) -> Option<&std::io::Error> {
        self.ip.as_ref().and_then(|ip| ip.failure())
    }

    /// When the device or its client module wants [`Event::Deadline`].
    pub fn next_deadline(&self) -> Option<EpochMs> {
        let ip = self.ip.as_ref().and_then(|ip| ip.client().next_deadline());
        self.device.next_deadline().into_iter().chain(ip).min()
    }

    /// Hands over what concerns the client module; [`Self::next_request`] follows.
    pub fn client(&mut self, now: EpochMs, event: client::Event) {
        if let Some(ip) = &mut self.ip {
            ip.handle(now, event);
        }
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
        if let Event::SubmitOutcome { reference, accepted } = event
            && self.submitting.as_ref().is_some_and(|submitting| submitting.reference == reference)
        {
            let tpdu = self.submitting.take().and_then(|submitting| submitting.tpdu);
            if let (false, Some(tpdu), Some(ip)) = (accepted, tpdu, &mut self.ip) {
                // The network did not take it. The other way does; what leaves by both is matched once.
                return ip.handle(now, client::Event::CardSends { reference, tpdu });
            }
        }
        if let Some(ip) = &mut self.ip {
            ip.stirred();
            if event == Event::Deadline {
                ip.handle(now, client::Event::Deadline);
            }
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
                self.covered = false;
                if let Some(reference) = self.submitting.as_ref().map(|submitting| submitting.reference) {
                    self.handle(now, Event::SubmitOutcome { reference, accepted: false });
                }
            }
            NetworkEvent::Attached { imsi } if self.subscriber() == Some(imsi) => {
                self.covered = true;
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
            if let Some(ip) = &mut self.ip
                && ip.step(now, &mut self.device, around.client_teller(), |shown| around.show(shown))
            {
                continue;
            }
            match self.device.next_command() {
                Some(Command::Reset) => return Some(Request::Reset),
                Some(Command::Transmit(apdu)) => return Some(Request::Transmit(apdu)),
                Some(command) => self.execute(now, around, command),
                None => {
                    let told = self.ip.as_mut().is_some_and(|ip| ip.note_idle(now, &self.device));
                    if !told {
                        return None;
                    }
                }
            }
        }
    }

    fn execute(&mut self, now: EpochMs, around: &impl Surroundings, command: Command) {
        let Some(command) = self.execute_over_ip(now, command) else { return };
        match command {
            Command::Attach { imsi, msisdn, .. } => {
                self.subscriber = Some((imsi, msisdn));
                around.line().attach(imsi, msisdn);
            }
            Command::Detach { imsi } => {
                self.subscriber = None;
                self.covered = false;
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

    /// What concerns the client module; gives back what does not.
    fn execute_over_ip(&mut self, now: EpochMs, command: Command) -> Option<Command> {
        let Some(ip) = &mut self.ip else { return Some(command) };
        let covered = self.covered;
        match command {
            Command::Authenticated { id } => match IpBearer::challenge(id) {
                Some(challenge) => {
                    if let Some(authentication) = self.device.take_authentication(id) {
                        ip.authenticated(now, challenge, authentication);
                    }
                }
                None => return Some(command),
            },
            Command::ReportSms { id, ref report } if ip.reported(now, id, report) => {}
            Command::SmsReceived { ref tpdu } if ip.notified(now, tpdu) => {}
            Command::SubmitSms { reference, tpdu } if ip.client().claims(&tpdu, covered) => {
                ip.handle(now, client::Event::CardSends { reference, tpdu });
            }
            Command::OpenChannel { link, remote } if ip.serves(remote) => {
                ip.open(now, &mut self.device, link);
            }
            Command::Receive { link, bytes_max } if ip.has_channel(link) => {
                ip.receive(now, &mut self.device, bytes_max);
            }
            Command::Send { link, bytes } if ip.has_channel(link) => {
                ip.send(now, &mut self.device, link, bytes);
            }
            Command::CloseChannel { link } if ip.has_channel(link) => ip.close(now, link),
            other => return Some(other),
        }
        None
    }

    fn submit(&mut self, now: EpochMs, around: &impl Surroundings, reference: u32, tpdu: Vec<u8>) {
        let kept = self.ip.is_some().then(|| tpdu.clone());
        let taken = self.subscriber.is_some_and(|(imsi, _)| around.line().submit(imsi, reference, tpdu));
        if !taken {
            return self.handle(now, Event::SubmitOutcome { reference, accepted: false });
        }
        self.submitting = Some(Submitting { reference, tpdu: kept });
        let tell = around.teller();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(SUBMIT_TIMEOUT_S)).await;
            // Without effect where an answer came before.
            tell(Event::SubmitOutcome { reference, accepted: false });
        });
    }
}
