//! The writer: the same rows as an OUT or CSV file.

use zeroize::Zeroizing;

use super::column::Column;
use super::{CardRow, Format, Secret, TransportKey};
use crate::ids::{EpochMs, Iccid, Imsi, ProfileName};

/// What stands in the header.
#[derive(Default)]
pub struct WriterSettings {
    /// Whose cards.
    pub customer: String,
    /// Card type.
    pub kind: String,
    /// Profile of all cards.
    pub profile: Option<ProfileName>,
    /// Production batch.
    pub batch: String,
    /// Number of rows that will follow.
    pub quantity: u64,
    /// First IMSI and ICCID, for the OUT file's `Var_In_List`.
    pub first: Option<(Imsi, Iccid)>,
    /// Columns, in this order; ICCID must be among them.
    pub columns: Vec<Column>,
    /// Encrypts the secret columns; `None`: plain text, transport key 0.
    pub transport_key: Option<TransportKey>,
}

/// Why a row cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// An OUT file has no empty cells and no blanks in them.
    #[error("{0} cannot be carried by this format: leave the column out, or use CSV")]
    Cell(String),
    /// A secret whose length the transport encryption cannot carry.
    #[error("{0} has a length that cannot be encrypted: use 8, 16, 24, 32, 48 or 64 bytes")]
    Length(String),
}

/// Writes one file, line by line.
pub struct Writer {
    format: Format,
    settings: WriterSettings,
}

impl Writer {
    /// A writer of one file.
    pub fn new(format: Format, settings: WriterSettings) -> Writer {
        Writer { format, settings }
    }

    /// The columns of everything that a card with this many key sets has.
    pub fn all_columns(key_sets: u8) -> Vec<Column> {
        use Column::*;
        let mut columns = vec![Iccid, Eid, Form, Imsi, Msisdn, Profile, Ki, Opc, Algorithm];
        for index in 1..=key_sets {
            columns.extend([Kic(index), KicAlgorithm(index), Kid(index), KidAlgorithm(index), Kik(index)]);
            columns.push(Counter(index));
        }
        columns.extend([
            PskIdentity,
            Psk,
            AdminCode,
            Pin1,
            Puk1,
            Pin2,
            Puk2,
            DeviceKind,
            Tags,
            NextPoll,
            LastUpdate,
        ]);
        columns
    }

    /// Everything before the first row.
    pub fn header(&self) -> String {
        let settings = &self.settings;
        let mut values = vec![
            ("Customer", settings.customer.clone()),
            ("Quantity", settings.quantity.to_string()),
            ("Type", settings.kind.clone()),
        ];
        values.extend(settings.profile.iter().map(|profile| ("Profile", profile.to_string())));
        values.push(("Batch", settings.batch.clone()));
        values.push((
            "Transport_key",
            settings.transport_key.as_ref().map_or(0, TransportKey::index).to_string(),
        ));
        let check = settings.transport_key.as_ref().map(|key| hex::encode_upper(key.check_value()));
        values.extend(check.map(|check| ("Transport_key_check", check)));
        let values = values.into_iter().filter(|(_, value)| !value.is_empty());
        match self.format {
            Format::Csv => {
                let mut text: String = values.map(|(name, value)| format!("# {name}: {value}\n")).collect();
                text.push_str(&settings.columns.iter().map(|c| c.name()).collect::<Vec<_>>().join(","));
                text.push('\n');
                text
            }
            Format::Out => {
                let lines: String = values.map(|(name, value)| format!("{name}: {value}\n")).collect();
                let first = settings.first.map(|(imsi, iccid)| format!("IMSI: {imsi}\nSer_nb: {iccid}\n"));
                let columns: Vec<String> = settings.columns.iter().map(|column| out_name(*column)).collect();
                let section = |title: &str| format!("{0}\n* {title}\n{0}\n", "*".repeat(40));
                format!(
                    "{}{lines}{}Var_In_List:\n{}{}var_out:{}\n",
                    section("HEADER DESCRIPTION"),
                    section("INPUT VARIABLES"),
                    first.unwrap_or_default(),
                    section("OUTPUT VARIABLES"),
                    columns.join("/"),
                )
            }
        }
    }

