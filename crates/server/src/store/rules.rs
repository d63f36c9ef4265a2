//! What every back end decides alike: where a row belongs, what a batch may contain, who gets a counter.

use sha2::{Digest, Sha256};
use simtide_platform::card::CardState;
use simtide_protocol::ids::{Bucket, CardId, EpochMs};

use super::batch::*;
use super::cases::{CASE_BODY_BYTES_MAX, CASE_SEALED_BYTES_MAX, CaseRow, IdentityRow, SubscriptionChange};
use super::progress::Progress;
use super::types::*;
use super::{BUCKETS_MAX, PAGE_ROWS_MAX, StoreError};

/// Highest SCP80 counter: 5 bytes on the wire (ETSI TS 102 225, 5.1.4).
pub const COUNTER_MAX: u64 = (1 << 40) - 1;
/// Rows deleted by one purge at most, of each kind.
pub const PURGE_ROWS_MAX: usize = 10_000;
/// Cards examined for one page of a list at most.
pub const CARDS_EXAMINED_MAX: usize = 20_000;
/// Slots of a histogram at most.
pub const SLOTS_MAX: usize = 100_000;

/// How many buckets and groups there are, fixed at creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Buckets, a power of two.
    pub buckets: u16,
    /// Card groups, a power of two, at most as many as buckets.
    pub groups: u16,
}

impl Layout {
    /// Checks the numbers.
    pub fn new(buckets: u16, groups: u16) -> Result<Layout, StoreError> {
        let powers = buckets.is_power_of_two() && groups.is_power_of_two();
        if powers && buckets <= BUCKETS_MAX && groups <= buckets {
            Ok(Layout { buckets, groups })
        } else {
            Err(StoreError::Misuse("buckets and groups must be powers of two, groups <= buckets <= 4096"))
        }
    }

    /// Bucket of a card.
    pub fn bucket(self, card: CardId) -> Bucket {
        Bucket::of(&card, self.buckets)
    }

    /// Group of a bucket.
    pub fn group(self, bucket: Bucket) -> Group {
        Group::Cards(bucket.0 % self.groups)
    }

    /// Group of a card.
    pub fn group_of(self, card: CardId) -> Group {
        self.group(self.bucket(card))
    }

    /// Buckets of a group.
    pub fn buckets_of(self, group: Group) -> impl Iterator<Item = Bucket> {
        (0..self.buckets).map(Bucket).filter(move |bucket| self.group(*bucket) == group)
    }

    /// All card groups.
    pub fn card_groups(self) -> impl Iterator<Item = Group> {
        (0..self.groups).map(Group::Cards)
    }

    /// Group of an alias: by its own bytes, because whoever asks does not know the card yet.
    pub fn alias_group(self, alias: &Alias) -> Group {
        let (kind, value) = alias_key(alias);
        let hash = std::iter::once(kind).chain(value).fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
        });
        // The remainder fits: groups are at most 4096.
        Group::Cards(((hash >> 7) % u64::from(self.groups)) as u16)
    }

    /// Refuses what the lease does not cover, before anything is applied.
    pub fn check(self, group: Group, batch: &Batch) -> Result<(), StoreError> {
        if batch.ops.len() > BATCH_OPS_MAX {
            return Err(StoreError::Misuse("too many operations in a batch"));
        }
        for op in &batch.ops {
            if self.group_of_op(op).is_some_and(|needed| needed != group) {
                return Err(StoreError::Misuse("an operation belongs to another group"));
            }
            if let Op::PutCase { row, .. } = op
                && (row.body.len() > CASE_BODY_BYTES_MAX || row.sealed.len() > CASE_SEALED_BYTES_MAX)
            {
                return Err(StoreError::Misuse("a case is too large"));
            }
            if let Op::Trigger(trigger) = op {
                if trigger.cards.len() > TRIGGER_CARDS_MAX {
                    return Err(StoreError::Misuse("too many cards in a trigger"));
                }
                if trigger.cards.iter().any(|card| self.bucket(card.card) != trigger.bucket) {
                    return Err(StoreError::Misuse("a card of a trigger is in another bucket"));
                }
            }
        }
        Ok(())
    }

    /// `None`: every card group takes it.
    fn group_of_op(self, op: &Op) -> Option<Group> {
        Some(match op {
            Op::ClaimAlias { alias, .. } | Op::ReleaseAlias { alias, .. } => self.alias_group(alias),
            Op::PutCard(new) => self.group_of(new.record.id),
            Op::ChangeCard { card, .. }
            | Op::PollBegun { card, .. }
            | Op::Attempt { card, .. }
            | Op::History { card, .. } => self.group_of(*card),
            Op::PollDone(done) => self.group_of(done.card),
            Op::Trigger(trigger) => self.group(trigger.bucket),
            Op::Command(command) => self.group_of(command.card),
            Op::Packet(change) => self.group_of(change.key.card),
            Op::PutCase { row, .. } => self.group_of(row.card),
            Op::Exception(ExceptionChange::Put(row)) => self.group_of(row.card),
            Op::Exception(ExceptionChange::Remove { card, .. }) => self.group_of(*card),
            Op::Progress { bucket, .. } | Op::Cursor { bucket, .. } => self.group(*bucket),
            Op::JumpCounters | Op::Purge { .. } => return None,
            Op::PutCampaign(_)
            | Op::StartCampaign { .. }
            | Op::PutDirectory(_)
            | Op::Audit(_)
            | Op::Idempotency(_)
            | Op::PutImportJob(_) => Group::Platform,
        })
    }
}

