//! Packets of EAP-AKA (RFC 4187, 8 and 9) and their attributes (10).

use super::Method;

/// Longest packet in bytes.
pub const PACKET_BYTES_MAX: usize = 4096;
/// Most attributes of a packet.
const ATTRIBUTES_MAX: usize = 32;
/// RFC 3748, 4.1: code, identifier, length; RFC 4187, 8.1: type, subtype, reserved.
const HEAD_BYTES: usize = 8;
/// RFC 4187, 10.15: a MAC of 16 bytes.
pub const MAC_BYTES: usize = 16;

/// Request or response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// From the server.
    Request,
    /// From the peer.
    Response,
}

/// RFC 4187, 11: what a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subtype {
    /// 1: AKA-Challenge.
    Challenge,
    /// 2: AKA-Authentication-Reject.
    AuthenticationReject,
    /// 4: AKA-Synchronization-Failure.
    SynchronizationFailure,
    /// 5: AKA-Identity.
    Identity,
    /// 12: AKA-Notification.
    Notification,
    /// 13: AKA-Reauthentication.
    Reauthentication,
    /// 14: AKA-Client-Error.
    ClientError,
}

/// An attribute (RFC 4187, 10; RFC 9048, 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// 1: the challenge.
    Rand([u8; 16]),
    /// 2: the network's proof.
    Autn([u8; 16]),
    /// 3: the card's response, 4 to 16 bytes.
    Res(Vec<u8>),
    /// 4: the card's number.
    Auts([u8; 14]),
    /// 6: fills AT_ENCR_DATA; so many zero bytes.
    Padding(u8),
    /// 10: asks for the permanent identity.
    PermanentIdReq,
    /// 11: signs the packet. Zero until it is signed.
    Mac([u8; MAC_BYTES]),
    /// 12: a notification code.
    Notification(u16),
    /// 13: asks for any identity.
    AnyIdReq,
    /// 14: an identity.
    Identity(Vec<u8>),
    /// 17: asks for an identity of full authentication.
    FullauthIdReq,
    /// 19: which re-authentication since the last full one.
    Counter(u16),
    /// 20: the peer's counter is higher.
    CounterTooSmall,
    /// 21: the server's nonce of a re-authentication.
    NonceS([u8; 16]),
    /// 22: why the peer gives up.
    ClientErrorCode(u16),
    /// 23: the name of the network (AKA').
    KdfInput(Vec<u8>),
    /// 24: a key derivation function (AKA'); may occur several times.
    Kdf(u16),
    /// 129: IV of AT_ENCR_DATA.
    Iv([u8; 16]),
    /// 130: encrypted attributes.
    EncrData(Vec<u8>),
    /// 132: a pseudonym for the next full authentication.
    NextPseudonym(Vec<u8>),
    /// 133: an identity for the next re-authentication.
    NextReauthId(Vec<u8>),
    /// 134: hash over the identity round; empty where there was none.
    Checkcode(Vec<u8>),
    /// 135: the sender wants, or takes, a protected success.
    ResultInd,
    /// One of 128 to 255 that we do not know: passed over.
    Skipped(u8),
}

/// A packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Request or response.
    pub code: Code,
    /// The same in a request and its response.
    pub identifier: u8,
    /// AKA or AKA'.
    pub method: Method,
    /// What it is.
    pub subtype: Subtype,
    /// In their order.
    pub attributes: Vec<Attribute>,
}

