//! Remote application management: load files and instances (GlobalPlatform Card Specification 2.3, 11).

use super::patch::Staging;
use crate::card::Card;
use crate::storage::Kind;
use sha2::{Digest, Sha256};
use simtide_protocol::apdu::{Command, Response, StatusWord};
use simtide_protocol::ids::Aid;
use simtide_protocol::poll_date::{MARK_FILE_SIZE, MarkFile};
use simtide_protocol::ram::{LOAD_FILE_BYTES_MAX, MARK_TAG};
use simtide_protocol::tlv::{self, Reader};

/// Most load files on one card.
const LOAD_FILES_MAX: usize = 32;
/// Most instances on one card.
const INSTANCES_MAX: usize = 64;
/// Largest data object that STORE DATA keeps, in bytes.
const STORED_BYTES_MAX: usize = 1024;
/// Most data objects that STORE DATA keeps.
const STORED_OBJECTS_MAX: usize = 16;
/// Index of the entry that counts completed load files.
pub(super) const LOADS: u16 = 1;

/// What comes in block by block; a reset forgets it.
#[derive(Default)]
pub(crate) struct Loading {
    pub(super) load: Option<Load>,
    pub(super) patch: Option<Staging>,
    /// Blocks of STORE DATA.
    stored: Stored,
    /// Where the next GET STATUS goes on.
    pub(super) listed: usize,
}

/// Blocks of STORE DATA before the last one.
#[derive(Default)]
struct Stored {
    next_block: u8,
    blocks: Vec<u8>,
}

/// A load file on its way in.
pub(super) struct Load {
    aid: Aid,
    next_block: u8,
    blocks: Vec<u8>,
}

/// A load file as it is recorded.
pub(super) struct LoadFile {
    pub(super) aid: Aid,
    pub(super) digest: [u8; 32],
    /// Version of the package, major and minor, from its header component; 0.0 where there is none.
    pub(super) version: [u8; 2],
    pub(super) size: u32,
}

/// An instance as it is recorded.
pub(super) struct Instance {
    pub(super) aid: Aid,
    pub(super) load_file: Aid,
    pub(super) module: Aid,
    pub(super) privileges: Vec<u8>,
}

impl Card {
    /// A command to the issuer security domain that came in a secured packet or session.
    pub(super) fn content_command(&mut self, command: &Command<'_>) -> Response {
        if command.cla & 0xF0 != 0x80 {
            return StatusWord::CLASS.into();
        }
        let result = match command.ins {
            0xE6 => self.install(command),
            0xE8 => self.load(command),
            0xE4 => self.delete_content(command),
            0xF2 => return self.get_status(command),
            0xCA => self.get_data(u16::from_be_bytes([command.p1, command.p2])),
            0xD8 => self.put_key(command),
            0xE2 => self.store_data_block(command).map(|()| Vec::new()),
            _ => Err(StatusWord::INSTRUCTION),
        };
        match result {
            Ok(data) => Response::ok(data),
            Err(status) => status.into(),
        }
    }

    /// INSTALL (11.5): for load, for install, for make selectable.
    fn install(&mut self, command: &Command<'_>) -> Result<Vec<u8>, StatusWord> {
        let fields = fields(command.data)?;
        let field = |place: usize| fields.get(place).copied().ok_or(StatusWord::WRONG_DATA);
        match command.p1 & 0x7F {
            0x02 => {
                let aid = aid(field(0)?)?;
                if self.load_files().any(|(_, file)| file.aid == aid) {
                    return Err(StatusWord::CONDITIONS);
                }
                if self.load_files().count() >= LOAD_FILES_MAX {
                    return Err(StatusWord::NO_MEMORY);
                }
                self.session().loading.load = Some(Load { aid, next_block: 0, blocks: Vec::new() });
            }
            // For install, with or without make selectable.
            0x04 | 0x0C => {
                let (load_file, module, instance) = (aid(field(0)?)?, aid(field(1)?)?, aid(field(2)?)?);
                if !self.load_files().any(|(_, file)| file.aid == load_file) {
                    return Err(StatusWord::REFERENCE_NOT_FOUND);
                }
                if self.instances().any(|(_, other)| other.aid == instance)
                    || self.profile.application_by_aid(&instance).is_some()
                {
                    return Err(StatusWord::CONDITIONS);
                }
                if self.instances().count() >= INSTANCES_MAX {
                    return Err(StatusWord::NO_MEMORY);
                }
                let entry =
                    Instance { aid: instance, load_file, module, privileges: field(3)?.to_vec() }.encode();
                let place = self.storage.free_index(Kind::Instance);
                self.storage.put(Kind::Instance, place, &entry);
            }
            0x08 => {
                let instance = aid(field(2)?)?;
                if !self.instances().any(|(_, other)| other.aid == instance) {
                    return Err(StatusWord::REFERENCE_NOT_FOUND);
                }
            }
            _ => return Err(StatusWord::WRONG_P1_P2),
        }
        // Clause 11.5.3.1: a length of zero, no confirmation.
        Ok(vec![0x00])
    }

