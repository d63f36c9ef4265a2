//! A real OsmoHLR on a loopback address of its own; its database lies in memory, because it syncs at every write.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;

/// Attempts to reach a process that has just been started, one every [`PAUSE`].
const ATTEMPTS_MAX: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);
/// Registers that this process has started.
static REGISTERS: AtomicU8 = AtomicU8::new(0);
/// CTRL, GSUP and terminal: OsmoHLR does not let one choose.
const CTRL: u16 = 4259;
const GSUP: u16 = 4222;
const TERMINAL: u16 = 4258;

/// Says what is missing on this machine, or nothing. In CI a missing part is a failure.
pub fn missing() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join("osmo-hlr").is_file()) {
        return None;
    }
    let text = "needs the Debian package osmo-hlr".to_owned();
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{text}");
    Some(text)
}

/// A running register.
pub struct Hlr {
    /// The address that it listens on.
    pub address: Ipv4Addr,
    process: Child,
    folder: TempDir,
}

impl Hlr {
    /// Starts one with an empty database.
    pub async fn start() -> Hlr {
        let memory = std::path::Path::new("/dev/shm");
        let folder =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let nth = REGISTERS.fetch_add(1, Ordering::Relaxed);
        let address = Ipv4Addr::new(127, 150_u8.wrapping_add(nth), high, low.clamp(1, 254));
        let config = folder.path().join("osmo-hlr.cfg");
        let text =
            format!("line vty\n bind {address}\nctrl\n bind {address}\nhlr\n gsup\n  bind ip {address}\n");
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(folder.path().join("hlr.log")).unwrap();
        let errors = log.try_clone().unwrap();
        let process = Command::new("osmo-hlr")
            .arg("-c")
            .arg(&config)
            .arg("-l")
            .arg(folder.path().join("hlr.db"))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .unwrap();
        let hlr = Hlr { address, process, folder };
        for port in [CTRL, GSUP, TERMINAL] {
            hlr.reach(port).await;
        }
        hlr
    }

    /// CTRL.
    pub fn ctrl(&self) -> SocketAddr {
        SocketAddr::from((self.address, CTRL))
    }

    /// GSUP.
    pub fn gsup(&self) -> SocketAddr {
        SocketAddr::from((self.address, GSUP))
    }

    /// What it has logged: for the message of a failed test.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("hlr.log")).unwrap_or_default()
    }

    async fn reach(&self, port: u16) {
        for _ in 0..ATTEMPTS_MAX {
            if TcpStream::connect((self.address, port)).await.is_ok() {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("OsmoHLR does not listen on {}:{port}\n{}", self.address, self.log());
    }
}

impl Drop for Hlr {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
