//! The other roles of the demo, each a process of its own from the same binary.

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a role may take until it says that it is ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long a role may take to end after it was asked to.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Why a role did not run.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started at all.
    #[error("simtide {role} cannot be started: {source}")]
    Start {
        /// The role.
        role: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It ended, or said nothing, before it was ready.
    #[error("simtide {role} did not become ready; its log is {log}")]
    NotReady {
        /// The role.
        role: &'static str,
        /// Where it wrote what went wrong.
        log: String,
    },
}

/// A running role. It is asked to end, and waited for, when this value is dropped.
pub struct Role {
    child: Child,
    lines: Receiver<Value>,
    /// What it said when it was ready: its addresses.
    pub ready: Value,
}

impl Role {
    /// Starts `simtide ROLE ARGUMENTS...`, its log in `folder/ROLE.log`, and waits for its ready line.
    pub fn start(role: &'static str, arguments: &[String], folder: &Path) -> Result<Self, ProcessError> {
        let log_path = folder.join(format!("{role}.log"));
        let failed = |source| ProcessError::Start { role, source };
        let log = std::fs::File::create(&log_path).map_err(failed)?;
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .arg(role)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let lines = json_lines(&mut child);
        let mut running = Self { child, lines, ready: Value::Null };
        let deadline = Instant::now() + READY_LIMIT;
        let not_ready = || ProcessError::NotReady { role, log: log_path.display().to_string() };
        let left = deadline.saturating_duration_since(Instant::now());
        // The first line of JSON tells the addresses.
        running.ready = running.lines.recv_timeout(left).map_err(|_| not_ready())?;
        Ok(running)
    }

    /// An address from the ready line.
    pub fn address(&self, key: &str) -> String {
        self.ready.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // SIGTERM first: roles flush and close; what does not end in time is killed.
        if let Ok(id) = i32::try_from(self.child.id()) {
            // SAFETY: the process is our child and has not been waited for, so the id is still its own.
            unsafe { libc::kill(id, libc::SIGTERM) };
        }
        let deadline = Instant::now() + END_LIMIT;
        while Instant::now() < deadline {
            if self.has_ended() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn json_lines(child: &mut Child) -> Receiver<Value> {
    let (sender, lines) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(value) = serde_json::from_str(&line)
                    && sender.send(value).is_err()
                {
                    break;
                }
            }
        });
    }
    lines
}
