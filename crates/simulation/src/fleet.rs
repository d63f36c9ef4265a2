//! A fleet: any number of devices, each with its own card in software, in one process on real sockets.
//!
//! A device at rest is a few hundred bytes beside its card and no task: whatever happens to it (a message, bytes on one
//! of its connections, a deadline) locks it, lets it and its card go on as far as they can, and notes its next
//! deadline. Only open connections have tasks.
//!
//! Time is virtual ([`Clock`]), with one exception: while a device has a connection open its own clock goes at the pace
//! of real time, because sockets do. Otherwise a card's patience with its server, counted by a device's timer, would end
//! within a millisecond of a fast clock.

mod build;
mod door;
mod schedule;
mod slot;
mod status;
mod trace;
mod uncovered;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use simtide_agent::air::AirLine;
use simtide_agent::channel::OpensslChannels;
use simtide_agent::clock::Clock;
use simtide_agent::network::{Line, NetworkEvent, Networks};
use simtide_agent::runner::Inbound;
use simtide_device::Event;
use simtide_protocol::ids::{Iccid, Imsi, Plmn};
use simtide_protocol::profile::Profile;

pub use build::FleetError;
pub use status::{Status, rss_bytes};
pub use uncovered::Uncovered;

use schedule::Schedule;
use slot::Slot;
use status::Counters;
use trace::Trace;

/// Most cards of a fleet: what fits into the memory of one machine.
pub const CARDS_MAX: u64 = 1_000_000;

/// Most lines to the SMSC.
pub const LINES_MAX: usize = 16;

/// What a fleet is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The cards, as an OUT or CSV file.
    pub cards: PathBuf,
    /// The profiles that its rows name; the first one is for rows that name none.
    pub profiles: Vec<Arc<Profile>>,
    /// At most so many cards of the file.
    pub count_max: u64,
    /// The air interface of an SMSC for every identity that none of `networks` is home of, where there is one.
    pub smsc: Option<String>,
    /// The air interfaces of networks by their codes.
    pub networks: Vec<(Plmn, String)>,
    /// Devices without coverage, where there are some.
    pub uncovered: Option<Uncovered>,
    /// How many connections carry each air interface.
    pub lines: usize,
    /// Time.
    pub clock: Clock,
    /// What the radio adds to the opening of a connection and to each of its round trips.
    pub latency: Duration,
    /// Over how much real time the devices are switched on.
    pub power_on_spread: Duration,
    /// When cards poll first.
    pub first_poll: FirstPoll,
    /// Cards whose APDUs are recorded.
    pub traced: Vec<Iccid>,
    /// Where they are recorded.
    pub trace_file: Option<PathBuf>,
}

/// When cards poll first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstPoll {
    /// As the file says. A card without a date has not left the shop: its device stays off.
    File,
    /// In the order of the file, evenly over the period of its profile from this moment on.
    Spread(simtide_protocol::ids::EpochMs),
}

/// Devices and cards.
pub struct Fleet {
    slots: Vec<Mutex<Slot>>,
    by_iccid: HashMap<Iccid, u32>,
    by_imsi: Mutex<HashMap<Imsi, u32>>,
    /// By line: each line leads to all networks.
    lines: Vec<Networks>,
    /// What devices without coverage have in reach.
    nowhere: Networks,
    /// The first device without coverage; all after it have none either.
    first_uncovered: u32,
    clock: Clock,
    latency: Duration,
    schedule: Schedule,
    channels: OpensslChannels,
    counters: Counters,
    trace: Option<Trace>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fleet({} cards)", self.slots.len())
    }
}

impl Fleet {
    /// Makes the cards, connects to the SMSC and begins to switch the devices on. Has to be called within a runtime;
    /// reading a large file takes its time.
    pub fn start(settings: &Settings) -> Result<Arc<Self>, FleetError> {
        let mut parts = build::build(settings)?;
        let line_count = settings.lines.clamp(1, LINES_MAX);
        let fleet = Arc::new_cyclic(|fleet: &std::sync::Weak<Self>| {
            let lines = (0..line_count).map(|line| networks(settings, fleet, line)).collect();
            Self {
                slots: std::mem::take(&mut parts.slots),
                by_iccid: std::mem::take(&mut parts.by_iccid),
                by_imsi: Mutex::default(),
                lines,
                nowhere: Networks::default(),
                first_uncovered: parts.first_uncovered,
                clock: settings.clock,
                latency: settings.latency,
                schedule: Schedule::default(),
                channels: parts.channels,
                counters: Counters::default(),
                trace: parts.trace,
            }
        });
        fleet.switch_on(settings.power_on_spread);
        tokio::spawn(schedule::run(Arc::downgrade(&fleet)));
        Ok(fleet)
    }

