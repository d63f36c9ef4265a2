//! What goes into the machine and what comes out.

use serde::{Deserialize, Serialize};
use simtide_protocol::apdu::StatusWord;
use simtide_protocol::ids::{CardId, ChangeId, EpochMs, Imsi, Msisdn};
use simtide_protocol::personalization as card;
use simtide_protocol::scp80::ResponseStatus;
use simtide_protocol::script::compact::Response;

/// Where a change stands; the table is in the documentation of [`super::Change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Waits for operator 1's consent, or its acknowledgement.
    Requested,
    /// Operator 1 has nothing against it; register 2 is asked for an identity.
    Authorised,
    /// Register 2 holds an identity without access.
    Reserved,
    /// Register 2 lets identity 2 in; nothing has left.
    Armed,
    /// The personalization message may be on its way, or on the card.
    Sent,
    /// Nobody can say whether the card took identity 2: fence and registers will tell.
    Unknown,
    /// The card has proven that it took identity 2.
    Applied,
    /// Register 2 has seen identity 2.
    Attached,
    /// Register 1 no longer lets identity 1 in.
    Withdrawn,
    /// Register 1 has deleted identity 1.
    Retired,
    /// Everything is done and acknowledged.
    Done,
    /// The card has refused; identity 2 goes back.
    Refused,
    /// The guarded card has returned to identity 1; identity 2 goes back.
    Reverted,
    /// Given up with identity 1 proven on the card; identity 2 goes back.
    Failed,
    /// Cancelled in time; identity 2 goes back.
    Cancelled,
}

impl State {
    /// All states, in the order of their codes.
    pub const ALL: [State; 15] = [
        State::Requested,
        State::Authorised,
        State::Reserved,
        State::Armed,
        State::Sent,
        State::Unknown,
        State::Applied,
        State::Attached,
        State::Withdrawn,
        State::Retired,
        State::Done,
        State::Refused,
        State::Reverted,
        State::Failed,
        State::Cancelled,
    ];

    /// Code in rows.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// State of a code.
    pub fn from_code(code: u8) -> Option<State> {
        State::ALL.get(usize::from(code)).copied()
    }

    /// Whether the change has ended without success, or is about to.
    pub const fn is_closing(self) -> bool {
        matches!(self, State::Refused | State::Reverted | State::Failed | State::Cancelled)
    }

    /// Name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            State::Requested => "requested",
            State::Authorised => "authorised",
            State::Reserved => "reserved",
            State::Armed => "armed",
            State::Sent => "sent",
            State::Unknown => "unknown",
            State::Applied => "applied",
            State::Attached => "attached",
            State::Withdrawn => "withdrawn",
            State::Retired => "retired",
            State::Done => "done",
            State::Refused => "refused",
            State::Reverted => "reverted",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }
}

/// Why a change ended without success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Operator 1 has said no.
    ConsentDenied,
    /// Operator 1 has not answered in time.
    ConsentMissing,
    /// Register 2 has no identity to give, or refuses.
    RegisterRefused,
    /// Register 2 could not be reached, or gave nothing usable, as often as it was asked.
    RegisterFailed,
    /// Register 2 gave an identity outside the operator's ranges.
    ForeignIdentity,
    /// Register 2 gave an identity that another card has: an alarm.
    IdentityTaken,
    /// The card has refused.
    Card(CardRefusal),
    /// The card has not taken the message, as often as it was sent.
    NotDelivered,
    /// Somebody has cancelled it.
    Cancelled,
    /// Identity 2 was not let in, and the guarded card returned.
    Reverted,
}

/// What a card refuses for, in its authenticated answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CardRefusal {
    /// The user has said no.
    UserNo,
    /// The user has not answered.
    UserSilent,
    /// The device cannot ask the user.
    NoDisplay,
    /// The admin code is wrong.
    WrongCode,
    /// Too many wrong admin codes.
    Locked,
    /// The message cannot be executed.
    Content,
    /// The card cannot do it now.
    Busy,
}

impl CardRefusal {
    /// Whether the same message may be accepted later.
    pub const fn is_passing(self) -> bool {
        matches!(self, CardRefusal::Busy)
    }
}

