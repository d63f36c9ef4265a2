//! The identity of a subscription: IMSI, algorithm, keys.

use crate::aka::Functions;
use crate::card_file::{AuthenticationAlgorithm, Secret};
use crate::ids::Imsi;
use crate::tlv::{find, push};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of [`identity_digest`].
pub const DIGEST_BYTES: usize = 8;

/// What the digest is computed over besides the identity, so that it means nothing elsewhere.
const DIGEST_LABEL: &[u8] = b"simtide identity digest";

/// Tags in the identity object.
mod tag {
    pub(super) const IMSI: u32 = 0x80;
    pub(super) const ALGORITHM: u32 = 0x81;
    pub(super) const K: u32 = 0x82;
    pub(super) const OPC: u32 = 0x83;
    pub(super) const ITERATIONS: u32 = 0x84;
}

/// IMSI, algorithm and keys of a subscription. Holds secrets: shown as its IMSI only, keys wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who the subscriber is.
    pub imsi: Imsi,
    /// By what it authenticates.
    pub algorithm: AuthenticationAlgorithm,
    /// K: 16 bytes, with TUAK 16 or 32.
    pub k: Secret,
    /// OPc of 16 bytes, or TOPc of 32.
    pub opc: Secret,
    /// Iterations of Keccak with TUAK, 1 to 16; 1 with Milenage.
    pub iterations: u8,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({}, {})", self.imsi, self.algorithm.name())
    }
}

/// Why bytes or values are no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// A key does not fit the algorithm.
    #[error("K and OPc do not fit the algorithm: Milenage takes 16 and 16 bytes, TUAK 16 or 32 and 32")]
    Keys,
    /// A key without any entropy: what a register that failed hands out.
    #[error("K is all zero: draw it again")]
    ZeroKey,
    /// A part is missing or of the wrong form.
    #[error("the identity lacks {0}, or it is malformed")]
    Part(&'static str),
}

impl Identity {
    /// Checks that the keys fit the algorithm and that K is one.
    pub fn new(
        imsi: Imsi,
        algorithm: AuthenticationAlgorithm,
        k: Secret,
        opc: Secret,
    ) -> Result<Self, IdentityError> {
        Self { imsi, algorithm, k, opc, iterations: 1 }.checked()
    }

    /// A subscriber with Milenage.
    ///
    /// # Errors
    /// K is all zero.
    pub fn milenage(imsi: Imsi, k: &[u8; 16], opc: &[u8; 16]) -> Result<Self, IdentityError> {
        let secret = |bytes| Secret::new(bytes).ok_or(IdentityError::Keys);
        Self::new(imsi, AuthenticationAlgorithm::Milenage, secret(k)?, secret(opc)?)
    }

    fn checked(self) -> Result<Self, IdentityError> {
        if self.k.as_bytes().iter().all(|byte| *byte == 0) {
            return Err(IdentityError::ZeroKey);
        }
        self.functions().map(drop)?;
        Ok(self)
    }

    /// The functions f1 to f5* of this subscriber.
    pub fn functions(&self) -> Result<Functions, IdentityError> {
        Functions::new(self.algorithm, self.k.as_bytes(), self.opc.as_bytes(), self.iterations)
            .map_err(|_| IdentityError::Keys)
    }

    /// Which identity it is, for whoever holds it too: see [`identity_digest`].
    pub fn digest(&self) -> [u8; DIGEST_BYTES] {
        identity_digest(&self.imsi, self.k.as_bytes(), self.opc.as_bytes())
    }

    /// The objects of the identity template.
    pub fn push(&self, out: &mut Vec<u8>) {
        push(out, tag::IMSI, &self.imsi.to_file());
        let algorithm = match self.algorithm {
            AuthenticationAlgorithm::Milenage => 1,
            AuthenticationAlgorithm::Tuak => 2,
        };
        push(out, tag::ALGORITHM, &[algorithm]);
        push(out, tag::K, self.k.as_bytes());
        push(out, tag::OPC, self.opc.as_bytes());
        if self.iterations != 1 {
            push(out, tag::ITERATIONS, &[self.iterations]);
        }
    }

