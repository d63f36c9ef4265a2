//! What the client module answers a card that opens a channel to the second server's address: the card needs neither EAP
//! nor TLS, the device speaks for it.
//!
//! Plain HTTP/1.1 on the channel; requests follow each other on one connection:
//!
//! | request | answer |
//! |---|---|
//! | `GET /packet` | `200` with the next sealed packet as body and `X-Item`, `X-Originating-Address`, `X-Proof-Wanted` (1 or 0); `204` where none waits |
//! | `POST /answer` with `X-Item` and what the card said as body (it may be empty) | `204` once it is on the disk; `404` where no such item waits |
//! | any other `GET` | the device asks the server first; then `200` with `X-Waiting`: how many packets wait, and the same number as text |
//! | anything else | `400`, and the channel is closed |

use simtide_protocol::second_layer::{Item, ItemId};

use crate::event::LinkId;

/// Most bytes of one request: a response packet and its head.
pub const CARD_REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of its head.
const HEAD_BYTES_MAX: usize = 2 * 1024;

/// The channel of a card.
#[derive(Debug)]
pub(super) struct Service {
    pub link: LinkId,
    /// The card waits for the outcome of a query.
    pub asked: bool,
    buffer: Vec<u8>,
}

/// What a card wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CardRequest {
    /// How much waits.
    Waiting,
    /// The next packet.
    Packet,
    /// The card's answer to an item.
    Answer { item: ItemId, packet: Vec<u8> },
    /// Something that is not served.
    Bad,
}

impl Service {
    pub fn new(link: LinkId) -> Self {
        Self { link, asked: false, buffer: Vec::new() }
    }

    /// Takes bytes of the card.
    pub fn take(&mut self, bytes: &[u8]) {
        let room = (CARD_REQUEST_BYTES_MAX + 1).saturating_sub(self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The next whole request.
    pub fn next(&mut self) -> Option<CardRequest> {
        let head_end = self.buffer.windows(4).position(|window| window == b"\r\n\r\n");
        let Some(head_end) = head_end.filter(|end| *end <= HEAD_BYTES_MAX) else {
            return (self.buffer.len() > HEAD_BYTES_MAX).then(|| self.refuse());
        };
        let Ok(head) = std::str::from_utf8(&self.buffer[..head_end]) else { return Some(self.refuse()) };
        let length = match header(head, "Content-Length").map_or(Ok(0), str::parse::<usize>) {
            Ok(length) if length <= CARD_REQUEST_BYTES_MAX - HEAD_BYTES_MAX => length,
            _ => return Some(self.refuse()),
        };
        let end = head_end + 4 + length;
        if self.buffer.len() < end {
            return None;
        }
        let request = request(head, &self.buffer[head_end + 4..end]);
        self.buffer.drain(..end);
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
        Some(request)
    }

    fn refuse(&mut self) -> CardRequest {
        self.buffer = Vec::new();
        CardRequest::Bad
    }
}

fn request(head: &str, body: &[u8]) -> CardRequest {
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    match (words.next(), words.next()) {
        (Some("GET"), Some("/packet")) => CardRequest::Packet,
        (Some("GET"), Some(path)) if path.starts_with('/') => CardRequest::Waiting,
        (Some("POST"), Some("/answer")) => match header(head, "X-Item").map(str::parse) {
            Some(Ok(item)) => CardRequest::Answer { item, packet: body.to_vec() },
            _ => CardRequest::Bad,
        },
        _ => CardRequest::Bad,
    }
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// How much waits.
pub(super) fn waiting(count: usize) -> Vec<u8> {
    let text = count.to_string();
    let length = text.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Waiting: {text}\r\nContent-Length: {length}\r\n\r\n{text}")
        .into_bytes()
}

/// A packet.
pub(super) fn packet(item: &Item) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nX-Item: {}\r\nX-Originating-Address: {}\r\n\
         X-Proof-Wanted: {}\r\nContent-Length: {}\r\n\r\n",
        item.id,
        // It came from the server: no line of ours is made of it.
        item.originating_address.replace(|c: char| !c.is_ascii_graphic(), ""),
        u8::from(item.proof_wanted),
        item.packet.len()
    )
    .into_bytes();
    answer.extend_from_slice(&item.packet);
    answer
}

/// A status without a body.
pub(super) fn status(line: &str) -> Vec<u8> {
    let length = if line.starts_with("204") { "" } else { "Content-Length: 0\r\n" };
    format!("HTTP/1.1 {line}\r\n{length}\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_in_pieces_and_in_a_row() {
        let text = "GET /waiting HTTP/1.1\r\nHost: a\r\n\r\nPOST /answer HTTP/1.1\r\nx-item: a-1\r\nContent-Length: 3\r\n\r\nabcGET /packet HTTP/1.1\r\n\r\n";
        for size in [1, 2, 7, 500] {
            let mut service = Service::new(LinkId(1));
            let mut requests = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                service.take(piece);
                while let Some(request) = service.next() {
                    requests.push(request);
                }
            }
            let answer = CardRequest::Answer { item: "a-1".parse().unwrap(), packet: b"abc".to_vec() };
            assert_eq!(requests, [CardRequest::Waiting, answer, CardRequest::Packet]);
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for text in [
            "DELETE / HTTP/1.1\r\n\r\n",
            "POST /answer HTTP/1.1\r\n\r\n",
            "POST /answer HTTP/1.1\r\nX-Item: ä\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 99999\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            &"G".repeat(HEAD_BYTES_MAX + 1),
        ] {
            let mut service = Service::new(LinkId(1));
            service.take(text.as_bytes());
            assert_eq!(service.next(), Some(CardRequest::Bad), "{text}");
        }
        let mut service = Service::new(LinkId(1));
        service.take(&[0x16, 0x03, 0x01]);
        assert_eq!(service.next(), None);
        service.take(&vec![0; CARD_REQUEST_BYTES_MAX * 2]);
        assert_eq!(service.next(), Some(CardRequest::Bad));
    }
}
