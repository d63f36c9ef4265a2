//! Import: files into the store, what is refused and why, twice, interrupted; and keys nowhere in the clear.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by it")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use simtide_protocol::card_file::{
    self, CardRow, FileError, Format, KeyAlgorithm, KeySetRow, Secret, TransportKey, Writer, WriterSettings,
    key_check_value,
};
use simtide_protocol::ids::{Eid, EpochMs, Iccid};
use simtide_server::import::*;
use simtide_server::registers::memory::{Fault, MemoryRegister, Verb};
use simtide_server::registers::{Register, RegisterError};
use simtide_server::store::model::ModelStore;
use simtide_server::store::sqlite::{SqliteSettings, SqliteStore};
use simtide_server::store::*;
use simtide_server::vault::{AlarmLimits, KeyFile, Vault, VaultSettings};

const TENANT: TenantId = TenantId(1);

fn secret(role: u8, number: u32, length: usize) -> Secret {
    let bytes: Vec<u8> = (0..length as u32)
        .map(|place| {
            (number.wrapping_mul(2_654_435_761).rotate_left(place) as u8)
                ^ role.wrapping_mul(37)
                ^ place as u8
        })
        .collect();
    let mut bytes = bytes;
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes[4] = role;
    Secret::new(&bytes).unwrap()
}

fn row(number: u32) -> CardRow {
    let mut row = CardRow::new(Iccid::with_check_digit(&format!("89882110000{number:07}")).unwrap());
    row.imsi = Some(format!("00101{number:010}").parse().unwrap());
    row.msisdn = Some(format!("43664{number:07}").parse().unwrap());
    row.ki = Some(secret(1, number, 16));
    row.opc = Some(secret(2, number, 16));
    row.key_sets = vec![KeySetRow {
        index: 1,
        kic: secret(3, number, 16),
        kic_algorithm: KeyAlgorithm::Aes,
        kid: secret(4, number, 16),
        kid_algorithm: KeyAlgorithm::Aes,
        kik: Some(secret(5, number, 16)),
        counter: 3,
    }];
    row.psk_identity = format!("card-{number}").into_bytes();
    row.psk = Some(secret(6, number, 16));
    row.admin_code = Some(secret(7, number, 8));
    row.device_kind = Some("meter".into());
    row.tags = vec!["north".into()];
    row.next_poll = Some(EpochMs::from_seconds(1_700_000_000 + i64::from(number)));
    row
}

fn transport_key() -> TransportKey {
    let key = secret(9, 9, 16);
    let check = key_check_value(&key);
    TransportKey::combine(2, &[key], &check).unwrap()
}

struct Place {
    directory: tempfile::TempDir,
    store: Arc<dyn Store>,
    importer: Importer,
    vault: Arc<Vault>,
}

impl Place {
    async fn new(sqlite: bool) -> Place {
        let directory = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = if sqlite {
            let data = directory.path().join("data");
            Arc::new(SqliteStore::open(&SqliteSettings { directory: data, buckets: 8, groups: 2 }).unwrap())
        } else {
            Arc::new(ModelStore::new(8, 2).unwrap())
        };
        let key = KeyFile::open_or_make(&directory.path().join("key")).unwrap();
        let keystore = directory.path().join("keystore.json");
        let limits = AlarmLimits::default();
        let vault = Arc::new(Vault::open(&key, &VaultSettings { keystore, limits }).unwrap());
        let leased = Leased::take(store.clone(), "test").await.unwrap();
        let profile =
            DirectoryRow::Profile { id: ProfileId(1), name: "standard".into(), text: String::new() };
        leased.commit(Group::Platform, vec![Op::PutDirectory(profile)]).await.unwrap();
        let importer = Importer::new(store.clone(), Arc::new(leased), vault.clone());
        Place { directory, store, importer, vault }
    }

