//! Reads and writes the cards of a fleet through its card door: by APDU, on each card's own port.
//!
//! The door speaks vpcd frames (length, u16 big-endian, then the bytes). The first frame names the card by its
//! ICCID; the answer is its ATR, or an empty frame where the fleet has no such card. The reader works on a logical
//! channel of its own and leaves the device's session on the basic channel alone.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use simtide_protocol::apdu::{Command, StatusWord};
use simtide_protocol::ids::Iccid;

/// How long a card may take for one answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// Why a card could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// The door is closed or broke.
    #[error("the card door does not answer: {0}; is the fleet running?")]
    Door(#[from] io::Error),
    /// The fleet has no such card.
    #[error("the fleet has no card {0}: it was never switched on")]
    NoCard(Iccid),
    /// The card refused a command.
    #[error("the card answered {1:04X} to {0}")]
    Refused(String, u16),
}

/// One card, as a PC/SC reader would have it.
pub struct Reader {
    stream: TcpStream,
    channel: u8,
}

impl Reader {
    /// Connects to a card and opens a logical channel on it (ETSI TS 102 221, 11.1.17).
    pub fn connect(door: SocketAddr, card: Iccid) -> Result<Self, ReaderError> {
        let stream = TcpStream::connect(door)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
        let mut reader = Self { stream, channel: 0 };
        if reader.exchange(card.to_string().as_bytes())?.is_empty() {
            return Err(ReaderError::NoCard(card));
        }
        let opened = reader.transmit(Command::new(0x00, 0x70, 0x00, 0x00).with_le(1))?;
        reader.channel = opened.first().copied().unwrap_or(0);
        Ok(reader)
    }

    /// Selects an elementary file by its path from the MF, for instance `[0x7F90, 0x6F01]`.
    pub fn select(&mut self, path: &[u16]) -> Result<(), ReaderError> {
        let path: Vec<u8> = path.iter().flat_map(|id| id.to_be_bytes()).collect();
        self.transmit(Command::new(0x00, 0xA4, 0x08, 0x0C).with_data(&path)).map(drop)
    }

    /// Selects an application by its AID.
    pub fn select_application(&mut self, aid: &[u8]) -> Result<(), ReaderError> {
        self.transmit(Command::new(0x00, 0xA4, 0x04, 0x0C).with_data(aid)).map(drop)
    }

    /// `length` bytes of a transparent file from its start.
    pub fn read_binary(&mut self, path: &[u16], length: u8) -> Result<Vec<u8>, ReaderError> {
        self.select(path)?;
        self.transmit(Command::new(0x00, 0xB0, 0x00, 0x00).with_le(length.into()))
    }

    /// A record of `length` bytes; number 1 is the newest of a cyclic file.
    pub fn read_record(&mut self, path: &[u16], number: u8, length: u8) -> Result<Vec<u8>, ReaderError> {
        self.select(path)?;
        self.transmit(Command::new(0x00, 0xB2, number, 0x04).with_le(length.into()))
    }

    /// Sends one command on the reader's logical channel and demands 9000 (or 91xx, which the device will fetch).
    pub fn transmit(&mut self, command: Command<'_>) -> Result<Vec<u8>, ReaderError> {
        let on_channel = Command { cla: command.cla | self.channel, ..command };
        let mut answer = self.exchange(&on_channel.encode())?;
        if answer.len() < 2 {
            return Err(ReaderError::Refused(name(&command), 0));
        }
        let status = answer.split_off(answer.len() - 2);
        let status = StatusWord(u16::from_be_bytes([status[0], status[1]]));
        match status.sw1() {
            0x90 | 0x91 => Ok(answer),
            _ => Err(ReaderError::Refused(name(&command), status.0)),
        }
    }

    fn exchange(&mut self, frame: &[u8]) -> Result<Vec<u8>, io::Error> {
        let length = u16::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(frame);
        self.stream.write_all(&bytes)?;
        let mut length = [0; 2];
        self.stream.read_exact(&mut length)?;
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        self.stream.read_exact(&mut answer)?;
        Ok(answer)
    }
}

fn name(command: &Command<'_>) -> String {
    format!("{:02X}{:02X}{:02X}{:02X}", command.cla, command.ins, command.p1, command.p2)
}
