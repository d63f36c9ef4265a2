//! EAP packets inside HTTP bodies (GSMA TS.43, 2.8.1): `{"eap-relay-packet":"<base64>"}`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Content type of a relayed EAP packet, both ways.
pub const RELAY_CONTENT_TYPE: &str = "application/vnd.gsma.eap-relay.v1.0+json";
/// Longest relay body in bytes: EAP packets of AKA are a few hundred bytes.
pub const RELAY_BYTES_MAX: usize = 8 * 1024;

/// Why a relay body was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// Longer than [`RELAY_BYTES_MAX`].
    #[error("a relay body of {0} bytes is longer than {RELAY_BYTES_MAX}")]
    Length(usize),
    /// Not the JSON of a relay packet.
    #[error("the body is no relay packet ({{\"eap-relay-packet\": base64}}): {0}")]
    Syntax(String),
}

#[derive(Serialize, Deserialize)]
struct Body<'b> {
    #[serde(rename = "eap-relay-packet")]
    packet: std::borrow::Cow<'b, str>,
}

/// The body that carries a packet.
pub fn to_body(packet: &[u8]) -> Vec<u8> {
    serde_json::to_vec(&Body { packet: STANDARD.encode(packet).into() }).unwrap_or_default()
}

/// The packet in a body. Line breaks inside the base64 are passed over: some clients wrap it.
pub fn from_body(body: &[u8]) -> Result<Vec<u8>, RelayError> {
    if body.len() > RELAY_BYTES_MAX {
        return Err(RelayError::Length(body.len()));
    }
    let body: Body = serde_json::from_slice(body).map_err(|error| RelayError::Syntax(error.to_string()))?;
    let text: String = body.packet.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(text).map_err(|error| RelayError::Syntax(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_survives() {
        let body = to_body(&[1, 1, 0, 4]);
        assert_eq!(body, br#"{"eap-relay-packet":"AQEABA=="}"#);
        assert_eq!(from_body(&body).unwrap(), [1, 1, 0, 4]);
        assert_eq!(from_body(b"{\"eap-relay-packet\":\"AQE\\nABA==\\n\"}").unwrap(), [1, 1, 0, 4]);
    }

    #[test]
    fn other_bodies_are_refused() {
        for bad in ["", "{}", "[]", r#"{"eap-relay-packet":7}"#, r#"{"eap-relay-packet":"*"}"#] {
            assert!(matches!(from_body(bad.as_bytes()), Err(RelayError::Syntax(_))), "{bad}");
        }
        assert!(matches!(from_body(&[b' '; RELAY_BYTES_MAX + 1]), Err(RelayError::Length(_))));
    }
}
