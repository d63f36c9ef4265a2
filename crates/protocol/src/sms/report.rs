//! The reports on SMS-DELIVER and SMS-SUBMIT, and SMS-STATUS-REPORT.

use super::address::Address;
use super::timestamp::Timestamp;
use super::tpdu::{UserData, first_octet, flag, seven};
use super::{SmsError, take_byte};

/// 3GPP TS 23.040, 9.2.3.27: TP-PI, which of PID, DCS and UD follow.
const PI_PID: u8 = 0x01;
const PI_DCS: u8 = 0x02;
const PI_USER_DATA: u8 = 0x04;

/// 3GPP TS 23.040, 9.2.2.1a: SMS-DELIVER-REPORT, what the device answers to an SMS-DELIVER. Here the card's proof of
/// receipt travels where it was asked for in this way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct DeliverReport {
    /// TP-FCS: present in the report of a failure (RP-ERROR) only.
    pub failure: Option<u8>,
    /// TP-UDHI: the user data begins with a header.
    pub has_header: bool,
    /// TP-PID, where it is there.
    pub pid: Option<u8>,
    /// TP-DCS, where it is there; the default alphabet counts where it is not.
    pub dcs: Option<u8>,
    /// TP-UDL and TP-UD, where they are there.
    pub user_data: Option<UserData>,
}

/// 3GPP TS 23.040, 9.2.2.2a: SMS-SUBMIT-REPORT, what the service centre answers to an SMS-SUBMIT.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SubmitReport {
    /// TP-FCS: present in the report of a failure (RP-ERROR) only.
    pub failure: Option<u8>,
    /// TP-SCTS: when the service centre got the message.
    pub timestamp: Timestamp,
}

/// 3GPP TS 23.040, 9.2.2.3: SMS-STATUS-REPORT, what became of an SMS-SUBMIT.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StatusReport {
    /// TP-MMS, the other way round: more messages wait in the service centre.
    pub more_messages: bool,
    /// TP-MR of the message.
    pub reference: u8,
    /// TP-RA: to whom it went.
    pub recipient: Address,
    /// TP-SCTS of the message.
    pub timestamp: Timestamp,
    /// TP-DT: when that became of it.
    pub discharged: Timestamp,
    /// TP-ST: 00 to 1F delivered, 20 to 3F still trying, 40 to 7F given up.
    pub status: u8,
}

impl DeliverReport {
    /// Failure cause: the card has no room (3GPP TS 23.040, 9.2.3.22).
    pub const CARD_FULL: u8 = 0xD0;
    /// Failure cause: the card is busy with another command; the service centre tries again later.
    pub const CARD_BUSY: u8 = 0xD4;
    /// Failure cause: the card refused the data download.
    pub const DATA_DOWNLOAD_ERROR: u8 = 0xD5;

    /// A success that carries what the card answered to the ENVELOPE, or nothing.
    pub fn accepted(user_data: Option<UserData>) -> Self {
        match user_data {
            Some(user_data) => Self {
                failure: None,
                has_header: true,
                pid: Some(super::PID_DATA_DOWNLOAD),
                dcs: Some(super::DCS_CLASS_2),
                user_data: Some(user_data),
            },
            None => Self::default(),
        }
    }

    /// The TPDU.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![flag(self.has_header, 0x40)];
        out.extend(self.failure);
        out.push(
            flag(self.pid.is_some(), PI_PID)
                | flag(self.dcs.is_some(), PI_DCS)
                | flag(self.user_data.is_some(), PI_USER_DATA),
        );
        out.extend(self.pid);
        out.extend(self.dcs);
        if let Some(user_data) = &self.user_data {
            user_data.write(&mut out);
        }
        out
    }

    /// Reads a TPDU; whether it reports a failure is known from the layer below (RP-ACK or RP-ERROR).
    pub fn from_bytes(mut rest: &[u8], is_failure: bool) -> Result<Self, SmsError> {
        let rest = &mut rest;
        let first = first_octet(rest, 0x00, "SMS-DELIVER-REPORT")?;
        let failure = if is_failure { Some(take_byte(rest, "TP-FCS")?) } else { None };
        let indicator = take_byte(rest, "TP-PI")?;
        let pid = if indicator & PI_PID != 0 { Some(take_byte(rest, "TP-PID")?) } else { None };
        let dcs = if indicator & PI_DCS != 0 { Some(take_byte(rest, "TP-DCS")?) } else { None };
        let user_data =
            if indicator & PI_USER_DATA != 0 { Some(UserData::read(rest, dcs.unwrap_or(0))?) } else { None };
        Ok(Self { failure, has_header: first & 0x40 != 0, pid, dcs, user_data })
    }
}

