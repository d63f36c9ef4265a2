//! Where and how a session is opened: what the trigger says, else what is stored on the card, else the profile.

use super::{Host, SessionFailure};
use crate::toolkit::TcpChannel;
use simtide_protocol::poll_date::PollFile;
use simtide_protocol::scp81::{HeaderText, RequestTarget};
use simtide_protocol::trigger::{Retry, SessionParameters};

/// Most retries that a trigger can ask for.
const RETRIES_MAX: u16 = 255;

/// Everything that a session needs to be opened.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub(super) channel: TcpChannel,
    /// The PSK identity, where another than the card's own is asked for.
    pub(super) psk_identity: Vec<u8>,
    pub(super) host: HeaderText,
    /// `X-Admin-From`, where it is told.
    pub(super) agent: Option<HeaderText>,
    pub(super) target: RequestTarget,
    retry: Option<Retry>,
}

impl Settings {
    /// Puts them together for one session.
    pub(super) fn resolve(
        host: &dyn Host,
        trigger: Option<&SessionParameters>,
    ) -> Result<Self, SessionFailure> {
        let profile = host.profile();
        let stored = SessionParameters::decode(&host.stored_parameters(), profile.scp81.retry_timer)
            .unwrap_or_default();
        let SessionParameters { connection, security, retry, http, .. } =
            trigger.cloned().unwrap_or_default().or(&stored);
        let (connection, http) = (connection.unwrap_or_default(), http.unwrap_or_default());
        let server = &profile.administration;
        let text = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
        let parsed = |text: String| text.parse().map_err(|_| SessionFailure::Settings);
        let channel = TcpChannel {
            bearer: connection.bearer.unwrap_or_else(|| vec![0x03]),
            buffer_bytes: connection.buffer_bytes.unwrap_or(server.buffer_bytes),
            access_point: connection.access_point.unwrap_or_else(|| labels(&server.access_point)),
            address: connection.address.unwrap_or(server.address),
            port: connection.transport.map_or(server.port, |(_, port)| port),
        };
        let agent = if http.agent.is_empty() { None } else { Some(parsed(http.agent)?) };
        let uri = text(http.uri, &server.uri);
        Ok(Self {
            channel,
            psk_identity: security.map(|security| security.psk_identity).unwrap_or_default(),
            host: parsed(text(http.host, &server.host))?,
            agent,
            target: path(&uri).parse().map_err(|_| SessionFailure::Settings)?,
            retry,
        })
    }

    /// Bytes that the device buffers.
    pub(super) fn buffer_bytes(&self) -> usize {
        usize::from(self.channel.buffer_bytes)
    }

    /// How often a failed session is tried again, and after which pause in seconds.
    pub(super) fn retry(&self, file: &PollFile) -> (u16, u32) {
        let told = self.retry.as_ref();
        let delay_s = told.and_then(|retry| retry.delay_s).unwrap_or_else(|| file.retry_delay_s.into());
        (told.map_or_else(|| file.retries.into(), |retry| retry.counter.min(RETRIES_MAX)), delay_s)
    }
}

/// Path and query of a URI that may be a whole URL.
fn path(uri: &str) -> &str {
    match uri.split_once("://") {
        None => uri,
        Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
    }
}

/// A network access name in its coding with lengths (3GPP TS 23.003, 9.1).
fn labels(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty() && label.len() < 64);
    // Below 64, checked above.
    labels.flat_map(|label| std::iter::once(label.len() as u8).chain(label.bytes())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_access_points() {
        assert_eq!(path("/poll?a=1"), "/poll?a=1");
        assert_eq!(path("https://admin.host/uri"), "/uri");
        assert_eq!(path("https://admin.host"), "/");
        assert_eq!(labels("ota.example"), b"\x03ota\x07example");
        assert_eq!(labels(""), b"");
    }
}
