//! Where a card is reached: by its number, over the links of the operator whose subscriber it is now.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use simtide_protocol::ids::Msisdn;

use super::core::Core;
use crate::store::{Card, OperatorId, PacketKey};

/// Packets that go elsewhere than where their card is now, remembered at most; others are tried at the card's own place.
const ELSEWHERE_MAX: usize = 100_000;

/// Number and links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The number; `None`: the card has none.
    pub msisdn: Option<Msisdn>,
    /// Links that may carry it, by their places in the configuration.
    pub links: Vec<usize>,
}

/// Packets that look for their card in another network than the one that it is in as far as is known.
#[derive(Debug, Default)]
pub struct Addressing(Mutex<HashMap<PacketKey, (Msisdn, OperatorId)>>);

impl Addressing {
    /// This packet goes to a number of an operator, whatever the card's row says.
    pub fn set(&self, key: PacketKey, msisdn: Msisdn, operator: OperatorId) {
        let mut elsewhere = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if elsewhere.len() >= ELSEWHERE_MAX {
            elsewhere.clear();
        }
        elsewhere.insert(key, (msisdn, operator));
    }

    /// Where a packet goes.
    pub fn destination(&self, core: &Core, card: &Card, key: PacketKey) -> Destination {
        let elsewhere = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        match elsewhere {
            Some((msisdn, operator)) => Destination { msisdn: Some(msisdn), links: links(core, operator) },
            None => Destination { msisdn: card.record.msisdn, links: links(core, card.hot.operator) },
        }
    }
}

/// The links that reach an operator's subscribers: those that its settings name, else all.
pub fn links(core: &Core, operator: OperatorId) -> Vec<usize> {
    let catalogue = core.catalogue();
    let named = catalogue.operator(operator).and_then(|one| one.settings.as_ref());
    let named = named.map_or(&[][..], |settings| settings.smpp_links.as_slice());
    let links = core.config.smpp.links.iter().enumerate();
    links.filter(|(_, link)| named.is_empty() || named.contains(&link.name)).map(|(place, _)| place).collect()
}
