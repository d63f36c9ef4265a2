//! IPA: frames that carry several streams over one TCP connection (length, stream, data), as Osmocom speaks it.
//!
//! The register asks who is there (ID_GET), the network element answers (ID_RESP) and is known by that name from then on.

/// Longest content of a frame, in octets behind the stream; longer ones end the connection.
pub const CONTENT_BYTES_MAX: usize = 4_096;

/// Octets before the content: length and stream.
const HEAD_BYTES: usize = 3;

/// Streams.
const OSMO: u8 = 0xEE;
const CONNECTION: u8 = 0xFE;
/// First octet of the Osmocom stream.
const CTRL: u8 = 0x00;
const GSUP: u8 = 0x05;
/// Messages of the connection stream.
const PING: u8 = 0x00;
const PONG: u8 = 0x01;
const ID_GET: u8 = 0x04;
const ID_RESP: u8 = 0x05;
const ID_ACK: u8 = 0x06;

/// Names of a network element.
pub mod identity {
    /// Serial number: the name that OsmoHLR writes into `vlr_number`.
    pub const SERIAL: u8 = 0x00;
    /// Unit name.
    pub const UNIT_NAME: u8 = 0x01;
    /// MAC address.
    pub const MAC: u8 = 0x07;
    /// Unit id, `site/unit/trx`.
    pub const UNIT_ID: u8 = 0x08;
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Are you there?
    Ping,
    /// Yes.
    Pong,
    /// Who is there? The [`identity`] tags asked for.
    IdGet(Vec<u8>),
    /// The names, by tag.
    IdResponse(Vec<(u8, String)>),
    /// The names are known.
    IdAck,
    /// A text of the control interface.
    Ctrl(Vec<u8>),
    /// A message for [`super::Message::decode`].
    Gsup(Vec<u8>),
    /// For nobody here: stream, then content.
    Other(u8, Vec<u8>),
}

/// A frame that cannot be read. The connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IpaError {
    /// Longer than [`CONTENT_BYTES_MAX`].
    #[error("a frame of {0} octets: at most {CONTENT_BYTES_MAX} are taken, close the connection")]
    Length(usize),
    /// The connection stream makes no sense.
    #[error("a frame of the connection stream cannot be read: close the connection")]
    Connection,
}

impl Frame {
    /// The first frame of a stream and how many octets it took; nothing where it is not complete yet.
    ///
    /// # Errors
    /// See [`IpaError`].
    pub fn split(stream: &[u8]) -> Result<Option<(Self, usize)>, IpaError> {
        let Some((head, rest)) = stream.split_at_checked(HEAD_BYTES) else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([head[0], head[1]]));
        if length > CONTENT_BYTES_MAX {
            return Err(IpaError::Length(length));
        }
        let Some(content) = rest.get(..length) else { return Ok(None) };
        let frame = match (head[2], content) {
            (OSMO, [CTRL, text @ ..]) => Self::Ctrl(text.to_vec()),
            (OSMO, [GSUP, message @ ..]) => Self::Gsup(message.to_vec()),
            (CONNECTION, [PING, ..]) => Self::Ping,
            (CONNECTION, [PONG, ..]) => Self::Pong,
            (CONNECTION, [ID_ACK, ..]) => Self::IdAck,
            (CONNECTION, [ID_GET, asked @ ..]) => Self::IdGet(read_asked(asked)?),
            (CONNECTION, [ID_RESP, names @ ..]) => Self::IdResponse(read_names(names)?),
            (stream, content) => Self::Other(stream, content.to_vec()),
        };
        Ok(Some((frame, HEAD_BYTES + length)))
    }

    /// The octets. Content beyond [`CONTENT_BYTES_MAX`] is the caller's mistake and cut.
    pub fn encode(&self) -> Vec<u8> {
        let (stream, content) = match self {
            Self::Ping => (CONNECTION, vec![PING]),
            Self::Pong => (CONNECTION, vec![PONG]),
            Self::IdAck => (CONNECTION, vec![ID_ACK]),
            Self::IdGet(asked) => {
                let pairs = asked.iter().flat_map(|tag| [0x01, *tag]);
                (CONNECTION, std::iter::once(ID_GET).chain(pairs).collect())
            }
            Self::IdResponse(names) => {
                let mut content = vec![ID_RESP];
                for (tag, name) in names {
                    let length = u16::try_from(name.len() + 2).unwrap_or_default();
                    content.extend_from_slice(&length.to_be_bytes());
                    content.push(*tag);
                    content.extend_from_slice(name.as_bytes());
                    content.push(0);
                }
                (CONNECTION, content)
            }
            Self::Ctrl(text) => (OSMO, [&[CTRL], &text[..]].concat()),
            Self::Gsup(message) => (OSMO, [&[GSUP], &message[..]].concat()),
            Self::Other(stream, content) => (*stream, content.clone()),
        };
        let content = &content[..content.len().min(CONTENT_BYTES_MAX)];
        let mut frame = (content.len() as u16).to_be_bytes().to_vec();
        frame.push(stream);
        frame.extend_from_slice(content);
        frame
    }

    /// The question of a register.
    pub fn who_is_there() -> Self {
        Self::IdGet(vec![identity::UNIT_ID, identity::MAC, identity::SERIAL, identity::UNIT_NAME])
    }

    /// The answer to the register's question: `name` under every tag that is asked for, and always as serial number.
    pub fn here_is(name: &str, asked: &[u8]) -> Self {
        let mut tags = asked.to_vec();
        if !tags.contains(&identity::SERIAL) {
            tags.push(identity::SERIAL);
        }
        let value = |tag: u8| match tag {
            identity::MAC => "00:00:00:00:00:00".to_owned(),
            identity::UNIT_ID => "0/0/0".to_owned(),
            _ => name.to_owned(),
        };
        Self::IdResponse(tags.into_iter().map(|tag| (tag, value(tag))).collect())
    }

    /// The name in an answer: serial number before unit name.
    pub fn name(&self) -> Option<&str> {
        let Self::IdResponse(names) = self else { return None };
        let find = |tag| names.iter().find(|(found, name)| *found == tag && !name.is_empty());
        find(identity::SERIAL).or_else(|| find(identity::UNIT_NAME)).map(|(_, name)| name.as_str())
    }
}

