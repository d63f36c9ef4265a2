//! One line's cells into a [`CardRow`], with all checks that need no other row.

use zeroize::Zeroizing;

use super::column::{Column, KEY_SETS_MAX};
use super::{
    AuthenticationAlgorithm, CardRow, Form, KeyAlgorithm, KeySetRow, PSK_IDENTITY_BYTES_MAX, Secret,
    TAGS_MAX, TransportKey, value_of,
};
use crate::ids::{EpochMs, Iccid, IdError, ProfileName};

/// Highest SCP80 counter, 5 bytes on the wire.
const COUNTER_MAX: u64 = (1 << 40) - 1;
/// Longest tag or device kind, in bytes.
const WORD_BYTES_MAX: usize = 64;
/// Bytes of an admin code.
const ADMIN_CODE_BYTES: usize = 8;

/// Why a row is refused. Never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The line has another number of cells than there are columns.
    #[error(
        "{found} cells where {expected} columns are named: the line is cut or a cell contains a separator"
    )]
    Cells {
        /// In the line.
        found: usize,
        /// In the list of columns.
        expected: usize,
    },
    /// A cell that a card cannot do without.
    #[error("{0} is empty: every card needs it")]
    Missing(String),
    /// An identifier is wrong.
    #[error("{column}: {error}")]
    Id {
        /// Of which column.
        column: String,
        /// What is wrong.
        error: IdError,
    },
    /// Another cell is wrong.
    #[error("{column}: give {expected}")]
    Value {
        /// Of which column.
        column: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A spreadsheet would run it.
    #[error("{0} contains a formula: export the values only")]
    Formula(String),
    /// A quote that does not end, or text after it.
    #[error("a quoted cell does not end on its line")]
    Quote,
    /// The line is longer than any card's.
    #[error("line is longer than {max} bytes", max = super::LINE_BYTES_MAX)]
    TooLong,
    /// The line is not UTF-8.
    #[error("line is not UTF-8 text")]
    NotText,
    /// Two secrets of one card are the same, such as KIc and KID.
    #[error("{0} equals another key of the same card")]
    KeyTwice(String),
}

/// How the secret cells of a column are to be read.
#[derive(Clone, Copy)]
pub(super) enum Protection<'k> {
    Plain,
    Encrypted(&'k TransportKey),
}

/// Cells of a line by their columns; columns that nobody knows are `None`.
pub(super) struct Cells<'r> {
    pub(super) columns: &'r [Option<Column>],
    pub(super) cells: &'r [String],
}

impl<'r> Cells<'r> {
    fn text(&self, wanted: Column) -> Option<&'r str> {
        let place = self.columns.iter().position(|column| *column == Some(wanted))?;
        self.cells.get(place).map(|cell| cell.trim()).filter(|cell| !matches!(*cell, "" | "-"))
    }

    fn parsed<T: std::str::FromStr<Err = IdError>>(&self, wanted: Column) -> Result<Option<T>, RowError> {
        let id = |error| RowError::Id { column: wanted.name(), error };
        self.text(wanted).map(|text| text.parse().map_err(id)).transpose()
    }

    fn named<T: Copy>(
        &self,
        wanted: Column,
        names: &[(T, &str)],
        default: T,
        expected: &'static str,
    ) -> Result<T, RowError> {
        let wrong = || RowError::Value { column: wanted.name(), expected };
        self.text(wanted).map_or(Ok(default), |text| value_of(names, text).ok_or_else(wrong))
    }

    /// A hexadecimal secret, decrypted where the file is.
    fn secret(
        &self,
        wanted: Column,
        protection: &dyn Fn(Column) -> Protection<'r>,
        lengths: &[usize],
        expected: &'static str,
    ) -> Result<Option<Secret>, RowError> {
        let Some(text) = self.text(wanted) else { return Ok(None) };
        let wrong = || RowError::Value { column: wanted.name(), expected };
        let bytes = Zeroizing::new(hex::decode(text).map_err(|_| wrong())?);
        let secret = match protection(wanted) {
            Protection::Plain => Secret::new(&bytes),
            Protection::Encrypted(key) => key.decrypt(&bytes),
        };
        let secret = secret.filter(|secret| lengths.contains(&secret.as_bytes().len())).ok_or_else(wrong)?;
        Ok(Some(secret))
    }
}

