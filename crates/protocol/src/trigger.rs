//! The trigger: the message that asks a card to open an administration session at once (GlobalPlatform Amendment
//! B, "administration session triggering parameters"). It travels in a secured packet to the TAR of the security
//! domain or administration agent.
//!
//! - `81 00`: with the parameters stored on the card. Two bytes, one SMS, the default.
//! - `81 len { 83 len { 84 connection, 85 security, 86 retry, 89 HTTP } }`: with some or all parameters.
//!
//! Parameters are stored on the card by STORE DATA of a data object `85` with the same content as `83`, and read
//! by GET DATA ([`stored_parameters_commands`], [`read_stored_parameters`]).

use crate::apdu::Command;
use crate::profile::RetryTimerCoding;
use crate::tlv::{self, ComprehensionReader, Reader, TlvError};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Largest trigger that is read or written, in bytes: what a few concatenated SMS carry.
pub const TRIGGER_BYTES_MAX: usize = 1024;

/// The tag under which parameters are stored on the card.
pub const STORED_PARAMETERS_TAG: u16 = 0x0085;

/// Why bytes are no trigger, or parameters cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TriggerError {
    /// Tags and lengths do not add up.
    #[error("the trigger is malformed: {0}")]
    Tlv(#[from] TlvError),
    /// A data object that has to be there is not, or another stands in its place.
    #[error("the trigger has no {0:02X} where one belongs")]
    Missing(u8),
    /// A data object has a content that it cannot have.
    #[error("data object {0:02X} of the trigger has a content that it cannot have")]
    Content(u8),
    /// Longer than [`TRIGGER_BYTES_MAX`], or a field longer than its length can say.
    #[error(
        "the trigger is longer than {TRIGGER_BYTES_MAX} bytes, or one of its fields too long: shorten it"
    )]
    TooLong,
}

/// A message that asks for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// With the parameters that are stored on the card.
    Stored,
    /// With these; what is not given is taken from the card.
    With(Box<SessionParameters>),
}

/// How a session is opened; every part may be left to what the card has stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionParameters {
    /// `84`: the channel.
    pub connection: Option<Connection>,
    /// `85`: identity and key.
    pub security: Option<Security>,
    /// `A5`: extended security parameters, as they came.
    pub extended_security: Option<Vec<u8>>,
    /// `86`: what happens when the session fails.
    pub retry: Option<Retry>,
    /// `89`: the first request.
    pub http: Option<Http>,
    /// `B3`: DNS parameters, as they came.
    pub dns: Option<Vec<u8>>,
}

/// The COMPREHENSION-TLVs of OPEN CHANNEL (ETSI TS 102 223, 6.6.27).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// `02`: device identities, source and destination.
    pub device_identities: Option<[u8; 2]>,
    /// `35`: bearer description; `03` alone is the default bearer.
    pub bearer: Option<Vec<u8>>,
    /// `39`: buffer size in bytes.
    pub buffer_bytes: Option<u16>,
    /// `47`: network access name in its coding with lengths, as in DNS.
    pub access_point: Option<Vec<u8>>,
    /// `3C`: transport protocol type (`02` TCP client) and port.
    pub transport: Option<(u8, u16)>,
    /// `3E`: where to.
    pub address: Option<IpAddr>,
    /// Everything else, in its order: tag and value.
    pub others: Vec<(u16, Vec<u8>)>,
}

/// Identity and key of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// PSK identity; empty: the card's own.
    pub psk_identity: Vec<u8>,
    /// Key version and key id.
    pub key: Option<(u8, u8)>,
}

/// What the card does when the session cannot be opened or breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// How often it tries again; bits as the card defines them, plain number in our cards.
    pub counter: u16,
    /// How long it waits, in seconds; none: as it is stored.
    pub delay_s: Option<u32>,
    /// Whom it tells when it gives up, as it came.
    pub failure_report: Option<Vec<u8>>,
}

/// The first request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Http {
    /// `8A`: the Host header.
    pub host: String,
    /// `8B`: the agent's id, X-Admin-From.
    pub agent: String,
    /// `8C`: the URI, a path or a whole URL.
    pub uri: String,
}

mod tag {
    pub const TRIGGER: u8 = 0x81;
    pub const PARAMETERS: u8 = 0x83;
    pub const CONNECTION: u8 = 0x84;
    pub const SECURITY: u8 = 0x85;
    pub const EXTENDED_SECURITY: u8 = 0xA5;
    pub const RETRY: u8 = 0x86;
    pub const HTTP: u8 = 0x89;
    pub const HOST: u8 = 0x8A;
    pub const AGENT: u8 = 0x8B;
    pub const URI: u8 = 0x8C;
    pub const DNS: u8 = 0xB3;

