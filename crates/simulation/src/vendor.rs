//! A card vendor: makes batches of cards and the OUT or CSV file that is delivered with them.
//!
//! The same seed makes the same cards, keys included, so that the fleet can be personalised from the file that the
//! platform imports, as in a factory.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use simtide_protocol::card_file::{
    AuthenticationAlgorithm, CardRow, Column, Format, KeyAlgorithm, KeySetRow, Secret, WriteError, Writer,
    WriterSettings,
};
use simtide_protocol::ids::{EpochMs, Iccid, IdError, ProfileName};

/// What a customer orders.
#[derive(Debug, Clone)]
pub struct Order {
    /// Makes keys and codes; the same seed, the same cards.
    pub seed: u64,
    /// How many cards, at most 10 million.
    pub cards: u32,
    /// Mobile country code and network code of the IMSIs, 5 or 6 digits.
    pub network: String,
    /// Profile of all cards.
    pub profile: ProfileName,
    /// What the cards are in.
    pub device_kind: String,
    /// The first `dated` cards get dates of their first poll, evenly from `first_poll` over `spread_ms`; the others
    /// stay in the shop and get none.
    pub dated: u32,
    /// Date of the first card's first poll.
    pub first_poll: EpochMs,
    /// Over how many milliseconds the first polls are spread.
    pub spread_ms: i64,
}

