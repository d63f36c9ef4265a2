//! The XML of provisioning documents, as far as they use it: `characteristic` with a type, `parm` with name and value.

use super::document::DocumentError;

/// Longest document in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;
/// Most elements of a document.
const ELEMENTS_MAX: usize = 1_000;
/// Most characteristics inside each other.
pub const DEPTH_MAX: usize = 8;

/// A characteristic: its type, its parameters, and what is inside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Characteristic {
    pub kind: String,
    pub parms: Vec<(String, String)>,
    pub inner: Vec<Characteristic>,
}

/// Writes `wap-provisioningdoc`.
pub fn write(all: &[Characteristic]) -> String {
    let mut text = String::from("<?xml version=\"1.0\"?>\n<wap-provisioningdoc version=\"1.1\">\n");
    for one in all {
        write_one(one, 1, &mut text);
    }
    text.push_str("</wap-provisioningdoc>\n");
    text
}

fn write_one(one: &Characteristic, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    text.push_str(&indent);
    text.push_str("<characteristic type=\"");
    escape(&one.kind, text);
    text.push_str("\">\n");
    for (name, value) in &one.parms {
        text.push_str(&indent);
        text.push_str("  <parm name=\"");
        escape(name, text);
        text.push_str("\" value=\"");
        escape(value, text);
        text.push_str("\"/>\n");
    }
    for inner in &one.inner {
        write_one(inner, depth + 1, text);
    }
    text.push_str(&indent);
    text.push_str("</characteristic>\n");
}

fn escape(value: &str, text: &mut String) {
    for c in value.chars() {
        match c {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            // XML 1.0, 2.2: what cannot be written at all is left out.
            c if c.is_control() && !matches!(c, '\t' | '\n' | '\r') => {}
            c => text.push(c),
        }
    }
}

/// Reads `wap-provisioningdoc`: its characteristics.
pub fn read(text: &str) -> Result<Vec<Characteristic>, DocumentError> {
    if text.len() > DOCUMENT_BYTES_MAX {
        return Err(DocumentError::Length(text.len()));
    }
    let mut reader = Reader { rest: text, elements: 0 };
    // The document itself, then the characteristics that are open.
    let mut open: Vec<Characteristic> = Vec::new();
    while let Some(tag) = reader.next_tag()? {
        match (tag.name.as_str(), tag.kind) {
            ("wap-provisioningdoc", TagKind::Open) if open.is_empty() => open.push(Characteristic::default()),
            ("wap-provisioningdoc", TagKind::Close) if open.len() == 1 => {
                let document = open.pop().unwrap_or_default();
                return if reader.next_tag()?.is_none() { Ok(document.inner) } else { Err(syntax()) };
            }
            ("characteristic", TagKind::Open | TagKind::Empty) => {
                if open.is_empty() || open.len() > DEPTH_MAX {
                    return Err(syntax());
                }
                let one = Characteristic { kind: tag.attribute("type")?, ..Characteristic::default() };
                open.push(one);
                if tag.kind == TagKind::Empty {
                    close(&mut open)?;
                }
            }
            ("characteristic", TagKind::Close) => close(&mut open)?,
            ("parm", TagKind::Open | TagKind::Empty) if open.len() > 1 => {
                let parm = (tag.attribute("name")?, tag.attribute("value")?);
                open.last_mut().ok_or_else(syntax)?.parms.push(parm);
            }
            ("parm", TagKind::Close) => {}
            _ => return Err(syntax()),
        }
    }
    Err(syntax())
}

fn close(open: &mut Vec<Characteristic>) -> Result<(), DocumentError> {
    if open.len() < 2 {
        return Err(syntax());
    }
    let one = open.pop().ok_or_else(syntax)?;
    open.last_mut().ok_or_else(syntax)?.inner.push(one);
    Ok(())
}

fn syntax() -> DocumentError {
    DocumentError::Syntax("it is no wap-provisioningdoc of characteristics and parms".to_owned())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TagKind {
    Open,
    Close,
    Empty,
}

struct Tag {
    name: String,
    kind: TagKind,
    attributes: Vec<(String, String)>,
}

impl Tag {
    fn attribute(&self, name: &str) -> Result<String, DocumentError> {
        let found = self.attributes.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone()).ok_or_else(syntax)
    }
}

struct Reader<'t> {
    rest: &'t str,
    elements: usize,
}

impl Reader<'_> {
    /// The next tag; text between tags must be blank. Declarations and comments are passed over.
    fn next_tag(&mut self) -> Result<Option<Tag>, DocumentError> {
        loop {
            self.rest = self.rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
            if self.rest.is_empty() {
                return Ok(None);
            }
            let inside = self.rest.strip_prefix('<').ok_or_else(syntax)?;
            if let Some(comment) = inside.strip_prefix("!--") {
                self.rest = comment.split_once("-->").ok_or_else(syntax)?.1;
            } else if let Some(declaration) = inside.strip_prefix('?') {
                self.rest = declaration.split_once("?>").ok_or_else(syntax)?.1;
            } else {
                self.elements += 1;
                if self.elements > ELEMENTS_MAX {
                    return Err(DocumentError::Syntax("it has too many elements".to_owned()));
                }
                return self.tag(inside).map(Some);
            }
        }
    }

    fn tag<'t>(&mut self, inside: &'t str) -> Result<Tag, DocumentError>
    where
        Self: Sized,
    {
        let (closes, inside) = match inside.strip_prefix('/') {
            Some(inside) => (true, inside),
            None => (false, inside),
        };
        let end = inside.find(|c: char| !is_name(c)).ok_or_else(syntax)?;
        let (name, mut inside): (&'t str, &'t str) = inside.split_at(end);
        let mut attributes = Vec::new();
        let kind = loop {
            inside = inside.trim_start();
            if let Some(rest) = inside.strip_prefix("/>") {
                inside = rest;
                break TagKind::Empty;
            }
            if let Some(rest) = inside.strip_prefix('>') {
                inside = rest;
                break if closes { TagKind::Close } else { TagKind::Open };
            }
            let end = inside.find(|c: char| !is_name(c)).filter(|end| *end > 0).ok_or_else(syntax)?;
            let (name, rest) = inside.split_at(end);
            let rest = rest.trim_start().strip_prefix('=').ok_or_else(syntax)?.trim_start();
            let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\'')).ok_or_else(syntax)?;
            let (value, rest) = rest[1..].split_once(quote).ok_or_else(syntax)?;
            attributes.push((name.to_owned(), unescape(value)?));
            inside = rest;
        };
        // `inside` is a part of what `rest` was: only its length tells how far the tag went.
        let skipped = self.rest.len() - inside.len();
        self.rest = &self.rest[skipped..];
        Ok(Tag { name: name.to_ascii_lowercase(), kind, attributes })
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '.')
}

fn unescape(value: &str) -> Result<String, DocumentError> {
    let mut text = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, entity)) = rest.split_once('&') {
        text.push_str(before);
        let (name, after) = entity.split_once(';').ok_or_else(syntax)?;
        let decimal = |digits: &str, radix| u32::from_str_radix(digits, radix).ok().and_then(char::from_u32);
        text.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            name => match (name.strip_prefix("#x"), name.strip_prefix('#')) {
                (Some(hex), _) => decimal(hex, 16).ok_or_else(syntax)?,
                (None, Some(digits)) => decimal(digits, 10).ok_or_else(syntax)?,
                (None, None) => return Err(syntax()),
            },
        });
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}
