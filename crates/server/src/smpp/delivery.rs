//! What an SMSC brings, read tolerantly: deliver_sm and data_sm, and their optional parameters.
//!
//! The optional parameters are read here and not by the codec: an SMSC that ends an identifier without its NUL must not
//! cost a receipt.

use rusmpp_core::decode::borrowed::DecodeWithLength;
use rusmpp_core::pdus::borrowed as pdus;

use super::event::Address;
use super::wire::{HEADER_BYTES, lenient_text, status};

/// esm_class: the message begins with a user data header.
pub const UDHI: u8 = 0x40;
/// Most optional parameters that are looked at in one PDU.
const TLVS_MAX: usize = 64;
/// A deliver_sm or data_sm: a receipt or a message, still as its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Who sent it.
    pub source: Address,
    /// Whom it is for.
    pub destination: Address,
    /// esm_class, all eight bits.
    pub esm_class: u8,
    /// protocol_id; a data_sm has none, and counts as 0.
    pub protocol_id: u8,
    /// data_coding.
    pub data_coding: u8,
    /// short_message, or message_payload (0424) where that is empty; a part that is named by sar_* parameters (020C,
    /// 020E, 020F) has them as an element of its header, as it would have come from the phone.
    pub user_data: Vec<u8>,
    /// receipted_message_id (001E).
    pub receipted_message_id: Option<String>,
    /// message_state (0427).
    pub message_state: Option<u8>,
    /// network_error_code (0423): network type and code.
    pub network_error: Option<(u8, u16)>,
    /// user_message_reference (0204).
    pub reference: Option<u16>,
}

/// Reads a deliver_sm. The error is the status to answer with.
pub fn read_delivery(pdu: &[u8]) -> Result<Delivery, u32> {
    let body = &pdu[HEADER_BYTES..];
    let mandatory = mandatory_bytes(body).ok_or(status::INVALID_COMMAND_LENGTH)?;
    let (sm, _) = pdus::DeliverSm::<1>::decode(&body[..mandatory], mandatory)
        .map_err(|_| status::INVALID_COMMAND_LENGTH)?;
    let delivery = Delivery {
        source: Address::new(sm.source_addr_ton.into(), sm.source_addr_npi.into(), sm.source_addr.as_str()),
        destination: Address::new(
            sm.dest_addr_ton.into(),
            sm.dest_addr_npi.into(),
            sm.destination_addr.as_str(),
        ),
        esm_class: sm.esm_class.into(),
        protocol_id: sm.protocol_id,
        data_coding: sm.data_coding.into(),
        user_data: sm.short_message().bytes().to_vec(),
        receipted_message_id: None,
        message_state: None,
        network_error: None,
        reference: None,
    };
    delivery.with_parameters(&body[mandatory..])
}

/// Reads a data_sm (SMPP 3.4, 4.7.1), which an SMSC may send instead of a deliver_sm. The error is the status to
/// answer with.
pub fn read_data(pdu: &[u8]) -> Result<Delivery, u32> {
    let mut fields = Fields(&pdu[HEADER_BYTES..]);
    let mandatory = (|| {
        fields.text()?; // service_type
        let (source, destination) = (fields.address()?, fields.address()?);
        let [esm_class, _registered_delivery, data_coding] = fields.octets()?;
        Some(Delivery {
            source,
            destination,
            esm_class,
            protocol_id: 0,
            data_coding,
            user_data: Vec::new(),
            receipted_message_id: None,
            message_state: None,
            network_error: None,
            reference: None,
        })
    })();
    mandatory.ok_or(status::INVALID_COMMAND_LENGTH)?.with_parameters(fields.0)
}