    pub const DEVICE_IDENTITIES: u16 = 0x02;
    pub const TIMER_VALUE: u16 = 0x25;
    pub const BEARER: u16 = 0x35;
    pub const BUFFER_SIZE: u16 = 0x39;
    pub const TRANSPORT: u16 = 0x3C;
    pub const ADDRESS: u16 = 0x3E;
    pub const ACCESS_POINT: u16 = 0x47;
}

impl Trigger {
    /// The bytes, as secured data of a packet.
    ///
    /// # Errors
    /// The parameters are too long.
    pub fn encode(&self, timer: RetryTimerCoding) -> Result<Vec<u8>, TriggerError> {
        let Self::With(parameters) = self else { return Ok(vec![tag::TRIGGER, 0x00]) };
        let mut inner = Vec::new();
        tlv::push(&mut inner, tag::PARAMETERS.into(), &parameters.encode(timer)?);
        let mut bytes = Vec::new();
        tlv::push(&mut bytes, tag::TRIGGER.into(), &inner);
        within_limit(bytes)
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &[u8], timer: RetryTimerCoding) -> Result<Self, TriggerError> {
        if bytes.len() > TRIGGER_BYTES_MAX {
            return Err(TriggerError::TooLong);
        }
        match only(bytes, tag::TRIGGER)? {
            [] => Ok(Self::Stored),
            inner => {
                SessionParameters::decode(only(inner, tag::PARAMETERS)?, timer).map(Box::new).map(Self::With)
            }
        }
    }
}

fn within_limit(bytes: Vec<u8>) -> Result<Vec<u8>, TriggerError> {
    if bytes.len() > TRIGGER_BYTES_MAX { Err(TriggerError::TooLong) } else { Ok(bytes) }
}

/// The value of the one data object that these bytes are.
fn only(bytes: &[u8], tag: u8) -> Result<&[u8], TriggerError> {
    let mut objects = Reader::new(bytes);
    let first = objects.next().ok_or(TriggerError::Missing(tag))??;
    if first.tag != u32::from(tag) || objects.next().is_some() {
        return Err(TriggerError::Missing(tag));
    }
    Ok(first.value)
}

impl SessionParameters {
    /// The content of `83`, and of `85` where they are stored.
    ///
    /// # Errors
    /// A field is too long.
    pub fn encode(&self, timer: RetryTimerCoding) -> Result<Vec<u8>, TriggerError> {
        let mut bytes = Vec::new();
        let mut push = |tag: u8, value: Vec<u8>| tlv::push(&mut bytes, tag.into(), &value);
        if let Some(connection) = &self.connection {
            push(tag::CONNECTION, connection.encode());
        }
        if let Some(security) = &self.security {
            push(tag::SECURITY, security.encode()?);
        }
        if let Some(extended) = &self.extended_security {
            push(tag::EXTENDED_SECURITY, extended.clone());
        }
        if let Some(retry) = &self.retry {
            push(tag::RETRY, retry.encode(timer));
        }
        if let Some(http) = &self.http {
            push(tag::HTTP, http.encode());
        }
        if let Some(dns) = &self.dns {
            push(tag::DNS, dns.clone());
        }
        within_limit(bytes)
    }

    /// Reads the content of `83`, or of `85` where they are stored. Unknown data objects are passed over; of one
    /// that comes twice the last counts.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &[u8], timer: RetryTimerCoding) -> Result<Self, TriggerError> {
        let mut parameters = Self::default();
        for object in Reader::new(bytes) {
            let object = object?;
            match u8::try_from(object.tag) {
                Ok(tag::CONNECTION) => parameters.connection = Some(Connection::decode(object.value)?),
                Ok(tag::SECURITY) => parameters.security = Some(Security::decode(object.value)?),
                Ok(tag::EXTENDED_SECURITY) => parameters.extended_security = Some(object.value.to_vec()),
                Ok(tag::RETRY) => parameters.retry = Some(Retry::decode(object.value, timer)?),
                Ok(tag::HTTP) => parameters.http = Some(Http::decode(object.value)?),
                Ok(tag::DNS) => parameters.dns = Some(object.value.to_vec()),
                _ => (),
            }
        }
        Ok(parameters)
    }

    /// These parameters, and `stored` wherever they say nothing.
    #[must_use]
    pub fn or(self, stored: &Self) -> Self {
        Self {
            connection: self.connection.or_else(|| stored.connection.clone()),
            security: self.security.or_else(|| stored.security.clone()),
            extended_security: self.extended_security.or_else(|| stored.extended_security.clone()),
            retry: self.retry.or_else(|| stored.retry.clone()),
            http: self.http.or_else(|| stored.http.clone()),
            dns: self.dns.or_else(|| stored.dns.clone()),
        }
    }
}

