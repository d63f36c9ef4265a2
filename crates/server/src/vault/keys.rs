//! The records by role: what is in them, and how a card's keys get in and out.

use simtide_protocol::card_file::{AuthenticationAlgorithm, CardRow, KeyAlgorithm, KeySetRow, Secret};
use simtide_protocol::ids::CardId;
use simtide_protocol::personalization::Identity;
use simtide_protocol::scp80::{Key, KeySet, Kic, Kid};
use zeroize::Zeroizing;

use super::{Role, Vault, VaultError};
use crate::store::{CardRecord, SealedKeys, TenantId};

/// The OTA key sets of one card, opened. No `Debug`, no `Clone`; wiped when dropped.
pub struct OtaKeys {
    /// By rising index.
    pub sets: Vec<OtaKeySet>,
}

/// One OTA key set, opened.
pub struct OtaKeySet {
    /// Index, 1 to 15.
    pub index: u8,
    /// KIc octet: index and algorithm.
    pub kic: Kic,
    /// KID octet: index and algorithm.
    pub kid: Kid,
    kic_key: Secret,
    kid_key: Secret,
    kik_key: Option<Secret>,
}

impl OtaKeySet {
    /// What seals and opens packets.
    pub fn key_set(&self) -> KeySet {
        KeySet::new(Key::new(self.kic_key.as_bytes()).ok(), Key::new(self.kid_key.as_bytes()).ok())
    }

    /// The key that protects keys (PUT KEY), where the card has one.
    pub fn kik(&self) -> Option<&Secret> {
        self.kik_key.as_ref()
    }
}

/// Ki and OPc of one subscription, opened. No `Debug`, no `Clone`; wiped when dropped.
pub struct Subscription {
    /// Authentication algorithm.
    pub algorithm: AuthenticationAlgorithm,
    /// Subscriber key.
    pub ki: Secret,
    /// Operator constant of the card, where the file had one.
    pub opc: Option<Secret>,
}

impl Vault {
    /// Seals everything secret of an imported card.
    pub fn seal_card(
        &self,
        tenant: TenantId,
        card: &CardId,
        row: &CardRow,
    ) -> Result<SealedKeys, VaultError> {
        let seal = |role, plain: Option<Zeroizing<Vec<u8>>>| {
            plain.map_or(Ok(Vec::new()), |plain| self.seal(tenant, card, role, &plain))
        };
        let plain =
            |secret: &Option<Secret>| secret.as_ref().map(|key| Zeroizing::new(key.as_bytes().to_vec()));
        let ota = (!row.key_sets.is_empty()).then(|| write_key_sets(&row.key_sets));
        Ok(SealedKeys {
            version: self.version(),
            ota: seal(Role::Ota, ota)?,
            psk: seal(Role::Psk, plain(&row.psk))?,
            subscription: seal(Role::Subscription, row.ki.as_ref().map(|ki| write_subscription(row, ki)))?,
            admin_code: seal(Role::AdminCode, plain(&row.admin_code))?,
        })
    }

    /// Seals the keys of an identity that a card has now, under the version of its other records.
    pub fn seal_identity(&self, card: &CardRecord, identity: &Identity) -> Result<Vec<u8>, VaultError> {
        let plain = subscription_plain(identity.algorithm, &identity.k, Some(&identity.opc));
        self.seal_under(card.sealed.version, card.tenant, &card.id, Role::Subscription, &plain)
    }

    /// The pre-shared key of a card, where it has one.
    pub fn psk(&self, card: &CardRecord) -> Result<Option<Secret>, VaultError> {
        let plain = self.unseal_of(card, Role::Psk)?;
        plain.map(|plain| Secret::new(&plain).ok_or(VaultError::Quarantined(Role::Psk))).transpose()
    }

    /// The OTA key sets of a card; none where it has no record.
    pub fn ota_keys(&self, card: &CardRecord) -> Result<OtaKeys, VaultError> {
        let Some(plain) = self.unseal_of(card, Role::Ota)? else { return Ok(OtaKeys { sets: Vec::new() }) };
        let sets = read_key_sets(&plain).ok_or(VaultError::Quarantined(Role::Ota))?;
        Ok(OtaKeys { sets })
    }

