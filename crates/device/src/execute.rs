//! Carrying out proactive commands: what each does, and what the card is told about it.

use std::net::SocketAddr;

use simtide_protocol::ids::EpochMs;

use crate::channel::{CHANNELS_MAX, Channel, RECEIVE_BUFFER_BYTES_MAX};
use crate::device::{Device, PollInterval, Purpose, Running, State};
use crate::event::{Command, LinkId, Notice, Prompt};
use crate::proactive::{Details, Proactive, ProactiveError, Request, tag};
use crate::response::{self, Response, bip, result};

/// Shortest poll interval that is granted, in milliseconds.
const POLL_INTERVAL_MS_MIN: i64 = 1_000;

impl Device {
    /// The answer to FETCH has come.
    pub(crate) fn fetched(&mut self, now: EpochMs, answer: &[u8], succeeded: bool) {
        if !succeeded {
            // The card takes back what it announced: there is nothing to answer to.
            return;
        }
        match Proactive::parse(answer) {
            Ok(Proactive { details, request }) => self.execute(now, details, request),
            Err(ProactiveError::Unreadable) => {
                self.commands.push_back(Command::Notice(Notice::CommandUnreadable));
                self.respond(Details::default(), result::NOT_UNDERSTOOD, &[]);
            }
            Err(ProactiveError::NotUnderstood(details)) => self.respond(details, result::NOT_UNDERSTOOD, &[]),
            Err(ProactiveError::Missing(details)) => self.respond(details, result::MISSING_VALUES, &[]),
            Err(ProactiveError::Beyond(details)) => self.respond(details, result::BEYOND, &[]),
        }
    }

    fn execute(&mut self, now: EpochMs, details: Details, request: Request) {
        match request {
            Request::Refresh => self.refresh(details),
            Request::MoreTime | Request::PlayTone | Request::LanguageNotification => {
                self.respond(details, result::OK, &[]);
            }
            Request::PollInterval { unit, count } => self.poll_interval(now, details, unit, count),
            Request::PollingOff => {
                self.poll = None;
                self.respond(details, result::OK, &[]);
            }
            Request::EventList(events) => {
                self.events =
                    events.iter().filter(|event| **event < 32).fold(0, |list, event| list | 1 << event);
                self.respond(details, result::OK, &[]);
            }
            Request::SendSms { alpha, tpdu } => self.send_sms(details, alpha, tpdu),
            Request::LocalInformation => self.local_information(now, details),
            Request::Timer { timer, duration_s } => self.timer(now, details, timer, duration_s),
            Request::OpenChannel { bearer, buffer_size, remote } => {
                self.open_channel(details, bearer, buffer_size, remote);
            }
            Request::CloseChannel { channel } => self.close_channel(details, channel),
            Request::ReceiveData { channel, count } => self.receive_data(details, channel, count),
            Request::SendData { channel, data } => self.send_data(details, channel, &data),
            Request::ChannelStatus => self.channel_status(details),
            Request::Unknown => self.respond(details, result::TYPE_UNKNOWN, &[]),
            shown => self.execute_on_display(now, details, shown),
        }
    }

    /// The commands that need a display.
    fn execute_on_display(&mut self, now: EpochMs, details: Details, request: Request) {
        if !self.settings.display {
            return self.respond(details, result::BEYOND, &[]);
        }
        match request {
            Request::DisplayText { text, immediate } => self.display_text(now, details, text, immediate),
            Request::GetInkey { text } => self.get_inkey(now, details, text),
            Request::GetInput { text, length_min, length_max, default } => {
                let prompt = Self::input_prompt(details, text, [length_min, length_max], default);
                self.get_input(now, details, prompt);
            }
            Request::SelectItem(menu) => self.select_item(now, details, menu),
            Request::SetUpMenu(menu) => {
                self.menu.clone_from(&menu);
                self.commands.push_back(Command::MenuChanged(menu));
                self.respond(details, result::OK, &[]);
            }
            Request::IdleText(text) => {
                self.commands.push_back(Command::IdleText(text));
                self.respond(details, result::OK, &[]);
            }
            // `execute` has dealt with all others.
            _ => self.respond(details, result::TYPE_UNKNOWN, &[]),
        }
    }

