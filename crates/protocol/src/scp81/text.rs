//! Texts that may stand in a head without breaking it.

use std::fmt;
use std::str::FromStr;

/// Longest header value that is accepted and sent, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// Why a text cannot stand in a header or request line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Empty, or longer than the limit.
    #[error("the text has {0} characters: give 1 to {TEXT_BYTES_MAX}")]
    Length(usize),
    /// A control character, a blank where none may stand, or something beyond ASCII.
    #[error("the text contains a character that cannot stand in an HTTP head: use visible ASCII characters")]
    Character,
}

/// The value of a header: 1 to 1,024 ASCII characters, blanks included, no line breaks.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HeaderText(Box<str>);

/// What a request asks for: path and query, as in the request line, without blanks.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestTarget(Box<str>);

impl HeaderText {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RequestTarget {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The target `/`.
    pub fn root() -> Self {
        Self("/".into())
    }
}

fn checked(text: &str, allowed: impl Fn(u8) -> bool) -> Result<Box<str>, TextError> {
    if text.is_empty() || text.len() > TEXT_BYTES_MAX {
        return Err(TextError::Length(text.len()));
    }
    if text.bytes().all(allowed) { Ok(text.into()) } else { Err(TextError::Character) }
}

impl FromStr for HeaderText {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        checked(text.trim_matches(' '), |byte| byte == b' ' || byte.is_ascii_graphic()).map(Self)
    }
}

impl FromStr for RequestTarget {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        checked(text, |byte| byte.is_ascii_graphic()).map(Self)
    }
}

impl fmt::Display for HeaderText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for RequestTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for HeaderText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeaderText({self})")
    }
}

impl fmt::Debug for RequestTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestTarget({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_breaks_a_head() {
        for wrong in ["", "   ", "a\r\nX-Admin-Resume: true", "a\nb", "ä", "a\0b", "a\tb"] {
            assert!(wrong.parse::<HeaderText>().is_err(), "{wrong:?}");
            assert!(wrong.parse::<RequestTarget>().is_err(), "{wrong:?}");
        }
        assert!("/a b".parse::<RequestTarget>().is_err());
        assert_eq!("a b".parse::<HeaderText>().unwrap().as_str(), "a b");
        assert!("x".repeat(TEXT_BYTES_MAX).parse::<RequestTarget>().is_ok());
        assert!("x".repeat(TEXT_BYTES_MAX + 1).parse::<RequestTarget>().is_err());
    }
}