impl Connection {
    /// The TLVs, without the comprehension bit, as in the trigger.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut push = |tag: u16, value: &[u8]| tlv::push_comprehension(&mut bytes, tag, false, value);
        if let Some(identities) = &self.device_identities {
            push(tag::DEVICE_IDENTITIES, identities);
        }
        if let Some(bearer) = &self.bearer {
            push(tag::BEARER, bearer);
        }
        if let Some(size) = self.buffer_bytes {
            push(tag::BUFFER_SIZE, &size.to_be_bytes());
        }
        if let Some(name) = &self.access_point {
            push(tag::ACCESS_POINT, name);
        }
        if let Some((protocol, port)) = self.transport {
            let [high, low] = port.to_be_bytes();
            push(tag::TRANSPORT, &[protocol, high, low]);
        }
        match self.address {
            Some(IpAddr::V4(address)) => push(tag::ADDRESS, &[&[0x21][..], &address.octets()].concat()),
            Some(IpAddr::V6(address)) => push(tag::ADDRESS, &[&[0x57][..], &address.octets()].concat()),
            None => (),
        }
        for (tag, value) in &self.others {
            push(*tag, value);
        }
        bytes
    }

    /// Reads the TLVs, with or without the comprehension bit.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, TriggerError> {
        let wrong = TriggerError::Content(tag::CONNECTION);
        let mut connection = Self::default();
        for object in ComprehensionReader::new(bytes) {
            let object = object?;
            let value = object.value;
            match object.tag {
                tag::DEVICE_IDENTITIES => {
                    connection.device_identities = Some(value.try_into().map_err(|_| wrong)?);
                }
                tag::BEARER => connection.bearer = Some(value.to_vec()),
                tag::BUFFER_SIZE => {
                    connection.buffer_bytes = Some(u16::from_be_bytes(value.try_into().map_err(|_| wrong)?));
                }
                tag::ACCESS_POINT => connection.access_point = Some(value.to_vec()),
                tag::TRANSPORT => {
                    let &[protocol, high, low] = value else { return Err(wrong) };
                    connection.transport = Some((protocol, u16::from_be_bytes([high, low])));
                }
                tag::ADDRESS => connection.address = Some(address(value).ok_or(wrong)?),
                tag => connection.others.push((tag, value.to_vec())),
            }
        }
        Ok(connection)
    }
}

