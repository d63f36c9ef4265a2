//! Remote file management: the C-APDUs by which a script reads and writes files (ETSI TS 102 226, 6;
//! ETSI TS 102 221, 11).
//!
//! Every function gives one whole C-APDU, ready for [`crate::script`].

use crate::apdu::Command;
use crate::profile::FilePath;

/// Most data bytes of one short C-APDU.
pub const DATA_BYTES_MAX: usize = 255;

/// The last offset that READ and UPDATE BINARY can name in P1 and P2.
pub const OFFSET_MAX: u16 = 0x7FFF;

/// The file id that stands for the current application's directory in a path (ETSI TS 102 221, 8.4.2).
const CURRENT_ADF: u16 = 0x7FFF;

/// Why there is no such command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileCommandError {
    /// The offset, or the end of the data, lies beyond what the command can name.
    #[error("offset {0} is beyond 32767: a file is not addressed so far by READ and UPDATE BINARY")]
    Offset(usize),
    /// No data, or more than one command takes.
    #[error("{0} bytes of data: give 1 to {DATA_BYTES_MAX}")]
    Data(usize),
    /// A record number that means the current or next record.
    #[error("record 0 is no record: count from 1 to 254")]
    Record,
}

/// SELECT by path from the MF, without an answer (P2 `0C`).
///
/// `root` is the directory in which the application works, where that is an ADF: it has no file id of its own on
/// real cards, so what lies in it is selected as `7FFF/...`.
pub fn select(path: &FilePath, root: Option<&FilePath>) -> Vec<u8> {
    let header = |p1| Command::new(0x00, 0xA4, p1, 0x0C);
    let below_root = root
        .filter(|root| root.fids().len() > 1)
        .and_then(|root| path.fids().strip_prefix(root.fids()))
        .map(|rest| [&[CURRENT_ADF], rest].concat());
    let data: Vec<u8> = match below_root {
        Some(fids) => fids.iter().flat_map(|fid| fid.to_be_bytes()).collect(),
        None => path.to_select_data(),
    };
    if data.is_empty() {
        return header(0x00).with_data(&FilePath::MF.to_be_bytes()).encode();
    }
    header(0x08).with_data(&data).encode()
}

/// READ BINARY of 1 to 256 bytes.
///
/// # Errors
/// The offset is beyond [`OFFSET_MAX`], or the length is none.
pub fn read_binary(offset: u16, length: u16) -> Result<Vec<u8>, FileCommandError> {
    if !(1..=256).contains(&length) {
        return Err(FileCommandError::Data(length.into()));
    }
    let [p1, p2] = checked_offset(offset.into())?;
    Ok(Command::new(0x00, 0xB0, p1, p2).with_le(length.into()).encode())
}

/// UPDATE BINARY, as many commands as the data takes.
///
/// # Errors
/// There are no data, or they end beyond [`OFFSET_MAX`].
pub fn update_binary(offset: u16, data: &[u8]) -> Result<Vec<Vec<u8>>, FileCommandError> {
    if data.is_empty() {
        return Err(FileCommandError::Data(0));
    }
    let starts = (usize::from(offset)..).step_by(DATA_BYTES_MAX);
    data.chunks(DATA_BYTES_MAX)
        .zip(starts)
        .map(|(block, start)| {
            let [p1, p2] = checked_offset(start)?;
            Ok(Command::new(0x00, 0xD6, p1, p2).with_data(block).encode())
        })
        .collect()
}

fn checked_offset(offset: usize) -> Result<[u8; 2], FileCommandError> {
    match u16::try_from(offset) {
        Ok(offset) if offset <= OFFSET_MAX => Ok(offset.to_be_bytes()),
        _ => Err(FileCommandError::Offset(offset)),
    }
}

/// READ RECORD in absolute mode.
///
/// # Errors
/// The record number is 0 or 255, or the length is none.
pub fn read_record(record: u8, length: u16) -> Result<Vec<u8>, FileCommandError> {
    if !(1..=256).contains(&length) {
        return Err(FileCommandError::Data(length.into()));
    }
    Ok(Command::new(0x00, 0xB2, checked_record(record)?, 0x04).with_le(length.into()).encode())
}