    /// REFRESH (6.4.7) by its kind.
    fn refresh(&mut self, details: Details) {
        match details.qualifier {
            // The reset itself is the answer: no terminal response.
            0x04 => self.restart(),
            // Initialization of several sorts, file changes, application and session reset: the card is read anew.
            0x00..=0x03 | 0x05 | 0x06 => self.reread(details),
            // Steering of roaming: there is nowhere to steer to.
            0x07 => self.respond(details, result::OK, &[]),
            _ => self.respond(details, result::NOT_UNDERSTOOD, &[]),
        }
    }

    fn poll_interval(&mut self, now: EpochMs, details: Details, unit: u8, count: u8) {
        let unit_ms = match unit {
            0x00 => 60_000,
            0x01 => 1_000,
            _ => 100,
        };
        let wanted_ms = i64::from(count) * unit_ms;
        let every_ms = wanted_ms.max(POLL_INTERVAL_MS_MIN);
        self.poll = Some(PollInterval { every_ms, next: now.plus_ms(every_ms), due: false });
        let granted = if wanted_ms < POLL_INTERVAL_MS_MIN { [0x01, 1] } else { [unit, count] };
        self.send_response(Response::new(details, result::OK, &[]).with(tag::DURATION, &granted));
    }

    fn send_sms(&mut self, details: Details, alpha: String, mut tpdu: Vec<u8>) {
        if tpdu.len() < 2 {
            return self.respond(details, result::NOT_UNDERSTOOD, &[]);
        }
        if !alpha.is_empty() && self.settings.display {
            self.commands.push_back(Command::Show(Prompt::Note(alpha)));
        }
        self.next_reference = self.next_reference.wrapping_add(1);
        let reference = self.next_reference;
        // TP-MR counts modulo 256 (3GPP TS 23.040, 9.2.3.6).
        tpdu[1] = reference.to_be_bytes()[3];
        self.commands.push_back(Command::SubmitSms { reference, tpdu });
        self.state = State::Running(Running::Submitting { details, reference });
    }

    /// The service centre took a message, or did not.
    pub(crate) fn submit_outcome(&mut self, outcome_of: u32, accepted: bool) {
        match self.state {
            State::Running(Running::Submitting { details, reference }) if reference == outcome_of => {
                match accepted {
                    true => self.respond(details, result::OK, &[]),
                    false => self.respond(details, result::SMS_ERROR, &[0x00]),
                }
            }
            _ => {}
        }
    }

    fn local_information(&mut self, now: EpochMs, details: Details) {
        let response = Response::new(details, result::OK, &[]);
        let response = match details.qualifier {
            0x00 => response.with(tag::LOCATION, &response::location(self.settings.location)),
            0x01 => response.with(tag::IMEI, &response::imei(&self.settings)),
            0x03 => {
                response.with(tag::DATE_TIME, &response::date_time(now, self.settings.time_zone_quarters))
            }
            0x04 => response.with(tag::LANGUAGE, b"en"),
            // E-UTRAN (8.61).
            0x06 => response.with(tag::ACCESS_TECHNOLOGY, &[0x08]),
            _ => Response::new(details, result::BEYOND, &[]),
        };
        self.send_response(response);
    }

    /// TIMER MANAGEMENT (6.4.21): 0 starts, 1 stops, 2 asks.
    fn timer(&mut self, now: EpochMs, details: Details, timer: u8, duration_s: Option<u32>) {
        let left_s = match (details.qualifier & 0x03, duration_s) {
            (0x00, Some(duration_s)) => {
                self.timers.start(timer, now, duration_s);
                let response = Response::new(details, result::OK, &[]).with(tag::TIMER_IDENTIFIER, &[timer]);
                return self.send_response(response);
            }
            (0x01, _) => self.timers.stop(timer, now),
            (0x02, _) => self.timers.left_s(timer, now),
            _ => return self.respond(details, result::NOT_UNDERSTOOD, &[]),
        };
        let response = match left_s {
            Some(left_s) => Response::new(details, result::OK, &[])
                .with(tag::TIMER_IDENTIFIER, &[timer])
                .with(tag::TIMER_VALUE, &response::timer_value(left_s)),
            None => {
                Response::new(details, result::TIMER_CONTRADICTION, &[]).with(tag::TIMER_IDENTIFIER, &[timer])
            }
        };
        self.send_response(response);
    }

