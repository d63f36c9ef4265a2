//! ENVELOPE (SMS-PP DOWNLOAD): how a device hands a short message to its card.

use crate::tlv::{self, Reader, find_comprehension};

use super::SmsError;
use super::address::Address;

/// 3GPP TS 31.111, 9.1: SMS-PP Download tag.
const SMS_PP_DOWNLOAD: u32 = 0xD1;
/// ETSI TS 102 223, 9.3: device identities, address, SMS TPDU.
const DEVICE_IDENTITIES: u16 = 0x02;
const ADDRESS: u16 = 0x06;
const SMS_TPDU: u16 = 0x0B;
/// ETSI TS 102 223, 8.7: from the network to the card.
const NETWORK_TO_CARD: [u8; 2] = [0x83, 0x81];

/// 3GPP TS 31.111, 7.1.1: what the ENVELOPE command carries as data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmsPpDownload {
    /// TS-Service-Centre-Address, where the device gives one.
    pub service_centre: Option<Address>,
    /// The SMS-DELIVER as it came.
    pub tpdu: Vec<u8>,
}

impl SmsPpDownload {
    /// The data of the ENVELOPE command.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        tlv::push_with(&mut out, SMS_PP_DOWNLOAD, |value| {
            tlv::push_comprehension(value, DEVICE_IDENTITIES, true, &NETWORK_TO_CARD);
            if let Some(address) = &self.service_centre {
                tlv::push_comprehension(value, ADDRESS, true, &address.to_data_object());
            }
            tlv::push_comprehension(value, SMS_TPDU, true, &self.tpdu);
        });
        out
    }

    /// Reads the data of an ENVELOPE command; tags count with and without their comprehension bit.
    pub fn from_bytes(data: &[u8]) -> Result<Self, SmsError> {
        let envelope = match Reader::new(data).next() {
            Some(Ok(object)) if object.tag == SMS_PP_DOWNLOAD => object.value,
            _ => return Err(SmsError::Envelope),
        };
        Ok(Self {
            service_centre: find_comprehension(envelope, ADDRESS).map(Address::from_data_object),
            tpdu: find_comprehension(envelope, SMS_TPDU).ok_or(SmsError::Envelope)?.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_reads_back_with_and_without_comprehension_bits() {
        let download = SmsPpDownload {
            service_centre: Some(Address::number("+49170").unwrap()),
            tpdu: vec![0x40, 0x01, 0x02],
        };
        let bytes = download.to_bytes();
        assert_eq!(hex::encode(&bytes), "d10f820283818604919471f08b03400102");
        assert_eq!(SmsPpDownload::from_bytes(&bytes), Ok(download.clone()));
        let plain = hex::decode("d10f020283810604919471f00b03400102").unwrap();
        assert_eq!(SmsPpDownload::from_bytes(&plain), Ok(download));
        assert_eq!(SmsPpDownload::from_bytes(&[0xD3, 0x00]), Err(SmsError::Envelope));
        assert_eq!(SmsPpDownload::from_bytes(&[0xD1, 0x04, 0x82, 0x02, 0x83, 0x81]), Err(SmsError::Envelope));
    }
}
