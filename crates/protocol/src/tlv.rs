//! Tag, length, value: BER-TLV (ISO/IEC 7816-4, 5.2.2) and COMPREHENSION-TLV (ETSI TS 101 220, 7.1).
//!
//! Readers borrow, never panic and stop at the first fault; writers append to a `Vec`.

/// Why bytes are not a sequence of data objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TlvError {
    /// A tag starts but does not end.
    #[error("a tag is cut off or longer than three bytes")]
    Tag,
    /// A length starts but does not end, or is of a form that is not used here.
    #[error("a length is cut off, indefinite or longer than three bytes")]
    Length,
    /// A value is announced longer than what is there.
    #[error("a value is announced with {announced} bytes, {found} are there")]
    Value {
        /// Bytes that the length promises.
        announced: usize,
        /// Bytes that follow.
        found: usize,
    },
}

/// One BER-TLV data object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// The tag's bytes as a number: `0x62`, `0xDF51`, at most three bytes.
    pub tag: u32,
    /// What the object contains.
    pub value: &'a [u8],
}

/// Reads a sequence of BER-TLV data objects; filler bytes `00` and `FF` between objects are skipped.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn read(&mut self) -> Result<Tlv<'a>, TlvError> {
        let (tag, rest) = split_tag(self.rest)?;
        let (value, rest) = split_value(rest)?;
        self.rest = rest;
        Ok(Tlv { tag, value })
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<Tlv<'a>, TlvError>;

    fn next(&mut self) -> Option<Self::Item> {
        // ISO/IEC 7816-4, 5.2.2.1: 00 and FF before, between or after data objects have no meaning.
        while let Some((0x00 | 0xFF, rest)) = self.rest.split_first() {
            self.rest = rest;
        }
        if self.rest.is_empty() {
            return None;
        }
        let object = self.read();
        if object.is_err() {
            self.rest = &[];
        }
        Some(object)
    }
}

/// The value of the first object with this tag, if the objects before it are well formed.
pub fn find(bytes: &[u8], tag: u32) -> Option<&[u8]> {
    Reader::new(bytes).map_while(Result::ok).find(|object| object.tag == tag).map(|object| object.value)
}

/// Splits a tag of one to three bytes from what follows.
fn split_tag(bytes: &[u8]) -> Result<(u32, &[u8]), TlvError> {
    let (first, mut rest) = bytes.split_first().ok_or(TlvError::Tag)?;
    let mut tag = u32::from(*first);
    if first & 0x1F == 0x1F {
        for _ in 0..2 {
            let (next, after) = rest.split_first().ok_or(TlvError::Tag)?;
            tag = (tag << 8) | u32::from(*next);
            rest = after;
            if next & 0x80 == 0 {
                return Ok((tag, rest));
            }
        }
        return Err(TlvError::Tag);
    }
    Ok((tag, rest))
}

/// Splits a length of one byte, `81 xx`, `82 xx xx` or `83 xx xx xx` from what follows.
pub fn split_length(bytes: &[u8]) -> Result<(usize, &[u8]), TlvError> {
    let (first, rest) = bytes.split_first().ok_or(TlvError::Length)?;
    let count = match first {
        0x00..=0x7F => return Ok((usize::from(*first), rest)),
        0x81..=0x83 => usize::from(first & 0x7F),
        _ => return Err(TlvError::Length),
    };
    let (coded, rest) = rest.split_at_checked(count).ok_or(TlvError::Length)?;
    Ok((coded.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)), rest))
}

fn split_value(bytes: &[u8]) -> Result<(&[u8], &[u8]), TlvError> {
    let (length, rest) = split_length(bytes)?;
    rest.split_at_checked(length).ok_or(TlvError::Value { announced: length, found: rest.len() })
}

/// Appends a data object.
pub fn push(out: &mut Vec<u8>, tag: u32, value: &[u8]) {
    push_tag(out, tag);
    push_length(out, value.len());
    out.extend_from_slice(value);
}

/// Appends a data object whose value is what `fill` appends.
pub fn push_with(out: &mut Vec<u8>, tag: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut value = Vec::new();
    fill(&mut value);
    push(out, tag, &value);
}

fn push_tag(out: &mut Vec<u8>, tag: u32) {
    let bytes = tag.to_be_bytes();
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(3);
    out.extend_from_slice(&bytes[start..]);
}

/// Appends a length in its shortest form; nothing here is longer than three bytes can say.
pub fn push_length(out: &mut Vec<u8>, length: usize) {
    let bytes = (length as u32).to_be_bytes();
    match length {
        0..=0x7F => out.push(bytes[3]),
        0x80..=0xFF => out.extend_from_slice(&[0x81, bytes[3]]),
        0x100..=0xFFFF => out.extend_from_slice(&[0x82, bytes[2], bytes[3]]),
        _ => out.extend_from_slice(&[0x83, bytes[1], bytes[2], bytes[3]]),
    }
}

/// One COMPREHENSION-TLV data object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComprehensionTlv<'a> {
    /// The tag without its comprehension bit: `0x02` whether the card wrote `02` or `82`.
    pub tag: u16,
    /// Whether the comprehension bit was set: a receiver that does not know the tag must refuse the command.
    pub comprehension_required: bool,
    /// What the object contains.
    pub value: &'a [u8],
}

/// Reads a sequence of COMPREHENSION-TLV data objects (ETSI TS 101 220, 7.1.1).
#[derive(Debug, Clone)]
pub struct ComprehensionReader<'a> {
    rest: &'a [u8],
}

