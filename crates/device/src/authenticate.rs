//! AUTHENTICATE on behalf of the network, or of a server that lets the card answer for its device (3GPP TS 31.102, 7.1.2).

use std::collections::VecDeque;

use simtide_protocol::apdu::{Command as CardCommand, StatusWord};
use zeroize::ZeroizeOnDrop;

use crate::device::{Device, Purpose, State};
use crate::event::Command;

/// Most challenges that wait for the card.
pub const CHALLENGES_MAX: usize = 4;

/// Clause 7.1.2.1: tags of the answer.
const SUCCESS: u8 = 0xDB;
const SYNCHRONISATION_FAILURE: u8 = 0xDC;

/// A challenge that waits for the card.
#[derive(Debug)]
struct Challenge {
    id: u64,
    rand: [u8; 16],
    autn: [u8; 16],
}

/// Challenges, and what the card said to those that it has answered.
#[derive(Debug, Default)]
pub(crate) struct Challenges {
    waiting: VecDeque<Challenge>,
    answered: VecDeque<(u64, Authentication)>,
}

/// What the card says to a challenge. It holds keys: it is handed out once and shows nothing.
pub enum Authentication {
    /// The network is genuine.
    Success(AkaAnswer),
    /// The sequence number is not fresh.
    SynchronisationFailure {
        /// What tells the network the card's own number.
        auts: [u8; 14],
    },
    /// The card does not answer: `9862` the network is not genuine, `6982` a PIN is missing; `6F00` stands for a card that
    /// is not there or whose answer cannot be read.
    Refused(StatusWord),
}

/// RES and the keys. Wiped when dropped.
#[derive(ZeroizeOnDrop)]
pub struct AkaAnswer {
    /// RES, 4 to 16 bytes.
    pub res: Vec<u8>,
    /// CK.
    pub ck: [u8; 16],
    /// IK.
    pub ik: [u8; 16],
}

impl std::fmt::Debug for Authentication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Success(_) => f.write_str("Success(..)"),
            Self::SynchronisationFailure { .. } => f.write_str("SynchronisationFailure(..)"),
            Self::Refused(status) => write!(f, "Refused({status:?})"),
        }
    }
}

impl Authentication {
    const NO_CARD: Self = Self::Refused(StatusWord(0x6F00));

    /// Reads the card's answer.
    fn of(data: &[u8], status: StatusWord) -> Self {
        if !matches!(status.0 >> 8, 0x90 | 0x91) {
            return Self::Refused(status);
        }
        match data.split_first() {
            Some((&SUCCESS, rest)) => Self::success(rest).unwrap_or(Self::NO_CARD),
            Some((&SYNCHRONISATION_FAILURE, [14, auts @ ..])) => match auts.try_into() {
                Ok(auts) => Self::SynchronisationFailure { auts },
                Err(_) => Self::NO_CARD,
            },
            _ => Self::NO_CARD,
        }
    }

    /// RES, CK, IK, each with its length; Kc may follow.
    fn success(mut rest: &[u8]) -> Option<Self> {
        let mut field = || {
            let (length, after) = rest.split_first()?;
            let (value, after) = after.split_at_checked(usize::from(*length))?;
            rest = after;
            Some(value)
        };
        let (res, ck, ik) = (field()?, field()?, field()?);
        if !(4..=16).contains(&res.len()) {
            return None;
        }
        Some(Self::Success(AkaAnswer { res: res.to_vec(), ck: ck.try_into().ok()?, ik: ik.try_into().ok()? }))
    }
}

impl Device {
    /// Takes what the card said to the challenge with this id, once [`Command::Authenticated`] has told of it.
    pub fn take_authentication(&mut self, id: u64) -> Option<Authentication> {
        let place = self.challenges.answered.iter().position(|(answered, _)| *answered == id)?;
        self.challenges.answered.remove(place).map(|(_, authentication)| authentication)
    }

    pub(crate) fn challenge(&mut self, id: u64, rand: [u8; 16], autn: [u8; 16]) {
        let gone = matches!(self.state, State::Off | State::Failed);
        if gone || self.challenges.waiting.len() >= CHALLENGES_MAX {
            return self.authenticated(id, Authentication::NO_CARD);
        }
        self.challenges.waiting.push_back(Challenge { id, rand, autn });
    }

    /// Hands the next challenge to the card; `false` where none waits.
    pub(crate) fn offer_challenge(&mut self) -> bool {
        let Some(Challenge { id, rand, autn }) = self.challenges.waiting.pop_front() else { return false };
        if self.challenges.waiting.is_empty() {
            self.challenges.waiting = VecDeque::new();
        }
        let mut data = vec![16];
        data.extend_from_slice(&rand);
        data.push(16);
        data.extend_from_slice(&autn);
        // 3G security context. The USIM has been selected since the start of the card session.
        let command = CardCommand::new(0x00, 0x88, 0x00, 0x81).with_data(&data).encode();
        self.exchange(command, Purpose::Challenge(id));
        true
    }

    pub(crate) fn challenge_answered(&mut self, id: u64, data: &[u8], status: StatusWord) {
        self.authenticated(id, Authentication::of(data, status));
    }

    /// The card session is over: nobody answers the challenges of it any more.
    pub(crate) fn give_up_challenges(&mut self) {
        let asked = match &self.state {
            State::Waiting(exchange) => exchange.challenge(),
            _ => None,
        };
        let waiting = std::mem::take(&mut self.challenges.waiting);
        for id in asked.into_iter().chain(waiting.into_iter().map(|challenge| challenge.id)) {
            self.authenticated(id, Authentication::NO_CARD);
        }
    }

    fn authenticated(&mut self, id: u64, authentication: Authentication) {
        if self.challenges.answered.len() > CHALLENGES_MAX {
            // Nobody took it.
            self.challenges.answered.pop_front();
        }
        self.challenges.answered.push_back((id, authentication));
        self.commands.push_back(Command::Authenticated { id });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_cards() {
        let of = |text: &str, status| Authentication::of(&hex::decode(text).unwrap(), StatusWord(status));
        let (ck, ik) = ("11".repeat(16), "22".repeat(16));
        match of(&format!("db08a54211d5e3ba50bf10{ck}10{ik}080011223344556677"), 0x9000) {
            Authentication::Success(answer) => {
                assert_eq!(hex::encode(&answer.res), "a54211d5e3ba50bf");
                assert_eq!((answer.ck, answer.ik), ([0x11; 16], [0x22; 16]));
            }
            other => panic!("{other:?}"),
        }
        match of("dc0e13283782be7392d19e1e58bbe389", 0x9110) {
            Authentication::SynchronisationFailure { auts } => {
                assert_eq!(hex::encode(auts), "13283782be7392d19e1e58bbe389");
            }
            other => panic!("{other:?}"),
        }
        for (text, status) in [
            ("", 0x9862),
            ("", 0x9000),
            ("db", 0x9000),
            ("db03010203", 0x9000),
            ("dc0d13283782be7392d19e1e58bbe3", 0x9000),
            (&format!("db0310203010{ck}10{ik}"), 0x9000),
            (&format!("db0400112233{ck}10{ik}"), 0x9000),
        ] {
            assert!(matches!(of(text, status), Authentication::Refused(_)), "{text}");
        }
    }
}
