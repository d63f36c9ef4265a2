//! Requests of devices (GSMA TS.43, 2.3): the parameters of a GET, or the same names in the JSON of a POST.

use serde_json::{Map, Value};

use super::identity::{EapIdentity, IDENTITY_BYTES_MAX};
use super::{AppId, OTA_DATA};
use crate::second_layer::MESSAGE_BYTES_MAX;

/// Longest query in bytes.
pub const QUERY_BYTES_MAX: usize = 8 * 1024;
/// Longest JSON body in bytes: a message of the second layer and the parameters beside it.
pub const BODY_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 16 * 1024;
/// Most applications of one request.
pub const APPS_MAX: usize = 8;
/// Most parameters of one request, known or not.
const PARAMETERS_MAX: usize = 64;
/// Longest value, beside tokens and messages, in bytes.
const VALUE_BYTES_MAX: usize = 256;
/// Longest token of ours or of a push service, in bytes.
const TOKEN_BYTES_MAX: usize = 2048;

/// A request for the configuration of applications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// How the device wants to be known.
    pub authentication: Authentication,
    /// IMEI or UUID. Compared without regard to case.
    pub terminal_id: String,
    /// Version of TS.43 that the device speaks, `n.n`.
    pub entitlement_version: String,
    /// Cut to 4 characters by clients: for logs, never a key.
    pub terminal_vendor: String,
    /// Cut to 10 characters by clients.
    pub terminal_model: String,
    /// Cut to 20 characters by clients.
    pub terminal_sw_version: String,
    /// What is asked for, at least one.
    pub apps: Vec<AppId>,
    /// Version of the document that the device has; 0 or less: none, or it has stopped using it.
    pub vers: i32,
    /// Which program on the device asks.
    pub app_name: Option<String>,
    /// Its version.
    pub app_version: Option<String>,
    /// Where a cloud push reaches the device.
    pub notif_token: Option<String>,
    /// 0 off, 1 GCM, 2 FCM, 3 WNS, 4 APNS.
    pub notif_action: Option<u8>,
    /// Group identifier 1 of the card, hex.
    pub gid1: Option<String>,
    /// Group identifier 2 of the card, hex.
    pub gid2: Option<String>,
    /// A message of the second layer, from a POST.
    pub ota_data: Option<String>,
}