/// Why a batch could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VendorError {
    /// The order asks for numbers that do not exist.
    #[error(
        "the order cannot be numbered: {0}; give a network of 5 or 6 digits and at most 10 million cards"
    )]
    Number(#[from] IdError),
    /// The file format cannot carry a value.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Most cards of one order: the serial number has seven digits.
const CARDS_MAX: u32 = 10_000_000;

impl Order {
    /// The whole file: cards that authenticate with Milenage.
    pub fn file(&self, format: Format) -> Result<String, VendorError> {
        self.file_of(format, AuthenticationAlgorithm::Milenage)
    }

    /// The whole file, for subscriptions with this algorithm.
    pub fn file_of(&self, format: Format, algorithm: AuthenticationAlgorithm) -> Result<String, VendorError> {
        let rows = self.rows_of(algorithm)?;
        let mut columns = columns();
        if algorithm != AuthenticationAlgorithm::Milenage {
            columns.push(Column::Algorithm);
        }
        let writer = Writer::new(
            format,
            WriterSettings {
                customer: "Demo operator".to_owned(),
                kind: "UICC".to_owned(),
                profile: Some(self.profile.clone()),
                batch: format!("{:08}", self.seed % 100_000_000),
                quantity: rows.len() as u64,
                first: rows.first().and_then(|row| Some((row.imsi?, row.iccid))),
                columns,
                transport_key: None,
            },
        );
        let mut text = writer.header();
        for row in &rows {
            text.push_str(&writer.row(row)?);
        }
        Ok(text)
    }

    /// The cards, in the order of their dates.
    pub fn rows(&self) -> Result<Vec<CardRow>, VendorError> {
        self.rows_of(AuthenticationAlgorithm::Milenage)
    }

    /// The cards of subscriptions with this algorithm: TUAK with K and TOPc of 32 bytes.
    pub fn rows_of(&self, algorithm: AuthenticationAlgorithm) -> Result<Vec<CardRow>, VendorError> {
        let mut random = ChaCha12Rng::seed_from_u64(self.seed);
        (0..self.cards.min(CARDS_MAX)).map(|serial| self.row(serial, algorithm, &mut random)).collect()
    }

    fn row(
        &self,
        serial: u32,
        algorithm: AuthenticationAlgorithm,
        random: &mut ChaCha12Rng,
    ) -> Result<CardRow, VendorError> {
        let mut row = CardRow::new(Iccid::with_check_digit(&format!("89{}{serial:011}", self.network))?);
        let digits = 15 - self.network.len();
        row.imsi = Some(format!("{}{serial:0digits$}", self.network).parse()?);
        row.msisdn = Some(format!("4670{serial:07}").parse()?);
        row.profile = Some(self.profile.clone());
        row.device_kind = Some(self.device_kind.clone());
        row.algorithm = algorithm;
        (row.ki, row.opc) = match algorithm {
            AuthenticationAlgorithm::Milenage => (secret::<16>(random), secret::<16>(random)),
            AuthenticationAlgorithm::Tuak => (secret::<32>(random), secret::<32>(random)),
        };
        row.psk = secret::<16>(random);
        row.admin_code = secret::<8>(random);
        let keys = (secret::<16>(random), secret::<16>(random), secret::<16>(random));
        if let (Some(kic), Some(kid), kik) = keys {
            let (kic_algorithm, kid_algorithm) = (KeyAlgorithm::Aes, KeyAlgorithm::Aes);
            row.key_sets.push(KeySetRow {
                index: 1,
                kic,
                kic_algorithm,
                kid,
                kid_algorithm,
                kik,
                counter: 0,
            });
        }
        if serial < self.dated {
            let step = i128::from(self.spread_ms) * i128::from(serial) / i128::from(self.dated);
            row.next_poll = Some(self.first_poll.plus_ms(i64::try_from(step).unwrap_or(i64::MAX)));
        }
        Ok(row)
    }
}

fn secret<const N: usize>(random: &mut ChaCha12Rng) -> Option<Secret> {
    let mut bytes = [0; N];
    random.fill_bytes(&mut bytes);
    Secret::new(&bytes)
}

fn columns() -> Vec<Column> {
    vec![
        Column::Iccid,
        Column::Imsi,
        Column::Msisdn,
        Column::Ki,
        Column::Opc,
        Column::Kic(1),
        Column::Kid(1),
        Column::Kik(1),
        Column::Psk,
        Column::AdminCode,
        Column::DeviceKind,
        Column::NextPoll,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use simtide_protocol::card_file::{Item, Reader, Settings};

    fn order() -> Order {
        Order {
            seed: 7,
            cards: 5,
            network: "00101".into(),
            profile: "standard".parse().unwrap(),
            device_kind: "meter".into(),
            dated: 4,
            first_poll: EpochMs(1_800_000_000_000),
            spread_ms: 4_000,
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for format in [Format::Out, Format::Csv] {
            let text = order().file(format).unwrap();
            let mut reader = Reader::new(Settings { plain_text_allowed: true, ..Settings::default() });
            reader.feed(text.as_bytes());
            let mut rows = Vec::new();
            reader.feed(&[]);
            while let Some(item) = reader.next_item().unwrap() {
                match item {
                    Item::Row { row, .. } => rows.push(*row),
                    Item::Refused { error, .. } => panic!("{error}"),
                }
            }
            assert_eq!(rows, order().rows().unwrap(), "{text}");
            assert_eq!(reader.finish().unwrap().rows, 5);
        }
    }

    #[test]
    fn cards_of_both_algorithms_are_made_from_their_rows() {
        let profile = simtide_protocol::profile::Profile::standard();
        for algorithm in [AuthenticationAlgorithm::Milenage, AuthenticationAlgorithm::Tuak] {
            let text = order().file_of(Format::Csv, algorithm).unwrap();
            let mut reader = Reader::new(Settings { plain_text_allowed: true, ..Settings::default() });
            reader.feed(text.as_bytes());
            reader.feed(&[]);
            let Some(Item::Row { row, .. }) = reader.next_item().unwrap() else { panic!("{text}") };
            let card = simtide_agent::personalization::of_row(&row, &profile, None).unwrap();
            assert_eq!((card.identity.algorithm, Some(&card.identity.k)), (algorithm, row.ki.as_ref()));
            assert_eq!(card.adm1.expose(), row.admin_code.as_ref().unwrap().as_bytes());
        }
    }

    #[test]
    fn cards_in_the_shop_have_no_date() {
        let rows = order().rows().unwrap();
        assert_eq!(rows[3].next_poll, Some(EpochMs(1_800_000_003_000)));
        assert_eq!(rows[4].next_poll, None);
    }

    #[test]
    fn another_seed_makes_other_keys() {
        assert_ne!(order().rows().unwrap()[0].psk, Order { seed: 8, ..order() }.rows().unwrap()[0].psk);
    }
}
