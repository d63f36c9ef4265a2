//! The client module in its device's host: its commands carried out, its queues on disk, the card's channel to it.

use std::io;
use std::net::SocketAddr;

use simtide_device::client::{Client, Command, Event, Reason};
use simtide_device::sat::Sat;
use simtide_device::{Authentication, Device, Event as DeviceEvent, LinkId, SmsReport};
use simtide_protocol::ids::EpochMs;

use super::queue_file::QueueFile;
use super::transport::Transport;
use crate::host::Shown;
use crate::port::soft::random;

/// Challenges of the client module have ids below this one; those of the network begin here.
const CHALLENGES_UP_TO: u64 = 1 << 63;
/// Messages of the client module have numbers from here on at the service centre; those of its device lie below.
const MESSAGES_FROM: u32 = 1 << 31;
/// Most bytes that wait for a card on its channel.
const CHANNEL_BYTES_MAX: usize = 64 * 1024;

/// The client module and what belongs to it.
pub struct IpBearer {
    client: Client,
    /// Without a file the queues live as long as the process.
    queue: Option<QueueFile>,
    transport: Transport,
    /// Where a card would open a channel to, to speak to the second server.
    addresses: Vec<SocketAddr>,
    channel: Option<CardChannel>,
    /// What the device's card was when it was last looked at.
    starts: u32,
    had_card: bool,
    covered: bool,
    idle_told: bool,
    failed: Option<io::Error>,
}

/// What a step of the client module leaves to its host.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing.
    Done,
    /// A message for the network.
    Submit { reference: u32, tpdu: Vec<u8> },
}

/// The card's channel to the client module.
#[derive(Debug)]
struct CardChannel {
    link: LinkId,
    /// What waits for the card.
    outbox: Vec<u8>,
    /// How many bytes the device takes now.
    permit: usize,
    closing: bool,
}

impl std::fmt::Debug for IpBearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IpBearer").field("client", &self.client).finish_non_exhaustive()
    }
}

impl IpBearer {
    /// A client module with its queues, a way to the server, and the addresses of the server as a card would use them.
    pub fn new(
        client: Client,
        queue: Option<QueueFile>,
        transport: Transport,
        addresses: Vec<SocketAddr>,
    ) -> Self {
        Self {
            client,
            queue,
            transport,
            addresses,
            channel: None,
            starts: 0,
            had_card: false,
            covered: false,
            idle_told: true,
            failed: None,
        }
    }

    /// The client module.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The journal could not be written: the device must end, or it would forget what it has said.
    pub fn failure(&self) -> Option<&io::Error> {
        self.failed.as_ref()
    }

    /// Hands over an event; the host's next look carries out what follows.
    pub(crate) fn handle(&mut self, now: EpochMs, event: Event) {
        self.client.handle(now, &mut random, event);
    }

    /// Whether the network has registered the device.
    pub(crate) fn note_coverage(&mut self, now: EpochMs, covered: bool) {
        if std::mem::replace(&mut self.covered, covered) != covered {
            self.handle(now, Event::Coverage(covered));
        }
    }

    /// The service centre's answer, where it is about a message of the client module; then it is taken.
    pub(crate) fn submitted(&mut self, now: EpochMs, reference: u32, accepted: bool) -> bool {
        let is_ours = reference >= MESSAGES_FROM;
        if is_ours {
            self.handle(now, Event::Submitted { reference: reference - MESSAGES_FROM, accepted });
        }
        is_ours
    }

    /// The device has something to do: it will be idle anew.
    pub(crate) fn stirred(&mut self) {
        self.idle_told = false;
    }

    /// One step of the client module, where there is one.
    pub(crate) fn step(
        &mut self,
        now: EpochMs,
        device: &mut Device,
        tell: impl Fn(Event) + Send + Sync + 'static,
        show: impl Fn(Shown),
    ) -> Option<Step> {
        if self.failed.is_some() {
            return None;
        }
        self.look_at_card(now, device);
        if let Some(changes) = self.client.take_changes() {
            if let Some(Err(error)) =
                self.queue.as_mut().map(|queue| queue.append(&changes, self.client.queues()))
            {
                // What lies on the disk is unknown: nothing may follow from it.
                tracing::error!(%error, "the queue cannot be written: the device ends");
                self.failed = Some(error);
                return None;
            }
            self.client.stored(now, &mut random);
            return Some(Step::Done);
        }
        match self.client.next_command()? {
            Command::SubmitSms { reference, tpdu } => {
                // There are far fewer of them.
                let reference = MESSAGES_FROM | reference;
                Some(Step::Submit { reference, tpdu })
            }
            command => {
                self.execute(now, device, command, tell, show);
                Some(Step::Done)
            }
        }
    }

    fn look_at_card(&mut self, now: EpochMs, device: &Device) {
        if device.has_no_card() {
            if std::mem::take(&mut self.had_card) {
                self.handle(now, Event::CardGone);
            }
        } else if device.starts() != self.starts {
            self.starts = device.starts();
            self.had_card = true;
            self.handle(now, Event::CardStarted(*device.files()));
        }
    }

