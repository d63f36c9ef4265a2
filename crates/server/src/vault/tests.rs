//! Each role by itself, each damage by its name, and no key anywhere it does not belong.

use simtide_protocol::card_file::{CardRow, KeyAlgorithm, KeySetRow, Secret};
use simtide_protocol::ids::{CardId, Iccid};

use super::*;
use crate::store::SealedKeys;

const TENANT: TenantId = TenantId(1);

fn secret(byte: u8, length: usize) -> Secret {
    Secret::new(&vec![byte; length]).unwrap()
}

fn card(number: u32) -> CardId {
    CardId::from(Iccid::with_check_digit(&format!("89882110000{number:07}")).unwrap())
}

fn settings(directory: &tempfile::TempDir) -> VaultSettings {
    VaultSettings { keystore: directory.path().join("keystore.json"), limits: AlarmLimits::default() }
}

fn vault(directory: &tempfile::TempDir) -> Vault {
    let key = KeyFile::open_or_make(&directory.path().join("key")).unwrap();
    Vault::open(&key, &settings(directory)).unwrap()
}

fn row() -> CardRow {
    let mut row = CardRow::new(card(1).iccid().unwrap());
    row.key_sets = [(1, KeyAlgorithm::Aes, 16), (3, KeyAlgorithm::TripleDes, 24)]
        .map(|(index, family, length)| KeySetRow {
            index,
            kic: secret(0x10 + index, length),
            kic_algorithm: family,
            kid: secret(0x20 + index, 16),
            kid_algorithm: KeyAlgorithm::TripleDes,
            kik: (index == 1).then(|| secret(0x30, 32)),
            counter: 0,
        })
        .into();
    row.psk = Some(secret(0x44, 16));
    row.ki = Some(secret(0x55, 16));
    row.opc = Some(secret(0x66, 16));
    row.admin_code = Some(secret(0x77, 8));
    row
}

fn record(sealed: SealedKeys) -> CardRecord {
    CardRecord {
        id: card(1),
        tenant: TENANT,
        iccid: None,
        eid: None,
        imsi: None,
        msisdn: None,
        psk_identity: vec![],
        sealed,
    }
}

#[test]
fn all_roles_come_back_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let sealed = vault(&directory).seal_card(TENANT, &card(1), &row()).unwrap();
    let vault = vault(&directory);
    let record = record(sealed);
    let keys = vault.ota_keys(&record).unwrap().sets;
    assert_eq!((keys.len(), keys[0].kic.0, keys[0].kid.0), (2, 0x12, 0x15));
    assert_eq!((keys[1].kic.0, keys[1].kid.0), (0x39, 0x35));
    assert_eq!(keys[0].key_set().kic.unwrap().as_bytes(), [0x11; 16]);
    assert_eq!(keys[1].key_set().kid.unwrap().as_bytes(), [0x23; 16]);
    assert!(keys[0].kik().unwrap() == &secret(0x30, 32) && keys[1].kik().is_none());
    assert!(vault.psk(&record).unwrap() == Some(secret(0x44, 16)));
    let subscription = vault.subscription(&record).unwrap().unwrap();
    assert!(subscription.ki == secret(0x55, 16) && subscription.opc == Some(secret(0x66, 16)));
    assert!(vault.admin_code(&record).unwrap() == Some(secret(0x77, 8)));
    assert_eq!(vault.counts().opened, [1, 1, 1, 1, 0]);
}

#[test]
fn a_record_opens_only_in_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let vault = vault(&directory);
    let sealed = vault.seal(TENANT, &card(1), Role::Psk, b"0123456789abcdef").unwrap();
    let open = |tenant, card, role, sealed: &[u8]| vault.unseal(tenant, &card, role, 1, sealed);
    assert!(open(TENANT, card(1), Role::Psk, &sealed).is_ok());
    for (tenant, other, role) in [
        (TenantId(2), card(1), Role::Psk),
        (TENANT, card(2), Role::Psk),
        (TENANT, card(1), Role::Ota),
        (TENANT, card(1), Role::AdminCode),
    ] {
        assert!(matches!(open(tenant, other, role, &sealed), Err(VaultError::Quarantined(_))));
    }
    assert!(matches!(
        vault.unseal(TENANT, &card(1), Role::Psk, 2, &sealed),
        Err(VaultError::UnknownVersion(2))
    ));
    for place in 0..sealed.len() {
        let mut flipped = sealed.clone();
        flipped[place] ^= 0x04;
        assert!(matches!(
            open(TENANT, card(1), Role::Psk, &flipped),
            Err(VaultError::Quarantined(Role::Psk))
        ));
        assert!(open(TENANT, card(1), Role::Psk, &sealed[..place]).is_err());
    }
    assert!(vault.counts().damaged > sealed.len() as u64);
}

