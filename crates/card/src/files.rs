//! The file system: files of the profile, changed and added to by the card (ETSI TS 102 221, 8).
//!
//! A file of the profile costs the card nothing until its content, state or size is changed.

mod binary;
mod fcp;
mod life_cycle;
mod record;
mod select;

use crate::card::Card;
use crate::channel::Selection;
use crate::storage::Kind;
use simtide_protocol::apdu::{Command, Response, StatusWord};
use simtide_protocol::profile::{
    AccessRule, Authority, Content, FileDefinition, FilePath, Operation, Structure,
};
use simtide_protocol::tlv;

/// Number of a file on the card: its place in the profile, or [`CREATED`] and more for files made since.
pub(crate) type FileId = u16;

/// The MF is the first file of every profile.
pub(crate) const MF: FileId = 0;
/// Numbers of files made by CREATE FILE start here.
const CREATED: FileId = 0x8000;
/// Most files that CREATE FILE makes on one card.
const CREATED_MAX: FileId = 256;

/// A file as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) id: FileId,
    pub(crate) fid: u16,
    pub(crate) structure: Structure,
    pub(crate) sfi: Option<u8>,
    /// Record number of its access rule in EF.ARR.
    pub(crate) rule: u8,
    pub(crate) activated: bool,
}

/// What of a file changes apart from its content: one byte of state, then its structure where it was resized.
const DEACTIVATED: u8 = 0x01;
const DELETED: u8 = 0x02;

impl Card {
    /// Commands on files and directories; `None` for every other command.
    pub(crate) fn file_command(
        &mut self,
        selection: &mut Selection,
        authority: Authority,
        command: &Command<'_>,
    ) -> Option<Response> {
        let result = match (command.cla & 0xF0, command.ins) {
            (0x00, 0xA4) => self.select(selection, command),
            (0x80, 0xF2) if command.p1 <= 0x02 => self.status(selection, command),
            (0x00, 0xB0) => self.read_binary(selection, authority, command),
            (0x00, 0xD6) => self.update_binary(selection, authority, command).map(|()| Vec::new()),
            (0x00, 0xB2) => self.read_record(selection, authority, command),
            (0x00, 0xDC) => self.update_record(selection, authority, command).map(|()| Vec::new()),
            (0x00, 0xA2) => self.search_record(selection, authority, command),
            (0x80, 0x32) => self.increase(selection, authority, command),
            (0x00, 0x44) => self.set_activated(selection, authority, command, true).map(|()| Vec::new()),
            (0x00, 0x04) => self.set_activated(selection, authority, command, false).map(|()| Vec::new()),
            (0x00, 0xE0) => self.create_file(selection, authority, command).map(|()| Vec::new()),
            (0x00, 0xE4) => self.delete_file(selection, authority, command).map(|()| Vec::new()),
            (0x80, 0xD4) => self.resize_file(selection, authority, command).map(|()| Vec::new()),
            _ => return None,
        };
        Some(match result {
            // ETSI TS 102 221, 10.2.1.3: a warning, the file is selected all the same.
            Ok(data) if command.ins == 0xA4 && self.is_deactivated(selection) => {
                Response { data, status: StatusWord::FILE_INVALIDATED }
            }
            Ok(data) => Response::ok(data),
            Err(status) => status.into(),
        })
    }

    fn is_deactivated(&self, selection: &Selection) -> bool {
        selection.file.and_then(|id| self.file(id)).is_some_and(|file| !file.activated)
    }

    /// The content of the file at a path, whoever asks.
    pub(crate) fn read_file(&self, path: &FilePath) -> Option<Vec<u8>> {
        let file = self.file_at(path.fids())?;
        (!file.structure.is_directory()).then(|| self.content(&file))
    }