/// Builds the row of a line. `profile` is the header's.
pub(super) fn card_row<'r>(
    cells: &Cells<'r>,
    profile: Option<&ProfileName>,
    protection: &dyn Fn(Column) -> Protection<'r>,
) -> Result<CardRow, RowError> {
    refuse_formulas(cells)?;
    let iccid: Iccid = cells.parsed(Column::Iccid)?.ok_or_else(|| RowError::Missing(Column::Iccid.name()))?;
    let mut row = CardRow::new(iccid);
    row.eid = cells.parsed(Column::Eid)?;
    let form = if row.eid.is_some() { Form::Euicc } else { Form::Uicc };
    row.form = cells.named(Column::Form, &Form::NAMES, form, "uicc, euicc, iuicc or ese")?;
    row.imsi = cells.parsed(Column::Imsi)?;
    row.msisdn = cells.parsed(Column::Msisdn)?;
    row.profile = cells.parsed(Column::Profile)?.or_else(|| profile.cloned());
    let algorithms = &AuthenticationAlgorithm::NAMES;
    row.algorithm = cells.named(Column::Algorithm, algorithms, row.algorithm, "milenage or tuak")?;
    let lengths: &[usize] = if row.algorithm == AuthenticationAlgorithm::Tuak { &[16, 32] } else { &[16] };
    let subscriber_key = "16 bytes in hex (Milenage) or 16 or 32 (TUAK)";
    row.ki = cells.secret(Column::Ki, protection, lengths, subscriber_key)?;
    row.opc = cells.secret(Column::Opc, protection, lengths, subscriber_key)?;
    if row.opc.is_some() && row.ki.is_none() {
        return Err(RowError::Missing(Column::Ki.name()));
    }
    row.key_sets = (1..=KEY_SETS_MAX)
        .filter_map(|index| key_set(cells, index, protection).transpose())
        .collect::<Result<_, _>>()?;
    row.psk_identity = psk_identity(cells)?;
    row.psk =
        cells.secret(Column::Psk, protection, &[16, 24, 32, 48, 64], "16, 24, 32, 48 or 64 bytes in hex")?;
    row.admin_code = admin_code(cells, protection)?;
    row.pin1 = digits(cells, Column::Pin1, 4)?;
    row.puk1 = digits(cells, Column::Puk1, 8)?;
    row.pin2 = digits(cells, Column::Pin2, 4)?;
    row.puk2 = digits(cells, Column::Puk2, 8)?;
    row.device_kind =
        cells.text(Column::DeviceKind).map(|text| word(text, Column::DeviceKind)).transpose()?;
    row.tags = tags(cells)?;
    row.next_poll = cells.parsed::<EpochMs>(Column::NextPoll)?;
    row.last_update = cells.parsed::<EpochMs>(Column::LastUpdate)?;
    refuse_equal_keys(&row)?;
    Ok(row)
}

/// Spreadsheets run cells that begin so; no value of ours does, but numbers with a sign.
fn refuse_formulas(cells: &Cells<'_>) -> Result<(), RowError> {
    for (place, cell) in cells.cells.iter().enumerate() {
        let cell = cell.trim();
        let signed = cell.strip_prefix(['+', '-']);
        let number = signed.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
        if cell.starts_with(['=', '@', '\t']) || (signed.is_some() && !number) {
            let column = cells.columns.get(place).copied().flatten();
            return Err(RowError::Formula(
                column.map_or_else(|| format!("cell {}", place + 1), Column::name),
            ));
        }
    }
    Ok(())
}

fn key_set<'r>(
    cells: &Cells<'r>,
    index: u8,
    protection: &dyn Fn(Column) -> Protection<'r>,
) -> Result<Option<KeySetRow>, RowError> {
    const EXPECTED: &str = "16, 24 or 32 bytes in hex";
    let lengths = &[16, 24, 32];
    let kic = cells.secret(Column::Kic(index), protection, lengths, EXPECTED)?;
    let kid = cells.secret(Column::Kid(index), protection, lengths, EXPECTED)?;
    let kik = cells.secret(Column::Kik(index), protection, lengths, EXPECTED)?;
    let (kic, kid) = match (kic, kid) {
        (Some(kic), Some(kid)) => (kic, kid),
        (None, None) if kik.is_none() => return Ok(None),
        (None, _) => return Err(RowError::Missing(Column::Kic(index).name())),
        (_, None) => return Err(RowError::Missing(Column::Kid(index).name())),
    };
    let family = |column: Column, key: &Secret| {
        let algorithm = cells.named(column, &KeyAlgorithm::NAMES, KeyAlgorithm::Aes, "aes or 3des")?;
        let expected = "an algorithm that takes a key of this length (aes: 16, 24, 32; 3des: 16, 24)";
        let wrong = || RowError::Value { column: column.name(), expected };
        if algorithm.takes(key.as_bytes().len()) { Ok(algorithm) } else { Err(wrong()) }
    };
    let (kic_algorithm, kid_algorithm) =
        (family(Column::KicAlgorithm(index), &kic)?, family(Column::KidAlgorithm(index), &kid)?);
    let counter = match cells.text(Column::Counter(index)) {
        None => 0,
        Some(text) => text.parse().ok().filter(|counter| *counter <= COUNTER_MAX).ok_or(RowError::Value {
            column: Column::Counter(index).name(),
            expected: "the last counter used, a decimal number up to 1099511627775",
        })?,
    };
    Ok(Some(KeySetRow { index, kic, kic_algorithm, kid, kid_algorithm, kik, counter }))
}

