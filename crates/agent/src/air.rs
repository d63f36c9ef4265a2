//! The air interface: lines of JSON over TCP between an SMSC and any number of subscribers (`docs/air-interface.md`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::network::NetworkEvent;

pub mod lines;

pub use lines::{FromDevice, Hex, LINE_BYTES_MAX, ToDevice};

/// Longest wait between two attempts to connect, in milliseconds.
pub const RECONNECT_MS_MAX: u64 = 5_000;

/// First wait between two attempts to connect, in milliseconds.
const RECONNECT_MS_MIN: u64 = 50;

/// Most lines that are written together.
const LINES_PER_WRITE_MAX: usize = 256;

/// A line to the network that connects itself again whenever it breaks. Ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct AirLine {
    outgoing: mpsc::UnboundedSender<FromDevice>,
    stands: Arc<AtomicBool>,
}

impl AirLine {
    /// Starts to connect to an SMSC; `tell` is called from the line's task. Has to be called within a runtime.
    pub fn start(address: String, tell: impl Fn(NetworkEvent) + Send + Sync + 'static) -> Self {
        let (outgoing, inbox) = mpsc::unbounded_channel();
        let stands = Arc::new(AtomicBool::new(false));
        let noted = stands.clone();
        let tell = move |event: NetworkEvent| {
            match event {
                NetworkEvent::Up => noted.store(true, Relaxed),
                NetworkEvent::Down => noted.store(false, Relaxed),
                _ => {}
            }
            tell(event);
        };
        tokio::spawn(keep(address, inbox, tell));
        Self { outgoing, stands }
    }

    /// A line that always stands, to a network within the process: what devices say arrives at the other end.
    pub fn direct() -> (Self, mpsc::UnboundedReceiver<FromDevice>) {
        let (outgoing, said) = mpsc::unbounded_channel();
        (Self { outgoing, stands: Arc::new(AtomicBool::new(true)) }, said)
    }

    /// Whether the line stands: coverage.
    pub fn stands(&self) -> bool {
        self.stands.load(Relaxed)
    }

    /// Queues a line. Each device has at most one attach, one submission and its reports of received messages
    /// waiting, which bounds the queue. While the line is down nothing is kept: see [`NetworkEvent::Up`].
    pub fn say(&self, line: FromDevice) {
        let _ = self.outgoing.send(line);
    }
}

async fn keep(address: String, mut inbox: mpsc::UnboundedReceiver<FromDevice>, tell: impl Fn(NetworkEvent)) {
    let mut wait_ms = RECONNECT_MS_MIN;
    loop {
        match TcpStream::connect(&address).await {
            Ok(stream) => {
                wait_ms = RECONNECT_MS_MIN;
                // What was said while there was no line is said again by those who still mean it.
                while inbox.try_recv().is_ok() {}
                tell(NetworkEvent::Up);
                let ended = talk(stream, &mut inbox, &tell).await;
                tell(NetworkEvent::Down);
                if ended {
                    return;
                }
            }
            Err(error) => tracing::debug!(%address, %error, "no line to the SMSC yet"),
        }
        let again = tokio::time::sleep(Duration::from_millis(wait_ms));
        tokio::pin!(again);
        loop {
            tokio::select! {
                () = &mut again => break,
                // What is said into a broken line is lost, as in the air.
                line = inbox.recv() => if line.is_none() { return },
            }
        }
        wait_ms = (wait_ms * 2).min(RECONNECT_MS_MAX);
    }
}

/// Both directions of one connection; `true` when nobody speaks any more.
async fn talk(
    mut stream: TcpStream,
    inbox: &mut mpsc::UnboundedReceiver<FromDevice>,
    tell: &impl Fn(NetworkEvent),
) -> bool {
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.split();
    let mut writer = BufWriter::with_capacity(64 * 1024, writer);
    let mut reader = BufReader::new(reader);
    let listen = async {
        let mut line = Vec::new();
        loop {
            line.clear();
            // One byte more than allowed shows a line that is too long.
            match (&mut reader).take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line).await {
                Ok(count) if count > 0 && line.len() <= LINE_BYTES_MAX => {}
                _ => return,
            }
            match serde_json::from_slice(&line) {
                Ok(message) => hear(message, tell),
                Err(error) => tracing::warn!(%error, "the SMSC sent a line that cannot be read"),
            }
        }
    };
    let speak = async {
        let mut lines = Vec::new();
        while inbox.recv_many(&mut lines, LINES_PER_WRITE_MAX).await > 0 {
            for line in lines.drain(..) {
                let Ok(mut text) = serde_json::to_vec(&line) else { continue };
                text.push(b'\n');
                if writer.write_all(&text).await.is_err() {
                    return false;
                }
            }
            if writer.flush().await.is_err() {
                return false;
            }
        }
        true
    };
    tokio::select! {
        () = listen => false,
        ended = speak => ended,
    }
}

/// Hands on what the network said.
fn hear(message: ToDevice, tell: &impl Fn(NetworkEvent)) {
    match message {
        ToDevice::Challenge { imsi, rand, autn } => match (rand.0.try_into(), autn.0.try_into()) {
            (Ok(rand), Ok(autn)) => tell(NetworkEvent::Challenge { imsi, rand, autn }),
            _ => tracing::warn!("the network sent a challenge of another length than 16 and 16 octets"),
        },
        ToDevice::Attached { imsi } => tell(NetworkEvent::Attached { imsi }),
        ToDevice::Rejected { imsi, cause } => tell(NetworkEvent::Rejected { imsi, cause }),
        ToDevice::Detached { imsi, cause } => tell(NetworkEvent::Detached { imsi, cause }),
        ToDevice::Deliver { imsi, id, sc, tpdu } => {
            tell(NetworkEvent::Deliver { imsi, id, service_center: sc, tpdu: tpdu.0 });
        }
        ToDevice::Submitted { imsi, reference, ok } => {
            tell(NetworkEvent::Submitted { imsi, reference, accepted: ok });
        }
        ToDevice::Error { reason } => tracing::warn!(%reason, "the SMSC refused a line"),
    }
}

#[cfg(test)]
mod tests {
    use simtide_protocol::ids::Imsi;
    use tokio::net::TcpListener;

    use super::*;

    fn imsi() -> Imsi {
        "001010000000001".parse().unwrap()
    }

    #[tokio::test]
    async fn a_line_connects_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (events, mut heard) = mpsc::unbounded_channel();
        let address = listener.local_addr().unwrap().to_string();
        let line = AirLine::start(address, move |event| {
            let _ = events.send(event);
        });
        for _ in 0..2 {
            let (stream, _) = listener.accept().await.unwrap();
            assert_eq!(heard.recv().await, Some(NetworkEvent::Up));
            line.say(FromDevice::Detach { imsi: imsi() });
            let mut stream = BufReader::new(stream);
            let mut text = String::new();
            stream.read_line(&mut text).await.unwrap();
            assert_eq!(text, "{\"type\":\"detach\",\"imsi\":\"001010000000001\"}\n");
            let answer = b"nonsense\n{\"type\":\"attached\",\"imsi\":\"001010000000001\"}\n";
            stream.get_mut().write_all(answer).await.unwrap();
            assert_eq!(heard.recv().await, Some(NetworkEvent::Attached { imsi: imsi() }));
            drop(stream);
            assert_eq!(heard.recv().await, Some(NetworkEvent::Down));
        }
    }
}
