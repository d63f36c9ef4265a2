//! Three ways into the card: a reader of the host's system (vpcd), the baseband (AT+CSIM through a pseudo-terminal), and
//! a card of others that answers as old ones do; and a server that is reached through a helper on a serial line.

#![allow(clippy::unwrap_used)]

#[path = "ip/server.rs"]
mod server;
#[path = "ip/world.rs"]
mod world;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use server::Server;
use simtide_agent::entitlement::Transport;
use simtide_agent::entitlement::line::{LineAddress, LineClient, relay, serve};
use simtide_agent::port::at::AtPort;
use simtide_agent::port::soft::SoftPort;
use simtide_agent::port::vpcd::VpcdPort;
use simtide_agent::port::{CardPort, PortError};
use simtide_agent::vpcd::present;
use simtide_protocol::scp80::ResponseStatus;
use world::{BY_REPORT, START, World, configuration, item, opened, packet, test_card};

fn server() -> Arc<Mutex<Server>> {
    let long = packet(1, BY_REPORT, "aabbcc", 40);
    Arc::new(Mutex::new(Server {
        sqn: 1000,
        items: vec![item("00000000000000b1-1", long)],
        ..Server::default()
    }))
}

/// One proof has come, and it says that all is well.
fn assert_proven(server: &Arc<Mutex<Server>>) {
    let proofs = server.lock().unwrap().proofs();
    assert_eq!(proofs.len(), 1);
    assert_eq!(opened(&proofs[0].1, BY_REPORT).header.status, ResponseStatus::PorOk);
}

/// A card that several parts of the test hold.
#[derive(Clone)]
struct Shared(Arc<Mutex<SoftPort>>);

impl CardPort for Shared {
    fn reset(&mut self) -> Result<Vec<u8>, PortError> {
        self.0.lock().unwrap().reset()
    }

    fn transmit(&mut self, command: &[u8], response: &mut Vec<u8>) -> Result<(), PortError> {
        self.0.lock().unwrap().transmit(command, response)
    }
}

fn shared() -> Shared {
    Shared(Arc::new(Mutex::new(test_card())))
}

