//! A device with a card and a server, stepped by the test on a clock of its own.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use simtide_agent::air::{AirLine, FromDevice};
use simtide_agent::entitlement::{IpBearer, QueueFile, Transport};
use simtide_agent::host::{Host, Shown, Surroundings};
use simtide_agent::network::{Line, NetworkEvent, Networks};
use simtide_agent::personalization::of_test_card;
use simtide_agent::port::CardPort;
use simtide_agent::port::soft::SoftPort;
use simtide_agent::port::thread::Request;
use simtide_card::Card;
use simtide_card::secure_channel::NoChannels;
use simtide_device::client::{self, Client, ClientSettings};
use simtide_device::queues::Queues;
use simtide_device::{Device, Event, Kind, Settings};
use simtide_protocol::ids::{EpochMs, Tar};
use simtide_protocol::profile::Profile;
use simtide_protocol::scp80::{
    CommandHeader, Counter, Key, KeySet, Kic, Kid, Response, Security, Spi, open_response, seal,
};
use simtide_protocol::second_layer::Item;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::UnboundedReceiver;

use super::server::{NAME, Server};

/// PoR in the answer to the ENVELOPE, with CC, ciphered.
pub const BY_REPORT: u8 = 0x19;
/// The same by SMS-SUBMIT.
pub const BY_SUBMIT: u8 = 0x39;
/// Where the server's card channel would be.
pub const ADDRESS: &str = "127.0.0.1:8443";

pub const START: EpochMs = EpochMs(1_800_000_000_000);

pub fn test_card() -> SoftPort {
    let profile = Arc::new(Profile::standard());
    let card = Card::personalised(profile.clone(), &of_test_card(&profile));
    SoftPort::volatile(card, Arc::new(NoChannels))
}

pub fn security(second_of_spi: u8) -> Security {
    Security { spi: Spi::new(0x16, second_of_spi), kic: Kic(0x12), kid: Kid(0x12) }
}

pub fn keys() -> KeySet {
    KeySet::new(Some(Key::new(&[0x31; 16]).unwrap()), Some(Key::new(&[0x41; 16]).unwrap()))
}

/// A packet that writes bytes to EF.CONFIGURATION; long ones are padded with repeated selections.
pub fn packet(counter: u64, second_of_spi: u8, text: &str, repeats: usize) -> Vec<u8> {
    let select = "00a4000c027f9000a4000c026f04";
    let script = format!("{}00d60000{:02x}{text}", select.repeat(repeats.max(1)), text.len() / 2);
    let header = CommandHeader {
        security: security(second_of_spi),
        tar: Tar([0xB0, 0x00, 0x00]),
        counter: Counter::new(counter).unwrap(),
    };
    seal(&header, &keys(), &hex::decode(script).unwrap()).unwrap()
}

pub fn item(name: &str, packet: Vec<u8>) -> Item {
    Item { id: name.parse().unwrap(), packet, originating_address: "+43660500".into(), proof_wanted: true }
}

/// Opens a proof as the ENVELOPE's answer gave it.
pub fn opened(proof: &[u8], second_of_spi: u8) -> Response {
    // UDHL, the element of response packets.
    let body = proof.strip_prefix(&[0x02, 0x71, 0x00]).unwrap_or(proof);
    open_response(body, &security(second_of_spi), &keys()).unwrap()
}

/// What the card has in EF.CONFIGURATION, read on another logical channel.
pub fn configuration(card: &mut dyn CardPort, count: u8) -> String {
    let mut response = Vec::new();
    let mut ask = |command: &str| {
        card.transmit(&hex::decode(command).unwrap(), &mut response).unwrap();
        hex::encode(&response)
    };
    let opened = ask("0070000001");
    let channel = u8::from_str_radix(&opened[..2], 16).unwrap();
    ask(&format!("0{channel}a4080c047f906f04"));
    let content = ask(&format!("0{channel}b00000{count:02x}"));
    ask(&format!("007080{channel:02x}00"));
    content[..usize::from(count) * 2].to_owned()
}

pub struct World {
    pub host: Host,
    pub now: EpochMs,
    told: Receiver<client::Event>,
    pub around: Around,
    /// So many steps are left before the power goes; `None`: it stays.
    pub power: Option<u32>,
    /// The cellular network, where there is one.
    pub network: Option<Network>,
}

/// A network that registers everybody and keeps what it is given.
pub struct Network {
    said: UnboundedReceiver<FromDevice>,
    /// What the service centre has taken.
    pub taken: Vec<Vec<u8>>,
    /// So many messages are refused before.
    pub refuses: u32,
    // Where timeouts wait that this clock never brings.
    runtime: Runtime,
}

impl Network {
    fn hear(&mut self) -> Option<NetworkEvent> {
        loop {
            match self.said.try_recv().ok()? {
                FromDevice::Attach { imsi, .. } => return Some(NetworkEvent::Attached { imsi }),
                FromDevice::Submit { imsi, reference, tpdu } => {
                    let accepted = self.refuses == 0;
                    self.refuses = self.refuses.saturating_sub(1);
                    if accepted {
                        self.taken.push(tpdu.0);
                    }
                    return Some(NetworkEvent::Submitted { imsi, reference, accepted });
                }
                _ => {}
            }
        }
    }
}