/// Otherwise a broken token would set aside card after card.
#[test]
fn a_broken_data_key_is_told_from_a_damaged_record() {
    let directory = tempfile::tempdir().unwrap();
    let mut vault = vault(&directory);
    let sealed = vault.seal(TENANT, &card(1), Role::Psk, b"0123456789abcdef").unwrap();
    vault.data_keys[0].cipher = Aes256Gcm::new(&[9; 32].into());
    assert!(matches!(vault.unseal(TENANT, &card(1), Role::Psk, 1, &sealed), Err(VaultError::Broken(1))));
    assert!(matches!(vault.check(), Err(VaultError::Broken(1))));
}

#[test]
fn another_installation_s_key_opens_nothing() {
    let directory = tempfile::tempdir().unwrap();
    drop(vault(&directory));
    let other = KeyFile::open_or_make(&directory.path().join("other")).unwrap();
    assert!(matches!(Vault::open(&other, &settings(&directory)), Err(VaultError::WrongKey(_))));
    std::fs::write(directory.path().join("keystore.json"), "{}").unwrap();
    let key = KeyFile::open_or_make(&directory.path().join("key")).unwrap();
    assert!(matches!(Vault::open(&key, &settings(&directory)), Err(VaultError::Content { .. })));
}

#[test]
fn key_file_is_private_and_exact() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/er/key");
    KeyFile::open_or_make(&path).unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), std::fs::read(&path).unwrap().len()), (0o600, 32));
    drop(vault(&directory));
    assert_eq!(mode(&directory.path().join("keystore.json")), 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(KeyFile::open_or_make(&path).is_err());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    for length in [0, 31, 33] {
        std::fs::write(&path, vec![1; length]).unwrap();
        assert!(KeyFile::open_or_make(&path).is_err(), "{length}");
    }
}

#[test]
fn fingerprints_agree_within_an_installation_only() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, again, other) = (vault(&one), vault(&one), vault(&two));
    let key = secret(1, 16);
    assert_eq!(first.key_fingerprint(&key), again.key_fingerprint(&key));
    assert_ne!(first.key_fingerprint(&key), other.key_fingerprint(&key));
    assert_ne!(first.key_fingerprint(&key), first.admin_code_fingerprint(&key));
    assert_ne!(first.key_fingerprint(&key), first.key_fingerprint(&secret(1, 24)));
}

#[test]
fn bulk_opening_raises_one_alarm_a_minute() {
    let directory = tempfile::tempdir().unwrap();
    let key = KeyFile::open_or_make(&directory.path().join("key")).unwrap();
    let mut settings = settings(&directory);
    settings.limits.admin_code = 5;
    let vault = Vault::open(&key, &settings).unwrap();
    let sealed = vault.seal(TENANT, &card(1), Role::AdminCode, &[1; 8]).unwrap();
    for opened in 1..=20 {
        vault.unseal(TENANT, &card(1), Role::AdminCode, 1, &sealed).unwrap();
        assert_eq!(vault.counts().alarms, u64::from(opened > 5));
    }
}

#[test]
fn a_record_of_no_card_opens_only_in_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let vault = vault(&directory);
    let sealed = vault.seal_at(b"pool 001010000000001", Role::Subscription, b"key").unwrap();
    let open = |place: &[u8], role, sealed: &[u8]| {
        vault.unseal_at(place, role, sealed).ok().map(|plain| plain.to_vec())
    };
    let place = b"pool 001010000000001";
    assert_eq!(open(place, Role::Subscription, &sealed), Some(b"key".to_vec()));
    assert_eq!(open(b"pool 001010000000002", Role::Subscription, &sealed), None);
    assert_eq!(open(place, Role::AdminCode, &sealed), None);
    for at in 0..sealed.len() {
        let mut damaged = sealed.clone();
        damaged[at] ^= 1;
        assert_eq!(open(place, Role::Subscription, &damaged), None);
    }
    assert_eq!(open(place, Role::Subscription, &sealed[..1]), None);
}
