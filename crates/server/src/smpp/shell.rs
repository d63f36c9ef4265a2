//! The link on real sockets: one task drives the machine, two per connection move bytes.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use openssl::ssl::{SslConnector, SslFiletype, SslMethod};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_openssl::SslStream;
use tracing::{info, warn};

use super::config::{ConfigError, LinkConfig, Password, TlsConfig};
use super::event::{
    Answer, Connection, LinkEvent, Refusal, SHORT_MESSAGE_BYTES_MAX, Submit, SubmitError, Verdict,
};
use super::link::{Command, Figures, Input, Machine};

/// Chunks read from the sockets that wait for the machine; a full channel stops reading.
const CHUNKS_MAX: usize = 64;
/// Most bytes of one chunk.
const CHUNK_BYTES: usize = 64 * 1024;
/// Writes that wait for a socket; an SMSC that lets more pile up is disconnected.
const WRITES_MAX: usize = 256;
/// Orders that are taken before the sockets are looked at again.
const ORDERS_MAX: usize = 4_096;
/// How long what was written last may take to leave before a connection is dropped.
const LINGER: Duration = Duration::from_secs(2);

/// Starts links.
pub struct Link;

/// Why a link could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file that a setting names cannot be read.
    #[error("smpp: {setting} cannot be read: {error}")]
    File {
        /// Name of the setting.
        setting: &'static str,
        /// What the system says.
        error: io::Error,
    },
    /// The TLS settings do not fit together.
    #[error("smpp: tls cannot be set up, check ca_file, certificate_file and key_file: {0}")]
    Tls(#[from] openssl::error::ErrorStack),
}

impl Link {
    /// Starts a link; it connects by itself, and again after every loss. Must be called within a tokio runtime.
    ///
    /// A full `events` channel stops the link from reading, so the receiver must not wait for the link.
    pub fn start(mut config: LinkConfig, events: mpsc::Sender<LinkEvent>) -> Result<LinkHandle, StartError> {
        if let Some(path) = &config.password_file {
            let text = std::fs::read_to_string(path)
                .map_err(|error| StartError::File { setting: "password_file", error })?;
            let text = zeroize::Zeroizing::new(text);
            config.password = Password::new(text.trim_end_matches(['\r', '\n']));
        }
        config.check()?;
        let tls = config.tls.as_ref().map(connector).transpose()?;
        let (orders, inbox) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            waiting: AtomicUsize::new(0),
            queue_max: config.queue_max,
            figures: Mutex::new(Figures::default()),
        });
        let (chunks, arrivals) = mpsc::channel(CHUNKS_MAX);
        let driver = Driver {
            dial: Arc::new(Dial {
                host: config.host.clone(),
                port: config.port,
                server_name: config.tls.as_ref().and_then(|tls| tls.server_name.clone()),
                tls,
            }),
            name: config.name.clone(),
            started: Instant::now(),
            lines: (0..usize::from(config.binds) + 1).map(|_| None).collect(),
            machine: Machine::new(config),
            shared: shared.clone(),
            charged: 0,
            events,
            inbox,
            arrivals,
            chunks,
        };
        tokio::spawn(driver.run());
        Ok(LinkHandle { orders, shared })
    }
}

/// What the callers of one link share with it.
struct Shared {
    /// Messages taken and not yet sent.
    waiting: AtomicUsize,
    queue_max: usize,
    figures: Mutex<Figures>,
}

enum Order {
    Submit(Submit),
    Withdraw(u64),
    Answer(Answer, Verdict),
    Shutdown,
}

/// A running link. Clones speak to the same link; when all are gone the link shuts down.
#[derive(Clone)]
pub struct LinkHandle {
    orders: mpsc::UnboundedSender<Order>,
    shared: Arc<Shared>,
}

impl LinkHandle {
    /// Hands one message to the link. Exactly one of Accepted, Refused and Unknown follows as an event.
    pub fn submit(&self, submit: Submit) -> Result<(), SubmitError> {
        self.submit_all(vec![submit])
    }

