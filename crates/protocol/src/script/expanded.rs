//! The expanded format (ETSI TS 102 226, 5.2).

use super::{COMMANDS_MAX, SCRIPT_BYTES_MAX, ScriptError};
use crate::apdu::{Command, Response as ApduResponse, StatusWord};
use crate::tlv;

/// How the end of a script or response is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LengthForm {
    /// `AA len ..`, `AB len ..`.
    #[default]
    Definite,
    /// `AE 80 .. 00 00`, `AF 80 .. 00 00`.
    Indefinite,
}

/// Script and response templates.
mod tag {
    pub const SCRIPT: u8 = 0xAA;
    pub const SCRIPT_INDEFINITE: u8 = 0xAE;
    pub const RESPONSE: u8 = 0xAB;
    pub const RESPONSE_INDEFINITE: u8 = 0xAF;
    pub const C_APDU: u8 = 0x22;
    pub const R_APDU: u8 = 0x23;
    pub const EXECUTED: u8 = 0x80;
    pub const IMMEDIATE_ACTION: u8 = 0x81;
    pub const ERROR_ACTION: u8 = 0x82;
    pub const CHAINING: u8 = 0x83;
    pub const BAD_FORMAT: u8 = 0x90;
}

/// One element of a command script.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// `22`: a C-APDU.
    Command(&'a [u8]),
    /// `81`: what to do at once, like a REFRESH after files have changed.
    ImmediateAction(&'a [u8]),
    /// `82`: what to do when a command fails; empty: nothing.
    ErrorAction(&'a [u8]),
    /// `83`: this script is one of several.
    Chaining(&'a [u8]),
}

impl std::fmt::Debug for Item<'_> {
    /// Sizes only: commands carry keys and personal data.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Command(bytes) => write!(f, "Command({} bytes)", bytes.len()),
            Self::ImmediateAction(bytes) => write!(f, "ImmediateAction({} bytes)", bytes.len()),
            Self::ErrorAction(bytes) => write!(f, "ErrorAction({} bytes)", bytes.len()),
            Self::Chaining(bytes) => write!(f, "Chaining({} bytes)", bytes.len()),
        }
    }
}

/// Builds a command script.
#[derive(Debug, Clone)]
pub struct ScriptWriter {
    form: LengthForm,
    content: Vec<u8>,
    commands: usize,
}

impl ScriptWriter {
    /// A script without elements.
    pub fn new(form: LengthForm) -> Self {
        Self { form, content: Vec::new(), commands: 0 }
    }

    /// Number of commands so far.
    pub fn commands(&self) -> usize {
        self.commands
    }

    /// Size of the script as it would be now, at most, in bytes.
    pub fn size(&self) -> usize {
        self.content.len() + 5
    }

    /// Appends a command.
    pub fn command(&mut self, command: &Command<'_>) {
        self.command_bytes(&command.encode());
    }

    /// Appends a C-APDU as it is.
    pub fn command_bytes(&mut self, command: &[u8]) {
        self.commands += 1;
        tlv::push(&mut self.content, tag::C_APDU.into(), command);
    }

    /// Appends any other element, or a command.
    pub fn item(&mut self, item: Item<'_>) {
        let (tag, value) = match item {
            Item::Command(command) => return self.command_bytes(command),
            Item::ImmediateAction(value) => (tag::IMMEDIATE_ACTION, value),
            Item::ErrorAction(value) => (tag::ERROR_ACTION, value),
            Item::Chaining(value) => (tag::CHAINING, value),
        };
        tlv::push(&mut self.content, tag.into(), value);
    }

    /// The bytes of the script.
    ///
    /// # Errors
    /// The script is empty or larger than the limits.
    pub fn finish(self) -> Result<Vec<u8>, ScriptError> {
        if self.content.is_empty() {
            return Err(ScriptError::Empty);
        }
        if self.commands > COMMANDS_MAX {
            return Err(ScriptError::TooMany);
        }
        let bytes = template(self.form, tag::SCRIPT, tag::SCRIPT_INDEFINITE, &self.content);
        if bytes.len() > SCRIPT_BYTES_MAX { Err(ScriptError::TooLarge(bytes.len())) } else { Ok(bytes) }
    }
}

