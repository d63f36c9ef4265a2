//! One identity of a pool, and how its keys lie in the file.

use rusqlite::Row;
use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
use simtide_protocol::gsup::Domain;
use simtide_protocol::ids::{CardId, ChangeId, Imsi, Msisdn};
use zeroize::Zeroizing;

use super::super::RegisterError;
use super::file::failed;
use crate::vault::{Role, Vault};

/// States of an identity; the codes stand in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Can be handed out.
    Free,
    /// A change has taken it.
    Reserved,
    /// The register lets it in, or did until it left.
    Assigned,
    /// Never handed out again.
    Retired,
}

impl State {
    pub(super) fn from_code(code: u8) -> Option<State> {
        [State::Free, State::Reserved, State::Assigned, State::Retired].get(usize::from(code)).copied()
    }
}

/// Network elements where an identity is attached, by domain: a phone is at an MSC and at an SGSN at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attached {
    /// For calls and short messages; empty: nowhere.
    pub circuit: String,
    /// For data; empty: nowhere.
    pub packet: String,
}

impl Attached {
    /// Whether a network element has it.
    pub fn is_anywhere(&self) -> bool {
        !(self.circuit.is_empty() && self.packet.is_empty())
    }

    /// The network element of a domain; empty: none.
    pub fn at(&self, domain: Domain) -> &str {
        match domain {
            Domain::CircuitSwitched => &self.circuit,
            Domain::PacketSwitched => &self.packet,
        }
    }
}

/// An identity with everything about it. Holds keys: no `Debug`.
#[derive(Clone)]
pub struct Entry {
    /// The identity.
    pub imsi: Imsi,
    /// Where it is.
    pub state: State,
    /// The change that took it.
    pub change: Option<ChangeId>,
    /// The card that it is for.
    pub card: Option<CardId>,
    /// Its number.
    pub msisdn: Option<Msisdn>,
    /// Algorithm of the authentication.
    pub algorithm: AuthenticationAlgorithm,
    /// K and OPc (TOPc); none as long as they are drawn for each change, and after retirement.
    pub keys: Option<(Secret, Secret)>,
    /// Whether the register lets it in.
    pub access: bool,
    /// Whether access was taken away.
    pub withdrawn: bool,
    /// Where it is attached.
    pub attached: Attached,
}

pub(super) const COLUMNS: &str =
    "imsi, state, change, card, msisdn, algorithm, keys, access, withdrawn, attached_cs, attached_ps";

pub(super) fn from_row(row: &Row<'_>, vault: &Vault) -> Result<Entry, RegisterError> {
    let imsi: Imsi = row.get::<_, String>(0).map_err(failed)?.parse().map_err(failed)?;
    let state = State::from_code(row.get(1).map_err(failed)?);
    let card: Option<Vec<u8>> = row.get(3).map_err(failed)?;
    let msisdn: Option<String> = row.get(4).map_err(failed)?;
    let algorithm = match row.get::<_, u8>(5).map_err(failed)? {
        0 => AuthenticationAlgorithm::Milenage,
        1 => AuthenticationAlgorithm::Tuak,
        _ => return Err(failed("it was written by a later version")),
    };
    let sealed: Vec<u8> = row.get(6).map_err(failed)?;
    Ok(Entry {
        imsi,
        state: state.ok_or_else(|| failed("it was written by a later version"))?,
        change: row.get::<_, Option<i64>>(2).map_err(failed)?.map(|id| ChangeId(id.cast_unsigned())),
        card: card.map(|card| CardId::try_from(card.as_slice())).transpose().map_err(failed)?,
        msisdn: msisdn.map(|number| number.parse()).transpose().map_err(failed)?,
        algorithm,
        keys: open_keys(vault, imsi, &sealed)?,
        access: row.get(7).map_err(failed)?,
        withdrawn: row.get(8).map_err(failed)?,
        attached: Attached { circuit: row.get(9).map_err(failed)?, packet: row.get(10).map_err(failed)? },
    })
}

pub(super) fn algorithm_code(algorithm: AuthenticationAlgorithm) -> u8 {
    match algorithm {
        AuthenticationAlgorithm::Milenage => 0,
        AuthenticationAlgorithm::Tuak => 1,
    }
}

/// Length of K, K, OPc, sealed for this identity; empty for none.
pub(super) fn seal_keys(
    vault: &Vault,
    imsi: Imsi,
    keys: Option<&(Secret, Secret)>,
) -> Result<Vec<u8>, RegisterError> {
    let Some((k, opc)) = keys else { return Ok(Vec::new()) };
    let mut plain = Zeroizing::new(Vec::with_capacity(65));
    // Secrets have at most 64 bytes.
    plain.push(k.as_bytes().len() as u8);
    plain.extend_from_slice(k.as_bytes());
    plain.extend_from_slice(opc.as_bytes());
    let sealed = vault.seal_at(&place(imsi), Role::Subscription, &plain);
    sealed.map_err(|error| RegisterError::Refused(error.to_string()))
}

/// Whom keys of nobody are sealed for: no network has this code.
const NOBODY: &str = "000000";

/// Keys of nobody, sealed like a subscriber's.
pub(super) fn seal_nobody(vault: &Vault) -> Result<Vec<u8>, RegisterError> {
    let keys = Secret::new(&[0; 16]).zip(Secret::new(&[0; 16]));
    seal_keys(vault, NOBODY.parse().map_err(failed)?, keys.as_ref())
}

/// Opens them, to no other end than that it takes time.
pub(super) fn open_nobody(vault: &Vault, sealed: &[u8]) -> Result<Option<(Secret, Secret)>, RegisterError> {
    open_keys(vault, NOBODY.parse().map_err(failed)?, sealed)
}

fn open_keys(vault: &Vault, imsi: Imsi, sealed: &[u8]) -> Result<Option<(Secret, Secret)>, RegisterError> {
    if sealed.is_empty() {
        return Ok(None);
    }
    // Not a refusal: with another key file, or a damaged record, nothing is known of the subscriber.
    let plain = vault.unseal_at(&place(imsi), Role::Subscription, sealed).map_err(failed)?;
    let split = plain.split_first().and_then(|(length, rest)| rest.split_at_checked(usize::from(*length)));
    let keys = split.and_then(|(k, opc)| Some((Secret::new(k)?, Secret::new(opc)?)));
    keys.map(Some).ok_or_else(|| failed("a record of keys has the wrong form"))
}

fn place(imsi: Imsi) -> Vec<u8> {
    format!("pool {imsi}").into_bytes()
}
