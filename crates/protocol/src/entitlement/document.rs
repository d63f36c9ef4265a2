//! The answer of an entitlement server (GSMA TS.43, 2.9): versions, a token, and the parameters of each application.

use serde_json::{Map, Value};

use super::markup::{self, Characteristic, DEPTH_MAX, DOCUMENT_BYTES_MAX};
use super::{AppId, JSON_CONTENT_TYPE, XML_CONTENT_TYPE};

/// A configuration document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// Version of the configuration; -1, -2, -3 tell the device to stop (TS.43, 2.5).
    pub version: i32,
    /// How long it holds, in seconds.
    pub validity_s: u32,
    /// The token for the next requests.
    pub token: Option<TokenGrant>,
    /// What was asked for.
    pub apps: Vec<Application>,
}

/// A token as a document grants it. A secret: it is not written to logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenGrant {
    /// The token.
    pub token: String,
    /// How long it holds, in seconds; `None`: not said.
    pub validity_s: Option<u32>,
}

/// The parameters of one application, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// Which one.
    pub id: AppId,
    /// Names and values.
    pub parameters: Vec<(String, String)>,
}

/// The two forms of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `text/vnd.wap.connectivity-xml`.
    Xml,
    /// `application/json`.
    Json,
}

/// What the delivery application says in a document.
///
/// | parameter | value |
/// |---|---|
/// | `EntitlementStatus` | 1: packets can be delivered; 0: there is no card for this subscriber |
/// | `OtaData` | a message of the second layer (`typ` items); left out where there is nothing to say |
/// | `OtaWaiting` | how many more items wait: ask again at once where it is not 0 |
/// | `OtaNextQuery` | when to ask again, in seconds, unless something happens before |
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OtaParameters {
    /// Whether packets can be delivered.
    pub enabled: bool,
    /// A message of the second layer.
    pub data: Option<String>,
    /// How many more items wait.
    pub waiting: u32,
    /// When to ask again, in seconds.
    pub next_query_s: u32,
}

/// Why a document was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Longer than a megabyte.
    #[error("a document of {0} bytes is longer than {DOCUMENT_BYTES_MAX}")]
    Length(usize),
    /// Neither form.
    #[error("the document is not understood: {0}")]
    Syntax(String),
    /// A value that is no number, or a missing one.
    #[error("the document's {0} is missing or no number")]
    Value(&'static str),
}

const STATUS: &str = "EntitlementStatus";
const DATA: &str = "OtaData";
const WAITING: &str = "OtaWaiting";
const NEXT_QUERY: &str = "OtaNextQuery";
const APP_ID: &str = "AppID";

impl Form {
    /// By the Accept header of a request: JSON where it is named and XML is not, or before it.
    pub fn accepted(accept: &str) -> Form {
        let place = |wanted: &str| {
            accept.split(',').position(|kind| {
                kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(wanted))
            })
        };
        let json = place(JSON_CONTENT_TYPE);
        let xml = [XML_CONTENT_TYPE, "application/xml", "text/xml"].into_iter().filter_map(place).min();
        match (json, xml) {
            (Some(json), Some(xml)) if json < xml => Form::Json,
            (Some(_), None) => Form::Json,
            (None | Some(_), Some(_)) | (None, None) => Form::Xml,
        }
    }

    /// Its content type.
    pub fn content_type(self) -> &'static str {
        match self {
            Form::Xml => XML_CONTENT_TYPE,
            Form::Json => JSON_CONTENT_TYPE,
        }
    }
}

impl Document {
    /// In one of the forms.
    pub fn to_bytes(&self, form: Form) -> Vec<u8> {
        match form {
            Form::Xml => self.to_xml().into_bytes(),
            Form::Json => self.to_json(),
        }
    }

