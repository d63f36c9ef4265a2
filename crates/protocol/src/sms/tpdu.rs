//! SMS-DELIVER and SMS-SUBMIT.

use super::address::Address;
use super::timestamp::{Timestamp, Validity};
use super::{DCS_CLASS_2, PID_DATA_DOWNLOAD, SmsError, USER_DATA_SIZE_MAX, take, take_byte};

/// TP-UD with its length.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct UserData {
    /// TP-UDL: octets, or septets where the coding is 7-bit.
    pub length: u8,
    /// The octets, at most [`USER_DATA_SIZE_MAX`].
    pub octets: Vec<u8>,
}

/// 3GPP TS 23.040, 9.2.2.1: SMS-DELIVER, from service centre to device.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Deliver {
    /// TP-MMS, the other way round: more messages wait in the service centre.
    pub more_messages: bool,
    /// TP-SRI: the sender asked for a status report.
    pub status_report: bool,
    /// TP-RP: a reply path exists.
    pub reply_path: bool,
    /// TP-UDHI: the user data begins with a header.
    pub has_header: bool,
    /// TP-OA.
    pub originator: Address,
    /// TP-PID.
    pub pid: u8,
    /// TP-DCS.
    pub dcs: u8,
    /// TP-SCTS.
    pub timestamp: Timestamp,
    /// TP-UDL and TP-UD.
    pub user_data: UserData,
}

/// 3GPP TS 23.040, 9.2.2.2: SMS-SUBMIT, from device to service centre.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Submit {
    /// TP-RD: a duplicate still in the service centre is to be refused.
    pub reject_duplicates: bool,
    /// TP-SRR: a status report is wanted.
    pub status_report: bool,
    /// TP-RP: a reply path is wanted.
    pub reply_path: bool,
    /// TP-UDHI: the user data begins with a header.
    pub has_header: bool,
    /// TP-MR: message reference.
    pub reference: u8,
    /// TP-DA.
    pub destination: Address,
    /// TP-PID.
    pub pid: u8,
    /// TP-DCS.
    pub dcs: u8,
    /// TP-VP.
    pub validity: Validity,
    /// TP-UDL and TP-UD.
    pub user_data: UserData,
}

/// Whether this TP-DCS counts the user data in septets (3GPP TS 23.038, 4).
pub const fn is_seven_bit(dcs: u8) -> bool {
    match dcs >> 4 {
        // General groups, also with automatic deletion: uncompressed and the default alphabet.
        0x0..=0x7 => dcs & 0x20 == 0 && dcs & 0x0C == 0,
        // Reserved groups are read as the default alphabet, and two of the message-waiting groups use it.
        0x8..=0xD => true,
        0xE => false,
        _ => dcs & 0x04 == 0,
    }
}

impl UserData {
    /// 8-bit or 16-bit data.
    ///
    /// # Errors
    /// More than [`USER_DATA_SIZE_MAX`] octets.
    pub fn from_octets(octets: Vec<u8>) -> Result<Self, SmsError> {
        if octets.len() > USER_DATA_SIZE_MAX {
            return Err(SmsError::UserDataTooLong(octets.len()));
        }
        Ok(Self { length: octets.len() as u8, octets })
    }

    /// Appends TP-UDL and TP-UD.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.length);
        out.extend_from_slice(&self.octets);
    }

    /// Reads TP-UDL and TP-UD; what follows is not read.
    pub(super) fn read(rest: &mut &[u8], dcs: u8) -> Result<Self, SmsError> {
        let length = take_byte(rest, "TP-UDL")?;
        let size =
            if is_seven_bit(dcs) { (usize::from(length) * 7).div_ceil(8) } else { usize::from(length) };
        if size > USER_DATA_SIZE_MAX {
            return Err(SmsError::UserDataTooLong(size));
        }
        Ok(Self { length, octets: take(rest, size, "TP-UD")?.to_vec() })
    }
}

impl Deliver {
    /// A message for the card, as 3GPP TS 31.115 asks for it: PID 7F, DCS F6, a header in the user data.
    pub fn data_download(originator: Address, timestamp: Timestamp, user_data: UserData) -> Self {
        Self {
            more_messages: false,
            status_report: false,
            reply_path: false,
            has_header: true,
            originator,
            pid: PID_DATA_DOWNLOAD,
            dcs: DCS_CLASS_2,
            timestamp,
            user_data,
        }
    }

