//! The compact format (ETSI TS 102 226, 5.1.1).

use super::{COMMANDS_MAX, SCRIPT_BYTES_MAX, ScriptError};
use crate::apdu::{ApduError, Command, StatusWord};

/// Builds a compact script.
///
/// In this format a command with data has no Le, unless it is the last one: what it answers is otherwise fetched
/// by a GET RESPONSE of its own.
#[derive(Debug, Clone, Default)]
pub struct Script {
    bytes: Vec<u8>,
    commands: usize,
}

impl Script {
    /// A script without commands.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a command. One without data and Le takes P3 `00`; an Le after data is left out.
    pub fn push(&mut self, command: &Command<'_>) {
        self.commands += 1;
        let p3 =
            if command.data.is_empty() { command.le.unwrap_or(0) as u8 } else { command.data.len() as u8 };
        self.bytes.extend_from_slice(&[command.cla, command.ins, command.p1, command.p2, p3]);
        self.bytes.extend_from_slice(command.data);
    }

    /// Ends the script with a command whose Le stays where it is.
    ///
    /// # Errors
    /// The script is larger than the limits.
    pub fn finish_with(mut self, last: &Command<'_>) -> Result<Vec<u8>, ScriptError> {
        self.push(last);
        if let (false, Some(le)) = (last.data.is_empty(), last.le) {
            self.bytes.push(le as u8);
        }
        self.finish()
    }

    /// The bytes of the script.
    ///
    /// # Errors
    /// The script is larger than the limits.
    pub fn finish(self) -> Result<Vec<u8>, ScriptError> {
        match (self.commands, self.bytes.len()) {
            (0, _) => Err(ScriptError::Empty),
            (COMMANDS_MAX.., _) if self.commands > COMMANDS_MAX => Err(ScriptError::TooMany),
            (_, length) if length > SCRIPT_BYTES_MAX => Err(ScriptError::TooLarge(length)),
            _ => Ok(self.bytes),
        }
    }
}

/// Walks through the C-APDUs of a compact script, on the executing side. Stops at the first that is cut off.
///
/// Nothing but the instruction tells whether P3 is Lc or Le: it is Le for the instructions that never carry data
/// (`is_case_2`), Lc otherwise. After the data of the last command one more byte is its Le, and a last command of
/// four bytes is accepted as one without P3.
#[derive(Debug, Clone)]
pub struct Commands<'a> {
    rest: &'a [u8],
    read: usize,
}

impl<'a> Commands<'a> {
    /// Starts at the first command.
    pub fn new(script: &'a [u8]) -> Self {
        Self { rest: script, read: 0 }
    }

    fn read(&mut self) -> Result<Command<'a>, ScriptError> {
        let wrong = |error| ScriptError::Command(self.read, error);
        let &[cla, ins, p1, p2, ref body @ ..] = self.rest else {
            return Err(wrong(ApduError::Header(self.rest.len())));
        };
        let header = Command::new(cla, ins, p1, p2);
        let Some((p3, rest)) = body.split_first() else {
            self.rest = &[];
            return Ok(header);
        };
        if is_case_2(&header) {
            self.rest = rest;
            return Ok(header.with_le(le(*p3)));
        }
        let announced = usize::from(*p3);
        let cut_off = ApduError::Length { announced, found: rest.len() };
        let (data, rest) = rest.split_at_checked(announced).ok_or_else(|| wrong(cut_off))?;
        let command = header.with_data(data);
        if let (false, [last_le]) = (data.is_empty(), rest) {
            self.rest = &[];
            return Ok(command.with_le(le(*last_le)));
        }
        self.rest = rest;
        Ok(command)
    }
}

impl<'a> Iterator for Commands<'a> {
    type Item = Result<Command<'a>, ScriptError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let command = if self.read == COMMANDS_MAX { Err(ScriptError::TooMany) } else { self.read() };
        if command.is_err() {
            self.rest = &[];
        }
        self.read += 1;
        Some(command)
    }
}

fn le(p3: u8) -> u32 {
    if p3 == 0 { 256 } else { u32::from(p3) }
}

/// Whether P3 of this command is Le: it asks for data and sends none.
///
/// ETSI TS 102 221, 10.1.2 and GlobalPlatform Card Specification, 11: READ BINARY, READ RECORD, GET RESPONSE, GET
/// CHALLENGE, MANAGE CHANNEL (open), GET DATA, and STATUS, which shares its class and instruction with GET STATUS
/// and differs in P1 (`00` to `02`).
pub fn is_case_2(command: &Command<'_>) -> bool {
    match command.ins {
        0xB0 | 0xB2 | 0xC0 | 0x84 | 0xCA => true,
        0x70 => command.p1 == 0 && command.p2 == 0,
        0xF2 => command.p1 <= 0x02,
        _ => false,
    }
}

/// The answer to a compact script (ETSI TS 102 226, 5.1.2).
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    /// Number of commands that ran, the failing one included.
    pub executed: u8,
    /// Status word of the last one.
    pub status: StatusWord,
    /// Data of the last one.
    pub data: Vec<u8>,
}

