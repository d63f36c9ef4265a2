//! One device on one card port: the loop that carries events to the machine and its commands to the world.
//!
//! Priorities when several things are ready: 1 the end, 2 the card's answer, 3 connections, network and person in the
//! order in which they spoke, 4 the deadline. While the card thinks, everything else is handled as it comes.

use std::time::Duration;

use simtide_device::{Device, Event, client};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::clock::Clock;
use crate::entitlement::IpBearer;
use crate::host::{Host, Shown, Surroundings};
use crate::network::{NetworkEvent, Networks};
use crate::port::CardPort;
use crate::port::thread::{PortThread, Request};

/// How long a device waits before it looks for a card again that it has lost, in seconds.
pub const CARD_RETRY_S: u64 = 2;

/// What comes to a device from outside of its card.
#[derive(Debug)]
pub enum Inbound {
    /// From a connection or a person.
    Device(Event),
    /// From the network with this number.
    Network(usize, NetworkEvent),
    /// For the client module.
    Client(client::Event),
}

/// What a device runs with.
#[derive(Debug)]
pub struct Runner {
    /// The machine, switched off.
    pub device: Device,
    /// The client module with its queues, where the device has one.
    pub ip: Option<IpBearer>,
    /// The networks; the events of their lines have to arrive at `inbox`.
    pub networks: Networks,
    /// Time.
    pub clock: Clock,
    /// What the radio adds to connections.
    pub latency: Duration,
    /// Where events from outside arrive.
    pub inbox: mpsc::UnboundedReceiver<Inbound>,
    /// The other end of `inbox`, for connections.
    pub outside: mpsc::UnboundedSender<Inbound>,
    /// Where what is shown goes.
    pub display: mpsc::UnboundedSender<Shown>,
}

struct Around<'a> {
    networks: &'a Networks,
    latency: Duration,
    outside: &'a mpsc::UnboundedSender<Inbound>,
    display: &'a mpsc::UnboundedSender<Shown>,
}

impl Surroundings for Around<'_> {
    fn teller(&self) -> impl Fn(Event) + Send + Sync + 'static {
        let outside = self.outside.clone();
        move |event| {
            // A device that has ended hears nothing.
            let _ = outside.send(Inbound::Device(event));
        }
    }

    fn networks(&self) -> &Networks {
        self.networks
    }

    fn latency(&self) -> Duration {
        self.latency
    }

    fn client_teller(&self) -> impl Fn(client::Event) + Send + Sync + 'static {
        let outside = self.outside.clone();
        move |event| {
            let _ = outside.send(Inbound::Client(event));
        }
    }

    fn show(&self, shown: Shown) {
        let _ = self.display.send(shown);
    }
}

impl Runner {
    /// Switches the device on and runs it until `stop` comes. A card that is lost is looked for again: another one may
    /// lie in the port by then.
    pub async fn run(self, port: Box<dyn CardPort>, mut stop: oneshot::Receiver<()>) -> std::io::Result<()> {
        let Self { device, ip, networks, clock, latency, mut inbox, outside, display } = self;
        let around = Around { networks: &networks, latency, outside: &outside, display: &display };
        let mut card = PortThread::start(port)?;
        let mut host = Host::new(device);
        if let Some(ip) = ip {
            host = host.with_ip(ip);
        }
        // Whether an answer is awaited, and whether to a reset.
        let mut asked = None;
        let mut restart = None;
        host.handle(clock.now(), Event::PowerOn);
        loop {
            if asked.is_none()
                && let Some(request) = host.next_request(clock.now(), &around)
            {
                asked = Some(matches!(request, Request::Reset));
                card.ask(request);
            }
            if let Some(error) = host.failure() {
                return Err(std::io::Error::new(error.kind(), error.to_string()));
            }
            if host.device().has_failed() && restart.is_none() {
                restart = Some(Instant::now() + Duration::from_secs(CARD_RETRY_S));
            }
            let wait = host.next_deadline().map(|deadline| clock.real(deadline.ms_since(clock.now())));
            tokio::select! {
                biased;
                _ = &mut stop => break,
                answer = card.answer(), if asked.is_some() => {
                    let event = answered(answer, asked.take() == Some(true));
                    host.handle(clock.now(), event);
                }
                inbound = inbox.recv() => match inbound {
                    Some(Inbound::Device(event)) => host.handle(clock.now(), event),
                    Some(Inbound::Network(from, event)) => {
                        report(&event);
                        host.network(clock.now(), from, event);
                    }
                    Some(Inbound::Client(event)) => host.client(clock.now(), event),
                    None => break,
                },
                () = sleep_until(restart.unwrap_or_else(Instant::now)), if restart.is_some() => {
                    restart = None;
                    host.handle(clock.now(), Event::PowerOn);
                }
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {
                    host.handle(clock.now(), Event::Deadline);
                }
            }
        }
        host.handle(clock.now(), Event::PowerOff);
        while let Some(Request::Reset | Request::Transmit(_)) = host.next_request(clock.now(), &around) {}
        Ok(())
    }
}

/// What a person at the device wants to know of the network.
fn report(event: &NetworkEvent) {
    match event {
        NetworkEvent::Attached { imsi } => {
            tracing::info!("the network has registered the device");
            tracing::debug!(%imsi, "registered");
        }
        NetworkEvent::Rejected { cause, .. } => {
            tracing::warn!(cause, "the network does not let the device in");
        }
        NetworkEvent::Detached { cause, .. } => {
            tracing::warn!(cause, "the network has taken the registration away");
        }
        NetworkEvent::Down => tracing::info!("the line to the network is down"),
        NetworkEvent::Deliver { tpdu, .. } => tracing::info!(bytes = tpdu.len(), "a short message came"),
        NetworkEvent::Up | NetworkEvent::Challenge { .. } | NetworkEvent::Submitted { .. } => {}
    }
}

/// A port's answer as an event.
fn answered(answer: Result<Vec<u8>, crate::port::PortError>, to_reset: bool) -> Event {
    match answer {
        Ok(atr) if to_reset => Event::CardReset(atr),
        Ok(response) => Event::CardAnswer(response),
        Err(error) => {
            tracing::warn!(%error, "the card does not answer");
            Event::CardLost
        }
    }
}
