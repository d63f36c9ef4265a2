//! What a card asks its device to do: proactive commands (ETSI TS 102 223, 6.4 to 6.6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use simtide_protocol::tlv::{ComprehensionReader, find, find_comprehension};

use crate::event::Menu;
use crate::text::{decode_alpha, decode_text};

/// Most entries of a menu or a list.
pub const ITEMS_MAX: usize = 64;

/// Tags of COMPREHENSION-TLV objects without their comprehension bit (ETSI TS 102 223, 9.3).
pub(crate) mod tag {
    pub const COMMAND_DETAILS: u16 = 0x01;
    pub const DEVICE_IDENTITIES: u16 = 0x02;
    pub const RESULT: u16 = 0x03;
    pub const DURATION: u16 = 0x04;
    pub const ALPHA_IDENTIFIER: u16 = 0x05;
    pub const SMS_TPDU: u16 = 0x0B;
    pub const TEXT_STRING: u16 = 0x0D;
    pub const ITEM: u16 = 0x0F;
    pub const ITEM_IDENTIFIER: u16 = 0x10;
    pub const RESPONSE_LENGTH: u16 = 0x11;
    pub const LOCATION: u16 = 0x13;
    pub const IMEI: u16 = 0x14;
    pub const DEFAULT_TEXT: u16 = 0x17;
    pub const EVENT_LIST: u16 = 0x19;
    pub const LOCATION_STATUS: u16 = 0x1B;
    pub const TIMER_IDENTIFIER: u16 = 0x24;
    pub const TIMER_VALUE: u16 = 0x25;
    pub const DATE_TIME: u16 = 0x26;
    pub const LANGUAGE: u16 = 0x2D;
    pub const BEARER: u16 = 0x35;
    pub const CHANNEL_DATA: u16 = 0x36;
    pub const CHANNEL_DATA_LENGTH: u16 = 0x37;
    pub const CHANNEL_STATUS: u16 = 0x38;
    pub const BUFFER_SIZE: u16 = 0x39;
    pub const TRANSPORT: u16 = 0x3C;
    pub const OTHER_ADDRESS: u16 = 0x3E;
    pub const ACCESS_TECHNOLOGY: u16 = 0x3F;
}

/// Command details: number, type and qualifier; given back in the terminal response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Details {
    /// Number that the card gave the command.
    pub number: u8,
    /// What the command is.
    pub kind: u8,
    /// How it is meant.
    pub qualifier: u8,
}

/// One proactive command, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proactive {
    /// Command details.
    pub details: Details,
    /// What is asked for.
    pub request: Request,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// REFRESH (01).
    Refresh,
    /// MORE TIME (02).
    MoreTime,
    /// POLL INTERVAL (03), in seconds.
    PollInterval {
        /// Unit of the duration: 00 minutes, 01 seconds, 02 tenths of a second.
        unit: u8,
        /// How many of them.
        count: u8,
    },
    /// POLLING OFF (04).
    PollingOff,
    /// SET UP EVENT LIST (05): the events, or nothing to remove the list.
    EventList(Vec<u8>),
    /// SEND SHORT MESSAGE (13).
    SendSms {
        /// What a person may be shown.
        alpha: String,
        /// The SMS-SUBMIT.
        tpdu: Vec<u8>,
    },
    /// PLAY TONE (20).
    PlayTone,
    /// DISPLAY TEXT (21).
    DisplayText {
        /// The text.
        text: String,
        /// Go on at once although the text stays.
        immediate: bool,
    },
    /// GET INKEY (22).
    GetInkey {
        /// The question.
        text: String,
    },
    /// GET INPUT (23).
    GetInput {
        /// The question.
        text: String,
        /// Fewest characters.
        length_min: u8,
        /// Most characters.
        length_max: u8,
        /// What stands there already.
        default: String,
    },
    /// SELECT ITEM (24).
    SelectItem(Menu),
    /// SET UP MENU (25); `None` removes the menu.
    SetUpMenu(Option<Menu>),
    /// PROVIDE LOCAL INFORMATION (26).
    LocalInformation,
    /// TIMER MANAGEMENT (27).
    Timer {
        /// Timer 1 to 8.
        timer: u8,
        /// How long, in seconds, where the timer is started.
        duration_s: Option<u32>,
    },
    /// SET UP IDLE MODE TEXT (28).
    IdleText(String),
    /// LANGUAGE NOTIFICATION (35).
    LanguageNotification,
    /// OPEN CHANNEL (40) to a TCP server.
    OpenChannel {
        /// Bearer description as given.
        bearer: Vec<u8>,
        /// Size of the buffer that the card would like.
        buffer_size: u16,
        /// Where to.
        remote: SocketAddr,
    },
    /// CLOSE CHANNEL (41).
    CloseChannel {
        /// Channel 1 to 7.
        channel: u8,
    },
    /// RECEIVE DATA (42).
    ReceiveData {
        /// Channel 1 to 7.
        channel: u8,
        /// How many bytes are wanted.
        count: u8,
    },
    /// SEND DATA (43).
    SendData {
        /// Channel 1 to 7.
        channel: u8,
        /// The bytes.
        data: Vec<u8>,
    },
    /// GET CHANNEL STATUS (44).
    ChannelStatus,
    /// One that this device does not know.
    Unknown,
}

