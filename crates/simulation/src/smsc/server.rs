//! The service centre on real sockets: one task drives it, two per connection move bytes.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use simtide_agent::clock::Clock;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::air::{FromDevice, LINE_BYTES_MAX, ToDevice};
use super::core::{Command, Core, Figures, Moment};
use super::register::{self, FromRegister};
use super::settings::{Faults, Settings};

/// Inputs that wait for the service centre; a full channel stops reading.
const INPUTS_MAX: usize = 1_024;
/// Writes that wait for a connection; one that lets more pile up is dropped.
const WRITES_MAX: usize = 65_536;
/// Most bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Why a service centre could not start.
#[derive(Debug, Error)]
pub enum SmscError {
    /// An address is taken or not ours.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The record cannot be written.
    #[error("cannot write the record {path}: {error}", path = path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// A running service centre; it ends when this is dropped.
pub struct Smsc {
    /// Where platforms bind.
    pub smpp: SocketAddr,
    /// Where devices connect.
    pub air: SocketAddr,
    inputs: mpsc::Sender<Input>,
    figures: Arc<Mutex<Figures>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Smsc {
    /// Starts a service centre. `record` gets a line of JSON for everything that happens ([`super::Entry`]).
    ///
    /// # Errors
    /// An address cannot be listened on, or the record cannot be created.
    pub async fn start(
        settings: Settings,
        smpp: SocketAddr,
        air: SocketAddr,
        clock: Clock,
        record: Option<PathBuf>,
    ) -> Result<Smsc, SmscError> {
        let (platforms, smpp) = listen(smpp).await?;
        let (devices, air) = listen(air).await?;
        let record = match record {
            Some(path) => match tokio::fs::File::create(&path).await {
                Ok(file) => Some(file),
                Err(error) => return Err(SmscError::Record { path, error }),
            },
            None => None,
        };
        let (inputs, inbox) = mpsc::channel(INPUTS_MAX);
        let figures = Arc::new(Mutex::new(Figures::default()));
        let (to_register, register_outbox) = mpsc::channel(WRITES_MAX);
        let (register_tell, from_register) = mpsc::channel(INPUTS_MAX);
        let keeping = settings.register.map(|address| {
            tokio::spawn(register::keep(address, settings.element_name(), register_outbox, register_tell))
        });
        let driver = Driver {
            core: Core::new(settings),
            to_register,
            from_register,
            clock,
            started: Instant::now(),
            inbox,
            platforms: HashMap::new(),
            devices: HashMap::new(),
            record,
            figures: figures.clone(),
        };
        let mut tasks = vec![
            tokio::spawn(driver.run()),
            tokio::spawn(accept(platforms, inputs.clone(), serve_platform)),
            tokio::spawn(accept(devices, inputs.clone(), serve_device)),
        ];
        tasks.extend(keeping);
        info!(%smpp, %air, "SMSC started");
        Ok(Smsc { smpp, air, inputs, figures, tasks })
    }

    /// Changes the faults from now on.
    pub async fn set_faults(&self, faults: Faults) {
        // The driver lives as long as this handle.
        let _ = self.inputs.send(Input::Faults(faults)).await;
    }

    /// Counts since the start.
    pub fn figures(&self) -> Figures {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Smsc {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

enum Input {
    PlatformConnected(u64, Line<Vec<u8>>),
    PlatformBytes(u64, Vec<u8>),
    PlatformLost(u64),
    DeviceConnected(u64, Line<ToDevice>),
    DeviceSaid(u64, FromDevice),
    DeviceLost(u64),
    Faults(Faults),
}

/// The writing side of a connection. Dropping `writes` closes it in order, `abort` at once.
struct Line<T> {
    writes: mpsc::Sender<T>,
    abort: tokio::sync::oneshot::Sender<()>,
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), SmscError> {
    let listener = TcpListener::bind(address).await;
    let bound = listener.and_then(|listener| listener.local_addr().map(|local| (listener, local)));
    bound.map_err(|error| SmscError::Listen { address, error })
}

async fn accept<F, S>(listener: TcpListener, inputs: mpsc::Sender<Input>, serve: S)
where
    S: Fn(u64, TcpStream, mpsc::Sender<Input>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut id = 0;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                id += 1;
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "TCP_NODELAY not set");
                }
                tokio::spawn(serve(id, stream, inputs.clone()));
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// Connects reader and writer of one connection; ends when either does.
async fn serve_platform(id: u64, stream: TcpStream, inputs: mpsc::Sender<Input>) {
    let (reader, writer) = stream.into_split();
    let (writes, outbox) = mpsc::channel(WRITES_MAX);
    let (abort, aborted) = tokio::sync::oneshot::channel();
    if inputs.send(Input::PlatformConnected(id, Line { writes, abort })).await.is_err() {
        return;
    }
    let reading = read_platform(id, reader, &inputs);
    tokio::select! {
        () = reading => {}
        Ok(()) = aborted => {}
        () = write(writer, outbox, |bytes: Vec<u8>| bytes) => {}
    }
    let _ = inputs.send(Input::PlatformLost(id)).await;
}

async fn serve_device(id: u64, stream: TcpStream, inputs: mpsc::Sender<Input>) {
    let (reader, writer) = stream.into_split();
    let (writes, outbox) = mpsc::channel(WRITES_MAX);
    let (abort, aborted) = tokio::sync::oneshot::channel();
    let answers = writes.clone();
    if inputs.send(Input::DeviceConnected(id, Line { writes, abort })).await.is_err() {
        return;
    }
    let reading = read_device(id, reader, &inputs, answers);
    tokio::select! {
        () = reading => {}
        // Also when the service centre is gone.
        _ = aborted => {}
        () = write(writer, outbox, |line: ToDevice| to_line(&line)) => {}
    }
    let _ = inputs.send(Input::DeviceLost(id)).await;
}

fn to_line(line: &ToDevice) -> Vec<u8> {
    // These types have no map with keys other than text and nothing else that JSON cannot say.
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

async fn read_platform(id: u64, mut reader: OwnedReadHalf, inputs: &mpsc::Sender<Input>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(n @ 1..) = reader.read(&mut buffer).await {
        if inputs.send(Input::PlatformBytes(id, buffer[..n].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn read_device(
    id: u64,
    mut reader: OwnedReadHalf,
    inputs: &mpsc::Sender<Input>,
    answers: mpsc::Sender<ToDevice>,
) {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut rest: Vec<u8> = Vec::new();
    while let Ok(n @ 1..) = reader.read(&mut buffer).await {
        rest.extend_from_slice(&buffer[..n]);
        let Some(end) = rest.iter().rposition(|&b| b == b'\n') else {
            if rest.len() > LINE_BYTES_MAX {
                let reason = format!("a line has at most {LINE_BYTES_MAX} bytes");
                let _ = answers.send(ToDevice::Error { reason }).await;
                return;
            }
            continue;
        };
        let tail = rest.split_off(end + 1);
        for line in rest.split(|&b| b == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            let sent = match serde_json::from_slice(line) {
                Ok(said) => inputs.send(Input::DeviceSaid(id, said)).await.is_ok(),
                Err(error) => answers.send(ToDevice::Error { reason: error.to_string() }).await.is_ok(),
            };
            if !sent {
                return;
            }
        }
        rest = tail;
    }
}

/// Writes all that waits at once; ends the connection in order when the driver lets go of it.
async fn write<T>(mut writer: OwnedWriteHalf, mut outbox: mpsc::Receiver<T>, encode: impl Fn(T) -> Vec<u8>) {
    while let Some(first) = outbox.recv().await {
        let mut bytes = encode(first);
        while bytes.len() < CHUNK_BYTES
            && let Ok(next) = outbox.try_recv()
        {
            bytes.extend_from_slice(&encode(next));
        }
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}

struct Driver {
    core: Core,
    clock: Clock,
    started: Instant,
    inbox: mpsc::Receiver<Input>,
    platforms: HashMap<u64, Line<Vec<u8>>>,
    devices: HashMap<u64, Line<ToDevice>>,
    to_register: mpsc::Sender<Vec<u8>>,
    from_register: mpsc::Receiver<FromRegister>,
    record: Option<tokio::fs::File>,
    figures: Arc<Mutex<Figures>>,
}

impl Driver {
    async fn run(mut self) {
        loop {
            self.carry_out().await;
            let (real, clock) = self.core.next_deadline();
            let now = self.now();
            let by_real = real.map(|at| at.saturating_sub(now.real));
            let by_clock = clock.map(|at| self.clock.real(at.ms_since(now.clock)));
            let wait = by_real.into_iter().chain(by_clock).min();
            let due = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = due => self.core.handle_deadline(self.now()),
                Some(said) = self.from_register.recv() => {
                    self.hear_register(said);
                    while let Ok(said) = self.from_register.try_recv() {
                        self.hear_register(said);
                    }
                }
                input = self.inbox.recv() => {
                    let Some(input) = input else { return };
                    self.take(input);
                    while let Ok(input) = self.inbox.try_recv() {
                        self.take(input);
                    }
                }
            }
        }
    }

    fn hear_register(&mut self, said: FromRegister) {
        let now = self.now();
        match said {
            FromRegister::Stands(stands) => self.core.register_stands(now, stands),
            FromRegister::Said(message) => self.core.register_said(now, message),
        }
    }

    fn now(&self) -> Moment {
        Moment { real: self.started.elapsed(), clock: self.clock.now() }
    }

    fn take(&mut self, input: Input) {
        let now = self.now();
        match input {
            Input::PlatformConnected(id, line) => {
                self.platforms.insert(id, line);
                self.core.platform_connected(id);
            }
            Input::PlatformBytes(id, bytes) => self.core.platform_bytes(now, id, &bytes),
            Input::PlatformLost(id) => {
                self.platforms.remove(&id);
                self.core.platform_lost(now, id);
            }
            Input::DeviceConnected(id, line) => {
                self.devices.insert(id, line);
            }
            Input::DeviceSaid(id, said) => self.core.device_said(now, id, said),
            Input::DeviceLost(id) => {
                self.devices.remove(&id);
                self.core.device_lost(now, id);
            }
            Input::Faults(faults) => self.core.set_faults(faults),
        }
    }

    /// The record goes first: what anybody has seen is in it.
    async fn carry_out(&mut self) {
        let mut effects = Vec::new();
        let mut lines = Vec::new();
        // Who has seen what happened finds it counted.
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner) = self.core.figures();
        while let Some(command) = self.core.next_command() {
            match command {
                Command::Record(entry) if self.record.is_some() => {
                    serde_json::to_writer(&mut lines, &entry).unwrap_or_default();
                    lines.push(b'\n');
                }
                Command::Record(_) => {}
                effect => effects.push(effect),
            }
        }
        if let Some(record) = self.record.as_mut().filter(|_| !lines.is_empty())
            && let Err(error) = write_all(record, &lines).await
        {
            warn!(%error, "the record is not complete");
        }
        for effect in effects {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Command) {
        match effect {
            Command::ToPlatform(id, bytes) => {
                let slow = self.platforms.get(&id).is_some_and(|line| line.writes.try_send(bytes).is_err());
                if slow {
                    drop_line(self.platforms.remove(&id));
                }
            }
            Command::ClosePlatform(id) => drop(self.platforms.remove(&id)),
            Command::DropPlatform(id) => drop_line(self.platforms.remove(&id)),
            Command::ToDevice(id, line) => {
                let slow = self.devices.get(&id).is_some_and(|device| device.writes.try_send(line).is_err());
                if slow {
                    drop_line(self.devices.remove(&id));
                }
            }
            // A register that does not read is as good as gone: the visits end by themselves.
            Command::ToRegister(message) => drop(self.to_register.try_send(message)),
            Command::Record(_) => {}
        }
    }
}

async fn write_all(file: &mut tokio::fs::File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes).await?;
    file.flush().await
}

/// Ends a connection at once.
fn drop_line<T>(line: Option<Line<T>>) {
    if let Some(line) = line {
        // The other side may have ended first.
        let _ = line.abort.send(());
    }
}
