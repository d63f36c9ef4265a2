//! GSUP: how network elements (VLR, MSC, SGSN) speak to a subscriber register of the Osmocom kind, framed by IPA.
//!
//! | procedure | who asks | request | result |
//! |---|---|---|---|
//! | SEND AUTH INFO | network element | IMSI, AUTS after a refusal | vectors |
//! | UPDATE LOCATION | network element | IMSI | nothing; INSERT DATA comes before it |
//! | INSERT DATA | register | MSISDN | nothing |
//! | LOCATION CANCEL | register | why | nothing |
//! | PURGE MS | network element | IMSI | nothing |
//!
//! A type octet is that of the request, one more for an error, two more for the result. Then information elements:
//! tag, length (one octet), value. Unknown elements are passed over.

pub mod ipa;

use std::fmt;

use crate::aka::{Vector, gsm_key, gsm_response};
use crate::ids::{Imsi, Msisdn, tbcd};

/// Most vectors in one message.
pub const VECTORS_MAX: usize = 5;

/// Information elements.
mod tag {
    pub const IMSI: u8 = 0x01;
    pub const CAUSE: u8 = 0x02;
    pub const AUTH_TUPLE: u8 = 0x03;
    pub const CANCEL_TYPE: u8 = 0x06;
    pub const MSISDN: u8 = 0x08;
    pub const RAND: u8 = 0x20;
    pub const SRES: u8 = 0x21;
    pub const KC: u8 = 0x22;
    pub const IK: u8 = 0x23;
    pub const CK: u8 = 0x24;
    pub const AUTN: u8 = 0x25;
    pub const AUTS: u8 = 0x26;
    pub const RES: u8 = 0x27;
    pub const CN_DOMAIN: u8 = 0x28;
}

/// Causes of a refusal (3GPP TS 24.008, 10.5.5.14).
pub mod cause {
    /// The register does not know the IMSI.
    pub const IMSI_UNKNOWN: u8 = 0x02;
    /// The subscriber has no access in this domain.
    pub const NOT_ALLOWED: u8 = 0x07;
    /// The network cannot tell now.
    pub const NETWORK_FAILURE: u8 = 0x11;
    /// The message makes no sense here.
    pub const SEMANTICALLY_INCORRECT: u8 = 0x5F;
}

/// What a message belongs to. The value is the type octet of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Procedure {
    /// A network element says that a subscriber is with it.
    UpdateLocation = 0x04,
    /// A network element wants vectors.
    SendAuthInfo = 0x08,
    /// A network element has forgotten a subscriber.
    Purge = 0x0C,
    /// The register says what a network element has to know.
    InsertData = 0x10,
    /// The register says that a subscriber has no access any more: how OsmoHLR withdraws it.
    DeleteData = 0x14,
    /// The register says that a subscriber is elsewhere, or has no access any more.
    LocationCancel = 0x1C,
}

impl Procedure {
    const ALL: [Self; 6] = [
        Self::UpdateLocation,
        Self::SendAuthInfo,
        Self::Purge,
        Self::InsertData,
        Self::DeleteData,
        Self::LocationCancel,
    ];
}

/// Which half of the core network asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Domain {
    /// Data.
    PacketSwitched = 1,
    /// Calls and short messages.
    CircuitSwitched = 2,
}

/// Why a location is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CancelType {
    /// The subscriber is with another network element.
    Update = 0,
    /// The subscription has no access any more.
    Withdrawn = 1,
}

/// A message about one subscriber.
#[derive(Debug)]
pub struct Message {
    /// Who.
    pub imsi: Imsi,
    /// What.
    pub body: Body,
}

