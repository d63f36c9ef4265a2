//! The pool of a register: its identities and their keys, in a file of its own, with a vault of its own.
//!
//! A verb is one durable transaction, made before its effect at the register; what is repeated finds what it did the
//! first time. State table: see [the module above](super).

mod entry;
mod file;
mod stock;

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
use simtide_protocol::gsup::Domain;
use simtide_protocol::ids::{CardId, ChangeId, Imsi};
use tokio::sync::Notify;

use self::file::{PoolFile, failed};
use super::{PoolState, RegisterError, Subscriber};
use crate::vault::{AlarmLimits, KeyFile, Vault, VaultSettings};

pub use entry::{Attached, Entry, State};
pub use stock::{Added, Stock, StockError};

use entry::{COLUMNS, from_row, seal_keys};

/// The pool of one register.
pub struct Pool {
    file: PoolFile,
    vault: Arc<Vault>,
    /// Keys of nobody, sealed as others are.
    nobody: Vec<u8>,
    attaches: Notify,
}

/// What a reservation got.
pub struct Reserved {
    /// The identity with its keys.
    pub entry: Entry,
    /// Whether the change had it before.
    pub again: bool,
}

impl Pool {
    /// Opens or makes a pool at `path`, with keystore and key file beside it.
    ///
    /// # Errors
    /// Where a file cannot be used.
    pub fn open(path: &Path) -> Result<Pool, RegisterError> {
        let beside = |ending: &str| path.with_extension(ending);
        let vault_failed = |error: crate::vault::VaultError| RegisterError::Refused(error.to_string());
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let key = KeyFile::open_or_make(&beside("key")).map_err(vault_failed)?;
        // A centre opens a subscription at every authentication: no alarm by their number.
        let limits = AlarmLimits { subscription: 0, ..AlarmLimits::default() };
        let settings = VaultSettings { keystore: beside("keystore"), limits };
        let vault = Vault::open(&key, &settings).map_err(vault_failed)?;
        let nobody = entry::seal_nobody(&vault)?;
        Ok(Pool { file: PoolFile::open(path)?, vault: Arc::new(vault), nobody, attaches: Notify::new() })
    }

    /// Adds identities; those that are there already are left as they are.
    ///
    /// # Errors
    /// Where the file or the vault fails; then nothing was added.
    pub async fn add(&self, stock: Vec<Stock>) -> Result<Added, RegisterError> {
        let vault = self.vault.clone();
        self.file.write(move |connection| stock::add(connection, &vault, &stock)).await
    }

    /// Takes a free identity for a change; the same change again gets the same.
    ///
    /// # Errors
    /// [`RegisterError::Exhausted`], or [`RegisterError::Conflict`] for a change that was released or is another
    /// card's.
    pub async fn reserve(&self, change: ChangeId, card: CardId) -> Result<Reserved, RegisterError> {
        let vault = self.vault.clone();
        self.file.write(move |connection| reserve(connection, &vault, change, card)).await
    }

    /// Notes that the identity of a change is let in.
    ///
    /// # Errors
    /// [`RegisterError::NotFound`] or [`RegisterError::Conflict`].
    pub async fn arm(&self, change: ChangeId, imsi: Imsi) -> Result<Entry, RegisterError> {
        let vault = self.vault.clone();
        self.file
            .write(move |connection| {
                let entry = load(connection, &vault, imsi)?.ok_or(RegisterError::NotFound)?;
                if entry.change != Some(change) || entry.state == State::Free {
                    return Err(RegisterError::Conflict("the identity is another change's".to_owned()));
                }
                if entry.withdrawn || entry.state == State::Retired || is_released(connection, change)? {
                    return Err(RegisterError::Conflict("the identity has left already".to_owned()));
                }
                let set = "UPDATE identity SET state = 2, access = 1 WHERE imsi = ?1";
                connection.prepare_cached(set).map_err(failed)?.execute([text(imsi)]).map_err(failed)?;
                Ok(Entry { state: State::Assigned, access: true, ..entry })
            })
            .await
    }

    /// Notes that an identity has no access any more. Answers whether the pool knows it.
    ///
    /// # Errors
    /// [`RegisterError::Conflict`] where another change has just reserved it.
    pub async fn withdraw(&self, imsi: Imsi) -> Result<bool, RegisterError> {
        self.file.write(move |connection| leave(connection, imsi, false)).await
    }