/// Why a proactive command cannot be carried out, as a general result (ETSI TS 102 223, 8.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProactiveError {
    /// No proactive command, or its details are missing: nothing to answer to.
    #[error("not a proactive command")]
    Unreadable,
    /// Command data not understood (32).
    #[error("the data of the command cannot be understood")]
    NotUnderstood(Details),
    /// Required values are missing (36).
    #[error("the command lacks a value that it needs")]
    Missing(Details),
    /// Beyond the terminal's capabilities (30).
    #[error("the command asks for something that this device cannot do")]
    Beyond(Details),
}

impl Proactive {
    /// Reads the answer to FETCH without its status word: `D0 len ..`.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProactiveError> {
        let body = find(bytes, 0xD0).ok_or(ProactiveError::Unreadable)?;
        let details = match find_comprehension(body, tag::COMMAND_DETAILS) {
            Some(&[number, kind, qualifier]) => Details { number, kind, qualifier },
            _ => return Err(ProactiveError::Unreadable),
        };
        if ComprehensionReader::new(body).any(|object| object.is_err()) {
            return Err(ProactiveError::NotUnderstood(details));
        }
        let request = Body { details, bytes: body }.request()?;
        Ok(Self { details, request })
    }
}

/// The objects of one command.
struct Body<'a> {
    details: Details,
    bytes: &'a [u8],
}

impl<'a> Body<'a> {
    fn request(&self) -> Result<Request, ProactiveError> {
        Ok(match self.details.kind {
            0x01 => Request::Refresh,
            0x02 => Request::MoreTime,
            0x03 => match *self.required(tag::DURATION)? {
                [unit @ 0..=2, count @ 1..=255] => Request::PollInterval { unit, count },
                _ => return Err(self.not_understood()),
            },
            0x04 => Request::PollingOff,
            0x05 => Request::EventList(self.required(tag::EVENT_LIST)?.to_vec()),
            0x13 => Request::SendSms { alpha: self.alpha(), tpdu: self.required(tag::SMS_TPDU)?.to_vec() },
            0x20 => Request::PlayTone,
            0x21 => Request::DisplayText {
                text: decode_text(self.required(tag::TEXT_STRING)?),
                immediate: self.optional(0x2B).is_some(),
            },
            0x22 => Request::GetInkey { text: decode_text(self.required(tag::TEXT_STRING)?) },
            0x23 => self.input()?,
            0x24 => match self.menu() {
                menu if menu.items.is_empty() => return Err(self.missing()),
                menu => Request::SelectItem(menu),
            },
            // One empty item removes the menu (6.6.7).
            0x25 => Request::SetUpMenu(Some(self.menu()).filter(|menu| !menu.items.is_empty())),
            0x26 => Request::LocalInformation,
            0x27 => self.timer()?,
            0x28 => Request::IdleText(decode_text(self.required(tag::TEXT_STRING)?)),
            0x35 => Request::LanguageNotification,
            0x40 => self.open_channel()?,
            0x41 => Request::CloseChannel { channel: self.channel()? },
            0x42 => match *self.required(tag::CHANNEL_DATA_LENGTH)? {
                [count] => Request::ReceiveData { channel: self.channel()?, count },
                _ => return Err(self.not_understood()),
            },
            0x43 => Request::SendData {
                channel: self.channel()?,
                data: self.required(tag::CHANNEL_DATA)?.to_vec(),
            },
            0x44 => Request::ChannelStatus,
            _ => Request::Unknown,
        })
    }

