//! Requests and responses of the dialogue, and their bytes.

use super::{HeaderText, HttpError, PROTOCOL, RequestTarget, header};
use crate::ids::Aid;
use crate::profile::ResponseFraming;
use std::fmt;
use std::str::FromStr;

/// What became of a script, `X-Admin-Script-Status` (GlobalPlatform Amendment B, 3.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScriptStatus {
    /// It was handed to the application; the body is the response script.
    Ok,
    /// The card does not have the targeted application. No body.
    UnknownApplication,
    /// The targeted application cannot process scripts of this kind. No body.
    NotASecurityDomain,
    /// The session's keys do not authorise for the targeted application. No body.
    SecurityError,
}

impl ScriptStatus {
    const ALL: [Self; 4] =
        [Self::Ok, Self::UnknownApplication, Self::NotASecurityDomain, Self::SecurityError];

    /// The value of the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::UnknownApplication => "unknown-application",
            Self::NotASecurityDomain => "not-a-security-domain",
            Self::SecurityError => "security-error",
        }
    }
}

impl FromStr for ScriptStatus {
    type Err = HttpError;

    fn from_str(text: &str) -> Result<Self, HttpError> {
        let found = Self::ALL.into_iter().find(|status| status.as_str().eq_ignore_ascii_case(text));
        found.ok_or(HttpError::Value(header::SCRIPT_STATUS))
    }
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContentType {
    /// Commands for remote application management (GlobalPlatform Amendment B, 3.5).
    CardContentManagement,
    /// The answers to them.
    CardContentManagementResponse,
    /// Commands for remote file management (ETSI TS 102 226).
    CommandData,
    /// The answers to them.
    ResponseData,
}

impl ContentType {
    const ALL: [Self; 4] = [
        Self::CardContentManagement,
        Self::CardContentManagementResponse,
        Self::CommandData,
        Self::ResponseData,
    ];

    /// The value of the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CardContentManagement => "application/vnd.globalplatform.card-content-mgt;version=1.0",
            Self::CardContentManagementResponse => {
                "application/vnd.globalplatform.card-content-mgt-response;version=1.0"
            }
            Self::CommandData => "application/vnd.etsi.scp.command-data;version=1.0",
            Self::ResponseData => "application/vnd.etsi.scp.response-data;version=1.0",
        }
    }

    /// The type of the answer to commands of this type; an answer's own type for an answer.
    pub fn of_response(self) -> Self {
        match self {
            Self::CardContentManagement | Self::CardContentManagementResponse => {
                Self::CardContentManagementResponse
            }
            Self::CommandData | Self::ResponseData => Self::ResponseData,
        }
    }
}

impl FromStr for ContentType {
    type Err = HttpError;

    /// Blanks around the semicolon and the case make no difference.
    fn from_str(text: &str) -> Result<Self, HttpError> {
        let same = |known: &str| {
            let mut characters = text.bytes().filter(|byte| *byte != b' ');
            known.bytes().all(|byte| characters.next().is_some_and(|found| found.eq_ignore_ascii_case(&byte)))
                && characters.next().is_none()
        };
        let found = Self::ALL.into_iter().find(|kind| same(kind.as_str()));
        found.ok_or(HttpError::Value(header::CONTENT_TYPE))
    }
}

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framing {
    /// `Content-Length`.
    #[default]
    ContentLength,
    /// `Transfer-Encoding: chunked`, the whole body as one chunk.
    Chunked,
}

impl From<ResponseFraming> for Framing {
    fn from(setting: ResponseFraming) -> Self {
        match setting {
            ResponseFraming::ContentLength => Self::ContentLength,
            ResponseFraming::Chunked => Self::Chunked,
        }
    }
}

/// Which application a script is for: `//aid/<RID, 10 hex digits>/<PIX in hex>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TargetedApplication(pub Aid);

impl fmt::Display for TargetedApplication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "//aid/{}/{}", hex::encode_upper(self.0.rid()), hex::encode_upper(self.0.pix()))
    }
}

impl FromStr for TargetedApplication {
    type Err = HttpError;

    /// An application without PIX may leave out the last slash.
    fn from_str(text: &str) -> Result<Self, HttpError> {
        let wrong = HttpError::Value(header::TARGETED_APPLICATION);
        let aid = text.strip_prefix("//aid/").ok_or(wrong)?;
        let (rid, pix) = aid.split_once('/').unwrap_or((aid, ""));
        if rid.len() != 10 {
            return Err(wrong);
        }
        let mut digits = String::with_capacity(32);
        digits.push_str(rid);
        digits.push_str(pix);
        digits.parse().map(Self).map_err(|_| wrong)
    }
}

