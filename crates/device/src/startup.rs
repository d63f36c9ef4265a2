//! What a device reads from its card before it works with it.

use simtide_protocol::apdu::{Command, StatusWord};
use simtide_protocol::ids::{Iccid, Imsi, Msisdn, tbcd};

use crate::kind::Settings;
use crate::response::terminal_profile;

/// The first bytes of every USIM's AID (ETSI TS 101 220, annex E).
const USIM: [u8; 7] = [0xA0, 0x00, 0x00, 0x00, 0x87, 0x10, 0x02];

/// What the device has read from its card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CardFiles {
    /// EF.ICCID.
    pub iccid: Option<Iccid>,
    /// EF.IMSI.
    pub imsi: Option<Imsi>,
    /// The first number of EF.MSISDN.
    pub msisdn: Option<Msisdn>,
    /// How many digits the network code has (EF.AD).
    pub mnc_digits: Option<u8>,
    /// The service centre of EF.SMSP, as TON/NPI and digits, unused bytes FF.
    pub service_center: Option<[u8; 12]>,
}

/// The steps in their order. Each is one command; what fails is left out, apart from the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    SelectMaster,
    SelectIccid,
    ReadIccid,
    SelectUsim,
    VerifyPin,
    SelectImsi,
    ReadImsi,
    SelectAd,
    ReadAd,
    SelectSmsp,
    ReadSmsp,
    SelectMsisdn,
    ReadMsisdn,
    Profile,
}

impl Step {
    /// What comes after this step; a selection that failed skips its reading.
    pub fn next(self, succeeded: bool) -> Option<Self> {
        use Step::*;
        Some(match self {
            SelectMaster => SelectIccid,
            SelectIccid if succeeded => ReadIccid,
            SelectIccid | ReadIccid => SelectUsim,
            // Without a USIM there is nothing to read; a toolkit may still be there.
            SelectUsim if !succeeded => Profile,
            SelectUsim => VerifyPin,
            VerifyPin => SelectImsi,
            SelectImsi if succeeded => ReadImsi,
            SelectImsi | ReadImsi => SelectAd,
            SelectAd if succeeded => ReadAd,
            SelectAd | ReadAd => SelectSmsp,
            SelectSmsp if succeeded => ReadSmsp,
            SelectSmsp | ReadSmsp => SelectMsisdn,
            SelectMsisdn if succeeded => ReadMsisdn,
            SelectMsisdn | ReadMsisdn => Profile,
            Profile => return None,
        })
    }

    /// The command of this step; `None` where there is nothing to do.
    pub fn command(self, settings: &Settings) -> Option<Vec<u8>> {
        // No FCP is asked for: P2 0C.
        let select = |file: &[u8; 2]| Command::new(0x00, 0xA4, 0x00, 0x0C).with_data(file).encode();
        let read_binary = || Command::new(0x00, 0xB0, 0x00, 0x00).with_le(256).encode();
        let read_record = || Command::new(0x00, 0xB2, 0x01, 0x04).with_le(256).encode();
        Some(match self {
            Self::SelectMaster => select(&[0x3F, 0x00]),
            Self::SelectIccid => select(&[0x2F, 0xE2]),
            Self::SelectUsim => Command::new(0x00, 0xA4, 0x04, 0x0C).with_data(&USIM).encode(),
            Self::VerifyPin => {
                let pin = settings.pin.as_ref()?;
                Command::new(0x00, 0x20, 0x00, 0x01).with_data(pin.padded()).encode()
            }
            Self::SelectImsi => select(&[0x6F, 0x07]),
            Self::SelectAd => select(&[0x6F, 0xAD]),
            Self::SelectSmsp => select(&[0x6F, 0x42]),
            Self::SelectMsisdn => select(&[0x6F, 0x40]),
            Self::ReadIccid | Self::ReadImsi | Self::ReadAd => read_binary(),
            Self::ReadSmsp | Self::ReadMsisdn => read_record(),
            Self::Profile => {
                Command::new(0x80, 0x10, 0x00, 0x00).with_data(&terminal_profile(settings.display)).encode()
            }
        })
    }
}