    fn file(&self, rows: &[CardRow], format: Format) -> PathBuf {
        let writer = Writer::new(
            format,
            WriterSettings {
                customer: "Example".into(),
                profile: Some("standard".parse().unwrap()),
                quantity: rows.len() as u64,
                columns: Writer::all_columns(1),
                transport_key: Some(transport_key()),
                ..WriterSettings::default()
            },
        );
        let lines: String = rows.iter().map(|row| writer.row(row).unwrap().to_string()).collect();
        let path = self.directory.path().join("cards.out");
        std::fs::write(&path, writer.header() + &lines).unwrap();
        path
    }

    async fn import(&self, path: &Path) -> Result<ImportReport, ImportError> {
        self.importer.import(path, &settings(), |_| {}).await
    }
}

fn settings() -> ImportSettings {
    ImportSettings {
        tenant: TENANT,
        operator: OperatorId(5),
        register: None,
        profile: None,
        first_poll: EpochMs(77),
        now: EpochMs(9),
        file: card_file::Settings { transport_keys: vec![transport_key()], ..card_file::Settings::default() },
    }
}

#[tokio::test]
async fn cards_arrive_with_everything_and_twice_changes_nothing() {
    for sqlite in [false, true] {
        let place = Place::new(sqlite).await;
        let mut rows: Vec<CardRow> = (0..300).map(row).collect();
        rows[1].eid = Some(Eid::with_check_digits("890490321234512345123456789012").unwrap());
        rows[1].form = card_file::Form::Euicc;
        rows[2].next_poll = None;
        let path = place.file(&rows, Format::Out);
        let steps = Mutex::new(Vec::new());
        let report = place
            .importer
            .import(&path, &settings(), |step| steps.lock().unwrap().push(*step))
            .await
            .unwrap();
        assert_eq!((report.rows, report.imported, report.refused), (300, 300, 0), "{:?}", report.refusals);
        let steps = steps.into_inner().unwrap();
        assert!(steps.last().unwrap().storing && steps.last().unwrap().rows == 300 && !steps[0].storing);

        let card = place.store.card(rows[0].card_id()).await.unwrap().unwrap();
        assert_eq!(
            (card.record.imsi, card.record.msisdn, card.record.iccid),
            (rows[0].imsi, rows[0].msisdn, Some(rows[0].iccid))
        );
        assert_eq!(
            (card.hot.operator, card.hot.profile, card.hot.last_update),
            (OperatorId(5), ProfileId(1), None)
        );
        assert_eq!(
            (card.hot.next_poll, card.hot.tags, card.hot.device_kind),
            (rows[0].next_poll.unwrap(), 1, 1)
        );
        assert_eq!(card.counters, [(1, 3)]);
        assert!(place.vault.psk(&card.record).unwrap() == rows[0].psk);
        assert!(place.vault.subscription(&card.record).unwrap().unwrap().opc == rows[0].opc);
        let keys = place.vault.ota_keys(&card.record).unwrap();
        assert_eq!(keys.sets[0].key_set().kid.unwrap().as_bytes(), rows[0].key_sets[0].kid.as_bytes());
        let by_iccid = place.store.find(Alias::Iccid(rows[1].iccid)).await.unwrap();
        assert_eq!(by_iccid, Some(rows[1].card_id()), "an embedded element is found by its ICCID too");
        let undated = place.store.card(rows[2].card_id()).await.unwrap().unwrap();
        assert_eq!(undated.hot.next_poll, EpochMs(77));

        let again = place.import(&path).await.unwrap();
        assert_eq!((again.rows, again.imported, again.unchanged, again.refused), (300, 0, 300, 0));
        assert_eq!(place.store.card(rows[0].card_id()).await.unwrap().unwrap(), card);
    }
}

