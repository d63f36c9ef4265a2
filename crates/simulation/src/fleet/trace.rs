//! The record of single cards' APDUs, as lines of JSON. It holds whatever the APDUs hold.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use simtide_protocol::ids::{EpochMs, Iccid};

/// An open record.
#[derive(Debug)]
pub(super) struct Trace {
    file: Mutex<File>,
}

#[derive(Serialize)]
struct Line {
    at: EpochMs,
    iccid: Iccid,
    command: String,
    response: String,
}

impl Trace {
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: Mutex::new(File::create(path)?) })
    }

    pub fn write(&self, at: EpochMs, iccid: Iccid, command: &[u8], response: &[u8]) {
        let line =
            Line { at, iccid, command: hex::encode_upper(command), response: hex::encode_upper(response) };
        let Ok(mut text) = serde_json::to_vec(&line) else { return };
        text.push(b'\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(&text) {
            tracing::warn!(%error, "the record of APDUs cannot be written");
        }
    }
}