/// Kind and value of an alias as stored.
pub fn alias_key(alias: &Alias) -> (u8, Vec<u8>) {
    match alias {
        Alias::Iccid(iccid) => (1, CardId::from(*iccid).as_bytes().to_vec()),
        Alias::Eid(eid) => (2, eid.as_bytes().to_vec()),
        Alias::Imsi(imsi) => (3, number(&imsi.to_string())),
        Alias::Msisdn(msisdn) => (4, number(&msisdn.to_string())),
        Alias::PskIdentity(identity) => (5, identity.clone()),
        Alias::Fingerprint(value) => (6, value.to_vec()),
    }
}

/// Digits in half the bytes: two per byte, filled with F.
fn number(digits: &str) -> Vec<u8> {
    let nibble = |byte: &u8| byte.wrapping_sub(b'0') & 0x0F;
    digits.as_bytes().chunks(2).map(|pair| nibble(&pair[0]) << 4 | pair.get(1).map_or(0x0F, nibble)).collect()
}

/// Whether a card is called in: what the store knows now against what was known when the page was read.
pub fn grant_trigger(
    hot: Option<&CardHot>,
    seen: &TriggerCard,
    number: u32,
    has_open_packet: bool,
    counter: Option<u64>,
) -> Result<u64, PassedOver> {
    let (Some(hot), Some(counter)) = (hot, counter) else { return Err(PassedOver::Unknown) };
    if hot.last_update != seen.last_update {
        return Err(PassedOver::Polled);
    }
    if hot.state != CardState::Active || hot.applied.has(number) {
        return Err(PassedOver::NotConcerned);
    }
    next_counter(has_open_packet, counter)
}

/// Whether a command gets a counter.
pub fn grant_command(hot: &CardHot, has_open_packet: bool, counter: Option<u64>) -> Result<u64, PassedOver> {
    let Some(counter) = counter else { return Err(PassedOver::Unknown) };
    if hot.state == CardState::Retired {
        return Err(PassedOver::NotConcerned);
    }
    next_counter(has_open_packet, counter)
}

fn next_counter(has_open_packet: bool, counter: u64) -> Result<u64, PassedOver> {
    if has_open_packet {
        return Err(PassedOver::OpenPacket);
    }
    if counter >= COUNTER_MAX { Err(PassedOver::CounterExhausted) } else { Ok(counter + 1) }
}

/// The row that reserves a trigger.
pub fn trigger_packet(trigger: &Trigger, card: &TriggerCard, counter: u64) -> Packet {
    Packet {
        key: PacketKey { card: card.card, key_set: card.key_set, counter },
        origin: Origin::Trigger(trigger.campaign),
        tar: trigger.tar,
        spi: trigger.spi,
        state: PacketState::Queued,
        at: trigger.at,
        deadline: trigger.deadline,
        message_ids: Vec::new(),
        data: Vec::new(),
    }
}

/// The row that reserves a command.
pub fn command_packet(command: &Command, counter: u64) -> Packet {
    Packet {
        key: PacketKey { card: command.card, key_set: command.key_set, counter },
        origin: command.origin,
        tar: command.tar,
        spi: command.spi,
        state: PacketState::Queued,
        at: command.at,
        deadline: command.deadline,
        message_ids: Vec::new(),
        data: command.data.clone(),
    }
}

/// The sums that a trigger itself changes.
pub fn trigger_progress(grants: &[Result<u64, PassedOver>]) -> Progress {
    let count =
        |wanted: fn(&Result<u64, PassedOver>) -> bool| grants.iter().filter(|grant| wanted(grant)).count();
    Progress {
        triggers: count(Result::is_ok) as i64,
        passed_over: count(|grant| *grant == Err(PassedOver::Polled)) as i64,
        ..Progress::default()
    }
}

/// The row that an attempt leaves: begun, nothing else known.
pub fn attempt_row(before: Option<&Exception>, campaign: CampaignId, card: CardId, step: u8) -> Exception {
    let attempts = before.map_or(0, |row| row.attempts).saturating_add(1);
    Exception { campaign, card, status: ExceptionStatus::Begun, attempts, step, retry_at: None }
}

