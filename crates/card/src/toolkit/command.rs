//! Proactive commands: what the card asks the device to do (ETSI TS 102 223, 6.6, 8 and 9.4).

use simtide_protocol::tlv::{push, push_comprehension};
use std::net::IpAddr;

/// Most bytes of channel data in one SEND DATA: the whole command has at most 256.
pub const CHANNEL_DATA_MAX: usize = 236;
/// Longest proactive command in bytes.
const COMMAND_BYTES_MAX: usize = 256;

/// What REFRESH asks for (ETSI TS 102 223, 6.4.7, 8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshMode {
    /// 00: initialise the application again and read all files.
    InitAndFullFileChange,
    /// 01: these files have changed (paths from `3F00`).
    FileChange,
    /// 04: reset the card and start from the beginning.
    UiccReset,
}

/// What PROVIDE LOCAL INFORMATION asks for (ETSI TS 102 223, 8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalInformation {
    /// 00: country, network, area, cell.
    Location,
    /// 01: IMEI.
    Imei,
    /// 03: date, time and time zone.
    DateTime,
    /// 04: language of the device.
    Language,
    /// 06: access technology.
    AccessTechnology,
}

/// What TIMER MANAGEMENT does (ETSI TS 102 223, 6.6.21).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerAction {
    /// Stop it; the answer says what was left.
    Deactivate,
    /// Ask what is left.
    CurrentValue,
}

/// Events that SET UP EVENT LIST asks to be told (ETSI TS 102 223, 8.25).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceEvent {
    /// 03: the device is in normal, limited or no service.
    LocationStatus,
    /// 04: somebody uses the device.
    UserActivity,
    /// 09: data has arrived on a channel.
    DataAvailable,
    /// 0A: a channel has been lost.
    ChannelStatus,
    /// 0B: the access technology has changed.
    AccessTechnologyChange,
    /// Any other, by its number.
    Other(u8),
}

impl DeviceEvent {
    /// The number in an event list.
    pub const fn code(self) -> u8 {
        match self {
            Self::LocationStatus => 0x03,
            Self::UserActivity => 0x04,
            Self::DataAvailable => 0x09,
            Self::ChannelStatus => 0x0A,
            Self::AccessTechnologyChange => 0x0B,
            Self::Other(code) => code,
        }
    }

    /// The event with this number.
    pub const fn from_code(code: u8) -> Self {
        match code {
            0x03 => Self::LocationStatus,
            0x04 => Self::UserActivity,
            0x09 => Self::DataAvailable,
            0x0A => Self::ChannelStatus,
            0x0B => Self::AccessTechnologyChange,
            other => Self::Other(other),
        }
    }
}

/// A TCP client channel that the device should open (ETSI TS 102 223, 6.4.27.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpChannel {
    /// Bearer description: type and parameters; `03` is the default bearer of the device.
    pub bearer: Vec<u8>,
    /// Bytes that the device should buffer in each direction.
    pub buffer_bytes: u16,
    /// Network access name, coded as labels; empty where the device's own is meant.
    pub access_point: Vec<u8>,
    /// Where to.
    pub address: IpAddr,
    /// TCP port.
    pub port: u16,
}

