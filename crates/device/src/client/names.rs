//! Names that the server has given out for the card in the device: a pseudonym, so that no IMSI travels, and an identity
//! for one fast re-authentication, which spares the card an AUTHENTICATE and the register a vector (RFC 4187, 4.1.1.2 and 5).
//!
//! They live as long as the card is in the device and the process runs; a run takes them, and leaves those for the next.

use simtide_protocol::eap::keys::ReauthKeys;
use simtide_protocol::eap::peer::{Identities, Outcome};
use simtide_protocol::entitlement::identity::{EapIdentity, IdentityKind};

use super::settings::ClientSettings;

/// What the next run of EAP may begin with.
#[derive(Default)]
pub(super) struct Names {
    /// For full authentications.
    pseudonym: Option<EapIdentity>,
    /// For one fast re-authentication.
    reauth: Option<(EapIdentity, ReauthKeys)>,
}

impl Names {
    /// Whether there are any.
    pub fn has_any(&self) -> bool {
        self.pseudonym.is_some() || self.reauth.is_some()
    }

    /// What a run may call itself. The identity of a re-authentication is good for one run.
    pub fn identities(&mut self, permanent: EapIdentity) -> Identities {
        Identities { permanent, pseudonym: self.pseudonym.clone(), reauth: self.reauth.take() }
    }

    /// The names for the run after one that succeeded, of the subscriber with this permanent identity. A pseudonym without
    /// a successor may be used again (RFC 4187, 4.1.1.7).
    pub fn after(self, settings: &ClientSettings, permanent: &EapIdentity, outcome: Outcome) -> Names {
        let pseudonym = outcome.pseudonym.filter(|_| settings.pseudonyms);
        let reauth = outcome.reauth.filter(|_| settings.fast_reauthentication);
        let reauth = reauth.and_then(|(name, keys)| {
            named(&name, permanent, IdentityKind::Reauthentication).map(|identity| (identity, keys))
        });
        let pseudonym = pseudonym.and_then(|name| named(&name, permanent, IdentityKind::Pseudonym));
        Names { pseudonym: pseudonym.or(self.pseudonym), reauth }
    }
}

/// A name as the next run says it: with the realm of the permanent identity where it came without one. One that the server
/// would not know for what it is (3GPP TS 23.003, 19.3.4 and 19.3.5: by its first digit) is of no use.
fn named(name: &str, permanent: &EapIdentity, kind: IdentityKind) -> Option<EapIdentity> {
    let identity = match name.contains('@') || permanent.realm().is_empty() {
        true => EapIdentity::parse(name),
        false => EapIdentity::parse(&format!("{name}@{}", permanent.realm())),
    };
    identity.ok().filter(|identity| identity.kind == kind && identity.aka_prime == permanent.aka_prime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_a_realm_and_must_be_what_they_are_given_as() {
        let permanent = EapIdentity::root(&"001010000000001".parse().unwrap(), 2, false);
        let of =
            |name: &str, kind| named(name, &permanent, kind).map(|identity| identity.as_str().to_owned());
        let realm = permanent.realm();
        assert_eq!(of("2abc", IdentityKind::Pseudonym), Some(format!("2abc@{realm}")));
        assert_eq!(of("2abc@other", IdentityKind::Pseudonym), Some("2abc@other".to_owned()));
        assert_eq!(of("4abc@x", IdentityKind::Reauthentication), Some("4abc@x".to_owned()));
        for (name, kind) in [
            ("4abc", IdentityKind::Pseudonym),
            ("7abc", IdentityKind::Pseudonym),
            ("8abc", IdentityKind::Reauthentication),
            ("abc", IdentityKind::Pseudonym),
            ("", IdentityKind::Pseudonym),
            ("2a b", IdentityKind::Pseudonym),
        ] {
            assert_eq!(of(name, kind), None, "{name}");
        }
    }
}