/// Why bytes are no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// The length field is unlike the bytes, or the bytes are too few or too many.
    #[error("an EAP packet says {said} bytes and has {found}")]
    Length {
        /// What its length field says.
        said: usize,
        /// How many there are.
        found: usize,
    },
    /// Neither request nor response.
    #[error("EAP code {0} is neither request nor response")]
    Code(u8),
    /// Another method (3: the peer wants another one).
    #[error("EAP type {0} is neither AKA nor AKA'")]
    Method(u8),
    /// An unknown subtype.
    #[error("subtype {0} is not one of EAP-AKA")]
    Subtype(u8),
    /// An attribute whose length is 0, beyond the end, or not that of its type.
    #[error("attribute {0} has a wrong length")]
    AttributeLength(u8),
    /// A value that its type does not have.
    #[error("attribute {0} has a wrong value")]
    AttributeValue(u8),
    /// The same attribute twice.
    #[error("attribute {0} occurs twice")]
    Repeated(u8),
    /// RFC 4187, 8.1: an unknown attribute below 128 may not be passed over.
    #[error("attribute {0} is not known and may not be passed over")]
    Unknown(u8),
    /// More than 32.
    #[error("a packet has at most {ATTRIBUTES_MAX} attributes")]
    TooMany,
}

impl Subtype {
    const ALL: [(u8, Subtype); 7] = [
        (1, Subtype::Challenge),
        (2, Subtype::AuthenticationReject),
        (4, Subtype::SynchronizationFailure),
        (5, Subtype::Identity),
        (12, Subtype::Notification),
        (13, Subtype::Reauthentication),
        (14, Subtype::ClientError),
    ];

    fn value(self) -> u8 {
        Self::ALL.iter().find(|(_, subtype)| *subtype == self).map_or(0, |(value, _)| *value)
    }
}

impl Packet {
    /// Reads a packet. Bytes behind its length are an error: HTTP bodies carry exactly one packet.
    pub fn decode(bytes: &[u8]) -> Result<Packet, PacketError> {
        let (head, attributes) = bytes
            .split_first_chunk::<HEAD_BYTES>()
            .ok_or(PacketError::Length { said: HEAD_BYTES, found: bytes.len() })?;
        let said = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let code = match head[0] {
            1 => Code::Request,
            2 => Code::Response,
            other => return Err(PacketError::Code(other)),
        };
        if said != bytes.len() || said > PACKET_BYTES_MAX {
            return Err(PacketError::Length { said, found: bytes.len() });
        }
        let method = match head[4] {
            23 => Method::Aka,
            50 => Method::AkaPrime,
            other => return Err(PacketError::Method(other)),
        };
        let subtype = Subtype::ALL.iter().find(|(value, _)| *value == head[5]);
        let (_, subtype) = *subtype.ok_or(PacketError::Subtype(head[5]))?;
        let attributes = decode_attributes(attributes)?;
        Ok(Packet { code, identifier: head[1], method, subtype, attributes })
    }

    /// The bytes. A MAC is written as it is: [`super::keys::sign`] fills it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![
            match self.code {
                Code::Request => 1,
                Code::Response => 2,
            },
            self.identifier,
            0,
            0,
            self.method.eap_type(),
            self.subtype.value(),
            0,
            0,
        ];
        encode_attributes(&self.attributes, &mut bytes);
        let length = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    /// The first attribute for which `pick` finds something.
    pub fn find<'p, T>(&'p self, pick: impl Fn(&'p Attribute) -> Option<T>) -> Option<T> {
        self.attributes.iter().find_map(pick)
    }

    /// Whether an attribute is there.
    pub fn has(&self, attribute: &Attribute) -> bool {
        self.attributes.contains(attribute)
    }
}

/// Where the MAC of an encoded packet stands; `None` where it has none. The packet must be one that decodes.
pub(super) fn mac_place(bytes: &[u8]) -> Option<usize> {
    let mut place = HEAD_BYTES;
    while let [kind, length, ..] = bytes.get(place..)? {
        if *kind == 11 {
            return Some(place + 4).filter(|value| value + MAC_BYTES <= bytes.len());
        }
        place += 4 * usize::from((*length).max(1));
    }
    None
}

