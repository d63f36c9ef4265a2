//! The card's own way to sealed packets that wait for it outside of coverage: it opens a channel to the second server's
//! address, where the client module of its device answers in plain HTTP, fetches one packet after the other, gives it to
//! its own receiver and posts the answer. TLS and EAP are the device's; the packets are sealed for the card.
//!
//! | state | accepts | next |
//! |---|---|---|
//! | Off: the profile names no address, or all has been fetched | TERMINAL PROFILE | Opening |
//! | Opening: OPEN CHANNEL | terminal response | Talking, or Off |
//! | Talking: a request is out | terminal responses, data available, channel status | Talking, Closing |
//! | Closing: CLOSE CHANNEL | terminal response | Off |
//!
//! What fails is not tried again within a card session: the device hands over what still waits by itself.

use simtide_protocol::sms::Address;

use crate::card::{Card, PROACTIVE_PER_MESSAGE_MAX};
use crate::secure_channel::Environment;
use crate::toolkit::{CHANNEL_DATA_MAX, Envelope, Owner, Proactive, TcpChannel, TerminalResponse};

/// Most packets of one card session.
pub const PACKETS_MAX: u8 = 64;
/// Longest answer of the device in bytes: a packet and its head.
pub const ANSWER_BYTES_MAX: usize = 40 * 1024;
/// Bytes that the device should buffer.
const BUFFER_BYTES: u16 = 1_400;
/// Most bytes that one RECEIVE DATA asks for.
const RECEIVE_BYTES: u8 = 230;

/// Which of the commands a terminal response answers.
mod token {
    pub(super) const OPEN: u16 = 0;
    pub(super) const SEND: u16 = 1;
    pub(super) const RECEIVE: u16 = 2;
    pub(super) const CLOSE: u16 = 3;
}

/// The fetcher's volatile state; a reset clears it.
#[derive(Debug, Default)]
pub(crate) struct Fetcher {
    state: State,
    channel: u8,
    /// Bytes for the device.
    outbox: Vec<u8>,
    /// Bytes of the answer.
    inbox: Vec<u8>,
    /// A SEND DATA or RECEIVE DATA is with the device.
    busy: bool,
    data_waits: bool,
    asked: Asked,
    packets: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Off,
    Opening,
    Talking,
    Closing,
}

/// What the request that is out asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Asked {
    #[default]
    Waiting,
    Packet,
    /// An answer was posted.
    Taken,
}

/// An answer of the device.
struct Answer {
    status: u16,
    waiting: usize,
    item: String,
    originator: String,
    body: Vec<u8>,
}

impl Card {
    /// TERMINAL PROFILE: the device is ready.
    pub(crate) fn start_fetcher(&mut self) {
        self.session().fetcher = Fetcher::default();
        let Some(address) = self.profile.fetch else { return };
        let channel = TcpChannel {
            bearer: vec![0x03],
            buffer_bytes: BUFFER_BYTES,
            access_point: Vec::new(),
            address: address.ip(),
            port: address.port(),
        };
        if self.enqueue(Owner::Fetcher, token::OPEN, Proactive::OpenChannel(channel)).is_ok() {
            self.session().fetcher.state = State::Opening;
        }
    }

    /// A terminal response to one of the fetcher's commands.
    pub(crate) fn fetcher_answered(
        &mut self,
        environment: &mut Environment<'_>,
        answered: u16,
        response: &TerminalResponse<'_>,
    ) {
        let fetcher = &mut self.session().fetcher;
        match (answered, fetcher.state) {
            (token::OPEN, State::Opening) => match response.channel().filter(|_| response.is_done()) {
                Some(channel) => {
                    fetcher.channel = channel;
                    fetcher.state = State::Talking;
                    self.fetch_request(
                        Asked::Waiting,
                        "GET /waiting HTTP/1.1\r\nHost: device\r\n\r\n".into(),
                    );
                }
                None => fetcher.state = State::Off,
            },
            (token::SEND | token::RECEIVE, State::Talking) => {
                fetcher.busy = false;
                if !response.is_done() {
                    return self.close_fetch_channel();
                }
                if answered == token::RECEIVE {
                    fetcher.data_waits |= response.channel_data_length().is_some_and(|length| length > 0);
                    fetcher.inbox.extend_from_slice(response.channel_data().unwrap_or_default());
                    self.fetch_answers(environment);
                }
                self.pump_fetcher();
            }
            (token::CLOSE, State::Closing) => *fetcher = Fetcher::default(),
            _ => {}
        }
    }

    /// An event.
    pub(crate) fn fetcher_noticed(&mut self, envelope: &Envelope<'_>) {
        let fetcher = &mut self.session().fetcher;
        if fetcher.state != State::Talking {
            return;
        }
        if let Some((channel, length)) = envelope.data_available() {
            fetcher.data_waits |= channel == fetcher.channel && length > 0;
            self.pump_fetcher();
        } else if let Some((channel, false)) = envelope.channel_status()
            && channel == fetcher.channel
        {
            self.close_fetch_channel();
        }
    }