impl SubmitReport {
    /// The TPDU.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![0x01];
        out.extend(self.failure);
        out.push(0x00);
        out.extend_from_slice(&self.timestamp.0);
        out
    }

    /// Reads a TPDU; whether it reports a failure is known from the layer below. Parameters that TP-PI announces are
    /// not read.
    pub fn from_bytes(mut rest: &[u8], is_failure: bool) -> Result<Self, SmsError> {
        let rest = &mut rest;
        first_octet(rest, 0x01, "SMS-SUBMIT-REPORT")?;
        let failure = if is_failure { Some(take_byte(rest, "TP-FCS")?) } else { None };
        take_byte(rest, "TP-PI")?;
        Ok(Self { failure, timestamp: Timestamp(seven(rest, "TP-SCTS")?) })
    }
}

impl StatusReport {
    /// The TPDU.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![0x02 | flag(!self.more_messages, 0x04), self.reference];
        self.recipient.write(&mut out);
        out.extend_from_slice(&self.timestamp.0);
        out.extend_from_slice(&self.discharged.0);
        out.push(self.status);
        out
    }

    /// Reads a TPDU; optional parameters behind TP-ST are not read.
    pub fn from_bytes(mut rest: &[u8]) -> Result<Self, SmsError> {
        let rest = &mut rest;
        let first = first_octet(rest, 0x02, "SMS-STATUS-REPORT")?;
        Ok(Self {
            more_messages: first & 0x04 == 0,
            reference: take_byte(rest, "TP-MR")?,
            recipient: Address::read(rest, "TP-RA")?,
            timestamp: Timestamp(seven(rest, "TP-SCTS")?),
            discharged: Timestamp(seven(rest, "TP-DT")?),
            status: take_byte(rest, "TP-ST")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_of_receipt_travels_in_the_report() {
        let user_data = UserData::from_octets(vec![0x02, 0x71, 0x00, 0x00, 0x0A]).unwrap();
        let report = DeliverReport::accepted(Some(user_data));
        assert_eq!(hex::encode(report.to_bytes()), "40077ff605027100000a");
        assert_eq!(DeliverReport::from_bytes(&report.to_bytes(), false), Ok(report));
        assert_eq!(hex::encode(DeliverReport::accepted(None).to_bytes()), "0000");
    }

    #[test]
    fn a_failure_names_its_cause() {
        let report = DeliverReport { failure: Some(DeliverReport::CARD_BUSY), ..DeliverReport::default() };
        assert_eq!(hex::encode(report.to_bytes()), "00d400");
        assert_eq!(DeliverReport::from_bytes(&report.to_bytes(), true), Ok(report));
        assert_eq!(DeliverReport::from_bytes(&[0x00, 0x04, 5], false), Err(SmsError::Truncated("TP-UD")));
    }

    #[test]
    fn reports_of_the_service_centre_read_back() {
        let timestamp = Timestamp([0x62, 0x11, 0x12, 0x90, 0x03, 0x00, 0x00]);
        for failure in [None, Some(0xC0)] {
            let report = SubmitReport { failure, timestamp };
            assert_eq!(SubmitReport::from_bytes(&report.to_bytes(), failure.is_some()), Ok(report));
        }
        let status = StatusReport {
            more_messages: false,
            reference: 9,
            recipient: Address::number("+1234567").unwrap(),
            timestamp,
            discharged: timestamp,
            status: 0x00,
        };
        assert_eq!(StatusReport::from_bytes(&status.to_bytes()), Ok(status));
    }
}