    fn open_channel(&mut self, details: Details, bearer: Vec<u8>, buffer_size: u16, remote: SocketAddr) {
        let free = (1..).take(CHANNELS_MAX).find(|number| self.channel(*number).is_none());
        let Some(number) = free else {
            return self.respond(details, result::BIP_ERROR, &[bip::NO_CHANNEL]);
        };
        let granted = buffer_size.min(RECEIVE_BUFFER_BYTES_MAX as u16);
        self.next_link = self.next_link.wrapping_add(1);
        let link = LinkId(self.next_link);
        self.channels.push(Channel::new(number, link, granted));
        self.commands.push_back(Command::OpenChannel { link, remote });
        let modified = granted != buffer_size;
        self.state = State::Running(Running::Connecting { details, link, bearer, modified });
    }

    /// A connection stands.
    pub(crate) fn channel_connected(&mut self, link: LinkId) {
        let Some(channel) = self.channels.iter_mut().find(|channel| channel.link == link) else {
            // Closed in the meantime.
            return;
        };
        channel.connected = true;
        let (status, size) = (channel.status(), channel.buffer_size.to_be_bytes());
        self.grant(link);
        if let State::Running(Running::Connecting { details, link: awaited, bearer, modified }) = &self.state
            && *awaited == link
        {
            let outcome = if *modified { result::MODIFIED } else { result::OK };
            let response = Response::new(*details, outcome, &[])
                .with(tag::CHANNEL_STATUS, &status)
                .with(tag::BEARER, bearer)
                .with(tag::BUFFER_SIZE, &size);
            self.send_response(response);
        }
    }

    /// A connection could not be made.
    pub(crate) fn channel_failed(&mut self, link: LinkId) {
        if let State::Running(Running::Connecting { details, link: awaited, bearer, .. }) = &self.state
            && *awaited == link
        {
            let size = self.channels.iter().find(|channel| channel.link == link).map_or(0, |c| c.buffer_size);
            // 21: the network cannot; the card's own retry policy follows.
            let response = Response::new(*details, result::NETWORK_UNABLE, &[0x00])
                .with(tag::BEARER, bearer)
                .with(tag::BUFFER_SIZE, &size.to_be_bytes());
            self.forget(link);
            return self.send_response(response);
        }
        self.channel_closed(link);
    }

    /// The other side closed a connection. What it sent before can still be read.
    pub(crate) fn channel_closed(&mut self, link: LinkId) {
        let Some(channel) = self.channels.iter_mut().find(|channel| channel.link == link) else { return };
        if !channel.connected {
            return self.channel_failed(link);
        }
        channel.connected = false;
        channel.tell_dropped = true;
        match self.state {
            State::Running(Running::Sending { details, link: congested }) if congested == link => {
                self.respond(details, result::BIP_ERROR, &[bip::CHANNEL_CLOSED]);
            }
            _ => {}
        }
    }

    /// Bytes have come.
    pub(crate) fn channel_data(&mut self, link: LinkId, bytes: &[u8]) {
        if let Some(channel) = self.channels.iter_mut().find(|channel| channel.link == link) {
            channel.take(bytes);
        }
        self.grant(link);
    }