impl<'a> ComprehensionReader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn read(&mut self) -> Result<ComprehensionTlv<'a>, TlvError> {
        let (first, rest) = self.rest.split_first().ok_or(TlvError::Tag)?;
        let (tag, comprehension_required, rest) = match first {
            // 00, 80 and FF are no tags; 7F starts the format of three bytes.
            0x00 | 0x80 | 0xFF => return Err(TlvError::Tag),
            0x7F => {
                let [high, low, rest @ ..] = rest else { return Err(TlvError::Tag) };
                let tag = u16::from_be_bytes([high & 0x7F, *low]);
                if tag == 0 {
                    return Err(TlvError::Tag);
                }
                (tag, high & 0x80 != 0, rest)
            }
            _ => (u16::from(first & 0x7F), first & 0x80 != 0, rest),
        };
        let (value, rest) = split_value(rest)?;
        self.rest = rest;
        Ok(ComprehensionTlv { tag, comprehension_required, value })
    }
}

impl<'a> Iterator for ComprehensionReader<'a> {
    type Item = Result<ComprehensionTlv<'a>, TlvError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let object = self.read();
        if object.is_err() {
            self.rest = &[];
        }
        Some(object)
    }
}

/// The value of the first COMPREHENSION-TLV with this tag (given without its comprehension bit).
pub fn find_comprehension(bytes: &[u8], tag: u16) -> Option<&[u8]> {
    let mut objects = ComprehensionReader::new(bytes).map_while(Result::ok);
    objects.find(|object| object.tag == tag).map(|object| object.value)
}

/// Appends a COMPREHENSION-TLV; `required` sets the comprehension bit. Tags from `0x7F` take three bytes.
pub fn push_comprehension(out: &mut Vec<u8>, tag: u16, required: bool, value: &[u8]) {
    let bit = if required { 0x80 } else { 0x00 };
    let [high, low] = tag.to_be_bytes();
    if tag < 0x7F {
        out.push(low | bit);
    } else {
        out.extend_from_slice(&[0x7F, high | bit, low]);
    }
    push_length(out, value.len());
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_tags_and_lengths_of_every_size() {
        let bytes = hex::decode("00620382014aff9f7f01aadf51008181810001").unwrap();
        let read: Vec<_> = Reader::new(&bytes).collect();
        assert_eq!(read[0], Ok(Tlv { tag: 0x62, value: &[0x82, 0x01, 0x4A] }));
        assert_eq!(read[1], Ok(Tlv { tag: 0x9F7F, value: &[0xAA] }));
        assert_eq!(read[2], Ok(Tlv { tag: 0xDF51, value: &[] }));
        assert_eq!(read[3], Err(TlvError::Value { announced: 0x81, found: 2 }));
        assert_eq!(read.len(), 4);
        assert_eq!(find(&bytes, 0x9F7F), Some(&[0xAA][..]));
    }

    #[test]
    fn lengths_around_every_border() {
        for (length, coded) in [
            (127, "7f"),
            (128, "8180"),
            (245, "81f5"),
            (255, "81ff"),
            (256, "820100"),
            (65_535, "82ffff"),
            (65_536, "83010000"),
        ] {
            let mut out = Vec::new();
            push_length(&mut out, length);
            assert_eq!(hex::encode(&out), coded);
            assert_eq!(split_length(&out), Ok((length, &[][..])));
        }
        for wrong in ["", "80", "81", "8201", "84000000ff", "ff"] {
            assert_eq!(split_length(&hex::decode(wrong).unwrap()), Err(TlvError::Length), "{wrong}");
        }
    }

    #[test]
    fn comprehension_tags_come_with_and_without_their_bit() {
        let bytes = hex::decode("8103012600020282817ff001017fff0105").unwrap();
        let read: Vec<_> = ComprehensionReader::new(&bytes).collect();
        assert_eq!(
            read[0],
            Ok(ComprehensionTlv { tag: 1, comprehension_required: true, value: &[0x01, 0x26, 0x00] })
        );
        assert_eq!(
            read[1],
            Ok(ComprehensionTlv { tag: 2, comprehension_required: false, value: &[0x82, 0x81] })
        );
        assert_eq!(
            read[2],
            Ok(ComprehensionTlv { tag: 0x7001, comprehension_required: true, value: &[0x7F] })
        );
        assert!(read[3].is_err());
        // No tag has the number 0, in three bytes as in one.
        assert_eq!(ComprehensionReader::new(&[0x7F, 0x80, 0x00, 0x00]).next(), Some(Err(TlvError::Tag)));
        assert_eq!(find_comprehension(&bytes, 0x02), Some(&[0x82, 0x81][..]));
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_reads_back(tags in proptest::collection::vec((1_u16..0x7FFF, 0_usize..300), 0..8)) {
            let mut comprehension = Vec::new();
            for (tag, length) in &tags {
                push_comprehension(&mut comprehension, *tag, tag % 2 == 0, &vec![0xA5; *length]);
            }
            let read: Vec<_> = ComprehensionReader::new(&comprehension).map(Result::unwrap).collect();
            let expected: Vec<_> = tags.iter().map(|(tag, length)| (*tag, tag % 2 == 0, *length)).collect();
            let found: Vec<_> = read.iter().map(|o| (o.tag, o.comprehension_required, o.value.len())).collect();
            proptest::prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_bytes_end_without_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = Reader::new(&bytes).count();
            let _ = ComprehensionReader::new(&bytes).count();
        }
    }
}
