//! The toolkit seen from the card: a queue of proactive commands, their terminal responses, the envelopes
//! (ETSI TS 102 223).
//!
//! Whoever on the card wants something of the device enqueues a [`Proactive`] under its [`Owner`] and is called
//! back with the [`TerminalResponse`]:
//!
//! | state | accepted | next |
//! |---|---|---|
//! | off: no TERMINAL PROFILE yet | commands are queued, `90 00` | idle, or waiting where something is queued |
//! | idle: nothing queued | everything | waiting, when something is queued |
//! | waiting: `91 xx` ends each command on channel 0 | FETCH | fetched |
//! | fetched: the device works on the command | TERMINAL RESPONSE | idle or waiting; the owner has been called |

mod command;
mod envelope;
mod response;

pub use command::{
    CHANNEL_DATA_MAX, DeviceEvent, LocalInformation, Proactive, ProactiveError, RefreshMode, TcpChannel,
    TimerAction,
};
pub use envelope::Envelope;
pub use response::{GeneralResult, TerminalResponse};

use simtide_protocol::apdu::StatusWord;
use std::collections::VecDeque;

/// Most proactive commands that wait at a time; then the card is busy (`93 00`).
pub const QUEUE_MAX: usize = 16;

/// Who asked for a proactive command, and is called with its terminal response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The card itself: nobody waits for the answer.
    Card,
    /// The receiver of secured packets.
    Ota,
    /// The agent of recurring polls.
    Poll,
    /// The personalization application.
    Personalization,
    /// What fetches packets over a channel.
    Fetcher,
}

/// The toolkit has no room: try again after some terminal responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{QUEUE_MAX} proactive commands wait already")]
pub struct QueueFull;

/// One queued command.
#[derive(Debug)]
struct Waiting {
    owner: Owner,
    token: u16,
    command: Proactive,
}

/// What was asked, given back with the answer.
#[derive(Debug)]
pub struct Answered {
    /// Who asked.
    pub owner: Owner,
    /// What the owner gave to tell its commands apart.
    pub token: u16,
    /// The command.
    pub command: Proactive,
}

/// The toolkit's volatile state; a reset clears it.
#[derive(Debug, Default)]
pub struct Toolkit {
    terminal_profile: Option<Vec<u8>>,
    queue: VecDeque<Waiting>,
    fetched: bool,
    number: u8,
}

impl Toolkit {
    /// Whether the device has sent TERMINAL PROFILE: before, nothing is proactive.
    pub fn is_active(&self) -> bool {
        self.terminal_profile.is_some()
    }

    /// Whether the device can do what bit `bit` (1 to 8) of byte `byte` (from 1) of its profile says
    /// (ETSI TS 102 223, 5.2).
    pub fn device_can(&self, byte: usize, bit: u8) -> bool {
        let profile = self.terminal_profile.as_deref().unwrap_or_default();
        profile.get(byte.wrapping_sub(1)).is_some_and(|flags| flags >> (bit - 1) & 1 == 1)
    }

    /// Queues a command.
    pub fn enqueue(&mut self, owner: Owner, token: u16, command: Proactive) -> Result<(), QueueFull> {
        if self.queue.len() >= QUEUE_MAX {
            return Err(QueueFull);
        }
        self.queue.push_back(Waiting { owner, token, command });
        Ok(())
    }

    /// Takes back what an owner has queued and the device has not fetched.
    pub fn withdraw(&mut self, owner: Owner) {
        let keep_first = self.fetched;
        let mut place = 0;
        self.queue.retain(|waiting| {
            let fetched = keep_first && place == 0;
            place += 1;
            fetched || waiting.owner != owner
        });
    }

    /// Whether an owner waits for an answer.
    pub fn waits(&self, owner: Owner) -> bool {
        self.queue.iter().any(|waiting| waiting.owner == owner)
    }

    /// Whether so many more commands can be queued.
    pub fn has_room_for(&self, commands: usize) -> bool {
        self.queue.len() + commands <= QUEUE_MAX
    }

    /// Whether the device works on a command.
    pub fn is_fetched(&self) -> bool {
        self.fetched
    }

    /// TERMINAL PROFILE: the device says what it can do; proactive commands may follow.
    pub(crate) fn start(&mut self, profile: &[u8]) {
        self.terminal_profile = Some(profile.to_vec());
        self.fetched = false;
        // The agent starts anew; what others want to send is still to be sent.
        self.queue.retain(|waiting| waiting.owner != Owner::Poll);
    }