    /// Bytes have left.
    pub(crate) fn channel_sent(&mut self, link: LinkId, count: usize) {
        let Some(channel) = self.channels.iter_mut().find(|channel| channel.link == link) else { return };
        channel.sent(count);
        let (congested, room) = (channel.is_congested(), channel.send_room());
        match self.state {
            State::Running(Running::Sending { details, link: waiting }) if waiting == link && !congested => {
                let response = Response::new(details, result::OK, &[]);
                self.send_response(response.with(tag::CHANNEL_DATA_LENGTH, &[room]));
            }
            _ => {}
        }
    }

    fn grant(&mut self, link: LinkId) {
        let channel = self.channels.iter_mut().find(|channel| channel.link == link);
        if let Some(bytes_max) = channel.and_then(Channel::grant) {
            self.commands.push_back(Command::Receive { link, bytes_max });
        }
    }

    fn close_channel(&mut self, details: Details, number: u8) {
        match self.channel(number).map(|channel| channel.link) {
            Some(link) => {
                self.forget(link);
                self.commands.push_back(Command::CloseChannel { link });
                self.respond(details, result::OK, &[]);
            }
            None => self.respond(details, result::BIP_ERROR, &[bip::CHANNEL_UNKNOWN]),
        }
    }

    fn forget(&mut self, link: LinkId) {
        self.channels.retain(|channel| channel.link != link);
        if self.channels.is_empty() {
            self.channels = Vec::new();
        }
    }

    fn receive_data(&mut self, details: Details, number: u8, count: u8) {
        let Some(channel) = self.channel(number) else {
            return self.respond(details, result::BIP_ERROR, &[bip::CHANNEL_UNKNOWN]);
        };
        let waits = channel.waiting();
        if waits == 0 && !channel.connected {
            return self.respond(details, result::BIP_ERROR, &[bip::CHANNEL_CLOSED]);
        }
        let link = channel.link;
        // 6.4.29: what is there, with a hint where it is less than was asked for.
        let outcome = if waits < count { result::MISSING_INFORMATION } else { result::OK };
        let response = Response::new(details, outcome, &[]);
        // The object with what is left takes three bytes.
        let room = usize::from(count).min(response.room().saturating_sub(3));
        let (data, left) = channel.give(room);
        self.grant(link);
        self.send_response(response.with(tag::CHANNEL_DATA, &data).with(tag::CHANNEL_DATA_LENGTH, &[left]));
    }

    fn send_data(&mut self, details: Details, number: u8, data: &[u8]) {
        let Some(channel) = self.channel(number) else {
            return self.respond(details, result::BIP_ERROR, &[bip::CHANNEL_UNKNOWN]);
        };
        if !channel.connected {
            return self.respond(details, result::BIP_ERROR, &[bip::CHANNEL_CLOSED]);
        }
        if !channel.store(data) {
            return self.respond(details, result::BIP_ERROR, &[bip::BUFFER_UNAVAILABLE]);
        }
        let (link, mut bytes) = (channel.link, Vec::new());
        // 8.6: bit 1 sends at once, without it the data are kept.
        if details.qualifier & 0x01 != 0 {
            bytes = channel.send();
        }
        let (congested, room) = (channel.is_congested(), channel.send_room());
        if !bytes.is_empty() {
            self.commands.push_back(Command::Send { link, bytes });
        }
        if congested {
            self.state = State::Running(Running::Sending { details, link });
        } else {
            let response = Response::new(details, result::OK, &[]);
            self.send_response(response.with(tag::CHANNEL_DATA_LENGTH, &[room]));
        }
    }

    fn channel_status(&mut self, details: Details) {
        let mut response = Response::new(details, result::OK, &[]);
        for channel in &self.channels {
            response = response.with(tag::CHANNEL_STATUS, &channel.status());
        }
        self.send_response(response);
    }

    fn channel(&mut self, number: u8) -> Option<&mut Channel> {
        self.channels.iter_mut().find(|channel| channel.number == number)
    }

    /// A terminal response without further objects.
    pub(crate) fn respond(&mut self, details: Details, result: u8, information: &[u8]) {
        self.send_response(Response::new(details, result, information));
    }

    pub(crate) fn send_response(&mut self, response: Response) {
        self.exchange(response.into_apdu(), Purpose::Response);
    }
}
