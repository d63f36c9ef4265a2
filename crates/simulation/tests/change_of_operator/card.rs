//! A card as small as a change of operator needs it: counters, one staged identity, the admin code, the guard.

use simtide_platform::subscription::{CardRefusal, CardSays, PacketKind};

/// What the user and the card's state make of a personalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Good,
    UserNo,
    UserSilent,
    /// The user answers after so many milliseconds; meanwhile the card says that it asks.
    Thinks(i64),
    /// The user thinks for ever and the device is reset meanwhile.
    ThinksAndReset,
    NoDisplay,
    WrongCode,
    Locked,
    /// Another change is under way at the first message.
    BusyOnce,
    Malformed,
}

/// What the card answers to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    pub says: CardSays,
    /// It wants to be reset when its proof has left.
    pub reset: bool,
}

/// The card.
#[derive(Debug)]
pub struct Card {
    pub identity: u8,
    pub counter: u64,
    guarded: bool,
    state: CardSays,
    mood: Mood,
    was_busy: bool,
    /// Times a personalization message was carried out up to the admin code.
    pub executed: u32,
}

impl Card {
    pub fn new(mood: Mood, guarded: bool) -> Card {
        Card {
            identity: 1,
            counter: 10,
            guarded,
            state: CardSays::Untouched(None),
            mood,
            was_busy: false,
            executed: 0,
        }
    }

    pub fn packet(&mut self, counter: u64, kind: PacketKind) -> Reply {
        if counter <= self.counter {
            // "Counter low".
            return Reply { says: CardSays::Silent, reset: false };
        }
        self.counter = counter;
        if kind == PacketKind::Fence {
            return Reply { says: self.state, reset: false };
        }
        if self.state != CardSays::Untouched(None) {
            // A change is carried out once; its answer is repeated.
            return Reply { says: self.state, reset: self.state == CardSays::Staged };
        }
        self.executed += 1;
        let refuse = |refusal| CardSays::Untouched(Some(refusal));
        let says = match self.mood {
            Mood::BusyOnce if !self.was_busy => {
                self.was_busy = true;
                return Reply { says: refuse(CardRefusal::Busy), reset: false };
            }
            Mood::Good | Mood::BusyOnce => CardSays::Staged,
            Mood::UserNo => refuse(CardRefusal::UserNo),
            Mood::UserSilent => refuse(CardRefusal::UserSilent),
            Mood::NoDisplay => refuse(CardRefusal::NoDisplay),
            Mood::WrongCode => refuse(CardRefusal::WrongCode),
            Mood::Locked => refuse(CardRefusal::Locked),
            Mood::Malformed => refuse(CardRefusal::Content),
            Mood::Thinks(_) | Mood::ThinksAndReset => CardSays::Asking,
        };
        self.state = says;
        Reply { says, reset: says == CardSays::Staged }
    }

    /// The user has agreed.
    pub fn agreed(&mut self) -> bool {
        let asking = self.state == CardSays::Asking;
        if asking {
            self.state = CardSays::Staged;
        }
        asking
    }

    pub fn reset(&mut self) {
        match self.state {
            CardSays::Staged => {
                self.identity = 2;
                self.state = CardSays::Active;
            }
            // The question is forgotten; its answer cannot come any more. The next message asks again.
            CardSays::Asking => {
                self.state = CardSays::Untouched(None);
                self.mood = Mood::Good;
            }
            _ => {}
        }
    }

    /// Identity 2 has authenticated: what the guarded card then reports.
    pub fn authenticated(&mut self) -> Option<CardSays> {
        let commits = self.guarded && self.identity == 2 && self.state == CardSays::Active;
        if commits {
            self.state = CardSays::Committed;
        }
        commits.then_some(CardSays::Committed)
    }

    /// The guard's time is over.
    pub fn guard_ends(&mut self) -> Option<CardSays> {
        let reverts = self.guarded && self.state == CardSays::Active;
        if reverts {
            (self.identity, self.state) = (1, CardSays::Reverted);
        }
        reverts.then_some(CardSays::Reverted)
    }

    pub fn is_committed(&self) -> bool {
        self.state == CardSays::Committed
    }

    pub fn is_waiting(&self) -> bool {
        matches!(self.state, CardSays::Asking | CardSays::Staged)
    }
}
