//! Delivery receipts: reading them, and finding the message they are about.
//!
//! The id in a receipt is rarely the id of the answer to the submit: the one may be hexadecimal and the other decimal,
//! zeros in front come and go, and some SMSCs answer every submit with the same text and return only the low 8 bits of
//! the reference. So a receipt is matched by its id in every form, together with the subscriber; where two forms name
//! two messages the reference decides, then the form that this SMSC has used so far; last by (subscriber, reference
//! modulo 256).

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};

use super::delivery::Delivery;
use super::event::{DeliveryState, Receipt};

/// Messages remembered per link; the oldest are forgotten first (the store knows them still).
pub const REMEMBERED_MAX: usize = 200_000;
/// Digits of an address that must agree: national and international forms differ in front.
const DIGITS_COMPARED: usize = 8;

/// Reads a delivery as a receipt; `None` where it is a message from a phone.
///
/// SMPP 3.4, 5.2.12: esm_class bits 5-2: 0001 receipt, 1000 intermediate notification. A few SMSCs leave them 0 and
/// are recognised by receipted_message_id together with message_state.
pub fn read(delivery: &Delivery) -> Option<Receipt> {
    let is_receipt = match delivery.esm_class & 0x3C {
        0x04 | 0x20 => true,
        0x00 => delivery.receipted_message_id.is_some() && delivery.message_state.is_some(),
        _ => false,
    };
    if !is_receipt {
        return None;
    }
    let text = text(delivery);
    let id =
        delivery.receipted_message_id.as_deref().filter(|id| !id.is_empty()).or_else(|| field(&text, "id:"));
    let state = delivery
        .message_state
        .map_or_else(|| field(&text, "stat:").map_or(DeliveryState::Unknown, state_of_text), state_of_number);
    let state = if delivery.esm_class & 0x3C == 0x20 { DeliveryState::Enroute } else { state };
    let error = match delivery.network_error {
        Some((network, code)) => Some(format!("{network}:{code}")),
        None => field(&text, "err:").filter(|e| e.bytes().any(|b| b != b'0')).map(str::to_owned),
    };
    Some(Receipt {
        token: None,
        ids: id.map(spellings).unwrap_or_default(),
        subscriber: delivery.source.clone(),
        reference: delivery.reference,
        state,
        error,
    })
}

/// The text of a receipt: some SMSCs write it in UCS2 (data_coding 08).
fn text(delivery: &Delivery) -> Cow<'_, str> {
    if delivery.data_coding != 0x08 {
        return String::from_utf8_lossy(&delivery.user_data);
    }
    let units = delivery.user_data.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]]));
    Cow::Owned(char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
}

/// The value after `key`, up to the next space (SMPP 3.4, appendix B); keys in any case, also at the start.
fn field<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    let lower = text.to_ascii_lowercase();
    let mut from = 0;
    loop {
        let at = from + lower.get(from..)?.find(key)?;
        // "id:" must not be found inside "messageid:".
        if at == 0 || !lower.as_bytes()[at - 1].is_ascii_alphanumeric() {
            let value = text.get(at + key.len()..)?.trim_start();
            let end = value.find(char::is_whitespace).unwrap_or(value.len());
            return (end > 0).then_some(&value[..end]);
        }
        from = at + key.len();
    }
}

fn state_of_text(text: &str) -> DeliveryState {
    match text.to_ascii_uppercase().get(..5).unwrap_or(text) {
        "ENROU" | "BUFFE" | "SCHED" => DeliveryState::Enroute,
        "DELIV" => DeliveryState::Delivered,
        "EXPIR" => DeliveryState::Expired,
        "DELET" => DeliveryState::Deleted,
        "UNDEL" => DeliveryState::Undeliverable,
        "ACCEP" => DeliveryState::Accepted,
        "REJEC" => DeliveryState::Rejected,
        _ => DeliveryState::Unknown,
    }
}

fn state_of_number(number: u8) -> DeliveryState {
    match number {
        0 | 1 => DeliveryState::Enroute,
        2 => DeliveryState::Delivered,
        3 => DeliveryState::Expired,
        4 => DeliveryState::Deleted,
        5 => DeliveryState::Undeliverable,
        6 => DeliveryState::Accepted,
        8 => DeliveryState::Rejected,
        _ => DeliveryState::Unknown,
    }
}

/// The forms in which an id may have been given before: as written, its number in hexadecimal, its number from
/// hexadecimal in decimal.
pub fn spellings(id: &str) -> Vec<String> {
    let mut all: Vec<String> = forms(&canonical(id)).into_iter().flatten().collect();
    all.dedup();
    all
}

/// How the id of a receipt was written in the answer to the submit: the same, there in hexadecimal, there in decimal.
const FORMS: usize = 3;

fn forms(plain: &str) -> [Option<String>; FORMS] {
    [
        Some(plain.to_owned()),
        plain.parse::<u64>().ok().map(|number| format!("{number:x}")),
        u64::from_str_radix(plain, 16).ok().map(|number| number.to_string()),
    ]
}

