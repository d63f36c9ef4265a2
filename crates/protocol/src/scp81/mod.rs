//! SCP81: a card is administered over HTTPS (GlobalPlatform Amendment B, ETSI TS 102 226). The card is TLS and
//! HTTP client; this module is what passes inside TLS, for both sides, without any I/O.
//!
//! One dialogue, all on one connection:
//!
//! ```text
//! card                                       server
//! POST <uri>, X-Admin-From                   200, X-Admin-Next-URI, Content-Type, [Targeted-Application], script
//! POST <next uri>, X-Admin-Script-Status,    200 with the next script, or
//!      response script                       204: the end
//! ```
//!
//! - [`Request`] and [`Response`]: the messages as types, and their exact bytes ([`Request::encode`],
//!   [`Response::encode`]); header names are always written in the case of the standard, because there are cards
//!   that compare it.
//! - [`RequestDecoder`], [`ResponseDecoder`]: incremental parsers with hard limits ([`Limits`]). Between two
//!   messages they own no memory: a connection that waits costs nothing here.
//! - [`TargetedApplication`], [`ContentType`], [`ScriptStatus`]: the values of the headers.
//! - [`PskIdentity`], [`EuiccIdentity`], [`AdminFrom`]: who the card says it is, in TLS and in HTTP.

mod decoder;
mod error;
mod identity;
mod message;
mod text;

pub use decoder::{CHUNK_LINE_BYTES_MAX, Decoder, HEADERS_MAX, Limits, RequestDecoder, ResponseDecoder};
pub use error::HttpError;
pub use identity::{AdminFrom, EuiccIdentity, IdentityError, PSK_IDENTITY_BYTES_MAX, PskIdentity};
pub use message::{ContentType, Framing, Request, Response, ScriptStatus, TargetedApplication};
pub use text::{HeaderText, RequestTarget, TextError};

/// The value of `X-Admin-Protocol` (GlobalPlatform Amendment B, 3.4.1).
pub const PROTOCOL: &str = "globalplatform-remote-admin/1.0";

/// The names of the headers, in the case in which they are sent.
pub mod header {
    /// The protocol and its version: [`super::PROTOCOL`].
    pub const PROTOCOL: &str = "X-Admin-Protocol";
    /// Who the card is: [`super::AdminFrom`].
    pub const FROM: &str = "X-Admin-From";
    /// What became of the script before: [`super::ScriptStatus`].
    pub const SCRIPT_STATUS: &str = "X-Admin-Script-Status";
    /// `true`: the dialogue before this one broke.
    pub const RESUME: &str = "X-Admin-Resume";
    /// Where the card posts the response script.
    pub const NEXT_URI: &str = "X-Admin-Next-URI";
    /// Which application the script is for: [`super::TargetedApplication`].
    pub const TARGETED_APPLICATION: &str = "X-Admin-Targeted-Application";
    /// Name of the server.
    pub const HOST: &str = "Host";
    /// What the body is: [`super::ContentType`].
    pub const CONTENT_TYPE: &str = "Content-Type";
    /// Body size in bytes.
    pub const CONTENT_LENGTH: &str = "Content-Length";
    /// `chunked`, where the size is not known before.
    pub const TRANSFER_ENCODING: &str = "Transfer-Encoding";
    /// `close`: no further message follows.
    pub const CONNECTION: &str = "Connection";
}
