//! The personalization message: who may write, whom the card becomes, and what changes with it.

use super::files::OperatorFiles;
use super::identity::{Identity, IdentityError, keyed};
use crate::card_file::Secret;
use crate::ids::{CardId, ChangeId, Msisdn};
use crate::tlv::{Reader, find, push, push_with};
use aes::Aes128;
use cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit, block_padding::Iso7816};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Largest message in bytes.
pub const MESSAGE_BYTES_MAX: usize = 2_048;
/// Longest name of an operator, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 32;
/// Longest time that a guarded swap may wait, in seconds: what a timer of a device can hold.
pub const GUARD_S_MAX: u32 = 86_400;
/// Size of an admin code.
pub const ADMIN_CODE_BYTES: usize = 8;

/// The version of this format.
const VERSION: u8 = 1;
/// Bytes of the check value where keys are derived.
const CHECK_BYTES: usize = 16;
const ENCRYPTION_LABEL: &[u8] = b"simtide personalization encryption";
const INTEGRITY_LABEL: &[u8] = b"simtide personalization integrity";

/// Tags of the message and, from `OPTIONS` on, of its body.
mod tag {
    pub(super) const VERSION: u32 = 0x80;
    pub(super) const CHANGE: u32 = 0x81;
    pub(super) const ADMIN_CODE: u32 = 0x82;
    pub(super) const CHECK: u32 = 0x83;
    pub(super) const ENCRYPTED_BODY: u32 = 0x84;
    pub(super) const BODY: u32 = 0xA4;
    pub(super) const OPTIONS: u32 = 0x85;
    pub(super) const GUARD: u32 = 0x86;
    pub(super) const OPERATOR_NAME: u32 = 0x87;
    pub(super) const SERVICE_NUMBER: u32 = 0x88;
    pub(super) const IDENTITY: u32 = 0xA9;
    pub(super) const FILES: u32 = 0xAA;
}

/// How the admin code protects a message; one of the two per card profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// The code stands in the message, inside the secured packet, and the card compares it.
    #[default]
    AdminCode,
    /// The code never travels: keys derived from it encrypt and authenticate the body.
    DerivedKeys,
}

/// What the card is told to do besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Ask the user first: "change to operator X?".
    pub ask_user: bool,
    /// The user has agreed elsewhere: a device without display is no reason to refuse.
    pub agreed: bool,
    /// Keep identity 1 until identity 2 has authenticated, at most so many seconds after the swap.
    pub guard_s: Option<u32>,
    /// A guarded swap also waits until the device says that it is in normal service.
    pub wait_for_service: bool,
}

/// A personalization message. Holds secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The change of operator; a card carries out each once.
    pub change: ChangeId,
    /// What the card is told to do besides.
    pub options: Options,
    /// The operator's name as the user knows it, at most [`NAME_BYTES_MAX`] bytes.
    pub operator_name: String,
    /// Where the card's own messages go from the next identity on; as before where it is not given.
    pub service_number: Option<Msisdn>,
    /// Whom the card becomes.
    pub identity: Identity,
    /// What changes with it.
    pub files: OperatorFiles,
}

/// Why values make no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A text or time is beyond its limit.
    #[error("{what} is out of range: {limit}")]
    Range {
        /// What is too long.
        what: &'static str,
        /// What is allowed.
        limit: &'static str,
    },
    /// The admin code has the wrong size.
    #[error("the admin code has {0} bytes: {ADMIN_CODE_BYTES} belong there")]
    AdminCode(usize),
    /// All together is more than a card takes.
    #[error("the message has {0} bytes, at most {MESSAGE_BYTES_MAX} are allowed: leave out some files")]
    TooLong(usize),
}

