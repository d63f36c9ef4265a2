//! User data header: information elements in any order, unknown ones kept.

use super::SmsError;

/// 3GPP TS 23.040, 9.2.3.24: the information elements of a message, in the order in which they came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserDataHeader {
    /// The elements.
    pub elements: Vec<Element>,
}

/// One information element.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Element {
    /// Its identifier.
    pub id: u8,
    /// What it says.
    pub data: Vec<u8>,
}

/// 3GPP TS 23.040, 9.2.3.24.1 and 9.2.3.24.8: this message is one part of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Concatenation {
    /// What the parts have in common; up to 255 in the 8-bit form.
    pub reference: u16,
    /// Whether it came in the 16-bit form (element 08); the two forms never mix in one message.
    pub wide: bool,
    /// How many parts there are.
    pub total: u8,
    /// Which one this is, from 1.
    pub number: u8,
}

impl Element {
    /// Concatenation with an 8-bit reference.
    pub const CONCATENATION: u8 = 0x00;
    /// Concatenation with a 16-bit reference.
    pub const CONCATENATION_WIDE: u8 = 0x08;
    /// 3GPP TS 31.115, 4.2: the user data is a command packet.
    pub const COMMAND_PACKET: u8 = 0x70;
    /// 3GPP TS 31.115, 4.3: the user data is a response packet.
    pub const RESPONSE_PACKET: u8 = 0x71;
}

impl UserDataHeader {
    /// Splits user data that starts with UDHL into header and the rest.
    pub fn split(user_data: &[u8]) -> Result<(Self, &[u8]), SmsError> {
        let (length, rest) = user_data.split_first().ok_or(SmsError::Truncated("the user data header"))?;
        let announced = usize::from(*length);
        let (mut header, body) = rest
            .split_at_checked(announced)
            .ok_or(SmsError::HeaderTooLong { announced, found: rest.len() })?;
        let mut elements = Vec::new();
        while let [id, length, rest @ ..] = header {
            let (data, rest) =
                rest.split_at_checked(usize::from(*length)).ok_or(SmsError::Element { id: *id })?;
            elements.push(Element { id: *id, data: data.to_vec() });
            header = rest;
        }
        match header {
            [] => Ok((Self { elements }, body)),
            [id, ..] => Err(SmsError::Element { id: *id }),
        }
    }

    /// UDHL and the elements. At most 255 bytes, which no more than 139 can fit a message anyway.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![0];
        for element in &self.elements {
            out.extend_from_slice(&[element.id, element.data.len() as u8]);
            out.extend_from_slice(&element.data);
        }
        out[0] = (out.len() - 1) as u8;
        out
    }

    /// Whether there is an element of this kind.
    pub fn contains(&self, id: u8) -> bool {
        self.elements.iter().any(|element| element.id == id)
    }

    /// What says that this is one part of several. Where several elements say so the last counts
    /// (3GPP TS 23.040, 9.2.3.24); one of a wrong length says nothing.
    pub fn concatenation(&self) -> Result<Option<Concatenation>, SmsError> {
        let found =
            self.elements.iter().rev().find_map(|element| match (element.id, element.data.as_slice()) {
                (Element::CONCATENATION, [reference, total, number]) => Some(Concatenation {
                    reference: u16::from(*reference),
                    wide: false,
                    total: *total,
                    number: *number,
                }),
                (Element::CONCATENATION_WIDE, [high, low, total, number]) => Some(Concatenation {
                    reference: u16::from_be_bytes([*high, *low]),
                    wide: true,
                    total: *total,
                    number: *number,
                }),
                _ => None,
            });
        match found {
            Some(Concatenation { number, total, .. }) if number == 0 || number > total => {
                Err(SmsError::PartNumber { number, total })
            }
            found => Ok(found),
        }
    }
}

impl Concatenation {
    /// The element that says so.
    pub fn to_element(self) -> Element {
        let [high, low] = self.reference.to_be_bytes();
        if self.wide {
            Element { id: Element::CONCATENATION_WIDE, data: vec![high, low, self.total, self.number] }
        } else {
            Element { id: Element::CONCATENATION, data: vec![low, self.total, self.number] }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_in_any_order_and_unknown_ones_are_kept() {
        let bytes = [0x0A, 0x70, 0x00, 0x24, 0x01, 0xAB, 0x00, 0x03, 0x07, 0x02, 0x01, 0xFF];
        let (header, body) = UserDataHeader::split(&bytes).unwrap();
        assert_eq!(body, [0xFF]);
        assert!(header.contains(Element::COMMAND_PACKET));
        assert_eq!(header.elements[1], Element { id: 0x24, data: vec![0xAB] });
        let part = Concatenation { reference: 7, wide: false, total: 2, number: 1 };
        assert_eq!(header.concatenation(), Ok(Some(part)));
        assert_eq!(header.to_bytes(), bytes[..11]);
    }

    #[test]
    fn headers_that_lie_are_errors() {
        let split = |bytes: &[u8]| UserDataHeader::split(bytes).map(|(header, _)| header.concatenation());
        assert_eq!(split(&[]), Err(SmsError::Truncated("the user data header")));
        assert_eq!(split(&[0x03, 0x70, 0x00]), Err(SmsError::HeaderTooLong { announced: 3, found: 2 }));
        assert_eq!(split(&[0x02, 0x70, 0x01, 0xAA]), Err(SmsError::Element { id: 0x70 }));
        assert_eq!(split(&[0x01, 0x70]), Err(SmsError::Element { id: 0x70 }));
        let part = |number, total| split(&[0x05, 0x00, 0x03, 0x01, total, number]).unwrap();
        assert_eq!(part(0, 2), Err(SmsError::PartNumber { number: 0, total: 2 }));
        assert_eq!(part(3, 2), Err(SmsError::PartNumber { number: 3, total: 2 }));
        assert_eq!(part(1, 0), Err(SmsError::PartNumber { number: 1, total: 0 }));
        assert_eq!(split(&[0x04, 0x00, 0x02, 0x01, 0x02]).unwrap(), Ok(None), "a wrong length says nothing");
    }
}
