//! One device with its card.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use simtide_agent::clock::Clock;
use simtide_agent::entitlement::IpBearer;
use simtide_agent::host::{Host, Shown, Surroundings};
use simtide_agent::network::{NetworkEvent, Networks};
use simtide_agent::port::soft::random;
use simtide_agent::port::thread::Request;
use simtide_agent::runner::Inbound;
use simtide_card::Card;
use simtide_card::secure_channel::Environment;
use simtide_device::{Device, Event};
use simtide_protocol::ids::{EpochMs, Iccid, Imsi};

use super::Fleet;

/// A device, its card, and its own view of the time.
pub(super) struct Slot {
    iccid: Iccid,
    host: Host,
    card: Card,
    /// Whether someone has bought the card.
    in_field: bool,
    is_on: bool,
    traced: bool,
    /// While a connection is open: when that began, in virtual and in real time.
    session: Option<(EpochMs, Instant)>,
    /// The earliest entry in the schedule, in virtual time.
    pub scheduled: Option<EpochMs>,
}

impl Slot {
    pub fn new(
        iccid: Iccid,
        device: Device,
        card: Card,
        ip: Option<IpBearer>,
        in_field: bool,
        traced: bool,
    ) -> Self {
        let host = Host::new(device);
        let host = match ip {
            Some(ip) => host.with_ip(ip),
            None => host,
        };
        Self { iccid, host, card, in_field, is_on: false, traced, session: None, scheduled: None }
    }

    pub fn is_in_field(&self) -> bool {
        self.in_field
    }

    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Who is registered.
    pub fn subscriber(&self) -> Option<Imsi> {
        self.host.subscriber()
    }

    pub fn answer_to_reset(&self) -> Vec<u8> {
        self.card.profile().answer_to_reset.clone()
    }

    /// The time that this device sees.
    fn now(&self, clock: &Clock) -> EpochMs {
        match self.session {
            Some((began, since)) => began.plus_ms(since.elapsed().as_millis() as i64),
            None => clock.now(),
        }
    }

    /// An entry of the schedule has come: the device goes on, or hears of its deadline if it really is one.
    pub fn due(&mut self, fleet: &Arc<Fleet>, index: u32, entry: EpochMs) {
        if self.scheduled != Some(entry) {
            // An earlier one has taken its place.
            return;
        }
        self.scheduled = None;
        if !self.is_on {
            return self.handle(fleet, index, Inbound::Device(Event::PowerOn));
        }
        let now = self.now(&fleet.clock);
        match self.host.next_deadline() {
            Some(deadline) if deadline <= now => self.handle(fleet, index, Inbound::Device(Event::Deadline)),
            _ => self.note_deadline(fleet, index),
        }
    }

    /// Takes something from outside and goes on until the device waits again.
    pub fn handle(&mut self, fleet: &Arc<Fleet>, index: u32, inbound: Inbound) {
        let before = self.host.subscriber();
        let now = self.now(&fleet.clock);
        match inbound {
            Inbound::Device(event) => {
                match event {
                    Event::PowerOn => self.is_on = true,
                    Event::PowerOff => self.is_on = false,
                    _ => {}
                }
                self.host.handle(now, event);
            }
            Inbound::Client(event) => self.host.client(now, event),
            Inbound::Network(network, event) => {
                if matches!(event, NetworkEvent::Deliver { .. }) {
                    fleet.counters.messages.fetch_add(1, Relaxed);
                }
                self.host.network(now, network, event);
            }
        }
        self.go_on(fleet, index);
        if !self.is_on {
            self.card.power_off();
        }
        let after = self.host.subscriber();
        if before != after {
            fleet.registered(before, after, index);
        }
        self.keep_time(fleet);
        self.note_deadline(fleet, index);
    }

    fn go_on(&mut self, fleet: &Arc<Fleet>, index: u32) {
        let around = Around { fleet, index };
        while let Some(request) = self.host.next_request(self.now(&fleet.clock), &around) {
            let event = match request {
                Request::Reset => Event::CardReset(lend(fleet, |environment| self.card.reset(environment))),
                Request::Transmit(command) => Event::CardAnswer(self.transmit(fleet, &command)),
            };
            let now = self.now(&fleet.clock);
            self.host.handle(now, event);
        }
    }

    /// One command to the card, from the device or from the door.
    pub fn transmit(&mut self, fleet: &Fleet, command: &[u8]) -> Vec<u8> {
        fleet.counters.apdus.fetch_add(1, Relaxed);
        let response = lend(fleet, |environment| self.card.transmit(environment, command));
        if self.traced
            && let Some(trace) = &fleet.trace
        {
            trace.write(self.now(&fleet.clock), self.iccid, command, &response);
        }
        response
    }

    /// The device's clock goes at the pace of real time from the opening of a connection to its end.
    fn keep_time(&mut self, fleet: &Fleet) {
        let open = self.host.device().has_channel();
        match self.session {
            None if open => {
                self.session = Some((fleet.clock.now(), Instant::now()));
                fleet.counters.session_began();
            }
            Some(_) if !open => {
                self.session = None;
                fleet.counters.session_ended();
            }
            _ => {}
        }
    }

    /// Makes sure that the schedule has an entry no later than the next deadline.
    fn note_deadline(&mut self, fleet: &Fleet, index: u32) {
        let Some(deadline) = self.host.next_deadline() else { return };
        let at = match self.session {
            None => deadline,
            Some(_) => {
                let left_ms = deadline.ms_since(self.now(&fleet.clock)).max(1);
                fleet.clock.now().plus_ms((left_ms as f64 * fleet.clock.rate) as i64)
            }
        };
        if self.scheduled.is_none_or(|scheduled| at < scheduled) {
            self.scheduled = Some(at);
            fleet.schedule.at(at, index);
        }
    }
}

/// Lends a card what it needs for one command.
fn lend<T>(fleet: &Fleet, act: impl FnOnce(&mut Environment<'_>) -> T) -> T {
    act(&mut Environment { channels: &fleet.channels, random: &mut random })
}

struct Around<'a> {
    fleet: &'a Arc<Fleet>,
    index: u32,
}

impl Surroundings for Around<'_> {
    fn teller(&self) -> impl Fn(Event) + Send + Sync + 'static {
        let (fleet, index) = (Arc::downgrade(self.fleet), self.index);
        move |event| {
            if let Some(fleet) = fleet.upgrade() {
                fleet.deliver(index, Inbound::Device(event));
            }
        }
    }

    fn client_teller(&self) -> impl Fn(simtide_device::client::Event) + Send + Sync + 'static {
        let (fleet, index) = (Arc::downgrade(self.fleet), self.index);
        move |event| {
            if let Some(fleet) = fleet.upgrade() {
                fleet.deliver(index, Inbound::Client(event));
            }
        }
    }

    fn networks(&self) -> &Networks {
        self.fleet.networks(self.index)
    }

    fn latency(&self) -> Duration {
        self.fleet.latency
    }

    fn show(&self, shown: Shown) {
        if let Shown::Notice(notice) = shown {
            tracing::debug!(index = self.index, ?notice, "a device of the fleet has something to say");
        }
    }
}