/// Reads attributes one after the other.
pub fn decode_attributes(mut bytes: &[u8]) -> Result<Vec<Attribute>, PacketError> {
    let mut attributes: Vec<Attribute> = Vec::new();
    let mut seen = [false; 256];
    while let Some((kind, rest)) = bytes.split_first() {
        let words = rest.first().copied().unwrap_or_default();
        // RFC 4187, 8.1: the length counts type and length too, so 0 is never right.
        let length = 4 * usize::from(words);
        if length == 0 || length > bytes.len() {
            return Err(PacketError::AttributeLength(*kind));
        }
        if attributes.len() == ATTRIBUTES_MAX {
            return Err(PacketError::TooMany);
        }
        let is_repeatable = *kind == 24 || *kind == 6;
        if std::mem::replace(&mut seen[usize::from(*kind)], true) && !is_repeatable {
            return Err(PacketError::Repeated(*kind));
        }
        let (attribute, rest) = bytes.split_at(length);
        attributes.push(decode_attribute(*kind, &attribute[2..])?);
        bytes = rest;
    }
    Ok(attributes)
}

/// `value` is what stands behind type and length: at least two bytes.
fn decode_attribute(kind: u8, value: &[u8]) -> Result<Attribute, PacketError> {
    let wrong = || PacketError::AttributeLength(kind);
    let (first, rest) = value.split_first_chunk::<2>().ok_or_else(wrong)?;
    let number = u16::from_be_bytes(*first);
    let alone = || if rest.is_empty() { Ok(number) } else { Err(wrong()) };
    let sixteen = || <[u8; 16]>::try_from(rest).map_err(|_| wrong());
    // A length in bytes before a value that is padded to whole words.
    let counted = || {
        let length = usize::from(number);
        let is_shortest = rest.len() < length + 4;
        rest.get(..length).filter(|_| is_shortest).map(<[u8]>::to_vec).ok_or_else(wrong)
    };
    Ok(match kind {
        1 => Attribute::Rand(sixteen()?),
        2 => Attribute::Autn(sixteen()?),
        3 => {
            // RFC 4187, 10.8: 32 to 128 bits.
            if !number.is_multiple_of(8) || !(32..=128).contains(&number) {
                return Err(PacketError::AttributeValue(kind));
            }
            let length = usize::from(number / 8);
            let is_shortest = rest.len() < length + 4;
            Attribute::Res(rest.get(..length).filter(|_| is_shortest).ok_or_else(wrong)?.to_vec())
        }
        4 => Attribute::Auts(value.try_into().map_err(|_| wrong())?),
        6 => {
            if !matches!(value.len(), 2 | 6 | 10) {
                return Err(wrong());
            }
            if value.iter().any(|byte| *byte != 0) {
                return Err(PacketError::AttributeValue(kind));
            }
            Attribute::Padding(value.len() as u8 + 2)
        }
        10 => alone().map(|_| Attribute::PermanentIdReq)?,
        11 => Attribute::Mac(sixteen()?),
        12 => Attribute::Notification(alone()?),
        13 => alone().map(|_| Attribute::AnyIdReq)?,
        14 => Attribute::Identity(counted()?),
        17 => alone().map(|_| Attribute::FullauthIdReq)?,
        19 => Attribute::Counter(alone()?),
        20 => alone().map(|_| Attribute::CounterTooSmall)?,
        21 => Attribute::NonceS(sixteen()?),
        22 => Attribute::ClientErrorCode(alone()?),
        23 => Attribute::KdfInput(counted()?),
        24 => Attribute::Kdf(alone()?),
        129 => Attribute::Iv(sixteen()?),
        130 => Attribute::EncrData(rest.to_vec()),
        132 => Attribute::NextPseudonym(counted()?),
        133 => Attribute::NextReauthId(counted()?),
        134 => match rest.len() {
            0 | 20 | 32 => Attribute::Checkcode(rest.to_vec()),
            _ => return Err(wrong()),
        },
        135 => alone().map(|_| Attribute::ResultInd)?,
        128..=255 => Attribute::Skipped(kind),
        _ => return Err(PacketError::Unknown(kind)),
    })
}

/// Writes attributes one after the other.
pub fn encode_attributes(attributes: &[Attribute], bytes: &mut Vec<u8>) {
    for attribute in attributes {
        encode_attribute(attribute, bytes);
    }
}