impl CardFiles {
    /// Whether these are of the same card: by its number, or by its subscriber where neither has a number.
    pub fn is_same_card(&self, other: &CardFiles) -> bool {
        match (self.iccid, other.iccid) {
            (Some(this), Some(that)) => this == that,
            (None, None) => self.imsi == other.imsi,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// Keeps what a step has read.
    pub(crate) fn keep(&mut self, step: Step, data: &[u8], status: StatusWord) {
        if status.0 >> 8 != 0x90 && status.0 >> 8 != 0x91 {
            return;
        }
        match step {
            Step::ReadIccid => self.iccid = data.get(..10).and_then(|coded| Iccid::from_file(coded).ok()),
            Step::ReadImsi => self.imsi = data.get(..9).and_then(|coded| Imsi::from_file(coded).ok()),
            Step::ReadAd => self.mnc_digits = data.get(3).copied().filter(|count| matches!(count, 2 | 3)),
            Step::ReadSmsp => self.service_center = service_center(data),
            Step::ReadMsisdn => self.msisdn = msisdn(data),
            _ => {}
        }
    }
}

/// EF.SMSP (3GPP TS 31.102, 4.2.27): the last 28 bytes are fixed; the centre stands 13 bytes into them.
fn service_center(record: &[u8]) -> Option<[u8; 12]> {
    let fixed = record.get(record.len().checked_sub(28)?..)?;
    let address = <[u8; 12]>::try_from(fixed.get(13..25)?).ok()?;
    (address[0] != 0xFF && address[0] > 1).then_some(address)
}

/// EF.MSISDN (4.2.26): the last 14 bytes are length, TON/NPI, ten bytes of digits, two of configuration.
fn msisdn(record: &[u8]) -> Option<Msisdn> {
    let fixed = record.get(record.len().checked_sub(14)?..)?;
    let length = usize::from(fixed[0]);
    if !(2..=11).contains(&length) {
        return None;
    }
    tbcd::decode(&fixed[2..=length]).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_they_are_coded() {
        let mut files = CardFiles::default();
        let ok = StatusWord::OK;
        files.keep(Step::ReadIccid, &hex::decode("988812010000000010f1").unwrap(), ok);
        files.keep(Step::ReadImsi, &hex::decode("080910101032547698ffff").unwrap(), ok);
        files.keep(Step::ReadAd, &[0, 0, 0, 2], ok);
        let smsp = format!("{}fd{}069134661032f4{}ff", "ff".repeat(12), "ff".repeat(12), "ff".repeat(7));
        files.keep(Step::ReadSmsp, &hex::decode(smsp).unwrap(), ok);
        let number = format!("{}069134661032f4{}ffff", "ff".repeat(6), "ff".repeat(5));
        files.keep(Step::ReadMsisdn, &hex::decode(number).unwrap(), ok);
        assert_eq!(files.iccid.unwrap().to_string(), "8988211000000000011");
        assert_eq!(files.imsi.unwrap().to_string(), "001010123456789");
        assert_eq!(files.mnc_digits, Some(2));
        assert_eq!(files.service_center.unwrap()[..2], [0x06, 0x91]);
        assert_eq!(files.msisdn.unwrap().to_string(), "436601234");
    }

    #[test]
    fn a_refused_reading_keeps_nothing() {
        let mut files = CardFiles::default();
        files.keep(
            Step::ReadIccid,
            &hex::decode("988812010000000010f1").unwrap(),
            StatusWord::SECURITY_STATUS,
        );
        files.keep(Step::ReadMsisdn, &[], StatusWord::OK);
        files.keep(Step::ReadSmsp, &[0xFF; 40], StatusWord::OK);
        assert_eq!(files, CardFiles::default());
    }

    #[test]
    fn every_path_ends_with_the_profile() {
        for failing in 0..1 << 13 {
            let (mut step, mut count) = (Step::SelectMaster, 0);
            while let Some(next) = step.next(failing >> count & 1 == 0) {
                step = next;
                count += 1;
            }
            assert_eq!(step, Step::Profile);
            assert!(count <= 13);
        }
    }
}
