//! What waits for a card: everything that is available for it, held against what it is known to have.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use simtide_protocol::ids::{ChangeId, DeliveryId, Imsi};

use crate::card::CardView;
use crate::poll::{CardRow, CardRowStatus, StartedCampaign, offer};

/// What a card is known to have: from its rows, and from what its device says.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Facts, the campaigns that it has had among them.
    pub card: &'a CardView<'a>,
    /// Its owner.
    pub tenant: u32,
    /// What is written about it and single campaigns.
    pub rows: &'a [CardRow],
    /// The identity that its device has found on it.
    pub imsi: Option<Imsi>,
    /// Versions by name: `firmware`, `applet:A0000..`, `file:3F00/..`.
    pub versions: &'a BTreeMap<String, String>,
}

/// What is available.
#[derive(Debug, Clone, Copy)]
pub struct Available<'a> {
    /// The card's open change of operator, if a packet of it is to be sent or sent again, with the identity that it
    /// is to have afterwards.
    pub change: Option<(ChangeId, Option<Imsi>)>,
    /// Its open deliveries, oldest first.
    pub deliveries: &'a [DeliveryId],
    /// All started campaigns, with what their content provides.
    pub campaigns: &'a [(&'a StartedCampaign, &'a BTreeMap<String, String>)],
}

/// Something that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// A packet of a change of operator.
    Change(ChangeId),
    /// An open delivery.
    Delivery(DeliveryId),
    /// A campaign's content, for which there is no delivery yet.
    Campaign {
        /// The campaign's id.
        campaign: u32,
        /// Its number among the started ones.
        number: u32,
    },
}

/// What waits for a card, in the order in which it should get it: a change of operator decides who speaks to the card
/// afterwards and comes first, then deliveries by age, then campaigns as they were started.
///
/// A campaign that a poll has begun and not ended is left to polls: the card's mark decides what was executed. While
/// there is such a mark to be read, no content that writes marks goes by another bearer.
pub fn waiting(known: &Known<'_>, available: &Available<'_>) -> Vec<Waiting> {
    let mut found = Vec::new();
    if let Some((change, imsi)) = available.change
        && (imsi.is_none() || known.imsi != imsi)
    {
        found.push(Waiting::Change(change));
    }
    found.extend(available.deliveries.iter().copied().map(Waiting::Delivery));
    let mark_to_be_read = known.rows.iter().any(|row| matches!(row.status, CardRowStatus::Begun { .. }));
    let provided = |campaign: u32| {
        available
            .campaigns
            .iter()
            .find(|(started, _)| started.id == campaign)
            .is_some_and(|(_, provides)| has_all(known.versions, provides))
    };
    let campaigns = available.campaigns.iter().map(|(started, _)| *started);
    let offered = offer(known.card, known.tenant, campaigns, known.rows);
    let wanted = offered.work.into_iter().filter(|work| {
        let left_to_polls = work.unanswered.is_some() || (mark_to_be_read && !work.content.repeatable);
        work.runs && !left_to_polls && !provided(work.campaign)
    });
    found.extend(wanted.map(|work| Waiting::Campaign { campaign: work.campaign, number: work.number }));
    found
}

/// The versions that a card is known to have: what its device has seen on it, and where that says nothing, the latest
/// of what it was brought.
pub fn versions_on<'a>(
    seen: &BTreeMap<String, String>,
    brought: impl IntoIterator<Item = &'a BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    let mut versions: BTreeMap<String, String> = BTreeMap::new();
    for (name, version) in brought.into_iter().flatten() {
        let latest = versions.get(name);
        if latest.is_none_or(|latest| compare_versions(latest, version) == Ordering::Less) {
            versions.insert(name.clone(), version.clone());
        }
    }
    versions.extend(seen.iter().map(|(name, version)| (name.clone(), version.clone())));
    versions
}

/// Whether everything that is provided is there already, in this version or a later one. Content that provides
/// nothing by name is never there already.
pub fn has_all(versions: &BTreeMap<String, String>, provides: &BTreeMap<String, String>) -> bool {
    !provides.is_empty()
        && provides.iter().all(|(name, wanted)| {
            versions.get(name).is_some_and(|found| compare_versions(found, wanted) != Ordering::Less)
        })
}

/// Compares versions part by part: `1.10` is later than `1.9`, and `2` is the same as `2.0`. Parts that are not numbers
/// compare as texts.
pub fn compare_versions(one: &str, other: &str) -> Ordering {
    let mut ones = one.split(['.', '-', '_']);
    let mut others = other.split(['.', '-', '_']);
    loop {
        let (left, right) = match (ones.next(), others.next()) {
            (None, None) => return Ordering::Equal,
            (left, right) => (left.unwrap_or("0"), right.unwrap_or("0")),
        };
        let order = match (left.parse::<u64>(), right.parse::<u64>()) {
            (Ok(left), Ok(right)) => left.cmp(&right),
            _ => left.cmp(right),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}
