//! What the device says to its card: terminal responses, envelopes, the terminal profile.

use simtide_protocol::apdu::Command;
use simtide_protocol::ids::EpochMs;
use simtide_protocol::sms::{Address, SmsPpDownload};
use simtide_protocol::tlv::{push, push_comprehension};

use crate::kind::{Location, Settings};
use crate::proactive::{Details, tag};

/// General results of a terminal response (ETSI TS 102 223, 8.12).
pub(crate) mod result {
    pub const OK: u8 = 0x00;
    pub const MISSING_INFORMATION: u8 = 0x02;
    pub const MODIFIED: u8 = 0x07;
    pub const ENDED_BY_USER: u8 = 0x10;
    pub const BACKWARD: u8 = 0x11;
    pub const NO_ANSWER: u8 = 0x12;
    pub const NETWORK_UNABLE: u8 = 0x21;
    pub const TIMER_CONTRADICTION: u8 = 0x24;
    pub const BEYOND: u8 = 0x30;
    pub const TYPE_UNKNOWN: u8 = 0x31;
    pub const NOT_UNDERSTOOD: u8 = 0x32;
    pub const SMS_ERROR: u8 = 0x35;
    pub const MISSING_VALUES: u8 = 0x36;
    pub const BIP_ERROR: u8 = 0x3A;
}

/// Additional information to [`result::BIP_ERROR`] (8.12.11).
pub(crate) mod bip {
    pub const NO_CHANNEL: u8 = 0x01;
    pub const CHANNEL_CLOSED: u8 = 0x02;
    pub const CHANNEL_UNKNOWN: u8 = 0x03;
    pub const BUFFER_UNAVAILABLE: u8 = 0x04;
}

/// Most bytes that a terminal response carries: one short APDU.
pub(crate) const RESPONSE_DATA_MAX: usize = 255;

/// A terminal response that grows (TS 102 223, 6.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    body: Vec<u8>,
}

impl Response {
    /// Command details, device identities, and the result with what is added to it.
    pub fn new(details: Details, result: u8, information: &[u8]) -> Self {
        let mut body = Vec::with_capacity(16);
        let Details { number, kind, qualifier } = details;
        push_comprehension(&mut body, tag::COMMAND_DETAILS, true, &[number, kind, qualifier]);
        push_comprehension(&mut body, tag::DEVICE_IDENTITIES, true, &[0x82, 0x81]);
        let mut value = vec![result];
        value.extend_from_slice(information);
        push_comprehension(&mut body, tag::RESULT, true, &value);
        Self { body }
    }

    /// Adds an object.
    pub fn with(mut self, tag: u16, value: &[u8]) -> Self {
        push_comprehension(&mut self.body, tag, true, value);
        self
    }

    /// How many bytes of value one more object may have.
    pub fn room(&self) -> usize {
        // Tag and a length of two bytes.
        RESPONSE_DATA_MAX.saturating_sub(self.body.len() + 3)
    }

    /// TERMINAL RESPONSE as a command APDU.
    pub fn into_apdu(mut self) -> Vec<u8> {
        self.body.truncate(RESPONSE_DATA_MAX);
        Command::new(0x80, 0x14, 0x00, 0x00).with_data(&self.body).encode()
    }
}

/// An ENVELOPE with one template (TS 102 223, 7): device identities, then what `fill` appends.
pub(crate) fn envelope(template: u8, source: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = Vec::new();
    push_comprehension(&mut body, tag::DEVICE_IDENTITIES, true, &[source, 0x81]);
    fill(&mut body);
    template_apdu(template, &body)
}

/// An event download: the event stands first (7.5).
pub(crate) fn event_envelope(event: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = Vec::new();
    push_comprehension(&mut body, tag::EVENT_LIST, true, &[event]);
    push_comprehension(&mut body, tag::DEVICE_IDENTITIES, true, &[0x82, 0x81]);
    fill(&mut body);
    template_apdu(0xD6, &body)
}

fn template_apdu(template: u8, body: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(body.len() + 3);
    push(&mut data, u32::from(template), body);
    Command::new(0x80, 0xC2, 0x00, 0x00).with_data(&data).encode()
}

/// An SMS-PP download (3GPP TS 31.111, 7.1.1).
pub(crate) fn sms_envelope(service_center: &str, tpdu: &[u8]) -> Vec<u8> {
    let service_centre = Address::number(service_center).ok().filter(|address| !address.number.is_empty());
    let download = SmsPpDownload { service_centre, tpdu: tpdu.to_vec() };
    Command::new(0x80, 0xC2, 0x00, 0x00).with_data(&download.to_bytes()).encode()
}

