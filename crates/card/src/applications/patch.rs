//! The vendor's patch: replaces the operating system whole or not at all (ours: docs/card-profile.md).

use crate::card::Card;
use crate::storage::Kind;
use sha2::{Digest, Sha256};
use simtide_protocol::apdu::{Command, Response, StatusWord};
use simtide_protocol::patch::{self, PatchCommand};
use simtide_protocol::tlv;
use subtle::ConstantTimeEq;

/// A patch on its way in.
pub(super) struct Staging {
    version: u32,
    length: usize,
    digest: [u8; 32],
    image: Vec<u8>,
    next_block: u16,
}

impl Card {
    pub(super) fn patch_command(&mut self, command: &Command<'_>) -> Response {
        if command.cla & 0xF0 != 0x80 {
            return StatusWord::CLASS.into();
        }
        if command.ins == 0xCA {
            return self.patch_data(u16::from_be_bytes([command.p1, command.p2]));
        }
        // The mark of a campaign step that is not repeatable stands around the patch, in the same script.
        if command.ins == 0xE2 {
            return self.store_data(command.data).err().unwrap_or(StatusWord::OK).into();
        }
        match PatchCommand::parse(command) {
            Ok(PatchCommand::Begin { version, length, digest }) => {
                let (length, image) = (length as usize, Vec::new());
                if length > patch::IMAGE_BYTES_MAX {
                    return StatusWord::NO_MEMORY.into();
                }
                let staging = Staging { version, length, digest, image, next_block: 0 };
                self.session().loading.patch = Some(staging);
                StatusWord::OK.into()
            }
            Ok(PatchCommand::Data { block, bytes }) => self.patch_block(block, bytes).into(),
            Ok(PatchCommand::Commit) => self.commit_patch().into(),
            Err(status) => status.into(),
        }
    }

    /// Blocks come in their order; a repeated block changes nothing.
    fn patch_block(&mut self, block: u16, bytes: &[u8]) -> StatusWord {
        let Some(staging) = self.session().loading.patch.as_mut() else { return StatusWord::CONDITIONS };
        if block.checked_add(1) == Some(staging.next_block) {
            return StatusWord::OK;
        }
        if block != staging.next_block {
            return StatusWord::WRONG_P1_P2;
        }
        if staging.image.len() + bytes.len() > staging.length {
            return StatusWord::WRONG_LENGTH;
        }
        staging.image.extend_from_slice(bytes);
        staging.next_block += 1;
        StatusWord::OK
    }

    /// The only step that changes the card: one entry, and only where length and digest fit.
    fn commit_patch(&mut self) -> StatusWord {
        let Some(staging) = self.session().loading.patch.take() else { return StatusWord::CONDITIONS };
        if staging.image.len() != staging.length {
            return StatusWord::CONDITIONS;
        }
        let found: [u8; 32] = Sha256::digest(&staging.image).into();
        if !bool::from(found.ct_eq(&staging.digest)) {
            return StatusWord::WRONG_DATA;
        }
        let (_, patches) = self.os_version();
        self.set_os_version(staging.version, patches.saturating_add(1));
        StatusWord::OK
    }

    /// GET DATA of the patch application.
    fn patch_data(&self, tag: u16) -> Response {
        if u32::from(tag) != patch::VERSION_TAG {
            return StatusWord::REFERENCE_NOT_FOUND.into();
        }
        let (version, patches) = self.os_version();
        let mut data = Vec::new();
        let value = [&version.to_be_bytes()[..], &patches.to_be_bytes()].concat();
        tlv::push(&mut data, patch::VERSION_TAG, &value);
        Response::ok(data)
    }

    /// Version of the operating system, and how many patches have been committed.
    pub(crate) fn os_version(&self) -> (u32, u16) {
        match self.storage.get(Kind::OperatingSystem, 0) {
            Some(&[a, b, c, d, e, f]) => (u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, f])),
            _ => (self.profile.os_version, 0),
        }
    }

    pub(crate) fn set_os_version(&mut self, version: u32, patches: u16) {
        let entry = [&version.to_be_bytes()[..], &patches.to_be_bytes()].concat();
        self.storage.put(Kind::OperatingSystem, 0, &entry);
    }
}
