//! "Change to operator X?": the user's word before an identity is staged, and the proof of receipt that waits for it.

use super::token;
use crate::card::Card;
use crate::ota::Reply;
use crate::toolkit::{GeneralResult, Owner, Proactive, TerminalResponse};
use simtide_protocol::ids::ChangeId;
use simtide_protocol::personalization::{Answer, Message, Refusal, State};
use simtide_protocol::profile::Application;
use zeroize::Zeroizing;

/// How often a device that is busy is asked to show the question.
const TRIES_MAX: u8 = 3;

/// The user is being asked. Holds the new identity until the answer; power loss forgets it.
pub(super) struct Question {
    message: Message,
    tries: u8,
    proof: Proof,
}

/// How the answer gets back to the platform.
enum Proof {
    /// The message came in a poll, whose answer has said that the user is being asked: the outcome is told by a message.
    Notice,
    /// The message came in a secured packet, whose proof waits.
    Late(Box<LateProof>),
}

/// What is needed to answer a packet later: with the user's word known, the same script gives the answer.
pub(crate) struct LateProof {
    pub(crate) application: Application,
    pub(crate) script: Zeroizing<Vec<u8>>,
    pub(crate) capacity: usize,
    pub(crate) reply: Reply,
}

impl Question {
    pub(super) fn change(&self) -> ChangeId {
        self.message.change
    }

    fn command(&self) -> Proactive {
        Proactive::GetInkey {
            text: format!("Change to operator {}?", self.message.operator_name),
            yes_no: true,
        }
    }
}

impl Card {
    /// Whether the device can ask yes or no (ETSI TS 102 223, 5.2: byte 3, bit 2; byte 8, bit 4).
    pub(super) fn can_ask(&mut self) -> bool {
        let toolkit = &self.session().toolkit;
        toolkit.is_active() && toolkit.device_can(3, 2) && toolkit.device_can(8, 4)
    }

    pub(super) fn ask(&mut self, message: Message) -> Answer {
        let change = message.change;
        let question = Question { message, tries: 0, proof: Proof::Notice };
        let command = question.command();
        self.session().applet.question = Some(Box::new(question));
        self.applet_enqueue(Owner::Personalization, token::QUESTION, command);
        Answer { change, state: State::Asking, agreed: false }
    }

    /// Shows the question again after the device has forgotten it.
    pub(super) fn repeat_question(&mut self) {
        if let Some(command) = self.session().applet.question.as_ref().map(|question| question.command()) {
            self.applet_enqueue(Owner::Personalization, token::QUESTION, command);
        }
    }

    /// Whether the user is being asked.
    pub(crate) fn is_asking(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.applet.question.is_some())
    }

    /// The packet that brought the question is answered when the user has answered.
    pub(crate) fn answer_later(&mut self, proof: LateProof) {
        if let Some(question) = self.session().applet.question.as_mut() {
            question.proof = Proof::Late(Box::new(proof));
        }
    }

    /// The user has answered, or the device for them.
    pub(super) fn user_answered(&mut self, response: &TerminalResponse<'_>) {
        let Some(mut question) = self.session().applet.question.take() else { return };
        let change = question.change();
        let agreed_before = question.message.options.agreed;
        let refusal = match response.result {
            GeneralResult::Done if response.text().is_some_and(|text| text.starts_with('\u{1}')) => None,
            GeneralResult::Done
            | GeneralResult::EndedByUser
            | GeneralResult::Backward
            | GeneralResult::UserRefused => Some(Refusal::UserSaidNo),
            GeneralResult::TryAgain(_) if question.tries + 1 < TRIES_MAX => {
                question.tries += 1;
                self.session().applet.question = Some(question);
                return self.repeat_question();
            }
            GeneralResult::NoAnswer | GeneralResult::TryAgain(_) => Some(Refusal::NoAnswer),
            _ if agreed_before => None,
            _ => Some(Refusal::NoDisplay),
        };
        match refusal {
            None => {
                let said_yes = response.is_done();
                self.stage(&question.message, said_yes);
            }
            Some(refusal) => {
                let state = State::Refused(refusal);
                self.remember(Answer { change, state, agreed: false });
            }
        }
        let Question { message, proof, .. } = *question;
        drop(message);
        match proof {
            Proof::Notice => {
                self.announce(change);
                self.send_notice();
            }
            Proof::Late(proof) => self.prove(&proof),
        }
    }

    /// The same script again: now it is answered with what was decided.
    fn prove(&mut self, proof: &LateProof) {
        let answer = self.run_script(&proof.application, &proof.script, proof.capacity);
        let mut receiver = std::mem::take(&mut self.session().ota);
        let submits = proof.reply.answer_later(&mut receiver, &self.keyring(), &answer);
        self.session().ota = receiver;
        for submit in submits {
            let send = Proactive::SendShortMessage { text: String::new(), tpdu: submit.to_bytes() };
            self.applet_enqueue(Owner::Ota, 0, send);
        }
    }
}