/// What a message says.
pub enum Body {
    /// Vectors are wanted.
    SendAuthInfo {
        /// For which half of the core network.
        domain: Option<Domain>,
        /// RAND of the challenge that the card refused, and its AUTS.
        resynchronisation: Option<([u8; 16], [u8; 14])>,
    },
    /// Vectors, at least one and at most [`VECTORS_MAX`].
    AuthInfo(Vec<Vector>),
    /// The subscriber is here.
    UpdateLocation {
        /// For which half of the core network; where it is not said, data.
        domain: Option<Domain>,
    },
    /// What the network element has to know.
    InsertData {
        /// The number.
        msisdn: Option<Msisdn>,
        /// For which half of the core network.
        domain: Option<Domain>,
    },
    /// The subscriber has no access any more.
    DeleteData {
        /// For which half of the core network.
        domain: Option<Domain>,
    },
    /// The subscriber is no longer to be served.
    LocationCancel {
        /// Why.
        cancel: CancelType,
        /// For which half of the core network.
        domain: Option<Domain>,
    },
    /// The network element has forgotten the subscriber.
    Purge {
        /// For which half of the core network.
        domain: Option<Domain>,
    },
    /// The result of a procedure that brings nothing else; never [`Procedure::SendAuthInfo`].
    Done(Procedure),
    /// A procedure was refused.
    Failed {
        /// Which.
        procedure: Procedure,
        /// One of [`cause`], or another of TS 24.008.
        cause: u8,
    },
}

/// A message that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GsupError {
    /// No type.
    #[error("the message is empty")]
    Empty,
    /// Not one of ours.
    #[error("type {0:02X} is not known here: ignore the message")]
    Type(u8),
    /// An element ends behind the message.
    #[error("element {0:02X} is longer than the message: the sender is broken")]
    Cut(u8),
    /// An element that has to be there is not.
    #[error("element {0:02X} is missing: the sender is broken")]
    Missing(u8),
    /// An element cannot be what it is.
    #[error("element {0:02X} has a value that cannot be: the sender is broken")]
    Value(u8),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SendAuthInfo { domain, resynchronisation } => f
                .debug_struct("SendAuthInfo")
                .field("domain", domain)
                .field("resynchronisation", &resynchronisation.is_some())
                .finish(),
            // Vectors hold keys.
            Self::AuthInfo(vectors) => write!(f, "AuthInfo({} vectors)", vectors.len()),
            Self::UpdateLocation { domain } => write!(f, "UpdateLocation({domain:?})"),
            Self::InsertData { msisdn, domain } => {
                f.debug_struct("InsertData").field("msisdn", msisdn).field("domain", domain).finish()
            }
            Self::DeleteData { domain } => write!(f, "DeleteData({domain:?})"),
            Self::LocationCancel { cancel, domain } => write!(f, "LocationCancel({cancel:?}, {domain:?})"),
            Self::Purge { domain } => write!(f, "Purge({domain:?})"),
            Self::Done(procedure) => write!(f, "Done({procedure:?})"),
            Self::Failed { procedure, cause } => write!(f, "Failed({procedure:?}, {cause:02X})"),
        }
    }
}

impl Message {
    /// A refusal of this request.
    pub fn failed(imsi: Imsi, procedure: Procedure, cause: u8) -> Self {
        Self { imsi, body: Body::Failed { procedure, cause } }
    }

    /// What the message belongs to.
    pub fn procedure(&self) -> Procedure {
        match self.body {
            Body::SendAuthInfo { .. } | Body::AuthInfo(_) => Procedure::SendAuthInfo,
            Body::UpdateLocation { .. } => Procedure::UpdateLocation,
            Body::InsertData { .. } => Procedure::InsertData,
            Body::DeleteData { .. } => Procedure::DeleteData,
            Body::LocationCancel { .. } => Procedure::LocationCancel,
            Body::Purge { .. } => Procedure::Purge,
            Body::Done(procedure) | Body::Failed { procedure, .. } => procedure,
        }
    }

    /// The octets, without IPA.
    pub fn encode(&self) -> Vec<u8> {
        let request = self.procedure() as u8;
        let kind = match self.body {
            Body::Failed { .. } => request + 1,
            Body::AuthInfo(_) | Body::Done(_) => request + 2,
            _ => request,
        };
        let mut message = vec![kind];
        push(&mut message, tag::IMSI, &digits(&self.imsi.to_string()));
        match &self.body {
            Body::SendAuthInfo { domain, resynchronisation } => {
                push_domain(&mut message, *domain);
                if let Some((rand, auts)) = resynchronisation {
                    push(&mut message, tag::AUTS, auts);
                    push(&mut message, tag::RAND, rand);
                }
            }
            Body::AuthInfo(vectors) => {
                for vector in vectors.iter().take(VECTORS_MAX) {
                    push(&mut message, tag::AUTH_TUPLE, &encode_vector(vector));
                }
            }
            Body::UpdateLocation { domain } | Body::Purge { domain } | Body::DeleteData { domain } => {
                push_domain(&mut message, *domain);
            }
            Body::InsertData { msisdn, domain } => {
                if let Some(msisdn) = msisdn {
                    // With its own length inside, as OsmoHLR writes it.
                    let number = digits(&msisdn.to_string());
                    push(&mut message, tag::MSISDN, &[&[number.len() as u8], &number[..]].concat());
                }
                push_domain(&mut message, *domain);
            }
            Body::LocationCancel { cancel, domain } => {
                push(&mut message, tag::CANCEL_TYPE, &[*cancel as u8]);
                push_domain(&mut message, *domain);
            }
            Body::Done(_) => {}
            Body::Failed { cause, .. } => push(&mut message, tag::CAUSE, &[*cause]),
        }
        message
    }

