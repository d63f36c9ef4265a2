//! What a card has answered to a packet, and what that means for people.

use serde::{Deserialize, Serialize};
use simtide_protocol::apdu::StatusWord;
use simtide_protocol::scp80::ResponseStatus;
use simtide_protocol::script::compact;

use super::packing::Portion;

/// What a proof of receipt says: its status, and how far the script came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScriptAnswer {
    /// Response status code (ETSI TS 102 225, 5.2); FF: nothing was sent, the packet could not be sealed.
    pub status: u8,
    /// Commands that ran, the failing one included; `None`: the application has not said.
    pub executed: Option<u8>,
    /// Status word of the last command.
    pub word: Option<u16>,
}

impl ScriptAnswer {
    /// Nothing has left: keys or counters are missing.
    pub const NOT_SEALED: ScriptAnswer = ScriptAnswer { status: 0xFF, executed: None, word: None };
    /// The card says that it had the counter before.
    pub const COUNTER_LOW: ScriptAnswer = ScriptAnswer { status: 0x02, executed: None, word: None };
    /// It was begun, and nothing tells whether it came to its end: the answer is lost, or the card was switched off.
    pub const INTERRUPTED: ScriptAnswer = ScriptAnswer { status: 0xFE, executed: None, word: None };
    /// Accepted, without a word of the application.
    pub const OK: ScriptAnswer = ScriptAnswer { status: 0x00, executed: None, word: None };

    /// From the status and the application's answer, a compact response where there is one.
    pub fn read(status: ResponseStatus, data: &[u8]) -> ScriptAnswer {
        let response = compact::Response::decode(data).ok().filter(|_| status == ResponseStatus::PorOk);
        ScriptAnswer {
            status: status.code(),
            executed: response.as_ref().map(|response| response.executed),
            word: response.map(|response| response.status.0),
        }
    }

    /// A command failed in a poll, with this status word.
    pub const fn failed_with(word: u16) -> ScriptAnswer {
        ScriptAnswer { status: 0x00, executed: None, word: Some(word) }
    }

    /// Whether the answer proper is still to come.
    pub fn is_provisional(self) -> bool {
        use ResponseStatus::{MoreTime, ResponseFollows, ResponseFollowsUssd};
        [MoreTime, ResponseFollows, ResponseFollowsUssd].iter().any(|status| status.code() == self.status)
    }

    /// Whether an application has seen the script.
    pub const fn was_executed(self) -> bool {
        matches!(self.status, 0x00 | 0xFE)
    }

    /// Whether the card has had the counter before: an earlier copy has reached it, and every other one is dead, or the
    /// stored counter is behind the card's.
    pub const fn is_counter_low(self) -> bool {
        self.status == 0x02
    }

    /// Whether every command of the portion has run well.
    pub fn is_good(self, portion: &Portion) -> bool {
        if self.status != 0x00 {
            return false;
        }
        let Some(word) = self.word else { return true };
        let status = StatusWord(word);
        let well = status.is_success() || status.is_warning();
        let nothing_there = portion.may_find_nothing && matches!(word, 0x6A88 | 0x6A82);
        let all = portion.handed.is_some()
            || self.executed.is_none_or(|count| u16::from(count) == portion.commands.min(255));
        (well && all) || nothing_there
    }

    /// In words, with what to do about it.
    pub fn explained(self) -> String {
        let place = self.executed.map(|count| format!("command {count}")).unwrap_or("a command".to_owned());
        match (self.status, self.word) {
            (0x00, None) => "the card has executed it".to_owned(),
            (0x00, Some(word)) if StatusWord(word).is_success() => "the card has executed it".to_owned(),
            (0x00, Some(word)) => format!("{place} was answered with {word:04X}: {}", meaning(word)),
            (0x01, _) => {
                "the card could not verify the checksum: its keys are not those that are stored".into()
            }
            (0x02, _) => {
                "the card has had this counter before: an earlier copy has reached it, or the stored counter of the \
                 key set is behind the card's: raise it"
                    .into()
            }
            (0x03, _) => "the counter is too far ahead for the card".into(),
            (0x04, _) => "the card's counter is at its end: the card needs another key set".into(),
            (0x05, _) => "the card could not decipher it: its keys are not those that are stored".into(),
            (0x06, _) => "the card refused the protection without saying why".into(),
            (0x07, _) => {
                "the card has no room for it: make the packets smaller (delivery.packet_bytes_max)".into()
            }
            (0x09, _) => "no application on the card has this TAR: compare the card with its profile".into(),
            (0x0A, _) => {
                "the application asks for more protection: raise the SPI of the key set in the profile".into()
            }
            (0x08 | 0x0B | 0x0C, _) => "the card has it; its answer is still to come".into(),
            (0xFE, _) => {
                "it was begun on the card, and its answer is lost: nothing tells whether it came to its end".into()
            }
            (0xFF, _) => {
                "nothing was sent: the card lacks the key set, or its counter was used before".into()
            }
            (other, _) => format!("the card answered with status {other:02X}, which no standard names"),
        }
    }
}

/// Status words that remote management meets most (ETSI TS 102 221, 10.2; GlobalPlatform Card Specification, 11).
fn meaning(word: u16) -> &'static str {
    match word {
        0x6581 => "its memory has failed",
        0x6700 => "wrong length",
        0x6982 => "the application may not do this there: compare the access rules with its rights",
        0x6985 => "not possible now",
        0x6A80 => "wrong data",
        0x6A82 => "the file or application is not there",
        0x6A83 => "the record is not there",
        0x6A84 => "there is not enough memory",
        0x6A86 | 0x6B00 => "wrong parameters, or an offset beyond the end",
        0x6A88 => "what it names is not there",
        0x6D00 => "the card does not know the instruction",
        0x6E00 => "the card does not know the class",
        _ => "see the card's manual",
    }
}
