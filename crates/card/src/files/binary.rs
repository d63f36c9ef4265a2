//! READ BINARY and UPDATE BINARY (ETSI TS 102 221, 11.1.3 and 11.1.4).

use super::File;
use crate::card::Card;
use crate::channel::Selection;
use simtide_protocol::apdu::{Command, StatusWord};
use simtide_protocol::profile::{Authority, Operation, Structure};

impl Card {
    pub(super) fn read_binary(
        &self,
        selection: &mut Selection,
        authority: Authority,
        command: &Command<'_>,
    ) -> Result<Vec<u8>, StatusWord> {
        let (sfi, offset) = address(command)?;
        let file = transparent(self.target(selection, sfi, Operation::Read, authority)?)?;
        let content = self.content(&file);
        let rest = content.get(offset..).filter(|rest| !rest.is_empty()).ok_or(StatusWord::OUT_OF_RANGE)?;
        match command.le {
            // Le 00 asks for everything up to 256 bytes.
            None | Some(256) => Ok(rest[..rest.len().min(256)].to_vec()),
            Some(65_536) => Ok(rest.to_vec()),
            Some(le) => match rest.get(..le as usize) {
                Some(bytes) => Ok(bytes.to_vec()),
                None => Err(StatusWord::wrong_le(rest.len() as u8)),
            },
        }
    }

    pub(super) fn update_binary(
        &mut self,
        selection: &mut Selection,
        authority: Authority,
        command: &Command<'_>,
    ) -> Result<(), StatusWord> {
        let (sfi, offset) = address(command)?;
        let file = transparent(self.target(selection, sfi, Operation::Update, authority)?)?;
        if command.data.is_empty() {
            return Err(StatusWord::WRONG_LENGTH);
        }
        let mut content = self.content(&file);
        let place = content.get_mut(offset..offset + command.data.len()).ok_or(StatusWord::OUT_OF_RANGE)?;
        place.copy_from_slice(command.data);
        self.set_content(&file, &content);
        Ok(())
    }
}

/// P1 with bit 8: a short identifier and an offset in P2; without: an offset of 15 bits.
fn address(command: &Command<'_>) -> Result<(Option<u8>, usize), StatusWord> {
    if command.p1 & 0x80 == 0 {
        return Ok((None, usize::from(u16::from_be_bytes([command.p1, command.p2]))));
    }
    match command.p1 & 0x7F {
        sfi @ 1..=30 => Ok((Some(sfi), usize::from(command.p2))),
        _ => Err(StatusWord::WRONG_P1_P2),
    }
}

fn transparent(file: File) -> Result<File, StatusWord> {
    match file.structure {
        Structure::Transparent { .. } => Ok(file),
        _ => Err(StatusWord::INCOMPATIBLE_STRUCTURE),
    }
}