fn template(form: LengthForm, definite: u8, indefinite: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 5);
    match form {
        LengthForm::Definite => tlv::push(&mut bytes, definite.into(), content),
        LengthForm::Indefinite => {
            bytes.extend_from_slice(&[indefinite, 0x80]);
            bytes.extend_from_slice(content);
            bytes.extend_from_slice(&[0x00, 0x00]);
        }
    }
    bytes
}

/// What a card answers about a script that it cannot read on (tag `90`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFormat {
    /// `01`: an element has a tag that is not known.
    #[error("unknown tag found in the script")]
    UnknownTag,
    /// `02`: a length does not fit what is there.
    #[error("wrong length found in the script")]
    WrongLength,
    /// `03`: a length is not there.
    #[error("length not found in the script")]
    LengthNotFound,
}

impl BadFormat {
    /// The byte in the response.
    pub fn code(self) -> u8 {
        match self {
            Self::UnknownTag => 0x01,
            Self::WrongLength => 0x02,
            Self::LengthNotFound => 0x03,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::UnknownTag, Self::WrongLength, Self::LengthNotFound]
            .into_iter()
            .find(|format| format.code() == code)
    }
}

/// Walks through the elements of a command script, on the executing side.
///
/// What can be read is given before the fault that follows it, as a card executes it: answer the fault with
/// [`ResponseWriter::bad_format`].
#[derive(Debug, Clone)]
pub struct Items<'a> {
    form: LengthForm,
    rest: &'a [u8],
    /// The content is shorter or longer than its template said, or has no end.
    ends_wrong: bool,
    read: usize,
}

impl<'a> Items<'a> {
    /// Starts at the template.
    ///
    /// # Errors
    /// These bytes are no command script in this format: there is nothing to execute.
    pub fn new(script: &'a [u8]) -> Result<Self, ScriptError> {
        if script.len() > SCRIPT_BYTES_MAX {
            return Err(ScriptError::TooLarge(script.len()));
        }
        let (form, rest) = open(script, tag::SCRIPT, tag::SCRIPT_INDEFINITE)?;
        let (rest, ends_wrong) = match form {
            Opened::Definite(length) => (rest.get(..length).unwrap_or(rest), rest.len() != length),
            Opened::Indefinite => match rest.strip_suffix(&[0x00, 0x00]) {
                Some(content) => (content, false),
                None => (rest, true),
            },
        };
        let form =
            if matches!(form, Opened::Indefinite) { LengthForm::Indefinite } else { LengthForm::Definite };
        Ok(Self { form, rest, ends_wrong, read: 0 })
    }

    /// How the script told its end; the response uses the same form.
    pub fn form(&self) -> LengthForm {
        self.form
    }

    fn read(&mut self) -> Result<Item<'a>, BadFormat> {
        let (tag, rest) = self.rest.split_first().ok_or(BadFormat::WrongLength)?;
        let kind: fn(&'a [u8]) -> Item<'a> = match *tag {
            tag::C_APDU => Item::Command,
            tag::IMMEDIATE_ACTION => Item::ImmediateAction,
            tag::ERROR_ACTION => Item::ErrorAction,
            tag::CHAINING => Item::Chaining,
            _ => return Err(BadFormat::UnknownTag),
        };
        let (length, rest) = tlv::split_length(rest).map_err(|_| BadFormat::LengthNotFound)?;
        let (value, rest) = rest.split_at_checked(length).ok_or(BadFormat::WrongLength)?;
        self.rest = rest;
        Ok(kind(value))
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, BadFormat>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return std::mem::take(&mut self.ends_wrong).then_some(Err(BadFormat::WrongLength));
        }
        let item = if self.read == COMMANDS_MAX { Err(BadFormat::WrongLength) } else { self.read() };
        self.read += 1;
        if item.is_err() {
            self.rest = &[];
            self.ends_wrong = false;
        }
        Some(item)
    }
}

enum Opened {
    Definite(usize),
    Indefinite,
}

/// Reads the tag and length of a template.
fn open(bytes: &[u8], definite: u8, indefinite: u8) -> Result<(Opened, &[u8]), ScriptError> {
    match bytes {
        [] => Err(ScriptError::Empty),
        [tag, 0x80, rest @ ..] if *tag == indefinite => Ok((Opened::Indefinite, rest)),
        [tag, ..] if *tag == indefinite => Err(ScriptError::Malformed(1)),
        [tag, rest @ ..] if *tag == definite => {
            let (length, rest) = tlv::split_length(rest).map_err(|_| ScriptError::Malformed(1))?;
            Ok((Opened::Definite(length), rest))
        }
        [tag, ..] => Err(ScriptError::Tag(*tag)),
    }
}

