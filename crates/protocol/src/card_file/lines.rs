//! Lines out of chunks: byte order mark, CR LF, a limit.

/// Longest line, in bytes without its end.
pub const LINE_BYTES_MAX: usize = 16_384;

/// A line that cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineError {
    TooLong,
    NotText,
}

/// Collects bytes and gives whole lines.
#[derive(Default)]
pub(super) struct Lines {
    buffer: Vec<u8>,
    read: usize,
    number: u64,
    overlong: bool,
}

impl Lines {
    pub(super) fn feed(&mut self, chunk: &[u8]) {
        if self.read > 0 {
            self.buffer.drain(..self.read);
            self.read = 0;
        }
        self.buffer.extend_from_slice(chunk);
    }

    /// Next whole line and its number, from 1; trimmed of its end and of a byte order mark.
    pub(super) fn next_line(&mut self) -> Option<(u64, Result<String, LineError>)> {
        let rest = &self.buffer[self.read..];
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            if rest.len() > LINE_BYTES_MAX {
                // What is too long is not kept; the line is refused when its end comes.
                self.overlong = true;
                wipe(&mut self.buffer);
                self.read = 0;
            }
            return None;
        };
        let line = decode(&rest[..length], self.number == 0);
        let line = if self.overlong || length > LINE_BYTES_MAX { Err(LineError::TooLong) } else { line };
        self.buffer[self.read..self.read + length].fill(0);
        self.read += length + 1;
        self.overlong = false;
        self.number += 1;
        Some((self.number, line))
    }

    /// Whether bytes without a line end are left.
    pub(super) fn has_rest(&self) -> bool {
        self.overlong || self.read < self.buffer.len()
    }

    /// Number of lines given.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        wipe(&mut self.buffer);
    }
}

fn wipe(buffer: &mut Vec<u8>) {
    zeroize::Zeroize::zeroize(buffer);
    buffer.clear();
}

fn decode(line: &[u8], first: bool) -> Result<String, LineError> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = if first { line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line) } else { line };
    String::from_utf8(line.to_vec()).map_err(|_| LineError::NotText)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_gives_the_same_lines() {
        let text = b"\xEF\xBB\xBFone\r\ntwo\n\nfour";
        for split in 0..text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for part in [&text[..split], &text[split..]] {
                lines.feed(part);
                while let Some((number, line)) = lines.next_line() {
                    found.push((number, line.unwrap()));
                }
            }
            assert_eq!(found, [(1, "one".into()), (2, "two".into()), (3, "".into())]);
            assert!(lines.has_rest());
        }
    }

    #[test]
    fn overlong_line_is_refused_and_the_next_one_read() {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for _ in 0..40 {
            lines.feed(&[b'x'; 1000]);
            assert!(lines.next_line().is_none());
            assert!(lines.buffer.len() <= LINE_BYTES_MAX + 1000);
        }
        lines.feed(b"\nshort\n\xFF\n");
        while let Some((_, line)) = lines.next_line() {
            found.push(line);
        }
        assert_eq!(found, [Err(LineError::TooLong), Ok("short".into()), Err(LineError::NotText)]);
    }
}
