//! From steps to the plain secured data of packets: compact scripts for one application each.

use std::sync::Arc;

use simtide_protocol::apdu::{ApduError, Command};
use simtide_protocol::ids::Tar;
use simtide_protocol::poll_date::MarkPhase;
use simtide_protocol::profile::{Application, ApplicationKind, Profile};
use simtide_protocol::scp80::{CounterMode, Integrity, PorRequest, Spi};
use simtide_protocol::script::{ScriptError, compact};

use crate::content::{Content, ContentError, Failing, HexBytes, PreparedStep, RESERVED_BYTES};
use crate::poll::{mark_reading, mark_script};

/// Packets of one delivery at most.
pub const PORTIONS_MAX: usize = 256;
/// What a card reassembles at most, beside header and checksum.
pub const PORTION_BYTES_MAX: u32 = 4_000;

/// What one packet carries.
#[derive(Clone, PartialEq, Eq)]
pub struct Portion {
    /// The step of the content that it belongs to, from 0.
    pub step: u8,
    /// Receiver on the card.
    pub tar: Tar,
    /// Key set that seals it.
    pub key_set: u8,
    /// Security parameter indicator, both octets; always ciphered, with a cryptographic checksum in both directions.
    pub spi: u16,
    /// Plain secured data: a compact script.
    pub data: HexBytes,
    /// Number of commands in the script.
    pub commands: u16,
    /// That the only command finds nothing to delete is no failure.
    pub may_find_nothing: bool,
    /// What follows when a command of it fails.
    pub failing: PortionFailing,
    /// It was handed in sealed: what is in it is not known here.
    pub handed: Option<Handed>,
    /// How to find out what became of it where its answer is lost; `None`: it may be sent once more, or nothing tells.
    pub marks: Option<Arc<Marks>>,
}

/// The marks of a content that is not repeatable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// What they carry as their campaign.
    pub number: u32,
    /// What reads the mark: repeatable, and answered with it.
    pub question: Portion,
}

/// A packet that was handed in sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handed {
    /// The counter in it.
    pub counter: u64,
    /// Its length.
    pub bytes: u16,
}

impl Portion {
    /// Short messages that the packet takes, about: the profile's checksum and block sizes differ little.
    pub(super) fn sms_parts(&self) -> u8 {
        /// Header, counter, checksum and padding of a packet, at most.
        const OVERHEAD_BYTES: usize = 48;
        /// User data of a single message and of a part of several, without their headers.
        const SINGLE_BYTES: usize = 137;
        const PART_BYTES: usize = 134;
        let size = match self.handed {
            Some(handed) => usize::from(handed.bytes),
            None => self.data.0.len() + OVERHEAD_BYTES,
        };
        if size <= SINGLE_BYTES { 1 } else { u8::try_from(size.div_ceil(PART_BYTES)).unwrap_or(u8::MAX) }
    }

    /// A packet that was handed in sealed, as its clear part says. Without any step known to fail by itself, a failure
    /// ends its delivery.
    pub const fn handed_in(tar: Tar, key_set: u8, spi: u16, handed: Handed) -> Portion {
        Portion {
            step: 0,
            tar,
            key_set,
            spi,
            data: HexBytes(Vec::new()),
            commands: 0,
            may_find_nothing: false,
            failing: PortionFailing::Stop,
            handed: Some(handed),
            marks: None,
        }
    }
}

impl std::fmt::Debug for Portion {
    /// The size only: commands carry personal data.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Portion(TAR {}, {} commands, {} bytes)", self.tar, self.commands, self.data.0.len())
    }
}

/// What follows the failure of a portion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PortionFailing {
    /// The delivery has failed.
    #[default]
    Stop,
    /// The next step's first portion, so many places on, follows.
    GoOn(u16),
    /// This script for the same application follows, with so many commands; then the delivery has failed.
    Undo(HexBytes, u16),
}

/// Why something cannot be packed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The content cannot run on the card.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// There is nothing to do for cards of this profile.
    #[error("the content has nothing for cards of profile {0:?}: give a variant for it, or one named \"*\"")]
    Nothing(String),
    /// The application has no key set.
    #[error("the application with TAR {0} has no key set in the card's profile: add one")]
    KeySet(Tar),
    /// Less protection than a delivery has.
    #[error(
        "the profile's SPI {0:04X} of key set {1} is too weak for a delivery: it must cipher (bit 3 of the first \
         octet), and ask for a cryptographic checksum and for a proof of receipt with one: 1639 does"
    )]
    Weak(u16, u8),
    /// A command cannot stand in a compact script.
    #[error("command {0} cannot be sent in a packet: {1}")]
    Command(usize, ApduError),
    /// A command needs more than 255 bytes, or a script does not fit.
    #[error("a script cannot be sent in packets: {0}")]
    Script(#[from] ScriptError),
    /// Too many packets.
    #[error("the content takes {0} packets: give at most {PORTIONS_MAX}, or let the card poll for it")]
    TooMany(usize),
}

