//! Targets that take any bytes: none may panic, each checks what must always hold. Run by cargo-fuzz (see
//! `fuzz/README.md`); their corpora are replayed by `tests/corpora.rs`.

mod administration;
mod coding;
mod entitlement;
mod personalization;
mod signalling;

pub use administration::{scp81_request, scp81_response, script, script_response, trigger};
pub use coding::{card_file_contents, tlv};
pub use entitlement::{eap_peer, eap_server, entitlement_document, entitlement_request, second_layer};
pub use personalization::{personalization_message, personalization_uplink};
pub use signalling::gsup;

use crate::card_file::{
    CardRow, FileError, Format, Item, Reader, Secret, Settings, TransportKey, Writer, WriterSettings,
};
use crate::ids::{EpochMs, Tar};
use crate::scp80::{
    CmacLength, CommandHeader, Counter, Holdings, Key, KeySet, Kic, Kid, PaddingOctets, Security, Spi,
    StoredKeySet, open, open_response, receive, seal, seal_response,
};
use crate::sms::{
    Address, Arrival, Deliver, DeliverReport, Limits, Reassembly, SmsPpDownload, StatusReport, Submit,
    SubmitReport, UserDataHeader,
};

/// The first octet chooses keys, the rest is a command packet. What opens is sealed and opens again the same; a card
/// decides about it without panic; and the rest as data survives a round trip.
pub fn scp80_command(data: &[u8]) {
    let Some((choice, packet)) = data.split_first() else { return };
    let (keys, kic, kid) = keys(*choice);
    if let Ok(opened) = open(packet, &keys)
        && let Ok(sealed) = seal(&opened.header, &keys, &opened.data)
    {
        assert!(sealed.len() <= packet.len(), "our own padding is the shortest");
        assert_eq!(open(&sealed, &keys), Ok(opened), "what was sealed opens the same");
    }
    let card = FuzzCard { keys: &keys };
    if let Ok(Ok(accepted)) = receive(packet, &card) {
        assert!(
            accepted.counter.is_none_or(|counter| counter > CARD_COUNTER),
            "no counter is accepted twice"
        );
    }
    let header = CommandHeader {
        security: Security { spi: Spi::new(*choice & 0x1E | 0x02, 0x39), kic, kid },
        tar: Tar([0xB0, 0x00, 0x10]),
        counter: Counter::MAX,
    };
    if let Ok(sealed) = seal(&header, &keys, packet) {
        let opened = open(&sealed, &keys).map(|opened| opened.data);
        assert_eq!(opened.as_deref(), Ok(packet), "any data survives");
    }
}

/// The first octet chooses keys, the second is that of the SPI, the rest a response packet. What opens is sealed and
/// opens again the same.
pub fn scp80_response(data: &[u8]) {
    let [choice, second, packet @ ..] = data else { return };
    let (keys, kic, kid) = keys(*choice);
    let security = Security { spi: Spi::new(0x16, *second), kic, kid };
    let Ok(opened) = open_response(packet, &security, &keys) else { return };
    let padding = if choice & 0x80 == 0 { PaddingOctets::Zeros } else { PaddingOctets::EightyThenZeros };
    let Ok(sealed) = seal_response(&opened.header, &security, &keys, &opened.data, padding) else { return };
    let again = open_response(&sealed, &security, &keys);
    let expected = again.as_ref().map(|again| (again.header, again.data.as_slice()));
    assert_eq!(expected, Ok((opened.header, opened.data.as_slice())), "what was sealed opens the same");
    let was_authenticated = again.is_ok_and(|again| again.authenticated);
    assert!(was_authenticated || !opened.authenticated, "a proof stays one");
}

/// TPDUs of every type, and the ENVELOPE around them: what is read is written and reads again the same.
pub fn sms_tpdu(data: &[u8]) {
    if let Ok(deliver) = Deliver::from_bytes(data) {
        assert_eq!(Deliver::from_bytes(&deliver.to_bytes()), Ok(deliver));
    }
    if let Ok(submit) = Submit::from_bytes(data) {
        assert_eq!(Submit::from_bytes(&submit.to_bytes()), Ok(submit));
    }
    if let Ok(report) = StatusReport::from_bytes(data) {
        assert_eq!(StatusReport::from_bytes(&report.to_bytes()), Ok(report));
    }
    for is_failure in [false, true] {
        if let Ok(report) = DeliverReport::from_bytes(data, is_failure) {
            assert_eq!(DeliverReport::from_bytes(&report.to_bytes(), is_failure), Ok(report));
        }
        if let Ok(report) = SubmitReport::from_bytes(data, is_failure) {
            assert_eq!(SubmitReport::from_bytes(&report.to_bytes(), is_failure), Ok(report));
        }
    }
    if let Ok(download) = SmsPpDownload::from_bytes(data) {
        assert_eq!(SmsPpDownload::from_bytes(&download.to_bytes()), Ok(download));
    }
    let address = Address::from_data_object(data);
    assert_eq!(Address::from_data_object(&address.to_data_object()), address);
}