/// One proactive command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proactive {
    /// 01 REFRESH, with the paths of the files that have changed (`3F00 ..` each) for the mode that names them.
    Refresh {
        /// What is asked for.
        mode: RefreshMode,
        /// Complete paths of files.
        files: Vec<Vec<u8>>,
    },
    /// 02 MORE TIME.
    MoreTime,
    /// 03 POLL INTERVAL, in seconds (up to 255 minutes).
    PollInterval {
        /// How often the device should send STATUS.
        interval_s: u16,
    },
    /// 04 POLLING OFF.
    PollingOff,
    /// 05 SET UP EVENT LIST; an empty list removes it.
    SetUpEventList(Vec<DeviceEvent>),
    /// 13 SEND SHORT MESSAGE.
    SendShortMessage {
        /// Shown to the user, where not empty.
        text: String,
        /// The SMS-SUBMIT TPDU.
        tpdu: Vec<u8>,
    },
    /// 21 DISPLAY TEXT.
    DisplayText {
        /// The text.
        text: String,
        /// Shown even while the display is in use.
        high_priority: bool,
        /// Stays until the user clears it.
        until_cleared: bool,
    },
    /// 22 GET INKEY.
    GetInkey {
        /// The question.
        text: String,
        /// Yes or no is asked for instead of a character.
        yes_no: bool,
    },
    /// 23 GET INPUT.
    GetInput {
        /// The question.
        text: String,
        /// Digits only.
        digits: bool,
        /// Fewest characters.
        length_min: u8,
        /// Most characters.
        length_max: u8,
    },
    /// 24 SELECT ITEM.
    SelectItem {
        /// Title of the list.
        title: String,
        /// Identifier (from 1) and text of each item.
        items: Vec<(u8, String)>,
    },
    /// 25 SET UP MENU; without items it removes the menu.
    SetUpMenu {
        /// Title of the menu.
        title: String,
        /// Identifier (from 1) and text of each item.
        items: Vec<(u8, String)>,
    },
    /// 26 PROVIDE LOCAL INFORMATION.
    ProvideLocalInformation(LocalInformation),
    /// 27 TIMER MANAGEMENT: start timer 1 to 8.
    StartTimer {
        /// Which timer.
        timer: u8,
        /// How long, up to 99 h 59 min 59 s.
        duration_s: u32,
    },
    /// 27 TIMER MANAGEMENT: stop or read a timer.
    Timer {
        /// Which timer.
        timer: u8,
        /// What is wanted.
        action: TimerAction,
    },
    /// 28 SET UP IDLE MODE TEXT.
    SetUpIdleModeText(String),
    /// 40 OPEN CHANNEL, TCP client, at once.
    OpenChannel(TcpChannel),
    /// 41 CLOSE CHANNEL.
    CloseChannel {
        /// Channel 1 to 7.
        channel: u8,
    },
    /// 42 RECEIVE DATA.
    ReceiveData {
        /// Channel 1 to 7.
        channel: u8,
        /// Most bytes wanted.
        length: u8,
    },
    /// 43 SEND DATA, at once or kept until a later one is sent at once.
    SendData {
        /// Channel 1 to 7.
        channel: u8,
        /// At most [`CHANNEL_DATA_MAX`] bytes.
        data: Vec<u8>,
        /// Send now what has been collected.
        immediate: bool,
    },
    /// 44 GET CHANNEL STATUS.
    GetChannelStatus,
}

/// The command does not fit 256 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the proactive command would have {0} bytes, at most {COMMAND_BYTES_MAX} are allowed: shorten texts or data"
)]
pub struct ProactiveError(usize);

/// Device identities (ETSI TS 102 223, 8.7).
mod device {
    pub(super) const DISPLAY: u8 = 0x02;
    pub(super) const CHANNEL: u8 = 0x20;
    pub(super) const CARD: u8 = 0x81;
    pub(super) const TERMINAL: u8 = 0x82;
    pub(super) const NETWORK: u8 = 0x83;
}

impl Proactive {
    /// The command as the device fetches it: `D0 len`, command details with this number, device identities, the rest.
    pub fn encode(&self, number: u8) -> Result<Vec<u8>, ProactiveError> {
        let mut body = Vec::with_capacity(32);
        let (kind, qualifier, to) = self.head();
        push_comprehension(&mut body, 0x01, true, &[number, kind, qualifier]);
        push_comprehension(&mut body, 0x02, true, &[device::CARD, to]);
        self.push_rest(&mut body);
        let mut out = Vec::with_capacity(body.len() + 3);
        push(&mut out, 0xD0, &body);
        if out.len() > COMMAND_BYTES_MAX { Err(ProactiveError(out.len())) } else { Ok(out) }
    }

    /// Type of command, qualifier, and the device identity that it goes to.
    fn head(&self) -> (u8, u8, u8) {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        match self {
            Self::Refresh { mode, .. } => {
                let qualifier = match mode {
                    RefreshMode::InitAndFullFileChange => 0x00,
                    RefreshMode::FileChange => 0x01,
                    RefreshMode::UiccReset => 0x04,
                };
                (0x01, qualifier, device::TERMINAL)
            }
            Self::MoreTime => (0x02, 0x00, device::TERMINAL),
            Self::PollInterval { .. } => (0x03, 0x00, device::TERMINAL),
            Self::PollingOff => (0x04, 0x00, device::TERMINAL),
            Self::SetUpEventList(_) => (0x05, 0x00, device::TERMINAL),
            Self::SendShortMessage { .. } => (0x13, 0x00, device::NETWORK),
            Self::DisplayText { high_priority, until_cleared, .. } => {
                (0x21, flag(*high_priority, 0x01) | flag(*until_cleared, 0x80), device::DISPLAY)
            }
            Self::GetInkey { yes_no, .. } => (0x22, if *yes_no { 0x04 } else { 0x01 }, device::TERMINAL),
            Self::GetInput { digits, .. } => (0x23, flag(!*digits, 0x01), device::TERMINAL),
            Self::SelectItem { .. } => (0x24, 0x00, device::TERMINAL),
            Self::SetUpMenu { .. } => (0x25, 0x00, device::TERMINAL),
            Self::ProvideLocalInformation(what) => {
                let qualifier = match what {
                    LocalInformation::Location => 0x00,
                    LocalInformation::Imei => 0x01,
                    LocalInformation::DateTime => 0x03,
                    LocalInformation::Language => 0x04,
                    LocalInformation::AccessTechnology => 0x06,
                };
                (0x26, qualifier, device::TERMINAL)
            }
            Self::StartTimer { .. } => (0x27, 0x00, device::TERMINAL),
            Self::Timer { action: TimerAction::Deactivate, .. } => (0x27, 0x01, device::TERMINAL),
            Self::Timer { action: TimerAction::CurrentValue, .. } => (0x27, 0x02, device::TERMINAL),
            Self::SetUpIdleModeText(_) => (0x28, 0x00, device::TERMINAL),
            // Bit 1: link at once.
            Self::OpenChannel(_) => (0x40, 0x01, device::TERMINAL),
            Self::CloseChannel { channel } => (0x41, 0x00, device::CHANNEL | channel),
            Self::ReceiveData { channel, .. } => (0x42, 0x00, device::CHANNEL | channel),
            Self::SendData { channel, immediate, .. } => {
                (0x43, flag(*immediate, 0x01), device::CHANNEL | channel)
            }
            Self::GetChannelStatus => (0x44, 0x00, device::TERMINAL),
        }
    }

