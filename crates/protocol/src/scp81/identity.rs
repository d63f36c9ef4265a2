//! Who a card says it is: in TLS by its PSK identity, in HTTP by `X-Admin-From`.

use super::header;
use crate::ids::{Aid, Eid};
use std::fmt;
use std::str::FromStr;

/// Longest PSK identity in bytes; OpenSSL ends a handshake with a longer one.
pub const PSK_IDENTITY_BYTES_MAX: usize = 256;

/// Why bytes are no PSK identity, or a text is no sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Empty, or longer than the limit.
    #[error("the PSK identity has {0} bytes: give 1 to {PSK_IDENTITY_BYTES_MAX}")]
    Length(usize),
    /// A NUL byte, at which TLS stacks cut the identity off.
    #[error("the PSK identity contains a NUL byte: choose one without")]
    Nul,
    /// Not the coding of an eUICC's identity.
    #[error(
        "this is no identity of an eUICC: expected 800102 8110<EID> 4F<AID> 8201<key id> 8301<key version 40-4F>"
    )]
    NotEuicc,
    /// Not the coding of an eUICC's sender.
    #[error("{} is not //se-id/eid/<EID>;//aa-id/aid/<RID>/<PIX>", header::FROM)]
    NotSender,
}

/// The identity that a card sends in ClientKeyExchange: opaque bytes, matched exactly (RFC 4279, 5.1).
///
/// It is sent in clear in TLS 1.2; it is no secret, but it names a subscriber.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PskIdentity(Box<[u8]>);

impl PskIdentity {
    /// The bytes as they travel.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The parts, where this is the identity of an eUICC.
    pub fn euicc(&self) -> Option<EuiccIdentity> {
        std::str::from_utf8(&self.0).ok()?.parse().ok()
    }
}

impl TryFrom<&[u8]> for PskIdentity {
    type Error = IdentityError;

    fn try_from(bytes: &[u8]) -> Result<Self, IdentityError> {
        if bytes.is_empty() || bytes.len() > PSK_IDENTITY_BYTES_MAX {
            return Err(IdentityError::Length(bytes.len()));
        }
        if bytes.contains(&0) { Err(IdentityError::Nul) } else { Ok(Self(bytes.into())) }
    }
}

impl FromStr for PskIdentity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        Self::try_from(text.as_bytes())
    }
}

impl fmt::Display for PskIdentity {
    /// The text, with everything that is not visible ASCII escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for PskIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PskIdentity({self})")
    }
}

/// The identity of an eUICC: TLVs as upper-case hex, 90 characters with a full AID (GSMA SGP.02, 2.4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EuiccIdentity {
    /// The embedded element.
    pub eid: Eid,
    /// The security domain whose key this is.
    pub aid: Aid,
    /// Key identifier within the key version.
    pub key_id: u8,
    /// Key version, 40 to 4F.
    pub key_version: u8,
}

impl EuiccIdentity {
    /// The identity as it travels.
    pub fn to_psk_identity(&self) -> PskIdentity {
        PskIdentity(self.to_string().into_bytes().into())
    }
}

impl fmt::Display for EuiccIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let aid = self.aid.as_bytes();
        write!(
            f,
            "8001028110{}4F{:02X}{}",
            hex::encode_upper(self.eid.as_bytes()),
            aid.len(),
            hex::encode_upper(aid)
        )?;
        write!(f, "8201{:02X}8301{:02X}", self.key_id, self.key_version)
    }
}

impl FromStr for EuiccIdentity {
    type Err = IdentityError;

    /// Accepts hex digits of either case.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text.len() > 90 {
            return Err(IdentityError::NotEuicc);
        }
        let bytes = hex::decode(text).map_err(|_| IdentityError::NotEuicc)?;
        euicc_from_tlvs(&bytes).ok_or(IdentityError::NotEuicc)
    }
}

