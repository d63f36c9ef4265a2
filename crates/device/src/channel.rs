//! One channel of the bearer independent protocol, and its two buffers.

use std::collections::VecDeque;

use crate::event::LinkId;

/// Most channels at a time; the terminal profile says so (ETSI TS 102 223, 5.2, byte 13).
pub const CHANNELS_MAX: usize = 4;

/// Most bytes that wait for RECEIVE DATA, and so the largest buffer that OPEN CHANNEL gets.
pub const RECEIVE_BUFFER_BYTES_MAX: usize = 4096;

/// Most bytes that wait to leave; SEND DATA is answered only when there is room again.
pub const SEND_BUFFER_BYTES_MAX: usize = 16 * 1024;

/// A channel from OPEN CHANNEL to CLOSE CHANNEL.
#[derive(Debug)]
pub(crate) struct Channel {
    /// The card's number for it, 1 to 4.
    pub number: u8,
    /// The shell's name for it.
    pub link: LinkId,
    /// Size of each buffer as granted.
    pub buffer_size: u16,
    /// Whether the connection stands.
    pub connected: bool,
    /// What came and waits for RECEIVE DATA.
    received: VecDeque<u8>,
    /// Whether the shell may hand over more at the moment.
    permit: bool,
    /// What SEND DATA stored without sending.
    stored: Vec<u8>,
    /// What has been given to the shell and has not left.
    unsent: usize,
    /// The card is to be told that data came into an empty buffer.
    pub tell_data: bool,
    /// The card is to be told that the link dropped.
    pub tell_dropped: bool,
}

impl Channel {
    pub fn new(number: u8, link: LinkId, buffer_size: u16) -> Self {
        Self {
            number,
            link,
            buffer_size,
            connected: false,
            received: VecDeque::new(),
            permit: false,
            stored: Vec::new(),
            unsent: 0,
            tell_data: false,
            tell_dropped: false,
        }
    }

    /// How many bytes the shell may hand over now, where it has no permission yet.
    pub fn grant(&mut self) -> Option<usize> {
        let room = RECEIVE_BUFFER_BYTES_MAX.saturating_sub(self.received.len());
        if !self.connected || self.permit || room == 0 {
            return None;
        }
        self.permit = true;
        Some(room)
    }

    /// Takes what came. More than was allowed is a fault of the shell and is cut.
    pub fn take(&mut self, bytes: &[u8]) {
        self.permit = false;
        let room = RECEIVE_BUFFER_BYTES_MAX.saturating_sub(self.received.len());
        // 7.5.10: the event belongs to data that comes into an empty buffer.
        self.tell_data |= self.received.is_empty() && !bytes.is_empty();
        self.received.extend(&bytes[..bytes.len().min(room)]);
    }

    /// Hands out the oldest bytes, and how many are left: FF for 255 and more (8.54).
    pub fn give(&mut self, count: usize) -> (Vec<u8>, u8) {
        let count = count.min(self.received.len());
        self.tell_data = false;
        let given = self.received.drain(..count).collect();
        (given, self.waiting())
    }

    /// How many bytes wait, FF for 255 and more.
    pub fn waiting(&self) -> u8 {
        u8::try_from(self.received.len()).unwrap_or(0xFF)
    }

    /// Stores bytes to be sent; `false` where the buffer cannot hold them.
    pub fn store(&mut self, bytes: &[u8]) -> bool {
        if self.stored.len() + bytes.len() > SEND_BUFFER_BYTES_MAX {
            return false;
        }
        self.stored.extend_from_slice(bytes);
        true
    }

    /// Everything stored, to be sent now.
    pub fn send(&mut self) -> Vec<u8> {
        self.unsent += self.stored.len();
        std::mem::take(&mut self.stored)
    }

    /// So many bytes have left.
    pub fn sent(&mut self, count: usize) {
        self.unsent = self.unsent.saturating_sub(count);
    }

    /// Whether the shell holds more than it should.
    pub fn is_congested(&self) -> bool {
        self.unsent > SEND_BUFFER_BYTES_MAX
    }

    /// Room for SEND DATA, FF for 255 and more.
    pub fn send_room(&self) -> u8 {
        let room = usize::from(self.buffer_size).saturating_sub(self.stored.len());
        u8::try_from(room).unwrap_or(0xFF)
    }

    /// Channel status (8.56): number, established or not, and why not.
    pub fn status(&self) -> [u8; 2] {
        match self.connected {
            true => [0x80 | self.number, 0x00],
            // 05: link dropped.
            false => [self.number, 0x05],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Channel {
        let mut channel = Channel::new(1, LinkId(1), 1500);
        channel.connected = true;
        channel
    }

    #[test]
    fn the_receive_buffer_never_exceeds_its_size() {
        let mut channel = open();
        assert_eq!(channel.grant(), Some(RECEIVE_BUFFER_BYTES_MAX));
        assert_eq!(channel.grant(), None);
        channel.take(&vec![1; RECEIVE_BUFFER_BYTES_MAX + 5]);
        assert_eq!(channel.received.len(), RECEIVE_BUFFER_BYTES_MAX);
        assert_eq!(channel.grant(), None);
        assert_eq!(channel.waiting(), 0xFF);
        let (given, rest) = channel.give(RECEIVE_BUFFER_BYTES_MAX - 3);
        assert_eq!((given.len(), rest), (RECEIVE_BUFFER_BYTES_MAX - 3, 3));
        assert_eq!(channel.grant(), Some(RECEIVE_BUFFER_BYTES_MAX - 3));
    }

    #[test]
    fn only_data_into_an_empty_buffer_is_told() {
        let mut channel = open();
        channel.take(&[1, 2]);
        assert!(std::mem::take(&mut channel.tell_data));
        channel.take(&[3]);
        assert!(!channel.tell_data);
        assert_eq!(channel.give(9), (vec![1, 2, 3], 0));
        channel.take(&[4]);
        assert!(channel.tell_data);
    }

    #[test]
    fn the_send_buffer_never_exceeds_its_size() {
        let mut channel = open();
        assert!(channel.store(&vec![0; SEND_BUFFER_BYTES_MAX]));
        assert!(!channel.store(&[0]));
        assert_eq!(channel.send().len(), SEND_BUFFER_BYTES_MAX);
        assert!(!channel.is_congested());
        assert!(channel.store(&[0]));
        channel.send();
        assert!(channel.is_congested());
        channel.sent(1);
        assert!(!channel.is_congested());
    }
}
