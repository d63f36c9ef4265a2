//! From a PSK identity to the card and its key.
//!
//! An identity is as it was imported, or as the card's profile derives it from ICCID or EID. A stranger's takes the
//! same steps: two aliases, one card, one record opened.

use simtide_protocol::ids::{CardId, Eid, Iccid};
use simtide_protocol::profile::{ApplicationKind, Profile, PskIdentityForm};
use simtide_protocol::scp81::EuiccIdentity;

use super::core::Core;
use crate::card_port::Found;
use crate::store::{Alias, Card, PSK_IDENTITY_BYTES_MAX, StoreError};

/// Who an identity names by itself.
enum Named {
    Iccid(Iccid),
    Eid(Eid),
}

impl Named {
    fn read(identity: &[u8]) -> Option<Named> {
        let text = std::str::from_utf8(identity).ok()?;
        match text.parse::<Iccid>() {
            Ok(iccid) => Some(Named::Iccid(iccid)),
            Err(_) => text.parse::<EuiccIdentity>().ok().map(|identity| Named::Eid(identity.eid)),
        }
    }

    fn alias(&self) -> Alias {
        match self {
            Named::Iccid(iccid) => Alias::Iccid(*iccid),
            Named::Eid(eid) => Alias::Eid(*eid),
        }
    }

    fn card(&self) -> CardId {
        match self {
            Named::Iccid(iccid) => CardId::from(*iccid),
            Named::Eid(eid) => CardId::from(*eid),
        }
    }
}

/// The card of an identity and its key; `None` for a stranger, after as much work.
pub async fn find(core: &Core, identity: Vec<u8>) -> Result<Option<Found>, StoreError> {
    let stranger = core.stranger();
    let readable = identity.len() <= PSK_IDENTITY_BYTES_MAX;
    let named = Named::read(&identity).filter(|_| readable);
    let imported = if readable { Alias::PskIdentity(identity.clone()) } else { Alias::Eid(stranger) };
    let imported = core.store.find(imported).await?;
    let derived = named.as_ref().map_or(Alias::Eid(stranger), Named::alias);
    let derived = core.store.find(derived).await?.or(named.map(|named| named.card()));
    let id = imported.or(derived).unwrap_or(stranger.into());
    let card = core.store.card(id).await?;
    let card = card.filter(|card| imported.is_some() || is_derived(core, card, &identity));
    let Some(card) = card else {
        core.keyring.psk_of_nobody();
        return Ok(None);
    };
    match core.keyring.psk(&card.record) {
        Ok(Some(psk)) => Ok(Some(Found { card: id, eid: card.record.eid, psk })),
        Ok(None) => Ok(None),
        Err(error) => {
            tracing::error!(%error, "a card is refused");
            tracing::debug!(card = %id, "the card");
            Ok(None)
        }
    }
}

/// Whether this is what the card calls itself where the import has not named it.
fn is_derived(core: &Core, card: &Card, identity: &[u8]) -> bool {
    let catalogue = core.catalogue();
    let Some(profile) = catalogue.profile(card.hot.profile) else { return false };
    card.record.psk_identity.is_empty()
        && derived(profile, card).is_some_and(|derived| derived.eq_ignore_ascii_case(identity))
}

fn derived(profile: &Profile, card: &Card) -> Option<Vec<u8>> {
    let agent = profile.application(ApplicationKind::AdminAgent);
    match (profile.psk.identity_form, card.record.eid, agent) {
        (PskIdentityForm::Euicc, Some(eid), Some(agent)) => {
            let (key_id, key_version) = (profile.psk.key_id, profile.psk.key_version);
            let identity = EuiccIdentity { eid, aid: agent.aid, key_id, key_version };
            Some(identity.to_psk_identity().as_bytes().to_vec())
        }
        _ => card.record.iccid.map(|iccid| iccid.to_string().into_bytes()),
    }
}