/// Builds a response script, on the executing side.
#[derive(Debug, Clone)]
pub struct ResponseWriter {
    form: LengthForm,
    executed: u32,
    content: Vec<u8>,
}

impl ResponseWriter {
    /// A response without elements, in the form of the script ([`Items::form`]).
    pub fn new(form: LengthForm) -> Self {
        Self { form, executed: 0, content: Vec::new() }
    }

    /// Size of the response as it would be now, at most, in bytes.
    pub fn size(&self) -> usize {
        self.content.len() + 11
    }

    /// Appends the answer to a command.
    pub fn response(&mut self, response: &ApduResponse) {
        self.executed += 1;
        tlv::push(&mut self.content, tag::R_APDU.into(), &response.encode());
    }

    /// Appends the result of an immediate action.
    pub fn immediate_action(&mut self, result: &[u8]) {
        tlv::push(&mut self.content, tag::IMMEDIATE_ACTION.into(), result);
    }

    /// Appends why chained scripts could not be processed.
    pub fn chaining(&mut self, result: &[u8]) {
        tlv::push(&mut self.content, tag::CHAINING.into(), result);
    }

    /// Appends why the script could not be read on.
    pub fn bad_format(&mut self, format: BadFormat) {
        tlv::push(&mut self.content, tag::BAD_FORMAT.into(), &[format.code()]);
    }

    /// The bytes. The count of commands stands in the definite form only.
    pub fn finish(self) -> Vec<u8> {
        let mut content = Vec::with_capacity(self.content.len() + 6);
        if self.form == LengthForm::Definite {
            let count = self.executed.to_be_bytes();
            let start = count.iter().position(|byte| *byte != 0).unwrap_or(3);
            tlv::push(&mut content, tag::EXECUTED.into(), &count[start..]);
        }
        content.extend_from_slice(&self.content);
        template(self.form, tag::RESPONSE, tag::RESPONSE_INDEFINITE, &content)
    }
}

/// What a card answered to a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// `80`: how many commands were executed; none where the card does not say.
    pub executed: Option<u32>,
    /// `23`: the answers, in the order of the commands.
    pub responses: Vec<ApduResponse>,
    /// `81`: the result of an immediate action.
    pub immediate_action: Option<Vec<u8>>,
    /// `83`: why chained scripts could not be processed.
    pub chaining: Option<Vec<u8>>,
    /// `90`: why the script could not be read on.
    pub bad_format: Option<BadFormat>,
}

impl Response {
    /// Reads a response of either form, with or without the count.
    ///
    /// # Errors
    /// What is wrong with the bytes: a card of which nothing can be believed.
    pub fn decode(bytes: &[u8]) -> Result<Self, ScriptError> {
        if bytes.len() > SCRIPT_BYTES_MAX {
            return Err(ScriptError::TooLarge(bytes.len()));
        }
        let malformed = |rest: &[u8]| ScriptError::Malformed(bytes.len() - rest.len());
        let (opened, content) = open(bytes, tag::RESPONSE, tag::RESPONSE_INDEFINITE)?;
        let mut rest = match opened {
            Opened::Definite(length) if content.len() == length => content,
            Opened::Definite(_) => return Err(malformed(content)),
            Opened::Indefinite => content.strip_suffix(&[0x00, 0x00]).ok_or(malformed(&[]))?,
        };
        let mut response = Self {
            executed: None,
            responses: Vec::new(),
            immediate_action: None,
            chaining: None,
            bad_format: None,
        };
        while let Some((tag, after)) = rest.split_first() {
            let wrong = malformed(rest);
            let (length, after) = tlv::split_length(after).map_err(|_| wrong)?;
            let (value, after) = after.split_at_checked(length).ok_or(wrong)?;
            response.take(*tag, value).ok_or(wrong)?;
            if response.responses.len() > COMMANDS_MAX {
                return Err(ScriptError::TooMany);
            }
            rest = after;
        }
        Ok(response)
    }