/// Pairs of a length (always 1) and a tag.
fn read_asked(mut rest: &[u8]) -> Result<Vec<u8>, IpaError> {
    let mut asked = Vec::new();
    while let [length, after @ ..] = rest {
        let (question, after) = after.split_at_checked(usize::from(*length)).ok_or(IpaError::Connection)?;
        asked.push(*question.first().ok_or(IpaError::Connection)?);
        rest = after;
    }
    Ok(asked)
}

/// Length (two octets, of tag and text), tag, text with a zero at its end.
fn read_names(mut rest: &[u8]) -> Result<Vec<(u8, String)>, IpaError> {
    let mut names = Vec::new();
    while let [high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (name, after) = after.split_at_checked(length).ok_or(IpaError::Connection)?;
        let (tag, text) = name.split_first().ok_or(IpaError::Connection)?;
        let text = text.strip_suffix(&[0]).unwrap_or(text);
        names.push((*tag, String::from_utf8_lossy(text).into_owned()));
        rest = after;
    }
    if rest.is_empty() { Ok(names) } else { Err(IpaError::Connection) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(text: &str) -> Frame {
        let octets = hex::decode(text).unwrap();
        for cut in 0..octets.len() {
            assert_eq!(Frame::split(&octets[..cut]), Ok(None));
        }
        let (frame, taken) = Frame::split(&octets).unwrap().unwrap();
        assert_eq!(taken, octets.len());
        assert_eq!(hex::encode(frame.encode()), text);
        frame
    }

    #[test]
    fn the_handshake() {
        let asked = round_trip("0009fe040108010701000101");
        assert_eq!(asked, Frame::who_is_there());
        let answer = Frame::here_is("vlr-1", &[0x08, 0x00, 0x01]);
        let octets = hex::encode(answer.encode());
        assert_eq!(octets, "001cfe05000708302f302f3000000700766c722d3100000701766c722d3100");
        assert_eq!(round_trip(&octets).name(), Some("vlr-1"));
        assert_eq!(round_trip("0001fe06"), Frame::IdAck);
        assert_eq!(round_trip("0001fe00"), Frame::Ping);
        assert_eq!(round_trip("0001fe01"), Frame::Pong);
    }

    #[test]
    fn streams() {
        assert_eq!(round_trip("0004ee00474554"), Frame::Ctrl(b"GET".to_vec()));
        assert_eq!(round_trip("0002ee0506"), Frame::Gsup(vec![0x06]));
        assert_eq!(round_trip("0002ee0906"), Frame::Other(0xEE, vec![0x09, 0x06]));
    }

    #[test]
    fn bad_frames() {
        assert_eq!(Frame::split(&[0xFF, 0xFF, 0xEE]), Err(IpaError::Length(0xFFFF)));
        for text in ["0002fe0401", "0002fe0400", "0003fe050001", "0004fe05000500", "0003fe050000"] {
            assert_eq!(Frame::split(&hex::decode(text).unwrap()), Err(IpaError::Connection), "{text}");
        }
    }
}
