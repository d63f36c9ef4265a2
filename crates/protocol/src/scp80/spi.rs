//! SPI: two octets that say how a command is protected and what its proof of receipt must look like.

use std::fmt;

/// ETSI TS 102 225, 5.1.1: Security Parameters Indication, two octets.
///
/// Bits 6 to 8 of the first octet and 7 and 8 of the second are reserved; they are kept as they came.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spi {
    /// First octet: protection of the command.
    pub first: u8,
    /// Second octet: the proof of receipt.
    pub second: u8,
}

/// ETSI TS 102 225, 5.1.1, first octet, bits 1 and 2; second octet, bits 3 and 4: what proves integrity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Integrity {
    /// `00`: nothing.
    None,
    /// `01`: redundancy check (RC), a CRC.
    RedundancyCheck,
    /// `10`: cryptographic checksum (CC), a MAC.
    CryptographicChecksum,
    /// `11`: digital signature (DS), which no implementation knows.
    DigitalSignature,
}

/// ETSI TS 102 225, 5.1.1, first octet, bits 4 and 5: replay protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CounterMode {
    /// `00`: no counter available.
    None,
    /// `01`: counter present, not checked.
    Unchecked,
    /// `10`: processed only if the counter is higher than the card's.
    Higher,
    /// `11`: processed only if the counter is exactly one higher than the card's.
    ExactlyOneHigher,
}

/// ETSI TS 102 225, 5.1.1, second octet, bits 1 and 2: when a proof of receipt is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PorRequest {
    /// `00`: never.
    None,
    /// `01`: always.
    Always,
    /// `10`: only when an error occurred.
    OnError,
    /// `11`: reserved; cards treat it as none.
    Reserved,
}

impl Spi {
    /// From the two octets in the order of the wire.
    pub const fn new(first: u8, second: u8) -> Self {
        Self { first, second }
    }

    /// The two octets in the order of the wire.
    pub const fn to_bytes(self) -> [u8; 2] {
        [self.first, self.second]
    }

    /// First octet, bits 1 and 2: RC, CC or DS of the command.
    pub const fn integrity(self) -> Integrity {
        Integrity::from_bits(self.first)
    }

    /// First octet, bit 3: the command is ciphered.
    pub const fn ciphered(self) -> bool {
        self.first & 0x04 != 0
    }

    /// First octet, bits 4 and 5: how the counter is checked.
    pub const fn counter_mode(self) -> CounterMode {
        match (self.first >> 3) & 0x03 {
            0 => CounterMode::None,
            1 => CounterMode::Unchecked,
            2 => CounterMode::Higher,
            _ => CounterMode::ExactlyOneHigher,
        }
    }

    /// Second octet, bits 1 and 2: when a proof of receipt is wanted.
    pub const fn por(self) -> PorRequest {
        match self.second & 0x03 {
            0 => PorRequest::None,
            1 => PorRequest::Always,
            2 => PorRequest::OnError,
            _ => PorRequest::Reserved,
        }
    }

    /// Second octet, bits 3 and 4: RC, CC or DS of the proof of receipt.
    pub const fn por_integrity(self) -> Integrity {
        Integrity::from_bits(self.second >> 2)
    }

    /// Second octet, bit 5: the proof of receipt is ciphered.
    pub const fn por_ciphered(self) -> bool {
        self.second & 0x10 != 0
    }

    /// Second octet, bit 6: the proof of receipt comes by SMS-SUBMIT instead of SMS-DELIVER-REPORT.
    pub const fn por_by_submit(self) -> bool {
        self.second & 0x20 != 0
    }

    /// Whether a command with this SPI is protected at least as well as `minimum` asks: integrity, ciphering and
    /// counter mode, each on its own (ETSI TS 102 226, minimum security level). The second octet is no protection
    /// of the command and is not compared.
    pub const fn meets(self, minimum: Spi) -> bool {
        self.integrity().strength() >= minimum.integrity().strength()
            && (self.ciphered() || !minimum.ciphered())
            && (self.first >> 3) & 0x03 >= (minimum.first >> 3) & 0x03
    }
}

impl Integrity {
    const fn from_bits(bits: u8) -> Self {
        match bits & 0x03 {
            0 => Integrity::None,
            1 => Integrity::RedundancyCheck,
            2 => Integrity::CryptographicChecksum,
            _ => Integrity::DigitalSignature,
        }
    }

    const fn strength(self) -> u8 {
        match self {
            Integrity::None => 0,
            Integrity::RedundancyCheck => 1,
            Integrity::CryptographicChecksum => 2,
            Integrity::DigitalSignature => 3,
        }
    }
}

impl From<[u8; 2]> for Spi {
    fn from([first, second]: [u8; 2]) -> Self {
        Self { first, second }
    }
}

/// Four hex digits, as tools and profiles write it.
impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}", self.first, self.second)
    }
}

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spi({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octets_of_the_default_command_are_read_bit_by_bit() {
        let spi = Spi::new(0x16, 0x39);
        assert_eq!(spi.integrity(), Integrity::CryptographicChecksum);
        assert!(spi.ciphered());
        assert_eq!(spi.counter_mode(), CounterMode::Higher);
        assert_eq!(spi.por(), PorRequest::Always);
        assert_eq!(spi.por_integrity(), Integrity::CryptographicChecksum);
        assert!(spi.por_ciphered());
        assert!(spi.por_by_submit());
        assert_eq!(spi.to_string(), "1639");
    }

    #[test]
    fn every_part_of_the_minimum_level_counts() {
        let minimum = Spi::new(0x16, 0);
        assert!(Spi::new(0x16, 0).meets(minimum));
        assert!(Spi::new(0x1E, 0).meets(minimum), "exactly-one-higher is stricter");
        assert!(!Spi::new(0x12, 0).meets(minimum), "not ciphered");
        assert!(!Spi::new(0x15, 0).meets(minimum), "only RC");
        assert!(!Spi::new(0x0E, 0).meets(minimum), "counter not checked");
        assert!(Spi::new(0x00, 0).meets(Spi::new(0, 0)));
    }
}