#[tokio::test]
async fn nothing_is_shared_between_cards() {
    for sqlite in [false, true] {
        let place = Place::new(sqlite).await;
        place.import(&place.file(&[row(1)], Format::Csv)).await.unwrap();
        // Row by row another thing of card 1, in the store, or of card 2, in the same file.
        let mut rows = vec![row(2)];
        let share = |number, change: &dyn Fn(&mut CardRow)| {
            let mut row = row(number);
            change(&mut row);
            row
        };
        rows.push(share(10, &|card| card.imsi = row(1).imsi));
        rows.push(share(11, &|card| card.msisdn = row(1).msisdn));
        rows.push(share(12, &|card| card.psk_identity = row(1).psk_identity));
        rows.push(share(13, &|card| card.ki = row(1).ki));
        rows.push(share(14, &|card| card.key_sets[0].kic = row(1).key_sets[0].kid.clone()));
        rows.push(share(15, &|card| card.admin_code = row(1).admin_code));
        rows.push(share(16, &|card| card.imsi = row(2).imsi));
        rows.push(share(17, &|card| card.psk = row(2).psk));
        rows.push(share(2, &|_| {}));
        rows.push(share(1, &|card| card.ki = Some(secret(1, 99, 16))));
        rows.push(share(18, &|card| card.profile = Some("unheard-of".parse().unwrap())));
        rows.push(row(19));
        let report = place.import(&place.file(&rows, Format::Csv)).await.unwrap();
        assert_eq!((report.rows, report.imported, report.unchanged, report.refused), (13, 2, 0, 11));
        let reasons: Vec<String> = report.refusals.iter().map(|refusal| refusal.reason.to_string()).collect();
        let wanted = [
            "the IMSI",
            "the MSISDN",
            "the PSK identity",
            "the Ki",
            "a KIc key",
            "the admin code",
            "the IMSI",
            "the pre-shared key",
            "stands in line",
            "stored with other values",
            "profile unheard-of",
        ];
        for (reason, wanted) in reasons.iter().zip(wanted) {
            assert!(reason.contains(wanted), "{reason}: {wanted}");
        }
        assert!(reasons[3].contains(&row(1).iccid.to_string()), "says whose it is: {}", reasons[3]);
        assert!(report.refusals.windows(2).all(|pair| pair[0].line < pair[1].line));
        // What a refused row had claimed is free again: with its own IMSI the card comes in.
        let report = place.import(&place.file(&[row(10), row(13)], Format::Csv)).await.unwrap();
        assert_eq!((report.imported, report.refused), (2, 0), "{:?}", report.refusals);
    }
}

#[tokio::test]
async fn a_file_that_is_wrong_as_a_whole_stores_nothing() {
    let place = Place::new(true).await;
    let rows: Vec<CardRow> = (0..20).map(row).collect();
    let path = place.file(&rows, Format::Out);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 300]).unwrap();
    let cut = place.import(&path).await;
    assert!(
        matches!(cut, Err(ImportError::File(FileError::Truncated | FileError::Quantity { .. }))),
        "{cut:?}"
    );
    let mut without_key = settings();
    without_key.file.transport_keys.clear();
    std::fs::write(&path, &text).unwrap();
    let refused = place.importer.import(&path, &without_key, |_| {}).await;
    assert!(matches!(refused, Err(ImportError::File(FileError::TransportKeyMissing(2)))), "{refused:?}");
    assert!(place.store.card_counts().await.unwrap().is_empty());
    assert!(matches!(place.import(Path::new("/no/such/file")).await, Err(ImportError::Read { .. })));
}

/// Fails one commit, as a process that is killed there would.
struct FailsOnce {
    inner: Leased,
    commits_left: Mutex<u32>,
}

impl Committer for FailsOnce {
    fn commit(&self, group: Group, ops: Vec<Op>) -> Answer<'_, Vec<Outcome>> {
        let mut left = self.commits_left.lock().unwrap();
        *left = left.saturating_sub(1);
        if *left == 0 {
            return Box::pin(std::future::ready(Err(StoreError::Failed("killed".into()))));
        }
        self.inner.commit(group, ops)
    }
}