/// What a card posts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Path and query.
    pub target: RequestTarget,
    /// `Host`.
    pub host: Option<HeaderText>,
    /// `X-Admin-From`: who the card says it is.
    pub from: Option<HeaderText>,
    /// `X-Admin-Script-Status`: none in the first request of a dialogue.
    pub script_status: Option<ScriptStatus>,
    /// `X-Admin-Resume: true`: the dialogue before broke.
    pub resume: bool,
    /// What the body is; none without a body.
    pub content_type: Option<ContentType>,
    /// The response script; empty in the first request.
    pub body: Vec<u8>,
    /// The card closes after this.
    pub close: bool,
}

impl Request {
    /// The first request of a dialogue.
    pub fn first(target: RequestTarget, host: HeaderText, from: HeaderText) -> Self {
        Self {
            target,
            host: Some(host),
            from: Some(from),
            script_status: None,
            resume: false,
            content_type: None,
            body: Vec::new(),
            close: false,
        }
    }

    /// The bytes to send. A body is framed as `framing` says; without one no framing is written.
    pub fn encode(&self, framing: Framing) -> Vec<u8> {
        let mut head = Head::new(&["POST ", self.target.as_str(), " HTTP/1.1"], self.body.len());
        if let Some(host) = &self.host {
            head.line(header::HOST, host.as_str());
        }
        head.line(header::PROTOCOL, PROTOCOL);
        if let Some(from) = &self.from {
            head.line(header::FROM, from.as_str());
        }
        if let Some(status) = self.script_status {
            head.line(header::SCRIPT_STATUS, status.as_str());
        }
        if self.resume {
            head.line(header::RESUME, "true");
        }
        if self.close {
            head.line(header::CONNECTION, "close");
        }
        if let Some(kind) = self.content_type {
            head.line(header::CONTENT_TYPE, kind.as_str());
        }
        if self.body.is_empty() && self.script_status.is_some() {
            // A server waits for a body of a follow-up request unless it is told that there is none.
            head.line(header::CONTENT_LENGTH, "0");
        }
        head.finish(&self.body, framing)
    }
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 200 with a script, 204 at the end, anything else is a refusal.
    pub status: u16,
    /// `X-Admin-Next-URI`: where the response script goes; without it the card sends none.
    pub next_uri: Option<RequestTarget>,
    /// `X-Admin-Targeted-Application`; without it the script is for the domain whose session this is.
    pub targeted_application: Option<TargetedApplication>,
    /// What the body is; none without a body.
    pub content_type: Option<ContentType>,
    /// The script; empty in a 204 or a refusal.
    pub body: Vec<u8>,
    /// The server closes after this.
    pub close: bool,
}

impl Response {
    /// A script for the card.
    pub fn script(
        next_uri: RequestTarget,
        targeted_application: Option<TargetedApplication>,
        content_type: ContentType,
        body: Vec<u8>,
    ) -> Self {
        let content_type = Some(content_type);
        Self { status: 200, next_uri: Some(next_uri), targeted_application, content_type, body, close: false }
    }

    /// The end of the dialogue.
    pub fn end() -> Self {
        Self::empty(204)
    }

    /// A refusal, after which the server closes.
    pub fn refusal(status: u16) -> Self {
        Self { close: true, ..Self::empty(status) }
    }

    fn empty(status: u16) -> Self {
        let body = Vec::new();
        Self { status, next_uri: None, targeted_application: None, content_type: None, body, close: false }
    }

    /// The bytes to send. A body is framed as `framing` says; a 204 has neither body nor framing.
    pub fn encode(&self, framing: Framing) -> Vec<u8> {
        let status = self.status.to_string();
        let mut head = Head::new(&["HTTP/1.1 ", &status, " ", reason(self.status)], self.body.len());
        head.line(header::PROTOCOL, PROTOCOL);
        if let Some(next_uri) = &self.next_uri {
            head.line(header::NEXT_URI, next_uri.as_str());
        }
        if let Some(application) = &self.targeted_application {
            head.line(header::TARGETED_APPLICATION, &application.to_string());
        }
        if self.close {
            head.line(header::CONNECTION, "close");
        }
        if self.status == 204 {
            return head.finish(&[], framing);
        }
        if let Some(kind) = self.content_type {
            head.line(header::CONTENT_TYPE, kind.as_str());
        }
        if self.body.is_empty() {
            head.line(header::CONTENT_LENGTH, "0");
        }
        head.finish(&self.body, framing)
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Refused",
    }
}

/// A head that is being written.
struct Head(Vec<u8>);