    /// Ki and OPc of a card, where they were imported.
    pub fn subscription(&self, card: &CardRecord) -> Result<Option<Subscription>, VaultError> {
        let Some(plain) = self.unseal_of(card, Role::Subscription)? else { return Ok(None) };
        read_subscription(&plain).map(Some).ok_or(VaultError::Quarantined(Role::Subscription))
    }

    /// The admin code of a card, where it has one.
    pub fn admin_code(&self, card: &CardRecord) -> Result<Option<Secret>, VaultError> {
        let plain = self.unseal_of(card, Role::AdminCode)?;
        plain.map(|plain| Secret::new(&plain).ok_or(VaultError::Quarantined(Role::AdminCode))).transpose()
    }
}

/// Per set: index, then KIc, KID and KIK, each as family, length, bytes; a KIK that is not there has length 0.
fn write_key_sets(sets: &[KeySetRow]) -> Zeroizing<Vec<u8>> {
    let mut plain = Zeroizing::new(Vec::with_capacity(sets.len() * 104));
    for set in sets {
        plain.push(set.index);
        write_key(&mut plain, set.kic_algorithm, Some(&set.kic));
        write_key(&mut plain, set.kid_algorithm, Some(&set.kid));
        write_key(&mut plain, set.kic_algorithm, set.kik.as_ref());
    }
    plain
}

fn write_key(plain: &mut Vec<u8>, family: KeyAlgorithm, key: Option<&Secret>) {
    let bytes = key.map_or(&[][..], Secret::as_bytes);
    plain.push(match family {
        KeyAlgorithm::Aes => 0,
        KeyAlgorithm::TripleDes => 1,
    });
    // Secrets have at most 64 bytes.
    plain.push(bytes.len() as u8);
    plain.extend_from_slice(bytes);
}

fn read_key_sets(mut plain: &[u8]) -> Option<Vec<OtaKeySet>> {
    let mut sets = Vec::new();
    while let Some((index, rest)) = plain.split_first() {
        let (kic_nibble, kic_key, rest) = read_key(rest)?;
        let (kid_nibble, kid_key, rest) = read_key(rest)?;
        let (_, kik_key, rest) = read_key(rest)?;
        let octet = |nibble: u8| index << 4 | nibble;
        let (kic, kid) = (Kic(octet(kic_nibble)), Kid(octet(kid_nibble)));
        sets.push(OtaKeySet { index: *index, kic, kid, kic_key: kic_key?, kid_key: kid_key?, kik_key });
        plain = rest;
    }
    Some(sets)
}

fn read_key(plain: &[u8]) -> Option<(u8, Option<Secret>, &[u8])> {
    let (family, rest) = plain.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (key, rest) = rest.split_at_checked(usize::from(*length))?;
    let family = if *family == 0 { KeyAlgorithm::Aes } else { KeyAlgorithm::TripleDes };
    Some((family.nibble(key.len()), Secret::new(key), rest))
}

fn write_subscription(row: &CardRow, ki: &Secret) -> Zeroizing<Vec<u8>> {
    subscription_plain(row.algorithm, ki, row.opc.as_ref())
}

/// Algorithm, length of Ki, Ki, OPc.
fn subscription_plain(
    algorithm: AuthenticationAlgorithm,
    ki: &Secret,
    opc: Option<&Secret>,
) -> Zeroizing<Vec<u8>> {
    let mut plain = Zeroizing::new(Vec::with_capacity(2 + 2 * 64));
    plain.push(match algorithm {
        AuthenticationAlgorithm::Milenage => 0,
        AuthenticationAlgorithm::Tuak => 1,
    });
    plain.push(ki.as_bytes().len() as u8);
    plain.extend_from_slice(ki.as_bytes());
    plain.extend_from_slice(opc.map_or(&[][..], Secret::as_bytes));
    plain
}

fn read_subscription(plain: &[u8]) -> Option<Subscription> {
    let [algorithm, length, rest @ ..] = plain else { return None };
    let (ki, opc) = rest.split_at_checked(usize::from(*length))?;
    let algorithm = match algorithm {
        0 => AuthenticationAlgorithm::Milenage,
        1 => AuthenticationAlgorithm::Tuak,
        _ => return None,
    };
    Some(Subscription { algorithm, ki: Secret::new(ki)?, opc: Secret::new(opc) })
}
