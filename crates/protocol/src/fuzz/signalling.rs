//! What network elements and registers say to each other.

use crate::gsup::Message;
use crate::gsup::ipa::{CONTENT_BYTES_MAX, Frame};

/// IPA frames with GSUP in them: what is read is written and reads again the same.
pub fn gsup(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some((frame, taken))) = Frame::split(rest) {
        rest = &rest[taken..];
        let again = frame.encode();
        assert!(again.len() <= CONTENT_BYTES_MAX + 3);
        if let Ok(Some((read, length))) = Frame::split(&again) {
            // Questions keep their tags only; names that are not text change.
            assert_eq!((again.len(), read.encode()), (length, again));
        }
        if let Frame::Gsup(message) = &frame {
            message_of(message);
        }
    }
    message_of(data);
}

fn message_of(octets: &[u8]) {
    let Ok(message) = Message::decode(octets) else { return };
    let written = message.encode();
    let again = Message::decode(&written).map(|again| again.encode());
    assert_eq!(again.as_ref(), Ok(&written), "what was written reads the same");
}