/// Lower case without leading zeros.
pub fn canonical(id: &str) -> String {
    let trimmed = id.trim().trim_start_matches('0');
    if trimmed.is_empty() { "0".to_owned() } else { trimmed.to_ascii_lowercase() }
}

/// The end of a number, for comparison: its last [`DIGITS_COMPARED`] characters.
pub fn tail(digits: &str) -> u64 {
    let bytes = digits.as_bytes();
    bytes[bytes.len().saturating_sub(DIGITS_COMPARED)..].iter().fold(0, |tail, &b| tail << 8 | u64::from(b))
}

/// What stands for a canonical id in the memory of a link: cheaper than its text, for every message that is sent.
fn fingerprint(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    for byte in id.trim().trim_start_matches('0').bytes() {
        hasher.write_u8(byte.to_ascii_lowercase());
    }
    hasher.finish()
}

/// Finds the message of a receipt among those that this link has submitted.
#[derive(Debug, Default)]
pub struct Matcher {
    /// By id; `None` for an id that was given to two messages and therefore names neither.
    by_id: HashMap<u64, Option<u64>>,
    /// By end of the subscriber's number and reference modulo 256; the latest message.
    by_reference: HashMap<(u64, u8), u64>,
    /// Messages by number of arrival, the first of which is `first`; `None` where the last receipt has come.
    messages: VecDeque<Option<Remembered>>,
    first: u64,
    /// How often each form of an id was the only one that fitted: the SMSC keeps to one.
    seen: [u64; FORMS],
}

#[derive(Debug, Clone, Copy)]
struct Remembered {
    token: u64,
    id: u64,
    tail: u64,
    reference: u8,
}

impl Matcher {
    /// The SMSC has accepted a message.
    pub fn accepted(&mut self, token: u64, message_id: &str, destination: &str, reference: u16) {
        let number = self.first + self.messages.len() as u64;
        let message = Remembered {
            token,
            id: fingerprint(message_id),
            tail: tail(destination),
            reference: reference as u8,
        };
        if !message_id.is_empty() {
            // What two messages share is not an id.
            self.by_id.entry(message.id).and_modify(|known| *known = None).or_insert(Some(number));
        }
        self.by_reference.insert((message.tail, message.reference), number);
        self.messages.push_back(Some(message));
        while self.messages.len() > REMEMBERED_MAX {
            self.forget(self.first);
            self.messages.pop_front();
            self.first += 1;
        }
    }

    /// The token of the message that a receipt is about. A final receipt also ends the memory of it.
    pub fn find(&mut self, receipt: &Receipt) -> Option<u64> {
        let number = self.number(receipt)?;
        let token = self.message(number)?.token;
        if receipt.state.is_final() {
            self.forget(number);
        }
        Some(token)
    }