impl Head {
    fn new(first_line: &[&str], body_length: usize) -> Self {
        let mut bytes = Vec::with_capacity(512 + body_length);
        for part in first_line {
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        Self(bytes)
    }

    fn line(&mut self, name: &str, value: &str) {
        for part in [name, ": ", value, "\r\n"] {
            self.0.extend_from_slice(part.as_bytes());
        }
    }

    fn finish(mut self, body: &[u8], framing: Framing) -> Vec<u8> {
        match framing {
            _ if body.is_empty() => self.0.extend_from_slice(b"\r\n"),
            Framing::ContentLength => {
                self.line(header::CONTENT_LENGTH, &body.len().to_string());
                self.0.extend_from_slice(b"\r\n");
                self.0.extend_from_slice(body);
            }
            Framing::Chunked => {
                self.line(header::TRANSFER_ENCODING, "chunked");
                self.0.extend_from_slice(format!("\r\n{:X}\r\n", body.len()).as_bytes());
                self.0.extend_from_slice(body);
                self.0.extend_from_slice(b"\r\n0\r\n\r\n");
            }
        }
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_headers_read_back() {
        for status in ScriptStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        for kind in ContentType::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert_eq!(kind.as_str().to_uppercase().replace(';', " ; ").parse(), Ok(kind));
        }
        assert!("application/json".parse::<ContentType>().is_err());
        assert!("application/vnd.etsi.scp.command-data".parse::<ContentType>().is_err());
        assert!("okay".parse::<ScriptStatus>().is_err());
    }

    #[test]
    fn targeted_application_is_provider_and_extension() {
        let application = TargetedApplication("A000000559101001".parse().unwrap());
        assert_eq!(application.to_string(), "//aid/A000000559/101001");
        assert_eq!("//aid/a000000559/101001".parse(), Ok(application));
        let bare = TargetedApplication("A000000559".parse().unwrap());
        assert_eq!(bare.to_string(), "//aid/A000000559/");
        assert_eq!("//aid/A000000559".parse(), Ok(bare));
        for wrong in [
            "",
            "//aid/",
            "//aid/A0000005/59101001",
            "/aid/A000000559/10",
            "//aid/A000000559/1",
            "//aid/A000000559/10/10",
        ] {
            assert!(wrong.parse::<TargetedApplication>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn heads_are_written_exactly() {
        let mut request = Request::first(
            "/poll?a=1".parse().unwrap(),
            "ota.example".parse().unwrap(),
            "//se-id/eid/89;//aa-id/aid/A000000559/10".parse().unwrap(),
        );
        assert_eq!(
            String::from_utf8(request.encode(Framing::ContentLength)).unwrap(),
            "POST /poll?a=1 HTTP/1.1\r\nHost: ota.example\r\nX-Admin-Protocol: globalplatform-remote-admin/1.0\r\n\
             X-Admin-From: //se-id/eid/89;//aa-id/aid/A000000559/10\r\n\r\n"
        );
        request.script_status = Some(ScriptStatus::Ok);
        request.resume = true;
        request.content_type = Some(ContentType::ResponseData);
        request.body = hex::decode("AB088001012303019000").unwrap();
        let chunked = request.encode(Framing::Chunked);
        let text = String::from_utf8_lossy(&chunked);
        assert!(text.contains("X-Admin-Script-Status: ok\r\nX-Admin-Resume: true\r\n"), "{text}");
        assert!(text.contains("Transfer-Encoding: chunked\r\n\r\nA\r\n"), "{text}");
        assert!(chunked.ends_with(b"\x90\x00\r\n0\r\n\r\n"));
        assert_eq!(
            String::from_utf8(Response::end().encode(Framing::Chunked)).unwrap(),
            "HTTP/1.1 204 No Content\r\nX-Admin-Protocol: globalplatform-remote-admin/1.0\r\n\r\n"
        );
        let script = Response::script(
            "/next?x=1".parse().unwrap(),
            Some("//aid/A000000559/10".parse().unwrap()),
            ContentType::CommandData,
            vec![0xAA, 0],
        );
        assert_eq!(
            String::from_utf8_lossy(&script.encode(Framing::ContentLength)).split_once("\r\n\r\n").unwrap().0,
            "HTTP/1.1 200 OK\r\nX-Admin-Protocol: globalplatform-remote-admin/1.0\r\nX-Admin-Next-URI: /next?x=1\r\n\
             X-Admin-Targeted-Application: //aid/A000000559/10\r\n\
             Content-Type: application/vnd.etsi.scp.command-data;version=1.0\r\nContent-Length: 2"
        );
    }
}