/// How a device wants to be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// By EAP-AKA with this identity.
    Eap(EapIdentity),
    /// By a token of an earlier authentication.
    Token {
        /// The token. A secret: it is not written to logs.
        token: String,
        /// IMSI that the device says it has.
        imsi: Option<String>,
    },
    /// Neither (OpenID Connect, which this server does not offer).
    Nothing,
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Longer than [`QUERY_BYTES_MAX`] or [`BODY_BYTES_MAX`].
    #[error("the request is too long: {found} bytes, at most {max}")]
    Length {
        /// Its length.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// Not a query, or not a JSON object of texts and numbers.
    #[error("the request is not understood: {0}")]
    Syntax(String),
    /// A parameter is missing.
    #[error("the parameter {0} is missing")]
    Missing(&'static str),
    /// A parameter occurs twice.
    #[error("the parameter {0} is given twice")]
    Repeated(&'static str),
    /// A parameter has a value outside its range.
    #[error("the parameter {name} must be {rule}")]
    Value {
        /// Which one.
        name: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// `EAP_ID` is no identity.
    #[error("EAP_ID is no identity")]
    Identity,
}

const TERMINAL_ID: &str = "terminal_id";
const ENTITLEMENT_VERSION: &str = "entitlement_version";
const TERMINAL_VENDOR: &str = "terminal_vendor";
const TERMINAL_MODEL: &str = "terminal_model";
const TERMINAL_SW_VERSION: &str = "terminal_sw_version";
const APP: &str = "app";
const VERS: &str = "vers";
const EAP_ID: &str = "EAP_ID";
const TOKEN: &str = "token";
const IMSI: &str = "IMSI";
const APP_NAME: &str = "app_name";
const APP_VERSION: &str = "app_version";
const NOTIF_TOKEN: &str = "notif_token";
const NOTIF_ACTION: &str = "notif_action";
const GID1: &str = "GID1";
const GID2: &str = "GID2";
/// All names; what has another name is passed over.
const NAMES: [&str; 17] = [
    TERMINAL_ID,
    ENTITLEMENT_VERSION,
    TERMINAL_VENDOR,
    TERMINAL_MODEL,
    TERMINAL_SW_VERSION,
    APP,
    VERS,
    EAP_ID,
    TOKEN,
    IMSI,
    APP_NAME,
    APP_VERSION,
    NOTIF_TOKEN,
    NOTIF_ACTION,
    GID1,
    GID2,
    OTA_DATA,
];

impl Request {
    /// Reads the query of a GET, without its question mark.
    pub fn from_query(query: &str) -> Result<Request, RequestError> {
        if query.len() > QUERY_BYTES_MAX {
            return Err(RequestError::Length { found: query.len(), max: QUERY_BYTES_MAX });
        }
        let mut parameters = Parameters::default();
        for (count, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
            if count == PARAMETERS_MAX {
                return Err(RequestError::Syntax("too many parameters".to_owned()));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            parameters.add(&percent_decode(name)?, percent_decode(value)?)?;
        }
        parameters.into_request()
    }

    /// Reads the JSON body of a POST.
    pub fn from_json(body: &[u8]) -> Result<Request, RequestError> {
        if body.len() > BODY_BYTES_MAX {
            return Err(RequestError::Length { found: body.len(), max: BODY_BYTES_MAX });
        }
        let map: Map<String, Value> =
            serde_json::from_slice(body).map_err(|error| RequestError::Syntax(error.to_string()))?;
        if map.len() > PARAMETERS_MAX {
            return Err(RequestError::Syntax("too many parameters".to_owned()));
        }
        let mut parameters = Parameters::default();
        for (name, value) in map {
            match value {
                Value::String(text) => parameters.add(&name, text)?,
                Value::Number(number) => parameters.add(&name, number.to_string())?,
                Value::Array(values) if name.eq_ignore_ascii_case(APP) => {
                    for value in values {
                        let Value::String(text) = value else {
                            return Err(RequestError::Value { name: APP, rule: "texts" });
                        };
                        parameters.add(APP, text)?;
                    }
                }
                Value::Null => {}
                Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                    if let Some(name) = known(&name) {
                        return Err(RequestError::Value { name, rule: "a text or a number" });
                    }
                }
            }
        }
        parameters.into_request()
    }

    /// As the query of a GET. A message of the second layer is left out: it belongs in a POST.
    pub fn to_query(&self) -> String {
        let mut query = String::new();
        for (name, value) in self.parameters() {
            if name == OTA_DATA {
                continue;
            }
            if !query.is_empty() {
                query.push('&');
            }
            query.push_str(name);
            query.push('=');
            percent_encode(&value, &mut query);
        }
        query
    }

    /// As the JSON body of a POST.
    pub fn to_json(&self) -> Vec<u8> {
        let mut map = Map::new();
        for (name, value) in self.parameters() {
            if name != APP {
                map.insert(name.to_owned(), Value::String(value));
            }
        }
        let apps = self.apps.iter().map(|app| Value::String(app.to_string())).collect();
        map.insert(APP.to_owned(), Value::Array(apps));
        serde_json::to_vec(&map).unwrap_or_default()
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![
            (TERMINAL_ID, self.terminal_id.clone()),
            (ENTITLEMENT_VERSION, self.entitlement_version.clone()),
            (TERMINAL_VENDOR, self.terminal_vendor.clone()),
            (TERMINAL_MODEL, self.terminal_model.clone()),
            (TERMINAL_SW_VERSION, self.terminal_sw_version.clone()),
            (VERS, self.vers.to_string()),
        ];
        all.extend(self.apps.iter().map(|app| (APP, app.to_string())));
        match &self.authentication {
            Authentication::Eap(identity) => all.push((EAP_ID, identity.as_str().to_owned())),
            Authentication::Token { token, imsi } => {
                all.push((TOKEN, token.clone()));
                all.extend(imsi.clone().map(|imsi| (IMSI, imsi)));
            }
            Authentication::Nothing => {}
        }
        let optional = [
            (APP_NAME, self.app_name.clone()),
            (APP_VERSION, self.app_version.clone()),
            (NOTIF_TOKEN, self.notif_token.clone()),
            (NOTIF_ACTION, self.notif_action.map(|action| action.to_string())),
            (GID1, self.gid1.clone()),
            (GID2, self.gid2.clone()),
            (OTA_DATA, self.ota_data.clone()),
        ];
        all.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
        all
    }
}

/// Parameters by name, and the applications.
#[derive(Default)]
struct Parameters {
    values: Vec<(&'static str, String)>,
    apps: Vec<AppId>,
}

impl Parameters {
    fn add(&mut self, name: &str, value: String) -> Result<(), RequestError> {
        let Some(name) = known(name) else { return Ok(()) };
        if name == APP {
            let app = value.parse();
            let app = app.map_err(|_| RequestError::Value { name: APP, rule: "ap and four digits" })?;
            if self.apps.len() == APPS_MAX {
                return Err(RequestError::Value { name: APP, rule: "at most 8 applications" });
            }
            if !self.apps.contains(&app) {
                self.apps.push(app);
            }
            return Ok(());
        }
        let max = match name {
            OTA_DATA => MESSAGE_BYTES_MAX,
            TOKEN | NOTIF_TOKEN => TOKEN_BYTES_MAX,
            EAP_ID => IDENTITY_BYTES_MAX,
            _ => VALUE_BYTES_MAX,
        };
        if value.len() > max || value.chars().any(char::is_control) {
            return Err(RequestError::Value { name, rule: "shorter, and without control characters" });
        }
        if self.values.iter().any(|(other, _)| *other == name) {
            return Err(RequestError::Repeated(name));
        }
        self.values.push((name, value));
        Ok(())
    }

    fn optional(&mut self, name: &'static str) -> Option<String> {
        let place = self.values.iter().position(|(other, _)| *other == name)?;
        Some(self.values.swap_remove(place).1).filter(|value| !value.is_empty())
    }

    fn required(&mut self, name: &'static str) -> Result<String, RequestError> {
        self.optional(name).ok_or(RequestError::Missing(name))
    }

    fn into_request(mut self) -> Result<Request, RequestError> {
        let version = self.required(ENTITLEMENT_VERSION)?;
        if !is_version(&version) {
            return Err(RequestError::Value { name: ENTITLEMENT_VERSION, rule: "two numbers with a dot" });
        }
        let vers = self.required(VERS)?;
        let vers = vers.parse().map_err(|_| RequestError::Value { name: VERS, rule: "a whole number" })?;
        let notif_action = match self.optional(NOTIF_ACTION) {
            None => None,
            Some(action) => Some(
                action
                    .parse()
                    .ok()
                    .filter(|action| *action <= 4)
                    .ok_or(RequestError::Value { name: NOTIF_ACTION, rule: "0 to 4" })?,
            ),
        };
        if self.apps.is_empty() {
            return Err(RequestError::Missing(APP));
        }
        Ok(Request {
            authentication: self.authentication()?,
            terminal_id: self.required(TERMINAL_ID)?,
            entitlement_version: version,
            terminal_vendor: self.required(TERMINAL_VENDOR)?,
            terminal_model: self.required(TERMINAL_MODEL)?,
            terminal_sw_version: self.required(TERMINAL_SW_VERSION)?,
            vers,
            app_name: self.optional(APP_NAME),
            app_version: self.optional(APP_VERSION),
            notif_token: self.optional(NOTIF_TOKEN),
            notif_action,
            gid1: self.optional(GID1),
            gid2: self.optional(GID2),
            ota_data: self.optional(OTA_DATA),
            apps: self.apps,
        })
    }

    /// A token goes before an identity: clients send both where they have both.
    fn authentication(&mut self) -> Result<Authentication, RequestError> {
        let (eap_id, imsi) = (self.optional(EAP_ID), self.optional(IMSI));
        match (self.optional(TOKEN), eap_id) {
            (Some(token), _) => Ok(Authentication::Token { token, imsi }),
            (None, Some(identity)) => {
                EapIdentity::parse(&identity).map(Authentication::Eap).map_err(|_| RequestError::Identity)
            }
            (None, None) => Ok(Authentication::Nothing),
        }
    }
}

fn known(name: &str) -> Option<&'static str> {
    NAMES.into_iter().find(|known| known.eq_ignore_ascii_case(name))
}

/// `n.n`, each of one to three digits.
fn is_version(text: &str) -> bool {
    let is_number = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    text.split_once('.').is_some_and(|(major, minor)| is_number(major) && is_number(minor))
}

fn percent_decode(text: &str) -> Result<String, RequestError> {
    let syntax = || RequestError::Syntax("a percent sign is followed by two hex digits".to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let (high, low) = (digit().ok_or_else(syntax)?, digit().ok_or_else(syntax)?);
                bytes.push((high << 4 | low) as u8);
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).map_err(|_| RequestError::Syntax("the query is not UTF-8".to_owned()))
}

/// RFC 3986, 2.3: what need not be written with percent signs.
fn percent_encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            into.push(char::from(byte));
        } else {
            into.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entitlement::{OTA_APP_DEFAULT, VOWIFI_APP};

    const QUERY: &str = concat!(
        "terminal_id=013787006099944&token=es7w1erXjh%2FEC%2FP8BV44SBmVipg&terminal_vendor=TVENDOR&",
        "terminal_model=TMODEL&terminal_sw_version=TSWVERS&entitlement_version=2.0&app=ap2004&app=AP5901&vers=1"
    );

    #[test]
    fn a_query_with_a_token() {
        let request = Request::from_query(QUERY).unwrap();
        assert_eq!(request.apps, [VOWIFI_APP, OTA_APP_DEFAULT]);
        assert_eq!(
            request.authentication,
            Authentication::Token { token: "es7w1erXjh/EC/P8BV44SBmVipg".into(), imsi: None }
        );
        assert_eq!((request.terminal_id.as_str(), request.vers), ("013787006099944", 1));
        assert_eq!(Request::from_query(&request.to_query()), Ok(request.clone()));
        let mut posted = request;
        posted.ota_data = Some("a.b.c".into());
        posted.notif_action = Some(2);
        posted.notif_token = Some("push".into());
        assert_eq!(Request::from_json(&posted.to_json()), Ok(posted));
    }

    #[test]
    fn a_query_with_an_identity() {
        let query =
            QUERY.replace("token=es7w1erXjh%2FEC%2FP8BV44SBmVipg", "EAP_ID=0001010000000001%40nai.epc");
        let request = Request::from_query(&query).unwrap();
        match &request.authentication {
            Authentication::Eap(identity) => assert_eq!(identity.as_str(), "0001010000000001@nai.epc"),
            Authentication::Token { .. } | Authentication::Nothing => panic!("another authentication"),
        }
        assert_eq!(Request::from_query(&request.to_query()), Ok(request));
    }

    #[test]
    fn a_single_application_in_json_may_be_a_text_and_numbers_may_be_numbers() {
        let json = br#"{"terminal_id":"x","entitlement_version":"8.0","terminal_vendor":"v","vers":0,
            "terminal_model":"m","terminal_sw_version":"s","app":"ap2004","unknown":{"deep":[1]}}"#;
        let request = Request::from_json(json).unwrap();
        assert_eq!((request.apps, request.vers), (vec![VOWIFI_APP], 0));
        assert_eq!(request.authentication, Authentication::Nothing);
    }

    #[test]
    fn bad_requests_say_what_is_wrong() {
        let error = |query: &str| Request::from_query(query).unwrap_err();
        for name in [TERMINAL_ID, ENTITLEMENT_VERSION, TERMINAL_VENDOR, TERMINAL_MODEL, APP, VERS] {
            let query: Vec<_> =
                QUERY.split('&').filter(|pair| !pair.starts_with(&format!("{name}="))).collect();
            assert_eq!(error(&query.join("&")), RequestError::Missing(name));
        }
        assert_eq!(error(&format!("{QUERY}&vers=2")), RequestError::Repeated(VERS));
        assert!(matches!(error(&format!("{QUERY}&app=x")), RequestError::Value { .. }));
        let identity = QUERY.replace("token=es7w1erXjh%2FEC%2FP8BV44SBmVipg", "EAP_ID=0%20");
        assert_eq!(error(&identity), RequestError::Identity);
        assert!(matches!(error(&format!("{QUERY}&x=%4")), RequestError::Syntax(_)));
        assert!(matches!(error(&format!("{QUERY}&x=%FF")), RequestError::Syntax(_)));
        assert!(matches!(error(&QUERY.replace("=2.0", "=two")), RequestError::Value { .. }));
        assert!(matches!(error(&QUERY.replace("vers=1", "vers=1x")), RequestError::Value { .. }));
        assert!(matches!(error(&format!("{QUERY}&notif_action=5")), RequestError::Value { .. }));
        assert!(matches!(error(&format!("{QUERY}&GID1={}", "a".repeat(300))), RequestError::Value { .. }));
        assert!(matches!(error(&"a".repeat(QUERY_BYTES_MAX + 1)), RequestError::Length { .. }));
        let json = |text: &str| Request::from_json(text.as_bytes());
        assert!(matches!(json("[]"), Err(RequestError::Syntax(_))));
        assert!(matches!(json(r#"{"app":[1]}"#), Err(RequestError::Value { .. })));
        assert!(matches!(json(r#"{"vers":{}}"#), Err(RequestError::Value { .. })));
        let deep = "[".repeat(100_000);
        assert!(matches!(json(&deep), Err(RequestError::Syntax(_))));
        let apps: String = (0..9).map(|n| format!("&app=ap300{n}")).collect();
        assert!(matches!(error(&format!("{QUERY}{apps}")), RequestError::Value { name: "app", .. }));
    }
}