/// As text, or `hex:` and bytes.
fn psk_identity(cells: &Cells<'_>) -> Result<Vec<u8>, RowError> {
    let Some(text) = cells.text(Column::PskIdentity) else { return Ok(Vec::new()) };
    let bytes = match text.strip_prefix("hex:") {
        Some(digits) => hex::decode(digits).ok(),
        None => Some(text.as_bytes().to_vec()),
    };
    bytes.filter(|bytes| (1..=PSK_IDENTITY_BYTES_MAX).contains(&bytes.len())).ok_or(RowError::Value {
        column: Column::PskIdentity.name(),
        expected: "1 to 128 bytes as text, or `hex:` and hex digits",
    })
}

fn admin_code<'r>(
    cells: &Cells<'r>,
    protection: &dyn Fn(Column) -> Protection<'r>,
) -> Result<Option<Secret>, RowError> {
    const EXPECTED: &str = "8 bytes in hex, or 4 to 8 decimal digits where the file is plain text";
    let Some(text) = cells.text(Column::AdminCode) else { return Ok(None) };
    let is_digits = (4..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_digits && matches!(protection(Column::AdminCode), Protection::Plain) {
        let mut padded = Zeroizing::new([0xFF; ADMIN_CODE_BYTES]);
        padded[..text.len()].copy_from_slice(text.as_bytes());
        return Ok(Secret::new(&padded[..]));
    }
    cells.secret(Column::AdminCode, protection, &[ADMIN_CODE_BYTES], EXPECTED)
}

fn digits(cells: &Cells<'_>, column: Column, length_min: usize) -> Result<Option<Secret>, RowError> {
    let Some(text) = cells.text(column) else { return Ok(None) };
    let valid = (length_min..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let wrong =
        || RowError::Value { column: column.name(), expected: "decimal digits: 4 to 8 of a PIN, 8 of a PUK" };
    if valid { Ok(Secret::new(text.as_bytes())) } else { Err(wrong()) }
}

fn tags(cells: &Cells<'_>) -> Result<Vec<String>, RowError> {
    let Some(text) = cells.text(Column::Tags) else { return Ok(Vec::new()) };
    let words = text.split(['|', ' ', ';']).filter(|tag| !tag.is_empty());
    let mut tags = words.map(|tag| word(tag, Column::Tags)).collect::<Result<Vec<_>, _>>()?;
    tags.sort();
    tags.dedup();
    let wrong =
        || RowError::Value { column: Column::Tags.name(), expected: "at most 16 tags, separated by |" };
    if tags.len() > TAGS_MAX { Err(wrong()) } else { Ok(tags) }
}

fn word(text: &str, column: Column) -> Result<String, RowError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    // A spreadsheet takes a word that begins with a sign for a formula.
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let valid = begins && text.len() <= WORD_BYTES_MAX && text.bytes().all(allowed);
    let wrong = || RowError::Value {
        column: column.name(),
        expected: "words of up to 64 of A-Z a-z 0-9 . _ -, a letter or digit first",
    };
    if valid { Ok(text.to_owned()) } else { Err(wrong()) }
}

/// One key in two places of a card would let what one place learns open the other.
fn refuse_equal_keys(row: &CardRow) -> Result<(), RowError> {
    let mut keys: Vec<(Column, &Secret)> = Vec::new();
    keys.extend(row.ki.iter().map(|key| (Column::Ki, key)));
    for set in &row.key_sets {
        keys.push((Column::Kic(set.index), &set.kic));
        keys.push((Column::Kid(set.index), &set.kid));
        keys.extend(set.kik.iter().map(|key| (Column::Kik(set.index), key)));
    }
    keys.extend(row.psk.iter().map(|key| (Column::Psk, key)));
    for (place, (column, key)) in keys.iter().enumerate() {
        if keys[..place].iter().any(|(_, other)| other == key) {
            return Err(RowError::KeyTwice(column.name()));
        }
    }
    Ok(())
}
