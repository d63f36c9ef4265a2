//! What a poll leaves behind, and what it asks of its shell.

use simtide_protocol::apdu::StatusWord;
use simtide_protocol::ids::EpochMs;
use simtide_protocol::scp81::{ContentType, ScriptStatus, TargetedApplication};
use simtide_protocol::script::expanded::BadFormat;
use std::fmt;

/// What happens in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The last [`Command::Commit`] is durable.
    Committed,
    /// The card has posted what became of the last script.
    Scripted {
        /// `X-Admin-Script-Status`.
        status: ScriptStatus,
        /// The response script; empty where the status is not ok.
        body: Vec<u8>,
    },
    /// The session is over before its end, or the shell gives up.
    Broken,
}

/// What the shell has to do next; one at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Make this durable in one commit, then give [`Event::Committed`] (unless the session is over).
    Commit(PollRecord),
    /// Answer the card with this script, then give [`Event::Scripted`] or [`Event::Broken`].
    Send(Script),
    /// Answer the card with 204: nothing more follows.
    Finish,
}

/// One script for the card.
#[derive(Clone, PartialEq, Eq)]
pub struct Script {
    /// For which application on the card.
    pub application: TargetedApplication,
    /// Remote application or file management.
    pub content_type: ContentType,
    /// The script in expanded format.
    pub body: Vec<u8>,
}

impl fmt::Debug for Script {
    /// The size only: scripts carry keys and personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Script({}, {} bytes)", self.application, self.body.len())
    }
}

/// What becomes durable together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PollRecord {
    /// The session has begun: the date of the next poll, which the card is going to be given. Stands in the first
    /// record of a session and in no other.
    pub begun: Option<EpochMs>,
    /// Steps that are not repeatable and may be on the card from now on.
    pub attempts: Vec<Attempt>,
    /// What is known now about campaigns on this card.
    pub outcomes: Vec<CampaignOutcome>,
    /// The session is over. Stands in the last record and in no other.
    pub ended: Option<Ended>,
}

/// A step that is not repeatable is about to be sent: if nothing follows, the card's mark decides. Steps before it
/// are settled. Replaces an earlier attempt of the campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// The campaign's id.
    pub campaign: u32,
    /// The step, from 0.
    pub step: u8,
}

/// What became of one campaign on this card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CampaignOutcome {
    /// The campaign's id.
    pub campaign: u32,
    /// Its number among the started ones.
    pub number: u32,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a campaign on a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every step was answered. The first failure that was let go by (`go_on`), if any.
    Done(Option<Failure>),
    /// A step failed; where there was an undo script, whether it ran to its end.
    Failed(Failure, Option<bool>),
    /// The step begun before the last dialogue broke, and did not end: for an operator to decide.
    Interrupted {
        /// The step, from 0.
        step: u8,
    },
    /// There is nothing to do for cards of this profile: settled.
    Nothing,
}

/// A step that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("step {}: {cause}", step + 1)]
pub struct Failure {
    /// The step, from 0.
    pub step: u8,
    /// Why.
    pub cause: FailureCause,
}

impl Failure {
    /// A status word that stands for the failure in rows: the card's own where it gave one, `6F00` otherwise.
    pub fn status_word(&self) -> StatusWord {
        match self.cause {
            FailureCause::Status { status, .. } => status,
            FailureCause::Refused(ScriptStatus::UnknownApplication) => StatusWord::NOT_FOUND,
            FailureCause::Refused(ScriptStatus::SecurityError) => StatusWord::SECURITY_STATUS,
            _ => StatusWord::TECHNICAL,
        }
    }
}

/// Why a step failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FailureCause {
    /// A command ended with this status word.
    #[error("command {command} ended with {status}")]
    Status {
        /// Position within the script, marks included, from 1.
        command: u16,
        /// What the card answered.
        status: StatusWord,
    },
    /// The card did not hand the script to the application.
    #[error("the card answered {}", .0.as_str())]
    Refused(ScriptStatus),
    /// The card could not read the script.
    #[error("the card refused the script: {0}")]
    BadFormat(BadFormat),
    /// Fewer answers than commands, and none of them says why.
    #[error("the card answered {answered} of {sent} commands")]
    Incomplete {
        /// Answers that came.
        answered: u16,
        /// Commands that were sent.
        sent: u16,
    },
    /// The answer is no response script.
    #[error("the card's answer could not be read")]
    Unreadable,
}

/// The end of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// It broke; the campaign under way is not recorded as anything.
    pub broken: bool,
    /// All campaign numbers up to this one are settled for the card; 0 leaves it.
    pub settled: u32,
    /// The date that the card has now, where it differs from the one reserved at the beginning.
    pub next_poll: Option<EpochMs>,
    /// Campaigns (ids) that this poll was to get and did not: they stay for the next one.
    pub not_offered: Vec<u32>,
}