    fn push_rest(&self, body: &mut Vec<u8>) {
        match self {
            Self::Refresh { files, .. } => {
                if !files.is_empty() {
                    let mut list = vec![files.len() as u8];
                    list.extend(files.iter().flatten());
                    push_comprehension(body, 0x12, true, &list);
                }
            }
            Self::PollInterval { interval_s } => push_comprehension(body, 0x04, true, &duration(*interval_s)),
            Self::SetUpEventList(events) => {
                let codes: Vec<_> = events.iter().map(|event| event.code()).collect();
                push_comprehension(body, 0x19, true, &codes);
            }
            Self::SendShortMessage { text, tpdu } => {
                if !text.is_empty() {
                    push_comprehension(body, 0x05, true, &alpha(text));
                }
                push_comprehension(body, 0x0B, true, tpdu);
            }
            Self::DisplayText { text, .. } | Self::GetInkey { text, .. } => push_text(body, text),
            Self::GetInput { text, length_min, length_max, .. } => {
                push_text(body, text);
                push_comprehension(body, 0x11, true, &[*length_min, *length_max]);
            }
            Self::SelectItem { title, items } | Self::SetUpMenu { title, items } => {
                push_comprehension(body, 0x05, true, &alpha(title));
                for (identifier, text) in items {
                    let mut item = vec![*identifier];
                    item.extend(alpha(text));
                    push_comprehension(body, 0x0F, true, &item);
                }
                if items.is_empty() {
                    // 6.6.8: a single empty item removes the menu.
                    push_comprehension(body, 0x0F, true, &[]);
                }
            }
            Self::StartTimer { timer, duration_s } => {
                push_comprehension(body, 0x24, true, &[*timer]);
                push_comprehension(body, 0x25, true, &timer_value(*duration_s));
            }
            Self::Timer { timer, .. } => push_comprehension(body, 0x24, true, &[*timer]),
            Self::SetUpIdleModeText(text) => push_text(body, text),
            Self::OpenChannel(channel) => push_channel(body, channel),
            Self::ReceiveData { length, .. } => push_comprehension(body, 0x37, true, &[*length]),
            Self::SendData { data, .. } => push_comprehension(body, 0x36, true, data),
            Self::MoreTime
            | Self::PollingOff
            | Self::ProvideLocalInformation(_)
            | Self::CloseChannel { .. }
            | Self::GetChannelStatus => {}
        }
    }
}

/// Clause 8.8: unit and count; minutes where the seconds do not fit a byte.
fn duration(seconds: u16) -> [u8; 2] {
    match u8::try_from(seconds) {
        Ok(seconds) => [0x01, seconds.max(1)],
        Err(_) => [0x00, u8::try_from(seconds.div_ceil(60)).unwrap_or(u8::MAX)],
    }
}

/// Clause 8.38: hours, minutes, seconds, in swapped semi-octets.
fn timer_value(duration_s: u32) -> [u8; 3] {
    let duration_s = duration_s.min(99 * 3_600 + 59 * 60 + 59);
    [duration_s / 3_600, duration_s / 60 % 60, duration_s % 60]
        .map(|part| (((part % 10) << 4) | (part / 10)) as u8)
}

/// Clause 8.15: coding scheme 04 (8 bit) for ASCII, 08 (UCS2) for everything else.
fn push_text(body: &mut Vec<u8>, text: &str) {
    let mut value = Vec::with_capacity(text.len() + 1);
    if text.is_ascii() {
        value.push(0x04);
        value.extend_from_slice(text.as_bytes());
    } else {
        value.push(0x08);
        value.extend(text.encode_utf16().flat_map(u16::to_be_bytes));
    }
    push_comprehension(body, 0x0D, true, &value);
}