#[tokio::test]
async fn an_interrupted_import_goes_on_and_loses_nothing() {
    let rows: Vec<CardRow> = (0..6_000).map(row).collect();
    for commits in [3, 8, 13] {
        let place = Place::new(false).await;
        let path = place.file(&rows, Format::Csv);
        let inner = Leased::take(place.store.clone(), "test").await.unwrap();
        let committer = FailsOnce { inner, commits_left: Mutex::new(commits + 1) };
        let killed = Importer::new(place.store.clone(), Arc::new(committer), place.vault.clone());
        assert!(
            matches!(killed.import(&path, &settings(), |_| {}).await, Err(ImportError::Store(_))),
            "{commits}"
        );
        let leased = Arc::new(Leased::take(place.store.clone(), "test").await.unwrap());
        let next = Importer::new(place.store.clone(), leased, place.vault.clone());
        let report = next.import(&path, &settings(), |_| {}).await.unwrap();
        assert_eq!(
            (report.rows, report.imported + report.unchanged, report.refused),
            (6_000, 6_000, 0),
            "{commits}"
        );
        let count: u64 = place.store.card_counts().await.unwrap().iter().map(|(.., count)| count).sum();
        assert_eq!(count, 6_000, "{commits}");
        assert!(commits < 13 || report.resumed_after >= 4_096, "{commits}: {}", report.resumed_after);
    }
}

/// An import that ended between claiming and storing leaves claims of a card that never came; they are taken over.
#[tokio::test]
async fn claims_of_a_card_that_never_came_are_taken_over() {
    let place = Place::new(true).await;
    let alias = Alias::Imsi(row(1).imsi.unwrap());
    let leased = Leased::take(place.store.clone(), "test").await.unwrap();
    let group = simtide_server::store::rules::Layout { buckets: 8, groups: 2 }.alias_group(&alias);
    let claim = Op::ClaimAlias { alias: alias.clone(), card: row(2).card_id(), from: None };
    leased.commit(group, vec![claim]).await.unwrap();
    let importer = Importer::new(place.store.clone(), Arc::new(leased), place.vault.clone());
    let path = place.file(&[row(1)], Format::Csv);
    assert_eq!(importer.import(&path, &settings(), |_| {}).await.unwrap().imported, 1);
    assert_eq!(place.store.find(alias).await.unwrap(), Some(row(1).card_id()));
}

#[tokio::test]
async fn a_card_joins_what_runs_and_has_what_has_ended() {
    let place = Place::new(false).await;
    let leased = Leased::take(place.store.clone(), "test").await.unwrap();
    for id in 1..=4 {
        let record = CampaignRecord {
            id: CampaignId(id),
            tenant: TENANT,
            number: None,
            name: String::new(),
            state: "draft".into(),
            definition: String::new(),
            progress_note: String::new(),
            created_at: EpochMs(1),
            started_at: None,
            ended_at: (id != 3).then_some(EpochMs(5)),
        };
        let start = Op::StartCampaign { campaign: CampaignId(id), at: EpochMs(2), state: "running".into() };
        leased.commit(Group::Platform, vec![Op::PutCampaign(Box::new(record)), start]).await.unwrap();
    }
    let importer = Importer::new(place.store.clone(), Arc::new(leased), place.vault.clone());
    importer.import(&place.file(&[row(1)], Format::Csv), &settings(), |_| {}).await.unwrap();
    let applied = place.store.card(row(1).card_id()).await.unwrap().unwrap().hot.applied;
    assert!(applied.has(2) && !applied.has(3), "{applied:?}");
}

