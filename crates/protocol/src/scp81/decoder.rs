//! Incremental parser of both directions, with hard limits.
//!
//! | state | input | next |
//! |---|---|---|
//! | Head | bytes up to the empty line | Fixed, Chunked, or a message without body: Head |
//! | Fixed | as many bytes as Content-Length said | message: Head |
//! | Chunked | size line, data, line end, ..., size 0, trailers | message: Head |
//! | Failed | anything | the same error |

use super::message::{ContentType, Request, Response};
use super::{HttpError, PROTOCOL, header};

/// Most header lines in one head.
pub const HEADERS_MAX: usize = 32;

/// Longest line of a chunked body that is no data: size with extensions, or a trailer.
pub const CHUNK_LINE_BYTES_MAX: usize = 256;

/// Most trailer lines after the last chunk.
const TRAILERS_MAX: usize = 16;

/// What a peer may send at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest head, request line or status line included, in bytes.
    pub head_bytes_max: usize,
    /// Longest body, in bytes.
    pub body_bytes_max: usize,
}

impl Default for Limits {
    /// A head of 4 KB and a body of 64 KB: several times what cards send.
    fn default() -> Self {
        Self { head_bytes_max: 4 * 1024, body_bytes_max: 64 * 1024 }
    }
}

/// Parser of what a card posts.
pub type RequestDecoder = Decoder<Request>;

/// Parser of what a server answers.
pub type ResponseDecoder = Decoder<Response>;

/// Takes bytes as they arrive and gives whole messages. Owns no memory between two messages.
#[derive(Debug)]
pub struct Decoder<M> {
    limits: Limits,
    received: Vec<u8>,
    /// How much of `received` is known to hold no end of a head.
    searched: usize,
    state: State<M>,
}

#[derive(Debug)]
enum State<M> {
    Head,
    Fixed { message: M, length: usize },
    Chunked { message: M, body: Vec<u8>, expect: Expect, trailers: usize },
    Failed(HttpError),
}

/// What follows in a chunked body.
#[derive(Debug, Clone, Copy)]
enum Expect {
    Size,
    Data(usize),
    DataEnd,
    Trailer,
}

/// How the body of a message is framed, as its head says.
pub(super) enum BodyLength {
    None,
    Fixed(u64),
    Chunked,
}

/// A message that a [`Decoder`] can read.
pub(super) trait Message: Sized {
    /// Reads a whole head, which ends with the empty line.
    fn from_head(head: &[u8]) -> Result<(Self, BodyLength), HttpError>;
    /// Completes the message.
    fn with_body(self, body: Vec<u8>) -> Self;
}

#[expect(private_bounds, reason = "only the two messages of this module can be decoded")]
impl<M: Message> Decoder<M> {
    /// A parser at the start of a connection.
    pub fn new(limits: Limits) -> Self {
        Self { limits, received: Vec::new(), searched: 0, state: State::Head }
    }

