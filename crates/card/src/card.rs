//! The card: commands in, answers out.

use crate::channel::{Channel, Selection};
use crate::personalization::Personalization;
use crate::secure_channel::Environment;
use crate::storage::{JournalError, Kind, Storage};
use crate::toolkit::{Answered, Envelope, Owner, Proactive, QueueFull, TerminalResponse, Toolkit};
use crate::{ota, poll};
use simtide_protocol::apdu::{Command, Response, StatusWord};
use simtide_protocol::ids::{CardId, Eid, Iccid};
use simtide_protocol::profile::{Authority, Profile};
use std::sync::Arc;

/// Logical channels: the basic one and three more (ETSI TS 102 221, 11.1.17).
pub const CHANNELS: usize = 4;

/// Proactive commands that one message can lead to: the proof of receipt, REFRESH, and what a trigger makes the agent
/// ask for. A message that comes when there is less room has to come again (`93 00`).
pub(crate) const PROACTIVE_PER_MESSAGE_MAX: usize = ota::MESSAGES_MAX + 4;

/// A secure element in software.
///
/// Whatever has to survive power loss is in the storage, as entries of which the journal tells; the session is what
/// a reset clears. Between a [`Card::power_off`] and the next reset a card costs little more than its own entries.
pub struct Card {
    pub(crate) profile: Arc<Profile>,
    pub(crate) storage: Storage,
    pub(crate) session: Option<Box<Session>>,
}

/// What a reset clears.
#[derive(Default)]
pub(crate) struct Session {
    /// The logical channels that are open; the basic one always is.
    pub(crate) channels: [Option<Channel>; CHANNELS],
    /// PINs and codes that have been presented.
    pub(crate) verified: Authority,
    /// Proactive commands.
    pub(crate) toolkit: Toolkit,
    /// The receiver's volatile state: parts of messages.
    pub(crate) ota: ota::Receiver,
    /// The recurring-poll agent's volatile state: its dialogue.
    pub(crate) poll: poll::Agent,
    /// Files whose content scripts have changed since the last REFRESH.
    pub(crate) changed_files: std::collections::BTreeSet<crate::files::FileId>,
    /// What fetches packets over a channel.
    pub(crate) fetcher: crate::fetcher::Fetcher,
    /// What a script has selected that is followed by another one (ETSI TS 102 226, 5.2.1.4), by its application.
    pub(crate) chained: Option<(simtide_protocol::ids::Tar, crate::applications::ApplicationSession)>,
    /// The REFRESH that a script asks for.
    pub(crate) refresh_wanted: Option<crate::toolkit::RefreshMode>,
    /// The personalization application's volatile state.
    pub(crate) applet: crate::subscription::Applet,
    /// A load file or patch on its way in, block by block.
    pub(crate) loading: crate::applications::Loading,
}

impl Session {
    fn new() -> Self {
        let mut session = Self::default();
        session.channels[0] = Some(Channel::default());
        session
    }
}

impl Card {
    /// A new card of a profile.
    pub fn personalised(profile: Arc<Profile>, personalization: &Personalization) -> Self {
        let mut card = Self { profile, storage: Storage::default(), session: None };
        card.write_personalization(personalization);
        card
    }

    /// The card that a journal tells of: all records of [`Card::take_changes`] in their order, or a
    /// [`Card::snapshot`] and the records after it.
    pub fn restore(profile: Arc<Profile>, journal: &[u8]) -> Result<Self, JournalError> {
        let storage = Storage::restore(journal)?;
        let found = storage.get(Kind::Profile, 0).unwrap_or_default();
        if found != profile.name.as_str().as_bytes() {
            let found = String::from_utf8_lossy(found).into_owned();
            return Err(JournalError::Profile { expected: profile.name.to_string(), found });
        }
        Ok(Self { profile, storage, session: None })
    }

    /// What has changed since the last call, as one journal record; `None` where nothing has.
    pub fn take_changes(&mut self) -> Option<Vec<u8>> {
        self.storage.take_changes()
    }

    /// Everything as one journal record: a journal may start anew with it.
    pub fn snapshot(&self) -> Vec<u8> {
        self.storage.snapshot()
    }

    /// The profile of which the card is.
    pub fn profile(&self) -> &Arc<Profile> {
        &self.profile
    }

    /// The ICCID of the card.
    pub fn iccid(&self) -> Option<Iccid> {
        Iccid::from_file(self.storage.get(Kind::Identity, 0)?).ok()
    }

    /// The EID, where the element is embedded.
    pub fn eid(&self) -> Option<Eid> {
        Eid::from_bytes(self.storage.get(Kind::Identity, 1)?.try_into().ok()?).ok()
    }

    /// What the platform knows the card by.
    pub fn id(&self) -> Option<CardId> {
        self.eid().map(CardId::from).or_else(|| self.iccid().map(CardId::from))
    }

    /// Why the last administration session failed; none after one that was complete, and after a reset.
    pub fn last_session_failure(&self) -> Option<poll::SessionFailure> {
        self.session.as_ref()?.poll.last_failure()
    }