impl Delivery {
    /// Adds what the optional parameters say.
    fn with_parameters(mut self, parameters: &[u8]) -> Result<Self, u32> {
        let (mut reference, mut total, mut number) = (None, 1, None);
        for tlv in tlvs(parameters) {
            let (tag, value) = tlv?;
            match (tag, value) {
                (0x001E, text) => self.receipted_message_id = Some(lenient_text(text)),
                (0x0427, &[state]) => self.message_state = Some(state),
                (0x0423, &[network, high, low]) => {
                    self.network_error = Some((network, u16::from_be_bytes([high, low])));
                }
                (0x0204, &[high, low]) => self.reference = Some(u16::from_be_bytes([high, low])),
                (0x0204, &[low]) => self.reference = Some(low.into()),
                (0x0424, payload) if self.user_data.is_empty() => self.user_data = payload.to_vec(),
                (0x020C, &[high, low]) => reference = Some([high, low]),
                (0x020E, &[segments]) => total = segments,
                (0x020F, &[segment]) => number = Some(segment),
                _ => {}
            }
        }
        if let (Some(reference), 2.., Some(number)) = (reference, total, number) {
            self.name_part(reference, total, number);
        }
        Ok(self)
    }

    /// Puts the number of a part into its header (3GPP TS 23.040, 9.2.3.24.8), unless it has one already.
    fn name_part(&mut self, [high, low]: [u8; 2], total: u8, number: u8) {
        let has_header = self.esm_class & UDHI != 0;
        let length = if has_header { self.user_data.first().copied().unwrap_or(0) } else { 0 };
        let elements = self.user_data.get(1..).unwrap_or_default();
        let elements = elements.get(..length.into()).unwrap_or_default();
        let Some(longer) = length.checked_add(6).filter(|_| !has_part(elements)) else { return };
        let mut named = vec![longer, 0x08, 0x04, high, low, total, number];
        named.extend_from_slice(&self.user_data[usize::from(has_header && !self.user_data.is_empty())..]);
        self.user_data = named;
        self.esm_class |= UDHI;
    }
}

/// Whether a user data header names a part of a message: element 00 or 08.
fn has_part(mut elements: &[u8]) -> bool {
    while let [tag, length, rest @ ..] = elements {
        if matches!(tag, 0x00 | 0x08) {
            return true;
        }
        elements = rest.get(usize::from(*length)..).unwrap_or_default();
    }
    false
}

/// Mandatory fields, read one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn octets<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (octets, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*octets)
    }

    fn text(&mut self) -> Option<String> {
        let end = self.0.iter().position(|&b| b == 0)?;
        let text = lenient_text(&self.0[..end]);
        self.0 = &self.0[end + 1..];
        Some(text)
    }

    fn address(&mut self) -> Option<Address> {
        let [ton, npi] = self.octets()?;
        Some(Address::new(ton, npi, &self.text()?))
    }
}

/// Length of the mandatory part of a submit_sm or deliver_sm (SMPP 3.4, 4.4.1, 4.6.1).
fn mandatory_bytes(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    // service_type; source ton npi address; destination ton npi address; esm, pid, priority, schedule; validity
    for fixed_before in [0, 2, 2, 3, 0] {
        at += fixed_before;
        at += body.get(at..)?.iter().position(|&b| b == 0)? + 1;
    }
    at += 4;
    let sm_length = usize::from(*body.get(at)?);
    let end = at + 1 + sm_length;
    (end <= body.len()).then_some(end)
}