/// What the end of a dialogue does to the narrow row.
pub fn poll_done(hot: &mut CardHot, done: &PollDone) -> Result<(), StoreError> {
    hot.applied.settle(done.settled);
    for number in &done.applied {
        if !hot.applied.mark(*number) {
            return Err(StoreError::Misuse("a campaign number lies more than 64 above what is settled"));
        }
    }
    hot.next_poll = done.next_poll.unwrap_or(hot.next_poll);
    Ok(())
}

/// Next value of the audit chain: every field with its length, behind the previous value.
pub fn audit_chain(previous: &[u8; 32], sequence: u64, line: &AuditLine) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(previous);
    hash.update(sequence.to_be_bytes());
    hash.update(line.at.0.to_be_bytes());
    hash.update(line.tenant.0.to_be_bytes());
    for text in [&line.actor, &line.action, &line.object, &line.detail] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    hash.finalize().into()
}

/// A history detail cut to its limit at a character.
pub fn cut_detail(detail: &str) -> &str {
    let mut end = detail.len().min(HISTORY_DETAIL_BYTES_MAX);
    while !detail.is_char_boundary(end) {
        end -= 1;
    }
    &detail[..end]
}

/// Refuses pages that are too large.
pub fn check_rows(rows_max: usize) -> Result<(), StoreError> {
    if (1..=PAGE_ROWS_MAX).contains(&rows_max) {
        Ok(())
    } else {
        Err(StoreError::Misuse("a page has 1 to 1000 rows"))
    }
}

/// Refuses histograms that are too long or have no width.
pub fn check_slots(from: EpochMs, slot_ms: u64, slots: usize) -> Result<(), StoreError> {
    let end =
        i64::try_from(slot_ms).ok().and_then(|slot| slot.checked_mul(slots as i64)?.checked_add(from.0));
    if slot_ms > 0 && slots <= SLOTS_MAX && end.is_some() {
        Ok(())
    } else {
        Err(StoreError::Misuse("a histogram has up to 100,000 slots of at least 1 ms"))
    }
}

/// Whether a list shows a card.
pub fn filter_shows(filter: &super::CardFilter, hot: &CardHot) -> bool {
    filter.operator.is_none_or(|operator| operator == hot.operator)
        && filter.profile.is_none_or(|profile| profile == hot.profile)
        && filter.state.is_none_or(|state| state == hot.state)
        && filter.tags & hot.tags == filter.tags
        && filter.next_poll_before.is_none_or(|before| hot.next_poll < before)
}

/// Whether a case is written: what is there under its id, and the card's other open case of its kind.
pub fn grant_case(
    row: &CaseRow,
    version_before: Option<u32>,
    found: Option<u32>,
    other_open: Option<u64>,
) -> Result<(), Outcome> {
    if found != version_before {
        return Err(Outcome::Conflict);
    }
    match other_open {
        Some(other) if row.open && row.kind == super::CaseKind::Change => Err(Outcome::OpenCase(other)),
        _ => Ok(()),
    }
}

/// Lines that a change adds to a card's identities; none where it has brought its identity already.
pub fn identity_rows(
    record: &CardRecord,
    operator: OperatorId,
    latest: Option<&IdentityRow>,
    change: &SubscriptionChange,
) -> Vec<IdentityRow> {
    if latest.is_some_and(|row| row.change == Some(change.change)) {
        return Vec::new();
    }
    let card = record.id;
    let first = IdentityRow {
        card,
        sequence: 0,
        since: None,
        imsi: record.imsi,
        msisdn: record.msisdn,
        operator,
        change: None,
    };
    let next = IdentityRow {
        card,
        sequence: latest.map_or(0, |row| row.sequence) + 1,
        since: Some(change.at),
        imsi: Some(change.imsi),
        msisdn: change.msisdn,
        operator: change.operator,
        change: Some(change.change),
    };
    if latest.is_some() { vec![next] } else { vec![first, next] }
}

/// Applies one change of a card to its rows.
pub fn change_card(
    record: &mut CardRecord,
    hot: &mut CardHot,
    counters: &mut Vec<(u8, u64)>,
    change: &CardChange,
) {
    match change {
        CardChange::State(state) => hot.state = *state,
        CardChange::Tags(tags) => hot.tags = *tags,
        CardChange::Msisdn(msisdn) => record.msisdn = *msisdn,
        CardChange::NextPoll(date) => hot.next_poll = *date,
        CardChange::Sealed(sealed) => record.sealed = sealed.clone(),
        CardChange::Subscription(change) => {
            record.imsi = Some(change.imsi);
            record.msisdn = change.msisdn;
            record.sealed.subscription.clone_from(&change.sealed_subscription);
            hot.operator = change.operator;
        }
        CardChange::RaiseCounter { key_set, counter } => {
            match counters.iter_mut().find(|(index, _)| index == key_set) {
                Some((_, last)) => *last = (*last).max(*counter),
                None => {
                    counters.push((*key_set, *counter));
                    counters.sort_unstable();
                }
            }
        }
    }
}