#[test]
fn through_a_reader_of_the_system() {
    let mut port = VpcdPort::listen("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(port.local_addr().unwrap()).unwrap();
    let hang_up = stream.try_clone().unwrap();
    let card = shared();
    let mut presented = card.clone();
    let serving = std::thread::spawn(move || present(stream, &mut presented));
    let server = server();
    let mut world = World::new(&server, None, START);
    assert!(world.run(&mut port));
    assert_proven(&server);
    assert_eq!(configuration(&mut card.clone(), 3), "aabbcc");
    hang_up.shutdown(std::net::Shutdown::Both).unwrap();
    serving.join().unwrap().unwrap();
}

/// Both ends of a pseudo-terminal: the controller, and the path of the device.
fn pseudo_terminal() -> (File, PathBuf) {
    let controller: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let path = ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
    (File::from(controller), path.into())
}

fn modem(line: File, mut card: Shared) {
    let mut lines = BufReader::new(line.try_clone().unwrap());
    let mut out = line;
    let mut text = Vec::new();
    while matches!(lines.read_until(b'\r', &mut text), Ok(count) if count > 0) {
        let command = String::from_utf8(std::mem::take(&mut text)).unwrap().trim().to_owned();
        let answer = match command.split_once('=') {
            Some(("AT+CSIM", rest)) => {
                let digits = rest.split_once(',').unwrap().1.trim_matches('"');
                let mut response = Vec::new();
                card.transmit(&hex::decode(digits).unwrap(), &mut response).unwrap();
                let digits = hex::encode_upper(response);
                format!("\r\n+CSIM: {},\"{digits}\"\r\n\r\nOK\r\n", digits.len())
            }
            Some(("AT+CFUN", "1")) => {
                card.reset().unwrap();
                "\r\nOK\r\n".to_owned()
            }
            _ => "\r\nOK\r\n".to_owned(),
        };
        out.write_all(answer.as_bytes()).unwrap();
    }
}

#[test]
fn through_the_baseband() {
    let (controller, device) = pseudo_terminal();
    let card = shared();
    let behind = card.clone();
    let serving = std::thread::spawn(move || modem(controller, behind));
    let mut port = AtPort::open(&device).unwrap();
    let server = server();
    let mut world = World::new(&server, None, START);
    assert!(world.run(&mut port));
    assert_proven(&server);
    assert_eq!(configuration(&mut card.clone(), 3), "aabbcc");
    drop(port);
    serving.join().unwrap();
}

/// Protocol T=0 as cards of others speak it: data only by GET RESPONSE, no answer beside a 91xx, and a toolkit that is
/// busy at first.
struct Old {
    card: SoftPort,
    kept: Vec<u8>,
    busy: u32,
}

impl CardPort for Old {
    fn reset(&mut self) -> Result<Vec<u8>, PortError> {
        self.card.reset()
    }

    fn transmit(&mut self, command: &[u8], response: &mut Vec<u8>) -> Result<(), PortError> {
        if command[1] == 0xC0 {
            *response = std::mem::take(&mut self.kept);
            return Ok(());
        }
        if command[1] == 0xC2 && self.busy > 0 {
            self.busy -= 1;
            *response = vec![0x93, 0x00];
            return Ok(());
        }
        self.card.transmit(command, response)?;
        if matches!(command[1], 0x88 | 0xC2) && response.len() > 2 {
            self.kept = std::mem::take(response);
            *response = vec![0x61, (self.kept.len() - 2) as u8];
        }
        Ok(())
    }
}

#[test]
fn an_old_card_that_is_busy_gets_it_in_the_end() {
    let server = server();
    let mut card = Old { card: test_card(), kept: Vec::new(), busy: 7 };
    let mut world = World::new(&server, None, START);
    assert!(world.run(&mut card));
    assert!(server.lock().unwrap().uplinks.is_empty());
    assert!(world.pass(60, &mut card));
    assert_proven(&server);
    assert_eq!(configuration(&mut card.card, 3), "aabbcc");
}

/// A card of others without any toolkit: files and AUTHENTICATE, nothing else. What it cannot take is told and dropped.
struct Foreign {
    card: SoftPort,
}

impl CardPort for Foreign {
    fn reset(&mut self) -> Result<Vec<u8>, PortError> {
        self.card.reset()
    }

    fn transmit(&mut self, command: &[u8], response: &mut Vec<u8>) -> Result<(), PortError> {
        if command[0] == 0x80 {
            *response = vec![0x6E, 0x00];
            return Ok(());
        }
        self.card.transmit(command, response)?;
        // Without a toolkit there is nothing to fetch.
        if response.starts_with(&[0x91]) && response.len() == 2 {
            *response = vec![0x90, 0x00];
        }
        Ok(())
    }
}

#[test]
fn a_card_without_toolkit_is_proven_and_left_alone() {
    let server = server();
    let mut card = Foreign { card: test_card() };
    let mut world = World::new(&server, None, START);
    assert!(world.run(&mut card));
    assert!(world.pass(60, &mut card));
    let server = server.lock().unwrap();
    assert_eq!(server.fetched.len(), 1);
    assert!(server.uplinks.is_empty());
    assert!(world.queues().inbound().is_empty());
}

/// Counts what the device hands over as short messages.
struct Watched {
    card: SoftPort,
    envelopes: u32,
}

impl CardPort for Watched {
    fn reset(&mut self) -> Result<Vec<u8>, PortError> {
        self.card.reset()
    }

    fn transmit(&mut self, command: &[u8], response: &mut Vec<u8>) -> Result<(), PortError> {
        self.envelopes += u32::from(command[1] == 0xC2 && command[5] == 0xD1);
        self.card.transmit(command, response)
    }
}

/// The third way: the card opens a channel to the second server's address, the client module answers it, and the card
/// gives the packets to its own receiver. No short message is made of them, and the card knows neither TLS nor EAP.
#[test]
fn through_the_card_itself() {
    let mut profile = simtide_protocol::profile::Profile::standard();
    profile.fetch = Some(world::ADDRESS.parse().unwrap());
    let profile = Arc::new(profile);
    let personalization = simtide_agent::personalization::of_test_card(&profile);
    let card = simtide_card::Card::personalised(profile, &personalization);
    let card = SoftPort::volatile(card, Arc::new(simtide_card::secure_channel::NoChannels));
    let mut card = Watched { card, envelopes: 0 };
    let server = server();
    let short = packet(2, BY_REPORT, "ddee", 1);
    server.lock().unwrap().items.push(item("00000000000000b1-2", short));
    let mut world = World::new(&server, None, START);
    assert!(world.run(&mut card));
    let proofs = server.lock().unwrap().proofs();
    assert_eq!(proofs.len(), 2);
    for (_, proof) in &proofs {
        assert_eq!(opened(proof, BY_REPORT).header.status, ResponseStatus::PorOk);
    }
    assert_eq!(configuration(&mut card, 3), "ddeecc");
    assert_eq!(card.envelopes, 0);
    assert!(world.queues().inbound().is_empty() && !world.host.device().has_channel());
    // What comes later, when the card is not asking, goes the usual way.
    server.lock().unwrap().items.push(item("00000000000000b2-1", packet(3, BY_REPORT, "ff", 1)));
    assert!(world.pass(5000, &mut card));
    assert_eq!((server.lock().unwrap().proofs().len(), card.envelopes), (3, 1));
    assert_eq!(configuration(&mut card, 3), "ffeecc");
}

/// The helper sees EAP, a token and the second layer; what it carries holds no packet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_helper_on_a_serial_line() {
    let (controller, device) = pseudo_terminal();
    let server = server();
    let sealed = server.lock().unwrap().items[0].packet.clone();
    let seen: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let (carried, behind) = (seen.clone(), server.clone());
    let transport = Transport::direct(Box::new(move |request| {
        let response = behind.lock().unwrap().answer(&request)?;
        carried.lock().unwrap().extend([request.body, response.body.clone()]);
        Some(response)
    }));
    let runtime = tokio::runtime::Handle::current();
    // The line is there before somebody listens on it.
    let client = LineClient::new(LineAddress::Serial(device));
    let (reader, writer) = (controller.try_clone().unwrap(), controller);
    std::thread::spawn(move || serve(Box::new(reader), Box::new(writer), &transport, &runtime));
    let mut world = World::over(Transport::line(client), None, START);
    let mut card = test_card();
    tokio::task::block_in_place(|| {
        world.run_until(&mut card, |_| server.lock().unwrap().uplinks.len() == 1);
    });
    assert_proven(&server);
    assert_eq!(configuration(&mut card, 3), "aabbcc");
    for bytes in seen.lock().unwrap().iter() {
        assert!(!bytes.windows(16).any(|window| window == &sealed[..16]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_helper_on_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("line");
    let server = server();
    let address = LineAddress::Unix(path.clone());
    let (transport, runtime) = (Server::transport(&server), tokio::runtime::Handle::current());
    let listening = address.clone();
    std::thread::spawn(move || relay(&listening, &transport, &runtime));
    let mut card = test_card();
    let mut world = World::over(Transport::line(LineClient::new(address)), None, START);
    tokio::task::block_in_place(|| {
        // The helper may not listen yet: the device comes again.
        while server.lock().unwrap().uplinks.is_empty() {
            world.run_until(&mut card, |world| world.host.ip().unwrap().client().is_resting());
            assert!(world.pass(30, &mut card));
        }
    });
    assert_proven(&server);
}
