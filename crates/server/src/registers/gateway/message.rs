//! The typed verbs as JSON: one request, one answer that names the request it belongs to.

use serde::{Deserialize, Serialize};
use simtide_protocol::aka::Vector;
use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
use simtide_protocol::ids::{CardId, ChangeId, Imsi, Msisdn};
use zeroize::Zeroizing;

use super::super::{PoolState, RegisterError, Seen};
use super::transport::{Purpose, TransportKey};

/// Largest body of a request or an answer, in bytes.
pub const BODY_BYTES_MAX: usize = 16_384;
/// Bytes of one vector in a record: RAND, AUTN, XRES, CK, IK.
const VECTOR_BYTES: usize = 16 + 16 + 8 + 16 + 16;

/// A request: `POST /v1/register`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Drawn for this request, 16 hex digits: the answer repeats it.
    pub request: ChangeIdText,
    /// What is wanted.
    pub ask: Ask,
}

/// Eight bytes as 16 hex digits.
pub type ChangeIdText = ChangeId;

/// The verbs. Keys stand in them as records of the transport key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// See [`super::super::Register::reserve`].
    Reserve {
        /// The change: the key of everything that is done for it.
        change: ChangeId,
        /// The card.
        card: CardId,
    },
    /// See [`super::super::Register::arm`].
    Arm {
        /// The change.
        change: ChangeId,
        /// Its identity.
        imsi: Imsi,
    },
    /// See [`super::super::Register::vectors`].
    Vectors {
        /// Whose.
        imsi: Imsi,
        /// How many.
        count: u8,
        /// RAND of the refused challenge, as hex; with `auts`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rand: Option<String>,
        /// AUTS of the card, as hex; with `rand`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        auts: Option<String>,
        /// For AKA'.
        #[serde(default)]
        aka_prime: bool,
    },
    /// See [`super::super::Register::watch`].
    Watch {
        /// Whom.
        imsi: Imsi,
    },
    /// See [`super::super::Register::withdraw`].
    Withdraw {
        /// For which change.
        change: ChangeId,
        /// Whom.
        imsi: Imsi,
    },
    /// See [`super::super::Register::retire`].
    Retire {
        /// For which change.
        change: ChangeId,
        /// Whom.
        imsi: Imsi,
    },
    /// See [`super::super::Register::release`].
    Release {
        /// The change.
        change: ChangeId,
        /// Its identity.
        imsi: Imsi,
    },
    /// See [`super::super::Register::provision`].
    Provision {
        /// The card.
        card: CardId,
        /// Its identity.
        imsi: Imsi,
        /// milenage or tuak.
        algorithm: String,
        /// K and OPc, a record to the register for this card.
        keys: String,
        /// Its number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        msisdn: Option<Msisdn>,
    },
    /// See [`super::super::Register::pool`].
    Pool {},
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// The request that it belongs to.
    pub request: ChangeIdText,
    /// What came of it.
    pub answer: Told,
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Told {
    /// To `reserve`.
    Identity {
        /// The change that it is for.
        change: ChangeId,
        /// The identity.
        imsi: Imsi,
        /// milenage or tuak.
        algorithm: String,
        /// K and OPc, a record to the platform for this change.
        keys: String,
        /// Its number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        msisdn: Option<Msisdn>,
    },
    /// To `vectors`.
    Vectors {
        /// Whose.
        imsi: Imsi,
        /// A record to the platform for this request.
        vectors: String,
    },
    /// To `watch`.
    Seen {
        /// Whom.
        imsi: Imsi,
        /// What is known.
        #[serde(flatten)]
        seen: SeenText,
    },
    /// To `pool`.
    Pool {
        /// Its state.
        pool: PoolState,
    },
    /// To everything else.
    Done {},
    /// It was not done, or is not known to be.
    Error {
        /// unreachable, unknown, not-found, conflict, exhausted, refused or invalid.
        error: String,
        /// For people.
        #[serde(default)]
        reason: String,
    },
}

