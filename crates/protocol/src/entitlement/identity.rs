//! Identities of EAP-AKA (3GPP TS 23.003, 19.3 and 28.7; RFC 4187, 4.1.1): the first digit says method and kind.

use std::fmt;

use crate::ids::Imsi;

/// Longest identity in bytes (RFC 4187, 4.1.1.2: user names of NAIs end there too).
pub const IDENTITY_BYTES_MAX: usize = 253;

/// What an identity is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IdentityKind {
    /// The IMSI itself: first digit 0, or 6 with AKA'.
    Permanent(Imsi),
    /// A name that the server gave out: first digit 2, or 7.
    Pseudonym,
    /// A name for one fast re-authentication: first digit 4, or 8.
    Reauthentication,
    /// None of these.
    Unknown,
}

/// An identity as it came, and what it is.
#[derive(Clone, PartialEq, Eq)]
pub struct EapIdentity {
    text: Box<str>,
    /// What it is.
    pub kind: IdentityKind,
    /// Whether the first digit asks for AKA' (RFC 9048).
    pub aka_prime: bool,
}

/// The text is no identity: empty, longer than [`IDENTITY_BYTES_MAX`], or with control characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an EAP identity has 1 to {IDENTITY_BYTES_MAX} printable ASCII characters")]
pub struct IdentityError;

impl EapIdentity {
    /// Reads an identity.
    pub fn parse(text: &str) -> Result<EapIdentity, IdentityError> {
        let holds = (1..=IDENTITY_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|byte| (0x21..0x7F).contains(&byte));
        if !holds {
            return Err(IdentityError);
        }
        let user = text.split_once('@').map_or(text, |(user, _)| user);
        let (first, rest) = user.split_at_checked(1).ok_or(IdentityError)?;
        let kind = match first {
            "0" | "6" => rest.parse().map_or(IdentityKind::Unknown, IdentityKind::Permanent),
            "2" | "7" => IdentityKind::Pseudonym,
            "4" | "8" => IdentityKind::Reauthentication,
            _ => IdentityKind::Unknown,
        };
        Ok(EapIdentity { text: text.into(), kind, aka_prime: matches!(first, "6" | "7" | "8") })
    }

    /// The root NAI of a subscriber: `0<IMSI>@nai.epc.mnc<3>.mcc<3>.3gppnetwork.org`, with a 6 for AKA'. Two digits of
    /// MNC get a zero before them.
    pub fn root(imsi: &Imsi, mnc_digits: u8, aka_prime: bool) -> EapIdentity {
        let first = if aka_prime { '6' } else { '0' };
        let text = format!("{first}{imsi}@{}", realm(imsi, mnc_digits));
        EapIdentity { text: text.into(), kind: IdentityKind::Permanent(*imsi), aka_prime }
    }

    /// Exactly as it came: this is what keys are derived from.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands before the realm.
    pub fn user(&self) -> &str {
        self.text.split_once('@').map_or(&*self.text, |(user, _)| user)
    }

    /// What stands behind the `@`; empty where there is none.
    pub fn realm(&self) -> &str {
        self.text.split_once('@').map_or("", |(_, realm)| realm)
    }
}

impl fmt::Debug for EapIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EapIdentity").field(&self.text).finish()
    }
}

/// The realm of an operator's root NAIs.
pub fn realm(imsi: &Imsi, mnc_digits: u8) -> String {
    format!("nai.epc.mnc{:0>3}.mcc{}.3gppnetwork.org", imsi.mnc(mnc_digits), imsi.mcc())
}

/// The host name of an operator's entitlement server unless the device is told another one (GSMA TS.43, 2.1).
pub fn default_host(imsi: &Imsi, mnc_digits: u8) -> String {
    format!("aes.mnc{:0>3}.mcc{}.pub.3gppnetwork.org", imsi.mnc(mnc_digits), imsi.mcc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_identities() {
        let imsi: Imsi = "001010000000001".parse().unwrap();
        let root = EapIdentity::root(&imsi, 2, false);
        assert_eq!(root.as_str(), "0001010000000001@nai.epc.mnc001.mcc001.3gppnetwork.org");
        assert_eq!(EapIdentity::parse(root.as_str()).unwrap(), root);
        let root = EapIdentity::root(&imsi, 3, true);
        assert_eq!(root.as_str(), "6001010000000001@nai.epc.mnc010.mcc001.3gppnetwork.org");
        assert_eq!(EapIdentity::parse(root.as_str()).unwrap(), root);
        assert_eq!(
            (root.user(), root.realm()),
            ("6001010000000001", "nai.epc.mnc010.mcc001.3gppnetwork.org")
        );
        assert_eq!(default_host(&imsi, 2), "aes.mnc001.mcc001.pub.3gppnetwork.org");
    }

    #[test]
    fn kinds_by_first_digit() {
        let kind = |text: &str| EapIdentity::parse(text).unwrap().kind;
        assert_eq!(kind("2abc@x"), IdentityKind::Pseudonym);
        assert_eq!(kind("8abc"), IdentityKind::Reauthentication);
        assert_eq!(kind("0@x"), IdentityKind::Unknown);
        assert_eq!(kind("00101@x"), IdentityKind::Unknown);
        assert_eq!(kind("1001010000000001@x"), IdentityKind::Unknown);
        for bad in ["", "0 1", "0\u{0}", "0001\n", "@x", &"0".repeat(254), "é"] {
            assert!(EapIdentity::parse(bad).is_err(), "{bad}");
        }
    }
}
