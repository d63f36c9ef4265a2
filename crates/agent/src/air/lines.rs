//! The lines of the air interface (docs/air-interface.md): one definition for both of its ends.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use simtide_device::SmsReport;
use simtide_protocol::ids::{Imsi, Msisdn};

/// Longest line, in bytes: a TPDU has at most 175 octets.
pub const LINE_BYTES_MAX: usize = 4_096;

/// What a device says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum FromDevice {
    /// The subscriber is in coverage now, behind this connection.
    Attach {
        /// Who.
        imsi: Imsi,
        /// The number on the card, where it knows one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        msisdn: Option<Msisdn>,
    },
    /// The answer to a challenge: exactly one of the three.
    Response {
        /// Who.
        imsi: Imsi,
        /// RES: the network is genuine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        res: Option<Hex>,
        /// AUTS: the sequence number is not fresh.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        auts: Option<Hex>,
        /// The card's status word: it does not answer; 9862 says that the network is not genuine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<Hex>,
    },
    /// The subscriber is gone.
    Detach {
        /// Who.
        imsi: Imsi,
    },
    /// SMS-SUBMIT.
    Submit {
        /// Who.
        imsi: Imsi,
        /// Comes back in the answer.
        #[serde(rename = "ref")]
        reference: u32,
        /// The whole TPDU.
        tpdu: Hex,
    },
    /// The answer to a deliver.
    Report {
        /// From the deliver.
        id: u64,
        /// RP-ACK or RP-ERROR.
        ok: bool,
        /// TP-User-Data of the SMS-DELIVER-REPORT.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tpdu: Option<Hex>,
        /// TP-Failure-Cause (3GPP TS 23.040, 9.2.3.22) where not ok.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<u8>,
    },
}

/// What the network says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum ToDevice {
    /// The card has to answer before the attach goes on.
    Challenge {
        /// Who.
        imsi: Imsi,
        /// RAND, 16 octets.
        rand: Hex,
        /// AUTN, 16 octets.
        autn: Hex,
    },
    /// The subscriber is registered.
    Attached {
        /// Who.
        imsi: Imsi,
    },
    /// The attach is refused.
    Rejected {
        /// Who.
        imsi: Imsi,
        /// Why (3GPP TS 24.008, 10.5.3.6).
        cause: u8,
    },
    /// The network has taken the registration away.
    Detached {
        /// Who.
        imsi: Imsi,
        /// Why (3GPP TS 24.008, 10.5.3.6).
        cause: u8,
    },
    /// SMS-DELIVER.
    Deliver {
        /// For whom.
        imsi: Imsi,
        /// To be named in the report.
        id: u64,
        /// Address of the service centre (RP-OA).
        #[serde(default)]
        sc: String,
        /// The whole TPDU.
        tpdu: Hex,
    },
    /// The answer to a submit.
    Submitted {
        /// Who.
        imsi: Imsi,
        /// From the submit.
        #[serde(rename = "ref")]
        reference: u32,
        /// RP-ACK or RP-ERROR.
        ok: bool,
    },
    /// A line could not be used; the connection goes on.
    Error {
        /// What is wrong with it.
        reason: String,
    },
}

impl FromDevice {
    /// The report line for what a device says about a message.
    pub fn report(id: u64, report: SmsReport) -> Self {
        let in_hex = |data: Vec<u8>| (!data.is_empty()).then_some(Hex(data));
        match report {
            SmsReport::Accepted(data) => Self::Report { id, ok: true, tpdu: in_hex(data), cause: None },
            SmsReport::Refused { cause, data } => {
                Self::Report { id, ok: false, tpdu: in_hex(data), cause: Some(cause) }
            }
        }
    }
}

/// Octets, written as hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hex(
    /// The octets.
    pub Vec<u8>,
);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        hex::decode(text.as_bytes()).map(Hex).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imsi() -> Imsi {
        "001010000000001".parse().unwrap()
    }

    #[test]
    fn lines_of_devices_as_documented() {
        let imsi = imsi();
        let response = |res, auts, refused| FromDevice::Response { imsi, res, auts, refused };
        let lines = [
            (
                FromDevice::Attach { imsi, msisdn: "436641234567".parse().ok() },
                r#"{"type":"attach","imsi":"001010000000001","msisdn":"436641234567"}"#,
            ),
            (FromDevice::Attach { imsi, msisdn: None }, r#"{"type":"attach","imsi":"001010000000001"}"#),
            (
                response(Some(Hex(vec![0xA5, 0x42])), None, None),
                r#"{"type":"response","imsi":"001010000000001","res":"a542"}"#,
            ),
            (
                response(None, Some(Hex(vec![1; 2])), None),
                r#"{"type":"response","imsi":"001010000000001","auts":"0101"}"#,
            ),
            (
                response(None, None, Some(Hex(vec![0x98, 0x62]))),
                r#"{"type":"response","imsi":"001010000000001","refused":"9862"}"#,
            ),
            (FromDevice::Detach { imsi }, r#"{"type":"detach","imsi":"001010000000001"}"#),
            (
                FromDevice::Submit { imsi, reference: 7, tpdu: Hex(vec![0x41, 0x07]) },
                r#"{"type":"submit","imsi":"001010000000001","ref":7,"tpdu":"4107"}"#,
            ),
            (
                FromDevice::report(9, SmsReport::Accepted(vec![0x02, 0x71])),
                r#"{"type":"report","id":9,"ok":true,"tpdu":"0271"}"#,
            ),
            (
                FromDevice::report(9, SmsReport::Refused { cause: 208, data: Vec::new() }),
                r#"{"type":"report","id":9,"ok":false,"cause":208}"#,
            ),
        ];
        for (line, text) in lines {
            assert_eq!(serde_json::to_string(&line).unwrap(), text);
            assert_eq!(serde_json::from_str::<FromDevice>(text).unwrap(), line);
        }
        assert!(serde_json::from_str::<FromDevice>(r#"{"type":"detach","imsi":"1","x":1}"#).is_err());
    }

    #[test]
    fn lines_of_the_network_as_documented() {
        let imsi = imsi();
        let lines = [
            (
                ToDevice::Challenge { imsi, rand: Hex(vec![1]), autn: Hex(vec![2]) },
                r#"{"type":"challenge","imsi":"001010000000001","rand":"01","autn":"02"}"#,
            ),
            (ToDevice::Attached { imsi }, r#"{"type":"attached","imsi":"001010000000001"}"#),
            (
                ToDevice::Rejected { imsi, cause: 3 },
                r#"{"type":"rejected","imsi":"001010000000001","cause":3}"#,
            ),
            (
                ToDevice::Detached { imsi, cause: 11 },
                r#"{"type":"detached","imsi":"001010000000001","cause":11}"#,
            ),
            (
                ToDevice::Deliver { imsi, id: 9, sc: "+43664".into(), tpdu: Hex(vec![0x44]) },
                r#"{"type":"deliver","imsi":"001010000000001","id":9,"sc":"+43664","tpdu":"44"}"#,
            ),
            (
                ToDevice::Submitted { imsi, reference: 7, ok: true },
                r#"{"type":"submitted","imsi":"001010000000001","ref":7,"ok":true}"#,
            ),
        ];
        for (line, text) in lines {
            assert_eq!(serde_json::to_string(&line).unwrap(), text);
            assert_eq!(serde_json::from_str::<ToDevice>(text).unwrap(), line);
        }
    }
}
