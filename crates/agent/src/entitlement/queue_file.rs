//! The journal of a device's queues: a file that only grows, and starts anew when it has grown enough.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use simtide_device::queues::{JOURNAL_BYTES_MAX, JournalError, Queues, Tail};

/// The journal within its folder.
const JOURNAL: &str = "queue.journal";
/// Held while a device uses the folder.
const LOCK: &str = "queue.lock";

/// The file. While it is open, no other device can open it.
#[derive(Debug)]
pub struct QueueFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    _lock: File,
}

/// Why a queue cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum QueueFileError {
    /// The disk.
    #[error("{path}: {source}; the device needs a folder of its own that it can write to")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process.
    #[error("{0} is in use by another device: give each a folder of its own")]
    InUse(PathBuf),
    /// What lies there.
    #[error("{path}: {source}")]
    Journal {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: JournalError,
    },
}

impl QueueFile {
    /// Opens the queues of a folder, or makes it. A record torn by a cut is left out; a damaged journal is set aside under
    /// another name and what can be read of it is used.
    pub fn open(folder: &Path) -> Result<(Self, Queues), QueueFileError> {
        let path = folder.join(JOURNAL);
        let failed = |source| QueueFileError::Io { path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let lock = OpenOptions::new().create(true).append(true).open(folder.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(QueueFileError::InUse(folder.to_owned())),
            Err(std::fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        let journal = match std::fs::read(&path) {
            Ok(journal) => journal,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let (queues, tail) = Queues::from_journal(&journal)
            .map_err(|source| QueueFileError::Journal { path: path.clone(), source })?;
        match tail {
            Tail::Whole => {}
            Tail::Torn(bytes) => tracing::info!(bytes, "the end of the queue was torn by a cut: left out"),
            Tail::Damaged(bytes) => {
                let aside = path.with_extension("damaged");
                std::fs::copy(&path, &aside).map_err(failed)?;
                tracing::warn!(
                    bytes,
                    copy = %aside.display(),
                    "a part of the queue cannot be read: it is left out, and the server sends again what the card has not proven"
                );
            }
        }
        let (file, bytes) = create(&path, &queues.snapshot()).map_err(failed)?;
        Ok((Self { path, file, bytes, _lock: lock }, queues))
    }

    /// Appends changes; they are on the disk when this returns. After an error nothing may be written any more: what lies
    /// on the disk is unknown.
    pub fn append(&mut self, changes: &[u8], queues: &Queues) -> io::Result<()> {
        if self.bytes + changes.len() as u64 > JOURNAL_BYTES_MAX {
            (self.file, self.bytes) = create(&self.path, &queues.snapshot())?;
            return Ok(());
        }
        self.file.write_all(changes)?;
        self.file.sync_data()?;
        self.bytes += changes.len() as u64;
        Ok(())
    }
}

/// A new journal takes the place of the old one.
fn create(path: &Path, content: &[u8]) -> io::Result<(File, u64)> {
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok((file, content.len() as u64))
}