fn encode_attribute(attribute: &Attribute, bytes: &mut Vec<u8>) {
    let none = [0, 0];
    let count = |value: &[u8]| (value.len() as u16).to_be_bytes();
    match attribute {
        Attribute::Rand(value) => put(1, none, value, bytes),
        Attribute::Autn(value) => put(2, none, value, bytes),
        Attribute::Res(value) => put(3, (value.len() as u16 * 8).to_be_bytes(), value, bytes),
        Attribute::Auts(value) => put(4, [value[0], value[1]], &value[2..], bytes),
        Attribute::Padding(length) => {
            put(6, none, &[0; 12][..usize::from(*length).clamp(4, 12) - 4], bytes);
        }
        Attribute::PermanentIdReq => put(10, none, &[], bytes),
        Attribute::Mac(value) => put(11, none, value, bytes),
        Attribute::Notification(code) => put(12, code.to_be_bytes(), &[], bytes),
        Attribute::AnyIdReq => put(13, none, &[], bytes),
        Attribute::Identity(value) => put(14, count(value), value, bytes),
        Attribute::FullauthIdReq => put(17, none, &[], bytes),
        Attribute::Counter(counter) => put(19, counter.to_be_bytes(), &[], bytes),
        Attribute::CounterTooSmall => put(20, none, &[], bytes),
        Attribute::NonceS(value) => put(21, none, value, bytes),
        Attribute::ClientErrorCode(code) => put(22, code.to_be_bytes(), &[], bytes),
        Attribute::KdfInput(value) => put(23, count(value), value, bytes),
        Attribute::Kdf(function) => put(24, function.to_be_bytes(), &[], bytes),
        Attribute::Iv(value) => put(129, none, value, bytes),
        Attribute::EncrData(value) => put(130, none, value, bytes),
        Attribute::NextPseudonym(value) => put(132, count(value), value, bytes),
        Attribute::NextReauthId(value) => put(133, count(value), value, bytes),
        Attribute::Checkcode(value) => put(134, none, value, bytes),
        Attribute::ResultInd => put(135, none, &[], bytes),
        Attribute::Skipped(kind) => put(*kind, none, &[], bytes),
    }
}

/// Type, length in words, two bytes, the value padded to whole words. The length is never 0: a value too long for it
/// is cut, and our own are far below.
fn put(kind: u8, first: [u8; 2], value: &[u8], bytes: &mut Vec<u8>) {
    let value = &value[..value.len().min(VALUE_BYTES_MAX)];
    let words = 1 + value.len().div_ceil(4);
    bytes.extend([kind, words as u8]);
    bytes.extend(first);
    bytes.extend(value);
    bytes.resize(bytes.len() + (words - 1) * 4 - value.len(), 0);
}