    /// Retires an identity for good and forgets its keys. Answers whether the pool knows it.
    ///
    /// # Errors
    /// [`RegisterError::Conflict`] where another change has just reserved it.
    pub async fn retire(&self, imsi: Imsi) -> Result<bool, RegisterError> {
        self.file.write(move |connection| leave(connection, imsi, true)).await
    }

    /// First half of a release: from here on the change reserves nothing. Answers the identity that it has.
    ///
    /// # Errors
    /// [`RegisterError::Conflict`] where the identity has attached: then a card has taken it.
    pub async fn begin_release(&self, change: ChangeId) -> Result<Option<Imsi>, RegisterError> {
        self.file
            .write(move |connection| {
                let put = "INSERT INTO change (id, released) VALUES (?1, 1)
                           ON CONFLICT (id) DO UPDATE SET released = 1";
                connection.prepare_cached(put).map_err(failed)?.execute([key(change)]).map_err(failed)?;
                let find = "SELECT imsi, attached_cs || attached_ps FROM identity
                            WHERE imsi = (SELECT imsi FROM change WHERE id = ?1) AND change = ?1
                              AND state IN (1, 2)";
                let found = connection
                    .prepare_cached(find)
                    .map_err(failed)?
                    .query_row([key(change)], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
                    .optional()
                    .map_err(failed)?;
                let Some((imsi, attached)) = found else { return Ok(None) };
                if !attached.is_empty() {
                    return Err(RegisterError::Conflict("a card has attached with it".to_owned()));
                }
                let set = "UPDATE identity SET access = 0 WHERE imsi = ?1";
                connection.prepare_cached(set).map_err(failed)?.execute([&imsi]).map_err(failed)?;
                Ok(imsi.parse().ok())
            })
            .await
    }

    /// Second half of a release, once the register has deleted the identity: it is free again.
    ///
    /// # Errors
    /// Where the file fails.
    pub async fn end_release(&self, change: ChangeId, imsi: Imsi) -> Result<(), RegisterError> {
        self.file
            .write(move |connection| {
                // The SEQ stays: keys that came with the identity have been used up to it.
                let set =
                    "UPDATE identity SET state = 0, change = NULL, card = NULL, access = 0, reported = 0,
                               keys = CASE keys_fixed WHEN 1 THEN keys ELSE x'' END
                           WHERE imsi = ?1 AND change = ?2 AND state IN (1, 2)";
                let changed = connection.prepare_cached(set).map_err(failed)?;
                let mut changed = changed;
                changed.execute(params![text(imsi), key(change)]).map_err(failed)?;
                Ok(())
            })
            .await
    }

    /// Puts the first subscription of a card in.
    ///
    /// # Errors
    /// [`RegisterError::Conflict`] where the identity is there with other values, or has left.
    pub async fn provision(&self, subscriber: Subscriber) -> Result<(), RegisterError> {
        let vault = self.vault.clone();
        self.file.write(move |connection| provision(connection, &vault, &subscriber)).await
    }

    /// An identity with its keys. One that is not here costs as much: the time does not tell who is a subscriber.
    ///
    /// # Errors
    /// Where the file or the vault fails.
    pub fn entry(&self, imsi: Imsi) -> Result<Option<Entry>, RegisterError> {
        self.file.read(|connection| {
            let entry = load(connection, &self.vault, imsi)?;
            if entry.as_ref().is_none_or(|entry| entry.keys.is_none()) {
                std::hint::black_box(entry::open_nobody(&self.vault, &self.nobody)?);
            }
            Ok(entry)
        })
    }

    /// Notes where an identity is attached in a domain; an empty name: nowhere.
    ///
    /// # Errors
    /// [`RegisterError::NotFound`], or [`RegisterError::Refused`] for one without access.
    pub async fn attached(&self, imsi: Imsi, domain: Domain, element: String) -> Result<(), RegisterError> {
        let noted = self
            .file
            .write(move |connection| {
                let column = match domain {
                    Domain::CircuitSwitched => "attached_cs",
                    Domain::PacketSwitched => "attached_ps",
                };
                let set =
                    format!("UPDATE identity SET {column} = ?2 WHERE imsi = ?1 AND (access = 1 OR ?2 = '')");
                let mut set = connection.prepare_cached(&set).map_err(failed)?;
                match set.execute(params![text(imsi), element]).map_err(failed)? {
                    0 => Err(RegisterError::Refused("the identity has no access".to_owned())),
                    _ => Ok(()),
                }
            })
            .await;
        self.attaches.notify_one();
        noted
    }

    /// Waits until some identity has attached or detached since the last call.
    pub async fn attach_noted(&self) {
        self.attaches.notified().await;
    }

    /// Identities with access whose attach nobody has acknowledged yet: at most `rows_max`, after `after`.
    ///
    /// # Errors
    /// Where the file fails.
    pub fn unreported(
        &self,
        after: Option<Imsi>,
        rows_max: u32,
    ) -> Result<Vec<(Imsi, Option<CardId>)>, RegisterError> {
        self.file.read(|connection| {
            let query = "SELECT imsi, card FROM identity
                         WHERE access = 1 AND reported = 0 AND imsi > ?1 ORDER BY imsi LIMIT ?2";
            let mut query = connection.prepare_cached(query).map_err(failed)?;
            let rows = query
                .query_map(params![after.map(text).unwrap_or_default(), rows_max], |row| {
                    Ok((row.get::<_, String>(0)?, row.get::<_, Option<Vec<u8>>>(1)?))
                })
                .map_err(failed)?;
            let mut found = Vec::new();
            for row in rows {
                let (imsi, card) = row.map_err(failed)?;
                let card = card.and_then(|card| CardId::try_from(card.as_slice()).ok());
                found.push((imsi.parse().map_err(failed)?, card));
            }
            Ok(found)
        })
    }

    /// The platform has acknowledged the attach of an identity.
    ///
    /// # Errors
    /// Where the file fails.
    pub async fn reported(&self, imsi: Imsi) -> Result<(), RegisterError> {
        self.file
            .write(move |connection| {
                let set = "UPDATE identity SET reported = 1 WHERE imsi = ?1";
                connection.prepare_cached(set).map_err(failed)?.execute([text(imsi)]).map_err(failed)?;
                Ok(())
            })
            .await
    }

    /// Raises the SEQ that may be used to `limit`; a lower one changes nothing. Answers the limit that was before.
    ///
    /// # Errors
    /// [`RegisterError::NotFound`], or where the file fails.
    pub async fn raise_seq(&self, imsi: Imsi, from: u64, block: u64) -> Result<u64, RegisterError> {
        self.file
            .write(move |connection| {
                let find = "SELECT seq_limit FROM identity WHERE imsi = ?1";
                let limit = connection
                    .prepare_cached(find)
                    .map_err(failed)?
                    .query_row([text(imsi)], |row| row.get::<_, i64>(0))
                    .optional()
                    .map_err(failed)?;
                let limit = limit.ok_or(RegisterError::NotFound)?.unsigned_abs();
                let start = limit.max(from);
                let set = "UPDATE identity SET seq_limit = ?2 WHERE imsi = ?1";
                let raised = i64::try_from(start.saturating_add(block)).unwrap_or(i64::MAX);
                let mut set = connection.prepare_cached(set).map_err(failed)?;
                set.execute(params![text(imsi), raised]).map_err(failed)?;
                Ok(start)
            })
            .await
    }

    /// The same in the name of nobody.
    ///
    /// # Errors
    /// Where the file fails.
    pub async fn raise_nobody(&self, block: u64) -> Result<u64, RegisterError> {
        self.file
            .write(move |connection| {
                let find = "SELECT seq_limit FROM nobody WHERE id = 0";
                let mut find = connection.prepare_cached(find).map_err(failed)?;
                let start = find.query_row([], |row| row.get::<_, i64>(0)).map_err(failed)?.unsigned_abs();
                let raised = i64::try_from(start.saturating_add(block)).unwrap_or(i64::MAX);
                let set = "UPDATE nobody SET seq_limit = ?1 WHERE id = 0";
                let mut set = connection.prepare_cached(set).map_err(failed)?;
                set.execute([raised]).map_err(failed)?;
                Ok(start)
            })
            .await
    }

    /// The IND of a user of vectors; a new user gets the next one of `first..=last`, the last ones share.
    ///
    /// # Errors
    /// Where the file fails.
    pub async fn vector_user(&self, name: String, first: u8, last: u8) -> Result<u8, RegisterError> {
        self.file
            .write(move |connection| {
                let find = "SELECT ind FROM vector_user WHERE name = ?1";
                let known = connection
                    .query_row(find, [&name], |row| row.get::<_, u8>(0))
                    .optional()
                    .map_err(failed)?;
                if let Some(ind) = known {
                    return Ok(ind);
                }
                let highest = connection
                    .query_row("SELECT max(ind) FROM vector_user", [], |row| row.get::<_, Option<u8>>(0))
                    .map_err(failed)?;
                let ind = highest.map_or(first, |highest| highest.saturating_add(1)).min(last);
                let put = "INSERT INTO vector_user (name, ind) VALUES (?1, ?2)";
                connection.execute(put, params![name, ind]).map_err(failed)?;
                Ok(ind)
            })
            .await
    }

    /// Identities by state.
    ///
    /// # Errors
    /// Where the file fails.
    pub fn state(&self) -> Result<PoolState, RegisterError> {
        self.file.read(|connection| {
            let mut state = PoolState::default();
            let query = "SELECT state, count(*) FROM identity GROUP BY state";
            let mut query = connection.prepare_cached(query).map_err(failed)?;
            let rows = query
                .query_map([], |row| Ok((row.get::<_, u8>(0)?, row.get::<_, i64>(1)?)))
                .map_err(failed)?;
            for row in rows {
                let (code, count) = row.map_err(failed)?;
                let count = count.unsigned_abs();
                match State::from_code(code) {
                    Some(State::Free) => state.free = count,
                    Some(State::Reserved) => state.reserved = count,
                    Some(State::Assigned) => state.assigned = count,
                    Some(State::Retired) => state.retired = count,
                    None => return Err(failed("it was written by a later version")),
                }
            }
            Ok(state)
        })
    }
}

/// A change as the file's key: SQLite has signed numbers only.
fn key(change: ChangeId) -> i64 {
    i64::from_be_bytes(change.to_bytes())
}

fn text(imsi: Imsi) -> String {
    imsi.to_string()
}

fn load(connection: &Connection, vault: &Vault, imsi: Imsi) -> Result<Option<Entry>, RegisterError> {
    let query = format!("SELECT {COLUMNS} FROM identity WHERE imsi = ?1");
    let mut query = connection.prepare_cached(&query).map_err(failed)?;
    let mut rows = query.query([text(imsi)]).map_err(failed)?;
    match rows.next().map_err(failed)? {
        Some(row) => from_row(row, vault).map(Some),
        None => Ok(None),
    }
}

fn is_released(connection: &Connection, change: ChangeId) -> Result<bool, RegisterError> {
    let query = "SELECT released FROM change WHERE id = ?1";
    let mut query = connection.prepare_cached(query).map_err(failed)?;
    let released = query.query_row([key(change)], |row| row.get::<_, bool>(0)).optional().map_err(failed)?;
    Ok(released.unwrap_or(false))
}

fn reserve(
    connection: &Connection,
    vault: &Vault,
    change: ChangeId,
    card: CardId,
) -> Result<Reserved, RegisterError> {
    let find = "SELECT imsi, card, released FROM change WHERE id = ?1";
    let known = connection
        .prepare_cached(find)
        .map_err(failed)?
        .query_row([key(change)], |row| {
            Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Option<Vec<u8>>>(1)?, row.get::<_, bool>(2)?))
        })
        .optional()
        .map_err(failed)?;
    if let Some((imsi, owner, released)) = known {
        if released {
            return Err(RegisterError::Conflict("the change was released".to_owned()));
        }
        if owner.as_deref() != Some(card.as_bytes()) {
            return Err(RegisterError::Conflict("the change is another card's".to_owned()));
        }
        let imsi: Imsi = imsi.unwrap_or_default().parse().map_err(failed)?;
        let entry = load(connection, vault, imsi)?.ok_or(RegisterError::NotFound)?;
        if entry.change != Some(change) || entry.withdrawn || entry.state == State::Retired {
            return Err(RegisterError::Conflict("the identity of the change has left already".to_owned()));
        }
        return Ok(Reserved { entry, again: true });
    }
    let find = "SELECT imsi FROM identity WHERE state = 0 ORDER BY imsi LIMIT 1";
    let free = connection
        .prepare_cached(find)
        .map_err(failed)?
        .query_row([], |row| row.get::<_, String>(0))
        .optional()
        .map_err(failed)?;
    let imsi: Imsi = free.ok_or(RegisterError::Exhausted)?.parse().map_err(failed)?;
    let mut entry = load(connection, vault, imsi)?.ok_or(RegisterError::NotFound)?;
    if entry.keys.is_none() {
        entry.keys = Some(draw_keys(entry.algorithm)?);
    }
    let sealed = seal_keys(vault, imsi, entry.keys.as_ref())?;
    let set = "UPDATE identity SET state = 1, change = ?2, card = ?3, keys = ?4, access = 0, withdrawn = 0,
                   attached_cs = '', attached_ps = '', reported = 0
               WHERE imsi = ?1";
    let mut set = connection.prepare_cached(set).map_err(failed)?;
    set.execute(params![text(imsi), key(change), card.as_bytes(), sealed]).map_err(failed)?;
    let put = "INSERT INTO change (id, card, imsi) VALUES (?1, ?2, ?3)";
    let mut put = connection.prepare_cached(put).map_err(failed)?;
    put.execute(params![key(change), card.as_bytes(), text(imsi)]).map_err(failed)?;
    entry.state = State::Reserved;
    entry.change = Some(change);
    entry.card = Some(card);
    Ok(Reserved { entry, again: false })
}

