//! TLS and SCP81 of one session: bytes from the channel in, bytes for the channel out.

use super::Host;
use super::memory::Memory;
use super::settings::Settings;
use crate::secure_channel::{SecureChannel, SecureChannels};
use simtide_protocol::profile::ApplicationKind;
use simtide_protocol::scp81::{
    AdminFrom, ContentType, Framing, HeaderText, Limits, Request, RequestTarget, Response, ResponseDecoder,
    ScriptStatus,
};
use simtide_protocol::script::SCRIPT_BYTES_MAX;

/// Most answers in one session; a server that sends more is given up.
const ANSWERS_MAX: u16 = 1_024;
/// Longest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 2_048;

/// Why a session failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionFailure {
    /// The card has no key for TLS: personalise one.
    #[error("the card has no pre-shared key: personalise one")]
    NoKey,
    /// Host, URI or agent id cannot stand in a request.
    #[error("host, URI or agent id of the session cannot stand in a request: store other parameters")]
    Settings,
    /// The device opened no channel.
    #[error("the device opened no channel")]
    NoChannel,
    /// The channel was lost.
    #[error("the channel was lost before the session ended")]
    ChannelLost,
    /// TLS was refused, broken or closed.
    #[error("TLS was refused, broken or closed before the session ended")]
    Tls,
    /// The server's answer is no answer of SCP81.
    #[error("the server's answer is none that the protocol knows")]
    Http,
    /// The server refused.
    #[error("the server answered with status {0}")]
    Refused(u16),
    /// The session did not come to an end.
    #[error("the session did not come to an end")]
    TooLong,
}

/// What came of received bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The session goes on.
    Goes,
    /// The server has ended it.
    Complete,
    /// It has failed.
    Failed(SessionFailure),
}

/// One dialogue.
pub(super) struct Dialogue {
    tls: Box<dyn SecureChannel>,
    decoder: ResponseDecoder,
    host: HeaderText,
    from: HeaderText,
    framing: Framing,
    /// The server has been asked, so that a break has to be told next time.
    asked: bool,
    answers: u16,
}

impl Dialogue {
    /// Starts TLS; the first request leaves as soon as the handshake has ended.
    pub(super) fn open(
        host: &dyn Host,
        channels: &dyn SecureChannels,
        settings: &Settings,
        resume: bool,
    ) -> Result<Self, SessionFailure> {
        let psk = host.psk().ok_or(SessionFailure::NoKey)?;
        let identity = if settings.psk_identity.is_empty() { &psk.identity } else { &settings.psk_identity };
        let mut tls = channels.open(identity, &psk.key).map_err(|_| SessionFailure::Tls)?;
        let behaviour = host.profile().scp81;
        let from = match &settings.agent {
            Some(agent) => agent.clone(),
            None => sender(host).ok_or(SessionFailure::Settings)?,
        };
        let mut first = Request::first(settings.target.clone(), settings.host.clone(), from.clone());
        first.resume = resume && behaviour.resumes;
        let framing = behaviour.request_framing.into();
        tls.write(&first.encode(framing)).map_err(|_| SessionFailure::Tls)?;
        let limits = Limits { head_bytes_max: HEAD_BYTES_MAX, body_bytes_max: SCRIPT_BYTES_MAX };
        let decoder = ResponseDecoder::new(limits);
        Ok(Self { tls, decoder, host: settings.host.clone(), from, framing, asked: false, answers: 0 })
    }

    /// Bytes for the channel.
    pub(super) fn outgoing(&mut self) -> Vec<u8> {
        self.tls.to_peer()
    }

    /// Takes bytes from the channel; scripts that they complete are executed at once.
    pub(super) fn received(&mut self, host: &mut dyn Host, bytes: &[u8]) -> Progress {
        let taken = self.tls.from_peer(bytes);
        if self.tls.is_established() && !self.asked {
            self.asked = true;
            let mut memory = Memory::load(host);
            memory.resume = true;
            memory.open = true;
            memory.save(host);
        }
        let plain = self.tls.read();
        match self.read(host, &plain) {
            // What the peer said before it broke off counts.
            Progress::Goes if taken.is_err() => Progress::Failed(SessionFailure::Tls),
            progress => progress,
        }
    }

    fn read(&mut self, host: &mut dyn Host, plain: &[u8]) -> Progress {
        let mut plain = plain;
        loop {
            match self.decoder.receive(std::mem::take(&mut plain)) {
                Ok(None) => return Progress::Goes,
                Ok(Some(response)) => match self.answered(host, response) {
                    Progress::Goes => (),
                    over => return over,
                },
                Err(_) => return Progress::Failed(SessionFailure::Http),
            }
        }
    }

    fn answered(&mut self, host: &mut dyn Host, response: Response) -> Progress {
        let Response { status, next_uri, targeted_application, content_type, body, close } = response;
        self.answers += 1;
        if self.answers > ANSWERS_MAX {
            return Progress::Failed(SessionFailure::TooLong);
        }
        match (status, content_type) {
            (204, _) => match next_uri {
                // Nothing for now, and the session goes on there.
                Some(target) if !close => {
                    self.post(Request::first(target, self.host.clone(), self.from.clone()))
                }
                _ => Progress::Complete,
            },
            (200, Some(content_type)) => {
                let application = targeted_application.map(|application| application.0);
                let (status, body) = host.execute(application, content_type, &body);
                match next_uri {
                    Some(target) => self.respond(target, content_type, status, body, close),
                    // Without a next URI the server wants no answer, and there is nobody to ask for more.
                    None => Progress::Complete,
                }
            }
            (200, None) => Progress::Failed(SessionFailure::Http),
            (status, _) => Progress::Failed(SessionFailure::Refused(status)),
        }
    }

    /// Posts the answer to a script.
    fn respond(
        &mut self,
        target: RequestTarget,
        content_type: ContentType,
        status: ScriptStatus,
        body: Vec<u8>,
        closing: bool,
    ) -> Progress {
        if closing {
            return Progress::Failed(SessionFailure::Http);
        }
        let body = if status == ScriptStatus::Ok { body } else { Vec::new() };
        let request = Request {
            script_status: Some(status),
            content_type: (!body.is_empty()).then(|| content_type.of_response()),
            body,
            ..Request::first(target, self.host.clone(), self.from.clone())
        };
        self.post(request)
    }

    fn post(&mut self, request: Request) -> Progress {
        match self.tls.write(&request.encode(self.framing)) {
            Ok(()) => Progress::Goes,
            Err(_) => Progress::Failed(SessionFailure::Tls),
        }
    }
}

/// What the card says that it is: the form of an eUICC where it has an EID, its ICCID otherwise.
fn sender(host: &dyn Host) -> Option<HeaderText> {
    let id = host.id()?;
    let agent = host.profile().application(ApplicationKind::AdminAgent).map(|application| application.aid);
    match (id.eid(), agent) {
        (Some(eid), Some(agent)) => AdminFrom { eid, agent }.to_string().parse().ok(),
        _ => id.to_string().parse().ok(),
    }
}