    /// Hands several messages to the link, all or none: the parts of one message carry one [`Submit::group`].
    pub fn submit_all(&self, submits: Vec<Submit>) -> Result<(), SubmitError> {
        if submits.iter().any(|submit| submit.short_message.len() > SHORT_MESSAGE_BYTES_MAX) {
            return Err(SubmitError::TooLong);
        }
        if self.orders.is_closed() {
            return Err(SubmitError::Stopped);
        }
        let reserve = |waiting: usize| {
            waiting.checked_add(submits.len()).filter(|&waiting| waiting <= self.shared.queue_max)
        };
        self.shared
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, reserve)
            .map_err(|_| SubmitError::Full)?;
        for submit in submits {
            self.orders.send(Order::Submit(submit)).map_err(|_| SubmitError::Stopped)?;
        }
        Ok(())
    }

    /// Takes a message back that has not left yet; its outcome is then [`crate::smpp::Refusal::Withdrawn`].
    pub fn withdraw(&self, token: u64) {
        // A link that has stopped sends nothing anyway.
        let _ = self.orders.send(Order::Withdraw(token));
    }

    /// Answers a message from a phone, once it is stored.
    pub fn answer(&self, answer: Answer, verdict: Verdict) {
        // A link that has stopped has no connection to answer on.
        let _ = self.orders.send(Order::Answer(answer, verdict));
    }

    /// Ends the link: nothing more is sent, answers to what has left are waited for, then `Stopped` follows.
    pub fn shutdown(&self) {
        let _ = self.orders.send(Order::Shutdown);
    }

    /// Counts, and where the link stands.
    pub fn figures(&self) -> Figures {
        *self.shared.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom to call.
struct Dial {
    host: String,
    port: u16,
    server_name: Option<String>,
    tls: Option<SslConnector>,
}

enum Arrival {
    Connected(Connection, mpsc::Sender<Vec<u8>>),
    Bytes(Connection, Vec<u8>),
    Lost(Connection, io::Error),
}

/// One connection as the driver sees it.
struct Line {
    connection: Connection,
    task: JoinHandle<()>,
    writer: Option<mpsc::Sender<Vec<u8>>>,
}

struct Driver {
    name: String,
    dial: Arc<Dial>,
    started: Instant,
    machine: Machine,
    shared: Arc<Shared>,
    events: mpsc::Sender<LinkEvent>,
    inbox: mpsc::UnboundedReceiver<Order>,
    arrivals: mpsc::Receiver<Arrival>,
    chunks: mpsc::Sender<Arrival>,
    lines: Vec<Option<Line>>,
    /// Messages out of the inbox that callers are charged for.
    charged: usize,
}

impl Driver {
    /// Priorities: 1 what is due, 2 what the sockets brought, 3 what the callers want.
    async fn run(mut self) {
        self.machine.handle_deadline(Duration::ZERO);
        let mut orders = Vec::new();
        // Whether anybody can still give orders.
        let mut has_callers = true;
        loop {
            self.carry_out().await;
            self.publish();
            if self.machine.is_stopped() {
                return;
            }
            let deadline = self.machine.next_deadline(self.now()).map(|at| self.started + at);
            let due = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = due => self.machine.handle_deadline(self.now()),
                Some(arrival) = self.arrivals.recv() => {
                    self.arrived(arrival);
                    while let Ok(arrival) = self.arrivals.try_recv() {
                        self.arrived(arrival);
                    }
                }
                n = self.inbox.recv_many(&mut orders, ORDERS_MAX), if has_callers => {
                    if n == 0 {
                        has_callers = false;
                        orders.push(Order::Shutdown);
                    }
                    self.take(&mut orders).await;
                }
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn take(&mut self, orders: &mut Vec<Order>) {
        let now = self.now();
        for order in orders.drain(..) {
            match order {
                Order::Submit(submit) => {
                    let token = submit.token;
                    self.charged += 1;
                    if self.machine.enqueue(now, submit).is_err() {
                        let cause = Refusal::Stopped;
                        self.report(LinkEvent::Refused { token, cause, temporary: true }).await;
                    }
                }
                Order::Withdraw(token) => self.machine.withdraw(token),
                Order::Answer(answer, verdict) => self.machine.handle(now, Input::Answered(answer, verdict)),
                Order::Shutdown => self.machine.handle(now, Input::Shutdown),
            }
        }
        self.machine.fill(now);
    }

    fn arrived(&mut self, arrival: Arrival) {
        let now = self.now();
        match arrival {
            Arrival::Bytes(connection, bytes) => self.machine.handle(now, Input::Bytes(connection, &bytes)),
            Arrival::Connected(connection, writer) => {
                if let Some(line) = self.line(connection) {
                    line.writer = Some(writer);
                }
                self.machine.handle(now, Input::Connected(connection));
            }
            Arrival::Lost(connection, error) => {
                if self.line(connection).is_some() {
                    self.lines[connection.bind] = None;
                    warn!(link = self.name, bind = connection.bind, %error, "SMPP connection lost");
                }
                self.machine.handle(now, Input::Lost(connection));
            }
        }
    }

    fn line(&mut self, connection: Connection) -> Option<&mut Line> {
        self.lines.get_mut(connection.bind)?.as_mut().filter(|line| line.connection == connection)
    }

    async fn carry_out(&mut self) {
        while let Some(command) = self.machine.next_command() {
            match command {
                Command::Connect(connection) => {
                    let task = tokio::spawn(serve(self.dial.clone(), connection, self.chunks.clone()));
                    if let Some(line) = self.lines.get_mut(connection.bind) {
                        *line = Some(Line { connection, task, writer: None });
                    }
                }
                Command::Write(connection, bytes) => {
                    let taken = self
                        .line(connection)
                        .and_then(|line| line.writer.as_ref())
                        .map(|writer| writer.try_send(bytes));
                    if let Some(Err(_)) = taken {
                        self.close(connection);
                        self.machine.handle(self.now(), Input::Lost(connection));
                    }
                }
                Command::Close(connection) => self.close(connection),
                Command::Report(event) => self.report(event).await,
            }
        }
    }

    /// Lets what was written leave, then drops the connection.
    fn close(&mut self, connection: Connection) {
        let Some(mut line) = self.lines.get_mut(connection.bind).and_then(Option::take) else { return };
        if line.connection != connection {
            self.lines[connection.bind] = Some(line);
            return;
        }
        line.writer = None;
        tokio::spawn(async move {
            if tokio::time::timeout(LINGER, &mut line.task).await.is_err() {
                line.task.abort();
            }
        });
    }

    async fn report(&mut self, event: LinkEvent) {
        match &event {
            LinkEvent::Up => info!(link = self.name, "SMPP link up"),
            LinkEvent::Down => warn!(link = self.name, "SMPP link down"),
            LinkEvent::Throttled { rate_per_s } => {
                warn!(link = self.name, rate_per_s, "the SMSC throttles: SMPP link slowed down");
            }
            LinkEvent::Stopped { reason } => {
                warn!(link = self.name, %reason, "SMPP link stopped");
                self.refuse_rest().await;
            }
            _ => {}
        }
        // Without a receiver nobody wants to know; the link still finishes what it has begun.
        let _ = self.events.send(event).await;
    }

    /// Messages handed over while the link was stopping have their outcome too.
    async fn refuse_rest(&mut self) {
        self.inbox.close();
        while let Some(order) = self.inbox.recv().await {
            if let Order::Submit(submit) = order {
                let cause = Refusal::Stopped;
                let refused = LinkEvent::Refused { token: submit.token, cause, temporary: true };
                let _ = self.events.send(refused).await;
            }
        }
    }

    fn publish(&mut self) {
        let figures = self.machine.figures();
        let mut shared = self.shared.figures.lock().unwrap_or_else(PoisonError::into_inner);
        *shared = figures;
        drop(shared);
        // Callers are charged for what waits here and in the inbox; a message in the window is free.
        if self.charged >= figures.pending {
            self.shared.waiting.fetch_sub(self.charged - figures.pending, Ordering::AcqRel);
        } else {
            self.shared.waiting.fetch_add(figures.pending - self.charged, Ordering::AcqRel);
        }
        self.charged = figures.pending;
    }
}

type Reader = Pin<Box<dyn AsyncRead + Send>>;
type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// One connection, from the call to its end.
async fn serve(dial: Arc<Dial>, connection: Connection, chunks: mpsc::Sender<Arrival>) {
    let error = match open(&dial).await {
        Ok((reader, writer)) => {
            let (writes, outbox) = mpsc::channel(WRITES_MAX);
            if chunks.send(Arrival::Connected(connection, writes)).await.is_err() {
                return;
            }
            let mut reading = std::pin::pin!(read(reader, connection, &chunks));
            tokio::select! {
                error = &mut reading => error,
                ended = write(writer, outbox) => match ended {
                    Ok(()) => {
                        // Closing with unread bytes would reset the connection and lose what was written last.
                        reading.await;
                        return;
                    }
                    Err(error) => error,
                },
            }
        }
        Err(error) => error,
    };
    // The driver is gone when the link has stopped.
    let _ = chunks.send(Arrival::Lost(connection, error)).await;
}

async fn open(dial: &Dial) -> io::Result<(Reader, Writer)> {
    let stream = TcpStream::connect((dial.host.as_str(), dial.port)).await?;
    stream.set_nodelay(true)?;
    let Some(connector) = &dial.tls else {
        let (reader, writer) = stream.into_split();
        return Ok((Box::pin(reader), Box::pin(writer)));
    };
    let name = dial.server_name.as_deref().unwrap_or(&dial.host);
    let ssl = connector.configure()?.into_ssl(name)?;
    let mut stream = SslStream::new(ssl, stream)?;
    Pin::new(&mut stream).connect().await.map_err(io::Error::other)?;
    let (reader, writer) = tokio::io::split(stream);
    Ok((Box::pin(reader), Box::pin(writer)))
}

/// Reads until the end, and says why it ended.
async fn read(mut reader: Reader, connection: Connection, chunks: &mpsc::Sender<Arrival>) -> io::Error {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
            Ok(n) => {
                if chunks.send(Arrival::Bytes(connection, buffer[..n].to_vec())).await.is_err() {
                    return io::ErrorKind::BrokenPipe.into();
                }
            }
            Err(error) => return error,
        }
    }
}

/// Writes until the driver closes the connection, then ends it in order.
async fn write(mut writer: Writer, mut outbox: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(bytes) = outbox.recv().await {
        writer.write_all(&bytes).await?;
    }
    writer.shutdown().await
}

fn connector(tls: &TlsConfig) -> Result<SslConnector, StartError> {
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    if let Some(file) = &tls.ca_file {
        builder.set_ca_file(file)?;
    }
    if let Some(file) = &tls.certificate_file {
        builder.set_certificate_chain_file(file)?;
    }
    if let Some(file) = &tls.key_file {
        builder.set_private_key_file(file, SslFiletype::PEM)?;
    }
    Ok(builder.build())
}
