//! Cards and devices out of a vendor's file.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use simtide_agent::channel::OpensslChannels;
use simtide_agent::entitlement::TransportError;
use simtide_agent::personalization::{CardFileError, PersonalizationError, of_row, read_cards};
use simtide_card::Card;
use simtide_device::{Device, Kind};
use simtide_protocol::card_file::CardRow;
use simtide_protocol::ids::{EpochMs, Iccid};
use simtide_protocol::profile::Profile;

use super::slot::Slot;
use super::trace::Trace;
use super::uncovered::Asking;
use super::{CARDS_MAX, FirstPoll, Settings};

/// Why a fleet cannot start.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The file of cards.
    #[error(transparent)]
    File(#[from] CardFileError),
    /// One of its cards.
    #[error(transparent)]
    Card(#[from] PersonalizationError),
    /// A row names a profile that was not given.
    #[error("card {iccid} is of profile `{profile}`: give its file with --profile")]
    Profile {
        /// Which card.
        iccid: Iccid,
        /// The profile it names.
        profile: String,
    },
    /// A row names a kind of device that does not exist.
    #[error("card {iccid}: {reason}")]
    Kind {
        /// Which card.
        iccid: Iccid,
        /// Why.
        reason: String,
    },
    /// The way to the entitlement server.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// TLS cannot be set up.
    #[error("OpenSSL refuses the settings of TLS-PSK: {0}")]
    Tls(String),
    /// The record of APDUs cannot be written.
    #[error("the record of APDUs cannot be written: {0}")]
    Trace(std::io::Error),
}

/// What a fleet is put together from.
pub(super) struct Parts {
    pub slots: Vec<Mutex<Slot>>,
    pub by_iccid: HashMap<Iccid, u32>,
    pub channels: OpensslChannels,
    pub trace: Option<Trace>,
    /// The first device without coverage.
    pub first_uncovered: u32,
}

pub(super) fn build(settings: &Settings) -> Result<Parts, FleetError> {
    let mut slots = Vec::new();
    let mut by_iccid = HashMap::new();
    let count_max = settings.count_max.min(CARDS_MAX);
    let asking = settings.uncovered.as_ref().map(Asking::new).transpose()?;
    let count = match settings.first_poll {
        FirstPoll::File if asking.is_none() => 0,
        // Places in the order of the file need the number of cards first.
        _ => read_cards(&settings.cards, count_max, |_| Ok::<_, FleetError>(()))?,
    };
    let covered = count.saturating_sub(settings.uncovered.as_ref().map_or(0, |uncovered| uncovered.cards));
    read_cards(&settings.cards, count_max, |row| {
        let index = slots.len() as u64;
        let profile = profile_of(&row, &settings.profiles)?;
        let first_poll = match settings.first_poll {
            FirstPoll::File => row.next_poll,
            FirstPoll::Spread(start) => Some(place(start, profile.poll.period_s, index, count)),
        };
        let personalization = of_row(&row, profile, first_poll)?;
        let card = Card::personalised(profile.clone(), &personalization);
        let device = Device::new(device_settings(&row)?);
        let traced = settings.traced.contains(&row.iccid);
        by_iccid.insert(row.iccid, index as u32);
        let ip = asking.as_ref().filter(|_| index >= covered).map(|asking| asking.client(index as u32));
        slots.push(Mutex::new(Slot::new(row.iccid, device, card, ip, first_poll.is_some(), traced)));
        Ok::<_, FleetError>(())
    })?;
    slots.shrink_to_fit();
    by_iccid.shrink_to_fit();
    let channels = OpensslChannels::new().map_err(|error| FleetError::Tls(error.to_string()))?;
    let trace = settings.trace_file.as_deref().map(Trace::create).transpose().map_err(FleetError::Trace)?;
    // `CARDS_MAX` holds.
    let first_uncovered = if asking.is_some() { covered as u32 } else { u32::MAX };
    Ok(Parts { slots, by_iccid, channels, trace, first_uncovered })
}

/// The middle of the card's share of the period, so that the last card does not poll together with the first.
fn place(start: EpochMs, period_s: u32, index: u64, count: u64) -> EpochMs {
    let period_ms = u128::from(period_s) * 1_000;
    let at_ms = period_ms * u128::from(2 * index + 1) / u128::from(2 * count.max(1));
    // Within one period, which is 32 bits of seconds.
    start.plus_ms(at_ms as i64)
}

fn profile_of<'a>(row: &CardRow, profiles: &'a [Arc<Profile>]) -> Result<&'a Arc<Profile>, FleetError> {
    let named = |profile: &&Arc<Profile>| row.profile.as_ref().is_none_or(|name| *name == profile.name);
    profiles.iter().find(named).ok_or_else(|| FleetError::Profile {
        iccid: row.iccid,
        profile: row.profile.as_ref().map(ToString::to_string).unwrap_or_default(),
    })
}

fn device_settings(row: &CardRow) -> Result<simtide_device::Settings, FleetError> {
    let kind = match row.device_kind.as_deref() {
        None | Some("") => Kind::default(),
        Some(name) => name.parse().map_err(|error: simtide_device::UnknownKind| FleetError::Kind {
            iccid: row.iccid,
            reason: error.to_string(),
        })?,
    };
    Ok(simtide_device::Settings::of(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_lie_evenly_in_the_period() {
        let start = EpochMs(1_000_000);
        assert_eq!(place(start, 100, 0, 4), start.plus_ms(12_500));
        assert_eq!(place(start, 100, 3, 4), start.plus_ms(87_500));
        assert_eq!(place(start, 100, 0, 0), start.plus_ms(50_000));
    }
}
