//! A single command to a single card by SMS: reserved, sealed, sent, and proven by the card's receipt.

use simtide_platform::delivery::Evidence;
use simtide_protocol::ids::{CardId, EpochMs, Tar};
use simtide_protocol::profile::Profile;
use simtide_protocol::scp80::Spi;
use simtide_protocol::scp80::policy::{PolicyError, may_send};

use super::Platform;
use super::sealing::{self, SealingError};
use super::sending::Outgoing;
use crate::store::{
    Command, Op, Origin, Outcome, Packet, PacketChange, PacketKey, PacketState, PassedOver, StoreError,
    TenantId,
};

/// Largest plain secured data of a command.
pub const DATA_BYTES_MAX: usize = 4_096;
/// How long a command may be under way unless told otherwise, in seconds.
pub const VALIDITY_S: u32 = 3_600;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The card.
    pub card: CardId,
    /// Receiver on the card.
    pub tar: Tar,
    /// Plain secured data.
    pub data: Vec<u8>,
    /// Security parameter indicator; `None`: as the profile says for the key set.
    pub spi: Option<u16>,
    /// Key set; `None`: the first that may address the receiver.
    pub key_set: Option<u8>,
    /// How long the network may try.
    pub validity_s: u32,
}

/// Why a command is not sent.
#[derive(Debug, thiserror::Error)]
pub enum CommandRefused {
    /// No such card.
    #[error("there is no such card")]
    Unknown,
    /// Nobody is there to send it.
    #[error("no SMPP link is configured: add one under [[smpp.links]]")]
    NoLink,
    /// The card has no number.
    #[error("the card has no telephone number: import it with one")]
    NoNumber,
    /// The data is empty or too long.
    #[error("the data has {0} bytes: give 1 to {DATA_BYTES_MAX}")]
    Data(usize),
    /// The receiver.
    #[error("the card's profile has no application with TAR {0}: use one of its applications")]
    Receiver(Tar),
    /// Profile or keys.
    #[error(transparent)]
    Sealing(#[from] SealingError),
    /// What the platform does not send.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Another packet of the key set is open.
    #[error(
        "another packet of this key set is open: see the card's packets, wait for its proof, or abandon the command"
    )]
    OpenPacket,
    /// The counter is used up.
    #[error("the counter of the key set is used up: give the card another key set")]
    CounterExhausted,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reserves the command and hands it to the links. Answers its row.
pub async fn send(platform: &Platform, tenant: TenantId, wanted: Wanted) -> Result<Packet, CommandRefused> {
    let core = &platform.core;
    if !platform.outbox.has_links() {
        return Err(CommandRefused::NoLink);
    }
    if wanted.data.is_empty() || wanted.data.len() > DATA_BYTES_MAX {
        return Err(CommandRefused::Data(wanted.data.len()));
    }
    let card = core.store.card(wanted.card).await?.filter(|card| card.record.tenant == tenant);
    let card = card.ok_or(CommandRefused::Unknown)?;
    if card.record.msisdn.is_none() {
        return Err(CommandRefused::NoNumber);
    }
    let catalogue = core.catalogue();
    let profile = catalogue.profile(card.hot.profile).ok_or(SealingError::Profile)?;
    let (key_set, spi) = key_set_and_spi(profile, &wanted)?;
    let key = PacketKey { card: wanted.card, key_set, counter: 0 };
    let (security, keys) = sealing::protection(core, &card, profile, key_set, spi)?;
    let minimum = profile.application_by_tar(wanted.tar).map_or(Spi::new(0, 0), |one| one.minimum_spi);
    may_send(&security, &keys, minimum, sealing::waiver(profile))?;
    let at = core.now();
    let deadline: EpochMs = at.plus_s(i64::from(wanted.validity_s));
    let command = Command {
        card: wanted.card,
        key_set,
        origin: Origin::Request,
        tar: wanted.tar,
        spi,
        data: wanted.data.clone(),
        at,
        deadline,
    };
    let committed = core.commit_card(&wanted.card, vec![Op::Command(Box::new(command))]).await?;
    let counter = match committed.outcomes.first() {
        Some(Outcome::Counter(counter)) => *counter,
        Some(Outcome::PassedOver(PassedOver::OpenPacket)) => return Err(CommandRefused::OpenPacket),
        Some(Outcome::PassedOver(PassedOver::CounterExhausted)) => {
            return Err(CommandRefused::CounterExhausted);
        }
        _ => return Err(CommandRefused::Unknown),
    };
    let packet = Packet {
        key: PacketKey { counter, ..key },
        origin: Origin::Request,
        tar: wanted.tar,
        spi,
        state: PacketState::Queued,
        at,
        deadline,
        message_ids: Vec::new(),
        data: wanted.data,
    };
    platform.outbox.send(vec![Outgoing { packet: packet.clone(), card: Some(Box::new(card)) }]).await;
    Ok(packet)
}

/// Why a command is not abandoned.
#[derive(Debug, thiserror::Error)]
pub enum NotAbandoned {
    /// No such packet.
    #[error("there is no such command")]
    Unknown,
    /// It belongs to something that follows it.
    #[error("the packet is not a single command: end its campaign, change or delivery instead")]
    Followed,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Gives up a command whose proof does not come, so that it stands in nobody's way. It may have had its effect, and a
/// proof that still comes counts. Answers its row; one that is settled stays as it is.
///
/// # Errors
/// [`NotAbandoned`]; nothing has changed.
pub async fn abandon(platform: &Platform, key: PacketKey) -> Result<Packet, NotAbandoned> {
    let store = &platform.core.store;
    let packet = store.packet(key).await?.ok_or(NotAbandoned::Unknown)?;
    if packet.origin != Origin::Request {
        return Err(NotAbandoned::Followed);
    }
    if !packet.state.is_open() {
        return Ok(packet);
    }
    // In memory too, and out of the link's queue; the store lets nothing settled be overwritten.
    let _ = platform.flight.evidence(key, platform.core.now(), Evidence::Abandon);
    let state = PacketState::Abandoned;
    let change = PacketChange { key, state, message_ids: Vec::new(), deadline: None };
    platform.core.commit_card(&key.card, vec![Op::Packet(change)]).await?;
    store.packet(key).await?.ok_or(NotAbandoned::Unknown)
}

/// Key set and SPI: as asked for, else as the profile says.
fn key_set_and_spi(profile: &Profile, wanted: &Wanted) -> Result<(u8, u16), CommandRefused> {
    let receiver = profile.application_by_tar(wanted.tar).ok_or(CommandRefused::Receiver(wanted.tar))?;
    let first = receiver.key_sets.first().copied();
    let key_set = wanted.key_set.or(first).ok_or(SealingError::KeySet(0))?;
    let set = profile.key_set(key_set).ok_or(SealingError::KeySet(key_set))?;
    let spi = wanted.spi.unwrap_or_else(|| u16::from_be_bytes(set.spi.to_bytes()));
    Ok((key_set, spi))
}
