//! What a card says about a change: the data of the proof of receipt, and its status.

use super::identity::DIGEST_BYTES;
use crate::ids::ChangeId;
use crate::tlv::{Reader, find, push, push_with};

/// Changes that a card remembers; the oldest that is over is forgotten.
pub const CHANGES_MAX: usize = 4;

/// Tags of answer and status.
mod tag {
    pub(super) const CHANGE: u32 = 0x81;
    pub(super) const STATE: u32 = 0x8B;
    pub(super) const REFUSAL: u32 = 0x8C;
    pub(super) const AGREED: u32 = 0x8D;
    pub(super) const DIGEST: u32 = 0x8E;
    pub(super) const ATTEMPTS: u32 = 0x8F;
    pub(super) const ANSWER: u32 = 0xAB;
}

/// How far a change has come on the card.
///
/// | state | what the card is | what follows |
/// |---|---|---|
/// | unknown | identity 1; it has never heard of this change, or forgotten it | nothing |
/// | asking | identity 1; the user is being asked | staged, refused; unknown after a reset |
/// | staged | identity 1; identity 2 waits for the reset | active or trial, with the next reset |
/// | trial | identity 2; identity 1 is kept, a guarded swap | active once identity 2 has authenticated, else reverted |
/// | active | identity 2 | nothing: this is the end |
/// | reverted | identity 1 again | nothing: this is the end |
/// | refused | identity 1 | nothing: this is the end |
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Never heard of, or forgotten.
    Unknown,
    /// The user is being asked.
    Asking,
    /// Identity 2 becomes active with the next reset.
    Staged,
    /// Identity 2 is active and has not authenticated yet.
    Trial,
    /// Identity 2 is active for good.
    Active,
    /// Identity 1 has come back.
    Reverted,
    /// Nothing has changed and nothing will.
    Refused(Refusal),
}

/// Why a card refuses a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The admin code is wrong. Counted.
    WrongCode,
    /// Too many wrong codes: the card refuses everybody.
    Locked,
    /// The user said no.
    UserSaidNo,
    /// The user did not answer in time.
    NoAnswer,
    /// The user has to be asked and the device has no display.
    NoDisplay,
    /// The code is right, the content is not.
    Malformed,
    /// The identity or an option is more than this card can do.
    Unsupported,
    /// Another change is under way on this card. Not remembered: the same message may come again.
    Busy,
}

impl Refusal {
    /// All with their codes on the wire.
    pub const ALL: [(Self, u8); 8] = [
        (Self::WrongCode, 1),
        (Self::Locked, 2),
        (Self::UserSaidNo, 3),
        (Self::NoAnswer, 4),
        (Self::NoDisplay, 5),
        (Self::Malformed, 6),
        (Self::Unsupported, 7),
        (Self::Busy, 8),
    ];

    fn code(self) -> u8 {
        Self::ALL.iter().find(|(refusal, _)| *refusal == self).map_or(0, |(_, code)| *code)
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, other)| *other == code).map(|(refusal, _)| *refusal)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::WrongCode => "wrong admin code",
            Self::Locked => "locked after too many wrong admin codes",
            Self::UserSaidNo => "the user said no",
            Self::NoAnswer => "the user did not answer",
            Self::NoDisplay => "the user could not be asked: no display",
            Self::Malformed => "the message is malformed",
            Self::Unsupported => "the card cannot do what is asked",
            Self::Busy => "another change is under way",
        })
    }
}

impl State {
    /// Code on the wire, and the reason's where there is one.
    pub fn codes(self) -> (u8, Option<u8>) {
        match self {
            Self::Unknown => (0, None),
            Self::Asking => (1, None),
            Self::Staged => (2, None),
            Self::Trial => (3, None),
            Self::Active => (4, None),
            Self::Reverted => (5, None),
            Self::Refused(refusal) => (6, Some(refusal.code())),
        }
    }

    /// The state of these codes.
    pub fn from_codes(code: u8, refusal: Option<u8>) -> Option<Self> {
        Some(match (code, refusal) {
            (0, _) => Self::Unknown,
            (1, _) => Self::Asking,
            (2, _) => Self::Staged,
            (3, _) => Self::Trial,
            (4, _) => Self::Active,
            (5, _) => Self::Reverted,
            (6, Some(refusal)) => Self::Refused(Refusal::from_code(refusal)?),
            _ => return None,
        })
    }

    /// Whether nothing will change any more.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Active | Self::Reverted | Self::Refused(_))
    }
}

/// What a card says about one change; the second copy of a message is answered with the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Which change.
    pub change: ChangeId,
    /// How far it is.
    pub state: State,
    /// Whether the user has said yes on this device.
    pub agreed: bool,
}