/// Why a message does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenFailure {
    /// The admin code is wrong, or the check value under keys derived from it. Counted by the card.
    #[error("the admin code is wrong")]
    WrongCode,
    /// The code is right and the content is not.
    #[error("the message is malformed: {0}")]
    Malformed(&'static str),
    /// The code is right and the identity cannot be used.
    #[error("the identity cannot be used: {0}")]
    Identity(#[from] IdentityError),
}

impl Message {
    /// The bytes for one card, protected by its admin code. The same values give the same bytes.
    ///
    /// # Errors
    /// Texts, times or the whole are beyond their limits.
    pub fn seal(
        &self,
        protection: Protection,
        card: &CardId,
        admin_code: &Secret,
    ) -> Result<Zeroizing<Vec<u8>>, MessageError> {
        let code = admin_code.as_bytes();
        if code.len() != ADMIN_CODE_BYTES {
            return Err(MessageError::AdminCode(code.len()));
        }
        let body = self.body()?;
        let mut out = Zeroizing::new(Vec::with_capacity(body.len() + 64));
        push(&mut out, tag::VERSION, &[VERSION]);
        push(&mut out, tag::CHANGE, &self.change.to_bytes());
        match protection {
            Protection::AdminCode => {
                push(&mut out, tag::ADMIN_CODE, code);
                push(&mut out, tag::BODY, &body);
            }
            Protection::DerivedKeys => {
                let keys = DerivedKeys::new(code, card, self.change);
                let encrypted = keys.encrypt(&body);
                push(&mut out, tag::CHECK, &keys.check(&encrypted));
                push(&mut out, tag::ENCRYPTED_BODY, &encrypted);
            }
        }
        if out.len() > MESSAGE_BYTES_MAX { Err(MessageError::TooLong(out.len())) } else { Ok(out) }
    }

    /// The content without its protection, in the clear: how a card keeps it until the reset.
    ///
    /// # Errors
    /// Texts or times are beyond their limits.
    pub fn body(&self) -> Result<Zeroizing<Vec<u8>>, MessageError> {
        if self.operator_name.is_empty() || self.operator_name.len() > NAME_BYTES_MAX {
            return Err(MessageError::Range { what: "the operator's name", limit: "1 to 32 bytes of UTF-8" });
        }
        let Options { ask_user, agreed, guard_s, wait_for_service } = self.options;
        if guard_s.is_some_and(|guard_s| !(1..=GUARD_S_MAX).contains(&guard_s)) {
            return Err(MessageError::Range { what: "the guard time", limit: "1 s to a day" });
        }
        // Room for everything, so that no secret stays behind in a smaller buffer.
        let mut body = Zeroizing::new(Vec::with_capacity(MESSAGE_BYTES_MAX));
        let flags = u8::from(ask_user) | u8::from(agreed) << 1 | u8::from(wait_for_service) << 2;
        push(&mut body, tag::OPTIONS, &[flags]);
        if let Some(guard_s) = guard_s {
            push(&mut body, tag::GUARD, &guard_s.to_be_bytes());
        }
        push(&mut body, tag::OPERATOR_NAME, self.operator_name.as_bytes());
        if let Some(number) = self.service_number {
            push(&mut body, tag::SERVICE_NUMBER, number.to_string().as_bytes());
        }
        let mut identity = Zeroizing::new(Vec::with_capacity(128));
        self.identity.push(&mut identity);
        push(&mut body, tag::IDENTITY, &identity);
        push_with(&mut body, tag::FILES, |files| self.files.encode(files));
        Ok(body)
    }

    /// Reads [`Message::body`].
    ///
    /// # Errors
    /// The bytes are something else.
    pub fn of_body(change: ChangeId, body: &[u8]) -> Result<Self, OpenFailure> {
        let malformed = OpenFailure::Malformed;
        let Some([flags]) = find(body, tag::OPTIONS) else { return Err(malformed("options")) };
        let guard_s = match find(body, tag::GUARD) {
            None => None,
            Some(bytes) => {
                let guard_s =
                    bytes.try_into().map(u32::from_be_bytes).map_err(|_| malformed("guard time"))?;
                Some(guard_s)
                    .filter(|guard_s| (1..=GUARD_S_MAX).contains(guard_s))
                    .ok_or(malformed("guard time"))
                    .map(Some)?
            }
        };
        let name = find(body, tag::OPERATOR_NAME).and_then(|name| std::str::from_utf8(name).ok());
        let name = name.filter(|name| (1..=NAME_BYTES_MAX).contains(&name.len())).ok_or(malformed("name"))?;
        let service_number = find(body, tag::SERVICE_NUMBER)
            .map(|number| std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()))
            .map(|number| number.ok_or(malformed("service number")))
            .transpose()?;
        let identity = Identity::parse(find(body, tag::IDENTITY).ok_or(malformed("identity"))?)?;
        let files = find(body, tag::FILES).ok_or(malformed("files"))?;
        Ok(Self {
            change,
            options: Options {
                ask_user: flags & 0x01 != 0,
                agreed: flags & 0x02 != 0,
                wait_for_service: flags & 0x04 != 0,
                guard_s,
            },
            operator_name: name.to_owned(),
            service_number,
            identity,
            files: OperatorFiles::decode(files).ok_or(malformed("files"))?,
        })
    }
}