/// [`Seen`] inside an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenText {
    /// It is in the register.
    pub known: bool,
    /// A network element has it attached.
    pub attached: bool,
}

impl From<Seen> for SeenText {
    fn from(seen: Seen) -> SeenText {
        SeenText { known: seen.known, attached: seen.attached }
    }
}

impl Told {
    /// An error as it is told.
    pub fn error(error: &RegisterError) -> Told {
        let (kind, reason) = match error {
            RegisterError::Unreachable(reason) => ("unreachable", reason.as_str()),
            RegisterError::Unknown(reason) => ("unknown", reason.as_str()),
            RegisterError::NotFound => ("not-found", ""),
            RegisterError::Conflict(reason) => ("conflict", reason.as_str()),
            RegisterError::Exhausted => ("exhausted", ""),
            RegisterError::Refused(reason) => ("refused", reason.as_str()),
            RegisterError::Invalid(reason) => ("invalid", reason.as_str()),
        };
        Told::Error { error: kind.to_owned(), reason: reason.to_owned() }
    }
}

/// The error that was told.
pub fn error_of(kind: &str, reason: String) -> RegisterError {
    match kind {
        "unreachable" => RegisterError::Unreachable(reason),
        "not-found" => RegisterError::NotFound,
        "conflict" => RegisterError::Conflict(reason),
        "exhausted" => RegisterError::Exhausted,
        "refused" => RegisterError::Refused(reason),
        "invalid" => RegisterError::Invalid(reason),
        // Of a word that we do not know we know nothing.
        _ => RegisterError::Unknown(reason),
    }
}

/// Reads an answer to a request; an error that the register tells is one.
///
/// # Errors
/// [`RegisterError::Invalid`] for what is no answer, or another request's.
pub fn read_reply(request: ChangeId, body: &[u8]) -> Result<Told, RegisterError> {
    let invalid = |why: String| RegisterError::Invalid(why);
    if body.len() > BODY_BYTES_MAX {
        return Err(invalid(format!("an answer of more than {BODY_BYTES_MAX} bytes")));
    }
    let reply: Reply = serde_json::from_slice(body)
        .map_err(|_| invalid("a body that is no answer of a register gateway".to_owned()))?;
    if reply.request != request {
        return Err(invalid("the answer to another request".to_owned()));
    }
    Ok(reply.answer)
}

/// The name of an algorithm.
pub fn algorithm_of(name: &str) -> Result<AuthenticationAlgorithm, RegisterError> {
    let known = AuthenticationAlgorithm::NAMES.iter().find(|(_, of)| *of == name);
    let unknown = || RegisterError::Invalid("an algorithm that is neither milenage nor tuak".to_owned());
    known.map(|(algorithm, _)| *algorithm).ok_or_else(unknown)
}

/// Length of K, K, OPc as a record.
pub fn seal_keys(
    key: &TransportKey,
    purpose: Purpose<'_>,
    k: &Secret,
    opc: &Secret,
) -> Result<String, RegisterError> {
    let mut plain = Zeroizing::new(Vec::with_capacity(129));
    // Secrets have at most 64 bytes.
    plain.push(k.as_bytes().len() as u8);
    plain.extend_from_slice(k.as_bytes());
    plain.extend_from_slice(opc.as_bytes());
    key.seal(purpose, &plain)
}

/// Opens a record of [`seal_keys`].
pub fn open_keys(
    key: &TransportKey,
    purpose: Purpose<'_>,
    sealed: &str,
) -> Result<(Secret, Secret), RegisterError> {
    let plain = key.open(purpose, sealed)?;
    let split = plain.split_first().and_then(|(length, rest)| rest.split_at_checked(usize::from(*length)));
    let keys = split.and_then(|(k, opc)| Some((Secret::new(k)?, Secret::new(opc)?)));
    keys.ok_or_else(|| RegisterError::Invalid("a record of keys with another content".to_owned()))
}

