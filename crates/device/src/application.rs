//! The device's own application for a change of operator: it reads from the card what can be chosen, asks its user, has
//! the wish sealed by the card, and sends it as short messages. Where there is no coverage they leave over IP like every
//! message of the card.
//!
//! | step | what it waits for | next |
//! |---|---|---|
//! | `Opening`, `Selecting`, `Reading` | the card: a logical channel, the application, the offer | `Choosing`, or the end |
//! | `Choosing` | a person: one of the operators | `Confirming`, or the end |
//! | `Confirming` | a person: yes | `Sealing`, or the end |
//! | `Sealing` | the card: the sealed request | `Closing` |
//! | `Closing` | the card: the channel is closed | the end |

use simtide_protocol::apdu::{Command as CardCommand, StatusWord};
use simtide_protocol::ids::EpochMs;
use simtide_protocol::personalization::{Offer, OperatorEntry, Wish, read_offer, seal_wish};
use simtide_protocol::sms::{Address, PacketKind, Reference, Submit, UserData, segment};

use crate::device::{Device, Purpose, Running, State};
use crate::event::{Command, Menu, Prompt, UserAction};

/// The AID of the card's personalization application (`protocol/profiles/standard.toml`).
const APPLICATION: [u8; 8] = [0xA0, 0x00, 0x00, 0x05, 0x59, 0x10, 0x10, 0x05];

/// The application while it is used.
#[derive(Debug, Default)]
pub(crate) struct Application {
    step: Step,
    /// The logical channel, once it is open.
    channel: u8,
    /// The command that the card is to get next.
    next: Option<Vec<u8>>,
    service_number: String,
    operators: Vec<OperatorEntry>,
    chosen: Option<OperatorEntry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Step {
    #[default]
    Opening,
    Selecting,
    Reading,
    Choosing,
    Confirming,
    Sealing,
    Closing,
}

impl Device {
    /// A person wants to see the operators.
    pub(crate) fn open_application(&mut self) {
        if self.application.is_none() {
            // MANAGE CHANNEL, open (ETSI TS 102 221, 11.1.17): the basic channel stays as it is.
            let next = Some(vec![0x00, 0x70, 0x00, 0x00, 0x01]);
            self.application = Some(Box::new(Application { next, ..Application::default() }));
        }
    }

    /// What a person does while the application asks; gives it back where it does not.
    pub(crate) fn application_user(&mut self, now: EpochMs, action: UserAction) -> Option<UserAction> {
        // A question of the card goes first.
        let is_prompting = matches!(self.state, State::Running(Running::Prompting { .. }));
        let Some(application) = self.application.as_mut().filter(|_| !is_prompting) else {
            return Some(action);
        };
        match (application.step, &action) {
            (Step::Choosing, UserAction::Choose(number)) => {
                let place = usize::from(*number).checked_sub(1);
                application.chosen = place.and_then(|place| application.operators.get(place)).cloned();
                let Some(chosen) = &application.chosen else { return None };
                let text = format!("Change to {}?", chosen.name);
                application.step = Step::Confirming;
                self.commands.push_back(Command::Show(Prompt::Key { text, yes_no: true }));
            }
            (Step::Confirming, UserAction::Confirm) => {
                self.commands.push_back(Command::Clear);
                if let Some(chosen) = &application.chosen {
                    let wish = Wish { operator: chosen.id.clone(), at: Some(now) };
                    application.step = Step::Sealing;
                    application.say(seal_wish(&wish));
                }
            }
            (Step::Choosing | Step::Confirming, UserAction::Deny | UserAction::Back | UserAction::Cancel) => {
                self.commands.push_back(Command::Clear);
                self.close_application();
            }
            _ => return Some(action),
        }
        None
    }

    /// Gives the card the application's next command; `false` where there is none.
    pub(crate) fn offer_application(&mut self) -> bool {
        let Some(command) = self.application.as_mut().and_then(|application| application.next.take()) else {
            return false;
        };
        self.exchange(command, Purpose::Application);
        true
    }

    /// The card has answered.
    pub(crate) fn application_answered(&mut self, data: &[u8], status: StatusWord) {
        let Some(application) = self.application.as_mut() else { return };
        let succeeded = matches!(status.0 >> 8, 0x90 | 0x91);
        if application.step == Step::Closing {
            self.application = None;
            return;
        }
        if !succeeded {
            self.tell("The card does not offer other operators now.");
            return self.close_application();
        }
        match application.step {
            Step::Opening => {
                application.channel = data.first().copied().unwrap_or_default() & 0x03;
                application.step = Step::Selecting;
                application.say(CardCommand::new(0x00, 0xA4, 0x04, 0x0C).with_data(&APPLICATION).encode());
            }
            Step::Selecting => {
                application.step = Step::Reading;
                application.say(read_offer());
            }
            Step::Reading => self.offer_read(data),
            Step::Sealing => self.sealed(data),
            Step::Choosing | Step::Confirming | Step::Closing => {}
        }
    }

    fn offer_read(&mut self, data: &[u8]) {
        let Some(application) = self.application.as_mut() else { return };
        match Offer::parse(data) {
            Ok(offer) if !offer.operators.is_empty() => {
                let items = (1..).zip(offer.operators.iter().map(|entry| entry.name.clone())).collect();
                application.service_number = offer.service_number.unwrap_or_default();
                application.operators = offer.operators;
                application.step = Step::Choosing;
                let menu = Menu { title: format!("Operators for card {}", offer.card), items };
                self.commands.push_back(Command::Show(Prompt::List(menu)));
            }
            _ => {
                self.tell("The card does not offer other operators now.");
                self.close_application();
            }
        }
    }

    /// The sealed request leaves as the card's own messages do.
    fn sealed(&mut self, packet: &[u8]) {
        let number = self
            .application
            .as_ref()
            .map(|application| application.service_number.clone())
            .unwrap_or_default();
        let destination = Address::number(&number);
        let reference = Reference::after(self.next_reference.to_be_bytes()[3]);
        let parts = segment(packet, PacketKind::Command, reference).unwrap_or_default();
        let Ok(destination) = destination else { return self.close_application() };
        for part in parts {
            let Ok(user_data) = UserData::from_octets(part) else { continue };
            self.next_reference = self.next_reference.wrapping_add(1);
            let reference = self.next_reference;
            let message_reference = reference.to_be_bytes()[3];
            let tpdu = Submit::with_header(message_reference, destination.clone(), user_data).to_bytes();
            self.commands.push_back(Command::SubmitSms { reference, tpdu });
        }
        self.tell("The request is on its way.");
        self.close_application();
    }

    fn tell(&mut self, text: &str) {
        self.commands.push_back(Command::Show(Prompt::Note(text.to_owned())));
    }

    /// The channel is closed; without one there is nothing left to do.
    fn close_application(&mut self) {
        let Some(application) = self.application.as_mut() else { return };
        if application.channel == 0 {
            self.application = None;
            return;
        }
        application.step = Step::Closing;
        application.next = Some(vec![0x00, 0x70, 0x80, application.channel]);
    }
}

impl Application {
    /// A command on the application's own channel.
    fn say(&mut self, mut command: Vec<u8>) {
        command[0] |= self.channel;
        self.next = Some(command);
    }
}
