//! Targets that take any bytes: none may panic, each checks what must always hold.

use simtide_protocol::ids::EpochMs;

use crate::{Command, Device, Event, Kind, Settings, UserAction};

const COMMANDS_PER_PIECE_MAX: usize = 64;

/// A card that answers with whatever the bytes say, to a device with a display: the device stays within its limits.
pub fn device_card_answers(data: &[u8]) {
    let mut device = Device::new(Settings::of(Kind::Phone));
    let mut now = EpochMs(1_700_000_000_000);
    let mut rest = data;
    device.handle(now, Event::PowerOn);
    while let Some((length, after)) = rest.split_first() {
        let (piece, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        now = now.plus_ms(i64::from(*length) * 100);
        // A card may go on for ever with one and the same answer: it gets its turn with the next piece.
        for _ in 0..COMMANDS_PER_PIECE_MAX {
            assert!(device.commands.len() <= 32 + crate::INBOX_MAX, "one event leads to few commands");
            let Some(command) = device.next_command() else { break };
            answer(&mut device, now, command, piece);
        }
        device.handle(now, Event::Deadline);
        device.handle(now, Event::User(UserAction::Enter(String::from_utf8_lossy(piece).into_owned())));
    }
    while device.next_command().is_some() {}
    assert!(device.channels.len() <= crate::CHANNELS_MAX);
}

/// A proactive command of any bytes: read or refused.
pub fn device_proactive(data: &[u8]) {
    let _ = crate::proactive::Proactive::parse(data);
    let text = crate::text::decode_text(data);
    let _ = crate::text::encode_text(&text, true, false);
    let _ = crate::text::decode_alpha(data);
}

fn answer(device: &mut Device, now: EpochMs, command: Command, piece: &[u8]) {
    match command {
        Command::Reset => device.handle(now, Event::CardReset(vec![0x3B, 0x00])),
        // A terminal response draws a status word; everything else the bytes as they are.
        Command::Transmit(apdu) if apdu.get(1) == Some(&0x14) => {
            assert!(apdu.len() <= 260);
            device.handle(now, Event::CardAnswer(piece.get(..2).unwrap_or(&[0x90, 0x00]).to_vec()));
        }
        Command::Transmit(_) => device.handle(now, Event::CardAnswer(piece.to_vec())),
        Command::OpenChannel { link, .. } => device.handle(now, Event::ChannelConnected(link)),
        Command::Receive { link, bytes_max } => {
            let count = piece.len().min(bytes_max);
            if count > 0 {
                device.handle(now, Event::ChannelData(link, piece[..count].to_vec()));
            }
        }
        Command::Send { link, bytes } => device.handle(now, Event::ChannelSent(link, bytes.len())),
        Command::SubmitSms { reference, .. } => {
            device.handle(now, Event::SubmitOutcome { reference, accepted: piece.first() != Some(&0) });
        }
        _ => {}
    }
}
