//! Applications that scripts are for: file management, content management, the vendor's patch.

mod content;
mod keys;
mod listing;
mod patch;
mod script;

use crate::card::Card;
use crate::channel::{Channel, Selection};
use crate::secure_channel::Environment;
use simtide_protocol::apdu::{Command, Response, StatusWord};
use simtide_protocol::profile::{Application, ApplicationKind, Authority, Structure};

pub(crate) use content::Loading;

/// What one script has selected while it runs.
pub(crate) struct ApplicationSession {
    channel: Channel,
    authority: Authority,
}

impl ApplicationSession {
    /// Where the scripts of an application start, and what they may do.
    pub(crate) fn new(card: &Card, application: &Application) -> Self {
        let mut selection = Selection::default();
        if let Some(root) = application.root.as_ref().and_then(|root| card.file_at(root.fids())) {
            selection.directory = root.id;
            selection.adf = Some(root.id).filter(|_| matches!(root.structure, Structure::Application { .. }));
        }
        Self { channel: Channel { selection, kept: Vec::new() }, authority: application.authority() }
    }
}

impl Card {
    /// Hands data to an application: a script to execute, or a trigger. The answer has at most `capacity` bytes.
    pub(crate) fn run(
        &mut self,
        environment: &mut Environment<'_>,
        application: &Application,
        data: &[u8],
        capacity: usize,
    ) -> Vec<u8> {
        match application.kind {
            ApplicationKind::Isd
            | ApplicationKind::RfmUicc
            | ApplicationKind::RfmUsim
            | ApplicationKind::VendorPatch
            | ApplicationKind::Personalization => self.run_script(application, data, capacity),
            ApplicationKind::AdminAgent => {
                // What is no trigger has no effect; the sender has its proof that it arrived, or asked for none.
                self.with_agent(environment, |agent, host, channels| {
                    let _ = agent.trigger(host, channels, data);
                });
                Vec::new()
            }
        }
    }

    /// One command of a script.
    pub(crate) fn application_command(
        &mut self,
        application: &Application,
        session: &mut ApplicationSession,
        command: &Command<'_>,
    ) -> Response {
        // ISO/IEC 7816-4: GET RESPONSE, in scripts whose commands with data have no Le.
        if command.ins == 0xC0 && command.cla & 0x70 == 0 {
            return session.channel.get_response(command);
        }
        session.channel.kept.clear();
        let response = match application.kind {
            ApplicationKind::RfmUicc | ApplicationKind::RfmUsim => self.remote_file_command(session, command),
            ApplicationKind::Isd => self.content_command(command),
            ApplicationKind::VendorPatch => self.patch_command(command),
            ApplicationKind::Personalization => self.personalization_command(command),
            ApplicationKind::AdminAgent => StatusWord::INSTRUCTION.into(),
        };
        if command.le.is_none() {
            return session.channel.keep(command, response);
        }
        let mut response = response;
        response.data.truncate(command.le.unwrap_or(256) as usize);
        response
    }

    /// Remote file management (ETSI TS 102 226, 6): files and PINs, with the application's own rights.
    fn remote_file_command(&mut self, session: &mut ApplicationSession, command: &Command<'_>) -> Response {
        let ApplicationSession { channel, authority } = session;
        if let Some(response) = self.file_command(&mut channel.selection, *authority, command) {
            return response;
        }
        // What a script presents gives the holder of the card nothing.
        let verified = self.session().verified;
        let response = self.pin_command(command).unwrap_or_else(|| StatusWord::INSTRUCTION.into());
        self.session().verified = verified;
        response
    }
}
