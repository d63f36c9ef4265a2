//! Command and response APDUs (ISO/IEC 7816-4, 5.1 and 5.6; ETSI TS 102 221, 10).

use std::fmt;

/// A command APDU; the data is borrowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Command<'a> {
    /// Class byte.
    pub cla: u8,
    /// Instruction byte.
    pub ins: u8,
    /// First parameter.
    pub p1: u8,
    /// Second parameter.
    pub p2: u8,
    /// Command data, at most 65,535 bytes; up to 255 travel in the short form.
    pub data: &'a [u8],
    /// How many bytes of answer are wanted at most; `None` where the command has no Le, 256 for `00`.
    pub le: Option<u32>,
}

/// Why bytes are no command APDU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApduError {
    /// Less than CLA INS P1 P2.
    #[error("a command has at least 4 bytes, {0} are there")]
    Header(usize),
    /// Lc, data and Le do not add up to what is there.
    #[error("Lc announces {announced} bytes of data, {found} bytes follow with Le")]
    Length {
        /// Bytes that Lc promises.
        announced: usize,
        /// Bytes that follow, Le included.
        found: usize,
    },
}

impl<'a> Command<'a> {
    /// A command without data and Le.
    pub const fn new(cla: u8, ins: u8, p1: u8, p2: u8) -> Self {
        Self { cla, ins, p1, p2, data: &[], le: None }
    }

    /// The same with command data.
    #[must_use]
    pub const fn with_data(self, data: &'a [u8]) -> Self {
        Self { data, ..self }
    }

    /// The same with an expected length: 1 to 256 in the short form.
    #[must_use]
    pub const fn with_le(self, le: u32) -> Self {
        Self { le: Some(le), ..self }
    }

    /// Reads a command in any of the four cases, short or extended.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ApduError> {
        let [cla, ins, p1, p2, body @ ..] = bytes else { return Err(ApduError::Header(bytes.len())) };
        let header = Self::new(*cla, *ins, *p1, *p2);
        match body {
            [] => Ok(header),
            [le] => Ok(header.with_le(if *le == 0 { 256 } else { u32::from(*le) })),
            [0, high, low] => Ok(header.with_le(extended_le(*high, *low))),
            [0, high, low, rest @ ..] => {
                let announced = usize::from(u16::from_be_bytes([*high, *low]));
                let wrong = ApduError::Length { announced, found: rest.len() };
                let (data, le) = rest.split_at_checked(announced).ok_or(wrong)?;
                match le {
                    [] => Ok(header.with_data(data)),
                    [high, low] => Ok(header.with_data(data).with_le(extended_le(*high, *low))),
                    _ => Err(wrong),
                }
            }
            [lc, rest @ ..] => {
                let announced = usize::from(*lc);
                let wrong = ApduError::Length { announced, found: rest.len() };
                let (data, le) = rest.split_at_checked(announced).ok_or(wrong)?;
                match le {
                    [] => Ok(header.with_data(data)),
                    [le] => {
                        let le = if *le == 0 { 256 } else { u32::from(*le) };
                        Ok(header.with_data(data).with_le(le))
                    }
                    _ => Err(wrong),
                }
            }
        }
    }

    /// The bytes on the wire: short where data and Le allow it, extended otherwise.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.cla, self.ins, self.p1, self.p2];
        let le = self.le.unwrap_or(0);
        if self.data.len() <= 255 && le <= 256 {
            if !self.data.is_empty() {
                out.push(self.data.len() as u8);
                out.extend_from_slice(self.data);
            }
            if self.le.is_some() {
                out.push(le as u8);
            }
            return out;
        }
        out.push(0);
        if !self.data.is_empty() {
            out.extend_from_slice(&(self.data.len() as u16).to_be_bytes());
            out.extend_from_slice(self.data);
        }
        if self.le.is_some() {
            out.extend_from_slice(&(le as u16).to_be_bytes());
        }
        out
    }

    /// The logical channel of the class byte (ETSI TS 102 221, 10.1.1): 0-3 in `0X`, `8X`, 4-19 in `4X`, `6X`, `CX`, `EX`.
    pub fn channel(&self) -> u8 {
        match self.cla & 0xF0 {
            // GSM 11.11: the class byte A0 knows no channels.
            0xA0 => 0,
            0x40 | 0x60 | 0xC0 | 0xE0 => 4 + (self.cla & 0x0F),
            _ => self.cla & 0x03,
        }
    }
}

impl fmt::Debug for Command<'_> {
    /// Header and sizes only: bodies carry keys and personal data and stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cla, ins, p1, p2, .. } = self;
        write!(f, "Command({cla:02X} {ins:02X} {p1:02X} {p2:02X}, {} bytes", self.data.len())?;
        match self.le {
            Some(le) => write!(f, ", Le {le})"),
            None => f.write_str(")"),
        }
    }
}

fn extended_le(high: u8, low: u8) -> u32 {
    match u16::from_be_bytes([high, low]) {
        0 => 65_536,
        le => u32::from(le),
    }
}

