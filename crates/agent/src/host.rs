//! A device with its connections and its subscription: everything that a shell does apart from the card itself.

use std::time::Duration;

use simtide_device::client::{self, ClientNotice};
use simtide_device::{Command, Device, Event, Menu, Notice, Prompt};
use simtide_protocol::ids::{EpochMs, Imsi, Msisdn};

use crate::entitlement::IpBearer;
use crate::entitlement::bearer::Step;
use crate::links::Links;
use crate::network::{Line, NetworkEvent, Networks, message_id};
use crate::port::thread::Request;

/// How long a service centre may take to answer for a message, in seconds.
pub const SUBMIT_TIMEOUT_S: u64 = 30;

/// Around a device: where its events go, what leads to the network, who looks at its display.
pub trait Surroundings {
    /// A way by which tasks hand events to this device.
    fn teller(&self) -> impl Fn(Event) + Send + Sync + 'static;
    /// The networks in reach.
    fn networks(&self) -> &Networks;
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

/// First id of challenges that come from the network; those of the client module lie below.
const NETWORK_CHALLENGES: u64 = 1 << 63;

/// Who is on the card, and where it belongs.
#[derive(Debug, Clone, Copy)]
struct Subscriber {
    imsi: Imsi,
    /// The network's number; none where it is not in reach.
    network: Option<usize>,
}

#[derive(Debug)]
struct Challenge {
    id: u64,
    imsi: Imsi,
    network: usize,
}

/// The device and what its shell keeps for it.
#[derive(Debug)]
pub struct Host {
    device: Device,
    links: Links,
    subscriber: Option<Subscriber>,
    /// The challenge that the card is answering for the network.
    challenge: Option<Challenge>,
    challenges: u64,
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
        Self {
            device,
            links: Links::default(),
            subscriber: None,
            challenge: None,
            challenges: 0,
            submitting: None,
            covered: false,
            ip: None,
        }
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
        self.subscriber.map(|subscriber| subscriber.imsi)
    }

