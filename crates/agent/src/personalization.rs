//! Software cards out of vendor files: the same row that the platform imports makes the card, as in a factory.

use simtide_card::{KeySetPersonalization, Personalization, PskPersonalization, Secret, pin};
use simtide_protocol::card_file::{self, CardRow, FileError, Item, Reader};
use simtide_protocol::ids::{EpochMs, Iccid};
use simtide_protocol::personalization::Identity;
use simtide_protocol::profile::{Profile, PskIdentityForm};
use simtide_protocol::scp80::{Counter, Key};
use simtide_protocol::scp81::{EuiccIdentity, PskIdentity};

/// Why a row makes no card.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PersonalizationError {
    /// The row lacks something that a card needs.
    #[error("card {iccid} has no {what} in its file: add the column")]
    Missing {
        /// Which card.
        iccid: Iccid,
        /// What is missing.
        what: &'static str,
    },
    /// A value does not fit the card.
    #[error("card {iccid}: {what} does not fit: {reason}")]
    Unfit {
        /// Which card.
        iccid: Iccid,
        /// What does not fit.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

/// Why a file of cards cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CardFileError {
    /// The file itself.
    #[error("the card file cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// Its form.
    #[error("the card file cannot be used: {0}")]
    Form(#[from] FileError),
    /// One of its lines.
    #[error("line {line} of the card file is no card: {reason}")]
    Line {
        /// From 1.
        line: u64,
        /// Why.
        reason: String,
    },
}

/// Reads the cards of an OUT or CSV file in their order, at most `count_max`, each handed to `take`. What a platform
/// would refuse is an error here: a fleet is made from one file that is right. Returns how many there were.
pub fn read_cards<E: From<CardFileError>>(
    path: &std::path::Path,
    count_max: u64,
    mut take: impl FnMut(CardRow) -> Result<(), E>,
) -> Result<u64, E> {
    use std::io::Read;
    let mut file = std::fs::File::open(path).map_err(CardFileError::from)?;
    // Plain text columns are what a factory has.
    let settings = card_file::Settings { plain_text_allowed: true, ..card_file::Settings::default() };
    let mut reader = Reader::new(settings);
    let mut chunk = vec![0; 64 * 1024];
    let mut count = 0;
    loop {
        while let Some(item) = reader.next_item().map_err(CardFileError::from)? {
            match item {
                Item::Row { row, .. } => {
                    count += 1;
                    take(*row)?;
                }
                Item::Refused { line, error } => {
                    return Err(CardFileError::Line { line, reason: error.to_string() }.into());
                }
            }
            if count == count_max {
                return Ok(count);
            }
        }
        let read = file.read(&mut chunk).map_err(CardFileError::from)?;
        if read == 0 {
            reader.finish().map_err(CardFileError::from)?;
            return Ok(count);
        }
        reader.feed(&chunk[..read]);
    }
}

/// What a row says, for a card of this profile. `first_poll` overrules the row's own date.
pub fn of_row(
    row: &CardRow,
    profile: &Profile,
    first_poll: Option<EpochMs>,
) -> Result<Personalization, PersonalizationError> {
    let iccid = row.iccid;
    let missing = |what| PersonalizationError::Missing { iccid, what };
    let unfit = |what, reason: String| PersonalizationError::Unfit { iccid, what, reason };
    let key = |what, secret: &card_file::Secret| {
        Key::new(secret.as_bytes()).map_err(|error| unfit(what, error.to_string()))
    };
    let mut key_sets = Vec::with_capacity(row.key_sets.len());
    for set in &row.key_sets {
        key_sets.push(KeySetPersonalization {
            index: set.index,
            kic: key("KIc", &set.kic)?,
            kid: key("KID", &set.kid)?,
            kik: set.kik.as_ref().map(|kik| key("KIK", kik)).transpose()?,
            counter: Counter::new(set.counter).ok_or_else(|| unfit("counter", "above 40 bits".to_owned()))?,
        });
    }
    let psk = match &row.psk {
        Some(psk) => Some(PskPersonalization { identity: psk_identity(row, profile), key: key("PSK", psk)? }),
        None => None,
    };
    Ok(Personalization {
        iccid,
        eid: row.eid,
        identity: identity(row)?,
        msisdn: row.msisdn,
        key_sets,
        psk,
        adm1: eight(row.admin_code.as_ref()).ok_or_else(|| missing("admin code of 8 bytes"))?,
        pin1: digits(row.pin1.as_ref()),
        puk1: digits(row.puk1.as_ref()),
        files: poll_file(profile, first_poll.or(row.next_poll)),
    })
}

/// The first subscription: IMSI, algorithm, keys.
fn identity(row: &CardRow) -> Result<Identity, PersonalizationError> {
    let iccid = row.iccid;
    let missing = |what| PersonalizationError::Missing { iccid, what };
    let imsi = row.imsi.ok_or_else(|| missing("imsi"))?;
    let k = row.ki.clone().ok_or_else(|| missing("ki"))?;
    let opc = row.opc.clone().ok_or_else(|| missing("opc"))?;
    Identity::new(imsi, row.algorithm, k, opc).map_err(|error| PersonalizationError::Unfit {
        iccid,
        what: "ki or opc",
        reason: error.to_string(),
    })
}

/// What the card calls itself in TLS: as imported, or as its profile derives it.
fn psk_identity(row: &CardRow, profile: &Profile) -> Vec<u8> {
    if !row.psk_identity.is_empty() {
        return row.psk_identity.clone();
    }
    let agent = profile.application(simtide_protocol::profile::ApplicationKind::AdminAgent);
    match (profile.psk.identity_form, row.eid, agent) {
        (PskIdentityForm::Euicc, Some(eid), Some(agent)) => {
            let identity = EuiccIdentity {
                eid,
                aid: agent.aid,
                key_id: profile.psk.key_id,
                key_version: profile.psk.key_version,
            };
            PskIdentity::as_bytes(&identity.to_psk_identity()).to_vec()
        }
        _ => row.iccid.to_string().into_bytes(),
    }
}

/// EF.POLL with the date of the first poll; without a date as the profile has it.
fn poll_file(
    profile: &Profile,
    first_poll: Option<EpochMs>,
) -> Vec<(simtide_protocol::profile::FilePath, Vec<u8>)> {
    let Some(date) = first_poll else { return Vec::new() };
    vec![(profile.poll.file.clone(), profile.poll.first_file().with_next(date).encode().to_vec())]
}

fn eight(secret: Option<&card_file::Secret>) -> Option<Secret<8>> {
    secret?.as_bytes().try_into().ok().map(Secret::new)
}

fn digits(secret: Option<&card_file::Secret>) -> Option<Secret<8>> {
    pin(std::str::from_utf8(secret?.as_bytes()).ok()?)
}

/// A card for trying things out: numbers of the test network 001/01, and keys that are known to everybody.
pub fn of_test_card(profile: &Profile) -> Personalization {
    let row = test_row(profile);
    // The row below is complete; a test holds that.
    of_row(&row, profile, None).unwrap_or_else(|error| unreachable!("{error}"))
}

fn test_row(profile: &Profile) -> CardRow {
    let secret = |byte: u8| card_file::Secret::new(&[byte; 16]);
    let parsed = "8988211000000000011".parse();
    let iccid = parsed.unwrap_or_else(|error| unreachable!("{error}"));
    let mut row = CardRow::new(iccid);
    row.imsi = "001010000000001".parse().ok();
    row.msisdn = "43660000001".parse().ok();
    row.ki = secret(0x11);
    row.opc = secret(0x22);
    row.psk = secret(0x55);
    row.admin_code = card_file::Secret::new(b"12345678");
    row.key_sets = profile
        .key_sets
        .iter()
        .filter_map(|set| {
            Some(card_file::KeySetRow {
                index: set.index,
                kic: secret(0x30 | set.index)?,
                kic_algorithm: card_file::KeyAlgorithm::Aes,
                kid: secret(0x40 | set.index)?,
                kid_algorithm: card_file::KeyAlgorithm::Aes,
                kik: None,
                counter: 0,
            })
        })
        .collect();
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_card_is_complete() {
        let profile = Profile::standard();
        let card = of_test_card(&profile);
        assert_eq!(card.identity.imsi.to_string(), "001010000000001");
        assert_eq!(card.psk.unwrap().identity, b"8988211000000000011");
        assert!(!card.key_sets.is_empty());
    }

    #[test]
    fn a_row_gives_its_date_and_what_it_lacks() {
        let profile = Profile::standard();
        let mut row = test_row(&profile);
        row.next_poll = Some(EpochMs::from_seconds(1_800_000_000));
        let card = of_row(&row, &profile, None).unwrap();
        assert_eq!(card.files[0].1[1..5], 1_800_000_000_u32.to_be_bytes());
        let card = of_row(&row, &profile, Some(EpochMs::from_seconds(1_900_000_000))).unwrap();
        assert_eq!(card.files[0].1[1..5], 1_900_000_000_u32.to_be_bytes());
        row.ki = None;
        let error = of_row(&row, &profile, None).unwrap_err();
        assert!(error.to_string().contains("no ki"), "{error}");
    }
}
