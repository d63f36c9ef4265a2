//! What a platform refuses to send, whatever the codec could seal.

use super::command::Security;
use super::keys::{CipherAlgorithm, KeyError, KeySet, MacAlgorithm};
use super::spi::{CounterMode, Integrity, Spi};

/// Which of the rules a card profile has lifted, each with a reason of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiver {
    /// Single DES is allowed: cards that know nothing better.
    pub single_des: bool,
    /// Less than the minimum security level is allowed.
    pub below_minimum: bool,
}

/// Why a platform does not send a command like this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A key or an algorithm does not fit.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A digital signature was asked for.
    #[error("SPI {0} asks for a digital signature (DS), which no card knows: ask for a CC")]
    DigitalSignature(Spi),
    /// One lost SMS would lock the card.
    #[error(
        "SPI {0} asks for a counter exactly one higher: one lost SMS would lock the card; use mode 2 (higher)"
    )]
    ExactlyOneHigher(Spi),
    /// ETSI TS 102 225 V18, 5.1.2: AES only with replay protection.
    #[error("SPI {0} has no checked counter, and AES must have one: use mode 2 (higher)")]
    AesWithoutCounter(Spi),
    /// Single DES is broken.
    #[error("single DES is broken and not sent: use another key set, or a waiver in the card profile")]
    SingleDes,
    /// The card would answer 0A, or worse, accept it.
    #[error("SPI {spi} protects less than the minimum {minimum} of the card profile: raise it")]
    BelowMinimum {
        /// What was asked for.
        spi: Spi,
        /// What the profile asks for.
        minimum: Spi,
    },
    /// Ciphering and CC would use keys of two key sets.
    #[error("KIc names key set {kic} and KID key set {kid}: both must name the same one")]
    KeyIndexes {
        /// Index in KIc.
        kic: u8,
        /// Index in KID.
        kid: u8,
    },
}

/// Whether a platform may send a command that is protected like this, to an application with this minimum.
pub fn may_send(security: &Security, keys: &KeySet, minimum: Spi, waiver: Waiver) -> Result<(), PolicyError> {
    let Security { spi, kic, kid } = *security;
    if spi.integrity() == Integrity::DigitalSignature || spi.por_integrity() == Integrity::DigitalSignature {
        return Err(PolicyError::DigitalSignature(spi));
    }
    if spi.counter_mode() == CounterMode::ExactlyOneHigher {
        return Err(PolicyError::ExactlyOneHigher(spi));
    }
    let cipher = if spi.ciphered() || spi.por_ciphered() { Some(keys.cipher(kic)?.0) } else { None };
    let with_mac = spi.integrity() == Integrity::CryptographicChecksum
        || spi.por_integrity() == Integrity::CryptographicChecksum;
    let mac = if with_mac { Some(keys.mac(kid)?.0) } else { None };
    if cipher.is_some() && mac.is_some() && kic.index() != kid.index() {
        return Err(PolicyError::KeyIndexes { kic: kic.index(), kid: kid.index() });
    }
    let single_des = matches!(cipher, Some(CipherAlgorithm::DesCbc | CipherAlgorithm::DesEcb))
        || mac == Some(MacAlgorithm::Des);
    if single_des && !waiver.single_des {
        return Err(PolicyError::SingleDes);
    }
    let aes = cipher == Some(CipherAlgorithm::Aes) || mac == Some(MacAlgorithm::AesCmac);
    if aes && spi.counter_mode() != CounterMode::Higher {
        return Err(PolicyError::AesWithoutCounter(spi));
    }
    if !spi.meets(minimum) && !waiver.below_minimum {
        return Err(PolicyError::BelowMinimum { spi, minimum });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scp80::{Key, Kic, Kid};

    fn verdict(spi: [u8; 2], kic: u8, kid: u8, key_size: usize, waiver: Waiver) -> Result<(), PolicyError> {
        let keys = KeySet::new(Key::new(&vec![1; key_size]).ok(), Key::new(&vec![2; key_size]).ok());
        may_send(
            &Security { spi: spi.into(), kic: Kic(kic), kid: Kid(kid) },
            &keys,
            Spi::new(0x12, 0),
            waiver,
        )
    }

    #[test]
    fn the_defaults_may_be_sent() {
        assert_eq!(verdict([0x16, 0x39], 0x22, 0x22, 16, Waiver::default()), Ok(()));
        assert_eq!(verdict([0x16, 0x00], 0x35, 0x35, 16, Waiver::default()), Ok(()));
    }

    #[test]
    fn what_is_refused_says_why() {
        let none = Waiver::default();
        let spi = |first| Spi::new(first, 0x39);
        assert_eq!(
            verdict([0x17, 0x39], 0x22, 0x22, 16, none),
            Err(PolicyError::DigitalSignature(spi(0x17)))
        );
        assert_eq!(
            verdict([0x1E, 0x39], 0x22, 0x22, 16, none),
            Err(PolicyError::ExactlyOneHigher(spi(0x1E)))
        );
        assert_eq!(
            verdict([0x0E, 0x39], 0x22, 0x22, 16, none),
            Err(PolicyError::AesWithoutCounter(spi(0x0E)))
        );
        assert_eq!(
            verdict([0x06, 0x39], 0x22, 0x22, 16, none),
            Err(PolicyError::AesWithoutCounter(spi(0x06)))
        );
        assert_eq!(verdict([0x16, 0x39], 0x21, 0x21, 8, none), Err(PolicyError::SingleDes));
        assert_eq!(verdict([0x16, 0x39], 0x2D, 0x21, 8, none), Err(PolicyError::SingleDes));
        assert_eq!(
            verdict([0x16, 0x39], 0x22, 0x32, 16, none),
            Err(PolicyError::KeyIndexes { kic: 2, kid: 3 })
        );
        let minimum = Spi::new(0x12, 0);
        assert_eq!(
            verdict([0x15, 0x39], 0x25, 0x25, 16, none),
            Err(PolicyError::BelowMinimum { spi: spi(0x15), minimum })
        );
        assert!(matches!(verdict([0x16, 0x39], 0x22, 0x22, 8, none), Err(PolicyError::Key(_))));
    }

    #[test]
    fn waivers_lift_their_own_rule_only() {
        let waiver = Waiver { single_des: true, below_minimum: true };
        assert_eq!(verdict([0x15, 0x00], 0x21, 0x21, 8, waiver), Ok(()));
        assert!(verdict([0x1D, 0x00], 0x21, 0x21, 8, waiver).is_err());
    }
}