    fn input(&self) -> Result<Request, ProactiveError> {
        let &[length_min, length_max] = self.required(tag::RESPONSE_LENGTH)? else {
            return Err(self.not_understood());
        };
        Ok(Request::GetInput {
            text: decode_text(self.required(tag::TEXT_STRING)?),
            length_min,
            length_max,
            default: self.optional(tag::DEFAULT_TEXT).map(decode_text).unwrap_or_default(),
        })
    }

    fn menu(&self) -> Menu {
        let items = ComprehensionReader::new(self.bytes)
            .flatten()
            .filter(|object| object.tag == tag::ITEM)
            .filter_map(|object| object.value.split_first())
            .map(|(id, text)| (*id, decode_alpha(text)))
            .take(ITEMS_MAX)
            .collect();
        Menu { title: self.alpha(), items }
    }

    fn timer(&self) -> Result<Request, ProactiveError> {
        let &[timer @ 1..=8] = self.required(tag::TIMER_IDENTIFIER)? else {
            return Err(self.not_understood());
        };
        let starts = self.details.qualifier & 0x03 == 0;
        let duration_s = match self.optional(tag::TIMER_VALUE) {
            Some(&[hours, minutes, seconds]) => {
                Some(digits(hours) * 3600 + digits(minutes) * 60 + digits(seconds))
            }
            Some(_) => return Err(self.not_understood()),
            None if starts => return Err(self.missing()),
            None => None,
        };
        Ok(Request::Timer { timer, duration_s })
    }

    fn open_channel(&self) -> Result<Request, ProactiveError> {
        let bearer = self.required(tag::BEARER)?.to_vec();
        let &[high, low] = self.required(tag::BUFFER_SIZE)? else { return Err(self.not_understood()) };
        let port = match *self.required(tag::TRANSPORT)? {
            // ETSI TS 102 223, 8.59: TCP, the card as client, remote connection.
            [0x02, high, low] => u16::from_be_bytes([high, low]),
            [_, _, _] => return Err(ProactiveError::Beyond(self.details)),
            _ => return Err(self.not_understood()),
        };
        let address = match self.required(tag::OTHER_ADDRESS)? {
            [0x21, a, b, c, d] => IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d)),
            [0x57, rest @ ..] => match <[u8; 16]>::try_from(rest) {
                Ok(address) => IpAddr::V6(Ipv6Addr::from(address)),
                Err(_) => return Err(self.not_understood()),
            },
            // An empty address would mean one that the terminal knows; for a remote server there is none.
            [] => return Err(self.missing()),
            _ => return Err(self.not_understood()),
        };
        let remote = SocketAddr::new(address, port);
        Ok(Request::OpenChannel { bearer, buffer_size: u16::from_be_bytes([high, low]), remote })
    }

    /// The channel stands in the device identities as destination 21 to 27.
    fn channel(&self) -> Result<u8, ProactiveError> {
        match *self.required(tag::DEVICE_IDENTITIES)? {
            [_, destination @ 0x21..=0x27] => Ok(destination & 0x0F),
            _ => Err(self.not_understood()),
        }
    }

    fn alpha(&self) -> String {
        self.optional(tag::ALPHA_IDENTIFIER).map(decode_alpha).unwrap_or_default()
    }

    fn optional(&self, tag: u16) -> Option<&'a [u8]> {
        find_comprehension(self.bytes, tag)
    }

    fn required(&self, tag: u16) -> Result<&'a [u8], ProactiveError> {
        self.optional(tag).ok_or(self.missing())
    }

    fn missing(&self) -> ProactiveError {
        ProactiveError::Missing(self.details)
    }

    fn not_understood(&self) -> ProactiveError {
        ProactiveError::NotUnderstood(self.details)
    }
}