/// Type of address and address (ETSI TS 102 223, 8.58).
fn address(value: &[u8]) -> Option<IpAddr> {
    match value {
        [0x21, rest @ ..] => <[u8; 4]>::try_from(rest).ok().map(|octets| Ipv4Addr::from(octets).into()),
        [0x57, rest @ ..] => <[u8; 16]>::try_from(rest).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

impl Security {
    fn encode(&self) -> Result<Vec<u8>, TriggerError> {
        let length = u8::try_from(self.psk_identity.len()).map_err(|_| TriggerError::TooLong)?;
        let mut bytes = vec![length];
        bytes.extend_from_slice(&self.psk_identity);
        if let Some((version, id)) = self.key {
            bytes.extend_from_slice(&[0x02, version, id]);
        }
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self, TriggerError> {
        let wrong = TriggerError::Content(tag::SECURITY);
        let (length, rest) = bytes.split_first().ok_or(wrong)?;
        let (identity, rest) = rest.split_at_checked(usize::from(*length)).ok_or(wrong)?;
        let key = match rest {
            [] => None,
            [0x02, version, id] => Some((*version, *id)),
            _ => return Err(wrong),
        };
        Ok(Self { psk_identity: identity.to_vec(), key })
    }
}

impl Retry {
    fn encode(&self, timer: RetryTimerCoding) -> Vec<u8> {
        let mut bytes = self.counter.to_be_bytes().to_vec();
        if let Some(delay_s) = self.delay_s {
            tlv::push_comprehension(&mut bytes, tag::TIMER_VALUE, false, &timer_value(delay_s, timer));
        }
        if let Some(report) = &self.failure_report {
            bytes.extend_from_slice(report);
        }
        bytes
    }

    fn decode(bytes: &[u8], timer: RetryTimerCoding) -> Result<Self, TriggerError> {
        let wrong = TriggerError::Content(tag::RETRY);
        let [high, low, rest @ ..] = bytes else { return Err(wrong) };
        let counter = u16::from_be_bytes([*high, *low]);
        // The timer comes first where there is one; what follows it, or stands alone, is the failure report.
        let (delay_s, rest) = match rest {
            [0x25 | 0xA5, 0x03, hours, minutes, seconds, rest @ ..] => {
                (Some(seconds_of([*hours, *minutes, *seconds], timer).ok_or(wrong)?), rest)
            }
            [0x25 | 0xA5, ..] => return Err(wrong),
            _ => (None, rest),
        };
        Ok(Self { counter, delay_s, failure_report: (!rest.is_empty()).then(|| rest.to_vec()) })
    }
}

/// Timer value: hours, minutes, seconds (ETSI TS 102 223, 8.38); at most 24 hours less a second.
pub fn timer_value(duration_s: u32, coding: RetryTimerCoding) -> [u8; 3] {
    let duration_s = duration_s.min(86_399);
    // Each is below 60.
    [duration_s / 3_600, duration_s / 60 % 60, duration_s % 60].map(|number| match coding {
        RetryTimerCoding::SemiOctets => (number % 10 * 16 + number / 10) as u8,
        RetryTimerCoding::Binary => number as u8,
    })
}

/// The seconds of a timer value; none where a digit is no digit or minutes or seconds are beyond 59.
pub fn seconds_of(value: [u8; 3], coding: RetryTimerCoding) -> Option<u32> {
    let number = |byte: u8| match coding {
        RetryTimerCoding::SemiOctets if byte >> 4 > 9 || byte & 0x0F > 9 => None,
        RetryTimerCoding::SemiOctets => Some(u32::from(byte & 0x0F) * 10 + u32::from(byte >> 4)),
        RetryTimerCoding::Binary => Some(u32::from(byte)),
    };
    let [hours, minutes, seconds] = [number(value[0])?, number(value[1])?, number(value[2])?];
    (minutes < 60 && seconds < 60).then_some(hours * 3_600 + minutes * 60 + seconds)
}

impl Http {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (tag, text) in [(tag::HOST, &self.host), (tag::AGENT, &self.agent), (tag::URI, &self.uri)] {
            tlv::push(&mut bytes, tag.into(), text.as_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, TriggerError> {
        let mut http = Self::default();
        for object in Reader::new(bytes) {
            let object = object?;
            let Ok(tag) = u8::try_from(object.tag) else { continue };
            let field = match tag {
                tag::HOST => &mut http.host,
                tag::AGENT => &mut http.agent,
                tag::URI => &mut http.uri,
                _ => continue,
            };
            let text = std::str::from_utf8(object.value).map_err(|_| TriggerError::Content(tag))?;
            text.clone_into(field);
        }
        Ok(http)
    }
}

/// STORE DATA that stores the parameters on the card: one command, or as many blocks as they take.
///
/// # Errors
/// The parameters are too long.
pub fn stored_parameters_commands(
    parameters: &SessionParameters,
    timer: RetryTimerCoding,
) -> Result<Vec<Vec<u8>>, TriggerError> {
    let mut object = Vec::new();
    tlv::push(&mut object, STORED_PARAMETERS_TAG.into(), &parameters.encode(timer)?);
    let last = object.len().div_ceil(255) - 1;
    Ok(object
        .chunks(255)
        .enumerate()
        .map(|(number, block)| {
            // P1: last block, BER-TLV data; P2: block number (GlobalPlatform Card Specification, 11.11).
            let p1 = if number == last { 0x90 } else { 0x10 };
            Command::new(0x80, 0xE2, p1, number as u8).with_data(block).encode()
        })
        .collect())
}

/// GET DATA that reads the stored parameters: `80 CA 00 85 00`.
pub fn read_stored_parameters() -> Vec<u8> {
    crate::ram::get_data(STORED_PARAMETERS_TAG)
}

/// Reads what STORE DATA carries and GET DATA answers: the object `85`.
///
/// # Errors
/// What is wrong with it.
pub fn decode_stored_parameters(
    object: &[u8],
    timer: RetryTimerCoding,
) -> Result<SessionParameters, TriggerError> {
    SessionParameters::decode(only(object, tag::SECURITY)?, timer)
}

#[cfg(test)]
mod tests;
