//! Who asked for a change, how the user agreed, and whether it may begin.

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::{CardId, ChangeId, EpochMs, Imsi, Msisdn};

use super::settings::{AgreementTerms, Bearer, ConsentRule, OperatorSettings};
use crate::card::CardState;

/// Wrong admin codes of a card, over all its changes since one succeeded, after which the platform begins no other.
pub const ADMIN_CODE_FAILURES_MAX: u8 = 3;
/// Seconds that operator 1 has for its answer.
pub const CONSENT_WITHIN_S: u32 = 3 * 24 * 3_600;
/// Seconds that a guarded card tries identity 2 before it returns to identity 1.
pub const GUARD_S: u32 = 15 * 60;

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The card's menu: the user chose the operator there.
    Menu,
    /// The user entered the code of the operator's leaflet.
    Code,
    /// The device's own personalization application.
    Device,
    /// Operator 2's contact center.
    ContactCenter,
    /// Operator 2's web site.
    WebSite,
    /// A campaign over many cards.
    Campaign,
    /// A user of the platform.
    Operator,
}

impl Way {
    /// Whether the user has confirmed on the device itself.
    pub const fn is_on_device(self) -> bool {
        matches!(self, Way::Menu | Way::Code | Way::Device)
    }
}

/// Longest reference of an agreement in bytes.
pub const REFERENCE_BYTES_MAX: usize = 64;
/// How far the clock of whoever has noted an agreement may be ahead, in milliseconds.
pub const AGREED_AHEAD_MS_MAX: i64 = 5 * 60_000;

/// The user's agreement, kept with the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// When the user agreed.
    pub agreed_at: EpochMs,
    /// How.
    pub way: Way,
    /// Name of the API token that asked; empty where the card did, authenticated by its OTA keys.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// The campaign that asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<u32>,
    /// Counter of the card's uplink request, where the card asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink_counter: Option<u64>,
    /// Reference of the operator's own records, for people; at most [`REFERENCE_BYTES_MAX`] bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reference: String,
}

/// One side of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// The operator, as numbered in the directory.
    pub operator: u32,
    /// Its code.
    pub id_mno: String,
    /// Its name as users see it.
    pub name: String,
}

/// What holds for this change: settings and agreement as they were when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// What operator 1 wants to hear.
    pub consent: ConsentRule,
    /// Until when it may answer, seconds from the request.
    pub consent_within_s: u32,
    /// The card asks the user before it takes the identity.
    pub ask_user: bool,
    /// Seconds after which a guarded card returns; `None`: not guarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard_s: Option<u32>,
    /// A successful EAP-AKA counts as the attach.
    pub eap_aka_counts_as_seen: bool,
    /// By which bearer the message goes.
    #[serde(default)]
    pub bearer: Bearer,
}

impl Terms {
    /// Agreement over operators' settings. The card asks the user where operator 2 wants it, unless the user has
    /// confirmed on the device already.
    pub fn of(from: &OperatorSettings, to: &OperatorSettings, agreed: &AgreementTerms, way: Way) -> Terms {
        let guarded = agreed.guarded_swap.unwrap_or(to.guarded_swap);
        Terms {
            consent: agreed.consent.unwrap_or(from.consent),
            consent_within_s: agreed.consent_within_s.unwrap_or(CONSENT_WITHIN_S),
            ask_user: agreed.confirm_by_user.unwrap_or(to.confirm_by_user) && !way.is_on_device(),
            guard_s: guarded.then_some(GUARD_S),
            eap_aka_counts_as_seen: to.eap_aka_counts_as_seen,
            bearer: agreed.bearer.unwrap_or(to.bearer),
        }
    }
}

/// A request that may begin: what [`super::Change::begin`] needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Names the change; random.
    pub id: ChangeId,
    /// IdSC.
    pub card: CardId,
    /// Where it leaves.
    pub from: Side,
    /// Its active identity.
    pub imsi: Imsi,
    /// Its number.
    pub msisdn: Option<Msisdn>,
    /// Where it goes.
    pub to: Side,
    /// What holds.
    pub terms: Terms,
    /// The user's agreement.
    pub evidence: Evidence,
}

/// What admission must know about a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its state.
    pub state: CardState,
    /// Its operator.
    pub operator: u32,
    /// Its active identity, where known.
    pub imsi: Option<Imsi>,
    /// Whether the platform has its admin code.
    pub has_admin_code: bool,
    /// Whether its profile has the personalization application.
    pub can_be_personalized: bool,
    /// The change that is open.
    pub open: Option<ChangeId>,
    /// Wrong admin codes since a change succeeded, see [`super::admin_code_failures`].
    pub admin_code_failures: u8,
}

/// Why a change does not begin. Said to whoever asked, on the device's display too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not in the store.
    #[error("the card is not known: check IdSC")]
    UnknownCard,
    /// No such code.
    #[error("no operator has this code: check IdMNO")]
    UnknownOperator,
    /// From and to are the same.
    #[error("the card is a subscriber of this operator already")]
    SameOperator,
    /// No agreement.
    #[error("the two operators have no agreement: make one first")]
    NoAgreement,
    /// Agreement suspended.
    #[error("the operators have suspended their agreement: try again later")]
    Suspended,
    /// One is open.
    #[error("change {0} of the card is open: wait for its end, or cancel it")]
    Open(ChangeId),
    /// Locked.
    #[error(
        "the card has refused its admin code {ADMIN_CODE_FAILURES_MAX} times: it is locked, see its vendor"
    )]
    Locked,
    /// Suspended or retired.
    #[error("the card is not active")]
    NotActive,
    /// No active identity known.
    #[error("the card's active identity is not known: import it")]
    NoIdentity,
    /// No admin code, or no applet.
    #[error("the card cannot be personalized over the air: it lacks the application or its admin code")]
    NotPossible,
    /// An uplink request whose counter was used.
    #[error("the request was used before")]
    Replayed,
    /// The token does not act for operator 2.
    #[error("this token may not ask for changes to this operator")]
    Forbidden,
}

impl Refusal {
    /// For a device's display.
    pub const fn text(self) -> &'static str {
        match self {
            Refusal::UnknownCard | Refusal::NotActive | Refusal::NoIdentity | Refusal::NotPossible => {
                "This card cannot change its operator."
            }
            Refusal::UnknownOperator => "No operator has this code.",
            Refusal::SameOperator => "You are with this operator already.",
            Refusal::NoAgreement | Refusal::Suspended | Refusal::Forbidden => {
                "A change to this operator is not possible."
            }
            Refusal::Open(_) => "A change is under way already.",
            Refusal::Locked => "This card is locked. Please ask your operator.",
            Refusal::Replayed => "Please send the request again.",
        }
    }
}

/// Whether a change may begin; `agreed`: terms between the card's operator and the wanted one.
pub fn admit(standing: Standing, to: u32, agreed: Option<&AgreementTerms>) -> Result<Imsi, Refusal> {
    if let Some(open) = standing.open {
        return Err(Refusal::Open(open));
    }
    if standing.state != CardState::Active {
        return Err(Refusal::NotActive);
    }
    if standing.operator == to {
        return Err(Refusal::SameOperator);
    }
    let agreed = agreed.ok_or(Refusal::NoAgreement)?;
    if agreed.suspended {
        return Err(Refusal::Suspended);
    }
    if standing.admin_code_failures >= ADMIN_CODE_FAILURES_MAX {
        return Err(Refusal::Locked);
    }
    if !standing.has_admin_code || !standing.can_be_personalized {
        return Err(Refusal::NotPossible);
    }
    standing.imsi.ok_or(Refusal::NoIdentity)
}