/// Collects everything that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn canary_keys_are_nowhere_in_the_clear() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let place = Place::new(true).await;
    let rows: Vec<CardRow> = (0..50).map(row).collect();
    let mut twice = rows.clone();
    twice.push(row(3));
    let report = place.import(&place.file(&twice, Format::Csv)).await.unwrap();
    let card = place.store.card(rows[3].card_id()).await.unwrap().unwrap();
    drop((place.vault.psk(&card.record).unwrap(), place.vault.ota_keys(&card.record).unwrap()));
    let mut haystacks = vec![
        ("log".to_owned(), log.0.lock().unwrap().clone()),
        ("report".to_owned(), format!("{report:?} {card:?} {rows:?}").into_bytes()),
    ];
    // Everything that may be on the disk at this moment, write-ahead logs included.
    for entry in std::fs::read_dir(place.directory.path().join("data")).unwrap() {
        let path = entry.unwrap().path();
        haystacks.push((path.display().to_string(), std::fs::read(&path).unwrap()));
    }
    let keystore = place.directory.path().join("keystore.json");
    haystacks.push(("keystore".to_owned(), std::fs::read(keystore).unwrap()));
    assert!(haystacks.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > 50_000);
    for canary in rows.iter().flat_map(secrets) {
        let text = hex::encode(canary.as_bytes());
        for (name, haystack) in &haystacks {
            for needle in [canary.as_bytes(), text.as_bytes(), text.to_uppercase().as_bytes()] {
                assert!(!haystack.windows(needle.len()).any(|window| window == needle), "a key is in {name}");
            }
        }
    }
}

fn secrets(row: &CardRow) -> Vec<&Secret> {
    let sets = row.key_sets.iter().flat_map(|set| [&set.kic, &set.kid].into_iter().chain(&set.kik));
    [&row.ki, &row.opc, &row.psk, &row.admin_code].into_iter().flatten().chain(sets).collect()
}

#[tokio::test]
async fn subscriptions_of_a_batch_go_to_the_register_once() {
    let place = Place::new(false).await;
    let register = MemoryRegister::new("one", "00101", 0);
    let with_register = ImportSettings { register: Some(Arc::new(register.clone())), ..settings() };
    let mut rows: Vec<CardRow> = (0..100).map(row).collect();
    rows[7].opc = None;
    let path = place.file(&rows, Format::Out);
    // Without the register first: the cards are there, their subscriptions are not.
    assert_eq!(place.import(&path).await.unwrap().imported, 100);
    let import = || place.importer.import(&path, &with_register, |_| {});
    register.fail_next(Verb::Provision, Fault::Unreachable);
    assert!(matches!(import().await, Err(ImportError::Register(RegisterError::Unreachable(_)))));
    register.fail_next(Verb::Provision, Fault::TimeoutAfter);
    assert!(matches!(import().await, Err(ImportError::Register(RegisterError::Unknown(_)))));
    register.fail_next(Verb::Provision, Fault::Duplicate);
    for _ in 0..2 {
        let report = import().await.unwrap();
        assert_eq!((report.imported, report.unchanged, report.refused), (0, 99, 1));
        assert_eq!(report.refusals[0].reason, RefusalReason::NoSubscription);
        assert_eq!(register.pool().await.unwrap().assigned, 99);
    }
    for (number, row) in rows.iter().enumerate().filter(|(number, _)| *number != 7) {
        let imsi = row.imsi.unwrap();
        let (k, opc) = register.keys(imsi).unwrap();
        assert!(Some(k) == row.ki && Some(opc) == row.opc, "card {number}");
        assert!(register.attach(imsi), "a first subscription has access");
    }
}

#[tokio::test]
async fn what_the_register_refuses_is_told_by_its_line_and_tried_again() {
    let place = Place::new(true).await;
    let register = MemoryRegister::new("one", "00101", 0);
    let with_register = ImportSettings { register: Some(Arc::new(register.clone())), ..settings() };
    let rows: Vec<CardRow> = (0..3).map(row).collect();
    let path = place.file(&rows, Format::Out);
    register.fail_next(Verb::Provision, Fault::Exists);
    let report = place.importer.import(&path, &with_register, |_| {}).await.unwrap();
    assert_eq!((report.imported, report.refused), (2, 1));
    let reason = report.refusals[0].reason.to_string();
    assert!(reason.contains("import the file again"), "{reason}");
    let report = place.importer.import(&path, &with_register, |_| {}).await.unwrap();
    assert_eq!((report.unchanged, report.refused), (3, 0));
    assert_eq!(register.pool().await.unwrap().assigned, 3);
}