    /// Opens the door to the cards: `docs/devices.md` has its frames. Returns the address.
    pub async fn open_door(self: &Arc<Self>, address: SocketAddr) -> std::io::Result<SocketAddr> {
        door::open(self.clone(), address).await
    }

    /// How many cards there are.
    pub fn cards(&self) -> usize {
        self.slots.len()
    }

    /// How the fleet is.
    pub fn status(&self) -> Status {
        Status::of(self)
    }

    /// Switches everything off.
    pub fn switch_off(self: &Arc<Self>) {
        for index in 0..self.index_end() {
            self.deliver(index, Inbound::Device(Event::PowerOff));
        }
    }

    fn index_end(&self) -> u32 {
        // `CARDS_MAX` holds.
        self.slots.len() as u32
    }

    /// Notes when each device goes on, in the order of the file.
    fn switch_on(&self, spread: Duration) {
        let now = self.clock.now();
        let spread_ms = spread.as_millis() as f64 * self.clock.rate;
        let count = self.slots.len().max(1) as f64;
        for index in 0..self.index_end() {
            let mut slot = self.slot(index);
            if slot.is_in_field() {
                let at = now.plus_ms((spread_ms * f64::from(index) / count) as i64);
                slot.scheduled = Some(at);
                self.schedule.at(at, index);
            }
        }
    }

    /// The device with this number. A panic in one device does not end the others.
    fn slot(&self, index: u32) -> MutexGuard<'_, Slot> {
        self.slots[index as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands something to one device, and lets it go on.
    fn deliver(self: &Arc<Self>, index: u32, inbound: Inbound) {
        let mut slot = self.slot(index);
        slot.handle(self, index, inbound);
    }

    /// What a network says over a line.
    fn hear(self: &Arc<Self>, line: usize, network: usize, event: NetworkEvent) {
        let Some(imsi) = event.imsi() else {
            for index in
                (0..self.index_end().min(self.first_uncovered)).filter(|index| self.line_of(*index) == line)
            {
                self.deliver(index, Inbound::Network(network, event.clone()));
            }
            return;
        };
        let found = self.by_imsi.lock().unwrap_or_else(PoisonError::into_inner).get(&imsi).copied();
        if let Some(index) = found {
            self.deliver(index, Inbound::Network(network, event));
        }
    }

    fn line_of(&self, index: u32) -> usize {
        index as usize % self.lines.len()
    }

    fn networks(&self, index: u32) -> &Networks {
        if index < self.first_uncovered { &self.lines[self.line_of(index)] } else { &self.nowhere }
    }

    /// Notes which device has an identity from now on.
    fn registered(&self, before: Option<Imsi>, now: Option<Imsi>, index: u32) {
        let mut by_imsi = self.by_imsi.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(imsi) = before
            && by_imsi.get(&imsi) == Some(&index)
        {
            by_imsi.remove(&imsi);
        }
        if let Some(imsi) = now {
            by_imsi.insert(imsi, index);
        }
    }
}

/// The networks over one line of the fleet.
fn networks(settings: &Settings, fleet: &std::sync::Weak<Fleet>, line: usize) -> Networks {
    let named = settings.networks.iter().map(|(plmn, address)| (Some(*plmn), address));
    let mut networks = Networks::default();
    for (number, (plmn, address)) in
        named.chain(settings.smsc.iter().map(|address| (None, address))).enumerate()
    {
        let fleet = fleet.clone();
        let tell = move |event| {
            if let Some(fleet) = fleet.upgrade() {
                fleet.hear(line, number, event);
            }
        };
        if !networks.add(plmn, Line::Air(AirLine::start(address.clone(), tell))) {
            tracing::warn!(%address, "a fleet knows no more networks: this one is left out");
        }
    }
    networks
}
