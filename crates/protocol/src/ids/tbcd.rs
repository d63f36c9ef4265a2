//! Telephony binary coded decimal: digits with swapped nibbles, `F` as filler (3GPP TS 23.040, 9.1.2.3).

use super::IdError;

/// Codes decimal digits, low nibble first; an odd number of digits ends in a high nibble of `F`.
pub fn encode(digits: &str) -> Result<Vec<u8>, IdError> {
    let mut coded = Vec::with_capacity(digits.len().div_ceil(2));
    for (position, byte) in digits.bytes().enumerate() {
        let nibble = match byte {
            b'0'..=b'9' => byte - b'0',
            // TS 23.040, 9.1.2.3: the extended digits of telephone numbers.
            b'*' => 0x0A,
            b'#' => 0x0B,
            _ => return Err(IdError::Character { what: "number", expected: "a digit, * or #" }),
        };
        if position % 2 == 0 {
            coded.push(0xF0 | nibble);
        } else if let Some(last) = coded.last_mut() {
            *last = (*last & 0x0F) | (nibble << 4);
        }
    }
    Ok(coded)
}

/// Reads digits up to the first filler; any other nibble becomes its letter (`*`, `#`, `a`, `b`, `c`).
pub fn decode(coded: &[u8]) -> String {
    coded
        .iter()
        .flat_map(|byte| [byte & 0x0F, byte >> 4])
        .take_while(|nibble| *nibble != 0x0F)
        .map(|nibble| char::from(b"0123456789*#abc"[usize::from(nibble)]))
        .collect()
}

/// Swaps the two nibbles of each byte: packed digits in reading order become TBCD, and the reverse.
pub fn swap_nibbles(bytes: &mut [u8]) {
    for byte in bytes {
        *byte = byte.rotate_left(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_odd_and_even_numbers() {
        assert_eq!(encode("436641234567"), Ok(vec![0x34, 0x66, 0x14, 0x32, 0x54, 0x76]));
        assert_eq!(encode("123"), Ok(vec![0x21, 0xF3]));
        assert_eq!(decode(&[0x21, 0xF3]), "123");
        assert_eq!(decode(&[0xA1, 0xFB]), "1*#");
        assert!(encode("12 3").is_err());
    }

    proptest::proptest! {
        #[test]
        fn reads_back_what_it_wrote(digits in "[0-9*#]{0,20}") {
            proptest::prop_assert_eq!(decode(&encode(&digits).unwrap()), digits);
        }
    }
}
