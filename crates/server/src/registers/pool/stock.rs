//! Identities that come into a pool: a range whose keys are drawn later, or rows of a file that brings them along.

use rusqlite::{Connection, params};
use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
use simtide_protocol::ids::{Imsi, Msisdn};
use zeroize::Zeroizing;

use super::super::RegisterError;
use super::super::checked::check_keys;
use super::entry::{algorithm_code, seal_keys};
use super::file::failed;
use crate::vault::Vault;

/// Identities of one range or file at most.
pub const STOCK_MAX: u64 = 1_000_000;
/// Longest line of a file, in bytes.
const LINE_BYTES_MAX: usize = 1_024;
/// Columns that a file may have.
const COLUMNS: [&str; 5] = ["imsi", "msisdn", "algorithm", "ki", "opc"];

/// One identity on its way into a pool. May hold keys: no `Debug`.
#[derive(Clone)]
pub struct Stock {
    /// The identity.
    pub imsi: Imsi,
    /// Its number, where it has one.
    pub msisdn: Option<Msisdn>,
    /// Algorithm of the authentication.
    pub algorithm: AuthenticationAlgorithm,
    /// K and OPc; none: drawn for each change.
    pub keys: Option<(Secret, Secret)>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Added {
    /// Identities that are new.
    pub added: u64,
    /// Identities that were there; they stay as they are.
    pub known: u64,
}

/// Why a range or a file is refused; nothing of it was added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StockError {
    /// Too many at once.
    #[error("give 1 to {STOCK_MAX} identities at once")]
    Count,
    /// The digits run over.
    #[error("the range ends behind {0}: give fewer, or a lower first one")]
    Overflow(String),
    /// The first line does not name the columns.
    #[error(
        "the first line must name the columns, separated by ; or , : imsi, then any of msisdn, algorithm, ki, opc"
    )]
    Header,
    /// A line is wrong.
    #[error("line {line}: {reason}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong; never the content of ki or opc.
        reason: String,
    },
}

impl Stock {
    /// `count` identities from `first` on, with numbers from `msisdn_first` on; their keys are drawn for each change.
    ///
    /// # Errors
    /// [`StockError::Count`] or [`StockError::Overflow`].
    pub fn range(
        first: Imsi,
        count: u64,
        msisdn_first: Option<Msisdn>,
        algorithm: AuthenticationAlgorithm,
    ) -> Result<Vec<Stock>, StockError> {
        if !(1..=STOCK_MAX).contains(&count) {
            return Err(StockError::Count);
        }
        (0..count)
            .map(|nth| {
                let msisdn = match msisdn_first {
                    Some(number) => Some(later(&number.to_string(), nth)?),
                    None => None,
                };
                Ok(Stock { imsi: later(&first.to_string(), nth)?, msisdn, algorithm, keys: None })
            })
            .collect()
    }

