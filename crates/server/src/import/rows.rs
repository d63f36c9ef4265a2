//! Rows of a file as they go to the store: parsed, checked against the file, sealed. Runs on a thread of its own.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use simtide_protocol::card_file::{self, CardRow, Item, Reader, Secret};
use simtide_protocol::ids::{CardId, EpochMs, ProfileName};
use tokio::sync::mpsc;

use super::{DUPLICATES_ROWS_MAX, ImportError, ROWS_PER_BATCH, Refusal, RefusalReason, each_chunk};
use crate::registers::Subscriber;
use crate::store::{Alias, CardRecord, TenantId};
use crate::vault::{Vault, VaultError};

/// A row that is ready to be stored; what is left to find are the numbers of its names.
pub(super) struct ReadyRow {
    pub(super) line: u64,
    pub(super) record: CardRecord,
    pub(super) counters: Vec<(u8, u64)>,
    pub(super) profile: Option<ProfileName>,
    pub(super) device_kind: Option<String>,
    pub(super) tags: Vec<String>,
    pub(super) next_poll: Option<EpochMs>,
    pub(super) last_update: Option<EpochMs>,
    /// What must be this card's alone.
    pub(super) claims: Vec<(Alias, &'static str)>,
    /// What a register is told of it.
    pub(super) subscriber: Option<Subscriber>,
}

/// Rows that follow each other in the file.
#[derive(Default)]
pub(super) struct ReadyBatch {
    pub(super) rows: Vec<ReadyRow>,
    pub(super) refusals: Vec<Refusal>,
    /// Bytes of the file read so far.
    pub(super) bytes: u64,
}

/// Makes batches of a file.
pub(super) struct Parser {
    pub(super) vault: Arc<Vault>,
    pub(super) tenant: TenantId,
    /// Rows that an earlier run has settled.
    pub(super) skip: u64,
    /// Whether rows go to a register, too.
    pub(super) with_subscriber: bool,
    /// Lines of the cards seen.
    pub(super) seen: HashMap<CardId, u64>,
    pub(super) items: u64,
}

impl Parser {
    pub(super) fn run(
        mut self,
        path: &Path,
        settings: card_file::Settings,
        id: [u8; 32],
        batches: &mpsc::Sender<ReadyBatch>,
    ) -> Result<(), ImportError> {
        let mut reader = Reader::new(settings);
        let mut hash = Sha256::new();
        let mut batch = ReadyBatch::default();
        each_chunk(path, |chunk, _| {
            hash.update(chunk);
            reader.feed(chunk);
            batch.bytes += chunk.len() as u64;
            while let Some(item) = reader.next_item()? {
                self.item(item, &mut batch)?;
                if batch.rows.len() + batch.refusals.len() >= ROWS_PER_BATCH {
                    let next = ReadyBatch { bytes: batch.bytes, ..ReadyBatch::default() };
                    send(batches, std::mem::replace(&mut batch, next))?;
                }
            }
            Ok(())
        })?;
        reader.finish()?;
        if <[u8; 32]>::from(hash.finalize()) != id {
            return Err(ImportError::Changed);
        }
        send(batches, batch)
    }

    fn item(&mut self, item: Item, batch: &mut ReadyBatch) -> Result<(), VaultError> {
        self.items += 1;
        let is_settled = self.items <= self.skip;
        match item {
            Item::Refused { line, error } if !is_settled => {
                batch.refusals.push(Refusal { line, card: None, reason: error.into() });
            }
            Item::Refused { .. } => {}
            Item::Row { line, row } => {
                let card = row.card_id();
                let before = self.seen.get(&card).copied();
                if before.is_none() && self.seen.len() < DUPLICATES_ROWS_MAX {
                    self.seen.insert(card, line);
                }
                match before {
                    _ if is_settled => {}
                    Some(first) => {
                        let reason = RefusalReason::Twice(first);
                        batch.refusals.push(Refusal { line, card: Some(card), reason });
                    }
                    None if self.with_subscriber && subscriber(&row).is_none() => {
                        let reason = RefusalReason::NoSubscription;
                        batch.refusals.push(Refusal { line, card: Some(card), reason });
                    }
                    None => batch.rows.push(self.ready(line, *row)?),
                }
            }
        }
        Ok(())
    }

    fn ready(&self, line: u64, row: CardRow) -> Result<ReadyRow, VaultError> {
        let id = row.card_id();
        let sealed = self.vault.seal_card(self.tenant, &id, &row)?;
        let claims = self.claims(&id, &row);
        Ok(ReadyRow {
            line,
            record: CardRecord {
                id,
                tenant: self.tenant,
                iccid: Some(row.iccid),
                eid: row.eid,
                imsi: row.imsi,
                msisdn: row.msisdn,
                psk_identity: row.psk_identity.clone(),
                sealed,
            },
            counters: row.key_sets.iter().map(|set| (set.index, set.counter)).collect(),
            profile: row.profile.clone(),
            device_kind: row.device_kind.clone(),
            tags: row.tags.clone(),
            next_poll: row.next_poll,
            last_update: row.last_update,
            claims,
            subscriber: subscriber(&row).filter(|_| self.with_subscriber),
        })
    }

    fn claims(&self, id: &CardId, row: &CardRow) -> Vec<(Alias, &'static str)> {
        let key = |key: &Secret, what| (Alias::Fingerprint(self.vault.key_fingerprint(key)), what);
        let mut claims = Vec::new();
        if id.iccid().is_none() {
            claims.push((Alias::Iccid(row.iccid), "the ICCID"));
        }
        claims.extend(row.eid.filter(|_| id.eid().is_none()).map(|eid| (Alias::Eid(eid), "the EID")));
        claims.extend(row.imsi.map(|imsi| (Alias::Imsi(imsi), "the IMSI")));
        claims.extend(row.msisdn.map(|msisdn| (Alias::Msisdn(msisdn), "the MSISDN")));
        if !row.psk_identity.is_empty() {
            claims.push((Alias::PskIdentity(row.psk_identity.clone()), "the PSK identity"));
        }
        claims.extend(row.ki.iter().map(|ki| key(ki, "the Ki")));
        for set in &row.key_sets {
            claims.push(key(&set.kic, "a KIc key"));
            claims.push(key(&set.kid, "a KID key"));
            claims.extend(set.kik.iter().map(|kik| key(kik, "a KIK key")));
        }
        claims.extend(row.psk.iter().map(|psk| key(psk, "the pre-shared key")));
        let code = row.admin_code.as_ref();
        claims.extend(
            code.map(|code| (Alias::Fingerprint(self.vault.admin_code_fingerprint(code)), "the admin code")),
        );
        claims
    }
}

fn subscriber(row: &CardRow) -> Option<Subscriber> {
    Some(Subscriber {
        card: row.card_id(),
        imsi: row.imsi?,
        algorithm: row.algorithm,
        k: row.ki.clone()?,
        opc: row.opc.clone()?,
        msisdn: row.msisdn,
    })
}

fn send(batches: &mpsc::Sender<ReadyBatch>, batch: ReadyBatch) -> Result<(), ImportError> {
    batches.blocking_send(batch).map_err(|_| ImportError::Interrupted)
}
