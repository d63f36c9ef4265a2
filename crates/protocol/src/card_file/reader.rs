//! The reader: header, columns, rows, and the verdict at the end.

use zeroize::Zeroize;

use super::column::Column;
use super::lines::{LineError, Lines};
use super::row::{Cells, Protection, RowError, card_row};
use super::{CardRow, Format, TransportKey};
use crate::ids::{Iccid, Imsi, ProfileName};

/// Lines of a header at most.
const HEADER_LINES_MAX: u64 = 1_000;
/// Columns at most.
const COLUMNS_MAX: usize = 200;

/// What the reader must be told beside the file.
#[derive(Default, Clone)]
pub struct Settings {
    /// Format; `None`: found from the first line.
    pub format: Option<Format>,
    /// Transport keys by the index that the file's `Transport_key` names.
    pub transport_keys: Vec<TransportKey>,
    /// Transport keys of single columns, stronger than the file's.
    pub column_keys: Vec<(Column, TransportKey)>,
    /// Whether secrets may stand in the file as plain text (transport key index 0).
    pub plain_text_allowed: bool,
}

/// What the header says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// Whose cards.
    pub customer: Option<String>,
    /// Number of cards that must follow.
    pub quantity: Option<u64>,
    /// Card type, the vendor's word.
    pub kind: Option<String>,
    /// Card profile of all rows that name none.
    pub profile: Option<ProfileName>,
    /// Production batch.
    pub batch: Option<String>,
    /// Index of the transport key; 0: plain text.
    pub transport_key: Option<u32>,
    /// Check value of the transport key.
    pub transport_key_check: Option<Vec<u8>>,
    /// First IMSI of `Var_In_List`.
    pub first_imsi: Option<Imsi>,
    /// First ICCID of `Var_In_List`.
    pub first_iccid: Option<Iccid>,
    /// Names of columns that mean nothing to us and are left out.
    pub columns_ignored: Vec<String>,
}

/// Why a whole file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The header is not one.
    #[error("line {line}: {reason}")]
    Header {
        /// Where.
        line: u64,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A column is named twice.
    #[error("column {0} is named twice")]
    ColumnTwice(String),
    /// No column holds the ICCID.
    #[error("no column is named iccid: is this a card file?")]
    NoIccid,
    /// Plain secrets, and nobody has allowed them.
    #[error(
        "the file holds keys as plain text (transport key 0): ask the vendor for an encrypted one, or allow plain text explicitly"
    )]
    PlainText,
    /// The transport key is not at hand.
    #[error("the file is encrypted under transport key {0}: give its components and its check value")]
    TransportKeyMissing(u32),
    /// The transport key is another one.
    #[error(
        "transport key {index} is another one than the file's: check value {found}, the file says {expected}"
    )]
    TransportKeyWrong {
        /// Which.
        index: u32,
        /// Of the key given.
        found: String,
        /// Of the file.
        expected: String,
    },
    /// The header's first card is another than the first row's.
    #[error("the first row is not the card that Var_In_List names: rows are missing or from another file")]
    FirstCard,
    /// Fewer or more rows than promised.
    #[error("{found} rows where the header says {expected}: the file is cut or was put together wrongly")]
    Quantity {
        /// Rows that are there.
        found: u64,
        /// Rows that the header promises.
        expected: u64,
    },
    /// The last line has no end.
    #[error("the last line does not end: the file is cut (if it is complete, add a line end)")]
    Truncated,
    /// The file ends before its columns are named.
    #[error("the file ends before any column is named")]
    NoColumns,
}

/// What the reader gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A card.
    Row {
        /// Line in the file, from 1.
        line: u64,
        /// The card.
        row: Box<CardRow>,
    },
    /// A line that is no card.
    Refused {
        /// Line in the file, from 1.
        line: u64,
        /// Why.
        error: RowError,
    },
}

/// Sums of a whole file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows that are cards.
    pub rows: u64,
    /// Rows refused.
    pub refused: u64,
}

