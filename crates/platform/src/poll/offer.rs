//! What a poll gets.

use crate::audience::Audience;
use crate::campaign::CampaignState;
use crate::card::CardView;
use crate::content::{Content, ContentError, Prepared};
use simtide_protocol::profile::Profile;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most campaigns that one poll gets; the rest stays for the next one.
pub const CAMPAIGNS_PER_POLL_MAX: usize = 64;

/// A campaign that has been started, with its content made ready for every profile. Made once, shared by all polls.
#[derive(Debug, Clone)]
pub struct StartedCampaign {
    /// Its id.
    pub id: u32,
    /// Its number among the started ones.
    pub number: u32,
    /// Whose cards.
    pub tenant: u32,
    /// Where it stands.
    pub state: CampaignState,
    /// Whom it concerns.
    pub audience: Audience,
    /// Whether its content may run twice.
    pub repeatable: bool,
    /// By name of the profile; a profile without an entry has nothing to do.
    prepared: BTreeMap<String, Arc<Prepared>>,
}

impl StartedCampaign {
    /// Makes a campaign's content ready for all profiles.
    ///
    /// # Errors
    /// The content cannot run on cards of one of the profiles. [`Content::check`] finds it before a start.
    pub fn new(
        campaign: &crate::campaign::Campaign,
        number: u32,
        content: &Content,
        profiles: &[&Profile],
    ) -> Result<Self, ContentError> {
        let mut prepared = BTreeMap::new();
        for profile in profiles {
            if let Some(content) = content.prepare(profile)? {
                prepared.insert(profile.name.as_str().to_owned(), Arc::new(content));
            }
        }
        Ok(Self {
            id: campaign.id,
            number,
            tenant: campaign.tenant,
            state: campaign.state,
            audience: campaign.audience.clone(),
            repeatable: content.repeatable,
            prepared,
        })
    }

    /// What cards of this profile get.
    pub fn prepared(&self, profile: &str) -> Option<&Arc<Prepared>> {
        self.prepared.get(profile)
    }
}

/// What is written about this card and one campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CardRow {
    /// The campaign's id.
    pub campaign: u32,
    /// What is the matter.
    pub status: CardRowStatus,
}

/// What is the matter with a card in a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardRowStatus {
    /// This step, not repeatable, was sent and never answered; the steps before it are settled.
    Begun {
        /// The step, from 0.
        step: u8,
    },
    /// The campaign never runs on this card again by itself: failed, interrupted, opted out.
    Closed,
}

/// What one poll gets, in the order in which it gets it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// Campaigns with something to do.
    pub work: Vec<Work>,
    /// Campaigns (id, number) with nothing to do for cards of this profile.
    pub nothing: Vec<(u32, u32)>,
    /// All campaign numbers up to this one are settled for the card, whatever this poll brings; 0: as before.
    pub settled: u32,
    /// Campaigns (ids) beyond [`CAMPAIGNS_PER_POLL_MAX`].
    pub left_over: Vec<u32>,
}

/// One campaign of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// The campaign's id.
    pub campaign: u32,
    /// Its number, which marks carry.
    pub number: u32,
    /// What is sent.
    pub content: Arc<Prepared>,
    /// The step that was sent before and never answered.
    pub unanswered: Option<u8>,
    /// The campaign may run now. Otherwise only the card's mark is read, before another campaign overwrites it.
    pub runs: bool,
}

/// What a poll of this card gets of the started campaigns, oldest first.
///
/// `campaigns` are all started ones that are not stopped for good, in any order and of any tenant; `rows` are what is
/// written about this card. `tenant` is the card's owner.
pub fn offer<'a>(
    card: &CardView<'_>,
    tenant: u32,
    campaigns: impl IntoIterator<Item = &'a StartedCampaign>,
    rows: &[CardRow],
) -> Offer {
    let mut own: Vec<_> = campaigns.into_iter().filter(|campaign| campaign.tenant == tenant).collect();
    own.sort_by_key(|campaign| campaign.number);
    let mut offer = Offer::default();
    // What is still open for the card, or might become so by a change of its tags or of the campaign's state.
    let open = |campaign: &&&StartedCampaign| {
        campaign.state != CampaignState::Stopped && !card.applied.has(campaign.number)
    };
    offer.settled = match own.iter().find(open) {
        Some(oldest) => oldest.number.saturating_sub(1),
        None => own.last().map_or(0, |newest| newest.number),
    };
    for campaign in own {
        let row = rows.iter().find(|row| row.campaign == campaign.id).map(|row| row.status);
        if row == Some(CardRowStatus::Closed) || card.applied.has(campaign.number) {
            continue;
        }
        let unanswered = match row {
            Some(CardRowStatus::Begun { step }) => Some(step),
            _ => None,
        };
        // A step that has begun is brought to its end even if the card has left the audience meanwhile.
        let concerned = campaign.audience.matches(card) || (unanswered.is_some() && card.state.takes_part());
        let runs = campaign.state.is_offered() && concerned;
        match campaign.prepared(card.profile) {
            None if runs => offer.nothing.push((campaign.id, campaign.number)),
            Some(_) if runs && offer.work.len() >= CAMPAIGNS_PER_POLL_MAX => {
                offer.left_over.push(campaign.id)
            }
            Some(content) if runs || unanswered.is_some() => offer.work.push(Work {
                campaign: campaign.id,
                number: campaign.number,
                content: content.clone(),
                unanswered,
                runs,
            }),
            _ => (),
        }
    }
    offer
}