    fn execute(
        &mut self,
        now: EpochMs,
        device: &mut Device,
        command: Command,
        tell: impl Fn(Event) + Send + Sync + 'static,
        show: impl Fn(Shown),
    ) {
        match command {
            Command::Request(request) => self.transport.send(request, tell),
            Command::Authenticate { id, rand, autn } => {
                self.stirred();
                device.handle(now, DeviceEvent::Authenticate { id, rand, autn });
            }
            Command::Deliver(part) => {
                self.stirred();
                let sms = DeviceEvent::Sms { id: part.id, service_center: String::new(), tpdu: part.tpdu };
                device.handle(now, sms);
            }
            Command::SubmitOutcome { reference, accepted } => {
                self.stirred();
                device.handle(now, DeviceEvent::SubmitOutcome { reference, accepted });
            }
            Command::ChannelSend(link, bytes) => {
                if let Some(channel) = self.channel.as_mut().filter(|channel| channel.link == link) {
                    channel.outbox.extend_from_slice(&bytes);
                }
                self.give(now, device);
            }
            Command::ChannelClose(link) => {
                if let Some(channel) = self.channel.as_mut().filter(|channel| channel.link == link) {
                    channel.closing = true;
                }
                self.give(now, device);
            }
            Command::Notice(notice) => show(Shown::Client(notice)),
            // `step` hands these out.
            Command::SubmitSms { .. } => {}
        }
    }

    /// The device has nothing under way: `true` where the client module did not know yet.
    pub(crate) fn note_idle(&mut self, now: EpochMs, device: &Device) -> bool {
        if self.idle_told || self.failed.is_some() || !device.is_idle() {
            return false;
        }
        self.idle_told = true;
        self.handle(now, Event::CardIdle);
        true
    }

    /// The id of a challenge, where it is one of the client module's.
    pub(crate) fn challenge(id: u64) -> Option<u64> {
        (id < CHALLENGES_UP_TO).then_some(id)
    }

    /// The card has answered.
    pub(crate) fn authenticated(&mut self, now: EpochMs, id: u64, authentication: Authentication) {
        self.handle(now, Event::Authenticated { id, authentication });
    }

    /// Whether this report is on a message of the SAT module; then it is taken.
    pub(crate) fn reported(&mut self, now: EpochMs, id: u64, report: &SmsReport) -> bool {
        if !Sat::owns(id) {
            return false;
        }
        self.handle(now, Event::Reported { id, report: report.clone() });
        true
    }

    /// Whether a message from the network is the server's notification; then it is taken.
    pub(crate) fn notified(&mut self, now: EpochMs, tpdu: &[u8]) -> bool {
        let is_ours = self.client.is_notification(tpdu);
        if is_ours {
            self.handle(now, Event::Query(Reason::Notified));
        }
        is_ours
    }

    /// Whether a channel to this place leads to the client module.
    pub(crate) fn serves(&self, remote: SocketAddr) -> bool {
        self.addresses.contains(&remote)
    }

    /// The card has opened a channel to the second server's address.
    pub(crate) fn open(&mut self, now: EpochMs, device: &mut Device, link: LinkId) {
        self.channel = Some(CardChannel { link, outbox: Vec::new(), permit: 0, closing: false });
        self.handle(now, Event::ChannelOpened(link));
        device.handle(now, DeviceEvent::ChannelConnected(link));
    }

    /// Whether this channel is the card's to the client module.
    pub(crate) fn has_channel(&self, link: LinkId) -> bool {
        self.channel.as_ref().is_some_and(|channel| channel.link == link)
    }

    /// The device takes so many bytes.
    pub(crate) fn receive(&mut self, now: EpochMs, device: &mut Device, bytes_max: usize) {
        if let Some(channel) = self.channel.as_mut() {
            channel.permit = bytes_max;
        }
        self.give(now, device);
    }

    /// The card sends bytes.
    pub(crate) fn send(&mut self, now: EpochMs, device: &mut Device, link: LinkId, bytes: Vec<u8>) {
        let count = bytes.len();
        self.handle(now, Event::ChannelData(link, bytes));
        device.handle(now, DeviceEvent::ChannelSent(link, count));
    }

    /// The card has closed its channel.
    pub(crate) fn close(&mut self, now: EpochMs, link: LinkId) {
        self.channel = None;
        self.handle(now, Event::ChannelClosed(link));
    }

    /// Gives the card what waits for it, as far as the device takes it.
    fn give(&mut self, now: EpochMs, device: &mut Device) {
        let Some(channel) = self.channel.as_mut() else { return };
        let link = channel.link;
        let flooded = channel.outbox.len() > CHANNEL_BYTES_MAX;
        if !channel.outbox.is_empty() && channel.permit > 0 && !flooded {
            let count = channel.outbox.len().min(channel.permit);
            channel.permit = 0;
            let bytes = channel.outbox.drain(..count).collect();
            device.handle(now, DeviceEvent::ChannelData(link, bytes));
        }
        let Some(channel) = self.channel.as_ref() else { return };
        if flooded || (channel.closing && channel.outbox.is_empty()) {
            self.channel = None;
            self.handle(now, Event::ChannelClosed(link));
            device.handle(now, DeviceEvent::ChannelClosed(link));
        }
    }
}