/// Reads one file. Feed chunks, take items until there are none, feed on; finish at the end of the file.
pub struct Reader {
    settings: Settings,
    lines: Lines,
    format: Option<Format>,
    header: Header,
    encrypted: Option<Vec<Column>>,
    columns: Vec<Option<Column>>,
    separator: char,
    in_rows: bool,
    summary: Summary,
    failed: Option<FileError>,
}

impl Reader {
    /// A reader at the start of a file.
    pub fn new(settings: Settings) -> Reader {
        Reader {
            format: settings.format,
            settings,
            lines: Lines::default(),
            header: Header::default(),
            encrypted: None,
            columns: Vec::new(),
            separator: ',',
            in_rows: false,
            summary: Summary::default(),
            failed: None,
        }
    }

    /// Takes the next bytes of the file. Take all items before feeding more, or they pile up.
    pub fn feed(&mut self, chunk: &[u8]) {
        if self.failed.is_none() {
            self.lines.feed(chunk);
        }
    }

    /// What the header says, complete with the first item.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Format, once known.
    pub fn format(&self) -> Option<Format> {
        self.format
    }

    /// Next row; `None`: feed more or finish. After an error nothing follows.
    pub fn next_item(&mut self) -> Result<Option<Item>, FileError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.advance();
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }

    /// The verdict on the whole file, after all items were taken.
    pub fn finish(&self) -> Result<Summary, FileError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if !self.in_rows {
            return Err(FileError::NoColumns);
        }
        if self.lines.has_rest() {
            return Err(FileError::Truncated);
        }
        let found = self.summary.rows + self.summary.refused;
        match self.header.quantity {
            Some(expected) if expected != found => Err(FileError::Quantity { found, expected }),
            _ => Ok(self.summary),
        }
    }

    fn advance(&mut self) -> Result<Option<Item>, FileError> {
        while let Some((number, line)) = self.lines.next_line() {
            if !self.in_rows {
                let line = line.map_err(|error| {
                    let reason = if error == LineError::TooLong { "line too long" } else { "not UTF-8 text" };
                    FileError::Header { line: number, reason: format!("{reason}: is this a card file?") }
                })?;
                self.header_line(number, line.trim())?;
                continue;
            }
            let result = match line {
                Err(LineError::TooLong) => Err(RowError::TooLong),
                Err(LineError::NotText) => Err(RowError::NotText),
                Ok(line) if line.trim().is_empty() || line.starts_with(['*', '#']) => continue,
                Ok(line) => self.row(line),
            };
            return self.item(number, result).map(Some);
        }
        Ok(None)
    }

    fn item(&mut self, line: u64, result: Result<CardRow, RowError>) -> Result<Item, FileError> {
        let is_first = self.summary == Summary::default();
        match result {
            Ok(row) => {
                let imsi_fits = self.header.first_imsi.is_none() || self.header.first_imsi == row.imsi;
                let iccid_fits = self.header.first_iccid.is_none_or(|iccid| iccid == row.iccid);
                if is_first && !(imsi_fits && iccid_fits) {
                    return Err(FileError::FirstCard);
                }
                self.summary.rows += 1;
                Ok(Item::Row { line, row: Box::new(row) })
            }
            Err(error) => {
                self.summary.refused += 1;
                Ok(Item::Refused { line, error })
            }
        }
    }

    fn header_line(&mut self, number: u64, line: &str) -> Result<(), FileError> {
        let bad = |reason: &str| FileError::Header { line: number, reason: reason.to_owned() };
        if number > HEADER_LINES_MAX {
            return Err(bad("the header does not end: is this a card file?"));
        }
        if line.is_empty() || line.starts_with('*') {
            return Ok(());
        }
        let format = *self.format.get_or_insert_with(|| {
            let name_ends = line.find(':');
            let is_out =
                name_ends.is_some_and(|end| !line[..end].contains([',', ';']) && !line.starts_with('#'));
            if is_out { Format::Out } else { Format::Csv }
        });
        match format {
            Format::Out => {
                let Some((name, value)) = line.split_once(':') else {
                    return Err(bad("a header line is `Name: value`; columns follow `var_out:`"));
                };
                if plain(name) == "varout" {
                    return self.take_columns(value.split('/').map(str::to_owned).collect());
                }
                self.header_value(number, name, value.trim())
            }
            Format::Csv => match line.strip_prefix('#') {
                Some(comment) => match comment.split_once(':') {
                    Some((name, value)) => self.header_value(number, name, value.trim()),
                    None => Ok(()),
                },
                None => {
                    let count = |separator: char| line.matches(separator).count();
                    self.separator =
                        [',', ';', '\t'].into_iter().max_by_key(|c| (count(*c), *c == ',')).unwrap_or(',');
                    let cells =
                        split_cells(line, self.separator).map_err(|_| bad("a quoted name does not end"))?;
                    self.take_columns(cells)
                }
            },
        }
    }

    fn header_value(&mut self, line: u64, name: &str, value: &str) -> Result<(), FileError> {
        let bad = |reason: String| FileError::Header { line, reason };
        let name = plain(name);
        if value.is_empty() {
            return Ok(());
        }
        match name.as_str() {
            "customer" => self.header.customer = Some(value.to_owned()),
            "type" => self.header.kind = Some(value.to_owned()),
            "batch" => self.header.batch = Some(value.to_owned()),
            "quantity" => {
                let quantity = value.parse().map_err(|_| bad("Quantity is no number".into()))?;
                self.header.quantity = Some(quantity);
            }
            // A row could not repeat such a name: in a cell it would be a formula.
            "profile" if value.starts_with('-') => {
                return Err(bad("Profile begins with a letter or digit".into()));
            }
            "profile" => {
                let profile =
                    value.to_ascii_lowercase().parse().map_err(|error| bad(format!("Profile: {error}")))?;
                self.header.profile = Some(profile);
            }
            "transportkey" => {
                let index =
                    value.parse().map_err(|_| bad("Transport_key is the index of a key, a number".into()))?;
                self.header.transport_key = Some(index);
            }
            "transportkeycheck" | "kcv" | "transportkeykcv" => {
                let check = hex::decode(value).ok().filter(|check| check.len() == 3);
                let reason = "Transport_key_check has 3 bytes in hex".to_owned();
                self.header.transport_key_check = Some(check.ok_or_else(|| bad(reason))?);
            }
            "encrypted" => {
                let columns = value.split(['/', ',', ' ']).filter(|name| !name.is_empty());
                let known = columns.map(|name| Column::of_name(name).filter(|column| column.is_secret()));
                let reason = "Encrypted names secret columns only".to_owned();
                self.encrypted = Some(known.collect::<Option<_>>().ok_or_else(|| bad(reason))?);
            }
            "imsi" => {
                self.header.first_imsi = Some(value.parse().map_err(|error| bad(format!("IMSI: {error}")))?);
            }
            _ if Column::of_name(&name) == Some(Column::Iccid) => {
                self.header.first_iccid =
                    Some(value.parse().map_err(|error| bad(format!("ICCID: {error}")))?);
            }
            // Vendors put more into their headers than we need.
            _ => {}
        }
        Ok(())
    }

    fn take_columns(&mut self, names: Vec<String>) -> Result<(), FileError> {
        let names: Vec<&str> = names.iter().map(|name| name.trim()).collect();
        // The list often ends with its separator.
        let names = names.strip_suffix(&[""]).unwrap_or(&names);
        if names.len() > COLUMNS_MAX {
            return Err(FileError::Header {
                line: self.lines.number(),
                reason: format!("over {COLUMNS_MAX} columns"),
            });
        }
        self.columns = names.iter().map(|name| Column::of_name(name)).collect();
        for (place, column) in self.columns.iter().enumerate() {
            match column {
                Some(column) if self.columns[..place].contains(&Some(*column)) => {
                    return Err(FileError::ColumnTwice(column.name()));
                }
                None => self.header.columns_ignored.push(names[place].to_owned()),
                Some(_) => {}
            }
        }
        if !self.columns.contains(&Some(Column::Iccid)) {
            return Err(FileError::NoIccid);
        }
        self.in_rows = true;
        self.check_protection()
    }

    /// Secrets need a transport key that was checked, or leave to be plain.
    fn check_protection(&self) -> Result<(), FileError> {
        let index = self.header.transport_key.unwrap_or(0);
        for column in self.columns.iter().flatten().filter(|column| column.is_secret()) {
            if self.column_key(*column).is_some() {
                continue;
            }
            if !self.is_encrypted(*column) {
                if !self.settings.plain_text_allowed {
                    return Err(FileError::PlainText);
                }
                continue;
            }
            let Some(key) = self.file_key() else { return Err(FileError::TransportKeyMissing(index)) };
            let found = key.check_value();
            if let Some(expected) =
                self.header.transport_key_check.as_deref().filter(|expected| **expected != found)
            {
                let (found, expected) = (hex::encode_upper(found), hex::encode_upper(expected));
                return Err(FileError::TransportKeyWrong { index, found, expected });
            }
        }
        Ok(())
    }

    fn is_encrypted(&self, column: Column) -> bool {
        let named = self.encrypted.as_ref().is_none_or(|columns| columns.contains(&column));
        self.header.transport_key.unwrap_or(0) != 0 && named
    }

    fn column_key(&self, wanted: Column) -> Option<&TransportKey> {
        self.settings.column_keys.iter().find(|(column, _)| *column == wanted).map(|(_, key)| key)
    }

    fn file_key(&self) -> Option<&TransportKey> {
        self.settings.transport_keys.iter().find(|key| Some(key.index()) == self.header.transport_key)
    }

    fn row(&self, mut line: String) -> Result<CardRow, RowError> {
        let cells = match self.format {
            Some(Format::Out) => Ok(line.split_ascii_whitespace().map(str::to_owned).collect()),
            _ => split_cells(&line, self.separator),
        };
        line.zeroize();
        let mut cells = cells?;
        let result = if cells.len() == self.columns.len() {
            let protection = |column: Column| match self.column_key(column) {
                Some(key) => Protection::Encrypted(key),
                None if self.is_encrypted(column) => {
                    self.file_key().map_or(Protection::Plain, Protection::Encrypted)
                }
                None => Protection::Plain,
            };
            let view = Cells { columns: &self.columns, cells: &cells };
            card_row(&view, self.header.profile.as_ref(), &protection)
        } else {
            Err(RowError::Cells { found: cells.len(), expected: self.columns.len() })
        };
        cells.zeroize();
        result
    }
}

/// Name without case, blanks and `_`.
fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect()
}

/// RFC 4180 without line ends in cells.
fn split_cells(line: &str, separator: char) -> Result<Vec<String>, RowError> {
    let mut cells = Vec::new();
    let mut rest = line;
    loop {
        let Some(quoted) = rest.trim_start().strip_prefix('"') else {
            let (cell, after) =
                rest.split_once(separator).map_or((rest, None), |(cell, after)| (cell, Some(after)));
            cells.push(cell.trim().to_owned());
            match after {
                Some(after) => rest = after,
                None => return Ok(cells),
            }
            continue;
        };
        let (cell, after) = quoted_cell(quoted)?;
        cells.push(cell);
        match after.trim_start_matches(' ').strip_prefix(separator) {
            Some(after) => rest = after,
            None if after.trim().is_empty() => return Ok(cells),
            None => return Err(RowError::Quote),
        }
    }
}

/// The cell behind its opening quote, and what follows the closing one.
fn quoted_cell(text: &str) -> Result<(String, &str), RowError> {
    let mut cell = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"').ok_or(RowError::Quote)?;
        cell.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                cell.push('"');
                rest = after;
            }
            None => return Ok((cell, after)),
        }
    }
}
