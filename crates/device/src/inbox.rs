//! Short messages that wait for the card.

use std::collections::VecDeque;

use simtide_protocol::apdu::StatusWord;
use simtide_protocol::ids::EpochMs;

use crate::device::{BUSY_ATTEMPTS_MAX, BUSY_RETRY_S, Device, State};
use crate::event::{Command, Notice, SmsReport};

/// Most messages that wait. The network keeps what is refused.
pub const INBOX_MAX: usize = 32;

/// TP-FCS (3GPP TS 23.040, 9.2.3.22): memory capacity exceeded.
const CAUSE_MEMORY: u8 = 0xD3;
/// TP-FCS: toolkit busy.
pub(crate) const CAUSE_BUSY: u8 = 0xD4;
/// TP-FCS: data download error.
const CAUSE_DOWNLOAD: u8 = 0xD5;

/// One message from the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub id: u64,
    pub service_center: String,
    pub tpdu: Vec<u8>,
    attempts: u8,
}

impl Message {
    pub fn new(id: u64, service_center: String, tpdu: Vec<u8>) -> Self {
        Self { id, service_center, tpdu, attempts: 0 }
    }

    /// Whether this is a download to the card: protocol identifier 7F and class 2 (3GPP TS 31.111, 7.1.1.1).
    pub fn is_for_card(&self) -> bool {
        let digits = self.tpdu.get(1).map_or(0, |count| usize::from(*count));
        let at = 3 + digits.div_ceil(2);
        let (Some(&protocol), Some(&coding)) = (self.tpdu.get(at), self.tpdu.get(at + 1)) else {
            return false;
        };
        // 3GPP TS 23.038, 4: groups 00x1 and 1111 carry a class.
        let has_class = coding & 0xF0 == 0xF0 || coding & 0xD0 == 0x10;
        protocol == 0x7F && has_class && coding & 0x03 == 0x02
    }
}

/// The queue, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    messages: VecDeque<Message>,
}

impl Inbox {
    /// Takes a message, or gives it back where the queue is full.
    pub fn push(&mut self, message: Message) -> Result<(), Message> {
        if self.messages.len() >= INBOX_MAX {
            return Err(message);
        }
        self.messages.push_back(message);
        Ok(())
    }

    /// The first message, to be handed to the card once more.
    pub fn offer(&mut self) -> Option<&Message> {
        let message = self.messages.front_mut()?;
        message.attempts = message.attempts.saturating_add(1);
        Some(message)
    }

    /// How often the first message has been offered.
    pub fn attempts(&self) -> u8 {
        self.messages.front().map_or(0, |message| message.attempts)
    }

    /// The first message has been dealt with.
    pub fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front();
        if self.messages.is_empty() {
            self.messages = VecDeque::new();
        }
        message
    }

    /// Gives up everything.
    pub fn take(&mut self) -> VecDeque<Message> {
        std::mem::take(&mut self.messages)
    }
}

impl Device {
    pub(crate) fn sms(&mut self, message: Message) {
        if matches!(self.state, State::Off | State::Failed) {
            return self.report(message.id, SmsReport::Refused { cause: CAUSE_BUSY, data: Vec::new() });
        }
        if !message.is_for_card() {
            self.commands.push_back(Command::SmsReceived { tpdu: message.tpdu });
            return self.report(message.id, SmsReport::Accepted(Vec::new()));
        }
        if let Err(message) = self.inbox.push(message) {
            self.commands.push_back(Command::Notice(Notice::QueueFull));
            self.report(message.id, SmsReport::Refused { cause: CAUSE_MEMORY, data: Vec::new() });
        }
    }

    /// The card has answered the first message of the queue.
    pub(crate) fn sms_answered(&mut self, now: EpochMs, data: Vec<u8>, status: StatusWord, refused: bool) {
        let busy = status == StatusWord::TOOLKIT_BUSY;
        if busy && self.inbox.attempts() < BUSY_ATTEMPTS_MAX {
            self.busy_until = Some(now.plus_s(BUSY_RETRY_S));
            return;
        }
        let Some(message) = self.inbox.pop() else { return };
        let report = match status.0 >> 8 {
            0x90 | 0x91 if !refused => SmsReport::Accepted(data),
            _ if busy => {
                self.commands.push_back(Command::Notice(Notice::SmsUndeliverable));
                SmsReport::Refused { cause: CAUSE_BUSY, data }
            }
            _ => SmsReport::Refused { cause: CAUSE_DOWNLOAD, data },
        };
        self.report(message.id, report);
    }

    pub(crate) fn report(&mut self, id: u64, report: SmsReport) {
        self.commands.push_back(Command::ReportSms { id, report });
    }

    /// Another card than before the reset may lie in the device: it gets no messages of the first.
    pub(crate) fn keep_inbox_to_its_card(&mut self) {
        let before = self.last_card.replace(self.files);
        self.starts = self.starts.wrapping_add(1);
        if before.is_none_or(|before| before.is_same_card(&self.files)) {
            return;
        }
        for message in self.inbox.take() {
            self.report(message.id, SmsReport::Refused { cause: CAUSE_BUSY, data: Vec::new() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downloads_are_told_from_other_messages() {
        let of = |header: &str| Message::new(1, String::new(), hex::decode(header).unwrap()).is_for_card();
        // Five digits of address, then TP-PID and TP-DCS.
        assert!(of("4405812143f57ff6"));
        assert!(of("4405812143f57f16"));
        assert!(!of("4405812143f57f04"));
        assert!(!of("4405812143f500f6"));
        assert!(!of(""));
        assert!(!of("44ff"));
    }

    #[test]
    fn the_queue_is_full_at_its_maximum() {
        let mut inbox = Inbox::default();
        for id in 0..INBOX_MAX as u64 {
            assert!(inbox.push(Message::new(id, String::new(), Vec::new())).is_ok());
        }
        assert!(inbox.push(Message::new(99, String::new(), Vec::new())).is_err());
        assert_eq!(inbox.pop().map(|message| message.id), Some(0));
        assert!(inbox.push(Message::new(99, String::new(), Vec::new())).is_ok());
    }
}
