//! A register of subscribers as a change of operator sees it, and everything that can be wrong with its answers.

use std::collections::{BTreeMap, BTreeSet};

use simtide_platform::subscription::{RegisterFault, Verb};
use simtide_protocol::ids::{ChangeId, Imsi};

/// What a register knows of one identity.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The change that it was reserved for; `None`: provisioned.
    pub change: Option<ChangeId>,
    /// It lets the identity in.
    pub access: bool,
    /// A network element has it.
    pub attached: bool,
}

/// One operator's register; idempotent by change, as the boundary demands.
#[derive(Debug, Default)]
pub struct Register {
    pub entries: BTreeMap<Imsi, Entry>,
    /// Changes whose identity was given back: what arrives later for them is refused.
    released: BTreeSet<ChangeId>,
    /// Some identity has attached at some time.
    pub has_seen: BTreeSet<Imsi>,
}

impl Register {
    pub fn accepts(&self, imsi: Imsi) -> bool {
        self.entries.get(&imsi).is_some_and(|entry| entry.access)
    }

    pub fn attach(&mut self, imsi: Imsi) {
        if let Some(entry) = self.entries.get_mut(&imsi) {
            entry.attached = true;
            self.has_seen.insert(imsi);
        }
    }

    pub fn reserve(&mut self, change: ChangeId, free: Imsi) -> Result<Imsi, RegisterFault> {
        if self.released.contains(&change) {
            return Err(RegisterFault::Conflict);
        }
        if let Some((imsi, _)) = self.entries.iter().find(|(_, entry)| entry.change == Some(change)) {
            return Ok(*imsi);
        }
        self.entries.insert(free, Entry { change: Some(change), access: false, attached: false });
        Ok(free)
    }

    pub fn carry_out(&mut self, verb: Verb, change: ChangeId, imsi: Imsi) -> Result<(), RegisterFault> {
        match (verb, self.entries.get_mut(&imsi)) {
            (Verb::Arm, None) => Err(RegisterFault::NotFound),
            (Verb::Arm | Verb::Release, Some(entry)) if entry.change != Some(change) => {
                Err(RegisterFault::Conflict)
            }
            (Verb::Arm, Some(entry)) => {
                entry.access = true;
                Ok(())
            }
            (Verb::Withdraw, Some(entry)) => {
                entry.access = false;
                Ok(())
            }
            (Verb::Withdraw, None) => Ok(()),
            (Verb::Retire, _) => {
                self.entries.remove(&imsi);
                Ok(())
            }
            (Verb::Release, _) => {
                self.entries.remove(&imsi);
                self.released.insert(change);
                Ok(())
            }
            (Verb::Reserve, _) => Err(RegisterFault::Refused),
        }
    }
}

/// How a register behaves at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    Unreachable,
    TimeoutBefore,
    TimeoutAfter,
    /// The request arrives an hour after its time-out.
    TimeoutLate,
    Twice,
    /// A copy of the request arrives an hour and another three days later.
    TwiceLate,
    Exists,
    ExistsDone,
    Absent,
    Refused,
    Exhausted,
    /// The answer to another request, this one carried out.
    AnotherAnswer,
    /// An identity outside the operator's range.
    Foreign,
    /// An identity that another card has.
    Taken,
    /// Carried out, with a key that is none: of 15 bytes, all zero.
    BadKey,
    /// An error body under 200, not carried out.
    ErrorBody,
}

impl Behaviour {
    pub const ALL: [Behaviour; 16] = [
        Behaviour::Unreachable,
        Behaviour::TimeoutBefore,
        Behaviour::TimeoutAfter,
        Behaviour::TimeoutLate,
        Behaviour::Twice,
        Behaviour::TwiceLate,
        Behaviour::Exists,
        Behaviour::ExistsDone,
        Behaviour::Absent,
        Behaviour::Refused,
        Behaviour::Exhausted,
        Behaviour::AnotherAnswer,
        Behaviour::Foreign,
        Behaviour::Taken,
        Behaviour::BadKey,
        Behaviour::ErrorBody,
    ];

    /// Whether it means something for the verb.
    pub fn fits(self, verb: Option<Verb>) -> bool {
        match self {
            Behaviour::Foreign | Behaviour::Taken | Behaviour::Exhausted | Behaviour::BadKey => {
                verb == Some(Verb::Reserve)
            }
            // A question about an identity is not carried out.
            Behaviour::TimeoutLate | Behaviour::TwiceLate | Behaviour::ExistsDone => verb.is_some(),
            _ => true,
        }
    }

    /// Whether repeating it for ever is a register that lies for ever: then only what the saga does is judged, not
    /// what the register holds at the end.
    pub fn lies(self) -> bool {
        matches!(
            self,
            Behaviour::AnotherAnswer
                | Behaviour::Exists
                | Behaviour::ExistsDone
                | Behaviour::Absent
                | Behaviour::Taken
                | Behaviour::BadKey
        )
    }
}

/// A fault to be played: at the first call of a verb (`None`: the question about identity 2), or at every call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub verb: Option<Verb>,
    pub behaviour: Behaviour,
    pub always: bool,
}

impl Fault {
    /// Every verb with every behaviour that means something, once and for ever.
    pub fn all() -> Vec<Fault> {
        let verbs =
            [Verb::Reserve, Verb::Arm, Verb::Withdraw, Verb::Retire, Verb::Release].map(Some).into_iter();
        let each = |verb: Option<Verb>| {
            let fitting = Behaviour::ALL.into_iter().filter(move |behaviour| behaviour.fits(verb));
            fitting.flat_map(move |behaviour| [false, true].map(|always| Fault { verb, behaviour, always }))
        };
        verbs.chain([None]).flat_map(each).collect()
    }
}
