//! The text form of a filter.
//!
//! ```text
//! filter    = every *( "or" every )
//! every     = condition *( "and" condition )
//! condition = "not" condition / "(" filter ")" / "everyone" / "seen" / "tag:" word
//!           / ( "operator" / "profile" / "kind" / "tag" ) ( "=" word / "!=" word / "in" "(" word *( "," word ) ")" )
//!           / ( "iccid" / "imsi" ) "=" digits [ ".." digits ]
//!           / ( "last_update" / "next_poll" ) ( "<" / ">=" ) date
//! word      = 1*( letter / digit / "." / "_" / "-" / ":" ) / quotation marks around anything
//! ```

use std::collections::BTreeSet;

use super::{CONDITIONS_MAX, DEPTH_MAX, DigitRange, Filter};

/// Characters of a filter's text form.
pub const TEXT_MAX: usize = 16_384;

/// Why a text is not a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {position}: {reason}")]
pub struct ParseError {
    /// Where, counted in characters from 1.
    pub position: usize,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// Reads the text form.
pub fn parse(text: &str) -> Result<Filter, ParseError> {
    if text.len() > TEXT_MAX {
        return Err(ParseError { position: TEXT_MAX + 1, reason: "the filter is too long: use tags".into() });
    }
    let mut parser = Parser { tokens: tokens(text)?, next: 0, end: text.chars().count() + 1, conditions: 0 };
    let filter = parser.any(1)?;
    match parser.peek() {
        None => Ok(filter),
        Some(token) => Err(parser.wrong(format!("expected `and`, `or` or the end, found {token}"))),
    }
}

/// A word as the text form needs it: in quotation marks where it contains anything unusual or is a keyword.
pub(super) fn quoted(word: &str) -> String {
    let plain =
        !word.is_empty() && word.chars().all(is_word) && !KEYWORDS.contains(&word) && !word.contains("..");
    if plain { word.to_owned() } else { format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"")) }
}

const KEYWORDS: [&str; 6] = ["and", "or", "not", "in", "everyone", "seen"];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    /// In quotation marks: never a keyword.
    Quoted(String),
    Sign(&'static str),
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(word) | Self::Quoted(word) => write!(f, "`{word}`"),
            Self::Sign(sign) => write!(f, "`{sign}`"),
        }
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '.' | '_' | '-' | ':' | '+')
}

/// Tokens with their positions in characters from 1.
fn tokens(text: &str) -> Result<Vec<(usize, Token)>, ParseError> {
    let characters: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(character) = characters.get(at) {
        let position = at + 1;
        if character.is_whitespace() {
            at += 1;
        } else if is_word(*character) {
            let word: String = characters[at..].iter().take_while(|next| is_word(**next)).collect();
            at += word.chars().count();
            found.push((position, Token::Word(word)));
        } else if *character == '"' {
            let (word, length) = quotation(&characters[at + 1..]).ok_or_else(|| ParseError {
                position,
                reason: "this quotation mark is never closed".into(),
            })?;
            at += length + 1;
            found.push((position, Token::Quoted(word)));
        } else {
            let sign = ["!=", ">=", "=", "<", "(", ")", ","]
                .into_iter()
                .find(|sign| {
                    sign.chars().zip(&characters[at..]).filter(|(a, b)| a == *b).count() == sign.len()
                })
                .ok_or_else(|| ParseError {
                    position,
                    reason: format!("`{character}` has no meaning here"),
                })?;
            at += sign.len();
            found.push((position, Token::Sign(sign)));
        }
    }
    Ok(found)
}

/// What stands up to the closing mark, and how many characters that took.
fn quotation(characters: &[char]) -> Option<(String, usize)> {
    let mut word = String::new();
    let mut at = 0;
    loop {
        match characters.get(at)? {
            '"' => return Some((word, at + 1)),
            '\\' => {
                word.push(*characters.get(at + 1)?);
                at += 2;
            }
            other => {
                word.push(*other);
                at += 1;
            }
        }
    }
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    end: usize,
    conditions: usize,
}