/// A message as it arrives, before its code has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed<'a> {
    /// Which change it is about.
    pub change: ChangeId,
    protected: Protected<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protected<'a> {
    Code { code: &'a [u8], body: &'a [u8] },
    Keys { check: &'a [u8], encrypted: &'a [u8] },
}

impl std::fmt::Debug for Protected<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Protected(..)")
    }
}

impl<'a> Sealed<'a> {
    /// Reads the outer part; `None` where that is malformed, of another version, or protected in both ways or none.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() > MESSAGE_BYTES_MAX || Reader::new(bytes).any(|object| object.is_err()) {
            return None;
        }
        let get = |tag| find(bytes, tag);
        if get(tag::VERSION)? != [VERSION] {
            return None;
        }
        let change = ChangeId::from_bytes(get(tag::CHANGE)?.try_into().ok()?);
        let code = get(tag::ADMIN_CODE).zip(get(tag::BODY));
        let keys = get(tag::CHECK).zip(get(tag::ENCRYPTED_BODY));
        let protected = match (code, keys) {
            (Some((code, body)), None) => Protected::Code { code, body },
            (None, Some((check, encrypted))) => Protected::Keys { check, encrypted },
            _ => return None,
        };
        Some(Self { change, protected })
    }

    /// How it is protected.
    pub const fn protection(&self) -> Protection {
        match self.protected {
            Protected::Code { .. } => Protection::AdminCode,
            Protected::Keys { .. } => Protection::DerivedKeys,
        }
    }

    /// Checks the admin code in constant time, or the check value under keys derived from it, and reads the message.
    ///
    /// # Errors
    /// [`OpenFailure::WrongCode`] is what a card counts; everything else is said by somebody who knows the code.
    pub fn open(&self, card: &CardId, admin_code: &[u8; ADMIN_CODE_BYTES]) -> Result<Message, OpenFailure> {
        match self.protected {
            Protected::Code { code, body } => {
                if !bool::from(admin_code.as_slice().ct_eq(code)) {
                    return Err(OpenFailure::WrongCode);
                }
                Message::of_body(self.change, body)
            }
            Protected::Keys { check, encrypted } => {
                let keys = DerivedKeys::new(admin_code, card, self.change);
                if !bool::from(keys.check(encrypted).as_slice().ct_eq(check)) {
                    return Err(OpenFailure::WrongCode);
                }
                let body = keys.decrypt(encrypted).ok_or(OpenFailure::Malformed("encrypted body"))?;
                Message::of_body(self.change, &body)
            }
        }
    }
}

/// Keys of one card and one change: no two messages with other content have the same.
struct DerivedKeys {
    encryption: Zeroizing<[u8; 32]>,
    integrity: Zeroizing<[u8; 32]>,
    change: ChangeId,
}

impl DerivedKeys {
    fn new(code: &[u8], card: &CardId, change: ChangeId) -> Self {
        let derive = |label| keyed(code, &[label, card.as_bytes(), &change.to_bytes()]);
        Self { encryption: derive(ENCRYPTION_LABEL), integrity: derive(INTEGRITY_LABEL), change }
    }

    /// HMAC-SHA-256 over version, change and encrypted body, its first half.
    fn check(&self, encrypted: &[u8]) -> [u8; CHECK_BYTES] {
        let full = keyed(&self.integrity[..], &[&[VERSION], &self.change.to_bytes(), encrypted]);
        std::array::from_fn(|place| full[place])
    }

    /// AES-128 in CBC mode, zero IV, padded with 80 00..: the key is for this one message.
    fn encrypt(&self, body: &[u8]) -> Vec<u8> {
        let mut out = vec![0; body.len() + 16];
        // Invariant: a key of 16 bytes, an IV of 16 bytes, and room for a whole block of padding.
        #[allow(clippy::expect_used)]
        let length = cbc::Encryptor::<Aes128>::new_from_slices(&self.encryption[..16], &[0; 16])
            .expect("key and IV of 16 bytes")
            .encrypt_padded_b2b::<Iso7816>(body, &mut out)
            .expect("room for the padding")
            .len();
        out.truncate(length);
        out
    }