/// Vectors as a record.
pub fn seal_vectors(
    key: &TransportKey,
    purpose: Purpose<'_>,
    vectors: &[Vector],
) -> Result<String, RegisterError> {
    let mut plain = Zeroizing::new(Vec::with_capacity(vectors.len() * VECTOR_BYTES));
    for vector in vectors {
        plain.extend_from_slice(&vector.rand);
        plain.extend_from_slice(&vector.autn);
        plain.extend_from_slice(&vector.xres);
        plain.extend_from_slice(&vector.ck);
        plain.extend_from_slice(&vector.ik);
    }
    key.seal(purpose, &plain)
}

/// Opens a record of [`seal_vectors`].
pub fn open_vectors(
    key: &TransportKey,
    purpose: Purpose<'_>,
    sealed: &str,
) -> Result<Vec<Vector>, RegisterError> {
    let plain = key.open(purpose, sealed)?;
    let (records, rest) = plain.as_chunks::<VECTOR_BYTES>();
    if !rest.is_empty() {
        return Err(RegisterError::Invalid("a record of vectors with another length".to_owned()));
    }
    let part = |record: &[u8; VECTOR_BYTES], at: usize| -> [u8; 16] {
        std::array::from_fn(|place| record[at + place])
    };
    let vectors = records.iter().map(|record| Vector {
        rand: part(record, 0),
        autn: part(record, 16),
        xres: std::array::from_fn(|place| record[32 + place]),
        ck: part(record, 40),
        ik: part(record, 56),
    });
    Ok(vectors.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_as_they_stand_on_the_wire() {
        let text = r#"{"request":"00000000000000aa","ask":{"verb":"reserve","change":"0000000000000001","card":"8988211000000000011"}}"#;
        let request: Request = serde_json::from_str(text).unwrap();
        assert_eq!(request.request, ChangeId(0xAA));
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        for wrong in [
            r#"{"request":"aa","ask":{"verb":"pool"}}"#,
            r#"{"request":"00000000000000aa","ask":{"verb":"drop"}}"#,
            r#"{"request":"00000000000000aa","ask":{"verb":"arm","change":"0000000000000001"}}"#,
            r#"{"request":"00000000000000aa","ask":{"verb":"watch","imsi":"001020000000001","x":1}}"#,
            r#"{"ask":{"verb":"pool"}}"#,
        ] {
            assert!(serde_json::from_str::<Request>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_answer_belongs_to_its_request_and_an_error_is_never_done() {
        let request = ChangeId(5);
        let body = |answer: &str| format!(r#"{{"request":"0000000000000005","answer":{answer}}}"#);
        let read = |text: &str| read_reply(request, text.as_bytes());
        assert_eq!(read(&body(r#"{"answer":"done"}"#)), Ok(Told::Done {}));
        let seen = Told::Seen {
            imsi: "001020000000001".parse().unwrap(),
            seen: SeenText { known: true, attached: false },
        };
        let text = body(&serde_json::to_string(&seen).unwrap());
        assert_eq!(read(&text), Ok(seen));
        for error in [
            RegisterError::Unreachable("a".into()),
            RegisterError::Unknown("b".into()),
            RegisterError::NotFound,
            RegisterError::Conflict("c".into()),
            RegisterError::Exhausted,
            RegisterError::Refused("d".into()),
            RegisterError::Invalid("e".into()),
        ] {
            let told = serde_json::to_string(&Told::error(&error)).unwrap();
            let Ok(Told::Error { error: kind, reason }) = read(&body(&told)) else { panic!("no error") };
            assert_eq!(error_of(&kind, reason), error);
        }
        for wrong in [
            String::new(),
            "{}".to_owned(),
            "null".to_owned(),
            r#"{"error":"internal"}"#.to_owned(),
            body(r#"{"answer":"done"}"#).replace("05", "06"),
            body(r#"{"answer":"done","more":1}"#),
            body(&format!(r#"{{"answer":"error","error":"{}"}}"#, "x".repeat(BODY_BYTES_MAX))),
        ] {
            assert!(matches!(read(&wrong), Err(RegisterError::Invalid(_))), "{wrong}");
        }
    }
}
