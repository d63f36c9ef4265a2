//! Answers of PyHSS, read for what they must say.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use simtide_protocol::aka::Vector;
use zeroize::ZeroizeOnDrop;

use super::super::RegisterError;

/// A row of the authentication centre. Keys are never read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AucRow {
    /// Its id.
    pub auc_id: u64,
    /// Whose it is.
    pub imsi: String,
    /// AMF, four hex digits.
    #[serde(default)]
    pub amf: Option<String>,
    /// A field for notes: who has written the row.
    #[serde(default)]
    pub misc1: Option<String>,
}

/// A subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SubscriberRow {
    /// Its id.
    pub subscriber_id: u64,
    /// Who it is.
    pub imsi: String,
    /// The row of its keys.
    pub auc_id: u64,
    /// Whether it has access.
    #[serde(default)]
    pub enabled: Option<bool>,
    /// MSC that serves it.
    #[serde(default)]
    pub serving_msc: Option<String>,
    /// VLR that serves it.
    #[serde(default)]
    pub serving_vlr: Option<String>,
    /// SGSN that serves it.
    #[serde(default)]
    pub serving_sgsn: Option<String>,
    /// MME that serves it.
    #[serde(default)]
    pub serving_mme: Option<String>,
}

impl SubscriberRow {
    /// Whether a network element serves it.
    pub fn is_attached(&self) -> bool {
        [&self.serving_msc, &self.serving_vlr, &self.serving_sgsn, &self.serving_mme]
            .into_iter()
            .flatten()
            .any(|element| !element.is_empty())
    }
}

#[derive(Deserialize, ZeroizeOnDrop)]
struct VectorRow {
    rand: String,
    autn: String,
    xres: String,
    ck: String,
    ik: String,
}

/// Reads one row; `None` for the `null` of one that is not there.
///
/// # Errors
/// [`RegisterError::Refused`] for a failure in a body with status 200, [`RegisterError::Invalid`] for what is no row.
pub fn read_row<T: DeserializeOwned>(body: &[u8]) -> Result<Option<T>, RegisterError> {
    let invalid = || RegisterError::Invalid("PyHSS answers with something else than a row".to_owned());
    let value: serde_json::Value = serde_json::from_slice(body).map_err(|_| invalid())?;
    if value.is_null() {
        return Ok(None);
    }
    if value.get("result").and_then(serde_json::Value::as_str) == Some("Failed") {
        return Err(RegisterError::Refused("PyHSS has failed, says its body".to_owned()));
    }
    serde_json::from_value(value).map(Some).map_err(|_| invalid())
}

/// Reads a list of vectors.
///
/// # Errors
/// [`RegisterError::Invalid`] for what is none, with lengths that cannot be, or with constant keys.
pub fn read_vectors(body: &[u8]) -> Result<Vec<Vector>, RegisterError> {
    let invalid = || RegisterError::Invalid("PyHSS answers with something else than vectors".to_owned());
    let rows: Vec<VectorRow> = serde_json::from_slice(body).map_err(|_| invalid())?;
    let vectors: Option<Vec<Vector>> = rows.iter().map(vector).collect();
    vectors.filter(|vectors| !vectors.is_empty()).ok_or_else(invalid)
}

fn vector(row: &VectorRow) -> Option<Vector> {
    fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(bytes)
    }
    let vector = Vector {
        rand: bytes(&row.rand)?,
        autn: bytes(&row.autn)?,
        xres: bytes(&row.xres)?,
        ck: bytes(&row.ck)?,
        ik: bytes(&row.ik)?,
    };
    let is_zero = |key: &[u8]| key.iter().all(|byte| *byte == 0);
    (!is_zero(&vector.ck) && !is_zero(&vector.ik) && !is_zero(&vector.xres)).then_some(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the REST interface writes them.
    const SUBSCRIBER: &str = r#"{"subscriber_id":7,"imsi":"001020000000001","enabled":true,"auc_id":3,"default_apn":1,
        "apn_list":"1","msisdn":"43660000001","ue_ambr_dl":999999,"ue_ambr_ul":999999,"nam":0,"roaming_enabled":true,
        "roaming_rule_list":null,"subscribed_rau_tau_timer":300,"serving_mme":null,"serving_mme_timestamp":null,
        "serving_msc":"msc-1","serving_msc_timestamp":"2026-08-17T10:55:48Z","serving_vlr":"vlr-1","serving_sgsn":null,
        "last_modified":"2026-08-17T10:55:48Z","attributes":[]}"#;

    #[test]
    fn rows_and_what_is_none() {
        let row = read_row::<SubscriberRow>(SUBSCRIBER.as_bytes()).unwrap().unwrap();
        assert!(row.is_attached() && row.enabled == Some(true) && row.auc_id == 3);
        let away = SUBSCRIBER.replace("\"msc-1\"", "null").replace("\"vlr-1\"", "\"\"");
        assert!(!read_row::<SubscriberRow>(away.as_bytes()).unwrap().unwrap().is_attached());
        assert_eq!(read_row::<SubscriberRow>(b"null\n"), Ok(None));
        let failed = br#"{"result":"Failed","reason":"A database integrity error occurred: ..."}"#;
        assert!(matches!(read_row::<AucRow>(failed), Err(RegisterError::Refused(_))));
        for wrong in ["", "[]", "{}", "\"OK\"", r#"{"auc_id":"x","imsi":"1"}"#, "<html>"] {
            assert!(
                matches!(read_row::<AucRow>(wrong.as_bytes()), Err(RegisterError::Invalid(_))),
                "{wrong}"
            );
        }
    }

    #[test]
    fn vectors_of_the_right_lengths_only() {
        let good = r#"[{"rand":"23553cbe9637a89d218ae64dae47bf35","autn":"55f328b43577b9b94a9ffac354dfafb3",
            "xres":"a54211d5e3ba50bf","ck":"b40ba9a3c58b2a05bbf0d987b21bf8cb","ik":"f769bcd751044604127672711c6d3441"}]"#;
        assert_eq!(read_vectors(good.as_bytes()).unwrap()[0].xres[0], 0xA5);
        for wrong in [
            "null".to_owned(),
            "[]".to_owned(),
            "{}".to_owned(),
            good.replace("a54211d5e3ba50bf", "a54211d5"),
            good.replace("b40ba9a3c58b2a05bbf0d987b21bf8cb", &"00".repeat(16)),
            good.replace("b40ba9a3c58b2a05bbf0d987b21bf8cb", &"0b".repeat(15)),
            good.replace("ik", "ij"),
        ] {
            assert!(matches!(read_vectors(wrong.as_bytes()), Err(RegisterError::Invalid(_))), "{wrong}");
        }
    }
}
