//! What a card offers to whoever wants to ask for another operator: the list of its menu, and to the device's own
//! application the rest that a request needs.

use crate::ids::{CardId, EpochMs, IdMno};
use crate::tlv::{Reader, find, push, push_with};

/// Operators in the list of a card's menu.
pub const OPERATORS_MAX: usize = 10;
/// Longest service number in characters, a plus included.
const NUMBER_BYTES_MAX: usize = 21;

/// Tags of the list, of an offer and of what the device asks for.
mod tag {
    pub(super) const CARD: u32 = 0x80;
    pub(super) const OPERATOR: u32 = 0x82;
    pub(super) const NAME: u32 = 0x83;
    pub(super) const AT: u32 = 0x85;
    pub(super) const SERVICE_NUMBER: u32 = 0x86;
    pub(super) const ENTRY: u32 = 0xA1;
}

/// What the device's own application reads before it asks its user (GET DATA `DF61`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// IdSC.
    pub card: CardId,
    /// Where a request goes as a short message, with a plus where it is international; none: by other ways only.
    pub service_number: Option<String>,
    /// The operators of the menu.
    pub operators: Vec<OperatorEntry>,
}

impl Offer {
    /// The bytes.
    ///
    /// # Errors
    /// The list is beyond its limits.
    pub fn encode(&self) -> Result<Vec<u8>, OperatorsError> {
        let mut out = Vec::with_capacity(64);
        push(&mut out, tag::CARD, self.card.as_bytes());
        if let Some(number) = &self.service_number {
            push(&mut out, tag::SERVICE_NUMBER, number.as_bytes());
        }
        out.extend(encode_operators(&self.operators)?);
        Ok(out)
    }

    /// Reads [`Offer::encode`].
    ///
    /// # Errors
    /// The bytes are something else.
    pub fn parse(bytes: &[u8]) -> Result<Self, OperatorsError> {
        let card =
            find(bytes, tag::CARD).and_then(|card| CardId::try_from(card).ok()).ok_or(OperatorsError)?;
        let service_number = match find(bytes, tag::SERVICE_NUMBER).map(std::str::from_utf8) {
            None => None,
            Some(Ok(number)) if (1..=NUMBER_BYTES_MAX).contains(&number.len()) => Some(number.to_owned()),
            Some(_) => return Err(OperatorsError),
        };
        let mut list = Vec::new();
        for object in Reader::new(bytes) {
            let object = object.map_err(|_| OperatorsError)?;
            if object.tag == tag::ENTRY {
                push(&mut list, tag::ENTRY, object.value);
            }
        }
        Ok(Self { card, service_number, operators: decode_operators(&list)? })
    }
}

/// What the device's own application asks the card to seal: the operator that its user has confirmed, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// IdMNO.
    pub operator: IdMno,
    /// When the user confirmed, by the device's clock. Whole seconds until the year 2106.
    pub at: Option<EpochMs>,
}

impl Wish {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        push(&mut out, tag::OPERATOR, self.operator.as_str().as_bytes());
        if let Some(seconds) = self.at.and_then(|at| u32::try_from(at.seconds()).ok()) {
            push(&mut out, tag::AT, &seconds.to_be_bytes());
        }
        out
    }

    /// Reads [`Wish::encode`]; `None` where the bytes are something else.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let operator = std::str::from_utf8(find(bytes, tag::OPERATOR)?).ok()?.parse().ok()?;
        let at = match find(bytes, tag::AT) {
            None => None,
            Some(seconds) => {
                Some(EpochMs::from_seconds(i64::from(u32::from_be_bytes(seconds.try_into().ok()?))))
            }
        };
        Some(Self { operator, at })
    }
}

/// One line of a card's menu.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorEntry {
    /// IdMNO.
    pub id: IdMno,
    /// What the user reads; at most [`super::NAME_BYTES_MAX`] bytes.
    pub name: String,
}

/// A list of operators that no menu shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the list of operators is malformed, has more than {OPERATORS_MAX} entries, or a name of more than 32 bytes"
)]
pub struct OperatorsError;

/// The list of a card's menu as its bytes.
///
/// # Errors
/// Too many entries, or a name that is too long or empty.
pub fn encode_operators(operators: &[OperatorEntry]) -> Result<Vec<u8>, OperatorsError> {
    if operators.len() > OPERATORS_MAX || operators.iter().any(|entry| !is_name(&entry.name)) {
        return Err(OperatorsError);
    }
    let mut out = Vec::new();
    for entry in operators {
        push_with(&mut out, tag::ENTRY, |body| {
            push(body, tag::OPERATOR, entry.id.as_str().as_bytes());
            push(body, tag::NAME, entry.name.as_bytes());
        });
    }
    Ok(out)
}

/// Reads [`encode_operators`].
///
/// # Errors
/// The bytes are something else.
pub fn decode_operators(bytes: &[u8]) -> Result<Vec<OperatorEntry>, OperatorsError> {
    let mut operators = Vec::new();
    for object in Reader::new(bytes) {
        let object = object.map_err(|_| OperatorsError)?;
        let text = |tag| find(object.value, tag).and_then(|text| std::str::from_utf8(text).ok());
        let id = text(tag::OPERATOR).and_then(|id| id.parse().ok()).ok_or(OperatorsError)?;
        let name = text(tag::NAME).filter(|name| is_name(name)).ok_or(OperatorsError)?.to_owned();
        if object.tag != tag::ENTRY || operators.len() == OPERATORS_MAX {
            return Err(OperatorsError);
        }
        operators.push(OperatorEntry { id, name });
    }
    Ok(operators)
}

fn is_name(name: &str) -> bool {
    (1..=super::NAME_BYTES_MAX).contains(&name.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_operators_reads_back() {
        let entry = |id: &str, name: &str| OperatorEntry { id: id.parse().unwrap(), name: name.into() };
        let list = vec![entry("ONE", "Operator one"), entry("2", "\u{d6}sterreich Zwei")];
        assert_eq!(decode_operators(&encode_operators(&list).unwrap()), Ok(list));
        let many: Vec<_> = (0..=OPERATORS_MAX).map(|_| entry("1", "x")).collect();
        assert_eq!(encode_operators(&many), Err(OperatorsError));
        assert_eq!(decode_operators(&[0xA1, 0x02, 0x83, 0x00]), Err(OperatorsError));
    }

    #[test]
    fn an_offer_and_a_wish_read_back() {
        let entry = OperatorEntry { id: "TWO".parse().unwrap(), name: "Second".into() };
        let card = "8988211000000000011".parse().unwrap();
        for service_number in [None, Some("+4670000".to_owned())] {
            for operators in [vec![], vec![entry.clone(), entry.clone()]] {
                let offer = Offer { card, service_number: service_number.clone(), operators };
                assert_eq!(Offer::parse(&offer.encode().unwrap()), Ok(offer));
            }
        }
        for at in [None, Some(EpochMs::from_seconds(1_800_000_000))] {
            let wish = Wish { operator: "two".parse().unwrap(), at };
            assert_eq!(Wish::parse(&wish.encode()), Some(wish));
        }
        assert_eq!(Wish::parse(&[0x82, 0x00]), None);
    }
}
