//! Logical channels: what each has selected.

use crate::files::FileId;
use simtide_protocol::ids::Aid;

/// One open logical channel.
#[derive(Default)]
pub(crate) struct Channel {
    /// What it has selected.
    pub(crate) selection: Selection,
    /// Response data that waits for GET RESPONSE.
    pub(crate) kept: Vec<u8>,
}

/// What a channel, or a script, has selected (ETSI TS 102 221, 8.4).
#[derive(Clone, Default)]
pub(crate) struct Selection {
    /// The current directory; the MF at first.
    pub(crate) directory: FileId,
    /// The current file of that directory.
    pub(crate) file: Option<FileId>,
    /// The current record of that file, from 1; 0: none.
    pub(crate) record: u8,
    /// The current application's directory.
    pub(crate) adf: Option<FileId>,
    /// The current application, where it is one without files.
    pub(crate) application: Option<Aid>,
}
