//! Decimal digits, packed two to a byte in reading order and filled with `F`.

use super::IdError;

/// `N` bytes of packed digits; the digits end at the first `F` nibble or at the end of the array.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Digits<const N: usize>([u8; N]);

impl<const N: usize> Digits<N> {
    /// Packs at most `2 * N` digits; the caller has checked the length.
    pub(super) fn parse(what: &'static str, text: &str) -> Result<Self, IdError> {
        let mut packed = [0xFF; N];
        for (position, byte) in text.bytes().enumerate().take(2 * N) {
            if !byte.is_ascii_digit() {
                return Err(IdError::Character { what, expected: "a decimal digit" });
            }
            let digit = byte - b'0';
            let place = &mut packed[position / 2];
            *place = if position % 2 == 0 { (digit << 4) | 0x0F } else { (*place & 0xF0) | digit };
        }
        Ok(Self(packed))
    }

    /// Takes packed bytes as they are, if they are digits followed by nothing but `F`.
    pub(super) fn from_packed(what: &'static str, packed: [u8; N]) -> Result<Self, IdError> {
        let nibbles = || packed.iter().flat_map(|byte| [byte >> 4, byte & 0x0F]);
        let count = nibbles().take_while(|nibble| *nibble <= 9).count();
        if nibbles().skip(count).any(|nibble| nibble != 0x0F) {
            return Err(IdError::Character { what, expected: "a decimal digit" });
        }
        Ok(Self(packed))
    }

    pub(super) fn packed(&self) -> &[u8; N] {
        &self.0
    }

    /// The digits as numbers 0 to 9.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = u8> + Clone + '_ {
        (0..self.len()).map(|position| self.nibble(position))
    }

    pub(super) fn len(&self) -> usize {
        (0..2 * N).take_while(|position| self.nibble(*position) <= 9).count()
    }

    fn nibble(&self, position: usize) -> u8 {
        let byte = self.0[position / 2];
        if position.is_multiple_of(2) { byte >> 4 } else { byte & 0x0F }
    }
}

impl<const N: usize> std::fmt::Display for Digits<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Digits are at most 32 here; `pad` keeps width and alignment of the caller's format.
        let text: String = self.iter().map(|digit| char::from(b'0' + digit)).collect();
        f.pad(&text)
    }
}