/// Two decimal digits with their halves swapped (3GPP TS 23.040, 9.1.2.3).
fn digits(swapped: u8) -> u32 {
    u32::from(swapped & 0x0F) * 10 + u32::from(swapped >> 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Proactive, ProactiveError> {
        let mut bytes = Vec::new();
        simtide_protocol::tlv::push(&mut bytes, 0xD0, &hex::decode(text.replace(' ', "")).unwrap());
        Proactive::parse(&bytes)
    }

    fn request(text: &str) -> Request {
        parse(text).unwrap().request
    }

    #[test]
    fn open_channel_over_both_families() {
        let v4 = request("8103014001 82028182 350103 390205DC 3C03021F91 3E05217F000001");
        let expected = Request::OpenChannel {
            bearer: vec![0x03],
            buffer_size: 0x05DC,
            remote: "127.0.0.1:8081".parse().unwrap(),
        };
        assert_eq!(v4, expected);
        let v6 =
            request("8103014001 82028182 B50103 B90205DC BC03021F91 BE1157 00000000000000000000000000000001");
        assert!(matches!(v6, Request::OpenChannel { remote: SocketAddr::V6(_), .. }));
        let udp = parse("8103014001 82028182 350103 390205DC 3C03011F91 3E05217F000001");
        assert!(matches!(udp, Err(ProactiveError::Beyond(_))));
    }

    #[test]
    fn channels_and_their_numbers() {
        assert_eq!(
            request("8103014301 82028121 3605 0102030405"),
            Request::SendData { channel: 1, data: vec![1, 2, 3, 4, 5] }
        );
        assert_eq!(request("8103014200 82028122 3701C8"), Request::ReceiveData { channel: 2, count: 0xC8 });
        assert!(matches!(parse("8103014100 82028182"), Err(ProactiveError::NotUnderstood(_))));
    }

    #[test]
    fn timers() {
        assert_eq!(
            request("8103012700 82028182 A40101 A503325100"),
            Request::Timer { timer: 1, duration_s: Some(23 * 3600 + 15 * 60) }
        );
        assert_eq!(request("8103012701 82028182 A40108"), Request::Timer { timer: 8, duration_s: None });
        assert!(matches!(parse("8103012700 82028182 A40101"), Err(ProactiveError::Missing(_))));
        assert!(matches!(parse("8103012701 82028182 A40109"), Err(ProactiveError::NotUnderstood(_))));
    }

    #[test]
    fn menus() {
        let menu = request("8103012500 82028182 85044D656E75 8F0201 41 8F0302 4243");
        let items = vec![(1, "A".to_owned()), (2, "BC".to_owned())];
        assert_eq!(menu, Request::SetUpMenu(Some(Menu { title: "Menu".to_owned(), items })));
        assert_eq!(request("8103012500 82028182 8500 8F00"), Request::SetUpMenu(None));
    }

    #[test]
    fn what_cannot_be_read() {
        for text in ["", "D0", "D000", "D103010203", "D0068103012500FF", "D10581030125"] {
            assert!(Proactive::parse(&hex::decode(text).unwrap()).is_err(), "{text}");
        }
        assert!(matches!(parse("8103012100 82028182 8D"), Err(ProactiveError::NotUnderstood(_))));
        assert!(matches!(parse("8103012100 82028182"), Err(ProactiveError::Missing(_))));
        assert_eq!(request("8103019900 82028182"), Request::Unknown);
    }
}