/// K and OPc of the algorithm's lengths, from the operating system.
fn draw_keys(algorithm: AuthenticationAlgorithm) -> Result<(Secret, Secret), RegisterError> {
    let opc_bytes = match algorithm {
        AuthenticationAlgorithm::Milenage => 16,
        AuthenticationAlgorithm::Tuak => 32,
    };
    let draw = |bytes: usize| {
        let mut random = zeroize::Zeroizing::new([0; 32]);
        let part = random.get_mut(..bytes)?;
        getrandom::fill(part).ok()?;
        Secret::new(part)
    };
    match (draw(16), draw(opc_bytes)) {
        (Some(k), Some(opc)) => Ok((k, opc)),
        _ => Err(RegisterError::Refused("the operating system gives no random numbers".to_owned())),
    }
}

/// Takes access away; with `for_good` the identity is retired and its keys are forgotten.
fn leave(connection: &Connection, imsi: Imsi, for_good: bool) -> Result<bool, RegisterError> {
    let find = "SELECT state FROM identity WHERE imsi = ?1";
    let state = connection
        .prepare_cached(find)
        .map_err(failed)?
        .query_row([text(imsi)], |row| row.get::<_, u8>(0))
        .optional()
        .map_err(failed)?;
    match state.and_then(State::from_code) {
        None => return Ok(false),
        // No card has it: whoever asks means another identity, or another register.
        Some(State::Free | State::Reserved) => {
            return Err(RegisterError::Conflict("no card has the identity".to_owned()));
        }
        Some(State::Retired) => return Ok(true),
        Some(State::Assigned) => {}
    }
    let set = if for_good {
        "UPDATE identity SET state = 3, access = 0, withdrawn = 1, attached_cs = '', attached_ps = '',
             keys = x'' WHERE imsi = ?1"
    } else {
        "UPDATE identity SET access = 0, withdrawn = 1 WHERE imsi = ?1"
    };
    connection.prepare_cached(set).map_err(failed)?.execute([text(imsi)]).map_err(failed)?;
    Ok(true)
}