    fn fetch_request(&mut self, asked: Asked, request: Vec<u8>) {
        let fetcher = &mut self.session().fetcher;
        fetcher.asked = asked;
        fetcher.outbox.extend_from_slice(&request);
        self.pump_fetcher();
    }

    /// Asks the device for the next thing to do on the channel.
    fn pump_fetcher(&mut self) {
        let fetcher = &mut self.session().fetcher;
        if fetcher.busy || fetcher.state != State::Talking {
            return;
        }
        let channel = fetcher.channel;
        let (which, command) = if !fetcher.outbox.is_empty() {
            let rest = fetcher.outbox.split_off(fetcher.outbox.len().min(CHANNEL_DATA_MAX));
            let data = std::mem::replace(&mut fetcher.outbox, rest);
            (token::SEND, Proactive::SendData { channel, data, immediate: true })
        } else if std::mem::take(&mut fetcher.data_waits) {
            (token::RECEIVE, Proactive::ReceiveData { channel, length: RECEIVE_BYTES })
        } else {
            return;
        };
        fetcher.busy = true;
        if self.enqueue(Owner::Fetcher, which, command).is_err() {
            // Without room there is no answer either: the device goes on by itself when it sees the channel idle.
            self.session().fetcher.state = State::Off;
        }
    }

    fn close_fetch_channel(&mut self) {
        let channel = self.session().fetcher.channel;
        let closes = self.enqueue(Owner::Fetcher, token::CLOSE, Proactive::CloseChannel { channel }).is_ok();
        self.session().fetcher.state = if closes { State::Closing } else { State::Off };
    }

    /// Acts on whole answers of the device.
    fn fetch_answers(&mut self, environment: &mut Environment<'_>) {
        while self.session().fetcher.state == State::Talking {
            let fetcher = &mut self.session().fetcher;
            let Some(answer) = take_answer(&mut fetcher.inbox) else {
                if fetcher.inbox.len() > ANSWER_BYTES_MAX {
                    self.close_fetch_channel();
                }
                return;
            };
            let (asked, packets) = (fetcher.asked, fetcher.packets);
            match (asked, answer.status) {
                (Asked::Waiting, 200) if answer.waiting > 0 => self.ask_packet(),
                (Asked::Packet, 200) if packets < PACKETS_MAX => self.take_packet(environment, &answer),
                (Asked::Taken, 204) => self.ask_packet(),
                _ => self.close_fetch_channel(),
            }
        }
    }

    fn ask_packet(&mut self) {
        self.fetch_request(Asked::Packet, "GET /packet HTTP/1.1\r\nHost: device\r\n\r\n".into());
    }

    /// Gives a packet to the receiver, and what it says back to the device.
    fn take_packet(&mut self, environment: &mut Environment<'_>, answer: &Answer) {
        // A packet is executed once: a proof that finds no room afterwards would be lost for good.
        let has_room = self.session().toolkit.has_room_for(PROACTIVE_PER_MESSAGE_MAX + 1);
        let originator = Address::number(&answer.originator).ok().filter(|_| has_room);
        let Some(originator) = originator else { return self.close_fetch_channel() };
        self.session().fetcher.packets += 1;
        let said = self.download_packet(environment, &originator, &answer.body);
        let mut request = format!(
            "POST /answer HTTP/1.1\r\nHost: device\r\nX-Item: {}\r\nContent-Length: {}\r\n\r\n",
            answer.item,
            said.data.len()
        )
        .into_bytes();
        request.extend_from_slice(&said.data);
        self.fetch_request(Asked::Taken, request);
    }
}

/// The first whole answer of what has come.
fn take_answer(inbox: &mut Vec<u8>) -> Option<Answer> {
    let head_end = inbox.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&inbox[..head_end]).unwrap_or_default().to_owned();
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value.trim())
    };
    let length = header("Content-Length").parse().unwrap_or(0_usize).min(ANSWER_BYTES_MAX);
    let end = head_end + 4 + length;
    if inbox.len() < end {
        return None;
    }
    let answer = Answer {
        status: head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0),
        waiting: header("X-Waiting").parse().unwrap_or(0),
        item: header("X-Item").to_owned(),
        originator: header("X-Originating-Address").to_owned(),
        body: inbox[head_end + 4..end].to_vec(),
    };
    inbox.drain(..end);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_in_pieces() {
        let text = "HTTP/1.1 200 OK\r\nX-Item: a-1\r\nX-Originating-Address: +43\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 204 No Content\r\n\r\n";
        let mut inbox = Vec::new();
        let mut answers = Vec::new();
        for byte in text.bytes() {
            inbox.push(byte);
            answers.extend(take_answer(&mut inbox));
        }
        assert_eq!(answers.len(), 2);
        assert_eq!((answers[0].status, answers[1].status), (200, 204));
        assert_eq!((answers[0].item.as_str(), answers[0].originator.as_str()), ("a-1", "+43"));
        assert_eq!(answers[0].body, b"abc");
        assert!(inbox.is_empty());
        for noise in ["\r\n\r\n", "x\r\n\r\n", "HTTP/1.1 abc\r\n\r\n"] {
            assert_eq!(take_answer(&mut noise.as_bytes().to_vec()).unwrap().status, 0);
        }
    }
}