    /// Whether the device is to hand it to its card without showing it (3GPP TS 31.111, 7.1.1): PID 7F and class 2.
    pub fn is_for_card(&self) -> bool {
        // 3GPP TS 23.038, 4: the groups whose two last bits are a class.
        let class = match self.dcs >> 4 {
            0x1 | 0x3 | 0x5 | 0x7 | 0xF => Some(self.dcs & 0x03),
            _ => None,
        };
        self.pid == PID_DATA_DOWNLOAD && class == Some(2)
    }

    /// The TPDU.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![
            flag(!self.more_messages, 0x04)
                | flag(self.status_report, 0x20)
                | flag(self.has_header, 0x40)
                | flag(self.reply_path, 0x80),
        ];
        self.originator.write(&mut out);
        out.extend_from_slice(&[self.pid, self.dcs]);
        out.extend_from_slice(&self.timestamp.0);
        self.user_data.write(&mut out);
        out
    }

    /// Reads a TPDU; bytes behind it are not looked at.
    pub fn from_bytes(mut rest: &[u8]) -> Result<Self, SmsError> {
        let rest = &mut rest;
        let first = first_octet(rest, 0x00, "SMS-DELIVER")?;
        let originator = Address::read(rest, "TP-OA")?;
        let pid = take_byte(rest, "TP-PID")?;
        let dcs = take_byte(rest, "TP-DCS")?;
        let timestamp = Timestamp(seven(rest, "TP-SCTS")?);
        Ok(Self {
            more_messages: first & 0x04 == 0,
            status_report: first & 0x20 != 0,
            has_header: first & 0x40 != 0,
            reply_path: first & 0x80 != 0,
            originator,
            pid,
            dcs,
            timestamp,
            user_data: UserData::read(rest, dcs)?,
        })
    }
}

impl Submit {
    /// A message of 8-bit data that begins with a header, as a card sends its proofs of receipt.
    pub fn with_header(reference: u8, destination: Address, user_data: UserData) -> Self {
        Self {
            reject_duplicates: false,
            status_report: false,
            reply_path: false,
            has_header: true,
            reference,
            destination,
            pid: 0x00,
            dcs: 0xF6,
            validity: Validity::None,
            user_data,
        }
    }

    /// The TPDU.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![
            0x01 | self.validity.format_bits()
                | flag(self.reject_duplicates, 0x04)
                | flag(self.status_report, 0x20)
                | flag(self.has_header, 0x40)
                | flag(self.reply_path, 0x80),
            self.reference,
        ];
        self.destination.write(&mut out);
        out.extend_from_slice(&[self.pid, self.dcs]);
        match self.validity {
            Validity::None => {}
            Validity::Relative(code) => out.push(code),
            Validity::Absolute(Timestamp(octets)) | Validity::Enhanced(octets) => {
                out.extend_from_slice(&octets)
            }
        }
        self.user_data.write(&mut out);
        out
    }

    /// Reads a TPDU; bytes behind it are not looked at.
    pub fn from_bytes(mut rest: &[u8]) -> Result<Self, SmsError> {
        let rest = &mut rest;
        let first = first_octet(rest, 0x01, "SMS-SUBMIT")?;
        let reference = take_byte(rest, "TP-MR")?;
        let destination = Address::read(rest, "TP-DA")?;
        let pid = take_byte(rest, "TP-PID")?;
        let dcs = take_byte(rest, "TP-DCS")?;
        let validity = match first & 0x18 {
            0x00 => Validity::None,
            0x08 => Validity::Enhanced(seven(rest, "TP-VP")?),
            0x10 => Validity::Relative(take_byte(rest, "TP-VP")?),
            _ => Validity::Absolute(Timestamp(seven(rest, "TP-VP")?)),
        };
        Ok(Self {
            reject_duplicates: first & 0x04 != 0,
            status_report: first & 0x20 != 0,
            has_header: first & 0x40 != 0,
            reply_path: first & 0x80 != 0,
            reference,
            destination,
            pid,
            dcs,
            validity,
            user_data: UserData::read(rest, dcs)?,
        })
    }
}

pub(super) const fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

/// The first octet of a TPDU whose TP-MTI is the expected one.
pub(super) fn first_octet(rest: &mut &[u8], expected: u8, name: &'static str) -> Result<u8, SmsError> {
    let first = take_byte(rest, "the first octet")?;
    if first & 0x03 != expected {
        return Err(SmsError::MessageType { expected: name, found: first & 0x03 });
    }
    Ok(first)
}

