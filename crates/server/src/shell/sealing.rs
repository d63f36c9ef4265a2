//! From a packet's row to the bytes on the air. The same row always gives the same bytes, so a packet can be sent
//! again after a crash and its card accepts it at most once.

use std::num::NonZeroU8;

use simtide_platform::delivery::is_strong;
use simtide_protocol::ids::{ChangeId, Tar};
use simtide_protocol::profile::{ApplicationKind, Profile};
use simtide_protocol::scp80::policy::{PolicyError, Waiver, may_send};
use simtide_protocol::scp80::{self, CommandHeader, Counter, KeySet, SealError, Security, Spi};
use simtide_protocol::sms::{PacketKind, Reference, SegmentError, segment};
use simtide_protocol::trigger::{Trigger, TriggerError};
use zeroize::Zeroizing;

use super::core::Core;
use super::delivery::operator_keys::OperatorKeysError;
use super::delivery::ready::ready;
use super::keyring::KeyringError;
use super::subscription::personalization::{Carried, PersonalizationError};
use crate::store::{Card, CaseKind, Origin, Packet, PacketKey, StoreError};

/// Why a packet cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum SealingError {
    /// The card's profile is not there.
    #[error("the card's profile is not known: add it")]
    Profile,
    /// The profile or the card lacks the key set.
    #[error("there is no key set {0} for the card: import it with one")]
    KeySet(u8),
    /// The counter does not fit five bytes.
    #[error("the counter of the key set is used up: give the card another key set")]
    Counter,
    /// The card's keys cannot be opened.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// Less protection than a delivery has.
    #[error(
        "SPI {0:04X} is too weak for a delivery: it must cipher, carry a checksum and ask for a proof with one"
    )]
    Weak(u16),
    /// The change that the packet carries is not there, or another card's.
    #[error("the change of operator that the packet belongs to is not there")]
    Change,
    /// The packet that was handed in is not there, or another card's.
    #[error("the packet that was handed in for the card is not there")]
    Ready,
    /// The personalization cannot be read.
    #[error(transparent)]
    Personalization(#[from] PersonalizationError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operator keeps the keys, and its server did not seal.
    #[error(transparent)]
    Elsewhere(#[from] OperatorKeysError),
    /// What the platform does not send.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// It cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// It does not fit.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The trigger cannot be written.
    #[error(transparent)]
    Trigger(#[from] TriggerError),
}

/// The user data of the messages that carry a packet, in their order.
pub async fn seal(core: &Core, card: &Card, packet: &Packet) -> Result<Vec<Vec<u8>>, SealingError> {
    let sealed = sealed(core, card, packet).await?;
    Ok(segment(&sealed, PacketKind::Command, reference(packet.key))?)
}

/// The first layer: the command packet of a row, from its CPL on, as every bearer carries it.
pub async fn sealed(core: &Core, card: &Card, packet: &Packet) -> Result<Vec<u8>, SealingError> {
    let spi = Spi::from(packet.spi.to_be_bytes());
    if matches!(packet.origin, Origin::Delivery(_)) && !is_strong(spi) {
        return Err(SealingError::Weak(packet.spi));
    }
    match packet.origin {
        Origin::Change(change) if packet.data.is_empty() => {
            let data = personalization(core, card, change).await?;
            seal_data(core, card, packet, &data).await
        }
        Origin::Delivery(delivery) if packet.data.is_empty() => ready(core, card, packet, delivery).await,
        _ => seal_data(core, card, packet, &packet.data).await,
    }
}

/// The data of a packet that carries a personalization, from the sealed record of its change.
async fn personalization(
    core: &Core,
    card: &Card,
    change: ChangeId,
) -> Result<Zeroizing<Vec<u8>>, SealingError> {
    let case = core.store.case_of(card.record.id, CaseKind::Change, change.0).await?;
    let case = case.ok_or(SealingError::Change)?;
    let plain = core.keyring.open_change(change, &card.record, &case.sealed)?;
    Ok(Zeroizing::new(Carried::from_plain(&plain)?.script()?))
}

/// Here, or where the card's operator keeps its keys.
async fn seal_data(core: &Core, card: &Card, packet: &Packet, data: &[u8]) -> Result<Vec<u8>, SealingError> {
    let catalogue = core.catalogue();
    let profile = catalogue.profile(card.hot.profile).ok_or(SealingError::Profile)?;
    let trigger;
    let data = match packet.origin {
        Origin::Trigger(_) if data.is_empty() => {
            trigger = Trigger::Stored.encode(profile.scp81.retry_timer)?;
            &trigger
        }
        _ => data,
    };
    if let Some(elsewhere) = core.keys_elsewhere(card) {
        return Ok(elsewhere.seal(card, packet, data).await?);
    }
    let (security, keys) = protection(core, card, profile, packet.key.key_set, packet.spi)?;
    let minimum =
        profile.application_by_tar(packet.tar).map_or(Spi::new(0, 0), |application| application.minimum_spi);
    may_send(&security, &keys, minimum, waiver(profile))?;
    let counter = Counter::new(packet.key.counter).ok_or(SealingError::Counter)?;
    let header = CommandHeader { security, tar: packet.tar, counter };
    Ok(scp80::seal(&header, &keys, data)?)
}

/// Whether the card has what a packet to this receiver needs.
pub fn check(
    core: &Core,
    card: &Card,
    profile: &Profile,
    key_set: u8,
    spi: u16,
    tar: Tar,
) -> Result<(), SealingError> {
    if core.keys_elsewhere(card).is_some() {
        return Ok(());
    }
    let (security, keys) = protection(core, card, profile, key_set, spi)?;
    let minimum =
        profile.application_by_tar(tar).map_or(Spi::new(0, 0), |application| application.minimum_spi);
    Ok(may_send(&security, &keys, minimum, waiver(profile))?)
}

/// Which rules of sending the profile has lifted for its cards.
pub fn waiver(profile: &Profile) -> Waiver {
    let behaviour = profile.scp80;
    Waiver { single_des: behaviour.single_des_allowed, below_minimum: behaviour.below_minimum_allowed }
}

/// How a packet of a key set is protected, and with which keys of the card.
pub fn protection(
    core: &Core,
    card: &Card,
    profile: &Profile,
    key_set: u8,
    spi: u16,
) -> Result<(Security, KeySet), SealingError> {
    let definition = profile.key_set(key_set).ok_or(SealingError::KeySet(key_set))?;
    let sets = core.keyring.ota_keys(&card.record)?;
    let mut set = sets.into_iter().find(|set| set.index == key_set).ok_or(SealingError::KeySet(key_set))?;
    set.keys.cmac_length = definition.cmac_length;
    Ok((Security { spi: spi.to_be_bytes().into(), kic: set.kic, kid: set.kid }, set.keys))
}

/// Where a card takes triggers, and by which key set.
pub fn trigger_receiver(profile: &Profile) -> Option<(simtide_protocol::ids::Tar, u8)> {
    let agent = profile
        .application(ApplicationKind::AdminAgent)
        .or_else(|| profile.application(ApplicationKind::Isd))?;
    Some((agent.tar, *agent.key_sets.first()?))
}

/// Parts of neighbouring packets of a card must not be mixed up; a reference of 0 makes some cards fail.
fn reference(key: PacketKey) -> Reference {
    let number = (key.counter % 255) as u8;
    Reference::Narrow(NonZeroU8::new(number + 1).unwrap_or(NonZeroU8::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_profile_waives_and_nothing_else() {
        let mut profile = Profile::standard();
        assert_eq!(waiver(&profile), Waiver::default());
        profile.scp80.single_des_allowed = true;
        assert_eq!(waiver(&profile), Waiver { single_des: true, below_minimum: false });
        profile.scp80.single_des_allowed = false;
        profile.scp80.below_minimum_allowed = true;
        assert_eq!(waiver(&profile), Waiver { single_des: false, below_minimum: true });
    }
}
