//! What cards and registers hold at the end: every card proves itself, by its own AUTHENTICATE, against both registers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use simtide_protocol::apdu::Command;
use simtide_protocol::gsup::ipa::Frame;
use simtide_protocol::gsup::{Body, Domain, Message, Procedure};
use simtide_protocol::ids::{Iccid, Imsi};
use simtide_simulation::reader::Reader;

type Failure = Box<dyn std::error::Error>;

/// The first bytes of every USIM's AID (ETSI TS 101 220, annex E).
const USIM: [u8; 7] = [0xA0, 0x00, 0x00, 0x00, 0x87, 0x10, 0x02];
/// As which network element the demo asks the registers; the SMSCs keep their own counters.
const ELEMENT: &str = "simtide-demo";
/// How long a register may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Frames about something else before the answer.
const FRAMES_MAX: u32 = 64;

/// A register, asked as a network element would.
pub struct Register {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Register {
    /// Connects and says who is there.
    pub fn connect(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut register = Self { stream, received: Vec::new() };
        for _ in 0..FRAMES_MAX {
            if let Frame::IdGet(asked) = register.frame()? {
                register.stream.write_all(&Frame::here_is(ELEMENT, &asked).encode())?;
                return Ok(register);
            }
        }
        Err("the register never asks who is there".into())
    }

    /// Whether the register accepts this identity, and, where it does, what it says to a challenge of it.
    fn vectors(
        &mut self,
        imsi: Imsi,
        resynchronisation: Option<([u8; 16], [u8; 14])>,
    ) -> Result<Option<simtide_protocol::aka::Vector>, Failure> {
        let body = Body::SendAuthInfo { domain: Some(Domain::CircuitSwitched), resynchronisation };
        self.stream.write_all(&Frame::Gsup(Message { imsi, body }.encode()).encode())?;
        for _ in 0..FRAMES_MAX {
            let Frame::Gsup(content) = self.frame()? else { continue };
            match Message::decode(&content)?.body {
                Body::AuthInfo(vectors) => return Ok(vectors.into_iter().next()),
                Body::Failed { procedure: Procedure::SendAuthInfo, .. } => return Ok(None),
                _ => {}
            }
        }
        Err("the register speaks of other things only".into())
    }

    /// Whether the register accepts this identity.
    pub fn accepts(&mut self, imsi: Imsi) -> Result<bool, Failure> {
        Ok(self.vectors(imsi, None)?.is_some())
    }

    fn frame(&mut self) -> Result<Frame, Failure> {
        loop {
            if let Some((frame, taken)) = Frame::split(&self.received)? {
                self.received.drain(..taken);
                return Ok(frame);
            }
            let mut chunk = [0; 2_048];
            let count = self.stream.read(&mut chunk)?;
            if count == 0 {
                return Err("the register has closed the line".into());
            }
            self.received.extend_from_slice(&chunk[..count]);
        }
    }
}

/// A card of the fleet.
pub struct Card {
    reader: Reader,
    /// What EF.IMSI says.
    pub imsi: Imsi,
}

impl Card {
    /// Reads its identity.
    pub fn read(door: SocketAddr, iccid: Iccid) -> Result<Self, Failure> {
        let mut reader = Reader::connect(door, iccid)?;
        reader.select_application(&USIM)?;
        reader.transmit(Command::new(0x00, 0xA4, 0x00, 0x0C).with_data(&[0x6F, 0x07]))?;
        let coded = reader.transmit(Command::new(0x00, 0xB0, 0x00, 0x00).with_le(9))?;
        Ok(Self { reader, imsi: Imsi::from_file(&coded)? })
    }

    /// Whether card and register prove themselves to each other: the key on the card is the register's key of the identity
    /// on the card.
    pub fn is_at_home_in(&mut self, register: &mut Register) -> Result<bool, Failure> {
        let mut resynchronisation = None;
        for _ in 0..2 {
            let Some(vector) = register.vectors(self.imsi, resynchronisation)? else { return Ok(false) };
            let challenge = [&[16], &vector.rand[..], &[16], &vector.autn[..]].concat();
            // 3GPP TS 31.102, 7.1.2: a card that does not know the network answers 9862, which is no answer here.
            let command = Command::new(0x00, 0x88, 0x00, 0x81).with_data(&challenge).with_le(256);
            let Ok(answer) = self.reader.transmit(command) else { return Ok(false) };
            match &answer[..] {
                [0xDB, length, rest @ ..] => {
                    return Ok(rest.get(..usize::from(*length)) == Some(&vector.xres[..]));
                }
                [0xDC, 14, auts @ ..] => resynchronisation = Some((vector.rand, auts.try_into()?)),
                _ => return Ok(false),
            }
        }
        Ok(false)
    }
}
