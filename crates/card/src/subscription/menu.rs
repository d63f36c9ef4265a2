//! The subscription menu: the user chooses an operator or types the code of its leaflet, confirms, and the request leaves.
//!
//! | state | accepts | next |
//! |---|---|---|
//! | idle | menu selection | choosing, or typing where there is no list |
//! | choosing | SELECT ITEM's answer | confirming, typing, idle |
//! | typing | GET INPUT's answer | confirming; idle with a word of why |
//! | confirming | GET INKEY's answer | timing on yes, idle otherwise |
//! | timing | date and time, where the device tells them | sending |
//! | sending | SEND SHORT MESSAGE's answer | idle, and the user is told |
//!
//! The device bounds every state but idle: it answers each command, with "no answer" where the user walks away.

use super::token;
use crate::card::Card;
use crate::toolkit::{LocalInformation, Owner, Proactive, TerminalResponse};
use simtide_protocol::ids::IdMno;
use simtide_protocol::personalization::{
    Consent, ConsentWay, NAME_BYTES_MAX, OperatorEntry, Request, Uplink,
};

/// The entry in the device's menu.
const ITEM: u8 = 1;
/// The last line of the list: a code is typed.
const OTHER: u8 = 0x7F;

/// Where the user is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Dialogue {
    #[default]
    Idle,
    Choosing(Vec<OperatorEntry>),
    Typing,
    Confirming(IdMno, ConsentWay),
    Timing(IdMno, ConsentWay),
    Sending,
}

impl Card {
    /// SET UP MENU, where the profile has one, the device too, and there is a number to send requests to.
    pub(super) fn set_up_menu(&mut self) {
        // ETSI TS 102 223, 5.2: byte 4, bit 6: SET UP MENU.
        let has_menu = self.profile.personalization.menu && self.session().toolkit.device_can(4, 6);
        if has_menu && self.can_ask() && self.service_number().is_some() {
            let items = vec![(ITEM, "Change operator".to_owned())];
            let menu = Proactive::SetUpMenu { title: "Subscription".into(), items };
            self.applet_enqueue(Owner::Personalization, token::MENU, menu);
        }
    }

    pub(super) fn menu_selected(&mut self, item: u8) {
        if item != ITEM || !self.profile.personalization.menu {
            return;
        }
        if self.has_open_change() {
            return self.show("A change of operator is under way already.");
        }
        // A dialogue that the device has left is begun anew.
        let operators = self.operators();
        // Byte 4, bit 1: SELECT ITEM.
        if operators.is_empty() || !self.session().toolkit.device_can(4, 1) {
            return self.ask_code();
        }
        // A command has 256 bytes: where long names are many, all are cut to what fits.
        let list = |characters: usize| {
            let name = |operator: &OperatorEntry| operator.name.chars().take(characters).collect();
            let lines = (1..).zip(&operators).map(|(place, operator)| (place, name(operator)));
            let items = lines.chain([(OTHER, "Code of a leaflet".to_owned())]).collect();
            Proactive::SelectItem { title: "New operator".into(), items }
        };
        let fits = (1..=NAME_BYTES_MAX).rev().find(|characters| list(*characters).encode(u8::MAX).is_ok());
        let Some(list) = fits.map(list) else { return self.ask_code() };
        self.session().applet.dialogue = Dialogue::Choosing(operators);
        self.applet_enqueue(Owner::Personalization, token::CHOICE, list);
    }

    fn ask_code(&mut self) {
        self.session().applet.dialogue = Dialogue::Typing;
        let text = "Code of the operator".into();
        let input = Proactive::GetInput { text, digits: false, length_min: 1, length_max: 16 };
        self.applet_enqueue(Owner::Personalization, token::CODE, input);
    }

    pub(super) fn menu_answered(&mut self, token: u16, response: &TerminalResponse<'_>) {
        let dialogue = std::mem::take(&mut self.session().applet.dialogue);
        match (dialogue, token) {
            (Dialogue::Timing(operator, way), token::TIME) => {
                self.send_request(operator, Consent { way, at: response.date_time() });
            }
            (Dialogue::Sending, token::REQUEST) => self.show(if response.is_done() {
                "Your request is on its way."
            } else {
                "Your request could not be sent. Please try again later."
            }),
            // The user went away or the device cannot.
            _ if !response.is_done() => {}
            (Dialogue::Choosing(operators), token::CHOICE) => match response.item() {
                Some(OTHER) => self.ask_code(),
                Some(place) => {
                    if let Some(chosen) = operators.get(usize::from(place).wrapping_sub(1)) {
                        self.confirm(chosen.id.clone(), &chosen.name, ConsentWay::Menu);
                    }
                }
                None => {}
            },
            (Dialogue::Typing, token::CODE) => {
                match response.text().and_then(|text| text.trim().parse::<IdMno>().ok()) {
                    Some(operator) => {
                        let known = self.operators().into_iter().find(|known| known.id == operator);
                        let name = known.map_or_else(|| operator.to_string(), |known| known.name);
                        self.confirm(operator, &name, ConsentWay::Code);
                    }
                    None => self.show("This is no code of an operator."),
                }
            }
            (Dialogue::Confirming(operator, way), token::CONFIRMATION) => {
                if response.text().is_some_and(|text| text.starts_with('\u{1}')) {
                    self.time_request(operator, way);
                }
            }
            // An answer to a dialogue that has been begun anew since.
            (dialogue, _) => self.session().applet.dialogue = dialogue,
        }
    }

    fn confirm(&mut self, operator: IdMno, name: &str, way: ConsentWay) {
        let text = format!("Become a subscriber of {name}?");
        self.session().applet.dialogue = Dialogue::Confirming(operator, way);
        let question = Proactive::GetInkey { text, yes_no: true };
        self.applet_enqueue(Owner::Personalization, token::CONFIRMATION, question);
    }

    /// When the user agreed is part of the agreement, where the device knows the time (byte 8, bit 3).
    fn time_request(&mut self, operator: IdMno, way: ConsentWay) {
        if !self.session().toolkit.device_can(8, 3) {
            return self.send_request(operator, Consent { way, at: None });
        }
        self.session().applet.dialogue = Dialogue::Timing(operator, way);
        let ask = Proactive::ProvideLocalInformation(LocalInformation::DateTime);
        self.applet_enqueue(Owner::Personalization, token::TIME, ask);
    }

    fn send_request(&mut self, operator: IdMno, consent: Consent) {
        let request = self.id().map(|card| Uplink::Request(Request { card, operator, consent }));
        if request.is_some_and(|request| self.send_uplink(&request, token::REQUEST)) {
            self.session().applet.dialogue = Dialogue::Sending;
        } else {
            self.show("Your request could not be sent. Please ask your operator.");
        }
    }
}