    /// Whether the connection stands between two messages: nothing received, nothing begun.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Head) && self.received.is_empty()
    }

    /// Takes bytes and gives the message that they complete, if any.
    ///
    /// Bytes beyond it are kept: call again with an empty slice for a message that came in the same packet.
    ///
    /// # Errors
    /// What is wrong with the peer's bytes; every later call gives the same error.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Option<M>, HttpError> {
        if let State::Failed(error) = &self.state {
            return Err(*error);
        }
        self.received.extend_from_slice(bytes);
        let outcome = self.step();
        match &outcome {
            Err(error) => {
                self.received = Vec::new();
                self.state = State::Failed(*error);
            }
            Ok(_) if self.received.is_empty() => self.received = Vec::new(),
            Ok(_) => (),
        }
        outcome
    }

    fn step(&mut self) -> Result<Option<M>, HttpError> {
        loop {
            match std::mem::replace(&mut self.state, State::Head) {
                State::Head => match self.read_head()? {
                    None => return Ok(None),
                    Some((message, BodyLength::None)) => return Ok(Some(message)),
                    Some((message, BodyLength::Fixed(length))) => {
                        let length = usize::try_from(length).unwrap_or(usize::MAX);
                        if length > self.limits.body_bytes_max {
                            return Err(self.body_too_large());
                        }
                        self.state = State::Fixed { message, length };
                    }
                    Some((message, BodyLength::Chunked)) => {
                        self.state =
                            State::Chunked { message, body: Vec::new(), expect: Expect::Size, trailers: 0 };
                    }
                },
                State::Fixed { message, length } if self.received.len() < length => {
                    self.state = State::Fixed { message, length };
                    return Ok(None);
                }
                State::Fixed { message, length } => {
                    let rest = self.received.split_off(length);
                    let body = std::mem::replace(&mut self.received, rest);
                    return Ok(Some(message.with_body(body)));
                }
                State::Chunked { message, mut body, expect, trailers } => {
                    return match self.read_chunks(&mut body, expect, trailers)? {
                        None => Ok(Some(message.with_body(body))),
                        Some((expect, trailers)) => {
                            self.state = State::Chunked { message, body, expect, trailers };
                            Ok(None)
                        }
                    };
                }
                State::Failed(error) => return Err(error),
            }
        }
    }

    /// Cuts a head off, once it is whole.
    fn read_head(&mut self) -> Result<Option<(M, BodyLength)>, HttpError> {
        let too_large = HttpError::HeadTooLarge { bytes_max: self.limits.head_bytes_max };
        // Empty lines before a request line are skipped (RFC 9112, 2.2).
        let blank = self.received.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        if blank > 0 {
            self.received.drain(..blank.min(self.limits.head_bytes_max));
            self.searched = 0;
        }
        let from = self.searched.saturating_sub(3);
        let Some(length) = self.received[from..].windows(4).position(|four| four == b"\r\n\r\n") else {
            self.searched = self.received.len();
            return if self.received.len() >= self.limits.head_bytes_max { Err(too_large) } else { Ok(None) };
        };
        let length = from + length + 4;
        if length > self.limits.head_bytes_max {
            return Err(too_large);
        }
        let head = M::from_head(&self.received[..length])?;
        self.received.drain(..length);
        self.searched = 0;
        Ok(Some(head))
    }

    /// Moves chunks into `body`; `None` when the last one is there.
    fn read_chunks(
        &mut self,
        body: &mut Vec<u8>,
        mut expect: Expect,
        mut trailers: usize,
    ) -> Result<Option<(Expect, usize)>, HttpError> {
        let mut at = 0;
        let outcome = loop {
            let rest = &self.received[at..];
            if let Expect::Data(missing) = expect {
                let taken = missing.min(rest.len());
                body.extend_from_slice(&rest[..taken]);
                at += taken;
                if taken < missing {
                    break Some((Expect::Data(missing - taken), trailers));
                }
                expect = Expect::DataEnd;
                continue;
            }
            let Some(end) = rest.iter().take(CHUNK_LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
                if rest.len() >= CHUNK_LINE_BYTES_MAX {
                    return Err(HttpError::Chunk);
                }
                break Some((expect, trailers));
            };
            let line = rest[..end].strip_suffix(b"\r").ok_or(HttpError::Chunk)?;
            at += end + 1;
            match expect {
                Expect::Size => match chunk_size(line)? {
                    0 => expect = Expect::Trailer,
                    size if size > (self.limits.body_bytes_max - body.len()) as u64 => {
                        return Err(self.body_too_large());
                    }
                    // At most the limit of the body, which is a usize.
                    size => expect = Expect::Data(size as usize),
                },
                Expect::DataEnd if line.is_empty() => expect = Expect::Size,
                Expect::DataEnd => return Err(HttpError::Chunk),
                Expect::Trailer if line.is_empty() => break None,
                Expect::Trailer if trailers == TRAILERS_MAX => return Err(HttpError::Chunk),
                Expect::Trailer => trailers += 1,
                Expect::Data(_) => (),
            }
        };
        self.received.drain(..at);
        Ok(outcome)
    }

    fn body_too_large(&self) -> HttpError {
        HttpError::BodyTooLarge { bytes_max: self.limits.body_bytes_max }
    }
}

