//! READ RECORD, UPDATE RECORD, SEARCH RECORD, INCREASE (ETSI TS 102 221, 11.1.5 to 11.1.8).

use super::File;
use crate::card::Card;
use crate::channel::Selection;
use simtide_protocol::apdu::{Command, StatusWord};
use simtide_protocol::profile::{Authority, Operation, Structure};

/// Longest value of INCREASE in bytes.
const INCREASE_BYTES_MAX: usize = 127;

impl Card {
    pub(super) fn read_record(
        &self,
        selection: &mut Selection,
        authority: Authority,
        command: &Command<'_>,
    ) -> Result<Vec<u8>, StatusWord> {
        let file = self.target(selection, sfi(command)?, Operation::Read, authority)?;
        let (record_size, records) = records(&file)?;
        let number = addressed(selection, command, records)?;
        if let Some(le) = command.le.filter(|le| *le < 256)
            && le as usize != record_size
        {
            return Err(StatusWord::wrong_le(record_size as u8));
        }
        let content = self.content(&file);
        let start = (usize::from(number) - 1) * record_size;
        content.get(start..start + record_size).map(<[u8]>::to_vec).ok_or(StatusWord::RECORD_NOT_FOUND)
    }

    pub(super) fn update_record(
        &mut self,
        selection: &mut Selection,
        authority: Authority,
        command: &Command<'_>,
    ) -> Result<(), StatusWord> {
        let file = self.target(selection, sfi(command)?, Operation::Update, authority)?;
        let (record_size, records) = records(&file)?;
        if command.data.len() != record_size {
            return Err(StatusWord::WRONG_LENGTH);
        }
        if matches!(file.structure, Structure::Cyclic { .. }) {
            // Clause 11.1.6: a cyclic file takes "previous" only; the oldest record becomes the first.
            if command.p2 & 0x07 != 0x03 || command.p1 != 0 {
                return Err(StatusWord::WRONG_P1_P2);
            }
            self.push_cyclic(&file, command.data);
            selection.record = 1;
            return Ok(());
        }
        let number = addressed(selection, command, records)?;
        let mut content = self.content(&file);
        let start = (usize::from(number) - 1) * record_size;
        let place = content.get_mut(start..start + record_size).ok_or(StatusWord::RECORD_NOT_FOUND)?;
        place.copy_from_slice(command.data);
        self.set_content(&file, &content);
        Ok(())
    }

    /// The numbers of the records that contain the pattern, in the order of the search.
    pub(super) fn search_record(
        &self,
        selection: &mut Selection,
        authority: Authority,
        command: &Command<'_>,
    ) -> Result<Vec<u8>, StatusWord> {
        let file = self.target(selection, sfi(command)?, Operation::Read, authority)?;
        let (record_size, records) = records(&file)?;
        let search = Search::parse(command, selection.record, records)?;
        if search.pattern.len() > record_size {
            return Err(StatusWord::WRONG_LENGTH);
        }
        let content = self.content(&file);
        let record = |number: u8| {
            content.chunks(record_size).nth(usize::from(number).wrapping_sub(1)).unwrap_or_default()
        };
        let numbers: Vec<u8> = if search.backward {
            (1..=search.from).rev().collect()
        } else {
            (search.from..=records).collect()
        };
        let found: Vec<u8> = numbers.into_iter().filter(|number| search.finds(record(*number))).collect();
        match found.first() {
            Some(first) => {
                selection.record = *first;
                Ok(found)
            }
            None => Err(StatusWord::END_OF_FILE),
        }
    }

    /// INCREASE: the newest record plus the value becomes a new record; answers the new value and what was added.
    pub(super) fn increase(
        &mut self,
        selection: &mut Selection,
        authority: Authority,
        command: &Command<'_>,
    ) -> Result<Vec<u8>, StatusWord> {
        let sfi = match command.p1 {
            0 => None,
            p1 if p1 & 0x80 != 0 => Some(p1 & 0x1F),
            _ => return Err(StatusWord::WRONG_P1_P2),
        };
        let file = self.target(selection, sfi, Operation::Increase, authority)?;
        let Structure::Cyclic { record_size, .. } = file.structure else {
            return Err(StatusWord::INCOMPATIBLE_STRUCTURE);
        };
        let record_size = usize::from(record_size);
        if command.data.is_empty() || command.data.len() > record_size.min(INCREASE_BYTES_MAX) {
            return Err(StatusWord::WRONG_LENGTH);
        }
        let mut value = self.content(&file)[..record_size].to_vec();
        let mut carry = 0;
        for (place, byte) in value.iter_mut().rev().enumerate() {
            let added = command.data.iter().rev().nth(place).copied().unwrap_or_default();
            let sum = u16::from(*byte) + u16::from(added) + carry;
            *byte = sum as u8;
            carry = sum >> 8;
        }
        if carry != 0 {
            return Err(StatusWord::MAXIMUM_REACHED);
        }
        self.push_cyclic(&file, &value);
        selection.record = 1;
        value.extend_from_slice(command.data);
        Ok(value)
    }