/// User data headers, and messages put together: pieces of the input, each with a length octet before it, are parts.
/// The limits of reassembly hold whatever comes.
pub fn sms_udh(data: &[u8]) {
    if let Ok((header, body)) = UserDataHeader::split(data) {
        let again = [header.to_bytes(), body.to_vec()].concat();
        assert_eq!(again, data, "a header is kept as it came");
        let _ = header.concatenation();
    }
    let limits = Limits { open_max: 2, size_max: 512, timeout_ms: 1_000 };
    let mut reassembly = Reassembly::new(limits);
    let mut rest = data;
    let mut now = EpochMs::EPOCH;
    while let Some((length, after)) = rest.split_first() {
        let (part, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        now = now.plus_ms(i64::from(*length));
        if let Ok(Arrival::Whole(message)) = reassembly.accept(now, length % 2, part) {
            assert!(message.parts == 1 || message.data.len() <= limits.size_max);
        }
    }
    reassembly.expire(now.plus_ms(limits.timeout_ms));
    assert!(reassembly.is_empty());
}

/// Any bytes as an OUT file: see `vendor_file`.
pub fn vendor_out(data: &[u8]) {
    vendor_file(Format::Out, data);
}

/// Any bytes as a CSV file: see `vendor_file`.
pub fn vendor_csv(data: &[u8]) {
    vendor_file(Format::Csv, data);
}

/// However the bytes arrive, the same rows come out; what is read is written as CSV and reads again the same.
fn vendor_file(format: Format, data: &[u8]) {
    let whole = vendor_rows(format, data, data.len().max(1));
    assert_eq!(whole, vendor_rows(format, data, 7), "chunks do not matter");
    let rows = whole.0;
    let sets = rows.iter().flat_map(|row| &row.key_sets).map(|set| set.index).max().unwrap_or(0);
    let writer = Writer::new(
        Format::Csv,
        WriterSettings {
            quantity: rows.len() as u64,
            columns: Writer::all_columns(sets),
            ..WriterSettings::default()
        },
    );
    let lines = rows.iter().map(|row| writer.row(row).map(|line| line.to_string()));
    let Ok(lines) = lines.collect::<Result<String, _>>() else { return };
    let again = vendor_rows(Format::Csv, (writer.header() + &lines).as_bytes(), 4_096);
    assert_eq!(again, (rows, true), "what was written reads the same");
}

/// The rows, and whether the file is complete.
fn vendor_rows(format: Format, data: &[u8], chunk: usize) -> (Vec<CardRow>, bool) {
    let zeros = Secret::new(&[0; 16]);
    let key = zeros.and_then(|key| TransportKey::combine(3, &[key], &[0x66, 0xE9, 0x4B]).ok());
    let settings = Settings {
        format: Some(format),
        transport_keys: key.into_iter().collect(),
        plain_text_allowed: true,
        ..Settings::default()
    };
    let mut reader = Reader::new(settings);
    let mut rows = Vec::new();
    let mut read = || -> Result<(), FileError> {
        for part in data.chunks(chunk) {
            reader.feed(part);
            while let Some(item) = reader.next_item()? {
                if let Item::Row { row, .. } = item {
                    rows.push(*row);
                }
            }
        }
        reader.finish().map(|_| ())
    };
    let is_complete = read().is_ok();
    (rows, is_complete)
}

const CARD_COUNTER: Counter = Counter::ZERO;

struct FuzzCard<'k> {
    keys: &'k KeySet,
}

impl Holdings for FuzzCard<'_> {
    fn minimum_level(&self, _tar: Tar) -> Option<Spi> {
        Some(Spi::new(0x10, 0x00))
    }

    fn key_set(&self, index: u8) -> Option<StoredKeySet<'_>> {
        (index != 0x0F).then_some(StoredKeySet { keys: self.keys, counter: CARD_COUNTER })
    }
}

/// One of the algorithms, and what names it.
fn keys(choice: u8) -> (KeySet, Kic, Kid) {
    const LENGTHS_AND_NIBBLES: [(usize, u8, u8); 7] = [
        (8, 0x1, 0x1),
        (8, 0xD, 0x1),
        (16, 0x5, 0x5),
        (24, 0x9, 0x9),
        (16, 0x2, 0x2),
        (24, 0x2, 0x2),
        (32, 0x2, 0x2),
    ];
    let (length, kic, kid) = LENGTHS_AND_NIBBLES[usize::from(choice & 0x07) % LENGTHS_AND_NIBBLES.len()];
    let material: [u8; 32] = std::array::from_fn(|at| at as u8);
    let mut keys = KeySet::new(Key::new(&material[..length]).ok(), Key::new(&material[..length]).ok());
    if choice & 0x40 != 0 {
        keys.cmac_length = CmacLength::Four;
    }
    (keys, Kic(0x10 | kic), Kid(0x10 | kid))
}
