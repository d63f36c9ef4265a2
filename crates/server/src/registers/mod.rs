//! Registers: where operators keep their subscribers. One trait with typed verbs, and what stands behind it.
//!
//! | module | holds |
//! |---|---|
//! | [`connect`] | from an operator's settings to its register |
//! | [`checked`] | the border: an answer is checked before anybody uses it |
//! | [`front`], [`pool`] | what stands in front of registers that hand out no identities |
//! | [`own`], [`sequence`], [`gsup_server`] | our own authentication centre |
//! | [`osmo_hlr`], [`gsup_client`] | OsmoHLR |
//! | [`pyhss`] | PyHSS |
//! | [`gateway`] | a register behind mutual TLS, both sides |
//! | [`memory`] | a register in memory with faults on request, for tests and simulations |
//! | [`algorithm`], [`http`], [`loopback`] | what they share |
//!
//! Every verb is idempotent: the change (or, for a first personalization, the card) is its key, and a verb that is
//! repeated answers as the first time. An effect whose outcome is not known is [`RegisterError::Unknown`]: ask again
//! with the same key.
//!
//! State of an identity in a register's pool:
//!
//! | state | verb | next |
//! |---|---|---|
//! | free | `reserve(change, card)` | reserved |
//! | reserved | `arm(change)` | assigned: the register lets it in |
//! | reserved, assigned | `release(change)` | free: keys forgotten where they were drawn for the change |
//! | assigned | `withdraw` | assigned, no access |
//! | assigned | `retire` | retired: deleted at the register, never handed out again |
//! | not there | `provision` | assigned |

pub mod algorithm;
pub mod checked;
pub mod connect;
pub mod front;
pub mod fuzz;
pub mod gateway;
pub mod gsup_client;
pub mod gsup_server;
pub mod http;
pub mod loopback;
pub mod memory;
pub mod osmo_hlr;
pub mod own;
pub mod pool;
pub mod pyhss;
pub mod sequence;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use simtide_protocol::aka::Vector;
use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
use simtide_protocol::ids::{CardId, ChangeId, Imsi, Msisdn};

use crate::store::OperatorId;

/// Vectors that one question may ask for.
pub const VECTORS_MAX: u8 = 5;

/// What a verb of a register answers.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, RegisterError>> + Send + 'a>>;

/// A register of subscribers (HLR, HSS, UDM) with its authentication centre, as a change of operator needs it.
pub trait Register: Send + Sync {
    /// What it is, for logs and messages: kind and address, never a secret.
    fn name(&self) -> String;

    /// Takes an identity out of the pool for a change, with keys drawn for it, and writes it without access. The same
    /// change again gets the same identity. [`RegisterError::Exhausted`] where nothing is free,
    /// [`RegisterError::Conflict`] where the change had been released.
    fn reserve(&self, change: ChangeId, card: CardId) -> Answer<'_, NewIdentity>;

    /// Lets the reserved identity in.
    fn arm(&self, change: ChangeId, imsi: Imsi) -> Answer<'_, ()>;

    /// Makes vectors. With a resynchronisation the MAC-S of the AUTS is checked before the number moves.
    fn vectors(&self, imsi: Imsi, wanted: VectorsWanted) -> Answer<'_, Vec<Vector>>;

    /// Whether the identity is known, and whether it has attached to a network element.
    fn watch(&self, imsi: Imsi) -> Answer<'_, Seen>;

    /// Takes the access away and tells the network element where the identity is attached. An identity that is not
    /// there has none: done.
    fn withdraw(&self, change: ChangeId, imsi: Imsi) -> Answer<'_, ()>;

    /// Deletes the identity for good. One that is not there is deleted: done.
    fn retire(&self, change: ChangeId, imsi: Imsi) -> Answer<'_, ()>;

    /// Gives the identity of a change back that no card ever took. A change without one is remembered, so that a
    /// reservation which arrives late is refused.
    fn release(&self, change: ChangeId, imsi: Imsi) -> Answer<'_, ()>;

    /// Writes the first subscription of a card, with access. The same again is done; another one under the same IMSI
    /// is a [`RegisterError::Conflict`].
    fn provision(&self, subscriber: Subscriber) -> Answer<'_, ()>;

    /// The state of the pool.
    fn pool(&self) -> Answer<'_, PoolState>;
}

