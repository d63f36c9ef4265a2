//! The algorithm of a subscriber, whichever it is.

use simtide_protocol::aka::{AkaFunctions, Answer, Sqn};
use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
use simtide_protocol::milenage::Milenage;
use simtide_protocol::tuak::Tuak;

use super::RegisterError;

/// Milenage or TUAK with a subscriber's keys. Holds secrets: no `Debug`, wiped when dropped.
pub enum Functions {
    /// 3GPP TS 35.206.
    Milenage(Milenage),
    /// 3GPP TS 35.231.
    Tuak(Tuak),
}

impl Functions {
    /// From K and OPc (TOPc).
    ///
    /// # Errors
    /// [`RegisterError::Invalid`] for keys of other lengths.
    pub fn new(
        algorithm: AuthenticationAlgorithm,
        k: &Secret,
        opc: &Secret,
    ) -> Result<Functions, RegisterError> {
        let wrong = || RegisterError::Invalid("keys of the wrong length".to_owned());
        match algorithm {
            AuthenticationAlgorithm::Milenage => {
                let sixteen =
                    |key: &Secret| <[u8; 16]>::try_from(key.as_bytes()).map(zeroize::Zeroizing::new);
                let k = sixteen(k).map_err(|_| wrong())?;
                let opc = sixteen(opc).map_err(|_| wrong())?;
                Ok(Functions::Milenage(Milenage::new(&k, &opc)))
            }
            AuthenticationAlgorithm::Tuak => {
                Tuak::new(k.as_bytes(), opc.as_bytes()).map(Functions::Tuak).map_err(|_| wrong())
            }
        }
    }
}

impl AkaFunctions for Functions {
    fn f1(&self, rand: &[u8; 16], sqn: Sqn, amf: [u8; 2]) -> [u8; 8] {
        match self {
            Functions::Milenage(set) => set.f1(rand, sqn, amf),
            Functions::Tuak(set) => set.f1(rand, sqn, amf),
        }
    }

    fn f1_star(&self, rand: &[u8; 16], sqn: Sqn, amf: [u8; 2]) -> [u8; 8] {
        match self {
            Functions::Milenage(set) => set.f1_star(rand, sqn, amf),
            Functions::Tuak(set) => set.f1_star(rand, sqn, amf),
        }
    }

    fn f2345(&self, rand: &[u8; 16]) -> Answer {
        match self {
            Functions::Milenage(set) => set.f2345(rand),
            Functions::Tuak(set) => set.f2345(rand),
        }
    }

    fn f5_star(&self, rand: &[u8; 16]) -> [u8; 6] {
        match self {
            Functions::Milenage(set) => set.f5_star(rand),
            Functions::Tuak(set) => set.f5_star(rand),
        }
    }
}