/// Clause 8.2: an alpha identifier, as plain characters or as UCS2 behind 80 (ETSI TS 102 221, annex A).
fn alpha(text: &str) -> Vec<u8> {
    if text.is_ascii() {
        return text.as_bytes().to_vec();
    }
    let mut value = vec![0x80];
    value.extend(text.encode_utf16().flat_map(u16::to_be_bytes));
    value
}

fn push_channel(body: &mut Vec<u8>, channel: &TcpChannel) {
    push_comprehension(body, 0x35, false, &channel.bearer);
    push_comprehension(body, 0x39, false, &channel.buffer_bytes.to_be_bytes());
    if !channel.access_point.is_empty() {
        push_comprehension(body, 0x47, false, &channel.access_point);
    }
    let [high, low] = channel.port.to_be_bytes();
    // 8.59: 02 is a TCP client.
    push_comprehension(body, 0x3C, false, &[0x02, high, low]);
    let mut address = Vec::with_capacity(17);
    match channel.address {
        IpAddr::V4(v4) => {
            address.push(0x21);
            address.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            address.push(0x57);
            address.extend_from_slice(&v6.octets());
        }
    }
    push_comprehension(body, 0x3E, false, &address);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coded(command: Proactive) -> String {
        hex::encode(command.encode(1).unwrap())
    }

    #[test]
    fn commands_as_the_standard_codes_them() {
        let text = |text: &str| text.to_owned();
        for (command, expected) in [
            (Proactive::PollInterval { interval_s: 20 }, "d00d8103010300820281828402 0114"),
            (Proactive::PollInterval { interval_s: 600 }, "d00d8103010300820281828402 000a"),
            (
                Proactive::SetUpEventList(vec![DeviceEvent::DataAvailable, DeviceEvent::ChannelStatus]),
                "d00d81030105008202818299 02090a",
            ),
            (
                Proactive::SendShortMessage { text: String::new(), tpdu: vec![0x41, 0x00] },
                "d00d810301130082028183 8b024100",
            ),
            (
                Proactive::DisplayText { text: text("Hi"), high_priority: true, until_cleared: true },
                "d00e810301218182028102 8d03044869",
            ),
            (
                Proactive::DisplayText { text: text("ä"), high_priority: false, until_cleared: false },
                "d00e810301210082028102 8d030800e4",
            ),
            (
                Proactive::GetInput { text: text("?"), digits: true, length_min: 1, length_max: 8 },
                "d011810301230082028182 8d02043f 91020108",
            ),
            (
                Proactive::SetUpMenu { title: text("M"), items: vec![(1, text("A"))] },
                "d010810301250082028182 85014d 8f020141",
            ),
            (Proactive::ProvideLocalInformation(LocalInformation::DateTime), "d009810301260382028182"),
            (
                Proactive::StartTimer { timer: 1, duration_s: 5 * 3_600 + 23 * 60 + 45 },
                "d011810301270082028182 a40101 a503503254",
            ),
            (
                Proactive::OpenChannel(TcpChannel {
                    bearer: vec![0x03],
                    buffer_bytes: 1_400,
                    access_point: Vec::new(),
                    address: IpAddr::from([127, 0, 0, 1]),
                    port: 8_443,
                }),
                "d01c810301400182028182 350103 39020578 3c030220fb 3e05217f000001",
            ),
            (
                Proactive::SendData { channel: 1, data: vec![0xAA], immediate: true },
                "d00c810301430182028121 b601aa",
            ),
            (Proactive::ReceiveData { channel: 2, length: 200 }, "d00c810301420082028122 b701c8"),
            (Proactive::CloseChannel { channel: 1 }, "d009810301410082028121"),
            (Proactive::GetChannelStatus, "d009810301440082028182"),
            (Proactive::Refresh { mode: RefreshMode::UiccReset, files: vec![] }, "d009810301010482028182"),
            (
                Proactive::Refresh { mode: RefreshMode::FileChange, files: vec![vec![0x3F, 0, 0x2F, 5]] },
                "d010810301010182028182 9205013f002f05",
            ),
        ] {
            assert_eq!(coded(command), expected.replace(' ', ""));
        }
    }

    #[test]
    fn the_largest_command_has_256_bytes() {
        let send = |size| Proactive::SendData { channel: 1, data: vec![0; size], immediate: true }.encode(1);
        assert!(send(CHANNEL_DATA_MAX).unwrap().len() <= COMMAND_BYTES_MAX);
        assert!(send(250).is_err());
    }
}
