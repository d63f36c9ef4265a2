//! Texts of the toolkit: what the card wants shown and what a person typed.

/// The GSM default alphabet (3GPP TS 23.038, 6.2.1). Position 27 (escape) reads as a blank.
const ALPHABET: [char; 128] = [
    '@', '£', '$', '¥', 'è', 'é', 'ù', 'ì', 'ò', 'Ç', '\n', 'Ø', 'ø', '\r', 'Å', 'å', 'Δ', '_', 'Φ', 'Γ',
    'Λ', 'Ω', 'Π', 'Ψ', 'Σ', 'Θ', 'Ξ', ' ', 'Æ', 'æ', 'ß', 'É', ' ', '!', '"', '#', '¤', '%', '&', '\'', '(',
    ')', '*', '+', ',', '-', '.', '/', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', ':', ';', '<', '=',
    '>', '?', '¡', 'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J', 'K', 'L', 'M', 'N', 'O', 'P', 'Q', 'R',
    'S', 'T', 'U', 'V', 'W', 'X', 'Y', 'Z', 'Ä', 'Ö', 'Ñ', 'Ü', '§', '¿', 'a', 'b', 'c', 'd', 'e', 'f', 'g',
    'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's', 't', 'u', 'v', 'w', 'x', 'y', 'z', 'ä', 'ö',
    'ñ', 'ü', 'à',
];

/// Data coding scheme of a text string: seven bits, packed.
pub const PACKED: u8 = 0x00;
/// Data coding scheme of a text string: the default alphabet, one character a byte.
pub const UNPACKED: u8 = 0x04;
/// Data coding scheme of a text string: UCS2.
pub const UCS2: u8 = 0x08;

/// Reads the value of a text string object: data coding scheme and characters (ETSI TS 102 223, 8.15).
pub fn decode_text(value: &[u8]) -> String {
    match value.split_first() {
        None => String::new(),
        Some((&UCS2, characters)) => from_ucs2(characters),
        Some((&PACKED, characters)) => unpack(characters),
        Some((_, characters)) => characters.iter().copied().map(character).collect(),
    }
}

/// Writes a text string object's value: the default alphabet where it can say it, UCS2 otherwise or where asked for.
pub fn encode_text(text: &str, packed: bool, ucs2: bool) -> Vec<u8> {
    let septets: Option<Vec<u8>> = text.chars().map(septet).collect();
    match septets {
        Some(septets) if !ucs2 && packed => {
            let mut value = vec![PACKED];
            value.extend(pack(&septets));
            value
        }
        Some(septets) if !ucs2 => {
            let mut value = vec![UNPACKED];
            value.extend(septets);
            value
        }
        _ => {
            let mut value = vec![UCS2];
            value.extend(text.encode_utf16().flat_map(u16::to_be_bytes));
            value
        }
    }
}

/// Reads an alpha identifier: the default alphabet, or one of the three UCS2 codings (ETSI TS 102 221, annex A).
pub fn decode_alpha(value: &[u8]) -> String {
    match value {
        [0x80, characters @ ..] => from_ucs2(characters),
        [0x81, count, base, characters @ ..] => {
            based(u32::from(*base) << 7, &characters[..characters.len().min(usize::from(*count))])
        }
        [0x82, count, high, low, characters @ ..] => based(
            u32::from(u16::from_be_bytes([*high, *low])),
            &characters[..characters.len().min(usize::from(*count))],
        ),
        // FF fills up what a record has left.
        characters => characters.iter().take_while(|byte| **byte != 0xFF).copied().map(character).collect(),
    }
}

fn character(byte: u8) -> char {
    ALPHABET[usize::from(byte & 0x7F)]
}

fn septet(wanted: char) -> Option<u8> {
    let position = ALPHABET.iter().position(|known| *known == wanted && wanted != '\u{1b}')?;
    // The blank stands at 27 (in place of the escape) as well as at 32.
    u8::try_from(if wanted == ' ' { 0x20 } else { position }).ok()
}

fn based(base: u32, characters: &[u8]) -> String {
    characters
        .iter()
        .map(|byte| match byte {
            0x00..=0x7F => character(*byte),
            _ => char::from_u32(base + u32::from(byte & 0x7F)).unwrap_or(char::REPLACEMENT_CHARACTER),
        })
        .collect()
}

fn from_ucs2(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    let end = units.iter().position(|unit| *unit == 0xFFFF).unwrap_or(units.len());
    String::from_utf16_lossy(&units[..end])
}

fn unpack(packed: &[u8]) -> String {
    let count = packed.len() * 8 / 7;
    let bit = |place: usize| (packed[place / 8] >> (place % 8)) & 1;
    let septets =
        (0..count).map(|index| (0..7).fold(0, |value, place| value | (bit(index * 7 + place) << place)));
    let mut text: String = septets.map(character).collect();
    // With seven bits to spare the eighth septet is only filling.
    if packed.len().is_multiple_of(7) && text.ends_with('@') {
        text.pop();
    }
    text
}

fn pack(septets: &[u8]) -> Vec<u8> {
    let mut packed = vec![0; (septets.len() * 7).div_ceil(8)];
    for (index, septet) in septets.iter().enumerate() {
        for place in (0..7).filter(|place| septet >> place & 1 == 1) {
            let at = index * 7 + place;
            packed[at / 8] |= 1 << (at % 8);
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_in_every_coding() {
        let read = |text: &str| decode_text(&hex::decode(text).unwrap());
        assert_eq!(read("04546f6f6c6b6974"), "Toolkit");
        assert_eq!(read("0804170414"), "\u{417}\u{414}");
        assert_eq!(read(""), "");
        assert_eq!(read("04"), "");
    }

    #[test]
    fn packed_texts_of_every_length_come_back() {
        for length in 0..40 {
            let text: String = (0..length).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
            assert_eq!(decode_text(&encode_text(&text, true, false)), text, "{length}");
            assert_eq!(decode_text(&encode_text(&text, false, false)), text);
            assert_eq!(decode_text(&encode_text(&text, false, true)), text);
        }
        // 3GPP TS 23.038, 6.1.2: "hellohello" in the classic packing.
        assert_eq!(hex::encode(encode_text("hellohello", true, false)), "00e8329bfd4697d9ec37");
        assert_eq!(encode_text("жук", true, false)[0], UCS2);
    }

    #[test]
    fn alpha_identifiers_in_every_coding() {
        let read = |text: &str| decode_alpha(&hex::decode(text).unwrap());
        assert_eq!(read("4d656e75ffff"), "Menu");
        assert_eq!(read("8004170414ffff"), "\u{417}\u{414}");
        assert_eq!(read("810308414243ff"), "ABC");
        assert_eq!(read("8102089794"), "\u{417}\u{414}");
        assert_eq!(read("820204009794"), "\u{417}\u{414}");
    }
}