/// What a register hands out for a change. Holds keys: no `Debug`.
#[derive(Clone)]
pub struct NewIdentity {
    /// The change that it is for, as the register says: it must be the one that was asked for.
    pub change: ChangeId,
    /// The new identity.
    pub imsi: Imsi,
    /// Algorithm of the authentication.
    pub algorithm: AuthenticationAlgorithm,
    /// Subscriber key: 16 bytes, or 32 with TUAK.
    pub k: Secret,
    /// OPc of Milenage (16 bytes) or TOPc of TUAK (32 bytes).
    pub opc: Secret,
    /// The new number, where there is one.
    pub msisdn: Option<Msisdn>,
}

/// A first subscription. Holds keys: no `Debug`.
#[derive(Clone)]
pub struct Subscriber {
    /// The card that carries it.
    pub card: CardId,
    /// Its identity.
    pub imsi: Imsi,
    /// Algorithm of the authentication.
    pub algorithm: AuthenticationAlgorithm,
    /// Subscriber key: 16 bytes, or 32 with TUAK.
    pub k: Secret,
    /// OPc of Milenage (16 bytes) or TOPc of TUAK (32 bytes).
    pub opc: Secret,
    /// Its number, where there is one.
    pub msisdn: Option<Msisdn>,
}

/// How many vectors, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VectorsWanted {
    /// At most [`VECTORS_MAX`].
    pub count: u8,
    /// RAND of the challenge that the card refused, and its AUTS (3GPP TS 33.102, 6.3.5).
    pub resynchronisation: Option<([u8; 16], [u8; 14])>,
    /// For AKA': the separation bit of AMF must be 1 (3GPP TS 33.402, 6.2).
    pub aka_prime: bool,
}

impl VectorsWanted {
    /// So many for AKA, without resynchronisation.
    pub fn plain(count: u8) -> VectorsWanted {
        VectorsWanted { count, resynchronisation: None, aka_prime: false }
    }
}

/// What a register knows of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Seen {
    /// It is in the register.
    pub known: bool,
    /// A network element has it attached.
    pub attached: bool,
}

/// Identities of a pool, by state.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
pub struct PoolState {
    /// Can be handed out.
    pub free: u64,
    /// Taken by a change, without access.
    pub reserved: u64,
    /// With access.
    pub assigned: u64,
    /// Deleted for good.
    pub retired: u64,
}

/// The notification that an identity has attached (`POST /v1/registers/{operator}/attached`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachReport {
    /// Which identity.
    #[schema(value_type = String)]
    pub imsi: Imsi,
    /// IdSC of the card that the register wrote it for, where it says so: it must be the card of the open change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub card: Option<CardId>,
}

/// Why a register did not do it. Never contains a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// It was surely not done.
    #[error("the register cannot be reached: {0}; it was not asked, try again later")]
    Unreachable(String),
    /// It may have been done.
    #[error("the register's answer is not known: {0}; ask again with the same key")]
    Unknown(String),
    /// There is no such identity.
    #[error("the register does not know the identity: check which operator it belongs to")]
    NotFound,
    /// It belongs to another change or card, or has other keys.
    #[error("the register refuses: {0}; look at what it holds before anything else")]
    Conflict(String),
    /// No identity is free.
    #[error("no identity is free in the pool: import more with `simtide register-gateway pool`")]
    Exhausted,
    /// It understood and will not.
    #[error("the register refuses: {0}")]
    Refused(String),
    /// Its answer is not one.
    #[error("the register's answer cannot be used: {0}; nothing of it was taken, check the register")]
    Invalid(String),
}

impl RegisterError {
    /// Whether the same question may have another answer later.
    pub fn is_passing(&self) -> bool {
        matches!(self, RegisterError::Unreachable(_) | RegisterError::Unknown(_) | RegisterError::Exhausted)
    }
}

/// The registers of all operators. Cheap to clone; all clones are the same directory.
#[derive(Clone, Default)]
pub struct Registers {
    by_operator: Arc<RwLock<BTreeMap<OperatorId, Arc<dyn Register>>>>,
}

impl Registers {
    /// The register of an operator, where it has one.
    pub fn of(&self, operator: OperatorId) -> Option<Arc<dyn Register>> {
        let known = self.by_operator.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&operator).cloned()
    }

    /// Gives an operator its register, in the place of the one before.
    pub fn put(&self, operator: OperatorId, register: Arc<dyn Register>) {
        let mut known = self.by_operator.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(operator, register);
    }

    /// Takes the register of an operator out.
    pub fn remove(&self, operator: OperatorId) {
        let mut known = self.by_operator.write().unwrap_or_else(PoisonError::into_inner);
        known.remove(&operator);
    }

    /// The operators that have one.
    pub fn operators(&self) -> Vec<OperatorId> {
        let known = self.by_operator.read().unwrap_or_else(PoisonError::into_inner);
        known.keys().copied().collect()
    }
}