/// The two status bytes that end every response (ETSI TS 102 221, 10.2.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusWord(pub u16);

impl StatusWord {
    /// Normal ending.
    pub const OK: Self = Self(0x9000);
    /// Toolkit busy: keep what was sent and try again.
    pub const TOOLKIT_BUSY: Self = Self(0x9300);
    /// Warning without information, memory unchanged.
    pub const WARNING: Self = Self(0x6200);
    /// Part of the returned data may be corrupted.
    pub const DATA_CORRUPTED: Self = Self(0x6281);
    /// End of file reached before Le bytes.
    pub const END_OF_FILE: Self = Self(0x6282);
    /// The selected file is deactivated.
    pub const FILE_INVALIDATED: Self = Self(0x6283);
    /// The selected file is terminated.
    pub const FILE_TERMINATED: Self = Self(0x6285);
    /// More data available (TS 102 221).
    pub const MORE_DATA: Self = Self(0x62F1);
    /// The answer is longer than the requester can take: response truncated, the rest of a script not run.
    pub const ANSWER_TRUNCATED: Self = Self(0x62F1);
    /// Authentication, memory unchanged: no attempts are left to count (`63 00`).
    pub const VERIFICATION_FAILED: Self = Self(0x6300);
    /// Memory unchanged after an execution error.
    pub const EXECUTION_ERROR: Self = Self(0x6400);
    /// Memory problem.
    pub const MEMORY_PROBLEM: Self = Self(0x6581);
    /// Wrong length of command data or Le.
    pub const WRONG_LENGTH: Self = Self(0x6700);
    /// Functions of this class byte are not supported.
    pub const CLASS_FUNCTION: Self = Self(0x6800);
    /// The logical channel is not supported or not open.
    pub const CHANNEL_NOT_SUPPORTED: Self = Self(0x6881);
    /// Secure messaging is not supported.
    pub const SECURE_MESSAGING_NOT_SUPPORTED: Self = Self(0x6882);
    /// Command not allowed, no information.
    pub const NOT_ALLOWED: Self = Self(0x6900);
    /// The command does not fit the structure of the file.
    pub const INCOMPATIBLE_STRUCTURE: Self = Self(0x6981);
    /// Security status not satisfied.
    pub const SECURITY_STATUS: Self = Self(0x6982);
    /// The PIN is blocked.
    pub const BLOCKED: Self = Self(0x6983);
    /// The referenced data are invalidated.
    pub const REFERENCE_INVALIDATED: Self = Self(0x6984);
    /// Conditions of use not satisfied.
    pub const CONDITIONS: Self = Self(0x6985);
    /// No elementary file is selected.
    pub const NO_FILE_SELECTED: Self = Self(0x6986);
    /// Incorrect parameters in the command data.
    pub const WRONG_DATA: Self = Self(0x6A80);
    /// Function not supported.
    pub const FUNCTION_NOT_SUPPORTED: Self = Self(0x6A81);
    /// File or application not found.
    pub const NOT_FOUND: Self = Self(0x6A82);
    /// Record not found.
    pub const RECORD_NOT_FOUND: Self = Self(0x6A83);
    /// Not enough memory.
    pub const NO_MEMORY: Self = Self(0x6A84);
    /// Incorrect P1 or P2.
    pub const WRONG_P1_P2: Self = Self(0x6A86);
    /// Lc inconsistent with P1 and P2.
    pub const LC_P1_P2: Self = Self(0x6A87);
    /// Referenced data (key, PIN, data object) not found.
    pub const REFERENCE_NOT_FOUND: Self = Self(0x6A88);
    /// File id or AID exists already.
    pub const EXISTS: Self = Self(0x6A89);
    /// Offset outside the file, or wrong parameters.
    pub const OUT_OF_RANGE: Self = Self(0x6B00);
    /// Instruction not supported.
    pub const INSTRUCTION: Self = Self(0x6D00);
    /// Class not supported.
    pub const CLASS: Self = Self(0x6E00);
    /// Technical problem, no diagnosis.
    pub const TECHNICAL: Self = Self(0x6F00);
    /// INCREASE beyond the maximum.
    pub const MAXIMUM_REACHED: Self = Self(0x9850);
    /// Authentication error, application specific: the MAC of the network is wrong (3GPP TS 31.102, 7.3.1).
    pub const AUTHENTICATION_FAILED: Self = Self(0x9862);
    /// Authentication error, security context not supported.
    pub const SECURITY_CONTEXT: Self = Self(0x9864);

    /// `91xx`: done, and a proactive command of so many bytes waits (256 for `00`).
    pub const fn proactive(length: u8) -> Self {
        Self(0x9100 | length as u16)
    }

    /// `61xx`: done, and so many bytes of answer wait for GET RESPONSE (256 for `00`).
    pub const fn waiting(length: u8) -> Self {
        Self(0x6100 | length as u16)
    }

    /// `6Cxx`: wrong Le, the right one is `length`.
    pub const fn wrong_le(length: u8) -> Self {
        Self(0x6C00 | length as u16)
    }

