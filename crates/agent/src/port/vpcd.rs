//! `vpcd:ADDRESS`: a virtual reader that listens for a software card.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::{CardPort, PortError};
use crate::vpcd::{read_frame, write_frame};

/// How long a card may take for one answer, in seconds: RSA on a foreign card takes some.
pub const ANSWER_TIMEOUT_S: u64 = 60;

/// How often a card that hung up is waited for anew within one call.
const RECONNECTS_MAX: u32 = 1;

/// The reader. It serves one card at a time; when a card hangs up, the next one to connect takes its place with the next
/// reset.
#[derive(Debug)]
pub struct VpcdPort {
    listener: TcpListener,
    card: Option<TcpStream>,
}

impl VpcdPort {
    /// Listens at this address (port 0 lets the system choose one).
    pub fn listen(address: &str) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address)?, card: None })
    }

    /// Where the reader listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The card's connection; waits for one without a limit, as a reader without a card does.
    fn card(&mut self) -> io::Result<&mut TcpStream> {
        let stream = match self.card.take() {
            Some(stream) => stream,
            None => {
                let (stream, _) = self.listener.accept()?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(ANSWER_TIMEOUT_S)))?;
                stream
            }
        };
        Ok(self.card.insert(stream))
    }

    fn power_up(&mut self) -> io::Result<Vec<u8>> {
        let card = self.card()?;
        write_frame(card, &[0x00])?;
        write_frame(card, &[0x01])?;
        write_frame(card, &[0x02])?;
        write_frame(card, &[0x04])?;
        let mut atr = Vec::new();
        read_frame(card, &mut atr)?;
        Ok(atr)
    }

    fn exchange(&mut self, command: &[u8], response: &mut Vec<u8>) -> io::Result<()> {
        // Without a card that has been reset there is nobody to answer: only a reset waits for a new one.
        let card = self.card.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        write_frame(card, command)?;
        read_frame(card, response)
    }
}

impl CardPort for VpcdPort {
    fn reset(&mut self) -> Result<Vec<u8>, PortError> {
        let mut attempt = 0;
        loop {
            match self.power_up() {
                Ok(atr) => return Ok(atr),
                Err(error) => {
                    self.card = None;
                    if attempt == RECONNECTS_MAX {
                        return Err(error.into());
                    }
                    attempt += 1;
                }
            }
        }
    }

    fn transmit(&mut self, command: &[u8], response: &mut Vec<u8>) -> Result<(), PortError> {
        if let Err(error) = self.exchange(command, response) {
            self.card = None;
            return Err(error.into());
        }
        if response.len() < 2 {
            return Err(PortError::NoAnswer { bytes: response.len() });
        }
        Ok(())
    }
}