pub(super) fn seven(rest: &mut &[u8], what: &'static str) -> Result<[u8; 7], SmsError> {
    let mut octets = [0; 7];
    octets.copy_from_slice(take(rest, 7, what)?);
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deliver_of_the_first_vector() {
        let packet = "00201506193535b00011ae733256918d050b87c94fbfe12e4dc402f262c41cf67f2f";
        let expected = format!("400881214365877ff62270520000000025027000{packet}");
        let user_data = UserData::from_octets(hex::decode(format!("027000{packet}")).unwrap()).unwrap();
        let timestamp = Timestamp([0x22, 0x70, 0x52, 0, 0, 0, 0]);
        let mut deliver = Deliver::data_download(Address::number("12345678").unwrap(), timestamp, user_data);
        deliver.more_messages = true;
        assert_eq!(hex::encode(deliver.to_bytes()), expected);
        assert_eq!(Deliver::from_bytes(&deliver.to_bytes()), Ok(deliver.clone()));
        assert!(deliver.is_for_card());
        for (dcs, for_card) in [(0x16, true), (0xF2, true), (0xF5, false), (0x06, false), (0x00, false)] {
            assert_eq!(Deliver { dcs, ..deliver.clone() }.is_for_card(), for_card, "{dcs:02X}");
        }
        assert!(!Deliver { pid: 0x00, ..deliver.clone() }.is_for_card());
        deliver.more_messages = false;
        assert_eq!(deliver.to_bytes()[0], 0x44);
    }

    #[test]
    fn a_submit_with_every_validity() {
        for validity in [
            Validity::None,
            Validity::Relative(0xAA),
            Validity::Absolute(Timestamp([1, 2, 3, 4, 5, 6, 7])),
            Validity::Enhanced([7; 7]),
        ] {
            let destination = Address::number("+491701234567").unwrap();
            let user_data = UserData::from_octets(vec![2, 0x71, 0, 0xAB]).unwrap();
            let submit = Submit { validity, ..Submit::with_header(3, destination, user_data) };
            assert_eq!(Submit::from_bytes(&submit.to_bytes()), Ok(submit));
        }
    }

    #[test]
    fn seven_bit_text_is_counted_in_septets() {
        // "hellohello" in nine octets.
        let bytes = hex::decode("040b916407281553f80000993092516195800ae8329bfd4697d9ec37").unwrap();
        let deliver = Deliver::from_bytes(&bytes).unwrap();
        assert_eq!(deliver.originator.to_string(), "+46708251358");
        assert_eq!((deliver.user_data.length, deliver.user_data.octets.len()), (10, 9));
        assert!(!deliver.is_for_card());
    }

    #[test]
    fn wrong_lengths_and_types_are_errors() {
        assert_eq!(Deliver::from_bytes(&[]), Err(SmsError::Truncated("the first octet")));
        assert!(matches!(Deliver::from_bytes(&[0x41]), Err(SmsError::MessageType { .. })));
        assert_eq!(Deliver::from_bytes(&[0x40, 21, 0x91]), Err(SmsError::AddressTooLong("TP-OA")));
        assert_eq!(Deliver::from_bytes(&[0x40, 4, 0x91, 0x21]), Err(SmsError::Truncated("TP-OA")));
        let mut long = Submit::with_header(0, Address::number("1").unwrap(), UserData::default()).to_bytes();
        *long.last_mut().unwrap() = 141;
        assert_eq!(Submit::from_bytes(&long), Err(SmsError::UserDataTooLong(141)));
        *long.last_mut().unwrap() = 2;
        assert_eq!(Submit::from_bytes(&long), Err(SmsError::Truncated("TP-UD")));
    }

    #[test]
    fn codings_of_seven_and_eight_bits() {
        for (dcs, seven) in [
            (0x00, true),
            (0x04, false),
            (0x08, false),
            (0x10, true),
            (0x16, false),
            (0xF6, false),
            (0xF2, true),
        ] {
            assert_eq!(is_seven_bit(dcs), seven, "{dcs:02X}");
        }
        assert!(is_seven_bit(0xC8) && !is_seven_bit(0xE0) && !is_seven_bit(0x20));
    }
}