    /// Reads the octets of a message, without IPA.
    ///
    /// # Errors
    /// See [`GsupError`]; a message of another type is for nobody here.
    pub fn decode(message: &[u8]) -> Result<Self, GsupError> {
        let (&kind, elements) = message.split_first().ok_or(GsupError::Empty)?;
        let request =
            Procedure::ALL.into_iter().find(|procedure| (0..=2).contains(&offset(kind, *procedure)));
        let procedure = request.ok_or(GsupError::Type(kind))?;
        let elements = Elements::read(elements)?;
        let imsi = elements.one(tag::IMSI)?;
        let imsi = tbcd::decode(imsi).parse().map_err(|_| GsupError::Value(tag::IMSI))?;
        let body = match (offset(kind, procedure), procedure) {
            (0, _) => elements.request(procedure)?,
            (1, _) => Body::Failed { procedure, cause: elements.octet(tag::CAUSE)? },
            (_, Procedure::SendAuthInfo) => Body::AuthInfo(elements.vectors()?),
            (_, _) => Body::Done(procedure),
        };
        Ok(Self { imsi, body })
    }
}

/// How far a type lies behind the request of a procedure.
fn offset(kind: u8, procedure: Procedure) -> u8 {
    kind.wrapping_sub(procedure as u8)
}

/// The elements of a message, in their order.
struct Elements<'a>(Vec<(u8, &'a [u8])>);

impl<'a> Elements<'a> {
    fn read(mut rest: &'a [u8]) -> Result<Self, GsupError> {
        let mut elements = Vec::new();
        while let [tag, after @ ..] = rest {
            let (length, after) = after.split_first().ok_or(GsupError::Cut(*tag))?;
            let (value, after) = after.split_at_checked(usize::from(*length)).ok_or(GsupError::Cut(*tag))?;
            elements.push((*tag, value));
            rest = after;
        }
        Ok(Self(elements))
    }

    fn find(&self, tag: u8) -> Option<&'a [u8]> {
        self.0.iter().find(|(found, _)| *found == tag).map(|(_, value)| *value)
    }

    fn one(&self, tag: u8) -> Result<&'a [u8], GsupError> {
        self.find(tag).ok_or(GsupError::Missing(tag))
    }

    fn octet(&self, tag: u8) -> Result<u8, GsupError> {
        match self.one(tag)? {
            [octet] => Ok(*octet),
            _ => Err(GsupError::Value(tag)),
        }
    }

    fn array<const N: usize>(&self, tag: u8) -> Result<[u8; N], GsupError> {
        self.one(tag)?.try_into().map_err(|_| GsupError::Value(tag))
    }

    fn domain(&self) -> Result<Option<Domain>, GsupError> {
        match self.find(tag::CN_DOMAIN) {
            None => Ok(None),
            Some([1]) => Ok(Some(Domain::PacketSwitched)),
            Some([2]) => Ok(Some(Domain::CircuitSwitched)),
            Some(_) => Err(GsupError::Value(tag::CN_DOMAIN)),
        }
    }

    fn request(&self, procedure: Procedure) -> Result<Body, GsupError> {
        let domain = self.domain()?;
        Ok(match procedure {
            Procedure::SendAuthInfo => {
                let resynchronisation = match self.find(tag::AUTS) {
                    Some(_) => Some((self.array(tag::RAND)?, self.array(tag::AUTS)?)),
                    None => None,
                };
                Body::SendAuthInfo { domain, resynchronisation }
            }
            Procedure::UpdateLocation => Body::UpdateLocation { domain },
            Procedure::Purge => Body::Purge { domain },
            Procedure::InsertData => Body::InsertData { msisdn: self.msisdn()?, domain },
            Procedure::DeleteData => Body::DeleteData { domain },
            Procedure::LocationCancel => {
                let cancel = match self.find(tag::CANCEL_TYPE) {
                    None | Some([0]) => CancelType::Update,
                    Some([1]) => CancelType::Withdrawn,
                    Some(_) => return Err(GsupError::Value(tag::CANCEL_TYPE)),
                };
                Body::LocationCancel { cancel, domain }
            }
        })
    }

    /// OsmoHLR writes a length before the digits, inside the element. A subscriber without a number has none here.
    fn msisdn(&self) -> Result<Option<Msisdn>, GsupError> {
        let digits = match self.find(tag::MSISDN) {
            None | Some([] | [0]) => return Ok(None),
            Some([length, digits @ ..]) if usize::from(*length) == digits.len() => digits,
            Some(digits) => digits,
        };
        tbcd::decode(digits).parse().map(Some).map_err(|_| GsupError::Value(tag::MSISDN))
    }

    fn vectors(&self) -> Result<Vec<Vector>, GsupError> {
        let tuples = self.0.iter().filter(|(found, _)| *found == tag::AUTH_TUPLE);
        let vectors: Result<Vec<_>, _> = tuples.map(|(_, tuple)| decode_vector(tuple)).collect();
        match vectors?.into_iter().take(VECTORS_MAX).collect::<Vec<_>>() {
            vectors if vectors.is_empty() => Err(GsupError::Missing(tag::AUTH_TUPLE)),
            vectors => Ok(vectors),
        }
    }
}