/// The size at the start of a chunk's first line: up to 15 hexadecimal digits, extensions ignored.
fn chunk_size(line: &[u8]) -> Result<u64, HttpError> {
    let digits = line.split(|byte| matches!(byte, b';' | b' ' | b'\t')).next().unwrap_or_default();
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(HttpError::Chunk);
    }
    let text = std::str::from_utf8(digits).map_err(|_| HttpError::Chunk)?;
    u64::from_str_radix(text, 16).map_err(|_| HttpError::Chunk)
}

/// The headers that both directions may carry.
#[derive(Default)]
struct Headers<'a> {
    protocol: Option<&'a str>,
    host: Option<&'a str>,
    from: Option<&'a str>,
    script_status: Option<&'a str>,
    resume: Option<&'a str>,
    next_uri: Option<&'a str>,
    targeted_application: Option<&'a str>,
    content_type: Option<&'a str>,
    content_length: Option<&'a str>,
    transfer_encoding: Option<&'a str>,
    connection: Option<&'a str>,
}

impl<'a> Headers<'a> {
    fn read(lines: &[httparse::Header<'a>]) -> Result<Self, HttpError> {
        let mut found = Self::default();
        for line in lines {
            let (name, slot) = match line.name {
                name if name.eq_ignore_ascii_case(header::PROTOCOL) => {
                    (header::PROTOCOL, &mut found.protocol)
                }
                name if name.eq_ignore_ascii_case(header::HOST) => (header::HOST, &mut found.host),
                name if name.eq_ignore_ascii_case(header::FROM) => (header::FROM, &mut found.from),
                name if name.eq_ignore_ascii_case(header::SCRIPT_STATUS) => {
                    (header::SCRIPT_STATUS, &mut found.script_status)
                }
                name if name.eq_ignore_ascii_case(header::RESUME) => (header::RESUME, &mut found.resume),
                name if name.eq_ignore_ascii_case(header::NEXT_URI) => {
                    (header::NEXT_URI, &mut found.next_uri)
                }
                name if name.eq_ignore_ascii_case(header::TARGETED_APPLICATION) => {
                    (header::TARGETED_APPLICATION, &mut found.targeted_application)
                }
                name if name.eq_ignore_ascii_case(header::CONTENT_TYPE) => {
                    (header::CONTENT_TYPE, &mut found.content_type)
                }
                name if name.eq_ignore_ascii_case(header::CONTENT_LENGTH) => {
                    (header::CONTENT_LENGTH, &mut found.content_length)
                }
                name if name.eq_ignore_ascii_case(header::TRANSFER_ENCODING) => {
                    (header::TRANSFER_ENCODING, &mut found.transfer_encoding)
                }
                name if name.eq_ignore_ascii_case(header::CONNECTION) => {
                    (header::CONNECTION, &mut found.connection)
                }
                _ => continue,
            };
            let value = std::str::from_utf8(line.value)
                .map_err(|_| HttpError::Value(name))?
                .trim_matches([' ', '\t']);
            if slot.replace(value).is_some() {
                return Err(HttpError::Repeated(name));
            }
        }
        if found.protocol.is_some_and(|protocol| !protocol.eq_ignore_ascii_case(PROTOCOL)) {
            return Err(HttpError::Value(header::PROTOCOL));
        }
        Ok(found)
    }

    fn body_length(&self) -> Result<BodyLength, HttpError> {
        match (self.content_length, self.transfer_encoding) {
            (None, None) => Ok(BodyLength::None),
            (Some(_), Some(_)) => Err(HttpError::BothFramings),
            (None, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => Ok(BodyLength::Chunked),
            (None, Some(_)) => Err(HttpError::Value(header::TRANSFER_ENCODING)),
            (Some(digits), None) => {
                let wrong = HttpError::Value(header::CONTENT_LENGTH);
                if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(wrong);
                }
                digits.parse().map(BodyLength::Fixed).map_err(|_| wrong)
            }
        }
    }

    fn resume(&self) -> Result<bool, HttpError> {
        match self.resume {
            None => Ok(false),
            Some(value) if value.eq_ignore_ascii_case("true") => Ok(true),
            Some(value) if value.eq_ignore_ascii_case("false") => Ok(false),
            Some(_) => Err(HttpError::Value(header::RESUME)),
        }
    }

    fn close(&self) -> bool {
        self.connection.is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// The value of a header as its type.
fn typed<T: std::str::FromStr>(value: Option<&str>, name: &'static str) -> Result<Option<T>, HttpError> {
    value.map(|text| text.parse().map_err(|_| HttpError::Value(name))).transpose()
}

fn syntax(error: httparse::Error) -> HttpError {
    match error {
        httparse::Error::TooManyHeaders => HttpError::TooManyHeaders,
        httparse::Error::Version => HttpError::Version,
        _ => HttpError::Syntax,
    }
}

impl Message for Request {
    fn from_head(head: &[u8]) -> Result<(Self, BodyLength), HttpError> {
        let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut lines);
        if parsed.parse(head).map_err(syntax)?.is_partial() {
            return Err(HttpError::Syntax);
        }
        if parsed.method != Some("POST") {
            return Err(HttpError::Method);
        }
        if parsed.version != Some(1) {
            return Err(HttpError::Version);
        }
        let target = parsed.path.unwrap_or_default().parse().map_err(|_| HttpError::Syntax)?;
        let headers = Headers::read(parsed.headers)?;
        let script_status = typed(headers.script_status, header::SCRIPT_STATUS)?;
        if headers.protocol.is_none() && script_status.is_none() {
            return Err(HttpError::Missing(header::PROTOCOL));
        }
        let length = headers.body_length()?;
        let request = Self {
            target,
            host: typed(headers.host, header::HOST)?,
            from: typed(headers.from, header::FROM)?,
            script_status,
            resume: headers.resume()?,
            content_type: typed::<ContentType>(headers.content_type, header::CONTENT_TYPE)?,
            body: Vec::new(),
            close: headers.close(),
        };
        Ok((request, length))
    }

    fn with_body(self, body: Vec<u8>) -> Self {
        Self { body, ..self }
    }
}

impl Message for Response {
    fn from_head(head: &[u8]) -> Result<(Self, BodyLength), HttpError> {
        let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut lines);
        if parsed.parse(head).map_err(syntax)?.is_partial() {
            return Err(HttpError::Syntax);
        }
        if parsed.version != Some(1) {
            return Err(HttpError::Version);
        }
        // RFC 9110, 15: a status is 100 to 599; the parser takes any three digits.
        let status = parsed.code.filter(|code| (100..600).contains(code)).ok_or(HttpError::Syntax)?;
        let headers = Headers::read(parsed.headers)?;
        let length = match (status, headers.body_length()?) {
            (204, BodyLength::None | BodyLength::Fixed(0)) => BodyLength::None,
            (204, _) => return Err(HttpError::Value(header::CONTENT_LENGTH)),
            (_, BodyLength::None) => return Err(HttpError::Unframed),
            (_, length) => length,
        };
        // A refusal may come from something that is no administration server and carry any type.
        let content_type = match status {
            200 => typed::<ContentType>(headers.content_type, header::CONTENT_TYPE)?,
            _ => None,
        };
        let response = Self {
            status,
            next_uri: typed(headers.next_uri, header::NEXT_URI)?,
            targeted_application: typed(headers.targeted_application, header::TARGETED_APPLICATION)?,
            content_type,
            body: Vec::new(),
            close: headers.close(),
        };
        Ok((response, length))
    }

    fn with_body(self, body: Vec<u8>) -> Self {
        Self { body, ..self }
    }
}

#[cfg(test)]
mod tests;
