//! CREATE, DELETE, RESIZE, ACTIVATE, DEACTIVATE FILE (ETSI TS 102 222, 6; ETSI TS 102 221, 11.1.14 and 11.1.15).

use super::fcp::descriptor;
use super::{CREATED, CREATED_MAX, DEACTIVATED, DELETED, File, FileId, MF};
use crate::card::Card;
use crate::channel::Selection;
use crate::storage::Kind;
use simtide_protocol::apdu::{Command, StatusWord};
use simtide_protocol::profile::{Authority, Operation, Structure};
use simtide_protocol::tlv;

/// Deepest path, MF included: what FilePath allows.
const DEPTH_MAX: usize = 6;
/// Largest file that CREATE and RESIZE FILE make, in bytes.
const FILE_BYTES_MAX: usize = 16_384;

impl Card {
    /// ACTIVATE FILE and DEACTIVATE FILE, of the file with this id here, or the current one.
    pub(super) fn set_activated(
        &mut self,
        selection: &mut Selection,
        authority: Authority,
        command: &Command<'_>,
        activated: bool,
    ) -> Result<(), StatusWord> {
        let operation = if activated { Operation::Activate } else { Operation::Deactivate };
        let file = self.named(selection, command.data)?;
        self.allows(&file, operation, authority)?;
        let mut attributes = self.attributes(file.id);
        attributes[0] = if activated { attributes[0] & !DEACTIVATED } else { attributes[0] | DEACTIVATED };
        self.set_attributes(file.id, &attributes);
        Ok(())
    }

    /// DELETE FILE: the file with this id here, with everything below it.
    pub(super) fn delete_file(
        &mut self,
        selection: &mut Selection,
        authority: Authority,
        command: &Command<'_>,
    ) -> Result<(), StatusWord> {
        let file = self.named(selection, command.data)?;
        if file.id == MF {
            return Err(StatusWord::CONDITIONS);
        }
        self.allows(&file, Operation::Delete, authority)?;
        let fids = self.fids(file.id);
        let defined = 0..self.profile.files.len() as FileId;
        let created: Vec<FileId> = self.storage.all(Kind::Created).map(|(id, _)| id).collect();
        let below: Vec<FileId> =
            defined.chain(created).filter(|id| self.fids(*id).starts_with(&fids)).collect();
        for id in below {
            self.remove_file(id);
        }
        if self.file(selection.directory).is_none() {
            *selection = Selection::default();
        } else if selection.file.is_some_and(|id| self.file(id).is_none()) {
            selection.file = None;
        }
        Ok(())
    }

    fn remove_file(&mut self, id: FileId) {
        if id >= CREATED {
            for kind in [Kind::Created, Kind::Content, Kind::Attributes] {
                self.storage.remove(kind, id);
            }
        } else if self.content_owner(id) == id {
            self.storage.remove(Kind::Content, id);
            self.storage.put(Kind::Attributes, id, &[DELETED]);
        }
    }

    /// CREATE FILE below the current directory (ETSI TS 102 222, 6.3).
    pub(super) fn create_file(
        &mut self,
        selection: &mut Selection,
        authority: Authority,
        command: &Command<'_>,
    ) -> Result<(), StatusWord> {
        let template = tlv::find(command.data, 0x62).ok_or(StatusWord::WRONG_DATA)?;
        let created = self.parse_template(template)?;
        let directory = self.file(selection.directory).ok_or(StatusWord::NOT_FOUND)?;
        self.allows(&directory, Operation::Create, authority)?;
        let mut fids = self.fids(directory.id);
        let taken = self
            .children(directory.id)
            .iter()
            .any(|file| file.fid == created.fid || (created.sfi.is_some() && file.sfi == created.sfi));
        if taken || [0x3F00, 0x3FFF, 0x7FFF].contains(&created.fid) {
            return Err(StatusWord::EXISTS);
        }
        fids.push(created.fid);
        let id = (CREATED..CREATED + CREATED_MAX).find(|id| self.storage.get(Kind::Created, *id).is_none());
        let id = id.filter(|_| fids.len() <= DEPTH_MAX).ok_or(StatusWord::NO_MEMORY)?;
        let file = File { id, ..created };
        self.storage.put(Kind::Created, id, &encode_created(&fids, &file));
        self.storage.put(Kind::Attributes, id, &[0]);
        if !file.structure.is_directory() {
            let fill = tlv::find(template, 0xA5).and_then(|proprietary| tlv::find(proprietary, 0xC1));
            let fill = fill.and_then(|pattern| pattern.first().copied()).unwrap_or(0xFF);
            self.storage.put(Kind::Content, id, &vec![fill; file.structure.size()]);
        }
        self.make_current(selection, &file);
        Ok(())
    }