fn provision(connection: &Connection, vault: &Vault, new: &Subscriber) -> Result<(), RegisterError> {
    let conflict = |what: &str| Err(RegisterError::Conflict(what.to_owned()));
    if let Some(entry) = load(connection, vault, new.imsi)? {
        let is_same = entry.card == Some(new.card)
            && entry.change.is_none()
            && entry.algorithm == new.algorithm
            && entry.msisdn == new.msisdn
            && entry.keys.as_ref().is_some_and(|(k, opc)| *k == new.k && *opc == new.opc);
        match entry.state {
            State::Free => {}
            State::Assigned if entry.withdrawn => return conflict("the identity has left already"),
            State::Assigned if is_same => return Ok(()),
            State::Reserved | State::Assigned => {
                return conflict("the identity is there with other values");
            }
            State::Retired => return conflict("the identity was retired"),
        }
    }
    let keys = (new.k.clone(), new.opc.clone());
    let sealed = seal_keys(vault, new.imsi, Some(&keys))?;
    let put =
        "INSERT INTO identity (imsi, state, card, msisdn, algorithm, keys_fixed, keys, access, reported)
               VALUES (?1, 2, ?2, ?3, ?4, 1, ?5, 1, 1)
               ON CONFLICT (imsi) DO UPDATE SET state = 2, change = NULL, card = excluded.card,
                   msisdn = excluded.msisdn, algorithm = excluded.algorithm, keys_fixed = 1,
                   keys = excluded.keys, access = 1, reported = 1";
    let mut put = connection.prepare_cached(put).map_err(failed)?;
    let msisdn = new.msisdn.map(|number| number.to_string());
    let algorithm = entry::algorithm_code(new.algorithm);
    put.execute(params![text(new.imsi), new.card.as_bytes(), msisdn, algorithm, sealed]).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests;
