//! The personalization application: another identity under the admin code, the user's word, the swap with the reset, and
//! the menu by which a user asks for it (ours: `docs/card-profile.md`).
//!
//! What becomes of one change:
//!
//! | state | accepts | next |
//! |---|---|---|
//! | unknown | the message under the right code | asking, staged; refused for good where it says no |
//! | asking | the user's answer | staged, refused; a reset forgets the question: unknown |
//! | staged: AUTHENTICATE and EF.IMSI are identity 1's | the proof has left: REFRESH, any reset; before: a reset, after which a notice takes the proof's place | active; trial where guarded |
//! | trial: identity 2, identity 1 kept | AUTHENTICATE by network 2: active; the guard time, too many resets: reverted with the next reset | |
//! | active, reverted, refused | nothing more | |
//!
//! One change is open at a time; a second one is refused as busy and not remembered. Whatever is durable changes within
//! one command or one reset, which is one record of the journal.

mod contents;
mod guard;
mod memory;
mod menu;
mod question;
mod swap;
mod uplink;

use crate::card::Card;
use crate::toolkit::{Answered, Envelope, Owner, Proactive, RefreshMode, TerminalResponse};
pub(crate) use question::LateProof;
use question::Question;
use simtide_protocol::apdu::{Command, Response, StatusWord};
use simtide_protocol::personalization::{
    Answer, MESSAGE_BYTES_MAX, Message, Offer, OpenFailure, PersonalizationCommand, Refusal, Sealed, State,
    decode_operators,
};
use std::collections::VecDeque;
use zeroize::Zeroizing;

/// The timer that the application uses: the guard time, and pauses before it asks again.
const TIMER: u8 = 2;
/// Pause before the device is asked for the reset again, in seconds.
const REFRESH_PAUSE_S: u32 = 60;
/// How often a part of a proof is sent again, a minute apart, before the reset goes ahead without it.
const PROOF_TRIES_MAX: u16 = 5;
/// Commands that wait for room in the toolkit.
const UNSENT_MAX: usize = 32;

/// Which of the application's commands a terminal response answers.
mod token {
    pub(super) const QUESTION: u16 = 0;
    pub(super) const REFRESH: u16 = 1;
    pub(super) const TIMER: u16 = 2;
    pub(super) const NOTICE: u16 = 3;
    pub(super) const MENU: u16 = 4;
    pub(super) const CHOICE: u16 = 5;
    pub(super) const CODE: u16 = 6;
    pub(super) const CONFIRMATION: u16 = 7;
    pub(super) const TIME: u16 = 8;
    pub(super) const REQUEST: u16 = 9;
    pub(super) const TEXT: u16 = 10;
    /// A part of a message after which more parts follow.
    pub(super) const PART: u16 = 11;
}

/// The application's volatile state; a reset clears it.
#[derive(Default)]
pub(crate) struct Applet {
    /// The message on its way in.
    message: Zeroizing<Vec<u8>>,
    next_block: Option<u8>,
    /// The user is being asked.
    question: Option<Box<Question>>,
    dialogue: menu::Dialogue,
    /// Parts of the proof that the network did not take; they go again before the reset.
    held: Vec<(u16, Proactive)>,
    /// A script asks for a reset.
    reset_wanted: bool,
    /// The device has been asked for the reset.
    refresh_asked: bool,
    /// The outcome of a change is on its way.
    notice_sent: bool,
    /// STATUS commands counted on a device without timers.
    statuses: u32,
    /// Commands for which the toolkit had no room.
    unsent: VecDeque<(Owner, u16, Proactive)>,
}

impl Applet {
    /// A script asks for a reset, as soon as its proof has left.
    pub(crate) fn want_reset(&mut self) {
        self.reset_wanted = true;
    }
}

impl Card {
    /// One command of a script for the application.
    pub(crate) fn personalization_command(&mut self, command: &Command<'_>) -> Response {
        // The mark of a campaign step stands around a message, in the same script.
        if command.cla & 0xF0 == 0x80 && command.ins == 0xE2 {
            return self.store_data(command.data).err().unwrap_or(StatusWord::OK).into();
        }
        let outcome = match PersonalizationCommand::parse(command) {
            Ok(PersonalizationCommand::Store { block, last, bytes }) => self.store_block(block, last, bytes),
            Ok(PersonalizationCommand::ReadStatus) => Ok(self.change_status().encode()),
            Ok(PersonalizationCommand::ReadIdentity { admin_code }) => self.read_identity(admin_code),
            Ok(PersonalizationCommand::PutOperators { list }) => self.put_operators(list),
            Ok(PersonalizationCommand::ReadOffer) => self.offer(),
            Ok(PersonalizationCommand::SealWish { wish }) => self.seal_wish(wish),
            Ok(PersonalizationCommand::ShowText { text }) => {
                self.show(text);
                Ok(Vec::new())
            }
            Err(status) => Err(status),
        };
        outcome.map_or_else(Response::from, Response::ok)
    }