    /// One line with its end.
    pub fn row(&self, row: &CardRow) -> Result<Zeroizing<String>, WriteError> {
        let mut line = Zeroizing::new(String::new());
        for (place, column) in self.settings.columns.iter().enumerate() {
            if place > 0 {
                line.push(if self.format == Format::Out { ' ' } else { ',' });
            }
            let cell = self.cell(row, *column)?;
            let unsafe_text =
                cell.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '"' | ','));
            match self.format {
                // Quotes protect separators, not line ends: the format has one line per card.
                _ if cell.contains(['\n', '\r']) => return Err(WriteError::Cell(column.name())),
                Format::Csv if unsafe_text => line.push_str(&format!("\"{}\"", cell.replace('"', "\"\""))),
                Format::Out if unsafe_text || *cell == "-" => return Err(WriteError::Cell(column.name())),
                Format::Out if cell.is_empty() => line.push('-'),
                _ => line.push_str(&cell),
            }
        }
        line.push('\n');
        Ok(line)
    }

    fn cell(&self, row: &CardRow, column: Column) -> Result<Zeroizing<String>, WriteError> {
        let set = |index: u8| row.key_sets.iter().find(|set| set.index == index);
        let date = |date: Option<EpochMs>| date.map(|date| date.to_string());
        let text = match column {
            Column::Iccid => Some(row.iccid.to_string()),
            Column::Eid => row.eid.map(|eid| eid.to_string()),
            Column::Form => Some(row.form.name().to_owned()),
            Column::Imsi => row.imsi.map(|imsi| imsi.to_string()),
            Column::Msisdn => row.msisdn.map(|msisdn| msisdn.to_string()),
            Column::Profile => row.profile.as_ref().map(|profile| profile.to_string()),
            Column::Algorithm => Some(row.algorithm.name().to_owned()),
            Column::KicAlgorithm(index) => set(index).map(|set| set.kic_algorithm.name().to_owned()),
            Column::KidAlgorithm(index) => set(index).map(|set| set.kid_algorithm.name().to_owned()),
            Column::Counter(index) => set(index).map(|set| set.counter.to_string()),
            Column::PskIdentity => Some(psk_identity(&row.psk_identity)),
            Column::Pin1 => row.pin1.as_ref().map(ascii),
            Column::Puk1 => row.puk1.as_ref().map(ascii),
            Column::Pin2 => row.pin2.as_ref().map(ascii),
            Column::Puk2 => row.puk2.as_ref().map(ascii),
            Column::DeviceKind => row.device_kind.clone(),
            Column::Tags => Some(row.tags.join("|")),
            Column::NextPoll => date(row.next_poll),
            Column::LastUpdate => date(row.last_update),
            Column::Ki => return self.secret(row.ki.as_ref(), column),
            Column::Opc => return self.secret(row.opc.as_ref(), column),
            Column::Kic(index) => return self.secret(set(index).map(|set| &set.kic), column),
            Column::Kid(index) => return self.secret(set(index).map(|set| &set.kid), column),
            Column::Kik(index) => return self.secret(set(index).and_then(|set| set.kik.as_ref()), column),
            Column::Psk => return self.secret(row.psk.as_ref(), column),
            Column::AdminCode => return self.secret(row.admin_code.as_ref(), column),
        };
        Ok(Zeroizing::new(text.unwrap_or_default()))
    }

    fn secret(&self, secret: Option<&Secret>, column: Column) -> Result<Zeroizing<String>, WriteError> {
        let Some(secret) = secret else { return Ok(Zeroizing::new(String::new())) };
        let text = match &self.settings.transport_key {
            Some(key) => key.encrypt(secret).map(hex::encode_upper),
            None => Some(hex::encode_upper(secret.as_bytes())),
        };
        text.map(Zeroizing::new).ok_or_else(|| WriteError::Length(column.name()))
    }
}

/// Vendors write column names in capitals.
fn out_name(column: Column) -> String {
    column.name().to_ascii_uppercase()
}

fn psk_identity(identity: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._@:-".contains(byte);
    if identity.is_empty() {
        return String::new();
    }
    match std::str::from_utf8(identity) {
        Ok(text)
            if identity.iter().all(is_plain)
                && !text.starts_with("hex:")
                && !text.starts_with(['-', '@']) =>
        {
            text.to_owned()
        }
        _ => format!("hex:{}", hex::encode(identity)),
    }
}

fn ascii(secret: &Secret) -> String {
    String::from_utf8_lossy(secret.as_bytes()).into_owned()
}