/// Bytes that are no answer or status of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the card's answer is malformed or of another application: {0}")]
pub struct AnswerError(&'static str);

impl Answer {
    /// The bytes, inside their template.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        self.push(&mut out);
        out
    }

    fn push(&self, out: &mut Vec<u8>) {
        let (state, refusal) = self.state.codes();
        push_with(out, tag::ANSWER, |body| {
            push(body, tag::CHANGE, &self.change.to_bytes());
            push(body, tag::STATE, &[state]);
            if let Some(refusal) = refusal {
                push(body, tag::REFUSAL, &[refusal]);
            }
            if self.agreed {
                push(body, tag::AGREED, &[1]);
            }
        });
    }

    /// Reads [`Answer::encode`].
    ///
    /// # Errors
    /// The bytes are something else.
    pub fn parse(bytes: &[u8]) -> Result<Self, AnswerError> {
        Self::parse_body(find(bytes, tag::ANSWER).ok_or(AnswerError("no answer template"))?)
    }

    fn parse_body(body: &[u8]) -> Result<Self, AnswerError> {
        let byte = |tag| match find(body, tag) {
            Some([byte]) => Some(*byte),
            _ => None,
        };
        let change = find(body, tag::CHANGE).and_then(|change| change.try_into().ok());
        let state = byte(tag::STATE).and_then(|state| State::from_codes(state, byte(tag::REFUSAL)));
        Ok(Self {
            change: change.map(ChangeId::from_bytes).ok_or(AnswerError("no change"))?,
            state: state.ok_or(AnswerError("no state"))?,
            agreed: byte(tag::AGREED) == Some(1),
        })
    }
}

/// What a card remembers of changes, who it is, and how often the admin code may still be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The changes that it remembers, oldest first, at most [`CHANGES_MAX`].
    pub changes: Vec<Answer>,
    /// [`super::identity_digest`] of the identity that AUTHENTICATE serves.
    pub digest: [u8; DIGEST_BYTES],
    /// Attempts at the admin code that are left; 0: locked.
    pub attempts_left: u8,
}

impl Status {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        push(&mut out, tag::DIGEST, &self.digest);
        push(&mut out, tag::ATTEMPTS, &[self.attempts_left]);
        for change in &self.changes {
            change.push(&mut out);
        }
        out
    }

    /// Reads [`Status::encode`].
    ///
    /// # Errors
    /// The bytes are something else.
    pub fn parse(bytes: &[u8]) -> Result<Self, AnswerError> {
        let digest = find(bytes, tag::DIGEST).and_then(|digest| digest.try_into().ok());
        let Some([attempts_left]) = find(bytes, tag::ATTEMPTS) else {
            return Err(AnswerError("no attempts"));
        };
        let mut changes = Vec::new();
        for object in Reader::new(bytes) {
            let object = object.map_err(|_| AnswerError("objects"))?;
            if object.tag == tag::ANSWER {
                if changes.len() == CHANGES_MAX {
                    return Err(AnswerError("too many changes"));
                }
                changes.push(Answer::parse_body(object.value)?);
            }
        }
        Ok(Self { changes, digest: digest.ok_or(AnswerError("no digest"))?, attempts_left: *attempts_left })
    }

    /// How far a change is.
    pub fn state(&self, change: ChangeId) -> State {
        let mut changes = self.changes.iter().rev();
        changes.find(|answer| answer.change == change).map_or(State::Unknown, |answer| answer.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_reads_back() {
        let refused = Refusal::ALL.map(|(refusal, _)| State::Refused(refusal));
        let others =
            [State::Unknown, State::Asking, State::Staged, State::Trial, State::Active, State::Reverted];
        for state in refused.into_iter().chain(others) {
            let answer = Answer { change: ChangeId(9), state, agreed: state == State::Staged };
            assert_eq!(Answer::parse(&answer.encode()), Ok(answer));
        }
        for wrong in ["", "ab00", "ab0d8108000000000000000a8b0106", "9000"] {
            assert!(Answer::parse(&hex::decode(wrong).unwrap()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_status_tells_the_last_word_about_a_change() {
        let answer = |change, state| Answer { change: ChangeId(change), state, agreed: false };
        let status = Status {
            changes: vec![answer(1, State::Active), answer(2, State::Refused(Refusal::WrongCode))],
            digest: [7; 8],
            attempts_left: 4,
        };
        assert_eq!(Status::parse(&status.encode()), Ok(status.clone()));
        assert_eq!(status.state(ChangeId(1)), State::Active);
        assert_eq!(status.state(ChangeId(2)), State::Refused(Refusal::WrongCode));
        assert_eq!(status.state(ChangeId(3)), State::Unknown);
        for cut in 1..status.encode().len() - 1 {
            let read = Status::parse(&status.encode()[..cut]);
            assert!(read.is_err() || read.is_ok_and(|read| read.changes.len() < 2), "{cut}");
        }
    }
}
