//! A foreign card in our device: `vicc`, the card emulator of the vsmartcard project, connects to the agent's reader.
//!
//! It knows ISO 7816 files and nothing of telephones, so the device reads what there is, offers its terminal profile and
//! goes on. Needs `vsmartcard-vpicc` and `python3-pycryptodome`; without them the test ends early, unless `CI=true` says
//! that this is a failure.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use simtide_agent::clock::Clock;
use simtide_agent::entitlement::{IpBearer, Transport};
use simtide_agent::network::Networks;
use simtide_agent::port::vpcd::VpcdPort;
use simtide_agent::port::{CardPort, PortError};
use simtide_agent::runner::Runner;
use simtide_device::client::{Client, ClientSettings};
use simtide_device::queues::Queues;
use simtide_device::{Device, Kind, Settings};

/// Where Debian keeps the emulator's modules.
const MODULES: [&str; 2] =
    ["/usr/lib/python3/site-packages/virtualsmartcard", "/usr/lib/python3/dist-packages"];

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the emulator as a card for this reader.
fn vicc(folder: &Path, port: u16) -> Option<Ended> {
    // The emulator asks for its cipher library by the name it has outside of Debian.
    let alias = folder.join("Crypto");
    std::fs::create_dir(&alias).unwrap();
    std::fs::write(alias.join("__init__.py"), "import Cryptodome\n__path__ = Cryptodome.__path__\n").unwrap();
    let modules = format!("{}:{}:{}", folder.display(), MODULES[0], MODULES[1]);
    let usable = Command::new("/usr/bin/python3")
        .args(["-c", "import Crypto.Cipher, virtualsmartcard.VirtualSmartcard"])
        .env("PYTHONPATH", &modules)
        .stderr(Stdio::null())
        .status();
    if !usable.is_ok_and(|status| status.success()) {
        return None;
    }
    Command::new("/usr/bin/python3")
        .args(["/usr/bin/vicc", "--type", "iso7816", "--hostname", "127.0.0.1", "--port", &port.to_string()])
        .env("PYTHONPATH", &modules)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()
        .map(Ended)
}

/// Lets the test see what passes: command (none at a reset) and answer.
struct Watched {
    port: VpcdPort,
    seen: Sender<(Vec<u8>, Vec<u8>)>,
}

impl CardPort for Watched {
    fn reset(&mut self) -> Result<Vec<u8>, PortError> {
        let atr = self.port.reset()?;
        let _ = self.seen.send((Vec::new(), atr.clone()));
        Ok(atr)
    }

    fn transmit(&mut self, command: &[u8], response: &mut Vec<u8>) -> Result<(), PortError> {
        self.port.transmit(command, response)?;
        let _ = self.seen.send((command.to_vec(), response.clone()));
        Ok(())
    }
}

/// Everything up to the answer to TERMINAL PROFILE.
fn start_up(passing: &Receiver<(Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut passed = Vec::new();
    loop {
        let exchange = passing.recv_timeout(Duration::from_secs(30)).expect("the card stopped answering");
        let last = exchange.0.starts_with(&[0x80, 0x10]);
        passed.push(exchange);
        if last {
            return passed;
        }
    }
}

/// A client module whose server counts what it is asked.
fn client_module(asked: &Arc<AtomicU32>) -> IpBearer {
    let asked = asked.clone();
    let transport = Transport::direct(Box::new(move |_| {
        asked.fetch_add(1, Ordering::Relaxed);
        None
    }));
    let settings = ClientSettings::of("127.0.0.1", b"490154203237518");
    IpBearer::new(Client::new(Arc::new(settings), Queues::default()), None, transport, Vec::new())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_that_is_no_sim_is_started_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let port = VpcdPort::listen("127.0.0.1:0").unwrap();
    let Some(card) = vicc(folder.path(), port.local_addr().unwrap().port()) else {
        let required = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!required, "vsmartcard-vpicc or python3-pycryptodome is missing");
        eprintln!("skipped: vsmartcard-vpicc or python3-pycryptodome is missing");
        return;
    };
    let asked = Arc::new(AtomicU32::new(0));
    let (seen, passing) = channel();
    let (outside, inbox) = tokio::sync::mpsc::unbounded_channel();
    let (display, mut shown) = tokio::sync::mpsc::unbounded_channel();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let runner = Runner {
        device: Device::new(Settings::of(Kind::Phone)),
        ip: Some(client_module(&asked)),
        networks: Networks::default(),
        clock: Clock::REAL,
        latency: Duration::ZERO,
        inbox,
        outside,
        display,
    };
    let running = tokio::spawn(runner.run(Box::new(Watched { port, seen }), stopped));
    let passed = tokio::task::spawn_blocking(move || start_up(&passing)).await.unwrap();
    let (command, atr) = &passed[0];
    assert!(command.is_empty() && atr.starts_with(&[0x3B]), "{}", hex::encode(atr));
    let (select, answer) = &passed[1];
    assert_eq!(hex::encode(select), "00a4000c023f00");
    assert!(answer.ends_with(&[0x90, 0x00]), "{}", hex::encode(answer));
    assert!(passed.iter().all(|(_, answer)| answer.len() >= 2));
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
    assert!(shown.try_recv().is_err());
    // It has no subscriber that a server could know.
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    drop(card);
}