    /// Blocks come in their order; a repeated block changes nothing.
    fn store_block(&mut self, block: u8, last: bool, bytes: &[u8]) -> Result<Vec<u8>, StatusWord> {
        let applet = &mut self.session().applet;
        if block == 0 {
            // With all its room at once, so that no secret stays behind in a smaller buffer.
            applet.message = Zeroizing::new(Vec::with_capacity(MESSAGE_BYTES_MAX));
            applet.next_block = Some(0);
        }
        match applet.next_block {
            Some(next) if next == block => {}
            Some(next) if block.checked_add(1) == Some(next) && !last => return Ok(Vec::new()),
            _ => return Err(StatusWord::CONDITIONS),
        }
        if applet.message.len() + bytes.len() > MESSAGE_BYTES_MAX {
            applet.next_block = None;
            applet.message = Zeroizing::default();
            return Err(StatusWord::NO_MEMORY);
        }
        applet.message.extend_from_slice(bytes);
        applet.next_block = block.checked_add(1);
        if !last {
            return Ok(Vec::new());
        }
        applet.next_block = None;
        let message = std::mem::take(&mut applet.message);
        let sealed = Sealed::parse(&message).ok_or(StatusWord::WRONG_DATA)?;
        Ok(self.personalize(&sealed).encode())
    }

    /// A whole message. Its second copy changes nothing and is answered with what became of the first.
    fn personalize(&mut self, sealed: &Sealed<'_>) -> Answer {
        let change = sealed.change;
        let refused = |refusal| Answer { change, state: State::Refused(refusal), agreed: false };
        if let Some(answer) = self.remembered(change) {
            return answer;
        }
        let message = match self.opened(sealed) {
            Ok(message) => message,
            Err(Refusal::Locked) => return refused(Refusal::Locked),
            Err(refusal) => return self.remember(refused(refusal)),
        };
        if self.has_open_change() {
            return refused(Refusal::Busy);
        }
        if let Err(refusal) = self.fits(&message) {
            return self.remember(refused(refusal));
        }
        if !message.options.ask_user {
            return self.stage(&message, false);
        }
        if !self.can_ask() {
            return if message.options.agreed {
                self.stage(&message, false)
            } else {
                self.remember(refused(Refusal::NoDisplay))
            };
        }
        self.ask(message)
    }

    /// Checks the admin code, which is counted, and reads the message.
    fn opened(&mut self, sealed: &Sealed<'_>) -> Result<Message, Refusal> {
        let Some((code, attempts)) = self.admin_code() else { return Err(Refusal::Unsupported) };
        if attempts == 0 {
            return Err(Refusal::Locked);
        }
        // A card in the mode where the code never travels is not talked into the other one.
        if sealed.protection() != self.profile.personalization.protection {
            return Err(Refusal::Unsupported);
        }
        let card = self.id().ok_or(Refusal::Unsupported)?;
        let opened = sealed.open(&card, &code);
        self.count_attempt(!matches!(opened, Err(OpenFailure::WrongCode)));
        opened.map_err(|failure| match failure {
            OpenFailure::WrongCode => Refusal::WrongCode,
            OpenFailure::Malformed(_) | OpenFailure::Identity(_) => Refusal::Malformed,
        })
    }

    /// READ IDENTITY: the card id, EF.IMSI and the identity's digest, for who knows the code.
    fn read_identity(&mut self, presented: &[u8; 8]) -> Result<Vec<u8>, StatusWord> {
        use simtide_protocol::tlv::push;
        use subtle::ConstantTimeEq;
        let (code, attempts) = self.admin_code().ok_or(StatusWord::CONDITIONS)?;
        if attempts == 0 {
            return Err(StatusWord::BLOCKED);
        }
        let right = bool::from(code.ct_eq(presented));
        let left = self.count_attempt(right);
        if !right {
            return Err(StatusWord::attempts_left(left));
        }
        let mut out = Vec::with_capacity(48);
        push(&mut out, 0x80, self.id().ok_or(StatusWord::CONDITIONS)?.as_bytes());
        push(&mut out, 0x81, &self.imsi_file().ok_or(StatusWord::CONDITIONS)?);
        push(&mut out, 0x8E, &self.digest());
        Ok(out)
    }

    /// GET OFFER.
    fn offer(&self) -> Result<Vec<u8>, StatusWord> {
        let card = self.id().ok_or(StatusWord::CONDITIONS)?;
        let offer = Offer { card, service_number: self.service_number(), operators: self.operators() };
        offer.encode().map_err(|_| StatusWord::TECHNICAL)
    }

    fn put_operators(&mut self, list: &[u8]) -> Result<Vec<u8>, StatusWord> {
        decode_operators(list).map_err(|_| StatusWord::WRONG_DATA)?;
        self.set_operators(list);
        Ok(Vec::new())
    }

