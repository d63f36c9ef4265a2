//! The air interface: lines of JSON over TCP between an SMSC and any number of subscribers (`docs/air-interface.md`).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use simtide_device::SmsReport;
use simtide_protocol::ids::{Imsi, Msisdn};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::network::NetworkEvent;

/// Most bytes of a line.
pub const LINE_BYTES_MAX: usize = 4096;

/// Longest wait between two attempts to connect, in milliseconds.
pub const RECONNECT_MS_MAX: u64 = 5_000;

/// First wait between two attempts to connect, in milliseconds.
const RECONNECT_MS_MIN: u64 = 50;

/// Most lines that are written together.
const LINES_PER_WRITE_MAX: usize = 256;

/// What devices say to the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ToNetwork {
    /// A subscriber is here.
    Attach {
        /// The identity on the card.
        imsi: Imsi,
        /// The number on the card.
        #[serde(skip_serializing_if = "Option::is_none")]
        msisdn: Option<Msisdn>,
    },
    /// A subscriber leaves.
    Detach {
        /// The identity that was attached.
        imsi: Imsi,
    },
    /// A message from a device.
    Submit {
        /// Who sends it.
        imsi: Imsi,
        /// Given back in the answer.
        #[serde(rename = "ref")]
        reference: u32,
        /// The SMS-SUBMIT in hex.
        tpdu: String,
    },
    /// What became of a message to a device.
    Report {
        /// The id of the delivery.
        id: u64,
        /// Whether the device took it.
        ok: bool,
        /// User data of the delivery report in hex, where there are any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tpdu: Option<String>,
        /// TP-FCS where the device refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<u8>,
    },
}

/// What the network says to devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum FromNetwork {
    /// A subscriber is registered.
    Attached {
        /// Who.
        imsi: Imsi,
    },
    /// A message for a device.
    Deliver {
        /// For whom.
        imsi: Imsi,
        /// Given back in the report.
        id: u64,
        /// Address of the service centre.
        #[serde(default)]
        sc: String,
        /// The SMS-DELIVER in hex.
        tpdu: String,
    },
    /// What became of a message from a device.
    Submitted {
        /// Who sent it.
        imsi: Imsi,
        /// The number given with it.
        #[serde(rename = "ref")]
        reference: u32,
        /// Whether the service centre took it.
        ok: bool,
    },
    /// A line that the network could not read.
    Error {
        /// Why.
        reason: String,
    },
}

impl ToNetwork {
    /// The report line for what a device says about a message.
    pub fn report(id: u64, report: SmsReport) -> Self {
        let in_hex = |data: Vec<u8>| (!data.is_empty()).then(|| hex::encode(data));
        match report {
            SmsReport::Accepted(data) => Self::Report { id, ok: true, tpdu: in_hex(data), cause: None },
            SmsReport::Refused { cause, data } => {
                Self::Report { id, ok: false, tpdu: in_hex(data), cause: Some(cause) }
            }
        }
    }
}

/// A line to the network that connects itself again whenever it breaks. Ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct AirLine {
    outgoing: mpsc::UnboundedSender<ToNetwork>,
}

impl AirLine {
    /// Starts to connect to an SMSC; `tell` is called from the line's task. Has to be called within a runtime.
    pub fn start(address: String, tell: impl Fn(NetworkEvent) + Send + Sync + 'static) -> Self {
        let (outgoing, inbox) = mpsc::unbounded_channel();
        tokio::spawn(keep(address, inbox, tell));
        Self { outgoing }
    }

    /// Queues a line. Each device has at most one attach, one submission and its reports of received messages
    /// waiting, which bounds the queue. While the line is down nothing is kept: see [`NetworkEvent::Up`].
    pub fn say(&self, line: ToNetwork) {
        let _ = self.outgoing.send(line);
    }
}

async fn keep(address: String, mut inbox: mpsc::UnboundedReceiver<ToNetwork>, tell: impl Fn(NetworkEvent)) {
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
    inbox: &mut mpsc::UnboundedReceiver<ToNetwork>,
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
fn hear(message: FromNetwork, tell: &impl Fn(NetworkEvent)) {
    match message {
        FromNetwork::Attached { imsi } => tell(NetworkEvent::Attached { imsi }),
        FromNetwork::Deliver { imsi, id, sc, tpdu } => match hex::decode(&tpdu) {
            Ok(tpdu) => tell(NetworkEvent::Deliver { imsi, id, service_center: sc, tpdu }),
            Err(error) => tracing::warn!(%error, "the SMSC sent a message that is not in hex"),
        },
        FromNetwork::Submitted { imsi, reference, ok } => {
            tell(NetworkEvent::Submitted { imsi, reference, accepted: ok });
        }
        FromNetwork::Error { reason } => tracing::warn!(%reason, "the SMSC refused a line"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn imsi() -> Imsi {
        "001010000000001".parse().unwrap()
    }

    #[test]
    fn lines_look_as_documented() {
        let line = |message: &ToNetwork| serde_json::to_string(message).unwrap();
        assert_eq!(
            line(&ToNetwork::Attach { imsi: imsi(), msisdn: "436601234".parse().ok() }),
            r#"{"type":"attach","imsi":"001010000000001","msisdn":"436601234"}"#
        );
        assert_eq!(
            line(&ToNetwork::Submit { imsi: imsi(), reference: 7, tpdu: "0100".to_owned() }),
            r#"{"type":"submit","imsi":"001010000000001","ref":7,"tpdu":"0100"}"#
        );
        assert_eq!(
            line(&ToNetwork::report(9, SmsReport::Accepted(vec![0x02, 0x71]))),
            r#"{"type":"report","id":9,"ok":true,"tpdu":"0271"}"#
        );
        assert_eq!(
            line(&ToNetwork::report(9, SmsReport::Refused { cause: 208, data: Vec::new() })),
            r#"{"type":"report","id":9,"ok":false,"cause":208}"#
        );
        let text = r#"{"type":"deliver","imsi":"001010000000001","id":9,"sc":"+4366","tpdu":"44"}"#;
        let message: FromNetwork = serde_json::from_str(text).unwrap();
        assert!(matches!(message, FromNetwork::Deliver { id: 9, .. }));
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
            line.say(ToNetwork::Detach { imsi: imsi() });
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
