//! The short message by which an entitlement server says that something waits (GSMA TS.43, 2.4.1): to port 8095, with
//! the text `<IMSI>-aescfg,apNNNN`.

use simtide_protocol::entitlement::AppId;
use simtide_protocol::ids::Imsi;
use simtide_protocol::sms::{Deliver, UserDataHeader, is_seven_bit};

/// 3GPP TS 23.040, 9.2.3.24.4: application port addressing, 16 bits.
const PORTS: u8 = 0x05;
/// The port of these messages.
pub const NOTIFICATION_PORT: u16 = 8095;

/// Whether this SMS-DELIVER tells this subscriber that something waits for this application.
pub fn is_notification(tpdu: &[u8], imsi: Imsi, app: AppId) -> bool {
    let Ok(deliver) = Deliver::from_bytes(tpdu) else { return false };
    if !deliver.has_header {
        return false;
    }
    let Ok((header, body)) = UserDataHeader::split(&deliver.user_data.octets) else { return false };
    let port = NOTIFICATION_PORT.to_be_bytes();
    if !header.elements.iter().any(|element| element.id == PORTS && element.data.starts_with(&port)) {
        return false;
    }
    let text = if is_seven_bit(deliver.dcs) {
        let header_bytes = deliver.user_data.octets.len() - body.len();
        septets(&deliver.user_data.octets, header_bytes, deliver.user_data.length)
    } else {
        String::from_utf8_lossy(body).into_owned()
    };
    // Parameters may be separated by commas, and more applications may be named.
    let Some((subscriber, rest)) = text.trim().split_once('-') else { return false };
    let mut words = rest.split(',').map(str::trim);
    let is_configuration = words.next().is_some_and(|word| word.eq_ignore_ascii_case("aescfg"));
    subscriber == imsi.to_string() && is_configuration && words.any(|word| word.parse() == Ok(app))
}

/// The characters behind a header in the default alphabet; what is used here stands where ASCII has it (3GPP TS 23.038,
/// 6.2.1). The text begins at the next septet (TS 23.040, 9.2.3.24).
fn septets(octets: &[u8], header_bytes: usize, length: u8) -> String {
    let first = (header_bytes * 8).div_ceil(7);
    (first..usize::from(length))
        .filter_map(|place| {
            let bit = place * 7;
            let low = *octets.get(bit / 8)?;
            let high = octets.get(bit / 8 + 1).copied().unwrap_or_default();
            Some(char::from((u16::from_le_bytes([low, high]) >> (bit % 8)) as u8 & 0x7F))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use simtide_protocol::entitlement::{OTA_APP_DEFAULT, VOWIFI_APP};
    use simtide_protocol::ids::EpochMs;
    use simtide_protocol::sms::{Address, Timestamp, UserData};

    const HEADER: [u8; 7] = [0x06, 0x05, 0x04, 0x1F, 0x9F, 0x00, 0x00];

    fn deliver(dcs: u8, header: &[u8], text: &str) -> Vec<u8> {
        let mut user_data = UserData::from_octets([header, text.as_bytes()].concat()).unwrap();
        if is_seven_bit(dcs) {
            let first = (header.len() * 8).div_ceil(7);
            let mut octets = header.to_vec();
            octets.resize((first + text.len()) * 7 / 8 + 1, 0);
            for (at, character) in text.bytes().enumerate() {
                let bit = (first + at) * 7;
                let wide = (u16::from(character) << (bit % 8)).to_le_bytes();
                octets[bit / 8] |= wide[0];
                if let Some(next) = octets.get_mut(bit / 8 + 1) {
                    *next |= wide[1];
                }
            }
            user_data = UserData { length: (first + text.len()) as u8, octets };
        }
        let timestamp = Timestamp::from_epoch(EpochMs(0));
        let mut deliver = Deliver::data_download(Address::number("500").unwrap(), timestamp, user_data);
        (deliver.pid, deliver.dcs) = (0, dcs);
        deliver.to_bytes()
    }

    #[test]
    fn a_notification_is_known_in_both_codings() {
        let imsi: Imsi = "001010000000001".parse().unwrap();
        let is = |dcs, header: &[u8], text: &str| {
            is_notification(&deliver(dcs, header, text), imsi, OTA_APP_DEFAULT)
        };
        for dcs in [0x00, 0x04, 0xF5] {
            assert!(is(dcs, &HEADER, "001010000000001-aescfg,ap5901"), "{dcs:02x}");
            assert!(is(dcs, &HEADER, "001010000000001-AESCFG,ap2004,AP5901"), "{dcs:02x}");
            assert!(!is(dcs, &HEADER, "001010000000002-aescfg,ap5901"), "{dcs:02x}");
            assert!(!is(dcs, &HEADER, &format!("001010000000001-aescfg,{VOWIFI_APP}")), "{dcs:02x}");
            assert!(!is(dcs, &HEADER, "hello"), "{dcs:02x}");
            let other = [0x06, 0x05, 0x04, 0x23, 0xF0, 0x00, 0x00];
            assert!(!is(dcs, &other, "001010000000001-aescfg,ap5901"), "{dcs:02x}");
        }
        assert!(!is_notification(&[], imsi, OTA_APP_DEFAULT));
        assert!(!is_notification(&[0x44, 0xFF], imsi, OTA_APP_DEFAULT));
    }
}
