//! OsmoMSC and OsmoHLR as the network: processes with their own configuration on a loopback address of their own, and
//! the phone side of an MME behind them.

#![allow(dead_code, reason = "each test uses its part")]

pub mod phone;
pub mod radio;
pub mod sgs;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use simtide_protocol::ids::{Imsi, Msisdn};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Attempts to reach a process that has just been started, one every [`PAUSE`].
const ATTEMPTS_MAX: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);
/// Networks that this process has started.
static NETWORKS: AtomicU8 = AtomicU8::new(0);
/// Ports that the programs do not let one choose.
pub const HLR_CONTROL: u16 = 4259;
const SGS: u16 = 29118;
/// Port of the SMPP door.
pub const SMPP: u16 = 2775;

/// Says what is missing on this machine, or nothing. In CI a missing part is a failure.
pub fn missing() -> Option<String> {
    let programs = [("osmo-msc", "osmo-msc"), ("osmo-hlr", "osmo-hlr"), ("cc", "gcc")];
    let packages: Vec<&str> =
        programs.iter().filter(|(program, _)| !is_installed(program)).map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return None;
    }
    let text = format!("needs the Debian packages {}", packages.join(" "));
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{text}");
    Some(text)
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// A running register and switch.
pub struct Network {
    /// The address that both listen on.
    pub address: Ipv4Addr,
    control: TcpStream,
    requests: u32,
    // In this order: the processes end before their folder.
    _msc: Process,
    _hlr: Process,
    folder: TempDir,
}

impl Network {
    /// Starts both; platforms bind as `simtide` with password `simtide`.
    pub async fn start() -> Network {
        let folder = tempfile::tempdir().unwrap();
        // Every network has an address of its own, because most of the ports are fixed.
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let nth = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let address = Ipv4Addr::new(127, 77_u8.wrapping_add(nth), high, low.clamp(1, 254));
        let hlr_config = folder.path().join("osmo-hlr.cfg");
        std::fs::write(&hlr_config, hlr_config_text(address)).unwrap();
        let database = folder.path().join("hlr.db");
        let mut hlr = Command::new("osmo-hlr");
        hlr.arg("-c").arg(&hlr_config).arg("-l").arg(&database);
        let hlr = Process::start(hlr, folder.path().join("hlr.log"));
        let control = connect(address, HLR_CONTROL).await;

        let msc_config = folder.path().join("osmo-msc.cfg");
        std::fs::write(&msc_config, msc_config_text(address)).unwrap();
        let mut msc = Command::new("osmo-msc");
        msc.arg("-c").arg(&msc_config).env("LD_PRELOAD", compile_sctp(folder.path()));
        // Its own short-message store goes into the folder.
        msc.current_dir(folder.path());
        let msc = Process::start(msc, folder.path().join("msc.log"));
        drop(connect(address, SMPP).await);
        Network { address, control, requests: 0, _msc: msc, _hlr: hlr, folder }
    }

    /// Creates a subscriber in the register.
    pub async fn subscribe(&mut self, imsi: Imsi, msisdn: Msisdn) {
        self.set(&format!("subscriber.create {imsi}")).await;
        self.set(&format!("subscriber.by-imsi-{imsi}.msisdn {msisdn}")).await;
    }

    /// An MME that is connected to the switch.
    pub async fn mme(&self) -> sgs::Mme {
        sgs::Mme::new(connect(self.address, SGS).await)
    }

    /// What both have logged: for the message of a failed test.
    pub fn logs(&self) -> String {
        ["hlr.log", "msc.log"]
            .map(|name| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default())
            .join("\n")
    }

    /// CTRL over IPA: length, stream EE, extension 00, text.
    async fn set(&mut self, what: &str) {
        self.requests += 1;
        let text = format!("SET {} {what}", self.requests);
        let mut frame = ((text.len() + 1) as u16).to_be_bytes().to_vec();
        frame.extend_from_slice(&[0xEE, 0x00]);
        frame.extend_from_slice(text.as_bytes());
        self.control.write_all(&frame).await.unwrap();
        let length = self.control.read_u16().await.unwrap();
        let mut answer = vec![0; usize::from(length) + 1];
        self.control.read_exact(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[2..]).into_owned();
        let expected = format!("SET_REPLY {} ", self.requests);
        assert!(answer.starts_with(&expected), "{what}: {answer}");
    }
}

fn hlr_config_text(address: Ipv4Addr) -> String {
    format!("line vty\n bind {address}\nctrl\n bind {address}\nhlr\n gsup\n  bind ip {address}\n")
}

fn msc_config_text(address: Ipv4Addr) -> String {
    format!(
        "line vty
 bind {address}
ctrl
 bind {address}
cs7 instance 0
 point-code 0.23.1
 asp asp-ipa 14001 14000 ipa
  local-ip {address}
  remote-ip {address}
 as as-ipa ipa
  asp asp-ipa
  routing-key 0 0.23.1
network
 network country code 001
 mobile network code 01
 encryption a5 0
msc
 assign-tmsi
 mgw local-ip {address}
hlr
 remote-ip {address}
 remote-port 4222
sgs
 local-ip {address}
smpp
 local-tcp-ip {address} {SMPP}
 system-id osmomsc
 policy closed
 esme simtide
  password simtide
  default-route
"
    )
}

/// The library that turns SCTP into TCP: with it the test needs no SCTP in the kernel.
fn compile_sctp(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/osmocom/sctp_over_tcp.c");
    let library = folder.join("sctp_over_tcp.so");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    let done = cc.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    library
}

async fn connect(address: Ipv4Addr, port: u16) -> TcpStream {
    for _ in 0..ATTEMPTS_MAX {
        match TcpStream::connect((address, port)).await {
            Ok(stream) => return stream,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    panic!("nobody listens on {address}:{port}");
}

/// A process that ends with its owner.
struct Process(Child);

impl Process {
    fn start(mut command: Command, log: PathBuf) -> Process {
        let log = std::fs::File::create(log).unwrap();
        let errors = log.try_clone().unwrap();
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        Process(command.spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