    /// Whether an administration session is under way.
    pub fn is_in_session(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.poll.is_in_session())
    }

    /// Power on or reset: the session starts anew. The answer to reset.
    pub fn reset(&mut self, _environment: &mut Environment<'_>) -> Vec<u8> {
        // With the session of identity 1 gone, what is staged takes its place: one record of the journal.
        self.session = None;
        self.swap_identity();
        self.session = Some(Box::new(Session::new()));
        self.profile.answer_to_reset.clone()
    }

    /// Power off: the session is gone. The next command needs a reset before it.
    pub fn power_off(&mut self) {
        self.session = None;
    }

    /// One command, and its answer with the status word at the end. A card that was not reset answers `6F 00`.
    pub fn transmit(&mut self, environment: &mut Environment<'_>, command: &[u8]) -> Vec<u8> {
        if self.session.is_none() {
            return StatusWord::TECHNICAL.to_bytes().into();
        }
        let response = match Command::parse(command) {
            Ok(command) => self.handle(environment, &command),
            Err(_) => StatusWord::WRONG_LENGTH.into(),
        };
        response.encode()
    }

    fn handle(&mut self, environment: &mut Environment<'_>, command: &Command<'_>) -> Response {
        let number = usize::from(command.channel());
        let open = self.session().channels.get(number).is_some_and(Option::is_some);
        if !open {
            return StatusWord::CHANNEL_NOT_SUPPORTED.into();
        }
        // Secure messaging is what bits 3 and 4 of an interindustry class ask for; nobody has keys for it here.
        if command.cla & 0x0C != 0 && command.cla & 0x70 == 0 {
            return StatusWord::SECURE_MESSAGING_NOT_SUPPORTED.into();
        }
        let mut response = match (command.cla & 0xF0, command.ins) {
            (0x80 | 0xA0, 0x10 | 0x12 | 0x14 | 0xC2) if number != 0 => {
                StatusWord::CHANNEL_NOT_SUPPORTED.into()
            }
            (0x80 | 0xA0, 0x10) => self.terminal_profile(environment, command),
            (0x80 | 0xA0, 0x12) => self.fetch(command),
            (0x80 | 0xA0, 0x14) => self.terminal_response(environment, command),
            (0x80 | 0xA0, 0xC2) => self.envelope(environment, command),
            (0x00, 0x70) => self.manage_channel(number, command),
            _ => self.on_channel(number, command),
        };
        if number == 0 {
            self.settle_applet();
            response.status = self.session().toolkit.status(response.status);
        }
        response
    }

    /// Runs a command on what its logical channel has selected.
    fn on_channel(&mut self, number: usize, command: &Command<'_>) -> Response {
        let Some(mut channel) = self.session().channels[number].take() else {
            return StatusWord::CHANNEL_NOT_SUPPORTED.into();
        };
        if command.ins == 0xF2 {
            self.count_status();
        }
        let keeps = self.profile.keeps_response_data;
        let authority = self.terminal_authority();
        let response = if command.cla == 0xA0 {
            self.gsm_command(&mut channel, authority, command)
        } else if command.ins == 0xC0 && command.cla & 0x70 == 0 {
            channel.get_response(command)
        } else {
            channel.kept.clear();
            let response = self.terminal_command(&mut channel.selection, authority, command);
            if keeps { channel.keep(command, response) } else { limited(command, response) }
        };
        self.session().channels[number] = Some(channel);
        response
    }

    /// What whoever holds the card may do: the codes presented, and PIN 1 while it is disabled.
    fn terminal_authority(&mut self) -> Authority {
        let verified = self.session().verified;
        if self.pin1_is_disabled() { verified.with(Authority::PIN1) } else { verified }
    }

    /// MANAGE CHANNEL (ETSI TS 102 221, 11.1.17).
    fn manage_channel(&mut self, from: usize, command: &Command<'_>) -> Response {
        let channels = &mut self.session().channels;
        match (command.p1, usize::from(command.p2)) {
            (0x00, wanted) if wanted < CHANNELS => {
                let free = if wanted == 0 {
                    (1..CHANNELS).find(|place| channels[*place].is_none())
                } else {
                    Some(wanted)
                };
                let Some(place) = free.filter(|place| channels[*place].is_none()) else {
                    return StatusWord::FUNCTION_NOT_SUPPORTED.into();
                };
                // Opened from the basic channel it starts at the MF, from another one where that one stands.
                let selection = if from == 0 {
                    None
                } else {
                    channels[from].as_ref().map(|other| other.selection.clone())
                };
                channels[place] =
                    Some(Channel { selection: selection.unwrap_or_default(), kept: Vec::new() });
                Response::ok(if wanted == 0 { vec![place as u8] } else { Vec::new() })
            }
            (0x80, place @ 1..CHANNELS) => match channels[place].take() {
                Some(_) => Response::ok(Vec::new()),
                None => StatusWord::WARNING.into(),
            },
            _ => StatusWord::WRONG_P1_P2.into(),
        }
    }

    /// TERMINAL PROFILE (ETSI TS 102 221, 11.2.1).
    fn terminal_profile(&mut self, environment: &mut Environment<'_>, command: &Command<'_>) -> Response {
        self.session().toolkit.start(command.data);
        self.with_agent(environment, |agent, host, channels| agent.start(host, channels));
        self.start_applet();
        self.start_fetcher();
        Response::ok(Vec::new())
    }

    /// FETCH (ETSI TS 102 221, 11.2.3).
    fn fetch(&mut self, command: &Command<'_>) -> Response {
        match self.session().toolkit.fetch(command.le.unwrap_or(256)) {
            Ok(bytes) => Response::ok(bytes),
            Err(status) => status.into(),
        }
    }

    /// TERMINAL RESPONSE (ETSI TS 102 221, 11.2.4).
    fn terminal_response(&mut self, environment: &mut Environment<'_>, command: &Command<'_>) -> Response {
        let Ok(response) = TerminalResponse::parse(command.data) else {
            return StatusWord::WRONG_DATA.into();
        };
        let Some(answered) = self.session().toolkit.answered(&response) else {
            return StatusWord::CONDITIONS.into();
        };
        self.answer_owner(environment, &answered, &response);
        Response::ok(Vec::new())
    }

    fn answer_owner(
        &mut self,
        environment: &mut Environment<'_>,
        answered: &Answered,
        response: &TerminalResponse<'_>,
    ) {
        match answered.owner {
            Owner::Card => {}
            Owner::Ota => self.proof_answered(answered, response),
            Owner::Personalization => self.applet_answered(answered.token, response),
            Owner::Fetcher => self.fetcher_answered(environment, answered.token, response),
            Owner::Poll => self.with_agent(environment, |agent, host, channels| {
                agent.answer(host, channels, answered.token, response);
            }),
        }
    }

    /// ENVELOPE (ETSI TS 102 221, 11.2.2).
    fn envelope(&mut self, environment: &mut Environment<'_>, command: &Command<'_>) -> Response {
        let Ok(envelope) = Envelope::parse(command.data) else {
            return StatusWord::WRONG_DATA.into();
        };
        match envelope {
            Envelope::SmsDownload { tpdu, .. } => {
                // A packet is executed once: a proof that finds no room afterwards would be lost for good.
                if !self.session().toolkit.has_room_for(PROACTIVE_PER_MESSAGE_MAX) {
                    return StatusWord::TOOLKIT_BUSY.into();
                }
                self.download(environment, tpdu)
            }
            Envelope::MenuSelection { .. }
            | Envelope::Event { .. }
            | Envelope::TimerExpired { .. }
            | Envelope::Other { .. } => {
                self.with_agent(environment, |agent, host, channels| agent.notice(host, channels, &envelope));
                self.applet_noticed(&envelope);
                self.fetcher_noticed(&envelope);
                Response::ok(Vec::new())
            }
        }
    }

    /// The session; commands reach the parts of the card only while there is one.
    pub(crate) fn session(&mut self) -> &mut Session {
        self.session.get_or_insert_with(|| Box::new(Session::new()))
    }

    /// Queues a proactive command; `token` comes back with the answer.
    pub(crate) fn enqueue(&mut self, owner: Owner, token: u16, command: Proactive) -> Result<(), QueueFull> {
        self.session().toolkit.enqueue(owner, token, command)
    }
}

