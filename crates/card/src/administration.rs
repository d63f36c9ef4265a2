//! The card as the agent of recurring polls sees it.

use crate::card::Card;
use crate::poll::{Agent, Host, Psk};
use crate::secure_channel::{Environment, SecureChannels};
use crate::storage::Kind;
use crate::toolkit::{Owner, Proactive, QueueFull};
use simtide_protocol::ids::{Aid, CardId};
use simtide_protocol::poll_date::PollFile;
use simtide_protocol::profile::{Application, ApplicationKind, Profile};
use simtide_protocol::scp81::{ContentType, ScriptStatus};
use simtide_protocol::trigger::STORED_PARAMETERS_TAG;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Longest answer to one script in a session, in bytes.
const ANSWER_BYTES_MAX: usize = 32 * 1024;

/// A card with what is lent to it for one command.
struct Administered<'a> {
    card: &'a mut Card,
    random: &'a mut dyn FnMut(&mut [u8]),
}

impl Card {
    /// Lends the agent out of the session, so that it can use the card.
    pub(crate) fn with_agent(
        &mut self,
        environment: &mut Environment<'_>,
        act: impl FnOnce(&mut Agent, &mut dyn Host, &dyn SecureChannels),
    ) {
        let mut agent = std::mem::take(&mut self.session().poll);
        let mut host = Administered { card: self, random: &mut *environment.random };
        act(&mut agent, &mut host, environment.channels);
        self.session().poll = agent;
    }

    /// The application that a script of this content type is for; the issuer security domain where none is named.
    fn targeted(&self, aid: Option<Aid>, content_type: ContentType) -> Result<Application, ScriptStatus> {
        let application = match aid {
            Some(aid) => self.profile.application_by_aid(&aid),
            None => self.profile.application(ApplicationKind::Isd),
        };
        let application = application.ok_or(ScriptStatus::UnknownApplication)?;
        let manages_content = content_type == ContentType::CardContentManagement;
        match application.kind {
            ApplicationKind::Isd if manages_content => Ok(application.clone()),
            ApplicationKind::RfmUicc | ApplicationKind::RfmUsim if !manages_content => {
                Ok(application.clone())
            }
            ApplicationKind::VendorPatch | ApplicationKind::Personalization => Ok(application.clone()),
            _ => Err(ScriptStatus::NotASecurityDomain),
        }
    }
}

impl Host for Administered<'_> {
    fn profile(&self) -> &Arc<Profile> {
        &self.card.profile
    }

    fn id(&self) -> Option<CardId> {
        self.card.id()
    }

    fn poll_file(&self) -> Option<PollFile> {
        PollFile::decode(&self.card.read_file(&self.card.profile.poll.file)?).ok()
    }

    fn write_poll_file(&mut self, file: &PollFile) {
        let path = self.card.profile.poll.file.clone();
        self.card.write_file(&path, &file.encode());
    }

    fn memory(&self) -> Vec<u8> {
        self.card.storage.get(Kind::Poll, 0).unwrap_or_default().to_vec()
    }

    fn write_memory(&mut self, memory: &[u8]) {
        if memory.is_empty() {
            self.card.storage.remove(Kind::Poll, 0);
        } else {
            self.card.storage.put(Kind::Poll, 0, memory);
        }
    }

    fn stored_parameters(&self) -> Vec<u8> {
        self.card.stored_data(STORED_PARAMETERS_TAG).unwrap_or_default().to_vec()
    }

    fn psk(&self) -> Option<Psk> {
        let (identity, key) = self.card.psk()?;
        Some(Psk { identity, key: Zeroizing::new(key.as_bytes().to_vec()) })
    }

    fn execute(
        &mut self,
        application: Option<Aid>,
        content_type: ContentType,
        script: &[u8],
    ) -> (ScriptStatus, Vec<u8>) {
        match self.card.targeted(application, content_type) {
            Ok(application) => {
                let answer = self.card.run_script(&application, script, ANSWER_BYTES_MAX);
                self.card.refresh_changed_files();
                (ScriptStatus::Ok, answer)
            }
            Err(status) => (status, Vec::new()),
        }
    }

    fn wants_service_events(&self) -> bool {
        self.card.wants_service_events()
    }

    fn enqueue(&mut self, token: u16, command: Proactive) -> Result<(), QueueFull> {
        self.card.enqueue(Owner::Poll, token, command)
    }

    fn random(&mut self) -> u32 {
        let mut bytes = [0; 4];
        (self.random)(&mut bytes);
        u32::from_be_bytes(bytes)
    }
}
