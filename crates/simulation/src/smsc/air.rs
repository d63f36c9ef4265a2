//! The lines of the air interface (docs/air-interface.md).

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use simtide_protocol::ids::{Imsi, Msisdn};

/// Longest line, in bytes: a TPDU has at most 175 octets.
pub const LINE_BYTES_MAX: usize = 4_096;

/// What a device says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum FromDevice {
    /// The subscriber is in coverage now, behind this connection.
    Attach {
        /// Who.
        imsi: Imsi,
        /// Its number.
        msisdn: Msisdn,
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

/// What the service centre says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ToDevice {
    /// The attach is known.
    Attached {
        /// Who.
        imsi: Imsi,
    },
    /// SMS-DELIVER.
    Deliver {
        /// For whom.
        imsi: Imsi,
        /// To be named in the report.
        id: u64,
        /// Address of the service centre (RP-OA).
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

    #[test]
    fn lines_as_documented() {
        let imsi: Imsi = "001010000000001".parse().unwrap();
        let lines = [
            (
                FromDevice::Attach { imsi, msisdn: "436641234567".parse().unwrap() },
                r#"{"type":"attach","imsi":"001010000000001","msisdn":"436641234567"}"#,
            ),
            (FromDevice::Detach { imsi }, r#"{"type":"detach","imsi":"001010000000001"}"#),
            (
                FromDevice::Submit { imsi, reference: 7, tpdu: Hex(vec![0x41, 0x07]) },
                r#"{"type":"submit","imsi":"001010000000001","ref":7,"tpdu":"4107"}"#,
            ),
            (
                FromDevice::Report { id: 9, ok: false, tpdu: None, cause: Some(208) },
                r#"{"type":"report","id":9,"ok":false,"cause":208}"#,
            ),
        ];
        for (line, text) in lines {
            assert_eq!(serde_json::to_string(&line).unwrap(), text);
            assert_eq!(serde_json::from_str::<FromDevice>(text).unwrap(), line);
        }
        let deliver = ToDevice::Deliver { imsi, id: 9, sc: "+43664".into(), tpdu: Hex(vec![0x44]) };
        let text = r#"{"type":"deliver","imsi":"001010000000001","id":9,"sc":"+43664","tpdu":"44"}"#;
        assert_eq!(serde_json::to_string(&deliver).unwrap(), text);
        assert!(serde_json::from_str::<FromDevice>(r#"{"type":"detach","imsi":"1","x":1}"#).is_err());
    }
}