    /// The file that a creation template describes; its number is given later.
    fn parse_template(&self, template: &[u8]) -> Result<File, StatusWord> {
        let find = |tag| tlv::find(template, tag).ok_or(StatusWord::WRONG_DATA);
        let fid = <[u8; 2]>::try_from(find(0x83)?).map_err(|_| StatusWord::WRONG_DATA)?;
        let size = || -> Result<usize, StatusWord> {
            let size = find(0x80)?.iter().fold(0_usize, |size, byte| size << 8 | usize::from(*byte));
            if (1..=FILE_BYTES_MAX).contains(&size) { Ok(size) } else { Err(StatusWord::NO_MEMORY) }
        };
        let records = |record_size: u8| -> Result<u8, StatusWord> {
            let (record_size, size) = (usize::from(record_size), size()?);
            let count = size.checked_div(record_size).filter(|count| count * record_size == size);
            count
                .and_then(|count| u8::try_from(count).ok())
                .filter(|count| *count > 0)
                .ok_or(StatusWord::WRONG_DATA)
        };
        let structure = match *find(0x82)? {
            [descriptor::DIRECTORY, ..] => Structure::Directory,
            [descriptor::TRANSPARENT, _] => Structure::Transparent { size: size()? as u16 },
            [descriptor::LINEAR_FIXED, _, 0, record_size, ..] => {
                Structure::LinearFixed { record_size, records: records(record_size)? }
            }
            [descriptor::CYCLIC, _, 0, record_size, ..] => {
                Structure::Cyclic { record_size, records: records(record_size)? }
            }
            _ => return Err(StatusWord::WRONG_DATA),
        };
        // Rights are given as a record of EF.ARR: the last byte of 8B.
        let &[_, _, rule] = find(0x8B)? else { return Err(StatusWord::WRONG_DATA) };
        if !(1..=self.profile.access_rules.len()).contains(&usize::from(rule)) {
            return Err(StatusWord::REFERENCE_NOT_FOUND);
        }
        let sfi = match tlv::find(template, 0x88) {
            Some(&[sfi]) => Some(sfi >> 3),
            Some(_) => None,
            // ETSI TS 102 222, 6.3.2.2.4: without the object the last five bits of the file id.
            None => Some(fid[1] & 0x1F).filter(|_| !structure.is_directory()),
        };
        let sfi = sfi.filter(|sfi| (1..=30).contains(sfi));
        Ok(File { id: 0, fid: u16::from_be_bytes(fid), structure, sfi, rule, activated: true })
    }

    /// RESIZE FILE: 62 { 83 file id, 80 new size } (ETSI TS 102 222, 6.10). What stays keeps its content.
    pub(super) fn resize_file(
        &mut self,
        selection: &mut Selection,
        authority: Authority,
        command: &Command<'_>,
    ) -> Result<(), StatusWord> {
        let template = tlv::find(command.data, 0x62).ok_or(StatusWord::WRONG_DATA)?;
        let file = self.named(selection, tlv::find(template, 0x83).ok_or(StatusWord::WRONG_DATA)?)?;
        self.allows(&file, Operation::Resize, authority)?;
        let size = tlv::find(template, 0x80).ok_or(StatusWord::WRONG_DATA)?;
        let size = size.iter().fold(0_usize, |size, byte| size << 8 | usize::from(*byte));
        if !(1..=FILE_BYTES_MAX).contains(&size) {
            return Err(StatusWord::NO_MEMORY);
        }
        let structure = match file.structure {
            Structure::Transparent { .. } => Structure::Transparent { size: size as u16 },
            Structure::LinearFixed { record_size, .. } if size % usize::from(record_size) == 0 => {
                let records =
                    u8::try_from(size / usize::from(record_size)).map_err(|_| StatusWord::NO_MEMORY)?;
                Structure::LinearFixed { record_size, records }
            }
            _ => return Err(StatusWord::INCOMPATIBLE_STRUCTURE),
        };
        let mut content = self.content(&file);
        content.resize(size, 0xFF);
        self.set_content(&file, &content);
        let mut attributes = self.attributes(file.id);
        attributes.truncate(1);
        attributes.extend(encode_structure(&structure));
        self.set_attributes(file.id, &attributes);
        Ok(())
    }