impl Parser {
    fn any(&mut self, depth: usize) -> Result<Filter, ParseError> {
        let mut parts = vec![self.all(depth)?];
        while self.keyword("or") {
            parts.push(self.all(depth)?);
        }
        Ok(single(parts, Filter::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Filter, ParseError> {
        let mut parts = vec![self.condition(depth)?];
        while self.keyword("and") {
            parts.push(self.condition(depth)?);
        }
        Ok(single(parts, Filter::All))
    }

    fn condition(&mut self, depth: usize) -> Result<Filter, ParseError> {
        self.conditions += 1;
        // A bracket makes up to two levels of the tree, and the innermost one a list of tags in it.
        if depth > DEPTH_MAX / 2 - 1 {
            return Err(self.wrong("nested too deep: flatten the filter".into()));
        }
        self.within_limit()?;
        if self.keyword("not") {
            return Ok(Filter::Not(Box::new(self.condition(depth + 1)?)));
        }
        if self.keyword("everyone") {
            return Ok(Filter::All(Vec::new()));
        }
        if self.keyword("seen") {
            return Ok(Filter::Seen);
        }
        if self.sign("(") {
            let filter = self.any(depth + 1)?;
            self.expect(")")?;
            return Ok(filter);
        }
        let start = self.next;
        let field =
            self.word("a field: operator, profile, kind, tag, iccid, imsi, last_update, next_poll")?;
        if let Some(tag) = field.strip_prefix("tag:") {
            let tag = if tag.is_empty() { self.word("the tag")? } else { tag.to_owned() };
            return Ok(Filter::Tag(tag));
        }
        match field.as_str() {
            "operator" | "profile" | "kind" | "tag" => self.among(&field),
            "iccid" | "imsi" => self.digits(&field),
            "last_update" | "next_poll" => self.moment(&field),
            _ => {
                self.next = start;
                Err(self.wrong(format!(
                    "`{field}` is not a field: use operator, profile, kind, tag, iccid, imsi, last_update or next_poll"
                )))
            }
        }
    }

    /// Half of the limit, because `and` and `or` count in the tree too.
    fn within_limit(&self) -> Result<(), ParseError> {
        if self.conditions > CONDITIONS_MAX / 2 {
            return Err(self.wrong("too many conditions: tag the cards and filter by the tag".into()));
        }
        Ok(())
    }

    fn among(&mut self, field: &str) -> Result<Filter, ParseError> {
        let negated = self.sign("!=");
        let mut values = BTreeSet::new();
        let first = self.next;
        if negated || self.sign("=") {
            values.insert(self.word("a value")?);
        } else if self.keyword("in") {
            self.expect("(")?;
            loop {
                values.insert(self.word("a value")?);
                if !self.sign(",") {
                    break;
                }
            }
            self.expect(")")?;
            // Each tag of a list becomes a condition of its own.
            self.conditions += if field == "tag" { values.len() } else { 0 };
        } else {
            return Err(self.wrong(format!("expected `=`, `!=` or `in (..)` after {field}")));
        }
        self.within_limit()?;
        let filter = typed(field, values).map_err(|reason| {
            self.next = first + usize::from(!negated);
            self.wrong(reason)
        })?;
        Ok(if negated { Filter::Not(Box::new(filter)) } else { filter })
    }

    fn digits(&mut self, field: &str) -> Result<Filter, ParseError> {
        self.expect("=")?;
        let start = self.next;
        let text = self.word("digits")?;
        let (first, last) = text.split_once("..").unwrap_or((&text, &text));
        let plain = |digits: &str| {
            (1..=20).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !plain(first) || !plain(last) {
            self.next = start;
            return Err(
                self.wrong(format!("write {field}=DIGITS or {field}=DIGITS..DIGITS, 1 to 20 digits each"))
            );
        }
        let range = DigitRange { first: first.to_owned(), last: last.to_owned() };
        Ok(if field == "iccid" { Filter::Iccid(range) } else { Filter::Imsi(range) })
    }

    fn moment(&mut self, field: &str) -> Result<Filter, ParseError> {
        let before = self.sign("<");
        if !before && !self.sign(">=") {
            return Err(self.wrong(format!("expected `<` or `>=` after {field}")));
        }
        let start = self.next;
        let moment = self.word("a date")?.parse().map_err(|error| {
            self.next = start;
            self.wrong(format!("{error}"))
        })?;
        Ok(match (field, before) {
            ("last_update", true) => Filter::UpdatedBefore(moment),
            ("last_update", false) => Filter::UpdatedSince(moment),
            (_, true) => Filter::PollsBefore(moment),
            (_, false) => Filter::PollsSince(moment),
        })
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    fn take(&mut self, wanted: bool) -> bool {
        self.next += usize::from(wanted);
        wanted
    }

    fn keyword(&mut self, word: &str) -> bool {
        let here = matches!(self.peek(), Some(Token::Word(found)) if found == word);
        self.take(here)
    }

    fn sign(&mut self, sign: &str) -> bool {
        let here = matches!(self.peek(), Some(Token::Sign(found)) if *found == sign);
        self.take(here)
    }

    fn expect(&mut self, sign: &str) -> Result<(), ParseError> {
        if self.sign(sign) { Ok(()) } else { Err(self.wrong(format!("expected `{sign}`"))) }
    }

    fn word(&mut self, what: &str) -> Result<String, ParseError> {
        let word = match self.peek() {
            Some(Token::Quoted(word)) => word.clone(),
            Some(Token::Word(word)) if !KEYWORDS.contains(&word.as_str()) => word.clone(),
            _ => return Err(self.wrong(format!("expected {what}"))),
        };
        self.next += 1;
        Ok(word)
    }

    fn wrong(&self, reason: String) -> ParseError {
        let position = self.tokens.get(self.next).map_or(self.end, |(position, _)| *position);
        ParseError { position, reason }
    }
}

fn single(mut parts: Vec<Filter>, join: fn(Vec<Filter>) -> Filter) -> Filter {
    match parts.len() {
        1 => parts.remove(0),
        _ => join(parts),
    }
}

fn typed(field: &str, values: BTreeSet<String>) -> Result<Filter, String> {
    Ok(match field {
        "operator" => {
            let number = |value: String| {
                value.parse::<u32>().map_err(|_| format!("`{value}` is not an operator: give its number"))
            };
            Filter::Operator(values.into_iter().map(number).collect::<Result<_, _>>()?)
        }
        "profile" => Filter::Profile(values),
        "kind" => Filter::Kind(values),
        _ => single(values.into_iter().map(Filter::Tag).collect(), Filter::Any),
    })
}
