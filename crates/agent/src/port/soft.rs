//! `soft:PROFILE[:STATE]`: a card in this process, its state in a journal on disk.
//!
//! The journal is a file of the records that the card gives ([`Card::take_changes`]). A record is on the disk before the
//! answer to its command leaves, so that after a cut at any byte the card is as somebody has seen it. A journal that has
//! grown starts anew with a snapshot, by a new file that takes the place of the old one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use simtide_card::secure_channel::{Environment, SecureChannels};
use simtide_card::{Card, Personalization};
use simtide_protocol::profile::Profile;

use super::{CardPort, PortError};

/// Size at which a journal starts anew, in bytes.
pub const JOURNAL_BYTES_MAX: u64 = 1 << 20;

/// Where a card's records go.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Journal {
    /// Opens the journal of a card, or makes one for a card that has none yet.
    pub fn open(
        path: &Path,
        profile: &Arc<Profile>,
        personalization: impl FnOnce() -> Personalization,
    ) -> Result<(Self, Card), PortError> {
        let state = |error: &dyn std::fmt::Display| PortError::State(format!("{}: {error}", path.display()));
        let card = match std::fs::read(path) {
            Ok(bytes) => Card::restore(profile.clone(), &bytes).map_err(|error| state(&error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Card::personalised(profile.clone(), &personalization())
            }
            Err(error) => return Err(state(&error)),
        };
        // What a cut left at the end is gone with the new file.
        let mut journal = Self::create(path, &card.snapshot()).map_err(|error| state(&error))?;
        let mut card = card;
        if let Some(record) = card.take_changes() {
            journal.append(&record).map_err(|error| state(&error))?;
        }
        Ok((journal, card))
    }

    /// A new file with this content takes the place of the old one.
    fn create(path: &Path, content: &[u8]) -> io::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let fresh = PathBuf::from(name);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        if let Some(folder) = path.parent() {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            File::open(folder)?.sync_all()?;
        }
        Ok(Self { path: path.to_owned(), file, bytes: content.len() as u64 })
    }

    /// Writes a record; it is on the disk when this returns.
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        self.file.write_all(record)?;
        self.file.sync_data()?;
        self.bytes += record.len() as u64;
        Ok(())
    }
}

/// The card.
pub struct SoftPort {
    card: Card,
    journal: Option<Journal>,
    channels: Arc<dyn SecureChannels>,
    /// A journal that could not be written: the card is never asked again, or it would forget what it has answered.
    failed: bool,
}

impl std::fmt::Debug for SoftPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SoftPort")
    }
}

impl SoftPort {
    /// A card whose state lives as long as the process.
    pub fn volatile(card: Card, channels: Arc<dyn SecureChannels>) -> Self {
        Self { card, journal: None, channels, failed: false }
    }

    /// A card whose state is kept in a file.
    pub fn durable(
        path: &Path,
        profile: &Arc<Profile>,
        personalization: impl FnOnce() -> Personalization,
        channels: Arc<dyn SecureChannels>,
    ) -> Result<Self, PortError> {
        let (journal, card) = Journal::open(path, profile, personalization)?;
        Ok(Self { card, journal: Some(journal), channels, failed: false })
    }

    /// The card itself.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Does something with the card and stores what it changed.
    fn with<T>(&mut self, act: impl FnOnce(&mut Card, &mut Environment<'_>) -> T) -> Result<T, PortError> {
        if self.failed {
            return Err(PortError::State("an earlier change could not be stored: start again".to_owned()));
        }
        let mut environment = Environment { channels: self.channels.as_ref(), random: &mut random };
        let answer = act(&mut self.card, &mut environment);
        if let (Some(record), Some(journal)) = (self.card.take_changes(), self.journal.as_mut()) {
            let stored = journal.append(&record).and_then(|()| {
                if journal.bytes > JOURNAL_BYTES_MAX {
                    *journal = Journal::create(&journal.path, &self.card.snapshot())?;
                }
                Ok(())
            });
            if let Err(error) = stored {
                self.failed = true;
                return Err(PortError::State(format!("{}: {error}", journal.path.display())));
            }
        }
        Ok(answer)
    }
}

/// Random bytes for a card, from OpenSSL.
pub fn random(buffer: &mut [u8]) {
    // Without randomness no nonce is safe: the process must not go on.
    if let Err(error) = openssl::rand::rand_bytes(buffer) {
        panic!("the system gives no random bytes: {error}");
    }
}

impl CardPort for SoftPort {
    fn reset(&mut self) -> Result<Vec<u8>, PortError> {
        self.with(|card, environment| card.reset(environment))
    }

    fn transmit(&mut self, command: &[u8], response: &mut Vec<u8>) -> Result<(), PortError> {
        *response = self.with(|card, environment| card.transmit(environment, command))?;
        Ok(())
    }
}

impl Drop for SoftPort {
    fn drop(&mut self) {
        self.card.power_off();
    }
}
