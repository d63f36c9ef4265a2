//! Why a content cannot run, and what to do about it.

use super::{COMMANDS_MAX, CONTENT_BYTES_MAX, STEPS_MAX, VARIANTS_MAX};
use simtide_protocol::apdu::ApduError;
use simtide_protocol::ids::Tar;
use simtide_protocol::profile::FilePath;
use simtide_protocol::ram::ContentCommandError;
use simtide_protocol::rfm::FileCommandError;

/// Why a content is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// There is no variant, or none has a step.
    #[error("the content has no steps: give at least one step in one variant")]
    Empty,
    /// Too many variants.
    #[error("the content has {0} variants: give at most {VARIANTS_MAX}")]
    Variants(usize),
    /// A variant for a profile that nobody knows.
    #[error(
        "variant {found:?}: no card profile has this name; known are {known}, and \"*\" stands for all others"
    )]
    Profile {
        /// The name of the variant.
        found: String,
        /// The profiles that there are.
        known: String,
    },
    /// Too many steps in a variant.
    #[error("variant {variant:?} has {found} steps: give at most {STEPS_MAX}")]
    Steps {
        /// The name of the variant.
        variant: String,
        /// How many it has.
        found: usize,
    },
    /// More bytes than one campaign may carry.
    #[error("the content has {0} bytes: split it into campaigns of at most {CONTENT_BYTES_MAX}")]
    TooLarge(usize),
    /// A step cannot run on cards of a profile.
    #[error("step {step} for cards of profile {profile}: {problem}")]
    Step {
        /// Position of the step, from 1.
        step: usize,
        /// The profile.
        profile: String,
        /// What is wrong with it.
        problem: StepError,
    },
}

/// Why a step cannot run on cards of a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// No application has the TAR.
    #[error("no application has TAR {found}: use one of {known}, or give these cards a variant of their own")]
    UnknownApplication {
        /// The TAR.
        found: Tar,
        /// The TARs of the profile.
        known: String,
    },
    /// The profile has no application for such an action.
    #[error(
        "the profile has no application for {0}: name one by \"tar\", or give these cards a variant of their own"
    )]
    NoApplication(&'static str),
    /// The action says nothing about the application.
    #[error("name the application that the script is for by \"tar\", six hex digits")]
    MissingTar,
    /// No commands.
    #[error("the step has no commands: give at least one")]
    NoCommands,
    /// Too many commands.
    #[error("the step has {0} commands: split it, {COMMANDS_MAX} are the most")]
    TooManyCommands(usize),
    /// A text is no C-APDU.
    #[error("command {number} is no C-APDU: {problem}")]
    Command {
        /// Position, from 1.
        number: usize,
        /// What is wrong with it.
        problem: ApduError,
    },
    /// A script that must stay whole does not fit one message.
    #[error(
        "the script has {found} bytes, cards of this profile take {limit} at once: split it into several steps"
    )]
    ScriptTooLarge {
        /// Its size.
        found: usize,
        /// What fits.
        limit: usize,
    },
    /// Offset and record at once.
    #[error("a file update has either an offset or a record: leave one of them out")]
    OffsetAndRecord,
    /// Record or offset do not suit the file.
    #[error("{path} is {structure}: {advice}")]
    Structure {
        /// The file.
        path: FilePath,
        /// What it is.
        structure: String,
        /// What to do.
        advice: &'static str,
    },
    /// The file commands do not go together.
    #[error(transparent)]
    File(#[from] FileCommandError),
    /// The content commands do not go together.
    #[error(transparent)]
    Applet(#[from] ContentCommandError),
    /// Privileges of a length that does not exist.
    #[error("privileges have {0} bytes: give 1 or 3")]
    Privileges(usize),
}