/// SRES and Kc for phones of the second generation go with it (3GPP TS 33.102, 6.8.1.2).
fn encode_vector(vector: &Vector) -> zeroize::Zeroizing<Vec<u8>> {
    let mut tuple = zeroize::Zeroizing::new(Vec::with_capacity(98));
    push(&mut tuple, tag::RAND, &vector.rand);
    push(&mut tuple, tag::SRES, &gsm_response(&vector.xres));
    push(&mut tuple, tag::KC, &gsm_key(&vector.ck, &vector.ik));
    push(&mut tuple, tag::IK, &vector.ik);
    push(&mut tuple, tag::CK, &vector.ck);
    push(&mut tuple, tag::AUTN, &vector.autn);
    push(&mut tuple, tag::RES, &vector.xres);
    tuple
}

fn decode_vector(tuple: &[u8]) -> Result<Vector, GsupError> {
    let elements = Elements::read(tuple)?;
    Ok(Vector {
        rand: elements.array(tag::RAND)?,
        autn: elements.array(tag::AUTN)?,
        xres: elements.array(tag::RES)?,
        ck: elements.array(tag::CK)?,
        ik: elements.array(tag::IK)?,
    })
}

fn push_domain(message: &mut Vec<u8>, domain: Option<Domain>) {
    if let Some(domain) = domain {
        push(message, tag::CN_DOMAIN, &[domain as u8]);
    }
}

/// No element of ours is longer than a tuple, 98 octets.
fn push(message: &mut Vec<u8>, tag: u8, value: &[u8]) {
    message.extend_from_slice(&[tag, value.len() as u8]);
    message.extend_from_slice(value);
}