    /// Hands over an event; [`Self::next_request`] follows.
    pub fn handle(&mut self, now: EpochMs, event: Event) {
        if let (Event::SubmitOutcome { reference, accepted }, Some(ip)) = (&event, &mut self.ip)
            && ip.submitted(now, *reference, *accepted)
        {
            return;
        }
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

    /// Hands over what the network with this number says; [`Self::next_request`] follows.
    pub fn network(&mut self, now: EpochMs, from: usize, event: NetworkEvent) {
        let Some(Subscriber { imsi: own, network }) = self.subscriber else { return };
        // From another network, or for an identity that this card had before.
        if network != Some(from) || event.imsi().is_some_and(|imsi| imsi != own) {
            return;
        }
        match event {
            NetworkEvent::Up => self.handle(now, Event::Coverage(true)),
            NetworkEvent::Down => {
                self.covered = false;
                if let Some(reference) = self.submitting.as_ref().map(|submitting| submitting.reference) {
                    self.handle(now, Event::SubmitOutcome { reference, accepted: false });
                }
                self.handle(now, Event::Coverage(false));
            }
            NetworkEvent::Challenge { imsi, rand, autn } => {
                self.challenges += 1;
                let id = NETWORK_CHALLENGES | self.challenges;
                self.challenge = Some(Challenge { id, imsi, network: from });
                self.handle(now, Event::Authenticate { id, rand, autn });
            }
            NetworkEvent::Attached { .. } => {
                self.covered = true;
                self.handle(now, Event::Attached);
            }
            NetworkEvent::Rejected { cause, .. } | NetworkEvent::Detached { cause, .. } => {
                self.covered = false;
                self.handle(now, Event::AttachRefused { cause });
            }
            NetworkEvent::Deliver { id, service_center, tpdu, .. } => {
                self.handle(now, Event::Sms { id: message_id(from, id), service_center, tpdu });
            }
            NetworkEvent::Submitted { reference, accepted, .. } => {
                self.handle(now, Event::SubmitOutcome { reference, accepted });
            }
        }
    }

    /// Does everything that the device asks for, up to its next request to the card.
    pub fn next_request(&mut self, now: EpochMs, around: &impl Surroundings) -> Option<Request> {
        loop {
            if let Some(ip) = &mut self.ip {
                ip.note_coverage(now, self.covered);
                match ip.step(now, &mut self.device, around.client_teller(), |shown| around.show(shown)) {
                    Some(Step::Done) => continue,
                    Some(Step::Submit { reference, tpdu }) => {
                        self.submit(now, around, reference, tpdu);
                        continue;
                    }
                    None => {}
                }
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
            Command::Attach { imsi, msisdn, mnc_digits } => {
                self.attach(now, around.networks(), imsi, msisdn, mnc_digits);
            }
            Command::Detach { imsi } => {
                self.covered = false;
                if let Some(line) = self.line(around.networks()) {
                    line.detach(imsi);
                }
                self.subscriber = None;
            }
            Command::OpenChannel { link, remote } => {
                self.links.open(link, remote, around.latency(), around.teller());
            }
            Command::Receive { link, bytes_max } => self.links.receive(link, bytes_max),
            Command::Send { link, bytes } => self.links.send(link, bytes),
            Command::CloseChannel { link } => self.links.close(link),
            Command::SubmitSms { reference, tpdu } => {
                let kept = self.ip.is_some().then(|| tpdu.clone());
                self.submitting = Some(Submitting { reference, tpdu: kept });
                self.submit(now, around, reference, tpdu);
            }
            Command::ReportSms { id, report } => around.networks().report(id, report),
            Command::SmsReceived { tpdu } => around.show(Shown::Sms(tpdu)),
            Command::MenuChanged(menu) => around.show(Shown::Menu(menu)),
            Command::Show(prompt) => around.show(Shown::Prompt(prompt)),
            Command::Clear => around.show(Shown::Clear),
            Command::IdleText(text) => around.show(Shown::Idle(text)),
            Command::Notice(notice) => around.show(Shown::Notice(notice)),
            Command::Authenticated { id } => self.respond(around.networks(), id),
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

    /// The line to the subscriber's network.
    fn line<'a>(&self, networks: &'a Networks) -> Option<&'a Line> {
        self.subscriber?.network.and_then(|network| networks.line(network))
    }

    fn attach(
        &mut self,
        now: EpochMs,
        networks: &Networks,
        imsi: Imsi,
        msisdn: Option<Msisdn>,
        mnc_digits: Option<u8>,
    ) {
        let network = networks.home_of(&imsi, mnc_digits);
        self.subscriber = Some(Subscriber { imsi, network });
        match self.line(networks) {
            Some(line) if line.stands() => line.attach(imsi, msisdn),
            _ => self.handle(now, Event::Coverage(false)),
        }
    }

    /// The card has answered a challenge of the network. An answer that is not awaited any more is dropped.
    fn respond(&mut self, networks: &Networks, id: u64) {
        let authentication = self.device.take_authentication(id);
        if let Some(Challenge { imsi, network, .. }) = self.challenge.take_if(|challenge| challenge.id == id)
            && let Some(line) = networks.line(network)
        {
            line.respond(imsi, authentication);
        }
    }

    /// Hands a message to the service centre; its answer, or that there is none, comes back as an event.
    fn submit(&mut self, now: EpochMs, around: &impl Surroundings, reference: u32, tpdu: Vec<u8>) {
        let line = self.line(around.networks());
        let taken =
            self.subscriber().zip(line).is_some_and(|(imsi, line)| line.submit(imsi, reference, tpdu));
        if !taken {
            return self.handle(now, Event::SubmitOutcome { reference, accepted: false });
        }
        let tell = around.teller();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(SUBMIT_TIMEOUT_S)).await;
            // Without effect where an answer came before.
            tell(Event::SubmitOutcome { reference, accepted: false });
        });
    }
}