    /// `63Cx`: not verified, so many attempts are left (at most 15).
    pub const fn attempts_left(attempts: u8) -> Self {
        Self(0x63C0 | (attempts & 0x0F) as u16)
    }

    /// First status byte.
    pub const fn sw1(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Second status byte.
    pub const fn sw2(self) -> u8 {
        self.0 as u8
    }

    /// `9000`, `91xx`, `92xx` or `61xx`: the command has done what it should.
    pub const fn is_success(self) -> bool {
        matches!(self.sw1(), 0x90 | 0x91 | 0x92 | 0x61) && (self.sw1() != 0x90 || self.sw2() == 0)
    }

    /// `62xx` or `63xx`: done with a warning, or refused as many cards do.
    pub const fn is_warning(self) -> bool {
        matches!(self.sw1(), 0x62 | 0x63)
    }

    /// The length of the proactive command that waits, for `91xx`.
    pub const fn proactive_length(self) -> Option<usize> {
        match (self.sw1(), self.sw2()) {
            (0x91, 0) => Some(256),
            (0x91, length) => Some(length as usize),
            _ => None,
        }
    }

    /// The two bytes on the wire.
    pub const fn to_bytes(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for StatusWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04X}", self.0)
    }
}

impl fmt::Debug for StatusWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StatusWord({self})")
    }
}

/// A response APDU: data and status word.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    /// Response data, without the status word.
    pub data: Vec<u8>,
    /// How the command ended.
    pub status: StatusWord,
}

impl Response {
    /// A response that is a status word only.
    pub const fn status(status: StatusWord) -> Self {
        Self { data: Vec::new(), status }
    }

    /// A response with data that ended well.
    pub const fn ok(data: Vec<u8>) -> Self {
        Self { data, status: StatusWord::OK }
    }

    /// Reads data and status word; `None` for less than two bytes.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (data, status) = bytes.split_last_chunk::<2>()?;
        Some(Self { data: data.to_vec(), status: StatusWord(u16::from_be_bytes(*status)) })
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.data.len() + 2);
        out.extend_from_slice(&self.data);
        out.extend_from_slice(&self.status.to_bytes());
        out
    }
}

impl From<StatusWord> for Response {
    fn from(status: StatusWord) -> Self {
        Self::status(status)
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Response({} bytes, {})", self.data.len(), self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_cases_short_and_extended() {
        let data = [0x3F, 0x00];
        let header = Command::new(0x00, 0xA4, 0x00, 0x04);
        for (command, coded) in [
            (header, "00a40004"),
            (header.with_le(256), "00a4000400"),
            (header.with_data(&data), "00a40004023f00"),
            (header.with_data(&data).with_le(16), "00a40004023f0010"),
            (header.with_le(65_536), "00a40004000000"),
            (header.with_data(&data).with_le(300), "00a400040000023f00012c"),
        ] {
            assert_eq!(hex::encode(command.encode()), coded);
            assert_eq!(Command::parse(&hex::decode(coded).unwrap()), Ok(command));
        }
    }

    #[test]
    fn extended_data_of_300_bytes() {
        let data = vec![0x5A; 300];
        let command = Command::new(0x80, 0xE8, 0x00, 0x00).with_data(&data);
        assert_eq!(Command::parse(&command.encode()), Ok(command));
    }

    #[test]
    fn lengths_that_do_not_add_up() {
        for wrong in
            ["", "00a4", "00a40004023f", "00a40004013f0000", "00a400040000023f", "00a400040000013f000000"]
        {
            assert!(Command::parse(&hex::decode(wrong).unwrap()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn channels_of_class_bytes() {
        for (cla, channel) in [(0x00, 0), (0x03, 3), (0x81, 1), (0xA0, 0), (0x40, 4), (0x4F, 19), (0xC1, 5)] {
            assert_eq!(Command::new(cla, 0, 0, 0).channel(), channel, "{cla:02X}");
        }
    }

    #[test]
    fn status_words_say_what_they_are() {
        assert!(StatusWord::OK.is_success() && StatusWord::proactive(0x1A).is_success());
        assert!(!StatusWord::TOOLKIT_BUSY.is_success() && !StatusWord(0x9862).is_success());
        assert_eq!(StatusWord(0x9100).proactive_length(), Some(256));
        assert_eq!(StatusWord::attempts_left(3), StatusWord(0x63C3));
        let response = Response::parse(&[0xAA, 0x61, 0x10]).unwrap();
        assert_eq!((response.data.as_slice(), response.status), (&[0xAA][..], StatusWord::waiting(0x10)));
        assert_eq!(response.encode(), [0xAA, 0x61, 0x10]);
        assert_eq!(Response::parse(&[0x90]), None);
    }

    proptest::proptest! {
        #[test]
        fn a_parsed_command_codes_back(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            if let Ok(command) = Command::parse(&bytes) {
                let coded = command.encode();
                proptest::prop_assert_eq!(Command::parse(&coded), Ok(command));
            }
        }
    }
}
