//! SELECT and STATUS (ETSI TS 102 221, 11.1.1 and 11.1.2).

use super::{File, MF};
use crate::card::Card;
use crate::channel::Selection;
use simtide_protocol::apdu::{Command, StatusWord};
use simtide_protocol::ids::Aid;
use simtide_protocol::profile::{FilePath, Structure};
use simtide_protocol::tlv;

/// The file id that stands for the current application's directory (ETSI TS 102 221, 8.6).
const CURRENT_ADF: u16 = 0x7FFF;

impl Card {
    pub(super) fn select(
        &self,
        selection: &mut Selection,
        command: &Command<'_>,
    ) -> Result<Vec<u8>, StatusWord> {
        if command.p1 == 0x04 {
            return self.select_by_aid(selection, command);
        }
        let current = selection.directory;
        let found = match command.p1 {
            0x00 => match command.data {
                // Without data the MF is meant (ISO/IEC 7816-4).
                [] => self.file(MF),
                &[high, low] => self.find_by_fid(selection, u16::from_be_bytes([high, low])),
                _ => return Err(StatusWord::WRONG_LENGTH),
            },
            0x03 if command.data.is_empty() => self.file(self.parent(current)),
            0x08 => self.find_by_path(selection, MF, command.data)?,
            0x09 => self.find_by_path(selection, current, command.data)?,
            _ => return Err(StatusWord::WRONG_P1_P2),
        };
        let file = found.ok_or(StatusWord::NOT_FOUND)?;
        self.make_current(selection, &file);
        match command.p2 & 0x1C {
            0x00 | 0x04 => Ok(self.fcp(&file)),
            0x0C => Ok(Vec::new()),
            _ => Err(StatusWord::WRONG_P1_P2),
        }
    }

    pub(crate) fn make_current(&self, selection: &mut Selection, file: &File) {
        if file.structure.is_directory() {
            selection.directory = file.id;
            selection.file = None;
            if matches!(file.structure, Structure::Application { .. }) {
                selection.adf = Some(file.id);
            }
        } else {
            selection.directory = self.parent(file.id);
            selection.file = Some(file.id);
        }
        selection.application = None;
        selection.record = 0;
    }

    /// Clause 8.4.1, by file id: below the current directory, its parent, beside it, itself, the MF.
    fn find_by_fid(&self, selection: &Selection, fid: u16) -> Option<File> {
        match fid {
            FilePath::MF => return self.file(MF),
            CURRENT_ADF => return selection.adf.and_then(|adf| self.file(adf)),
            _ => {}
        }
        let current = selection.directory;
        let below = || self.children(current).into_iter().find(|file| file.fid == fid);
        let parent = self.parent(current);
        let itself_or_parent =
            || [current, parent].into_iter().filter_map(|id| self.file(id)).find(|file| file.fid == fid);
        let beside = || {
            self.children(parent).into_iter().find(|file| file.fid == fid && file.structure.is_directory())
        };
        below().or_else(itself_or_parent).or_else(beside)
    }

    /// Clause 8.4.2: a path from the MF or the current directory; 7FFF at its start is the current application.
    fn find_by_path(
        &self,
        selection: &Selection,
        from: u16,
        path: &[u8],
    ) -> Result<Option<File>, StatusWord> {
        let (fids, rest) = path.as_chunks::<2>();
        if fids.is_empty() || !rest.is_empty() {
            return Err(StatusWord::WRONG_LENGTH);
        }
        let mut at = self.file(from);
        for (place, fid) in fids.iter().enumerate() {
            let fid = u16::from_be_bytes(*fid);
            at = match (place, fid) {
                (0, CURRENT_ADF) => selection.adf.and_then(|adf| self.file(adf)),
                (0, FilePath::MF) if from == MF => at,
                _ => at.and_then(|directory| {
                    self.children(directory.id).into_iter().find(|file| file.fid == fid)
                }),
            };
        }
        Ok(at)
    }

    /// By application identifier, whole or its start; P2 says which of several.
    fn select_by_aid(&self, selection: &mut Selection, command: &Command<'_>) -> Result<Vec<u8>, StatusWord> {
        let partial = command.data;
        if partial.len() > 16 {
            return Err(StatusWord::WRONG_LENGTH);
        }
        let matching: Vec<Aid> =
            self.selectable().into_iter().filter(|aid| aid.starts_with(partial)).collect();
        let current = selection.application.or_else(|| self.adf_aid(selection.adf?));
        let at = current.and_then(|current| matching.iter().position(|aid| *aid == current));
        let place = match command.p2 & 0x03 {
            0x00 => Some(0),
            0x01 => matching.len().checked_sub(1),
            0x02 => Some(at.map_or(0, |at| at + 1)),
            _ => at.map_or(matching.len().checked_sub(1), |at| at.checked_sub(1)),
        };
        let aid = *place.and_then(|place| matching.get(place)).ok_or(StatusWord::NOT_FOUND)?;
        if command.p2 & 0x60 == 0x40 {
            // Termination of the application's session (clause 11.1.1.2.2).
            *selection = Selection::default();
            return Ok(Vec::new());
        }
        let adf =
            (0..).zip(&self.profile.files).find(|(_, file)| file.structure == Structure::Application { aid });
        match adf.and_then(|(id, _)| self.file(id)) {
            Some(file) => {
                self.make_current(selection, &file);
                Ok(if command.p2 & 0x0C == 0x0C { Vec::new() } else { self.fcp(&file) })
            }
            None => {
                *selection = Selection { application: Some(aid), ..Selection::default() };
                Ok(if command.p2 & 0x0C == 0x0C { Vec::new() } else { file_control_information(&aid) })
            }
        }
    }

    /// Everything that can be selected by AID: directories of applications first, then applications without files.
    fn selectable(&self) -> Vec<Aid> {
        let adfs = (0..).zip(&self.profile.files).filter_map(|(id, file)| match file.structure {
            Structure::Application { aid } => self.file(id).map(|_| aid),
            _ => None,
        });
        let applications = self.profile.applications.iter().map(|application| application.aid);
        adfs.chain(applications).chain(self.instance_aids()).collect()
    }

    pub(crate) fn adf_aid(&self, adf: u16) -> Option<Aid> {
        match self.file(adf)?.structure {
            Structure::Application { aid } => Some(aid),
            _ => None,
        }
    }

    pub(super) fn status(&self, selection: &Selection, command: &Command<'_>) -> Result<Vec<u8>, StatusWord> {
        match command.p2 {
            0x00 => {
                let file = selection.file.unwrap_or(selection.directory);
                // Clause 11.1.2: STATUS tells of the current directory.
                let directory = if self.file(file).is_some_and(|file| file.structure.is_directory()) {
                    file
                } else {
                    selection.directory
                };
                Ok(self.file(directory).map(|directory| self.fcp(&directory)).unwrap_or_default())
            }
            0x01 => {
                let aid = selection.application.or_else(|| self.adf_aid(selection.adf?));
                let mut name = Vec::new();
                if let Some(aid) = aid {
                    tlv::push(&mut name, 0x84, aid.as_bytes());
                }
                Ok(name)
            }
            0x0C => Ok(Vec::new()),
            _ => Err(StatusWord::WRONG_P1_P2),
        }
    }
}

/// ISO/IEC 7816-4, 5.3.3: what an application without files answers to SELECT.
fn file_control_information(aid: &Aid) -> Vec<u8> {
    let mut fci = Vec::new();
    tlv::push_with(&mut fci, 0x6F, |template| {
        tlv::push(template, 0x84, aid.as_bytes());
        tlv::push(template, 0xA5, &[]);
    });
    fci
}