/// UPDATE RECORD in absolute mode; the data fill the record.
///
/// # Errors
/// The record number is 0 or 255, or the data do not fit one command.
pub fn update_record(record: u8, data: &[u8]) -> Result<Vec<u8>, FileCommandError> {
    let data = checked_data(data)?;
    Ok(Command::new(0x00, 0xDC, checked_record(record)?, 0x04).with_data(data).encode())
}

/// UPDATE RECORD of a cyclic file: the data become the newest record (previous mode).
///
/// # Errors
/// The data do not fit one command.
pub fn append_cyclic(data: &[u8]) -> Result<Vec<u8>, FileCommandError> {
    Ok(Command::new(0x00, 0xDC, 0x00, 0x03).with_data(checked_data(data)?).encode())
}

/// INCREASE of a cyclic file by a value of three bytes.
pub fn increase(value: [u8; 3]) -> Vec<u8> {
    Command::new(0x80, 0x32, 0x00, 0x00).with_data(&value).with_le(256).encode()
}

fn checked_record(record: u8) -> Result<u8, FileCommandError> {
    if matches!(record, 0 | 255) { Err(FileCommandError::Record) } else { Ok(record) }
}

fn checked_data(data: &[u8]) -> Result<&[u8], FileCommandError> {
    if (1..=DATA_BYTES_MAX).contains(&data.len()) {
        Ok(data)
    } else {
        Err(FileCommandError::Data(data.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> FilePath {
        text.parse().unwrap()
    }

    #[test]
    fn files_are_selected_by_path() {
        assert_eq!(hex::encode(select(&path("3F00/7F90/6F01"), None)), "00a4080c047f906f01");
        assert_eq!(hex::encode(select(&path("3F00"), None)), "00a4000c023f00");
        let usim = path("3F00/7FF0");
        assert_eq!(hex::encode(select(&path("3F00/7FF0/6F07"), Some(&usim))), "00a4080c047fff6f07");
        assert_eq!(hex::encode(select(&usim, Some(&usim))), "00a4080c027fff");
        assert_eq!(hex::encode(select(&path("3F00/2FE2"), Some(&usim))), "00a4080c022fe2");
        assert_eq!(hex::encode(select(&path("3F00/2FE2"), Some(&path("3F00")))), "00a4080c022fe2");
    }

    #[test]
    fn long_data_take_several_updates() {
        let commands = update_binary(0x10, &[0xA5; 300]).unwrap();
        assert_eq!(commands.len(), 2);
        assert!(commands[0].starts_with(&[0x00, 0xD6, 0x00, 0x10, 0xFF]));
        assert!(commands[1].starts_with(&[0x00, 0xD6, 0x01, 0x0F, 45]));
        assert_eq!(update_binary(0, &[]), Err(FileCommandError::Data(0)));
        assert!(update_binary(OFFSET_MAX, &[1; 255]).is_ok());
        assert_eq!(update_binary(OFFSET_MAX, &[1; 256]), Err(FileCommandError::Offset(0x7FFF + 255)));
    }

    #[test]
    fn records_and_reading() {
        assert_eq!(hex::encode(read_binary(0x0102, 8).unwrap()), "00b0010208");
        assert_eq!(hex::encode(read_binary(0, 256).unwrap()), "00b0000000");
        assert_eq!(hex::encode(read_record(1, 30).unwrap()), "00b201041e");
        assert_eq!(hex::encode(update_record(2, &[1, 2]).unwrap()), "00dc0204020102");
        assert_eq!(hex::encode(append_cyclic(&[1, 2]).unwrap()), "00dc0003020102");
        assert_eq!(hex::encode(increase([0, 0, 1])), "803200000300000100");
        assert_eq!(update_record(0, &[1]), Err(FileCommandError::Record));
        assert_eq!(update_record(1, &[1; 256]), Err(FileCommandError::Data(256)));
        assert_eq!(read_binary(0x8000, 1), Err(FileCommandError::Offset(0x8000)));
        assert_eq!(read_binary(0, 0), Err(FileCommandError::Data(0)));
    }
}