    fn decrypt(&self, encrypted: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut out = Zeroizing::new(vec![0; encrypted.len()]);
        let length = cbc::Decryptor::<Aes128>::new_from_slices(&self.encryption[..16], &[0; 16])
            .ok()?
            .decrypt_padded_b2b::<Iso7816>(encrypted, &mut out)
            .ok()?
            .len();
        out.truncate(length);
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card_file::AuthenticationAlgorithm;
    use crate::ids::Iccid;

    fn card() -> CardId {
        "8988211000000000011".parse::<Iccid>().unwrap().into()
    }

    fn message(options: Options) -> Message {
        let imsi = "240991234567893".parse().unwrap();
        let secret = |byte| Secret::new(&[byte; 16]).unwrap();
        let milenage = AuthenticationAlgorithm::Milenage;
        Message {
            change: ChangeId(7),
            options,
            operator_name: "Zweiter Betreiber".into(),
            service_number: Some("46700000".parse().unwrap()),
            identity: Identity::new(imsi, milenage, secret(1), secret(2)).unwrap(),
            files: OperatorFiles::of_subscription(&imsi, 2, None).with_home_network("240", "99"),
        }
    }

    #[test]
    fn both_protections_open_with_the_code_only() {
        let code = Secret::new(b"12345678").unwrap();
        let guarded = Options { ask_user: true, agreed: true, guard_s: Some(600), wait_for_service: true };
        for protection in [Protection::AdminCode, Protection::DerivedKeys] {
            for options in [Options::default(), guarded] {
                let message = message(options);
                let bytes = message.seal(protection, &card(), &code).unwrap();
                assert_eq!(*bytes, *message.seal(protection, &card(), &code).unwrap());
                let sealed = Sealed::parse(&bytes).unwrap();
                assert_eq!((sealed.change, sealed.protection()), (ChangeId(7), protection));
                assert_eq!(sealed.open(&card(), b"12345678").unwrap(), message);
                assert_eq!(sealed.open(&card(), b"12345679"), Err(OpenFailure::WrongCode));
            }
        }
        let travels = |protection| {
            let bytes = message(guarded).seal(protection, &card(), &code).unwrap();
            bytes.windows(8).any(|window| window == b"12345678")
        };
        assert!(travels(Protection::AdminCode) && !travels(Protection::DerivedKeys));
    }

    #[test]
    fn derived_keys_belong_to_one_card_and_one_change() {
        let code = Secret::new(b"12345678").unwrap();
        let bytes = message(Options::default()).seal(Protection::DerivedKeys, &card(), &code).unwrap();
        let other: CardId = "89049032123451234512345678901235".parse().unwrap();
        let sealed = Sealed::parse(&bytes).unwrap();
        assert_eq!(sealed.open(&other, b"12345678"), Err(OpenFailure::WrongCode));
        let renamed = Sealed { change: ChangeId(8), ..sealed };
        assert_eq!(renamed.open(&card(), b"12345678"), Err(OpenFailure::WrongCode));
        for place in 11..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 0x01;
            let opened = Sealed::parse(&damaged).map(|sealed| sealed.open(&card(), b"12345678"));
            assert!(opened.is_none_or(|opened| opened.is_err()), "{place}");
        }
    }

    #[test]
    fn what_is_beyond_the_limits_is_refused() {
        let code = Secret::new(b"12345678").unwrap();
        let seal = |message: &Message| message.seal(Protection::AdminCode, &card(), &code).map(drop);
        let mut long = message(Options::default());
        long.operator_name = "x".repeat(33);
        assert!(matches!(seal(&long), Err(MessageError::Range { .. })));
        let forever = Options { guard_s: Some(GUARD_S_MAX + 1), ..Options::default() };
        assert!(matches!(seal(&message(forever)), Err(MessageError::Range { .. })));
        let mut large = message(Options::default());
        large.files.push(super::super::OperatorFile::SuciCalculation, vec![0; MESSAGE_BYTES_MAX]);
        assert!(matches!(seal(&large), Err(MessageError::TooLong(_))));
        let short = Secret::new(b"1234567").unwrap();
        let refused = message(Options::default()).seal(Protection::AdminCode, &card(), &short);
        assert_eq!(refused.map(drop), Err(MessageError::AdminCode(7)));
    }
}