    fn message(&self, number: u64) -> Option<Remembered> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        *self.messages.get(at)?
    }

    fn number(&mut self, receipt: &Receipt) -> Option<u64> {
        let subscriber = tail(&receipt.subscriber.digits);
        let forms = receipt.ids.first().map(|id| forms(id)).unwrap_or_default();
        let named = forms.iter().enumerate().filter_map(|(form, id)| {
            let number = (*self.by_id.get(&fingerprint(id.as_ref()?))?)?;
            let message = self.message(number)?;
            // Another form of the number is somebody else's id as easily, and so is an id that never changes.
            let agrees = message.tail == subscriber || (form == 0 && subscriber == 0);
            let referred = receipt.reference.is_some_and(|reference| reference as u8 == message.reference);
            agrees.then_some((referred, self.seen[form], FORMS - form, number))
        });
        let found: Vec<_> = named.collect();
        if let Some(&(_, _, rank, number)) = found.iter().max() {
            if found.iter().all(|other| other.3 == number) {
                self.seen[FORMS - rank] += 1;
            }
            return Some(number);
        }
        self.by_reference.get(&(subscriber, receipt.reference? as u8)).copied()
    }

    fn forget(&mut self, number: u64) {
        let Some(message) = self.message(number) else { return };
        self.messages[(number - self.first) as usize] = None;
        if self.by_id.get(&message.id) == Some(&Some(number)) {
            self.by_id.remove(&message.id);
        }
        let key = (message.tail, message.reference);
        if self.by_reference.get(&key) == Some(&number) {
            self.by_reference.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smpp::event::Address;

    fn delivery(text: &str) -> Delivery {
        Delivery {
            source: Address::new(1, 1, "436641234567"),
            destination: Address::new(0, 0, "500"),
            esm_class: 0x04,
            protocol_id: 0,
            data_coding: 0,
            user_data: text.as_bytes().to_vec(),
            receipted_message_id: None,
            message_state: None,
            network_error: None,
            reference: None,
        }
    }

    #[test]
    fn the_usual_text_is_read() {
        let text = "id:00A7 sub:001 dlvrd:001 submit date:2611210930 done date:2611210931 stat:DELIVRD err:000 text:";
        let receipt = read(&delivery(text)).unwrap();
        assert_eq!(receipt.ids, ["a7", "167"]);
        assert_eq!((receipt.state, receipt.error), (DeliveryState::Delivered, None));
        let receipt = read(&delivery("ID: 12 STAT:UNDELIV ERR:27")).unwrap();
        assert_eq!(receipt.ids, ["12", "c", "18"]);
        assert_eq!((receipt.state, receipt.error.as_deref()), (DeliveryState::Undeliverable, Some("27")));
    }

    #[test]
    fn a_text_in_ucs2_is_read() {
        let text = "id:00A7 stat:DELIVRD";
        let mut wide = delivery("");
        wide.data_coding = 0x08;
        wide.user_data = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(read(&wide), read(&delivery(text)));
    }

    #[test]
    fn parameters_go_before_text_and_stored_is_not_final() {
        let mut stored = delivery("id:1 stat:DELIVRD");
        stored.receipted_message_id = Some("2".into());
        stored.message_state = Some(1);
        let receipt = read(&stored).unwrap();
        assert_eq!((receipt.ids[0].as_str(), receipt.state.is_final()), ("2", false));
        stored.esm_class = 0x00;
        assert!(read(&stored).is_some(), "no receipt bits, but the parameters of one");
        stored.message_state = None;
        assert!(read(&stored).is_none());
    }

    #[test]
    fn odd_texts_do_no_harm() {
        for text in
            ["", "id:", "id:   ", "messageid:7", "stat:", "ID:é stat:é", "id:99999999999999999999999999"]
        {
            read(&delivery(text)).unwrap();
        }
        assert!(read(&delivery("messageid:7")).unwrap().ids.is_empty());
    }

    fn receipt(id: Option<&str>, subscriber: &str, reference: Option<u16>) -> Receipt {
        Receipt {
            token: None,
            ids: id.map(spellings).unwrap_or_default(),
            subscriber: Address::new(1, 1, subscriber),
            reference,
            state: DeliveryState::Delivered,
            error: None,
        }
    }

    #[test]
    fn ids_match_in_every_spelling() {
        let uuid = "1B4E28BA-2FA1-11D2-883F-0016D3CCA427";
        for (answered, in_receipt) in [
            ("17", "17"),
            ("a7", "167"),
            ("167", "A7"),
            ("000a7", "A7"),
            (uuid, uuid),
            (uuid, &uuid.to_lowercase()),
        ] {
            let mut matcher = Matcher::default();
            matcher.accepted(9, answered, "436641234567", 1);
            assert_eq!(matcher.find(&receipt(Some(in_receipt), "06641234567", None)), Some(9), "{answered}");
            assert_eq!(matcher.find(&receipt(Some(in_receipt), "06641234567", None)), None, "final once");
        }
    }

    #[test]
    fn another_spelling_needs_the_same_subscriber() {
        let mut matcher = Matcher::default();
        matcher.accepted(9, "16", "436641234567", 1);
        assert_eq!(matcher.find(&receipt(Some("10"), "436649999999", None)), None);
    }

    #[test]
    fn where_two_forms_fit_the_reference_decides_and_then_what_the_smsc_does() {
        let number = "436641234567";
        let mut matcher = Matcher::default();
        for (token, id) in [(1, "32"), (2, "50"), (3, "FF"), (4, "64"), (5, "100")] {
            matcher.accepted(token, id, number, token as u16);
        }
        assert_eq!(matcher.find(&receipt(Some("50"), number, Some(1))), Some(1));
        assert_eq!(matcher.find(&receipt(Some("255"), number, None)), Some(3), "hexadecimal, then decimal");
        assert_eq!(matcher.find(&receipt(Some("100"), number, None)), Some(4), "as before");
    }

    #[test]
    fn a_constant_id_falls_back_on_subscriber_and_reference_modulo_256() {
        let mut matcher = Matcher::default();
        matcher.accepted(1, "msg_id_not_implemented", "436641234567", 0x0105);
        matcher.accepted(2, "msg_id_not_implemented", "436641234567", 0x0106);
        matcher.accepted(3, "msg_id_not_implemented", "436647654321", 0x0105);
        assert_eq!(matcher.find(&receipt(None, "436641234567", Some(5))), Some(1));
        assert_eq!(matcher.find(&receipt(Some("msg_id_not_implemented"), "436647654321", Some(5))), Some(3));
        assert_eq!(matcher.find(&receipt(Some("msg_id_not_implemented"), "436641234567", Some(6))), Some(2));
        assert_eq!(matcher.find(&receipt(Some("msg_id_not_implemented"), "436641234567", None)), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut matcher = Matcher::default();
        for n in 0..REMEMBERED_MAX as u64 + 10 {
            matcher.accepted(n, &n.to_string(), "436641234567", n as u16);
        }
        assert_eq!(matcher.messages.len(), REMEMBERED_MAX);
        assert_eq!(matcher.by_id.len(), REMEMBERED_MAX);
        assert_eq!(matcher.find(&receipt(Some("9"), "436641234567", None)), None);
    }
}