/// 255 words without the first.
const VALUE_BYTES_MAX: usize = 254 * 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        hex::decode(hex).unwrap()
    }

    /// A recorded exchange: head, then each attribute.
    #[test]
    fn recorded_packets() {
        let challenge = bytes(concat!(
            "0101004817010000",
            "010500001cd253d1db4127d7b42d5e1e5608cf92",
            "02050000214160e0b9958000a53a44a45d64aa6b",
            "86010000",
            "0b05000000b522230c292e973bc4a72f29d126fa"
        ));
        let packet = Packet::decode(&challenge).unwrap();
        assert_eq!(packet.attributes[2], Attribute::Checkcode(Vec::new()));
        assert_eq!(packet.encode(), challenge);
        assert_eq!(mac_place(&challenge), Some(56));
        let failure = bytes("0201001817040000040413283782be7392d19e1e58bbe389");
        let packet = Packet::decode(&failure).unwrap();
        assert_eq!(packet.subtype, Subtype::SynchronizationFailure);
        assert_eq!(
            packet.attributes,
            [Attribute::Auts(bytes("13283782be7392d19e1e58bbe389").try_into().unwrap())]
        );
        assert_eq!(packet.encode(), failure);
        let response =
            bytes("0202002c1701000003030040114c0df9606c4e97860100000b050000938e6a628cfdcb3de2d383e91d602efa");
        let packet = Packet::decode(&response).unwrap();
        assert_eq!(
            packet.attributes[..2],
            [Attribute::Res(bytes("114c0df9606c4e97")), Attribute::Checkcode(Vec::new())]
        );
        assert_eq!(packet.encode(), response);
        assert_eq!(mac_place(&response), Some(28));
    }

    fn with(attributes: &str) -> Result<Packet, PacketError> {
        let mut packet = bytes("0201000017010000");
        packet.extend(bytes(attributes));
        let length = packet.len() as u16;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        Packet::decode(&packet)
    }

    #[test]
    fn bad_packets_say_what_is_wrong() {
        assert_eq!(
            Packet::decode(&bytes("0201000917010000")),
            Err(PacketError::Length { said: 9, found: 8 })
        );
        assert_eq!(
            Packet::decode(&bytes("020100081701000000")),
            Err(PacketError::Length { said: 8, found: 9 })
        );
        assert!(matches!(Packet::decode(&bytes("02010004")), Err(PacketError::Length { .. })));
        assert_eq!(Packet::decode(&bytes("0301000817010000")), Err(PacketError::Code(3)));
        assert_eq!(Packet::decode(&bytes("0201000803010000")), Err(PacketError::Method(3)));
        assert_eq!(Packet::decode(&bytes("0201000817030000")), Err(PacketError::Subtype(3)));
        let mac = "0b05000000000000000000000000000000000000";
        assert_eq!(with(&format!("{mac}{mac}")), Err(PacketError::Repeated(11)));
        // Length 0, beyond the end, unlike the type's.
        assert_eq!(with("0300000000000000"), Err(PacketError::AttributeLength(3)));
        assert_eq!(with("0303000000000000"), Err(PacketError::AttributeLength(3)));
        assert_eq!(with("0b04000000000000000000000000000000"), Err(PacketError::AttributeLength(11)));
        // RES of 0 and of 17 bytes, of 33 bits, longer than its attribute, padded by a word too many.
        assert_eq!(with("03010000"), Err(PacketError::AttributeValue(3)));
        assert_eq!(
            with("0306008800000000000000000000000000000000000000"),
            Err(PacketError::AttributeLength(3))
        );
        assert_eq!(
            with("030600880000000000000000000000000000000000000000"),
            Err(PacketError::AttributeValue(3))
        );
        assert_eq!(
            with("0303002100000000000000 00".replace(' ', "").as_str()),
            Err(PacketError::AttributeValue(3))
        );
        assert_eq!(with("030200400000000 0".replace(' ', "").as_str()), Err(PacketError::AttributeLength(3)));
        assert_eq!(
            with("03030020000000000000000 0".replace(' ', "").as_str()),
            Err(PacketError::AttributeLength(3))
        );
        // AUTS of 13 bytes: the length in words does not fit.
        assert!(with("040413283782be7392d19e1e58bbe3").is_err());
        assert_eq!(
            with("0403132837 82be7392d19e".replace(' ', "").as_str()),
            Err(PacketError::AttributeLength(4))
        );
        // Unknown below 128 is refused, above it is passed over.
        assert_eq!(with("7f010000"), Err(PacketError::Unknown(127)));
        assert_eq!(with("80010000").unwrap().attributes, [Attribute::Skipped(128)]);
        assert_eq!(with(&"18010001".repeat(33)), Err(PacketError::TooMany));
        assert_eq!(with("18010001 18010002".replace(' ', "").as_str()).unwrap().attributes.len(), 2);
    }

    #[test]
    fn no_attribute_is_written_with_length_0() {
        let all = [
            Attribute::Identity(Vec::new()),
            Attribute::Res(vec![1; 4]),
            Attribute::Padding(4),
            Attribute::Padding(12),
            Attribute::EncrData(Vec::new()),
            Attribute::NextPseudonym(vec![b'2'; 2_000]),
            Attribute::ResultInd,
        ];
        let mut written = Vec::new();
        for attribute in all {
            written.clear();
            encode_attribute(&attribute, &mut written);
            assert!(written[1] > 0 && written.len() == 4 * usize::from(written[1]));
        }
    }
}