    /// Reads a file like those of card vendors: a line that names the columns, then one line per identity. Lines that
    /// begin with `#` are passed over. Keys are hex; without `ki` and `opc` they are drawn for each change.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(text: &str) -> Result<Vec<Stock>, StockError> {
        let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
        let mut lines = text
            .lines()
            .enumerate()
            .map(|(place, line)| (place + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let (_, header) = lines.next().ok_or(StockError::Header)?;
        let separator = if header.contains(';') { ';' } else { ',' };
        let columns: Vec<String> =
            header.split(separator).map(|name| name.trim().to_ascii_lowercase()).collect();
        let is_known = |name: &String| COLUMNS.contains(&name.as_str());
        if !columns.iter().all(is_known) || columns.iter().filter(|name| *name == "imsi").count() != 1 {
            return Err(StockError::Header);
        }
        let mut stock = Vec::new();
        for (line, text) in lines {
            let row = row(&columns, separator, text);
            stock.push(row.map_err(|reason| StockError::Line { line, reason })?);
            if stock.len() as u64 > STOCK_MAX {
                return Err(StockError::Count);
            }
        }
        Ok(stock)
    }
}

/// The number `nth` behind these digits, with as many digits.
fn later<T: std::str::FromStr>(first: &str, nth: u64) -> Result<T, StockError> {
    let overflow = || StockError::Overflow(first.to_owned());
    let number = first.parse::<u64>().ok().and_then(|first| first.checked_add(nth)).ok_or_else(overflow)?;
    let text = format!("{number:0width$}", width = first.len());
    if text.len() != first.len() {
        return Err(overflow());
    }
    text.parse().map_err(|_| overflow())
}

fn row(columns: &[String], separator: char, text: &str) -> Result<Stock, String> {
    if text.len() > LINE_BYTES_MAX {
        return Err(format!("it has more than {LINE_BYTES_MAX} bytes"));
    }
    let cells: Vec<&str> = text.split(separator).map(str::trim).collect();
    if cells.len() != columns.len() {
        return Err(format!("{} cells where {} columns are named", cells.len(), columns.len()));
    }
    let cell = |wanted: &str| {
        let named = columns.iter().zip(&cells).find(|(name, _)| *name == wanted);
        named.map(|(_, cell)| *cell).filter(|cell| !cell.is_empty())
    };
    let imsi = cell("imsi").ok_or("imsi is empty")?.parse().map_err(|error| format!("imsi: {error}"))?;
    let msisdn = cell("msisdn").map(str::parse).transpose().map_err(|error| format!("msisdn: {error}"))?;
    let algorithm = match cell("algorithm").unwrap_or("milenage") {
        "milenage" => AuthenticationAlgorithm::Milenage,
        "tuak" => AuthenticationAlgorithm::Tuak,
        _ => return Err("algorithm: give milenage or tuak".to_owned()),
    };
    let secret = |name: &str| {
        let bytes = cell(name).map(|digits| hex::decode(digits).map(Zeroizing::new));
        let bytes = bytes.transpose().map_err(|_| format!("{name}: give hex digits"))?;
        let secret = bytes.map(|bytes| Secret::new(&bytes).ok_or(format!("{name} has the wrong length")));
        secret.transpose()
    };
    let keys = match (secret("ki")?, secret("opc")?) {
        (Some(k), Some(opc)) => {
            check_keys(algorithm, &k, &opc).map_err(|error| match error {
                RegisterError::Invalid(reason) => reason,
                other => other.to_string(),
            })?;
            Some((k, opc))
        }
        (None, None) => None,
        _ => return Err("give ki and opc, or neither".to_owned()),
    };
    Ok(Stock { imsi, msisdn, algorithm, keys })
}

pub(super) fn add(connection: &Connection, vault: &Vault, stock: &[Stock]) -> Result<Added, RegisterError> {
    let put = "INSERT INTO identity (imsi, state, msisdn, algorithm, keys_fixed, keys)
               VALUES (?1, 0, ?2, ?3, ?4, ?5) ON CONFLICT (imsi) DO NOTHING";
    let mut put = connection.prepare_cached(put).map_err(failed)?;
    // A number that has left with its identity may come again with another.
    let find = "SELECT imsi FROM identity WHERE msisdn = ?1 AND imsi <> ?2 AND state <> 3 LIMIT 1";
    let mut find = connection.prepare_cached(find).map_err(failed)?;
    let mut sums = Added::default();
    for one in stock {
        let sealed = seal_keys(vault, one.imsi, one.keys.as_ref())?;
        let (imsi, msisdn) = (one.imsi.to_string(), one.msisdn.map(|number| number.to_string()));
        let row = params![imsi, msisdn, algorithm_code(one.algorithm), one.keys.is_some(), sealed];
        let added = put.execute(row).map_err(failed)? as u64;
        if added == 1 && find.exists(params![msisdn, imsi]).map_err(failed)? {
            let why = format!("the number of {imsi} is another identity's: two cards cannot have it");
            return Err(RegisterError::Conflict(why));
        }
        sums.added += added;
        sums.known += 1 - added;
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_keeps_its_digits() {
        let range = |first: &str, count| {
            let stock = Stock::range(
                first.parse().unwrap(),
                count,
                Some("43660000098".parse().unwrap()),
                AuthenticationAlgorithm::Milenage,
            );
            stock.map(|stock| stock.iter().map(|one| one.imsi.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(range("001020000000099", 2).unwrap(), ["001020000000099", "001020000000100"]);
        assert_eq!(range("999999999999999", 2), Err(StockError::Overflow("999999999999999".into())));
        assert_eq!(range("001020000000099", 0), Err(StockError::Count));
        assert_eq!(range("001020000000099", STOCK_MAX + 1), Err(StockError::Count));
    }

    #[test]
    fn files_with_and_without_keys() {
        let keys = "\u{FEFF}# pool of operator two\r\nIMSI;MSISDN;KI;OPC\r\n\
                    001020000000001;43660000001;465b5ce8b199b49faa5f0a2ee238a6bc;cd63cb71954a9f4e48a5994e37a02baf\r\n";
        let stock = Stock::read(keys).unwrap();
        assert_eq!(stock.len(), 1);
        assert_eq!(
            hex::encode(stock[0].keys.as_ref().unwrap().0.as_bytes()),
            "465b5ce8b199b49faa5f0a2ee238a6bc"
        );
        assert!(Stock::read("imsi\n001020000000001\n001020000000002\n").unwrap()[1].keys.is_none());
        for wrong in [
            "",
            "msisdn\n1\n",
            "imsi,imsi\n",
            "imsi,what\n",
            "imsi\n12\n",
            "imsi,ki\n001020000000001,00\n",
            "imsi,ki,opc\n001020000000001,465b5ce8b199b49faa5f0a2ee238a6,cd63cb71954a9f4e48a5994e37a02baf\n",
            "imsi,ki,opc\n001020000000001,00000000000000000000000000000000,cd63cb71954a9f4e48a5994e37a02baf\n",
            "imsi,algorithm\n001020000000001,xor\n",
            "imsi,msisdn\n001020000000001\n",
        ] {
            let error = Stock::read(wrong).err().unwrap().to_string();
            assert!(!error.contains("cd63cb71"), "{error}");
        }
    }
}
