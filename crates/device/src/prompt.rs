//! What a card asks a person.

use simtide_protocol::ids::EpochMs;

use crate::device::{Device, Running, State};
use crate::event::{Command, Menu, Prompt, UserAction};
use crate::proactive::{Details, tag};
use crate::response::{Response, result};
use crate::text::encode_text;

/// Which answers fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A text that is to be read.
    Text,
    /// One key.
    Key,
    /// Yes or no.
    YesNo,
    /// A text within these lengths.
    Input { length_min: u8, length_max: u8 },
    /// One of these entries.
    Item(Vec<u8>),
}

/// Bits of the qualifier of GET INKEY and GET INPUT (ETSI TS 102 223, 8.6).
const ANY_CHARACTER: u8 = 0x01;
const WANTS_UCS2: u8 = 0x02;
const YES_NO: u8 = 0x04;
const HIDDEN: u8 = 0x04;
const PACKED: u8 = 0x08;

impl Device {
    /// DISPLAY TEXT (6.4.1): waits for the person where bit 8 says so.
    pub(crate) fn display_text(&mut self, now: EpochMs, details: Details, text: String, immediate: bool) {
        let wait = details.qualifier & 0x80 != 0 && !immediate;
        self.commands.push_back(Command::Show(Prompt::Text { text, wait }));
        if wait {
            self.prompt(now, details, Ask::Text);
        } else {
            self.respond(details, result::OK, &[]);
        }
    }

    /// GET INKEY (6.4.2).
    pub(crate) fn get_inkey(&mut self, now: EpochMs, details: Details, text: String) {
        let yes_no = details.qualifier & YES_NO != 0;
        self.commands.push_back(Command::Show(Prompt::Key { text, yes_no }));
        self.prompt(now, details, if yes_no { Ask::YesNo } else { Ask::Key });
    }

    /// GET INPUT (6.4.3).
    pub(crate) fn get_input(&mut self, now: EpochMs, details: Details, prompt: Prompt) {
        if let Prompt::Input { length_min, length_max, .. } = prompt {
            self.commands.push_back(Command::Show(prompt));
            self.prompt(now, details, Ask::Input { length_min, length_max });
        }
    }

    /// What a person sees of GET INPUT.
    pub(crate) fn input_prompt(details: Details, text: String, lengths: [u8; 2], default: String) -> Prompt {
        let [length_min, length_max] = lengths;
        let digits_only = details.qualifier & ANY_CHARACTER == 0;
        let hidden = details.qualifier & HIDDEN != 0;
        Prompt::Input { text, length_min, length_max, digits_only, hidden, default }
    }

    /// SELECT ITEM (6.4.9).
    pub(crate) fn select_item(&mut self, now: EpochMs, details: Details, menu: Menu) {
        let ids = menu.items.iter().map(|(id, _)| *id).collect();
        self.commands.push_back(Command::Show(Prompt::List(menu)));
        self.prompt(now, details, Ask::Item(ids));
    }

    fn prompt(&mut self, now: EpochMs, details: Details, ask: Ask) {
        let until = now.plus_s(i64::from(self.settings.user_answer_timeout_s));
        self.state = State::Running(Running::Prompting { details, ask, until });
    }

    /// A person answered. What does not fit the question is passed over, the question stays.
    pub(crate) fn user_answer(&mut self, _now: EpochMs, action: UserAction) {
        let State::Running(Running::Prompting { details, ask, .. }) = &self.state else { return };
        let details = *details;
        let response = match (ask, action) {
            (_, UserAction::Back) => Response::new(details, result::BACKWARD, &[]),
            (_, UserAction::Cancel) => Response::new(details, result::ENDED_BY_USER, &[]),
            (Ask::Text, UserAction::Confirm) => Response::new(details, result::OK, &[]),
            (Ask::YesNo, UserAction::Confirm) => answer(details, &[0x04, 0x01]),
            (Ask::YesNo, UserAction::Deny) => answer(details, &[0x04, 0x00]),
            (Ask::Key, UserAction::Enter(text)) if fits(&text, 1, 1, details) => {
                answer(details, &encode_text(&text, false, details.qualifier & WANTS_UCS2 != 0))
            }
            (Ask::Input { length_min, length_max }, UserAction::Enter(text))
                if fits(&text, *length_min, *length_max, details) =>
            {
                let (packed, ucs2) = (details.qualifier & PACKED != 0, details.qualifier & WANTS_UCS2 != 0);
                answer(details, &encode_text(&text, packed, ucs2))
            }
            (Ask::Item(ids), UserAction::Choose(item)) if ids.contains(&item) => {
                Response::new(details, result::OK, &[]).with(tag::ITEM_IDENTIFIER, &[item])
            }
            _ => return,
        };
        self.commands.push_back(Command::Clear);
        self.send_response(response);
    }
}

fn answer(details: Details, text: &[u8]) -> Response {
    let response = Response::new(details, result::OK, &[]);
    let room = response.room().min(text.len());
    response.with(tag::TEXT_STRING, &text[..room])
}

/// Whether a text has the right length and only characters that were asked for.
fn fits(text: &str, length_min: u8, length_max: u8, details: Details) -> bool {
    let count = text.chars().count();
    let long_enough = count >= usize::from(length_min);
    // FF means that there is no limit.
    let short_enough = length_max == 0xFF || count <= usize::from(length_max);
    let digit = |character: char| character.is_ascii_digit() || "*#+".contains(character);
    long_enough && short_enough && (details.qualifier & ANY_CHARACTER != 0 || text.chars().all(digit))
}