    /// Reads either form: XML begins with `<`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Document, DocumentError> {
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentError::Length(bytes.len()));
        }
        let text =
            std::str::from_utf8(bytes).map_err(|_| DocumentError::Syntax("it is not UTF-8".to_owned()))?;
        if text.trim_start_matches('\u{feff}').trim_start().starts_with('<') {
            from_characteristics(&markup::read(text)?)
        } else {
            from_json(text)
        }
    }

    /// As `wap-provisioningdoc`.
    pub fn to_xml(&self) -> String {
        let own = |kind: &str, parms: Vec<(String, String)>| Characteristic {
            kind: kind.to_owned(),
            parms,
            inner: Vec::new(),
        };
        let mut all = vec![own("VERS", self.versions())];
        all.extend(self.token.as_ref().map(|token| own("TOKEN", token.parameters())));
        for app in &self.apps {
            let mut parms = vec![(APP_ID.to_owned(), app.id.to_string())];
            parms.extend(app.parameters.iter().cloned());
            all.push(own("APPLICATION", parms));
        }
        markup::write(&all)
    }

    /// As JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let object = |parms: Vec<(String, String)>| {
            Value::Object(parms.into_iter().map(|(name, value)| (name, Value::String(value))).collect())
        };
        let mut map = Map::new();
        map.insert("Vers".to_owned(), object(self.versions()));
        if let Some(token) = &self.token {
            map.insert("Token".to_owned(), object(token.parameters()));
        }
        for app in &self.apps {
            map.insert(app.id.to_string(), object(app.parameters.clone()));
        }
        serde_json::to_vec(&map).unwrap_or_default()
    }

    /// The parameters of an application.
    pub fn app(&self, id: AppId) -> Option<&Application> {
        self.apps.iter().find(|app| app.id == id)
    }

    fn versions(&self) -> Vec<(String, String)> {
        vec![
            ("version".to_owned(), self.version.to_string()),
            ("validity".to_owned(), self.validity_s.to_string()),
        ]
    }
}

impl TokenGrant {
    fn parameters(&self) -> Vec<(String, String)> {
        let mut parms = vec![("token".to_owned(), self.token.clone())];
        parms.extend(self.validity_s.map(|validity| ("validity".to_owned(), validity.to_string())));
        parms
    }
}

impl Application {
    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

impl OtaParameters {
    /// As the parameters of an application.
    pub fn to_application(&self, id: AppId) -> Application {
        let mut parameters = vec![(STATUS.to_owned(), u8::from(self.enabled).to_string())];
        parameters.extend(self.data.clone().map(|data| (DATA.to_owned(), data)));
        parameters.push((WAITING.to_owned(), self.waiting.to_string()));
        parameters.push((NEXT_QUERY.to_owned(), self.next_query_s.to_string()));
        Application { id, parameters }
    }

    /// Reads the parameters of an application.
    pub fn from_application(app: &Application) -> Result<OtaParameters, DocumentError> {
        let number = |name: &'static str| match app.parameter(name) {
            None => Ok(0),
            Some(value) => value.parse().map_err(|_| DocumentError::Value(name)),
        };
        Ok(OtaParameters {
            enabled: app.parameter(STATUS) == Some("1"),
            data: app.parameter(DATA).filter(|data| !data.is_empty()).map(str::to_owned),
            waiting: number(WAITING)?,
            next_query_s: number(NEXT_QUERY)?,
        })
    }
}

fn from_json(text: &str) -> Result<Document, DocumentError> {
    let map: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| DocumentError::Syntax(error.to_string()))?;
    let mut all = Vec::new();
    for (name, value) in map {
        let Value::Object(object) = value else { continue };
        let mut one = characteristic(&name, object, 0)?;
        if name.parse::<AppId>().is_ok() {
            one.kind = "APPLICATION".to_owned();
            one.parms.insert(0, (APP_ID.to_owned(), name));
        }
        all.push(one);
    }
    from_characteristics(&all)
}