pub struct Around {
    tell: Sender<client::Event>,
    pub shown: Arc<Mutex<Vec<Shown>>>,
    pub networks: Networks,
}

impl Surroundings for Around {
    fn teller(&self) -> impl Fn(Event) + Send + Sync + 'static {
        |_| ()
    }

    fn networks(&self) -> &Networks {
        &self.networks
    }

    fn latency(&self) -> Duration {
        Duration::ZERO
    }

    fn client_teller(&self) -> impl Fn(client::Event) + Send + Sync + 'static {
        let tell = Mutex::new(self.tell.clone());
        move |event| drop(tell.lock().unwrap().send(event))
    }

    fn show(&self, shown: Shown) {
        self.shown.lock().unwrap().push(shown);
    }
}

impl World {
    /// A device whose queues lie in this folder; without one they are lost with it.
    pub fn new(server: &Arc<Mutex<Server>>, folder: Option<&Path>, now: EpochMs) -> Self {
        Self::over(Server::transport(server), folder, now)
    }

    /// The same over another way to the server.
    pub fn over(transport: Transport, folder: Option<&Path>, now: EpochMs) -> Self {
        let settings = ClientSettings::of(NAME, &Settings::of(Kind::Meter).imei);
        Self::with(settings, transport, folder, now)
    }

    /// The same with another client module.
    pub fn with(settings: ClientSettings, transport: Transport, folder: Option<&Path>, now: EpochMs) -> Self {
        let client_settings = Arc::new(settings);
        let settings = Settings::of(Kind::Meter);
        let (file, queues) = match folder {
            Some(folder) => {
                let (file, queues) = QueueFile::open(folder).unwrap();
                (Some(file), queues)
            }
            None => (None, Queues::default()),
        };
        let client = Client::new(client_settings, queues);
        let ip = IpBearer::new(client, file, transport, vec![ADDRESS.parse().unwrap()]);
        let (tell, told) = channel();
        let around = Around { tell, shown: Arc::default(), networks: Networks::default() };
        let mut host = Host::new(Device::new(settings)).with_ip(ip);
        host.handle(now, Event::PowerOn);
        Self { host, now, told, around, power: None, network: None }
    }

    /// The same within a cellular network.
    pub fn covered(mut self) -> Self {
        let (line, said) = AirLine::direct();
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        self.network = Some(Network { said, taken: Vec::new(), refuses: 0, runtime });
        self.around.networks = Networks::one(Line::Air(line));
        self
    }

    /// What the device asks of its card next.
    fn next_request(&mut self) -> Option<Request> {
        let _within = self.network.as_ref().map(|network| network.runtime.enter());
        self.host.next_request(self.now, &self.around)
    }

    /// Goes on until nothing is left to do at this moment, or the power goes: `false`.
    pub fn run(&mut self, card: &mut dyn CardPort) -> bool {
        loop {
            if let Some(left) = &mut self.power {
                match left.checked_sub(1) {
                    Some(fewer) => *left = fewer,
                    None => return false,
                }
            }
            self.now = self.now.plus_ms(1);
            match self.next_request() {
                Some(request) => {
                    let event = match request {
                        Request::Reset => card.reset().map(Event::CardReset),
                        Request::Transmit(command) => {
                            let mut response = Vec::new();
                            card.transmit(&command, &mut response).map(|()| Event::CardAnswer(response))
                        }
                    };
                    self.host.handle(self.now, event.unwrap_or(Event::CardLost));
                }
                None => match (self.told.try_recv(), self.network.as_mut().and_then(Network::hear)) {
                    (Err(_), None) => return true,
                    (told, heard) => {
                        if let Ok(event) = told {
                            self.host.client(self.now, event);
                        }
                        if let Some(event) = heard {
                            self.host.network(self.now, 0, event);
                        }
                    }
                },
            }
        }
    }

    /// Goes on until this holds; answers may take some real time to come.
    pub fn run_until(&mut self, card: &mut dyn CardPort, holds: impl Fn(&Self) -> bool) {
        loop {
            assert!(self.run(card));
            if holds(self) {
                return;
            }
            let event = self.told.recv_timeout(Duration::from_secs(30)).expect("no answer within 30 s");
            self.host.client(self.now, event);
        }
    }

    /// Lets so much time pass, with every deadline in it.
    pub fn pass(&mut self, seconds: i64, card: &mut dyn CardPort) -> bool {
        let end = self.now.plus_s(seconds);
        while let Some(deadline) = self.host.next_deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            self.host.handle(self.now, Event::Deadline);
            if !self.run(card) {
                return false;
            }
        }
        self.now = end;
        true
    }

    pub fn queues(&self) -> &Queues {
        self.host.ip().unwrap().client().queues()
    }
}