fn euicc_from_tlvs(bytes: &[u8]) -> Option<EuiccIdentity> {
    let rest = bytes.strip_prefix(&[0x80, 0x01, 0x02, 0x81, 0x10])?;
    let (eid, rest) = rest.split_at_checked(16)?;
    let rest = rest.strip_prefix(&[0x4F])?;
    let (length, rest) = rest.split_first()?;
    let (aid, rest) = rest.split_at_checked(usize::from(*length))?;
    let &[0x82, 0x01, key_id, 0x83, 0x01, key_version @ 0x40..=0x4F] = rest else { return None };
    let eid = Eid::from_bytes(eid.try_into().ok()?).ok()?;
    Some(EuiccIdentity { eid, aid: Aid::try_from(aid).ok()?, key_id, key_version })
}

/// `X-Admin-From` of an eUICC: `//se-id/eid/<EID>;//aa-id/aid/<RID>/<PIX>`. Of a plain UICC it is free text,
/// which is no [`AdminFrom`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminFrom {
    /// The embedded element.
    pub eid: Eid,
    /// Its administration agent.
    pub agent: Aid,
}

impl fmt::Display for AdminFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rid, pix) = (hex::encode_upper(self.agent.rid()), hex::encode_upper(self.agent.pix()));
        write!(f, "//se-id/eid/{};//aa-id/aid/{rid}/{pix}", self.eid)
    }
}

impl FromStr for AdminFrom {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let read = || {
            let (eid, agent) = text.strip_prefix("//se-id/eid/")?.split_once(";//aa-id/aid/")?;
            let (rid, pix) = agent.split_once('/')?;
            let agent = if rid.len() == 10 { format!("{rid}{pix}") } else { return None };
            Some(Self { eid: eid.parse().ok()?, agent: agent.parse().ok()? })
        };
        read().ok_or(IdentityError::NotSender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EID: &str = "89049032123451234512345678901235";

    fn euicc() -> EuiccIdentity {
        EuiccIdentity {
            eid: EID.parse().unwrap(),
            aid: "A0000005591010FFFFFFFF8900000100".parse().unwrap(),
            key_id: 1,
            key_version: 0x40,
        }
    }

    #[test]
    fn identity_of_an_euicc_is_90_hex_digits() {
        let text = euicc().to_string();
        assert_eq!(text.len(), 90);
        assert_eq!(text, format!("8001028110{EID}4F10A0000005591010FFFFFFFF8900000100820101830140"));
        assert_eq!(text.parse(), Ok(euicc()));
        assert_eq!(euicc().to_psk_identity().euicc(), Some(euicc()));
        for wrong in [
            text.replace("830140", "830150"),
            text.replace("4F10", "4F11"),
            text[..88].to_owned(),
            format!("{text}00"),
            String::new(),
        ] {
            assert!(wrong.parse::<EuiccIdentity>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn opaque_identities_are_bytes_within_the_limit() {
        assert_eq!("card-1".parse::<PskIdentity>().unwrap().as_bytes(), b"card-1");
        assert!(PskIdentity::try_from(&[b'x'; 256][..]).is_ok());
        assert_eq!(PskIdentity::try_from(&[b'x'; 257][..]), Err(IdentityError::Length(257)));
        assert_eq!(PskIdentity::try_from(&[][..]), Err(IdentityError::Length(0)));
        assert_eq!(PskIdentity::try_from(&b"a\0b"[..]), Err(IdentityError::Nul));
        assert_eq!(PskIdentity::try_from(&b"a\xFFb"[..]).unwrap().to_string(), "a\\xffb");
    }

    #[test]
    fn senders_name_card_and_agent() {
        let sender = AdminFrom { eid: euicc().eid, agent: euicc().aid };
        assert_eq!(
            sender.to_string(),
            format!("//se-id/eid/{EID};//aa-id/aid/A000000559/1010FFFFFFFF8900000100")
        );
        assert_eq!(sender.to_string().parse(), Ok(sender));
        for wrong in ["8988211000000000010", "//se-id/eid/1;//aa-id/aid/A000000559/10", "//se-id/eid/"] {
            assert_eq!(wrong.parse::<AdminFrom>(), Err(IdentityError::NotSender));
        }
    }
}