    /// Replaces the content of the file at a path, whoever asks; cut or filled with FF to its size.
    pub(crate) fn write_file(&mut self, path: &FilePath, content: &[u8]) -> bool {
        let Some(file) = self.file_at(path.fids()).filter(|file| !file.structure.is_directory()) else {
            return false;
        };
        let mut bytes = content.to_vec();
        bytes.resize(file.structure.size(), 0xFF);
        self.set_content(&file, &bytes);
        true
    }

    /// The file with this number, unless it has been deleted.
    pub(crate) fn file(&self, id: FileId) -> Option<File> {
        let attributes = self.storage.get(Kind::Attributes, self.content_owner(id)).unwrap_or_default();
        let state = attributes.first().copied().unwrap_or_default();
        if state & DELETED != 0 {
            return None;
        }
        let mut file = match self.definition(id) {
            Some(definition) => File {
                id,
                fid: definition.path.fid(),
                structure: definition.structure,
                sfi: definition.sfi,
                rule: self.profile.access_rule(&definition.access).map_or(0, |(record, _)| record),
                activated: true,
            },
            None => life_cycle::decode_created(id, self.storage.get(Kind::Created, id)?)?.1,
        };
        file.activated = state & DEACTIVATED == 0;
        if let Some(structure) = attributes.get(1..).and_then(life_cycle::decode_structure) {
            file.structure = structure;
        }
        Some(file)
    }

    /// The file ids from the MF to a file.
    pub(crate) fn fids(&self, id: FileId) -> Vec<u16> {
        match self.definition(id) {
            Some(definition) => definition.path.fids().to_vec(),
            None => {
                let entry = self.storage.get(Kind::Created, id).unwrap_or_default();
                life_cycle::decode_created(id, entry).map(|(fids, _)| fids).unwrap_or_default()
            }
        }
    }

    /// The file at the end of these file ids, the MF's first.
    pub(crate) fn file_at(&self, fids: &[u16]) -> Option<File> {
        let defined = (0..).zip(&self.profile.files);
        defined
            .filter(|(_, definition)| definition.path.fids() == fids)
            .find_map(|(id, _)| self.file(id))
            .or_else(|| self.created().find_map(|(file_fids, file)| (file_fids == fids).then_some(file)))
    }

    /// The files directly in a directory.
    pub(crate) fn children(&self, directory: FileId) -> Vec<File> {
        let fids = self.fids(directory);
        let is_child = |path: &[u16]| path.len() == fids.len() + 1 && path.starts_with(&fids);
        let defined =
            (0..).zip(&self.profile.files).filter(|(_, definition)| is_child(definition.path.fids()));
        let created = self.created().filter(|(path, _)| is_child(path)).map(|(_, file)| file);
        defined.filter_map(|(id, _)| self.file(id)).chain(created).collect()
    }

    /// The directory in which a file or directory lies; the MF for itself.
    pub(crate) fn parent(&self, id: FileId) -> FileId {
        let fids = self.fids(id);
        let parent = fids.split_last().map(|(_, parents)| parents).filter(|parents| !parents.is_empty());
        parent.and_then(|parents| self.file_at(parents)).map_or(MF, |file| file.id)
    }

    fn created(&self) -> impl Iterator<Item = (Vec<u16>, File)> {
        self.storage.all(Kind::Created).filter_map(|(id, entry)| {
            let (fids, _) = life_cycle::decode_created(id, entry)?;
            Some((fids, self.file(id)?))
        })
    }

    fn definition(&self, id: FileId) -> Option<&FileDefinition> {
        self.profile.files.get(usize::from(id))
    }

    /// The file that holds the content which this one shows.
    fn content_owner(&self, id: FileId) -> FileId {
        let Some(other) = self.definition(id).and_then(|definition| definition.same_as.as_ref()) else {
            return id;
        };
        (0..).zip(&self.profile.files).find(|(_, file)| file.path == *other).map_or(id, |(owner, _)| owner)
    }

    /// The storage entry with the content that the file at a path shows.
    pub(crate) fn content_entry(&self, path: &FilePath) -> Option<u16> {
        self.file_at(path.fids()).map(|file| self.content_owner(file.id))
    }