/// What a card says about a change. A statement of the personalization application, authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CardSays {
    /// Identity 1 is active, and nothing of this change is staged or being asked; with the refusal, if there was one.
    Untouched(Option<CardRefusal>),
    /// The user is being asked.
    Asking,
    /// Identity 2 is staged: the next reset makes it active.
    Staged,
    /// Identity 2 is active; a guarded card still keeps identity 1.
    Active,
    /// The guarded card has committed to identity 2.
    Committed,
    /// The guarded card has returned to identity 1.
    Reverted,
    /// It answers, but does not say: status words without more, "counter low" of a second copy, an older application.
    Silent,
}

impl CardSays {
    /// From the state that the card's answer gives.
    pub const fn of_state(state: card::State, guarded: bool) -> CardSays {
        use card::Refusal as R;
        CardSays::Untouched(Some(match state {
            card::State::Unknown => return CardSays::Untouched(None),
            card::State::Asking => return CardSays::Asking,
            card::State::Staged => return CardSays::Staged,
            card::State::Trial => return CardSays::Active,
            card::State::Active if guarded => return CardSays::Committed,
            card::State::Active => return CardSays::Active,
            card::State::Reverted => return CardSays::Reverted,
            card::State::Refused(R::WrongCode) => CardRefusal::WrongCode,
            card::State::Refused(R::Locked) => CardRefusal::Locked,
            card::State::Refused(R::UserSaidNo) => CardRefusal::UserNo,
            card::State::Refused(R::NoAnswer) => CardRefusal::UserSilent,
            card::State::Refused(R::NoDisplay) => CardRefusal::NoDisplay,
            card::State::Refused(R::Malformed | R::Unsupported) => CardRefusal::Content,
            card::State::Refused(R::Busy) => CardRefusal::Busy,
        }))
    }

    /// From the card's authenticated answer to a packet of a change: response status and data of the proof. A card that
    /// has forgotten the change is told by its identity: `identity_2` is [`card::identity_digest`] of the new one, where
    /// it is known.
    pub fn of_proof(
        change: &super::Change,
        kind: PacketKind,
        status: ResponseStatus,
        data: &[u8],
        identity_2: Option<[u8; card::DIGEST_BYTES]>,
    ) -> CardSays {
        match status {
            ResponseStatus::PorOk => {}
            // Nothing on the card takes it, nor will take a copy.
            ResponseStatus::TarUnknown | ResponseStatus::SecurityLevel => {
                return CardSays::Untouched(Some(CardRefusal::Content));
            }
            _ => return CardSays::Silent,
        }
        let Ok(response) = Response::decode(data) else { return CardSays::Silent };
        if response.status != StatusWord::OK {
            return CardSays::Silent;
        }
        CardSays::of_answer(change, kind, &response.data, identity_2)
    }

    /// From what the application answers to the last command of the message, or to the question: the same, without the
    /// packet around it.
    pub fn of_answer(
        change: &super::Change,
        kind: PacketKind,
        data: &[u8],
        identity_2: Option<[u8; card::DIGEST_BYTES]>,
    ) -> CardSays {
        let guarded = change.terms.guard_s.is_some();
        if kind == PacketKind::Personalization {
            let answer = card::Answer::parse(data).ok().filter(|answer| answer.change == change.id);
            return answer.map_or(CardSays::Silent, |answer| CardSays::of_state(answer.state, guarded));
        }
        let Ok(status) = card::Status::parse(data) else { return CardSays::Silent };
        match status.state(change.id) {
            card::State::Unknown if identity_2 == Some(status.digest) => {
                CardSays::of_state(card::State::Active, guarded)
            }
            state => CardSays::of_state(state, guarded),
        }
    }
}

/// Which of a change's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PacketKind {
    /// Carries the personalization; its row has no data.
    Personalization,
    /// Harmless, with a higher counter: asks the application where the change stands; its row has the question.
    Fence,
}

/// Through whose network a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Party {
    /// Operator 1, with the card's old number.
    First,
    /// Operator 2, with its new one.
    Second,
}

/// What a register can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// An identity (register 2).
    Reserve,
    /// Access for identity 2 (register 2).
    Arm,
    /// No more access for identity 1 (register 1).
    Withdraw,
    /// Deletion of identity 1 (register 1).
    Retire,
    /// Return of identity 2 (register 2).
    Release,
}

