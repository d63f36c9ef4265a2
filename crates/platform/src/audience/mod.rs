//! Whom a campaign concerns: a small typed filter over the facts of a card, or an explicit list.
//!
//! A filter is matched when a card is looked at (a candidate page, a poll), never by querying all cards again.
//! It has a JSON form (a tree, `{"all": [{"operator": [1]}, {"not": {"tag": "lab"}}]}`) and a text form
//! (`operator=1 and profile=standard and not tag:lab`); [`Filter`] reads both and shows the text form.

mod parse;

pub use parse::{ParseError, parse};

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::{CardId, EpochMs};

use crate::card::CardView;

/// Conditions in one filter.
pub const CONDITIONS_MAX: usize = 256;
/// Brackets and negations inside each other.
pub const DEPTH_MAX: usize = 16;
/// Cards of an explicit list.
pub const CARDS_MAX: usize = 100_000;

/// Whom a campaign concerns.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// Every card of the tenant.
    #[default]
    Everyone,
    /// The cards that a filter matches, those included that join later.
    Filter(Filter),
    /// These cards, at most [`CARDS_MAX`].
    Cards(BTreeSet<CardId>),
}

impl Audience {
    /// Whether the card belongs to the audience; suspended and retired cards never do.
    pub fn matches(&self, card: &CardView) -> bool {
        card.state.takes_part()
            && match self {
                Self::Everyone => true,
                Self::Filter(filter) => filter.matches(card),
                Self::Cards(cards) => cards.contains(&card.id),
            }
    }

    /// The operators that the cards can belong to; `None` where any is possible. A store reads the line of
    /// waiting cards operator by operator, so this saves it the others.
    pub fn operators(&self) -> Option<BTreeSet<u32>> {
        match self {
            Self::Everyone | Self::Cards(_) => None,
            Self::Filter(filter) => filter.operators(),
        }
    }

    /// Whether it asks for numbers, ICCID or IMSI, which stand in a card's long row.
    pub fn asks_for_numbers(&self) -> bool {
        matches!(self, Self::Filter(filter) if filter.asks_for_numbers())
    }

    /// Checks the limits of what came from outside.
    pub fn check(&self) -> Result<(), AudienceError> {
        match self {
            Self::Everyone => Ok(()),
            Self::Filter(filter) => filter.check(),
            Self::Cards(cards) if cards.is_empty() => Err(AudienceError::NoCards),
            Self::Cards(cards) if cards.len() > CARDS_MAX => Err(AudienceError::TooManyCards(cards.len())),
            Self::Cards(_) => Ok(()),
        }
    }
}

/// Why an audience is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AudienceError {
    /// The list is empty.
    #[error("the list of cards is empty: name at least one card")]
    NoCards,
    /// The list is too long.
    #[error("the list has {0} cards, at most 100000 are possible: tag the cards and filter by the tag")]
    TooManyCards(usize),
    /// Too many conditions.
    #[error("the filter has {0} conditions, at most 256 are possible: tag the cards and filter by the tag")]
    TooManyConditions(usize),
    /// Nested too deep.
    #[error("the filter is nested deeper than 16: flatten it")]
    TooDeep,
}

/// A condition on a card. In JSON a tree of one-key objects, or the text form as a string.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// All of these.
    All(Vec<Filter>),
    /// At least one of these.
    Any(Vec<Filter>),
    /// Not this.
    Not(Box<Filter>),
    /// The operator is one of these.
    Operator(BTreeSet<u32>),
    /// The profile is one of these.
    Profile(BTreeSet<String>),
    /// The kind of device is one of these.
    Kind(BTreeSet<String>),
    /// The card has this tag.
    Tag(String),
    /// The card has been in contact.
    Seen,
    /// The ICCID lies in this range.
    Iccid(DigitRange),
    /// The IMSI lies in this range.
    Imsi(DigitRange),
    /// The last contact was before this moment; a card never seen does not match.
    UpdatedBefore(EpochMs),
    /// The last contact was at this moment or later.
    UpdatedSince(EpochMs),
    /// The next own poll is before this moment.
    PollsBefore(EpochMs),
    /// The next own poll is at this moment or later.
    PollsSince(EpochMs),
}

/// The tree form: the same variants as [`Filter`], read by derive.
#[derive(Deserialize)]
#[serde(remote = "Filter", rename_all = "snake_case")]
enum TreeOfFilter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Not(Box<Filter>),
    Operator(BTreeSet<u32>),
    Profile(BTreeSet<String>),
    Kind(BTreeSet<String>),
    Tag(String),
    Seen,
    Iccid(DigitRange),
    Imsi(DigitRange),
    UpdatedBefore(EpochMs),
    UpdatedSince(EpochMs),
    PollsBefore(EpochMs),
    PollsSince(EpochMs),
}

impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> serde::de::Visitor<'de> for Form {
            type Value = Filter;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a filter: a text such as `operator=1 and not tag:lab`, or a tree with one key")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Filter, E> {
                parse(text).map_err(E::custom)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Filter, A::Error> {
                TreeOfFilter::deserialize(serde::de::value::MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

/// Digits from `first` to `last`, compared as far as the bound has digits: `8988211..8988213` contains every
/// number that begins with 8988211, 8988212 or 8988213.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DigitRange {
    /// First digits of the first number.
    pub first: String,
    /// First digits of the last number.
    pub last: String,
}

impl DigitRange {
    fn contains(&self, digits: &str) -> bool {
        let cut = |bound: &str| digits.get(..bound.len()).unwrap_or(digits).to_owned();
        cut(&self.first) >= self.first && cut(&self.last) <= self.last
    }
}

impl Filter {
    /// Whether the card fulfils the condition.
    pub fn matches(&self, card: &CardView) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.matches(card)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(card)),
            Self::Not(part) => !part.matches(card),
            Self::Operator(operators) => operators.contains(&card.operator),
            Self::Profile(profiles) => profiles.contains(card.profile),
            Self::Kind(kinds) => kinds.contains(card.kind),
            Self::Tag(tag) => card.tags.contains(tag),
            Self::Seen => card.last_update.is_some(),
            Self::Iccid(range) => card.iccid.is_some_and(|iccid| range.contains(&iccid.to_string())),
            Self::Imsi(range) => card.imsi.is_some_and(|imsi| range.contains(&imsi.to_string())),
            Self::UpdatedBefore(moment) => card.last_update.is_some_and(|at| at < *moment),
            Self::UpdatedSince(moment) => card.last_update.is_some_and(|at| at >= *moment),
            Self::PollsBefore(moment) => card.next_poll < *moment,
            Self::PollsSince(moment) => card.next_poll >= *moment,
        }
    }

    fn asks_for_numbers(&self) -> bool {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().any(Self::asks_for_numbers),
            Self::Not(part) => part.asks_for_numbers(),
            Self::Iccid(_) | Self::Imsi(_) => true,
            _ => false,
        }
    }

    /// The operators that matching cards can belong to; `None`: any.
    fn operators(&self) -> Option<BTreeSet<u32>> {
        match self {
            Self::Operator(operators) => Some(operators.clone()),
            Self::All(parts) => parts
                .iter()
                .filter_map(Self::operators)
                .reduce(|left, right| left.intersection(&right).copied().collect()),
            Self::Any(parts) => {
                parts.iter().map(Self::operators).try_fold(BTreeSet::new(), |mut all, part| {
                    all.extend(part?);
                    Some(all)
                })
            }
            _ => None,
        }
    }

    fn check(&self) -> Result<(), AudienceError> {
        let mut waiting = vec![(self, 1)];
        let mut conditions = 0;
        while let Some((filter, depth)) = waiting.pop() {
            if depth > DEPTH_MAX {
                return Err(AudienceError::TooDeep);
            }
            conditions += 1;
            match filter {
                Self::All(parts) | Self::Any(parts) => {
                    waiting.extend(parts.iter().map(|part| (part, depth + 1)))
                }
                Self::Not(part) => waiting.push((part, depth + 1)),
                _ => {}
            }
        }
        if conditions > CONDITIONS_MAX { Err(AudienceError::TooManyConditions(conditions)) } else { Ok(()) }
    }
}

impl std::str::FromStr for Filter {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text)
    }
}

impl fmt::Display for Filter {
    /// The text form; what it shows can be read again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(parts) => joined(f, parts, " and ", "everyone"),
            Self::Any(parts) => joined(f, parts, " or ", "not everyone"),
            Self::Not(part) => write!(f, "not {part}"),
            Self::Operator(operators) => listed(f, "operator", operators),
            Self::Profile(profiles) => listed(f, "profile", profiles.iter().map(|name| parse::quoted(name))),
            Self::Kind(kinds) => listed(f, "kind", kinds.iter().map(|name| parse::quoted(name))),
            Self::Tag(tag) => write!(f, "tag:{}", parse::quoted(tag)),
            Self::Seen => f.write_str("seen"),
            Self::Iccid(range) => write!(f, "iccid={}..{}", range.first, range.last),
            Self::Imsi(range) => write!(f, "imsi={}..{}", range.first, range.last),
            Self::UpdatedBefore(moment) => write!(f, "last_update<{moment}"),
            Self::UpdatedSince(moment) => write!(f, "last_update>={moment}"),
            Self::PollsBefore(moment) => write!(f, "next_poll<{moment}"),
            Self::PollsSince(moment) => write!(f, "next_poll>={moment}"),
        }
    }
}

fn joined(f: &mut fmt::Formatter<'_>, parts: &[Filter], word: &str, none: &str) -> fmt::Result {
    if parts.is_empty() {
        return f.write_str(none);
    }
    f.write_str("(")?;
    for (place, part) in parts.iter().enumerate() {
        write!(f, "{}{part}", if place == 0 { "" } else { word })?;
    }
    f.write_str(")")
}

fn listed<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    field: &str,
    values: impl IntoIterator<Item = T>,
) -> fmt::Result {
    write!(f, "{field} in (")?;
    for (place, value) in values.into_iter().enumerate() {
        write!(f, "{}{value}", if place == 0 { "" } else { ", " })?;
    }
    f.write_str(")")
}

#[cfg(test)]
mod tests;