/// Swapped nibbles with a filler.
fn digits(text: &str) -> Vec<u8> {
    let digit = |byte: &u8| byte.wrapping_sub(b'0') & 0x0F;
    text.as_bytes()
        .chunks(2)
        .map(|pair| digit(&pair[0]) | pair.get(1).map_or(0xF0, |high| digit(high) << 4))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAND: &str = "23553cbe9637a89d218ae64dae47bf35";

    fn imsi() -> Imsi {
        "001010000000001".parse().unwrap()
    }

    fn round_trip(hexadecimal: &str) -> Message {
        let octets = hex::decode(hexadecimal).unwrap();
        let message = Message::decode(&octets).unwrap();
        assert_eq!(hex::encode(message.encode()), hexadecimal, "{message:?}");
        message
    }

    #[test]
    fn requests_for_vectors() {
        let message = round_trip("080108001010000000 00f1280102".replace(' ', "").as_str());
        assert_eq!(message.imsi, "000101000000001f"[..15].parse::<Imsi>().unwrap());
        let message = Message {
            imsi: imsi(),
            body: Body::SendAuthInfo {
                domain: Some(Domain::CircuitSwitched),
                resynchronisation: Some(([0x11; 16], [0x22; 14])),
            },
        };
        let octets = hex::encode(message.encode());
        assert_eq!(
            octets,
            format!("08010800010100000000f1280102260e{}2010{}", "22".repeat(14), "11".repeat(16))
        );
        round_trip(&octets);
    }

    #[test]
    fn vectors_come_as_tuples_of_98_octets() {
        let tuple = format!(
            "2010{RAND}210446f8416a220 8eae4be823af9a08b2310{}2410{}2510{}2708a54211d5e3ba50bf",
            "f769bcd751044604127672711c6d3441",
            "b40ba9a3c58b2a05bbf0d987b21bf8cb",
            "55f328b43577b9b94a9ffac354dfafb3",
        )
        .replace(' ', "");
        let message = round_trip(&format!("0a010800010100000000f1{}", format!("0362{tuple}").repeat(5)));
        let Body::AuthInfo(vectors) = message.body else { panic!("{message:?}") };
        assert_eq!(vectors.len(), 5);
        // 3GPP TS 35.207, test set 1.
        assert_eq!(hex::encode(vectors[4].rand), RAND);
        assert_eq!(hex::encode(vectors[4].xres), "a54211d5e3ba50bf");
        let printed = format!("{:?}", Body::AuthInfo(vectors));
        assert_eq!(printed, "AuthInfo(5 vectors)");
    }

    #[test]
    fn the_other_procedures() {
        for (text, shown) in [
            ("04010800010100000000f1280102", "UpdateLocation(Some(CircuitSwitched))"),
            ("06010800010100000000f1", "Done(UpdateLocation)"),
            ("05010800010100000000f1020102", "Failed(UpdateLocation, 02)"),
            ("09010800010100000000f1020111", "Failed(SendAuthInfo, 11)"),
            ("12010800010100000000f1", "Done(InsertData)"),
            ("1c010800010100000000f1060101280102", "LocationCancel(Withdrawn, Some(CircuitSwitched))"),
            ("1e010800010100000000f1", "Done(LocationCancel)"),
            ("14010800010100000000f1280102", "DeleteData(Some(CircuitSwitched))"),
            ("16010800010100000000f1", "Done(DeleteData)"),
            ("0c010800010100000000f1280101", "Purge(Some(PacketSwitched))"),
            ("0e010800010100000000f1", "Done(Purge)"),
        ] {
            assert_eq!(format!("{:?}", round_trip(text).body), shown);
        }
    }

    #[test]
    fn numbers_with_and_without_a_length_inside() {
        let number = "436641234567".parse().ok();
        for inside in ["0806346614325476", "0807063466143254 76"] {
            let text = format!("10010800010100000000f1{inside}280102").replace(' ', "");
            match Message::decode(&hex::decode(text).unwrap()).unwrap().body {
                Body::InsertData { msisdn, domain } => {
                    assert_eq!((msisdn, domain), (number, Some(Domain::CircuitSwitched)));
                }
                other => panic!("{other:?}"),
            }
        }
        round_trip("10010800010100000000f1080706346614325476280102");
        round_trip("10010800010100000000f1");
    }

    #[test]
    fn what_cannot_be_read() {
        for (text, error) in [
            ("", GsupError::Empty),
            ("07010800010100000000f1", GsupError::Type(0x07)),
            ("ff", GsupError::Type(0xFF)),
            ("0801", GsupError::Cut(0x01)),
            ("08010900010100000000f1", GsupError::Cut(0x01)),
            ("08280102", GsupError::Missing(0x01)),
            ("080101aa", GsupError::Value(0x01)),
            ("0a010800010100000000f1", GsupError::Missing(0x03)),
            ("0a010800010100000000f103022000", GsupError::Value(0x20)),
            ("09010800010100000000f1", GsupError::Missing(0x02)),
            ("08010800010100000000f1260d00000000000000000000000000", GsupError::Missing(0x20)),
            ("08010800010100000000f1280103", GsupError::Value(0x28)),
        ] {
            assert_eq!(Message::decode(&hex::decode(text).unwrap()).err(), Some(error), "{text}");
        }
        let padded = Message::decode(&hex::decode("0c010800010100000000f17f03aabbcc").unwrap()).unwrap();
        assert_eq!(padded.imsi, imsi(), "unknown elements are passed over");
    }
}