/// Why a register did not do it; the kinds of the register boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegisterFault {
    /// Surely not done.
    Unreachable,
    /// May have been done.
    Unknown,
    /// There is no such identity.
    NotFound,
    /// It belongs to another change or card.
    Conflict,
    /// No identity is free.
    Exhausted,
    /// It understood and will not.
    Refused,
    /// Its answer is not one: error body under a success, bad key, another request's answer. May have been done.
    Invalid,
}

/// What a register handed out; the keys stay with the shell, sealed beside the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// IMSI2.
    pub imsi: Imsi,
    /// The new number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub msisdn: Option<Msisdn>,
}

/// Who has seen identity 2 in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SeenBy {
    /// Register 2, asked or by its own report.
    Register,
    /// The entitlement server: EAP-AKA with a vector of register 2.
    EapAka,
}

/// What operator 1 is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Notice {
    /// The card is about to leave.
    Before,
    /// The card has left: identity 1 can be deleted.
    After,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The clock: [`super::Change::due`] has come.
    Tick,
    /// The process has started again: what is open may not have been carried out.
    Restarted,
    /// Operator 1 has answered.
    Consent {
        /// Yes or no.
        granted: bool,
    },
    /// Operator 1 has acknowledged a notice.
    Acknowledged(Notice),
    /// Register 2 has answered to `Reserve`; keys checked and sealed, aliases claimed.
    Reserved {
        /// The change that the register names.
        change: ChangeId,
        /// The card that the register names, where it does.
        card: Option<CardId>,
        /// What it gave.
        identity: Identity,
        /// Whether the identity is within operator 2's ranges.
        owned: bool,
        /// Another card that has the identity or the number.
        taken_by: Option<CardId>,
    },
    /// A register has done it.
    Did {
        /// What.
        verb: Verb,
        /// For which identity: another one's answer moves nothing.
        imsi: Imsi,
    },
    /// A register has not done it.
    DidNot {
        /// What.
        verb: Verb,
        /// Why.
        fault: RegisterFault,
    },
    /// Register 2 was asked, or has reported, about identity 2.
    Seen {
        /// Which identity.
        imsi: Imsi,
        /// Register 2 has it.
        known: bool,
        /// It is attached.
        attached: bool,
        /// Who says so.
        by: SeenBy,
    },
    /// The commit has given a packet its counter.
    Queued {
        /// Which packet.
        kind: PacketKind,
        /// Its counter.
        counter: u64,
    },
    /// The commit has not reserved the packet: another one of the card is open. Nothing has left.
    NotQueued {
        /// Which packet.
        kind: PacketKind,
    },
    /// A packet's validity has ended without a proof, or the network has given it up. It may still arrive.
    Lost {
        /// Which packet.
        kind: PacketKind,
        /// Its counter.
        counter: u64,
    },
    /// The card has answered a packet, authenticated.
    Proof {
        /// Which packet.
        kind: PacketKind,
        /// Its counter.
        counter: u64,
        /// What it says.
        says: CardSays,
    },
    /// The card has said it otherwise, authenticated: by a message of its own with its uplink counter, or in a poll.
    Report(CardSays),
    /// A session of the card has begun; [`super::Change::poll_work`] says what it is to carry.
    PollOpened,
    /// What the card has said in that session; `None`: it is over without an answer.
    PollEnded {
        /// Its answer.
        says: Option<CardSays>,
    },
    /// The personalization packet would take too many short messages. Nothing has left.
    OnlyByPoll,
    /// Somebody wants to stop it.
    Cancel,
    /// Somebody wants to know now: retries and questions are made at once.
    Resolve,
}

