//! The line to an operator's register: GSUP over IPA, to a loopback address, because it is not protected.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use simtide_protocol::gsup::Message;
use simtide_protocol::gsup::ipa::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

/// First and longest wait between two attempts to connect.
const RECONNECT_MIN: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(5);
/// Most bytes read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// Where a register listens: `gsup:127.0.0.1:4222`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RegisterAddress(SocketAddr);

/// An address that is not used for a register.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterAddressError {
    /// Not of the form.
    #[error("use gsup:ADDRESS with a port, as in gsup:127.0.0.1:4222")]
    Form,
    /// GSUP is plain text with keys in it.
    #[error("{0} is not a loopback address: GSUP is not protected, use it on the same machine only")]
    NotLoopback(SocketAddr),
}

impl std::str::FromStr for RegisterAddress {
    type Err = RegisterAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = text.strip_prefix("gsup:").and_then(|address| address.parse::<SocketAddr>().ok());
        let address = address.ok_or(RegisterAddressError::Form)?;
        match address.ip().is_loopback() {
            true => Ok(Self(address)),
            false => Err(RegisterAddressError::NotLoopback(address)),
        }
    }
}

impl TryFrom<String> for RegisterAddress {
    type Error = RegisterAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// What the line tells.
#[derive(Debug)]
pub(super) enum FromRegister {
    /// It stands and the register knows who is here, or it is gone.
    Stands(bool),
    /// A message.
    Said(Message),
}

/// Keeps a line to the register; ends when `tell` has no receiver any more. What is written while there is no line is
/// lost.
pub(super) async fn keep(
    RegisterAddress(address): RegisterAddress,
    name: String,
    mut outbox: mpsc::Receiver<Vec<u8>>,
    tell: mpsc::Sender<FromRegister>,
) {
    let mut wait = RECONNECT_MIN;
    loop {
        if let Ok(stream) = TcpStream::connect(address).await {
            wait = RECONNECT_MIN;
            talk(stream, &name, &mut outbox, &tell).await;
            warn!(%address, "the line to the register is gone");
            if tell.send(FromRegister::Stands(false)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = tell.closed() => return,
        }
        while outbox.try_recv().is_ok() {}
        wait = (wait * 2).min(RECONNECT_MAX);
    }
}

async fn talk(
    mut stream: TcpStream,
    name: &str,
    outbox: &mut mpsc::Receiver<Vec<u8>>,
    tell: &mpsc::Sender<FromRegister>,
) {
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.split();
    let (mut received, mut chunk) = (Vec::new(), vec![0; CHUNK_BYTES]);
    loop {
        let written = tokio::select! {
            read = reader.read(&mut chunk) => match read {
                Ok(count) if count > 0 => {
                    received.extend_from_slice(&chunk[..count]);
                    match hear(&mut received, name, tell).await {
                        Some(answers) => writer.write_all(&answers).await,
                        None => return,
                    }
                }
                _ => return,
            },
            message = outbox.recv() => match message {
                Some(message) => writer.write_all(&Frame::Gsup(message).encode()).await,
                None => return,
            },
        };
        if written.is_err() {
            return;
        }
    }
}

/// Takes the whole frames off what was received; gives what is to be answered, or nothing at the end of the line.
async fn hear(received: &mut Vec<u8>, name: &str, tell: &mpsc::Sender<FromRegister>) -> Option<Vec<u8>> {
    let mut answers = Vec::new();
    loop {
        let (frame, taken) = match Frame::split(received) {
            Ok(Some(whole)) => whole,
            Ok(None) => return Some(answers),
            Err(error) => {
                warn!(%error, "the register cannot be understood");
                return None;
            }
        };
        received.drain(..taken);
        match frame {
            Frame::IdGet(asked) => {
                answers.extend(Frame::here_is(name, &asked).encode());
                info!("the register knows this network");
                tell.send(FromRegister::Stands(true)).await.ok()?;
            }
            Frame::Ping => answers.extend(Frame::Pong.encode()),
            Frame::Gsup(message) => match Message::decode(&message) {
                Ok(message) => tell.send(FromRegister::Said(message)).await.ok()?,
                Err(error) => debug!(%error, "a message of the register is passed over"),
            },
            Frame::Pong | Frame::IdResponse(_) | Frame::IdAck | Frame::Ctrl(_) | Frame::Other(..) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_on_the_same_machine() {
        assert!("gsup:127.0.0.2:4222".parse::<RegisterAddress>().is_ok());
        for form in ["", "127.0.0.1:4222", "gsup:127.0.0.1", "gsup:localhost:4222"] {
            assert_eq!(form.parse::<RegisterAddress>(), Err(RegisterAddressError::Form), "{form}");
        }
        let far = "192.0.2.1:4222".parse().unwrap();
        assert_eq!(
            "gsup:192.0.2.1:4222".parse::<RegisterAddress>(),
            Err(RegisterAddressError::NotLoopback(far))
        );
    }
}