/// The terminal profile (5.2): only what this device does.
pub(crate) fn terminal_profile(display: bool) -> [u8; 17] {
    let mut profile = [0; 17];
    // Profile download, SMS-PP download, its error data, timer expiration.
    profile[0] = 0x33;
    profile[1] = 0x01;
    // MORE TIME, POLL INTERVAL, POLLING OFF, REFRESH.
    profile[2] = 0xE8;
    // SEND SHORT MESSAGE, PROVIDE LOCAL INFORMATION.
    profile[3] = 0x42;
    // SET UP EVENT LIST, location status.
    profile[4] = 0x11;
    // Data available, channel status.
    profile[5] = 0x0C;
    // TIMER MANAGEMENT in both forms, date and time.
    profile[7] = 0x07;
    // Language, language notification, access technology.
    profile[8] = 0xA8;
    // OPEN, CLOSE CHANNEL, RECEIVE, SEND DATA, GET CHANNEL STATUS.
    profile[11] = 0x1F;
    // Packet bearers, four channels.
    profile[12] = 0x82;
    // TCP with the card as client.
    profile[16] = 0x01;
    if display {
        // Menu selection; UCS2; DISPLAY TEXT, GET INKEY, GET INPUT, PLAY TONE; SELECT ITEM, SET UP MENU; idle text.
        profile[0] |= 0x08;
        profile[1] |= 0xE0;
        profile[2] |= 0x17;
        profile[3] |= 0x21;
        profile[7] |= 0x18;
        profile[8] |= 0x01;
        // Eight lines of sixteen characters.
        profile[13] = 0x08;
        profile[14] = 0x10;
    } else {
        // No display, no keys.
        profile[13] = 0x60;
    }
    profile
}

/// Date, time and time zone (8.39): semi-octets swapped, local time, the offset in quarters of an hour.
pub(crate) fn date_time(now: EpochMs, zone_quarters: i8) -> [u8; 7] {
    let local = now.plus_s(i64::from(zone_quarters) * 900);
    let (year, month, day, hour, minute, second) = local.civil();
    let year = u8::try_from(year.rem_euclid(100)).unwrap_or_default();
    let sign = if zone_quarters < 0 { 0x08 } else { 0x00 };
    let zone = swapped(zone_quarters.unsigned_abs()) | sign;
    [swapped(year), swapped(month), swapped(day), swapped(hour), swapped(minute), swapped(second), zone]
}

/// A timer value of hours, minutes and seconds (8.38).
pub(crate) fn timer_value(seconds: u32) -> [u8; 3] {
    // Durations are below a hundred hours, for they came in this form.
    [swapped((seconds / 3600 % 100) as u8), swapped((seconds / 60 % 60) as u8), swapped((seconds % 60) as u8)]
}

fn swapped(two_digits: u8) -> u8 {
    (two_digits % 10) << 4 | (two_digits / 10 % 10)
}

/// The place of the device (8.19): PLMN, area, cell.
pub(crate) fn location(location: Location) -> [u8; 7] {
    let [a, b, c] = location.plmn;
    let [area_high, area_low] = location.area.to_be_bytes();
    let [cell_high, cell_low] = location.cell.to_be_bytes();
    [a, b, c, area_high, area_low, cell_high, cell_low]
}

/// The IMEI (8.20; 3GPP TS 24.008, 10.5.1.4): odd number of digits, type 2, semi-octets.
pub(crate) fn imei(settings: &Settings) -> [u8; 8] {
    let digit = |at: usize| settings.imei[at] & 0x0F;
    let mut coded = [0; 8];
    coded[0] = digit(0) << 4 | 0x0A;
    for (at, byte) in coded.iter_mut().enumerate().skip(1) {
        *byte = digit(2 * at) << 4 | digit(2 * at - 1);
    }
    coded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;

    #[test]
    fn dates_and_durations() {
        let moment: EpochMs = "2026-11-21T09:45:07Z".parse().unwrap();
        assert_eq!(hex::encode(date_time(moment, 0)), "62111290547000");
        // One hour ahead, and an hour and a quarter behind.
        assert_eq!(hex::encode(date_time(moment, 4)), "62111201547040");
        assert_eq!(hex::encode(date_time(moment, -5)), "62111280037058");
        assert_eq!(hex::encode(timer_value(23 * 3600 + 59 * 60 + 8)), "329580");
    }

    #[test]
    fn identities() {
        assert_eq!(hex::encode(imei(&Settings::of(Kind::Phone))), "4a09512430325781");
        assert_eq!(hex::encode(location(Location::default())), "00f11000010001");
    }

    #[test]
    fn sms_download() {
        let apdu = sms_envelope("+43660123", &[0x40, 0x00]);
        assert_eq!(hex::encode(apdu), "80c2000011d10f82028381860591346610328b024000");
        assert_eq!(hex::encode(sms_envelope("", &[0x40])), "80c2000009d107820283818b0140");
    }

    #[test]
    fn response_layout() {
        let details = Details { number: 1, kind: 0x26, qualifier: 3 };
        let response = Response::new(details, result::OK, &[]).with(tag::DATE_TIME, &[1; 7]);
        assert_eq!(
            hex::encode(response.into_apdu()),
            "8014000015810301260382028281830100a607010101 01010101".replace(' ', "")
        );
    }

    #[test]
    fn profiles_differ_by_display() {
        assert_eq!(
            hex::encode(terminal_profile(true)),
            "3be1ff63110c001fa90000 1f8208100001".replace(' ', "")
        );
        assert_eq!(
            hex::encode(terminal_profile(false)),
            "3301e842110c0007a80000 1f8260000001".replace(' ', "")
        );
    }
}
