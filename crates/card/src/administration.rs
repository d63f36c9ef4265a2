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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secure_channel::NoChannels;
    use crate::{KeySetPersonalization, Personalization, Secret};
    use simtide_protocol::ids::ChangeId;
    use simtide_protocol::personalization::{
        Answer, Identity, Message, OperatorFiles, Options, Protection, State, commands,
    };
    use simtide_protocol::scp80::{Counter, Key};
    use simtide_protocol::script::expanded::{LengthForm, Response, ScriptWriter};

    fn card() -> Card {
        let key = || Key::new(&[0x11; 16]).unwrap();
        let personalization = Personalization {
            iccid: "8988211000000000011".parse().unwrap(),
            eid: None,
            identity: Identity::milenage("001010000000001".parse().unwrap(), &[1; 16], &[2; 16]).unwrap(),
            msisdn: None,
            key_sets: vec![KeySetPersonalization {
                index: 1,
                kic: key(),
                kid: key(),
                kik: None,
                counter: Counter::ZERO,
            }],
            psk: None,
            adm1: Secret::new(*b"ADMCODE1"),
            pin1: None,
            puk1: None,
            files: Vec::new(),
        };
        Card::personalised(Arc::new(Profile::standard()), &personalization)
    }

    fn message(options: Options) -> Message {
        Message {
            change: ChangeId(3),
            options,
            operator_name: "Second".into(),
            service_number: None,
            identity: Identity::milenage("240990000000001".parse().unwrap(), &[3; 16], &[4; 16]).unwrap(),
            files: OperatorFiles::default(),
        }
    }

    fn reset(card: &mut Card) {
        card.reset(&mut Environment { channels: &NoChannels, random: &mut |buffer| buffer.fill(0) });
        card.session().toolkit.start(&[0xFF; 20]);
    }

    /// A script of a poll for the personalization application, and what it answers.
    fn poll(card: &mut Card, message: &Message) -> Answer {
        let code = simtide_protocol::card_file::Secret::new(b"ADMCODE1").unwrap();
        let sealed = message.seal(Protection::AdminCode, &card.id().unwrap(), &code).unwrap();
        let mut script = ScriptWriter::new(LengthForm::Indefinite);
        commands(&sealed).iter().for_each(|command| script.command_bytes(command));
        let aid = card.profile.application(ApplicationKind::Personalization).unwrap().aid;
        let mut host = Administered { card, random: &mut |buffer| buffer.fill(0) };
        let script = script.finish().unwrap();
        let (status, answer) = host.execute(Some(aid), ContentType::CommandData, &script);
        assert_eq!(status, ScriptStatus::Ok);
        Answer::parse(&Response::decode(&answer).unwrap().responses.last().unwrap().data).unwrap()
    }

    #[test]
    fn a_poll_changes_the_operator_and_the_reset_waits_for_its_end() {
        let mut card = card();
        reset(&mut card);
        let message = message(Options::default());
        let first = card.digest();
        assert_eq!(poll(&mut card, &message).state, State::Staged);
        assert_eq!(card.digest(), first);
        // After the exchange in which the session was closed.
        card.settle_applet();
        assert!(card.session().toolkit.waits(Owner::Personalization));
        reset(&mut card);
        assert_eq!(card.digest(), message.identity.digest());
        assert_eq!(
            poll(&mut card, &message).state,
            State::Active,
            "the dialogue was broken and begins again"
        );
    }

    #[test]
    fn a_poll_does_not_wait_for_the_user() {
        let mut card = card();
        reset(&mut card);
        let message = message(Options { ask_user: true, ..Options::default() });
        assert_eq!(poll(&mut card, &message).state, State::Asking);
        assert_eq!(poll(&mut card, &message).state, State::Asking);
        let question = card.session().toolkit.fetch(256).unwrap();
        let number = question[4];
        let body =
            [0x81, 0x03, number, 0x22, 0x04, 0x82, 0x02, 0x82, 0x81, 0x83, 0x01, 0x00, 0x8D, 0x02, 4, 0];
        let response = crate::toolkit::TerminalResponse::parse(&body).unwrap();
        let answered = card.session().toolkit.answered(&response).unwrap();
        card.applet_answered(answered.token, &response);
        card.settle_applet();
        // The outcome is told by a message of the card.
        let notice = card.session().toolkit.fetch(256).unwrap();
        assert_eq!(notice[5], 0x13, "{}", hex::encode(&notice));
    }
}