/// Makes the portions of a content for a card of this profile, in their order. Content that is not repeatable begins
/// and ends every step with the marks that polls write, so that a poll finds out what was executed: `number` is what
/// the marks carry.
pub fn pack(
    content: &Content,
    profile: &Profile,
    number: u32,
    packet_bytes_max: u32,
) -> Result<Vec<Portion>, PackError> {
    let limit = packet_bytes_max.min(PORTION_BYTES_MAX);
    // The content is cut for packets as it is cut for the bodies of polls.
    let limit = (limit + RESERVED_BYTES as u32).min(profile.scp81.script_bytes_max);
    let prepared = content.prepare_cut(profile, limit)?;
    let prepared = prepared.ok_or_else(|| PackError::Nothing(profile.name.to_string()))?;
    let mut portions = Vec::new();
    let question = if prepared.repeatable { None } else { question(profile) };
    let marks = question.map(|question| Arc::new(Marks { number, question }));
    for (place, step) in prepared.steps.iter().enumerate() {
        let marked = (!prepared.repeatable).then_some((number, place as u8));
        let of_step = step_portions(step, profile, place as u8, marked)?.into_iter();
        portions.extend(of_step.map(|portion| Portion { marks: marks.clone(), ..portion }));
        if portions.len() > PORTIONS_MAX {
            return Err(PackError::TooMany(portions.len()));
        }
    }
    Ok(portions)
}

fn step_portions(
    step: &PreparedStep,
    profile: &Profile,
    number: u8,
    marked: Option<(u32, u8)>,
) -> Result<Vec<Portion>, PackError> {
    let (tar, key_set, spi) = receiver(step, profile)?;
    let count = step.scripts.len();
    let mut portions = Vec::with_capacity(count);
    for (place, commands) in step.scripts.iter().enumerate() {
        let mark = |phase| {
            marked.map(|(number, at)| mark_script(profile, step, number, at, phase)).unwrap_or_default()
        };
        let before = if place == 0 { mark(MarkPhase::Begun) } else { Vec::new() };
        let after = if place + 1 == count { mark(MarkPhase::Done) } else { Vec::new() };
        let all = [before, commands.clone(), after].concat();
        let failing = match &step.failing {
            Failing::Stop => PortionFailing::Stop,
            Failing::GoOn => PortionFailing::GoOn((count - place) as u16),
            Failing::Undo(undo) => PortionFailing::Undo(HexBytes(script(undo)?), undo.len() as u16),
        };
        portions.push(Portion {
            step: number,
            tar,
            key_set,
            spi,
            data: HexBytes(script(&all)?),
            commands: all.len() as u16,
            may_find_nothing: place == 0 && step.first_may_find_nothing && commands.len() == 1,
            failing,
            handed: None,
            marks: None,
        });
    }
    Ok(portions)
}

/// Who receives a step, by which key set, how protected.
fn receiver(step: &PreparedStep, profile: &Profile) -> Result<(Tar, u8, u16), PackError> {
    let application = profile
        .applications
        .iter()
        .find(|application| application.aid == step.application)
        .or_else(|| profile.application(ApplicationKind::Isd));
    sealing(application, profile)
}

/// What reads the mark, where a packet may.
fn question(profile: &Profile) -> Option<Portion> {
    let (aid, commands) = mark_reading(profile)?;
    let application = profile.applications.iter().find(|application| application.aid == aid);
    let (tar, key_set, spi) = sealing(application, profile).ok()?;
    Some(Portion {
        step: 0,
        tar,
        key_set,
        spi,
        data: HexBytes(script(&commands).ok()?),
        commands: commands.len() as u16,
        may_find_nothing: false,
        failing: PortionFailing::Stop,
        handed: None,
        marks: None,
    })
}

/// TAR, key set and SPI of what is sent to an application.
fn sealing(application: Option<&Application>, profile: &Profile) -> Result<(Tar, u8, u16), PackError> {
    let tar = application.map_or(Tar([0; 3]), |application| application.tar);
    let key_set = application
        .and_then(|application| application.key_sets.first().copied())
        .ok_or(PackError::KeySet(tar))?;
    let spi = profile.key_set(key_set).ok_or(PackError::KeySet(tar))?.spi;
    if !is_strong(spi) {
        return Err(PackError::Weak(u16::from_be_bytes(spi.to_bytes()), key_set));
    }
    Ok((tar, key_set, u16::from_be_bytes(spi.to_bytes())))
}

/// Whether a packet so protected may carry a delivery: ciphered, with a cryptographic checksum and a counter that the
/// card holds against its own, and answered by a proof of receipt with a checksum.
pub fn is_strong(spi: Spi) -> bool {
    spi.ciphered()
        && matches!(spi.counter_mode(), CounterMode::Higher | CounterMode::ExactlyOneHigher)
        && spi.integrity() == Integrity::CryptographicChecksum
        && spi.por() == PorRequest::Always
        && spi.por_integrity() == Integrity::CryptographicChecksum
}

/// C-APDUs as a compact script.
pub fn script(commands: &[Vec<u8>]) -> Result<Vec<u8>, PackError> {
    let mut script = compact::Script::new();
    let parsed = commands
        .iter()
        .zip(1..)
        .map(|(command, number)| Command::parse(command).map_err(|error| PackError::Command(number, error)))
        .collect::<Result<Vec<_>, _>>()?;
    let Some((last, others)) = parsed.split_last() else { return Err(ScriptError::Empty.into()) };
    if parsed.iter().any(|command| command.data.len() > 255) {
        return Err(ScriptError::TooLarge(256).into());
    }
    others.iter().for_each(|command| script.push(command));
    Ok(script.finish_with(last)?)
}