/// The optional parameters (SMPP 3.4, 5.3), in order; one that runs past the end is the last and an error.
fn tlvs(mut rest: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), u32>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let parsed = rest.split_first_chunk::<4>().and_then(|(&[t1, t2, l1, l2], after)| {
            let (value, after) = after.split_at_checked(u16::from_be_bytes([l1, l2]).into())?;
            Some((u16::from_be_bytes([t1, t2]), value, after))
        });
        match parsed {
            Some((tag, value, after)) => {
                rest = after;
                Some(Ok((tag, value)))
            }
            None => {
                rest = &[];
                Some(Err(status::INVALID_TLV_STREAM))
            }
        }
    })
    .take(TLVS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deliver(short_message: &[u8], tlvs: &[u8]) -> Vec<u8> {
        let mut pdu = vec![0; 16];
        pdu.extend_from_slice(b"\0\x01\x01436641234567\0\0\x00500\0\x41\x7f\0\0\0\0\0\x02\0");
        pdu.push(short_message.len() as u8);
        pdu.extend_from_slice(short_message);
        pdu.extend_from_slice(tlvs);
        pdu
    }

    #[test]
    fn deliver_sm_is_read_with_unterminated_and_unknown_parameters() {
        let tlvs = b"\x00\x1e\x00\x03abc\x14\x00\x00\x01x\x04\x27\x00\x01\x02\x04\x23\x00\x03\x03\x00\x1b";
        let delivery = read_delivery(&deliver(b"hi", tlvs)).unwrap();
        assert_eq!(delivery.source, Address::new(1, 1, "436641234567"));
        assert_eq!((delivery.esm_class, delivery.protocol_id, delivery.data_coding), (0x41, 0x7F, 0x02));
        assert_eq!(delivery.receipted_message_id.as_deref(), Some("abc"));
        assert_eq!((delivery.message_state, delivery.network_error), (Some(2), Some((3, 27))));
    }

    #[test]
    fn message_payload_is_read_only_where_the_message_is_empty() {
        assert_eq!(read_delivery(&deliver(b"", b"\x04\x24\x00\x02ab")).unwrap().user_data, b"ab");
        assert_eq!(read_delivery(&deliver(b"x", b"\x04\x24\x00\x02ab")).unwrap().user_data, b"x");
    }

    #[test]
    fn a_part_that_parameters_name_is_read_as_it_left_the_phone() {
        let part = |esm_class: u8, message: &[u8], number: u8| {
            let tlvs =
                [b"\x02\x0c\x00\x02\x12\x34\x02\x0e\x00\x01\x02\x02\x0f\x00\x01".as_slice(), &[number]]
                    .concat();
            let mut pdu = deliver(message, &tlvs);
            let esm_at = pdu.windows(2).position(|two| two == [0x41, 0x7F]).unwrap();
            pdu[esm_at] = esm_class;
            let delivery = read_delivery(&pdu).unwrap();
            (delivery.esm_class & UDHI, delivery.user_data)
        };
        assert_eq!(
            part(0x40, b"\x02\x71\x00ab", 1),
            (UDHI, b"\x08\x08\x04\x12\x34\x02\x01\x71\x00ab".to_vec())
        );
        assert_eq!(part(0x00, b"cd", 2), (UDHI, b"\x06\x08\x04\x12\x34\x02\x02cd".to_vec()));
        // It names itself already; headers that are none are left to the reader of the message.
        let named = b"\x05\x00\x03\x07\x02\x01ab";
        assert_eq!(part(0x40, named, 1).1, named);
        assert_eq!(part(0x40, b"\xffab", 1).1, b"\xffab");
        assert_eq!(part(0x40, b"", 1).1, b"\x06\x08\x04\x12\x34\x02\x01");
    }

    #[test]
    fn a_data_sm_is_read_like_a_deliver_sm() {
        let mut pdu = vec![0; 16];
        pdu.extend_from_slice(
            b"\0\x01\x01436641234567\0\0\x00500\0\x40\x00\x04\x04\x24\x00\x05\x02\x71\x00ab",
        );
        let delivery = read_data(&pdu).unwrap();
        assert_eq!(delivery.source, Address::new(1, 1, "436641234567"));
        assert_eq!(delivery.destination, Address::new(0, 0, "500"));
        assert_eq!((delivery.esm_class, delivery.data_coding), (0x40, 0x04));
        assert_eq!(delivery.user_data, b"\x02\x71\x00ab");
        let mandatory = pdu.len() - 9;
        for end in HEADER_BYTES..pdu.len() {
            let expected = match end {
                _ if end < mandatory => status::INVALID_COMMAND_LENGTH,
                _ if end == mandatory => continue,
                _ => status::INVALID_TLV_STREAM,
            };
            assert_eq!(read_data(&pdu[..end]), Err(expected), "{end}");
        }
    }

    #[test]
    fn a_parameter_past_the_end_and_a_cut_body_have_their_status() {
        let whole = deliver(b"hi", b"\x04\x27\x00\x09\x02");
        assert_eq!(read_delivery(&whole), Err(status::INVALID_TLV_STREAM));
        let whole = deliver(b"hi", b"");
        for end in HEADER_BYTES..whole.len() {
            assert_eq!(read_delivery(&whole[..end]), Err(status::INVALID_COMMAND_LENGTH), "{end}");
        }
    }
}
