//! Envelopes: what the device tells the card (ETSI TS 102 223, 7; 3GPP TS 31.111, 7.1).

use super::DeviceEvent;
use simtide_protocol::tlv::{ComprehensionReader, Reader, TlvError, find_comprehension};

/// One ENVELOPE, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Envelope<'a> {
    /// D1 SMS-PP download.
    SmsDownload {
        /// Address of the service center: type of number and digits as coded, where it was given.
        service_center: Option<&'a [u8]>,
        /// The SMS-DELIVER.
        tpdu: &'a [u8],
    },
    /// D3 menu selection.
    MenuSelection {
        /// The chosen item.
        item: u8,
    },
    /// D6 event download.
    Event {
        /// Which event.
        event: DeviceEvent,
        /// The objects that come with it.
        body: &'a [u8],
    },
    /// D7 timer expiration.
    TimerExpired {
        /// Timer 1 to 8.
        timer: u8,
    },
    /// Any other envelope; accepted without effect.
    Other {
        /// Its tag.
        tag: u32,
    },
}

impl<'a> Envelope<'a> {
    /// Reads the data of ENVELOPE.
    pub fn parse(data: &'a [u8]) -> Result<Self, TlvError> {
        let object = Reader::new(data).next().ok_or(TlvError::Tag)??;
        let body = object.value;
        for inner in ComprehensionReader::new(body) {
            inner?;
        }
        let find = |tag| find_comprehension(body, tag);
        let first = |tag| find(tag).and_then(|value| value.first().copied()).ok_or(TlvError::Tag);
        Ok(match object.tag {
            0xD1 => Self::SmsDownload { service_center: find(0x06), tpdu: find(0x0B).ok_or(TlvError::Tag)? },
            0xD3 => Self::MenuSelection { item: first(0x10)? },
            0xD6 => Self::Event { event: DeviceEvent::from_code(first(0x19)?), body },
            0xD7 => Self::TimerExpired { timer: first(0x24)? },
            tag => Self::Other { tag },
        })
    }

    /// Channel (1 to 7) and bytes that wait, of a data-available event.
    pub fn data_available(&self) -> Option<(u8, u8)> {
        let Self::Event { event: DeviceEvent::DataAvailable, body } = self else { return None };
        let channel = find_comprehension(body, 0x38)?.first()? & 0x07;
        let length = find_comprehension(body, 0x37)?.first()?;
        Some((channel, *length))
    }

    /// Channel (1 to 7) of a channel-status event, and whether its link is up.
    pub fn channel_status(&self) -> Option<(u8, bool)> {
        let Self::Event { event: DeviceEvent::ChannelStatus, body } = self else { return None };
        let status = find_comprehension(body, 0x38)?.first()?;
        Some((status & 0x07, status & 0x80 != 0))
    }

    /// The service of a location-status event: 00 normal, 01 limited, 02 none.
    pub fn location_status(&self) -> Option<u8> {
        let Self::Event { event: DeviceEvent::LocationStatus, body } = self else { return None };
        find_comprehension(body, 0x1B)?.first().copied()
    }
}

/// Clause 8.38: hours, minutes and seconds in swapped semi-octets.
pub(super) fn timer_seconds(value: &[u8]) -> Option<u32> {
    let &[hours, minutes, seconds] = value else { return None };
    let number = |octet: u8| u32::from(octet & 0x0F) * 10 + u32::from(octet >> 4);
    Some(number(hours) * 3_600 + number(minutes) * 60 + number(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_with_and_without_comprehension_bits() {
        let bytes = hex::decode("d10c820283810602912b0b0240aa").unwrap();
        assert_eq!(
            Envelope::parse(&bytes),
            Ok(Envelope::SmsDownload { service_center: Some(&[0x91, 0x2B]), tpdu: &[0x40, 0xAA] })
        );
        let bytes = hex::decode("d30782020181900102").unwrap();
        assert_eq!(Envelope::parse(&bytes), Ok(Envelope::MenuSelection { item: 2 }));
        let bytes = hex::decode("d70c82028281a40101a503000100").unwrap();
        assert_eq!(Envelope::parse(&bytes), Ok(Envelope::TimerExpired { timer: 1 }));
        let bytes = hex::decode("d60e99010982028281b8028100b701ff").unwrap();
        assert_eq!(Envelope::parse(&bytes).unwrap().data_available(), Some((1, 255)));
        let bytes = hex::decode("d60b19010a0202828138020105").unwrap();
        assert_eq!(Envelope::parse(&bytes).unwrap().channel_status(), Some((1, false)));
        let bytes = hex::decode("d60a990103820282819b0100").unwrap();
        assert_eq!(Envelope::parse(&bytes).unwrap().location_status(), Some(0));
    }

    #[test]
    fn what_is_no_envelope() {
        for wrong in ["", "d1", "d103820283", "d1048202838100", "d30482020181", "d60482028281"] {
            assert!(Envelope::parse(&hex::decode(wrong).unwrap()).is_err(), "{wrong}");
        }
    }
}