    /// TERMINAL PROFILE: the device is ready.
    pub(crate) fn start_applet(&mut self) {
        self.session().toolkit.withdraw(Owner::Personalization);
        let applet = &mut self.session().applet;
        applet.dialogue = menu::Dialogue::default();
        // What others wait for is still to be sent.
        applet.unsent.retain(|(owner, ..)| *owner == Owner::Ota);
        applet.refresh_asked = false;
        applet.notice_sent = false;
        self.set_up_menu();
        self.repeat_question();
        self.start_guard();
        self.prove_again();
        self.send_notice();
    }

    /// A terminal response to one of the application's commands.
    pub(crate) fn applet_answered(&mut self, token: u16, response: &TerminalResponse<'_>) {
        match token {
            token::QUESTION => self.user_answered(response),
            // Only a device that did not reset answers: it is asked again after a pause.
            token::REFRESH => self.start_applet_timer(REFRESH_PAUSE_S),
            token::NOTICE => self.notice_answered(response.is_done()),
            token::CHOICE | token::CODE | token::CONFIRMATION | token::TIME | token::REQUEST => {
                self.menu_answered(token, response);
            }
            _ => {}
        }
    }

    /// A menu selection, an event, a timer.
    pub(crate) fn applet_noticed(&mut self, envelope: &Envelope<'_>) {
        match envelope {
            Envelope::MenuSelection { item } => self.menu_selected(*item),
            Envelope::TimerExpired { timer: TIMER } => {
                self.session().applet.refresh_asked = false;
                for (tries, command) in std::mem::take(&mut self.session().applet.held) {
                    self.applet_enqueue(Owner::Ota, tries, command);
                }
                self.guard_expired();
                self.send_notice();
            }
            Envelope::Event { .. } if envelope.location_status() == Some(0) => self.in_service(),
            _ => {}
        }
    }

    /// The device has answered a part of a proof. One that the network did not take is as one that was lost on the air,
    /// unless the reset waits for it: as identity 2 the card could not send it for identity 1 any more.
    pub(crate) fn proof_answered(&mut self, answered: &Answered, response: &TerminalResponse<'_>) {
        let goes_again = !response.is_done()
            && self.waits_for_reset()
            && answered.token < PROOF_TRIES_MAX
            && self.session().toolkit.device_can(8, 1);
        if goes_again {
            self.session().applet.held.push((answered.token + 1, answered.command.clone()));
            self.start_applet_timer(REFRESH_PAUSE_S);
        }
    }

    /// After every exchange with the device: hands over what waits for room, and asks for the reset as soon as every
    /// proof has left and no session is under way.
    pub(crate) fn settle_applet(&mut self) {
        self.flush_applet();
        let Some(session) = self.session.as_ref() else { return };
        let may_reset = session.toolkit.is_active()
            && !session.applet.refresh_asked
            && !session.toolkit.waits(Owner::Ota)
            && !session.poll.is_in_session()
            && session.applet.unsent.is_empty()
            && session.applet.held.is_empty();
        // A notice that stands for a proof which the power took is waited for as the proof itself.
        let may_reset = may_reset && self.unproven().is_none_or(|change| !self.is_announced(change));
        if may_reset && (self.session().applet.reset_wanted || self.waits_for_reset()) {
            self.release_staged();
            self.session().applet.refresh_asked = true;
            let refresh = Proactive::Refresh { mode: RefreshMode::UiccReset, files: Vec::new() };
            self.applet_enqueue(Owner::Personalization, token::REFRESH, refresh);
        }
    }

    fn start_applet_timer(&mut self, duration_s: u32) {
        // ETSI TS 102 223, 5.2: byte 8, bit 1: TIMER MANAGEMENT.
        if self.session().toolkit.device_can(8, 1) {
            let start = Proactive::StartTimer { timer: TIMER, duration_s };
            self.applet_enqueue(Owner::Personalization, token::TIMER, start);
        }
    }

    /// DISPLAY TEXT, where there is a display.
    fn show(&mut self, text: &str) {
        // ETSI TS 102 223, 5.2: byte 3, bit 1.
        if self.session().toolkit.device_can(3, 1) {
            let command = |text: &str| Proactive::DisplayText {
                text: text.into(),
                high_priority: true,
                until_cleared: true,
            };
            // Outside of ASCII a character takes two bytes: the end of a long text is cut off.
            let mut text = text.to_owned();
            while command(&text).encode(u8::MAX).is_err() {
                text.pop();
            }
            self.applet_enqueue(Owner::Personalization, token::TEXT, command(&text));
        }
    }

    fn applet_enqueue(&mut self, owner: Owner, token: u16, command: Proactive) {
        let unsent = &mut self.session().applet.unsent;
        if unsent.len() < UNSENT_MAX {
            unsent.push_back((owner, token, command));
        }
        self.flush_applet();
    }

    fn flush_applet(&mut self) {
        let Some(session) = self.session.as_mut() else { return };
        while session.toolkit.has_room_for(1)
            && let Some((owner, token, command)) = session.applet.unsent.pop_front()
        {
            // There is room, as was asked before.
            let _ = session.toolkit.enqueue(owner, token, command);
        }
    }
}
