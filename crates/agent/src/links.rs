//! The connections that cards open through their devices: bearer independent protocol over real TCP.
//!
//! Each connection is a task of its own from OPEN CHANNEL to its end; a device without one costs nothing here. What a
//! task holds is bounded by the device: it reads only as much as [`Command::Receive`] allows, and the device stops
//! SEND DATA when too much waits to leave.
//!
//! [`Command::Receive`]: simtide_device::Command::Receive

use std::net::SocketAddr;
use std::time::Duration;

use simtide_device::{Event, LinkId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// How long the making of a connection may take, in seconds.
pub const CONNECT_TIMEOUT_S: u64 = 30;

/// How long what was written before a close may take to leave, in seconds.
pub const CLOSE_TIMEOUT_S: u64 = 10;

/// What a connection is asked to do. Dropping the sender closes it.
enum Order {
    Send(Vec<u8>),
    Receive(usize),
}

/// The open connections of one device.
#[derive(Debug, Default)]
pub struct Links {
    open: Vec<(LinkId, mpsc::UnboundedSender<Order>)>,
}

impl std::fmt::Debug for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Send(bytes) => write!(f, "Send({} bytes)", bytes.len()),
            Self::Receive(bytes_max) => write!(f, "Receive({bytes_max})"),
        }
    }
}

impl Links {
    /// Starts to connect. `tell` is called with the events of this connection, from its task; `latency` is what the
    /// radio adds to the opening and to each round trip. Has to be called within a runtime.
    pub fn open(
        &mut self,
        link: LinkId,
        remote: SocketAddr,
        latency: Duration,
        tell: impl Fn(Event) + Send + Sync + 'static,
    ) {
        let (orders, inbox) = mpsc::unbounded_channel();
        self.open.push((link, orders));
        tokio::spawn(async move {
            match connect(remote, latency).await {
                Ok(stream) => {
                    tell(Event::ChannelConnected(link));
                    Connection { link, stream, latency, tell }.serve(inbox).await;
                }
                Err(error) => {
                    tracing::debug!(%remote, %error, "a card's connection could not be made");
                    tell(Event::ChannelFailed(link));
                }
            }
        });
    }

    /// Lets a connection hand over so many bytes.
    pub fn receive(&self, link: LinkId, bytes_max: usize) {
        self.order(link, Order::Receive(bytes_max));
    }

    /// Sends bytes.
    pub fn send(&self, link: LinkId, bytes: Vec<u8>) {
        self.order(link, Order::Send(bytes));
    }

    /// Closes a connection after what was sent before.
    pub fn close(&mut self, link: LinkId) {
        self.open.retain(|(open, _)| *open != link);
        if self.open.is_empty() {
            self.open = Vec::new();
        }
    }

    fn order(&self, link: LinkId, order: Order) {
        if let Some((_, orders)) = self.open.iter().find(|(open, _)| *open == link) {
            // A task that has ended has told so; the order is for nobody.
            let _ = orders.send(order);
        }
    }
}

async fn connect(remote: SocketAddr, latency: Duration) -> std::io::Result<TcpStream> {
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let stream =
        tokio::time::timeout(Duration::from_secs(CONNECT_TIMEOUT_S), TcpStream::connect(remote)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

struct Connection<T> {
    link: LinkId,
    stream: TcpStream,
    latency: Duration,
    tell: T,
}

impl<T: Fn(Event)> Connection<T> {
    /// Until one of the two sides closes.
    async fn serve(mut self, mut inbox: mpsc::UnboundedReceiver<Order>) {
        let mut permit = 0;
        // Whether the last flight went towards the server: one latency stands for each round trip.
        let mut sending = false;
        let (mut reader, mut writer) = self.stream.split();
        let mut buffer = Vec::new();
        loop {
            tokio::select! {
                biased;
                order = inbox.recv() => match order {
                    None => break,
                    Some(Order::Receive(bytes_max)) => permit = bytes_max,
                    Some(Order::Send(bytes)) => {
                        if !sending && !self.latency.is_zero() {
                            tokio::time::sleep(self.latency).await;
                        }
                        sending = true;
                        // A server that does not read holds up this card only.
                        if writer.write_all(&bytes).await.is_err() {
                            return (self.tell)(Event::ChannelClosed(self.link));
                        }
                        (self.tell)(Event::ChannelSent(self.link, bytes.len()));
                    }
                },
                read = async { buffer.resize(permit, 0); reader.read(&mut buffer).await }, if permit > 0 => match read {
                    Ok(count) if count > 0 => {
                        sending = false;
                        permit = 0;
                        buffer.truncate(count);
                        (self.tell)(Event::ChannelData(self.link, std::mem::take(&mut buffer)));
                    }
                    _ => return (self.tell)(Event::ChannelClosed(self.link)),
                },
            }
        }
        let _ = tokio::time::timeout(Duration::from_secs(CLOSE_TIMEOUT_S), writer.shutdown()).await;
    }
}