    /// LOAD (11.6): numbered blocks; with the last one the load file is recorded.
    fn load(&mut self, command: &Command<'_>) -> Result<Vec<u8>, StatusWord> {
        let load = self.session().loading.load.as_mut().ok_or(StatusWord::CONDITIONS)?;
        if command.p2 != load.next_block {
            return Err(StatusWord::WRONG_P1_P2);
        }
        if load.blocks.len() + command.data.len() > LOAD_FILE_BYTES_MAX {
            self.session().loading.load = None;
            return Err(StatusWord::NO_MEMORY);
        }
        load.blocks.extend_from_slice(command.data);
        load.next_block = load.next_block.wrapping_add(1);
        if command.p1 & 0x80 == 0 {
            return Ok(vec![0x00]);
        }
        let load = self.session().loading.load.take().ok_or(StatusWord::CONDITIONS)?;
        // Clause 11.6.2.3: DAP blocks may come before the load file data block.
        let content = Reader::new(&load.blocks).map_while(Result::ok).find(|object| object.tag == 0xC4);
        let content = content.ok_or(StatusWord::WRONG_DATA)?.value;
        let file = LoadFile {
            aid: load.aid,
            digest: Sha256::digest(content).into(),
            version: package_version(content),
            size: content.len() as u32,
        };
        let place = self.storage.free_index(Kind::LoadFile);
        self.storage.put(Kind::LoadFile, place, &file.encode());
        let loads = self.completed_loads().saturating_add(1);
        self.storage.put(Kind::OperatingSystem, LOADS, &loads.to_be_bytes());
        Ok(vec![0x00])
    }

    /// DELETE (11.2): an instance, a load file, or a load file with its instances.
    fn delete_content(&mut self, command: &Command<'_>) -> Result<Vec<u8>, StatusWord> {
        let aid = aid(tlv::find(command.data, 0x4F).ok_or(StatusWord::WRONG_DATA)?)?;
        let instance = self.instances().find(|(_, instance)| instance.aid == aid).map(|(place, _)| place);
        if let Some(place) = instance {
            self.storage.remove(Kind::Instance, place);
            return Ok(vec![0x00]);
        }
        let file = self.load_files().find(|(_, file)| file.aid == aid).map(|(place, _)| place);
        let file = file.ok_or(StatusWord::REFERENCE_NOT_FOUND)?;
        let related: Vec<u16> = self
            .instances()
            .filter(|(_, instance)| instance.load_file == aid)
            .map(|(place, _)| place)
            .collect();
        if command.p2 & 0x80 == 0 && !related.is_empty() {
            return Err(StatusWord::CONDITIONS);
        }
        for place in related {
            self.storage.remove(Kind::Instance, place);
        }
        self.storage.remove(Kind::LoadFile, file);
        Ok(vec![0x00])
    }

    /// STORE DATA (11.11) in numbered blocks; bit 8 of P1 marks the last one.
    fn store_data_block(&mut self, command: &Command<'_>) -> Result<(), StatusWord> {
        let stored = &mut self.session().loading.stored;
        if command.p2 == 0 {
            *stored = Stored::default();
        }
        if command.p2 != stored.next_block {
            return Err(StatusWord::WRONG_P1_P2);
        }
        if stored.blocks.len() + command.data.len() > STORED_BYTES_MAX + 8 {
            *stored = Stored::default();
            return Err(StatusWord::NO_MEMORY);
        }
        stored.blocks.extend_from_slice(command.data);
        stored.next_block = stored.next_block.wrapping_add(1);
        if command.p1 & 0x80 == 0 {
            return Ok(());
        }
        let blocks = std::mem::take(stored).blocks;
        self.store_data(&blocks)
    }