    /// `90 00` of a command becomes `91 xx` where a proactive command waits (ETSI TS 102 221, 7.4.2).
    pub(crate) fn status(&mut self, status: StatusWord) -> StatusWord {
        if status != StatusWord::OK || !self.is_active() || self.fetched {
            return status;
        }
        match self.next_bytes() {
            // 256 bytes are said as 00.
            Some(bytes) => StatusWord::proactive(bytes.len() as u8),
            None => status,
        }
    }

    /// FETCH: the bytes of the first command, which is fetched from now on. A command that was fetched and never
    /// answered is given again.
    pub(crate) fn fetch(&mut self, le: u32) -> Result<Vec<u8>, StatusWord> {
        let bytes = self.next_bytes().ok_or(StatusWord::CONDITIONS)?;
        if (bytes.len() as u32) > le {
            return Err(StatusWord::wrong_le(bytes.len() as u8));
        }
        self.fetched = true;
        Ok(bytes)
    }

    /// TERMINAL RESPONSE to the fetched command.
    pub(crate) fn answered(&mut self, response: &TerminalResponse<'_>) -> Option<Answered> {
        if !self.fetched || response.number != self.number {
            return None;
        }
        self.fetched = false;
        self.number = next_number(self.number);
        let Waiting { owner, token, command } = self.queue.pop_front()?;
        Some(Answered { owner, token, command })
    }

    fn next_bytes(&mut self) -> Option<Vec<u8>> {
        if self.number == 0 {
            self.number = 1;
        }
        // A command that cannot be coded would block all others: it is dropped. Owners check sizes before.
        while let Some(first) = self.queue.front() {
            match first.command.encode(self.number) {
                Ok(bytes) => return Some(bytes),
                Err(_) => self.queue.pop_front(),
            };
        }
        None
    }
}

/// ETSI TS 102 223, 6.5.1: command numbers 01 to FE.
const fn next_number(number: u8) -> u8 {
    if number >= 0xFE { 1 } else { number + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(number: u8) -> Vec<u8> {
        vec![0x81, 0x03, number, 0x02, 0x00, 0x82, 0x02, 0x82, 0x81, 0x83, 0x01, 0x00]
    }

    #[test]
    fn a_command_waits_is_fetched_and_answered() {
        let mut toolkit = Toolkit::default();
        toolkit.enqueue(Owner::Ota, 7, Proactive::MoreTime).unwrap();
        assert_eq!(toolkit.status(StatusWord::OK), StatusWord::OK);
        toolkit.start(&[0xFF; 4]);
        assert!(toolkit.device_can(1, 8) && !toolkit.device_can(5, 1));
        assert_eq!(toolkit.status(StatusWord::OK), StatusWord(0x910B));
        assert_eq!(toolkit.status(StatusWord::NOT_FOUND), StatusWord::NOT_FOUND);
        assert_eq!(toolkit.fetch(5), Err(StatusWord(0x6C0B)));
        assert_eq!(hex::encode(toolkit.fetch(11).unwrap()), "d009810301020082028182");
        assert_eq!(toolkit.status(StatusWord::OK), StatusWord::OK);
        let other = answer(2);
        assert!(toolkit.answered(&TerminalResponse::parse(&other).unwrap()).is_none());
        let right = answer(1);
        let answered = toolkit.answered(&TerminalResponse::parse(&right).unwrap()).unwrap();
        assert_eq!((answered.owner, answered.token), (Owner::Ota, 7));
        assert_eq!(toolkit.fetch(256), Err(StatusWord::CONDITIONS));
    }

    #[test]
    fn the_queue_has_an_end_and_what_is_not_fetched_can_be_withdrawn() {
        let mut toolkit = Toolkit::default();
        toolkit.start(&[]);
        for _ in 0..QUEUE_MAX {
            toolkit.enqueue(Owner::Poll, 0, Proactive::MoreTime).unwrap();
        }
        assert_eq!(toolkit.enqueue(Owner::Ota, 0, Proactive::MoreTime), Err(QueueFull));
        toolkit.fetch(256).unwrap();
        toolkit.withdraw(Owner::Poll);
        assert!(toolkit.waits(Owner::Poll) && toolkit.has_room_for(QUEUE_MAX - 1));
        let right = answer(1);
        toolkit.answered(&TerminalResponse::parse(&right).unwrap()).unwrap();
        assert!(!toolkit.waits(Owner::Poll));
    }
}
