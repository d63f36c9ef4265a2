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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEMI: RetryTimerCoding = RetryTimerCoding::SemiOctets;

    fn hex(text: &str) -> Vec<u8> {
        hex::decode(text.replace(' ', "")).unwrap()
    }

    #[test]
    fn short_form() {
        assert_eq!(Trigger::Stored.encode(SEMI).unwrap(), [0x81, 0x00]);
        assert_eq!(Trigger::decode(&[0x81, 0x00], SEMI), Ok(Trigger::Stored));
    }

    #[test]
    fn whole_example() {
        let bytes = hex("811F 831D 8404 02028182 8504 00020101 8607 B000 2503 010203 8906 8A00 8B00 8C00");
        let parameters = |delay_s| SessionParameters {
            connection: Some(Connection { device_identities: Some([0x81, 0x82]), ..Connection::default() }),
            security: Some(Security { psk_identity: vec![], key: Some((1, 1)) }),
            retry: Some(Retry { counter: 0xB000, delay_s: Some(delay_s), failure_report: None }),
            http: Some(Http::default()),
            ..SessionParameters::default()
        };
        // Swapped semi-octets: 10 h 20 min 30 s; binary: 1 h 2 min 3 s.
        for (coding, delay_s) in [(SEMI, 37_230), (RetryTimerCoding::Binary, 3_723)] {
            let trigger = Trigger::With(Box::new(parameters(delay_s)));
            assert_eq!(Trigger::decode(&bytes, coding), Ok(trigger.clone()));
            assert_eq!(trigger.encode(coding).unwrap(), bytes);
        }
    }

    #[test]
    fn connection_security_and_request_of_the_examples() {
        let connection = Connection {
            bearer: Some(vec![3]),
            buffer_bytes: Some(1400),
            access_point: Some(b"\x03ota".to_vec()),
            transport: Some((2, 8443)),
            address: Some("192.0.2.1".parse().unwrap()),
            ..Connection::default()
        };
        let coded = hex("350103 39020578 4704036F7461 3C030220FB 3E0521C0000201");
        assert_eq!(connection.encode(), coded);
        assert_eq!(Connection::decode(&coded), Ok(connection.clone()));
        let required: Vec<u8> = hex("B50103 B9020578 C704036F7461 BC030220FB BE0521C0000201");
        assert_eq!(Connection::decode(&required), Ok(connection.clone()));
        let six = Connection { address: Some("2001:db8::1".parse().unwrap()), ..connection };
        assert!(six.encode().ends_with(&hex("3E115720010DB8000000000000000000000001")));
        assert_eq!(Connection::decode(&six.encode()), Ok(six));

        let security = Security { psk_identity: hex("DEADBEEF"), key: Some((0x00, 0x40)) };
        assert_eq!(security.encode().unwrap(), hex("04deadbeef020040"));
        assert_eq!(Security::decode(&hex("04deadbeef020040")), Ok(security));
        assert_eq!(Security::decode(&hex("00")), Ok(Security { psk_identity: vec![], key: None }));

        let http =
            Http { host: "admin.host".into(), agent: String::new(), uri: "https://admin.host/uri".into() };
        let coded = http.encode();
        assert!(coded.starts_with(b"\x8A\x0Aadmin.host\x8B\x00\x8C\x16https://admin.host/uri"));
        assert_eq!(Http::decode(&coded), Ok(http));
    }

    #[test]
    fn extended_security_and_dns_are_kept() {
        let bytes = hex("810A 8308 A502 AABB B302 CCDD");
        let Ok(Trigger::With(parameters)) = Trigger::decode(&bytes, SEMI) else { panic!() };
        assert_eq!(parameters.extended_security, Some(hex("AABB")));
        assert_eq!(parameters.dns, Some(hex("CCDD")));
        assert_eq!(Trigger::With(parameters).encode(SEMI).unwrap(), bytes);
        let retry = Retry::decode(&hex("0003 A1020304"), SEMI).unwrap();
        assert_eq!(retry, Retry { counter: 3, delay_s: None, failure_report: Some(hex("A1020304")) });
        assert_eq!(Retry::decode(&retry.encode(SEMI), SEMI), Ok(retry));
    }

    #[test]
    fn what_is_no_trigger() {
        for wrong in [
            "",
            "81",
            "8200",
            "810100",
            "81028300 00 8100",
            "8104 8302 8401",
            "8106 8304 8402 3C00",
            "8106 8304 8502 0500",
            "8105 8303 8601 00",
            "8109 8307 8605 0000 2502 00",
            "810A 8308 8606 0000 2503 0A00",
            "8106 8304 8902 8A05",
        ] {
            assert!(Trigger::decode(&hex(wrong), SEMI).is_err(), "{wrong}");
        }
        assert_eq!(Trigger::decode(&[0; TRIGGER_BYTES_MAX + 1], SEMI), Err(TriggerError::TooLong));
        let long = Security { psk_identity: vec![b'x'; 256], key: None };
        let parameters = SessionParameters { security: Some(long), ..SessionParameters::default() };
        assert_eq!(parameters.encode(SEMI), Err(TriggerError::TooLong));
    }

    #[test]
    fn parameters_are_stored_and_read() {
        let http = Http { host: "h".repeat(200), agent: "a".repeat(100), uri: "/".into() };
        let parameters = SessionParameters { http: Some(http), ..SessionParameters::default() };
        let commands = stored_parameters_commands(&parameters, SEMI).unwrap();
        assert_eq!(commands.len(), 2);
        assert!(commands[0].starts_with(&hex("80E2 1000 FF 85")));
        assert!(commands[1].starts_with(&hex("80E2 9001")));
        let object: Vec<u8> = commands.iter().flat_map(|command| command[5..].to_vec()).collect();
        assert_eq!(decode_stored_parameters(&object, SEMI), Ok(parameters));
        assert_eq!(read_stored_parameters(), hex("80CA008500"));
        let short = stored_parameters_commands(&SessionParameters::default(), SEMI).unwrap();
        assert_eq!(short, [hex("80E29000 02 8500")]);
    }

    fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..most)
    }

    prop_compose! {
        fn parameters()(
            device_identities: Option<[u8; 2]>,
            bearer in proptest::option::of(bytes(9)),
            buffer_bytes: Option<u16>,
            access_point in proptest::option::of(bytes(40)),
            transport: Option<(u8, u16)>,
            address: Option<IpAddr>,
            identity in bytes(130),
            key: Option<(u8, u8)>,
            extended_security in proptest::option::of(bytes(20)),
            retry in proptest::option::of((any::<u16>(), proptest::option::of(0_u32..86_400))),
            texts in proptest::option::of(("[a-z.]{0,30}", "[ -~]{0,140}", "/[a-z]{0,30}")),
            dns in proptest::option::of(bytes(20)),
        ) -> SessionParameters {
            let connection =
                Connection { device_identities, bearer, buffer_bytes, access_point, transport, address, others: vec![] };
            SessionParameters {
                connection: Some(connection),
                security: Some(Security { psk_identity: identity, key }),
                extended_security,
                retry: retry.map(|(counter, delay_s)| Retry { counter, delay_s, failure_report: None }),
                http: texts.map(|(host, agent, uri)| Http { host, agent, uri }),
                dns,
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(parameters in parameters(), binary: bool) {
            let coding = if binary { RetryTimerCoding::Binary } else { SEMI };
            let trigger = Trigger::With(Box::new(parameters));
            prop_assert_eq!(Trigger::decode(&trigger.encode(coding).unwrap(), coding), Ok(trigger));
        }
    }
}