    /// The file with this id in the current directory, that directory itself, or the current file without data.
    fn named(&self, selection: &Selection, fid: &[u8]) -> Result<File, StatusWord> {
        match *fid {
            [] => selection.file.and_then(|id| self.file(id)).ok_or(StatusWord::NO_FILE_SELECTED),
            [high, low] => {
                let fid = u16::from_be_bytes([high, low]);
                let current = selection.file.and_then(|id| self.file(id)).filter(|file| file.fid == fid);
                let child = || self.children(selection.directory).into_iter().find(|file| file.fid == fid);
                let itself = || self.file(selection.directory).filter(|file| file.fid == fid);
                current.or_else(child).or_else(itself).ok_or(StatusWord::NOT_FOUND)
            }
            _ => Err(StatusWord::WRONG_LENGTH),
        }
    }

    fn attributes(&self, id: FileId) -> Vec<u8> {
        let entry = self.storage.get(Kind::Attributes, self.content_owner(id)).unwrap_or_default();
        if entry.is_empty() { vec![0] } else { entry.to_vec() }
    }

    fn set_attributes(&mut self, id: FileId, attributes: &[u8]) {
        let owner = self.content_owner(id);
        self.storage.put(Kind::Attributes, owner, attributes);
    }
}

/// Descriptor, then size (2), or record size and count.
fn encode_structure(structure: &Structure) -> [u8; 3] {
    match *structure {
        Structure::Directory | Structure::Application { .. } => [descriptor::DIRECTORY, 0, 0],
        Structure::Transparent { size } => {
            let [high, low] = size.to_be_bytes();
            [descriptor::TRANSPARENT, high, low]
        }
        Structure::LinearFixed { record_size, records } => [descriptor::LINEAR_FIXED, record_size, records],
        Structure::Cyclic { record_size, records } => [descriptor::CYCLIC, record_size, records],
    }
}

pub(super) fn decode_structure(bytes: &[u8]) -> Option<Structure> {
    match *bytes {
        [descriptor::DIRECTORY, ..] => Some(Structure::Directory),
        [descriptor::TRANSPARENT, high, low] => {
            Some(Structure::Transparent { size: u16::from_be_bytes([high, low]) })
        }
        [descriptor::LINEAR_FIXED, record_size, records] => {
            Some(Structure::LinearFixed { record_size, records })
        }
        [descriptor::CYCLIC, record_size, records] => Some(Structure::Cyclic { record_size, records }),
        _ => None,
    }
}

/// Structure (3), short identifier, rule, file ids.
fn encode_created(fids: &[u16], file: &File) -> Vec<u8> {
    let mut entry = encode_structure(&file.structure).to_vec();
    entry.extend([file.sfi.unwrap_or(0), file.rule]);
    entry.extend(fids.iter().flat_map(|fid| fid.to_be_bytes()));
    entry
}

pub(super) fn decode_created(id: FileId, entry: &[u8]) -> Option<(Vec<u16>, File)> {
    let (&[a, b, c, sfi, rule], path) = entry.split_first_chunk()?;
    let fids: Vec<u16> = path.as_chunks::<2>().0.iter().map(|fid| u16::from_be_bytes(*fid)).collect();
    let structure = decode_structure(&[a, b, c])?;
    let fid = *fids.last()?;
    let sfi = Some(sfi).filter(|sfi| *sfi != 0);
    Some((fids, File { id, fid, structure, sfi, rule, activated: true }))
}