    fn take(&mut self, tag: u8, value: &[u8]) -> Option<()> {
        match tag {
            tag::EXECUTED if value.is_empty() || value.len() > 4 => return None,
            tag::EXECUTED => {
                self.executed = Some(value.iter().fold(0, |count, byte| (count << 8) | u32::from(*byte)));
            }
            tag::R_APDU => self.responses.push(ApduResponse::parse(value)?),
            tag::IMMEDIATE_ACTION => self.immediate_action = Some(value.to_vec()),
            tag::CHAINING => self.chaining = Some(value.to_vec()),
            tag::BAD_FORMAT => self.bad_format = Some(BadFormat::from_code(*value.first()?)?),
            _ => return None,
        }
        Some(())
    }

    /// The first command that did not end well (position from 0, status word); warnings count as failures only
    /// where the answer was cut off (`62F1`).
    pub fn failed(&self) -> Option<(usize, StatusWord)> {
        let bad = |status: StatusWord| {
            status == StatusWord::ANSWER_TRUNCATED || !(status.is_success() || status.is_warning())
        };
        self.responses
            .iter()
            .position(|response| bad(response.status))
            .map(|at| (at, self.responses[at].status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        hex::decode(text.replace(' ', "")).unwrap()
    }

    #[test]
    fn scripts_of_the_examples() {
        let status = Command::new(0x80, 0xCA, 0xFF, 0x21).with_le(256);
        for (form, coded) in [
            (LengthForm::Indefinite, "AE80 22 05 80CAFF2100 0000"),
            (LengthForm::Definite, "AA07 22 05 80CAFF2100"),
        ] {
            let mut script = ScriptWriter::new(form);
            script.command(&status);
            assert_eq!(script.finish().unwrap(), hex(coded));
            let script = hex(coded);
            let items = Items::new(&script).unwrap();
            assert_eq!(items.form(), form);
            assert_eq!(items.collect::<Vec<_>>(), [Ok(Item::Command(&hex("80CAFF2100")))]);
        }
    }

    #[test]
    fn responses_of_the_examples() {
        let not_found = Response::decode(&hex("af 80 23 02 6a 88 00 00")).unwrap();
        assert_eq!((not_found.executed, not_found.failed()), (None, Some((0, StatusWord(0x6A88)))));
        for counted in ["AB08 800101 2303 019000", "AF80 800101 2303 019000 0000"] {
            let response = Response::decode(&hex(counted)).unwrap();
            assert_eq!((response.executed, response.failed()), (Some(1), None));
            assert_eq!(response.responses, [ApduResponse::ok(vec![1])]);
        }
        let without_data = Response::decode(&hex("AB 07 80 01 01 23 02 9000")).unwrap();
        assert_eq!(without_data.responses, [ApduResponse::ok(vec![])]);
        let cut = Response::decode(&hex("AB07 800101 2302 62F1")).unwrap();
        assert_eq!(cut.failed(), Some((0, StatusWord::ANSWER_TRUNCATED)));
        let bad = Response::decode(&hex("AB06 800100 900102")).unwrap();
        assert_eq!(bad.bad_format, Some(BadFormat::WrongLength));
    }

    #[test]
    fn lengths_around_every_border() {
        for length in [1, 5, 127, 128, 245, 255, 256, 300] {
            let command: Vec<u8> = (0..length).map(|at| at as u8).collect();
            for form in [LengthForm::Definite, LengthForm::Indefinite] {
                let mut script = ScriptWriter::new(form);
                script.command_bytes(&command);
                let script = script.finish().unwrap();
                assert_eq!(Items::new(&script).unwrap().collect::<Vec<_>>(), [Ok(Item::Command(&command))]);
                let expected: &[u8] = match (form, length) {
                    (LengthForm::Definite, 127) => &[0xAA, 0x81, 0x81, 0x22, 0x7F],
                    (LengthForm::Definite, 128) => &[0xAA, 0x81, 0x83, 0x22, 0x81, 0x80],
                    (LengthForm::Definite, 245) => &[0xAA, 0x81, 0xF8, 0x22, 0x81, 0xF5],
                    (LengthForm::Definite, 256) => &[0xAA, 0x82, 0x01, 0x04, 0x22, 0x82, 0x01, 0x00],
                    (LengthForm::Indefinite, 245) => &[0xAE, 0x80, 0x22, 0x81, 0xF5],
                    _ => &[],
                };
                assert!(script.starts_with(expected), "{length} {form:?}");

                let mut answer = ResponseWriter::new(form);
                answer.response(&ApduResponse::ok(command.clone()));
                let answer = Response::decode(&answer.finish()).unwrap();
                assert_eq!(answer.responses, [ApduResponse::ok(command.clone())]);
            }
        }
    }

    #[test]
    fn what_can_be_read_comes_before_the_fault() {
        let items = |script: &str| {
            let script = hex(script);
            Items::new(&script).map(|items| {
                let all: Vec<_> = items.collect();
                (all.iter().filter(|item| item.is_ok()).count(), all.last().copied().and_then(Result::err))
            })
        };
        assert_eq!(items("AA0E 22 05 80CAFF2100 22 05 80CAFF2100"), Ok((2, None)));
        assert_eq!(items("AA0E 22 05 80CAFF2100 24 05 80CAFF2100"), Ok((1, Some(BadFormat::UnknownTag))));
        assert_eq!(items("AA0E 22 05 80CAFF2100 22 06 80CAFF2100"), Ok((1, Some(BadFormat::WrongLength))));
        assert_eq!(items("AA08 22 05 80CAFF2100 22"), Ok((1, Some(BadFormat::LengthNotFound))));
        assert_eq!(items("AA08 22 05 80CAFF2100"), Ok((1, Some(BadFormat::WrongLength))));
        assert_eq!(items("AA07 22 05 80CAFF2100 00"), Ok((1, Some(BadFormat::WrongLength))));
        assert_eq!(items("AE80 22 05 80CAFF2100"), Ok((1, Some(BadFormat::WrongLength))));
        assert_eq!(items("AA00"), Ok((0, None)));
        assert_eq!(items("AC00"), Err(ScriptError::Tag(0xAC)));
        assert_eq!(items("AA"), Err(ScriptError::Malformed(1)));
        assert_eq!(items("AE07"), Err(ScriptError::Malformed(1)));
        assert_eq!(items(""), Err(ScriptError::Empty));
        for wrong in [
            "",
            "AB",
            "AB01",
            "AB02 2301",
            "AB03 230190",
            "AF80 2302 9000",
            "AB02 2400",
            "AB03 900104",
            "AA00",
        ] {
            assert!(Response::decode(&hex(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_hold_at_their_value() {
        let build = |commands: usize, size: usize| {
            let mut script = ScriptWriter::new(LengthForm::Definite);
            (0..commands).for_each(|_| script.command_bytes(&vec![0; size]));
            script.finish()
        };
        assert!(build(COMMANDS_MAX, 4).is_ok());
        assert_eq!(build(COMMANDS_MAX + 1, 4), Err(ScriptError::TooMany));
        assert_eq!(build(1, SCRIPT_BYTES_MAX - 8).map(|script| script.len()), Ok(SCRIPT_BYTES_MAX));
        assert_eq!(build(1, SCRIPT_BYTES_MAX - 7), Err(ScriptError::TooLarge(SCRIPT_BYTES_MAX + 1)));
        assert_eq!(build(0, 0), Err(ScriptError::Empty));
    }

    proptest! {
        #[test]
        fn scripts_and_responses_read_back(
            bodies in proptest::collection::vec((0_u8..4, proptest::collection::vec(any::<u8>(), 0..300)), 1..8),
            indefinite: bool,
        ) {
            let form = if indefinite { LengthForm::Indefinite } else { LengthForm::Definite };
            let mut script = ScriptWriter::new(form);
            let written: Vec<_> = bodies
                .iter()
                .map(|(kind, body)| match kind {
                    0 => Item::ImmediateAction(body),
                    1 => Item::ErrorAction(body),
                    2 => Item::Chaining(body),
                    _ => Item::Command(body),
                })
                .collect();
            written.iter().for_each(|item| script.item(*item));
            prop_assert!(script.size() + 2 >= script.clone().finish().unwrap().len());
            let script = script.finish().unwrap();
            let read: Vec<_> = Items::new(&script).unwrap().map(Result::unwrap).collect();
            prop_assert_eq!(read, written);

            let mut answer = ResponseWriter::new(form);
            let answers: Vec<_> = bodies.iter().map(|(_, body)| ApduResponse::ok(body.clone())).collect();
            answers.iter().for_each(|response| answer.response(response));
            let decoded = Response::decode(&answer.finish()).unwrap();
            prop_assert_eq!(decoded.executed, (!indefinite).then_some(answers.len() as u32));
            prop_assert_eq!(decoded.responses, answers);
        }
    }
}