    /// Reads [`Identity::push`].
    pub fn parse(bytes: &[u8]) -> Result<Self, IdentityError> {
        let secret = |tag, what| find(bytes, tag).and_then(Secret::new).ok_or(IdentityError::Part(what));
        let imsi = find(bytes, tag::IMSI).filter(|imsi| imsi.len() == 9);
        let imsi = imsi.and_then(|imsi| Imsi::from_file(imsi).ok()).ok_or(IdentityError::Part("the IMSI"))?;
        let algorithm = match find(bytes, tag::ALGORITHM) {
            Some([1]) => AuthenticationAlgorithm::Milenage,
            Some([2]) => AuthenticationAlgorithm::Tuak,
            _ => return Err(IdentityError::Part("the algorithm")),
        };
        let iterations = match find(bytes, tag::ITERATIONS) {
            None => 1,
            Some([iterations]) => *iterations,
            Some(_) => return Err(IdentityError::Part("the iterations")),
        };
        Self { imsi, algorithm, k: secret(tag::K, "K")?, opc: secret(tag::OPC, "OPc")?, iterations }.checked()
    }
}

/// Which identity a card has, for whoever knows the keys: the first eight bytes of HMAC-SHA-256 under K over a label, the
/// content of EF.IMSI and OPc. Says nothing to anybody else.
pub fn identity_digest(imsi: &Imsi, k: &[u8], opc: &[u8]) -> [u8; DIGEST_BYTES] {
    let digest = keyed(k, &[DIGEST_LABEL, &imsi.to_file(), opc]);
    std::array::from_fn(|place| digest[place])
}

/// HMAC-SHA-256 over the parts, one after the other.
pub(super) fn keyed(key: &[u8], parts: &[&[u8]]) -> zeroize::Zeroizing<[u8; 32]> {
    // Invariant: HMAC takes keys of every length.
    #[allow(clippy::expect_used)]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    for part in parts {
        mac.update(part);
    }
    zeroize::Zeroizing::new(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8, length: usize) -> Secret {
        Secret::new(&vec![byte; length]).unwrap()
    }

    #[test]
    fn an_identity_reads_back_and_bad_ones_do_not() {
        let imsi: Imsi = "001020000000007".parse().unwrap();
        for (algorithm, k, opc) in
            [(AuthenticationAlgorithm::Milenage, 16, 16), (AuthenticationAlgorithm::Tuak, 32, 32)]
        {
            let identity = Identity::new(imsi, algorithm, secret(1, k), secret(2, opc)).unwrap();
            let mut bytes = Vec::new();
            identity.push(&mut bytes);
            assert_eq!(Identity::parse(&bytes), Ok(identity));
            for cut in 0..bytes.len() {
                assert!(Identity::parse(&bytes[..cut]).is_err(), "{cut}");
            }
        }
        let milenage = AuthenticationAlgorithm::Milenage;
        let short = Identity::new(imsi, milenage, secret(1, 15), secret(2, 16));
        assert_eq!(short, Err(IdentityError::Keys));
        let zero = Identity::new(imsi, milenage, secret(0, 16), secret(2, 16));
        assert_eq!(zero, Err(IdentityError::ZeroKey));
    }

    #[test]
    fn the_digest_tells_identities_apart() {
        let imsi: Imsi = "001020000000007".parse().unwrap();
        let other: Imsi = "001020000000008".parse().unwrap();
        let digest = identity_digest(&imsi, &[1; 16], &[2; 16]);
        assert_ne!(digest, identity_digest(&other, &[1; 16], &[2; 16]));
        assert_ne!(digest, identity_digest(&imsi, &[3; 16], &[2; 16]));
        assert_ne!(digest, identity_digest(&imsi, &[1; 16], &[3; 16]));
    }
}