fn characteristic(
    kind: &str,
    object: Map<String, Value>,
    depth: usize,
) -> Result<Characteristic, DocumentError> {
    if depth > DEPTH_MAX {
        return Err(DocumentError::Syntax("it is too deep".to_owned()));
    }
    let mut one = Characteristic { kind: kind.to_owned(), ..Characteristic::default() };
    for (name, value) in object {
        match value {
            Value::String(text) => one.parms.push((name, text)),
            Value::Number(number) => one.parms.push((name, number.to_string())),
            Value::Bool(flag) => one.parms.push((name, u8::from(flag).to_string())),
            Value::Object(inner) => one.inner.push(characteristic(&name, inner, depth + 1)?),
            Value::Null | Value::Array(_) => {}
        }
    }
    Ok(one)
}

/// Characteristics inside an application belong to it; those of other types are passed over.
fn from_characteristics(all: &[Characteristic]) -> Result<Document, DocumentError> {
    let mut document = Document::default();
    let mut has_version = false;
    for one in all {
        let parm = |name: &str| {
            one.parms.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        if one.kind.eq_ignore_ascii_case("VERS") {
            let number = parm("version").and_then(|version| version.parse().ok());
            document.version = number.ok_or(DocumentError::Value("version"))?;
            let validity = parm("validity").map_or(Some(0), |validity| validity.parse().ok());
            document.validity_s = validity.ok_or(DocumentError::Value("validity"))?;
            has_version = true;
        } else if one.kind.eq_ignore_ascii_case("TOKEN") {
            let token = parm("token").ok_or(DocumentError::Value("token"))?.clone();
            let validity_s = parm("validity").and_then(|validity| validity.parse().ok());
            document.token = Some(TokenGrant { token, validity_s });
        } else if one.kind.eq_ignore_ascii_case("APPLICATION") {
            let Some(id) = parm(APP_ID).and_then(|id| id.parse().ok()) else { continue };
            let mut parameters: Vec<_> =
                one.parms.iter().filter(|(name, _)| !name.eq_ignore_ascii_case(APP_ID)).cloned().collect();
            flatten(&one.inner, &mut parameters);
            document.apps.push(Application { id, parameters });
        }
    }
    if has_version { Ok(document) } else { Err(DocumentError::Value("version")) }
}

fn flatten(inner: &[Characteristic], parameters: &mut Vec<(String, String)>) {
    for one in inner {
        parameters.extend(one.parms.iter().cloned());
        flatten(&one.inner, parameters);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entitlement::{OTA_APP_DEFAULT, VOWIFI_APP};

    fn document() -> Document {
        let ota =
            OtaParameters { enabled: true, data: Some("a..b.c.d".into()), waiting: 2, next_query_s: 3600 };
        Document {
            version: 1,
            validity_s: 172_800,
            token: Some(TokenGrant { token: "ASH127AHHA88SF".into(), validity_s: Some(3600) }),
            apps: vec![
                Application {
                    id: VOWIFI_APP,
                    parameters: vec![
                        (STATUS.to_owned(), "0".to_owned()),
                        ("ServiceFlow_UserData".to_owned(), "a=\"<1>\"&b='2'".to_owned()),
                    ],
                },
                ota.to_application(OTA_APP_DEFAULT),
            ],
        }
    }

    #[test]
    fn both_forms_read_the_same() {
        let mut document = document();
        for app in &mut document.apps {
            // Objects of JSON have no order.
            app.parameters.sort();
        }
        for form in [Form::Xml, Form::Json] {
            assert_eq!(Document::from_bytes(&document.to_bytes(form)).as_ref(), Ok(&document));
        }
        let ota = OtaParameters::from_application(document.app(OTA_APP_DEFAULT).unwrap()).unwrap();
        assert_eq!((ota.waiting, ota.data.as_deref()), (2, Some("a..b.c.d")));
    }

    /// The form of TS.43's examples.
    #[test]
    fn the_documented_form() {
        let mut document = document();
        document.apps.remove(0);
        assert_eq!(
            document.to_xml(),
            concat!(
                "<?xml version=\"1.0\"?>\n<wap-provisioningdoc version=\"1.1\">\n",
                "  <characteristic type=\"VERS\">\n    <parm name=\"version\" value=\"1\"/>\n",
                "    <parm name=\"validity\" value=\"172800\"/>\n  </characteristic>\n",
                "  <characteristic type=\"TOKEN\">\n    <parm name=\"token\" value=\"ASH127AHHA88SF\"/>\n",
                "    <parm name=\"validity\" value=\"3600\"/>\n  </characteristic>\n",
                "  <characteristic type=\"APPLICATION\">\n    <parm name=\"AppID\" value=\"ap5901\"/>\n",
                "    <parm name=\"EntitlementStatus\" value=\"1\"/>\n",
                "    <parm name=\"OtaData\" value=\"a..b.c.d\"/>\n",
                "    <parm name=\"OtaWaiting\" value=\"2\"/>\n",
                "    <parm name=\"OtaNextQuery\" value=\"3600\"/>\n  </characteristic>\n",
                "</wap-provisioningdoc>\n"
            )
        );
        let json: Value = serde_json::from_slice(&document.to_json()).unwrap();
        let expected = serde_json::json!({
            "Vers": {"version": "1", "validity": "172800"},
            "Token": {"token": "ASH127AHHA88SF", "validity": "3600"},
            "ap5901": {
                "EntitlementStatus": "1", "OtaData": "a..b.c.d", "OtaWaiting": "2", "OtaNextQuery": "3600"
            },
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn what_others_write_is_read() {
        let text = "\u{feff}<?xml version='1.0'?><!-- x --><wap-provisioningdoc version='1.1'>
            <characteristic type='VERS'><parm name='version' value='-1'></parm></characteristic>
            <characteristic type='APPLICATION'><parm name='AppID' value='ap2004'/>
              <characteristic type='X'><parm name='Inner' value='&#65;&#x42;&apos;'/></characteristic>
            </characteristic><characteristic type='OTHER'/></wap-provisioningdoc>";
        let document = Document::from_bytes(text.as_bytes()).unwrap();
        assert_eq!((document.version, document.token.clone()), (-1, None));
        assert_eq!(document.app(VOWIFI_APP).unwrap().parameter("inner"), Some("AB'"));
        let json = br#"{"Vers":{"version":3,"validity":60},"ap2004":{"EntitlementStatus":1,"X":{"Y":"z"}}}"#;
        let document = Document::from_bytes(json).unwrap();
        assert_eq!((document.version, document.validity_s), (3, 60));
        assert_eq!(document.app(VOWIFI_APP).unwrap().parameter("Y"), Some("z"));
    }

    #[test]
    fn damaged_documents_are_refused() {
        let whole = document().to_xml();
        for end in 0..whole.len() - 1 {
            assert!(Document::from_bytes(&whole.as_bytes()[..end]).is_err(), "{end}");
        }
        let deep = format!("<wap-provisioningdoc>{}", "<characteristic type=\"a\">".repeat(2_000));
        assert!(Document::from_bytes(deep.as_bytes()).is_err());
        assert!(Document::from_bytes("[".repeat(10_000).as_bytes()).is_err());
        assert!(Document::from_bytes(&vec![b' '; DOCUMENT_BYTES_MAX + 1]).is_err());
        assert!(Document::from_bytes(b"{}").is_err());
    }

    #[test]
    fn the_form_that_a_device_accepts() {
        assert_eq!(Form::accepted(crate::entitlement::ACCEPT), Form::Xml);
        assert_eq!(Form::accepted(crate::entitlement::ACCEPT_JSON), Form::Json);
        assert_eq!(Form::accepted("text/vnd.wap.connectivity-xml, application/json;q=0.5"), Form::Xml);
        assert_eq!(Form::accepted(""), Form::Xml);
        assert_eq!(Form::accepted("*/*"), Form::Xml);
    }
}