impl Response {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let [sw1, sw2] = self.status.to_bytes();
        let mut bytes = Vec::with_capacity(3 + self.data.len());
        bytes.extend_from_slice(&[self.executed, sw1, sw2]);
        bytes.extend_from_slice(&self.data);
        bytes
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// There are less than three, or more than [`SCRIPT_BYTES_MAX`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ScriptError> {
        if bytes.len() > SCRIPT_BYTES_MAX {
            return Err(ScriptError::TooLarge(bytes.len()));
        }
        let [executed, sw1, sw2, data @ ..] = bytes else { return Err(ScriptError::Malformed(bytes.len())) };
        let status = StatusWord(u16::from_be_bytes([*sw1, *sw2]));
        Ok(Self { executed: *executed, status, data: data.to_vec() })
    }
}

impl std::fmt::Debug for Response {
    /// Counts only: the data may be personal.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "compact::Response({} executed, {}, {} bytes)", self.executed, self.status, self.data.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn commands(script: &str) -> Vec<String> {
        let script = hex::decode(script).unwrap();
        Commands::new(&script)
            .map(|command| match command {
                Ok(command) => hex::encode(command.encode()),
                Err(error) => error.to_string(),
            })
            .collect()
    }

    #[test]
    fn commands_end_where_their_case_says() {
        // Case 3, then case 2 by instruction, then case 1 with P3 00.
        assert_eq!(
            commands("00a40004023f00 00b0000010 0044000000".replace(' ', "").as_str()),
            ["00a40004023f00", "00b0000010", "00440000"]
        );
        // GET DATA and GET RESPONSE of all there is.
        assert_eq!(commands("80ca00e00000c0000000"), ["80ca00e000", "00c0000000"]);
        // The last command's Le, and a last command without P3.
        assert_eq!(commands("80e6020002aabb00"), ["80e6020002aabb00"]);
        assert_eq!(commands("00440000"), ["00440000"]);
        // STATUS has Le, GET STATUS has Lc.
        assert_eq!(commands("80f2000c1080f24000024f0000"), ["80f2000c10", "80f24000024f0000"]);
        assert_eq!(
            commands("a0a40000023f00a0a40000027f10a0a40000026f3ca0b2010405"),
            ["a0a40000023f00", "a0a40000027f10", "a0a40000026f3c", "a0b2010405"]
        );
    }

    #[test]
    fn a_command_that_is_cut_off_ends_the_script() {
        assert_eq!(commands("00a40004023f00 00d600".replace(' ', "").as_str()).len(), 2);
        assert!(commands("00a40004023f")[0].contains("command 0"));
        assert!(commands("00d60000ff00")[0].contains("255"));
        assert!(
            commands("0044000000 00".replace(' ', "").as_str())[1].contains("command 1"),
            "an Le without data"
        );
        assert_eq!(commands(""), Vec::<String>::new());
        let many = "0044000000".repeat(COMMANDS_MAX + 1);
        assert_eq!(commands(&many).len(), COMMANDS_MAX + 1);
        assert!(commands(&many)[COMMANDS_MAX].contains("more than"));
    }

    #[test]
    fn le_after_data_stays_only_at_the_end() {
        let data = [0x3F, 0x00];
        let select = Command::new(0x00, 0xA4, 0x00, 0x04).with_data(&data).with_le(256);
        let mut script = Script::new();
        script.push(&select);
        script.push(&Command::new(0x00, 0xB0, 0, 0).with_le(256));
        assert_eq!(
            hex::encode(script.finish_with(&select).unwrap()),
            "00a40004023f0000b000000000a40004023f0000"
        );
        assert_eq!(Script::new().finish(), Err(ScriptError::Empty));
    }

    #[test]
    fn responses_of_the_vectors() {
        let response = Response::decode(&hex::decode("016132").unwrap()).unwrap();
        assert_eq!((response.executed, response.status, response.data.len()), (1, StatusWord(0x6132), 0));
        let long = "019000e012c00401018210c00402018210c00403018210";
        let response = Response::decode(&hex::decode(long).unwrap()).unwrap();
        assert_eq!((response.executed, response.status, response.data.len()), (1, StatusWord::OK, 20));
        assert_eq!(hex::encode(response.encode()), long);
        assert_eq!(Response::decode(&[1, 0x90]), Err(ScriptError::Malformed(2)));
    }

    proptest! {
        #[test]
        fn what_is_built_is_walked(
            commands in proptest::collection::vec((any::<[u8; 4]>(), proptest::collection::vec(any::<u8>(), 2..40)), 1..10),
        ) {
            let mut script = Script::new();
            let built: Vec<_> = commands
                .iter()
                .map(|([cla, ins, p1, p2], data)| {
                    let header = Command::new(*cla, *ins, *p1, *p2);
                    if is_case_2(&header) { header.with_le(data.len() as u32) } else { header.with_data(data) }
                })
                .collect();
            built.iter().for_each(|command| script.push(command));
            let bytes = script.finish().unwrap();
            let walked: Vec<_> = Commands::new(&bytes).map(Result::unwrap).collect();
            prop_assert_eq!(walked, built);
        }
    }
}