/// What is to be done. [`Command::is_in_commit`] says which ones are operations of the same commit as the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Ask operator 1. Idempotent by the change.
    AskConsent,
    /// Tell operator 1; answered by [`Event::Acknowledged`]. Without a callback it counts as acknowledged.
    InformOperator1(Notice),
    /// Ask register 2 for an identity. Idempotent by the change.
    Reserve,
    /// Let identity 2 in at register 2.
    Arm(Imsi),
    /// Ask register 2 for identity 2.
    Watch(Imsi),
    /// Take the access of identity 1 away at register 1.
    Withdraw(Imsi),
    /// Delete identity 1 at register 1.
    Retire(Imsi),
    /// Give identity 2 back to register 2.
    Release(Imsi),
    /// In the commit: reserve the personalization packet. Answered by [`Event::Queued`] or [`Event::NotQueued`].
    SendPersonalization {
        /// 1, 2, 3, ...
        attempt: u8,
        /// End of its validity, seconds from now.
        validity_s: u32,
    },
    /// In the commit: abandon the change's open packets, then reserve the fence.
    Fence {
        /// 1, 2, 3, ...
        attempt: u8,
        /// Where the card is looked for.
        over: Party,
        /// End of its validity, seconds from now.
        validity_s: u32,
    },
    /// In the commit: identity 2 is the card's subscription now (`CardChange::Subscription`).
    Adopt(Identity),
    /// Afterwards: the aliases of the identity that the card has no longer are free.
    ForgetAliases {
        /// IMSI.
        imsi: Imsi,
        /// Number.
        msisdn: Option<Msisdn>,
    },
    /// Show the user a text, once, best effort.
    Tell(UserText),
    /// Tell people.
    Alarm(Alarm),
}

impl Command {
    /// Whether it is an operation of the commit that makes the change durable, not an effect after it.
    pub const fn is_in_commit(&self) -> bool {
        matches!(self, Command::SendPersonalization { .. } | Command::Fence { .. } | Command::Adopt(_))
    }
}

/// What a user is told on the device that the request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserText {
    /// Operator 1 or register 2 does not want it.
    NotPossible,
    /// It has not worked; nothing has changed.
    Failed,
    /// Cancelled.
    Cancelled,
}

impl UserText {
    /// For the display.
    pub const fn text(self) -> &'static str {
        match self {
            UserText::NotPossible => "The change of operator is not possible.",
            UserText::Failed => "The change of operator has failed. Nothing has changed.",
            UserText::Cancelled => "The change of operator was cancelled.",
        }
    }
}

/// What people must look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alarm {
    /// One identity on two cards.
    IdentityTaken {
        /// The identity.
        imsi: Imsi,
        /// The other card.
        by: CardId,
    },
    /// Register 2 does not know identity 2 although the card may have it.
    IdentityLost,
    /// A register keeps refusing what must be done.
    RegisterRefuses {
        /// What.
        verb: Verb,
    },
    /// The card took identity 2 and has not been seen for long.
    NotSeen,
    /// The card has not been heard of for long.
    NotHeard,
    /// Operator 1 has not acknowledged for long.
    NotAcknowledged,
    /// The card has refused its admin code.
    WrongAdminCode,
}

impl Alarm {
    /// Names of all kinds, in the order of [`Alarm::kind`].
    pub const NAMES: [&str; 7] = [
        "identity-taken",
        "identity-lost",
        "register-refuses",
        "not-seen",
        "not-heard",
        "not-acknowledged",
        "wrong-admin-code",
    ];

    /// Which kind, from 0.
    pub const fn kind(self) -> usize {
        match self {
            Alarm::IdentityTaken { .. } => 0,
            Alarm::IdentityLost => 1,
            Alarm::RegisterRefuses { .. } => 2,
            Alarm::NotSeen => 3,
            Alarm::NotHeard => 4,
            Alarm::NotAcknowledged => 5,
            Alarm::WrongAdminCode => 6,
        }
    }

    /// Name of the kind.
    pub const fn name(self) -> &'static str {
        Alarm::NAMES[self.kind()]
    }

    /// What it means and what to do, for people.
    pub const fn advice(self) -> &'static str {
        match self {
            Alarm::IdentityTaken { .. } => {
                "register 2 gave an identity or number that another card has: correct its pool before the next change"
            }
            Alarm::IdentityLost => {
                "register 2 does not know identity 2 although the card may have it: provision it there"
            }
            Alarm::RegisterRefuses { .. } => "a register keeps refusing what must be done: look at its log",
            Alarm::NotSeen => {
                "the card took identity 2 and was not seen in the network since: look at its device"
            }
            Alarm::NotHeard => "the card was not heard of for long: its device may be off or out of coverage",
            Alarm::NotAcknowledged => {
                "operator 1 does not acknowledge that its card has left: look at its callback"
            }
            Alarm::WrongAdminCode => {
                "the card refused its admin code: compare the vendor's file with the card"
            }
        }
    }
}

/// An alarm with the time when it was last raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Raised {
    /// When.
    pub at: EpochMs,
    /// What.
    pub alarm: Alarm,
}