    /// The path of the file whose content the file at a path shows: two names of one file become one.
    pub(crate) fn content_path(&self, path: &FilePath) -> Option<FilePath> {
        let owner = self.content_entry(path)?;
        Some(self.definition(owner).map_or_else(|| path.clone(), |definition| definition.path.clone()))
    }

    /// The content of a file: its own, or the first that the profile gives it.
    pub(crate) fn content(&self, file: &File) -> Vec<u8> {
        let owner = self.content_owner(file.id);
        if let Some(content) = self.storage.get(Kind::Content, owner) {
            return content.to_vec();
        }
        let mut content = match self.definition(owner) {
            Some(definition) => self.first_content(definition),
            None => Vec::new(),
        };
        content.resize(file.structure.size(), 0xFF);
        content
    }

    pub(crate) fn set_content(&mut self, file: &File, content: &[u8]) {
        let owner = self.content_owner(file.id);
        self.storage.put(Kind::Content, owner, content);
        if let Some(session) = self.session.as_mut() {
            session.changed_files.insert(file.id);
        }
    }

    /// What a file of the profile contains before anybody writes: the profile's bytes, or what follows from it.
    pub(crate) fn first_content(&self, definition: &FileDefinition) -> Vec<u8> {
        let records: Vec<Vec<u8>> = match definition.from {
            Some(Content::Poll) => vec![self.profile.poll.first_file().encode().to_vec()],
            Some(Content::Directory) => self.application_templates(),
            Some(Content::AccessRules) => {
                self.profile.access_rules.iter().map(AccessRule::to_record).collect()
            }
            Some(Content::Iccid | Content::Imsi | Content::AccessClass | Content::Msisdn | Content::Mark)
            | None => return definition.first_content(),
        };
        let mut definition = definition.clone();
        definition.content = records;
        definition.first_content()
    }

    /// EF.DIR: 61 { 4F AID, 50 label } (ETSI TS 102 221, 13.1).
    fn application_templates(&self) -> Vec<Vec<u8>> {
        let templates = self.profile.files.iter().filter_map(|file| {
            let Structure::Application { aid } = file.structure else { return None };
            let mut record = Vec::new();
            tlv::push_with(&mut record, 0x61, |template| {
                tlv::push(template, 0x4F, aid.as_bytes());
                let label = file.name.strip_prefix("ADF.").unwrap_or(&file.name);
                tlv::push(template, 0x50, label.as_bytes());
            });
            Some(record)
        });
        templates.collect()
    }

    /// Whether somebody with this authority may do this with a file.
    pub(crate) fn allows(
        &self,
        file: &File,
        operation: Operation,
        authority: Authority,
    ) -> Result<(), StatusWord> {
        let rule = self.profile.access_rules.get(usize::from(file.rule).wrapping_sub(1));
        let allowed = rule.is_some_and(|rule| rule.condition(operation).allows(authority));
        if allowed { Ok(()) } else { Err(StatusWord::SECURITY_STATUS) }
    }

    /// The file that a command works on: the one with this short identifier in the current directory, which it
    /// selects, or the current one. It has to be activated, and the authority to be there.
    fn target(
        &self,
        selection: &mut Selection,
        sfi: Option<u8>,
        operation: Operation,
        authority: Authority,
    ) -> Result<File, StatusWord> {
        let file = match sfi {
            Some(sfi) => {
                let mut children = self.children(selection.directory).into_iter();
                let file = children.find(|file| file.sfi == Some(sfi)).ok_or(StatusWord::NOT_FOUND)?;
                selection.file = Some(file.id);
                selection.record = 0;
                file
            }
            None => selection.file.and_then(|id| self.file(id)).ok_or(StatusWord::NO_FILE_SELECTED)?,
        };
        self.allows(&file, operation, authority)?;
        if !file.activated && operation != Operation::Activate {
            return Err(StatusWord::REFERENCE_INVALIDATED);
        }
        Ok(file)
    }
}