    fn push_cyclic(&mut self, file: &File, record: &[u8]) {
        let mut content = self.content(file);
        let step = record.len().min(content.len());
        content.rotate_right(step);
        content[..record.len()].copy_from_slice(record);
        self.set_content(file, &content);
    }
}

fn sfi(command: &Command<'_>) -> Result<Option<u8>, StatusWord> {
    match command.p2 >> 3 {
        0 => Ok(None),
        31 => Err(StatusWord::WRONG_P1_P2),
        sfi => Ok(Some(sfi)),
    }
}

/// Record size in bytes, and how many records.
fn records(file: &File) -> Result<(usize, u8), StatusWord> {
    let (record_size, records) = file.structure.records().ok_or(StatusWord::INCOMPATIBLE_STRUCTURE)?;
    Ok((usize::from(record_size), records))
}

/// The record that P1 and the mode in P2 mean; next and previous move the current record.
fn addressed(selection: &mut Selection, command: &Command<'_>, records: u8) -> Result<u8, StatusWord> {
    let number = match (command.p2 & 0x07, command.p1) {
        (0x02, 0) => {
            selection.record = selection.record.checked_add(1).ok_or(StatusWord::RECORD_NOT_FOUND)?;
            selection.record
        }
        (0x03, 0) => {
            selection.record = if selection.record == 0 { records } else { selection.record - 1 };
            selection.record
        }
        (0x04, 0) => selection.record,
        (0x04, number) => number,
        _ => return Err(StatusWord::WRONG_P1_P2),
    };
    if (1..=records).contains(&number) {
        return Ok(number);
    }
    if command.p2 & 0x07 != 0x04 {
        selection.record = selection.record.min(records);
    }
    Err(StatusWord::RECORD_NOT_FOUND)
}

/// What SEARCH RECORD looks for, and where (clause 11.1.7).
struct Search<'a> {
    backward: bool,
    from: u8,
    offset: Offset,
    pattern: &'a [u8],
}

/// Where in a record the pattern has to stand.
enum Offset {
    /// At this byte.
    At(usize),
    /// Behind the first byte of this value.
    After(u8),
    /// Anywhere.
    Anywhere,
}

impl<'a> Search<'a> {
    fn parse(command: &Command<'a>, current: u8, records: u8) -> Result<Self, StatusWord> {
        let from_p1 = if command.p1 == 0 { current.max(1) } else { command.p1 };
        let (backward, from, offset, pattern) = match command.p2 & 0x07 {
            0x04 => (false, from_p1, Offset::Anywhere, command.data),
            0x05 => (true, from_p1, Offset::Anywhere, command.data),
            0x06 => {
                let &[indication, value, ref pattern @ ..] = command.data else {
                    return Err(StatusWord::WRONG_LENGTH);
                };
                let offset = if indication & 0x08 == 0 {
                    Offset::At(usize::from(value))
                } else {
                    Offset::After(value)
                };
                let (backward, from) = match indication & 0x07 {
                    0x04 => (false, from_p1),
                    0x05 => (true, from_p1),
                    0x06 => (false, current.saturating_add(1)),
                    0x07 => (true, current.checked_sub(1).unwrap_or(records)),
                    _ => return Err(StatusWord::WRONG_DATA),
                };
                (backward, from, offset, pattern)
            }
            _ => return Err(StatusWord::WRONG_P1_P2),
        };
        if pattern.is_empty() {
            return Err(StatusWord::WRONG_LENGTH);
        }
        if from > records {
            return Err(StatusWord::RECORD_NOT_FOUND);
        }
        Ok(Self { backward, from, offset, pattern })
    }

    fn finds(&self, record: &[u8]) -> bool {
        let stands_in = |bytes: &[u8]| bytes.windows(self.pattern.len()).any(|window| window == self.pattern);
        match self.offset {
            Offset::At(offset) => record.get(offset..).is_some_and(stands_in),
            Offset::After(value) => {
                let behind = record.iter().position(|byte| *byte == value).map(|place| place + 1);
                behind.and_then(|place| record.get(place..)).is_some_and(stands_in)
            }
            Offset::Anywhere => stands_in(record),
        }
    }
}
