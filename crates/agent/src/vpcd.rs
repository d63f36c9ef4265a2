//! The protocol between a virtual reader (vpcd) and a software card: frames of a two-byte big-endian length and as many
//! bytes. The reader listens. Frames of one byte are orders, longer ones APDUs; the card answers to a request for the ATR
//! and to APDUs.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use crate::port::{CardPort, PortError};

/// Most bytes of a frame.
pub const FRAME_BYTES_MAX: usize = 0xFFFF;

/// What a reader tells a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order<'a> {
    /// 00: the power goes off.
    Off,
    /// 01: the power comes on.
    On,
    /// 02: reset.
    Reset,
    /// 04: send the ATR.
    Atr,
    /// A command APDU.
    Apdu(&'a [u8]),
    /// A single byte that is none of the orders, or nothing: no answer.
    Unknown,
}

impl<'a> Order<'a> {
    /// Reads a frame that came from a reader.
    pub fn parse(frame: &'a [u8]) -> Self {
        match frame {
            [0x00] => Self::Off,
            [0x01] => Self::On,
            [0x02] => Self::Reset,
            [0x04] => Self::Atr,
            [] | [_] => Self::Unknown,
            apdu => Self::Apdu(apdu),
        }
    }
}

/// Reads one frame into `frame`. An end before the first byte of a frame is [`io::ErrorKind::UnexpectedEof`] as well.
pub fn read_frame(from: &mut impl Read, frame: &mut Vec<u8>) -> io::Result<()> {
    let mut length = [0; 2];
    from.read_exact(&mut length)?;
    frame.clear();
    frame.resize(usize::from(u16::from_be_bytes(length)), 0);
    from.read_exact(frame)
}

/// Writes one frame, in one write so that a peer that reads by packet sees it whole.
pub fn write_frame(to: &mut impl Write, body: &[u8]) -> io::Result<()> {
    let length = u16::try_from(body.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a frame holds at most 65535 bytes"))?;
    let mut frame = Vec::with_capacity(2 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(body);
    to.write_all(&frame)?;
    to.flush()
}

/// Is a card to the reader at the other end, until it hangs up.
pub fn present(mut reader: TcpStream, card: &mut dyn CardPort) -> Result<(), PortError> {
    reader.set_nodelay(true)?;
    let (mut frame, mut response) = (Vec::new(), Vec::new());
    let mut atr = None;
    loop {
        match read_frame(&mut reader, &mut frame) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        match Order::parse(&frame) {
            Order::On | Order::Reset => atr = Some(card.reset()?),
            Order::Off => atr = None,
            // Some readers ask for the ATR before they switch the power on.
            Order::Atr => {
                let known = match &atr {
                    Some(known) => known,
                    None => atr.insert(card.reset()?),
                };
                write_frame(&mut reader, known)?;
            }
            Order::Apdu(command) => {
                card.transmit(command, &mut response)?;
                write_frame(&mut reader, &response)?;
            }
            Order::Unknown => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_come_back() {
        for length in [0, 1, 2, 255, 256, FRAME_BYTES_MAX] {
            let body = vec![0xA5; length];
            let mut line = Vec::new();
            write_frame(&mut line, &body).unwrap();
            assert_eq!(line.len(), length + 2);
            let mut frame = vec![1, 2, 3];
            read_frame(&mut line.as_slice(), &mut frame).unwrap();
            assert_eq!(frame, body);
        }
        assert!(write_frame(&mut Vec::new(), &[0; FRAME_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn a_cut_frame_is_an_error() {
        for cut in 0..4 {
            let line = [0x00, 0x02, 0x90, 0x00];
            assert!(read_frame(&mut &line[..cut], &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn orders() {
        assert_eq!(Order::parse(&[0]), Order::Off);
        assert_eq!(Order::parse(&[4]), Order::Atr);
        assert_eq!(Order::parse(&[3]), Order::Unknown);
        assert_eq!(Order::parse(&[]), Order::Unknown);
        assert_eq!(Order::parse(&[0, 0xA4]), Order::Apdu(&[0, 0xA4]));
    }
}