/// No more data than was asked for.
fn limited(command: &Command<'_>, mut response: Response) -> Response {
    if let Some(le) = command.le {
        response.data.truncate(le as usize);
    }
    response
}

impl Channel {
    /// GET RESPONSE (ISO/IEC 7816-4, 11.6.1).
    pub(crate) fn get_response(&mut self, command: &Command<'_>) -> Response {
        if self.kept.is_empty() {
            return StatusWord::CONDITIONS.into();
        }
        let wanted = command.le.unwrap_or(256) as usize;
        let rest = self.kept.split_off(wanted.min(self.kept.len()));
        let data = std::mem::replace(&mut self.kept, rest);
        let status = match self.kept.len() {
            0 => StatusWord::OK,
            // 256 and more are said as 00.
            length => StatusWord::waiting(u8::try_from(length).unwrap_or(0)),
        };
        Response { data, status }
    }

    /// Keeps response data of a command with data back for GET RESPONSE, as on a T=0 interface.
    pub(crate) fn keep(&mut self, command: &Command<'_>, response: Response) -> Response {
        if command.data.is_empty() || response.data.is_empty() || response.status != StatusWord::OK {
            return limited(command, response);
        }
        let waiting = u8::try_from(response.data.len()).unwrap_or(0);
        self.kept = response.data;
        StatusWord::waiting(waiting).into()
    }
}

impl Selection {
    /// Whether the issuer security domain or another application without files is selected.
    pub(crate) fn is_application(&self) -> bool {
        self.application.is_some()
    }
}