    /// STORE DATA (11.11) of BER-TLVs: the campaign's mark, the session parameters, anything else by its tag.
    pub(crate) fn store_data(&mut self, data: &[u8]) -> Result<(), StatusWord> {
        let objects = Reader::new(data).collect::<Result<Vec<_>, _>>().map_err(|_| StatusWord::WRONG_DATA)?;
        if objects.is_empty() {
            return Err(StatusWord::WRONG_DATA);
        }
        for object in objects {
            let tag = u16::try_from(object.tag).map_err(|_| StatusWord::WRONG_DATA)?;
            if object.tag == MARK_TAG {
                let mark = MarkFile::decode(object.value).map_err(|_| StatusWord::WRONG_DATA)?;
                let path = self.profile.poll.mark.clone();
                self.write_file(&path, &mark.encode());
                continue;
            }
            let known = self.storage.get(Kind::StoredData, tag).is_some();
            let full = self.storage.all(Kind::StoredData).count() >= STORED_OBJECTS_MAX;
            if object.value.len() > STORED_BYTES_MAX || (full && !known) {
                return Err(StatusWord::NO_MEMORY);
            }
            self.storage.put(Kind::StoredData, tag, object.value);
        }
        Ok(())
    }

    /// A data object that STORE DATA has left.
    pub(crate) fn stored_data(&self, tag: u16) -> Option<&[u8]> {
        self.storage.get(Kind::StoredData, tag)
    }

    /// The mark, as GET DATA gives it.
    pub(super) fn mark(&self) -> Vec<u8> {
        self.read_file(&self.profile.poll.mark).unwrap_or_else(|| vec![0; MARK_FILE_SIZE])
    }

    /// How many load files have been completed in the card's life.
    pub(super) fn completed_loads(&self) -> u16 {
        let entry = self.storage.get(Kind::OperatingSystem, LOADS).and_then(|entry| entry.try_into().ok());
        entry.map_or(0, u16::from_be_bytes)
    }

    pub(super) fn load_files(&self) -> impl Iterator<Item = (u16, LoadFile)> {
        self.storage.all(Kind::LoadFile).filter_map(|(place, entry)| Some((place, LoadFile::decode(entry)?)))
    }

    pub(super) fn instances(&self) -> impl Iterator<Item = (u16, Instance)> {
        self.storage.all(Kind::Instance).filter_map(|(place, entry)| Some((place, Instance::decode(entry)?)))
    }

    /// The AIDs of the instances, for SELECT.
    pub(crate) fn instance_aids(&self) -> Vec<Aid> {
        self.instances().map(|(_, instance)| instance.aid).collect()
    }
}

impl LoadFile {
    fn encode(&self) -> Vec<u8> {
        let mut entry = Vec::new();
        push_field(&mut entry, self.aid.as_bytes());
        entry.extend_from_slice(&self.digest);
        entry.extend_from_slice(&self.version);
        entry.extend_from_slice(&self.size.to_be_bytes());
        entry
    }

    fn decode(entry: &[u8]) -> Option<Self> {
        let (aid, rest) = split_field(entry)?;
        let (digest, rest) = rest.split_first_chunk()?;
        let (version, size) = rest.split_first_chunk()?;
        let size = u32::from_be_bytes(size.try_into().ok()?);
        Some(Self { aid: aid.try_into().ok()?, digest: *digest, version: *version, size })
    }
}

impl Instance {
    fn encode(&self) -> Vec<u8> {
        let mut entry = Vec::new();
        for part in [self.aid.as_bytes(), self.load_file.as_bytes(), self.module.as_bytes(), &self.privileges]
        {
            push_field(&mut entry, part);
        }
        entry
    }

    fn decode(entry: &[u8]) -> Option<Self> {
        let (aid, rest) = split_field(entry)?;
        let (load_file, rest) = split_field(rest)?;
        let (module, rest) = split_field(rest)?;
        let (privileges, _) = split_field(rest)?;
        Some(Self {
            aid: aid.try_into().ok()?,
            load_file: load_file.try_into().ok()?,
            module: module.try_into().ok()?,
            privileges: privileges.to_vec(),
        })
    }
}

fn push_field(out: &mut Vec<u8>, value: &[u8]) {
    out.push(value.len() as u8);
    out.extend_from_slice(value);
}

fn split_field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked((*length).into())
}

/// The fields of INSTALL: each behind a length of one byte.
fn fields(mut data: &[u8]) -> Result<Vec<&[u8]>, StatusWord> {
    let mut fields = Vec::new();
    while !data.is_empty() {
        let (field, rest) = split_field(data).ok_or(StatusWord::WRONG_DATA)?;
        fields.push(field);
        data = rest;
    }
    Ok(fields)
}

fn aid(bytes: &[u8]) -> Result<Aid, StatusWord> {
    Aid::try_from(bytes).map_err(|_| StatusWord::WRONG_DATA)
}

/// Major and minor version of a package: in the header component of a load file (tag 01, magic DECAFFED).
fn package_version(content: &[u8]) -> [u8; 2] {
    match content {
        [0x01, _, _, 0xDE, 0xCA, 0xFF, 0xED, _, _, _, minor, major, ..] => [*major, *minor],
        _ => [0, 0],
    }
}
