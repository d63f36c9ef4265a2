//! Targets that take any bytes: none may panic, each checks what must always hold.

use std::sync::Arc;

use simtide_protocol::entitlement::RELAY_CONTENT_TYPE;
use simtide_protocol::ids::EpochMs;
use simtide_protocol::second_layer::{Acknowledged, Item, ItemId, UplinkContent, Verdict};

use crate::client::http::HttpResponse;
use crate::client::{self, Client, ClientSettings};
use crate::inbound::CardKey;
use crate::queues::{Queues, Tail};
use crate::{
    AkaAnswer, Authentication, CardFiles, Command, Device, Event, Kind, LinkId, Settings, UserAction,
};

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

/// A journal of any bytes is read or refused, and what was read is written and reads again the same; the same bytes as
/// operations give a journal that a cut at any byte leaves readable.
pub fn device_queue(data: &[u8]) {
    if let Ok((queues, _)) = Queues::from_journal(data) {
        let snapshot = queues.snapshot();
        let again = Queues::from_journal(&snapshot).map(|(queues, tail)| (queues.snapshot(), tail));
        assert_eq!(again, Ok((snapshot, Tail::Whole)));
    }
    let mut queues = Queues::default();
    let mut journal = queues.snapshot();
    let head = journal.len();
    for piece in data.chunks(6).take(64) {
        operate(&mut queues, piece);
        journal.extend(queues.take_changes().unwrap_or_default());
        queues.stored();
    }
    let cut = head + data.iter().map(|byte| usize::from(*byte)).sum::<usize>() % (journal.len() - head + 1);
    let read = Queues::from_journal(&journal[..cut]);
    assert!(matches!(read, Ok((_, Tail::Whole | Tail::Torn(_)))));
    let whole = Queues::from_journal(&journal).map(|(queues, _)| queues.snapshot());
    assert_eq!(whole, Ok(queues.snapshot()));
}

fn operate(queues: &mut Queues, piece: &[u8]) {
    let number = |place: usize| piece.get(place).copied().unwrap_or_default();
    let Some(card) = card_of(number(1)) else { return };
    let Ok(id) = format!("d{}-{}", number(2) % 4, number(3) % 4).parse::<ItemId>() else { return };
    match number(0) % 6 {
        0 => {
            let packet = vec![number(4); usize::from(number(5))];
            let item = Item { id, packet, originating_address: "1234".to_owned(), proof_wanted: true };
            let _ = queues.fetch(card, item, EpochMs(i64::from(number(4))));
        }
        1 => queues.receipted(card, vec![id]),
        2 => {
            let (named, originating_address) = (Some(id.clone()), "1234".to_owned());
            let proof = UplinkContent::Proof { id: named, originating_address, packet: vec![number(4)] };
            queues.answered(card, id, Some(proof).filter(|_| number(5) > 0));
        }
        3 => drop(queues.keep(card, UplinkContent::Submit { tpdu: piece.to_vec() })),
        5 => queues.taken(card, u64::from(number(4))),
        _ => {
            queues.acknowledged(card, &[Acknowledged { n: u64::from(number(4)), verdict: Verdict::Accepted }])
        }
    }
}

fn card_of(number: u8) -> Option<CardKey> {
    format!("00101000000000{}", number % 3).parse().ok().map(CardKey::Imsi)
}

/// A server, a card and a network that say what they like to the client module: it stays within its limits.
pub fn device_client(data: &[u8]) {
    let settings = Arc::new(ClientSettings::of("server", b"490154203237518"));
    let mut client = Client::new(settings, Queues::default());
    let mut random = |buffer: &mut [u8]| buffer.fill(7);
    let mut now = EpochMs(1_700_000_000_000);
    let files = CardFiles { imsi: "001010000000001".parse().ok(), ..CardFiles::default() };
    client.handle(now, &mut random, client::Event::CardStarted(files));
    let (mut rest, mut request, mut challenge, mut message) = (data, 0, 0, 0);
    while let Some(([kind, length], after)) = rest.split_first_chunk::<2>() {
        let (piece, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        for _ in 0..COMMANDS_PER_PIECE_MAX {
            client.take_changes();
            client.stored(now, &mut random);
            match client.next_command() {
                Some(client::Command::Request(asked)) => request = asked.id,
                Some(client::Command::Authenticate { id, .. }) => challenge = id,
                Some(client::Command::SubmitSms { reference, .. }) => message = reference,
                Some(_) => {}
                None => break,
            }
        }
        let event = match kind % 10 {
            0 => client::Event::Response { id: request, response: answer_of(piece) },
            1 => client::Event::Failed { id: request },
            2 => client::Event::Authenticated { id: challenge, authentication: authentication_of(piece) },
            3 => client::Event::CardSends { reference: 1, tpdu: piece.to_vec() },
            4 => client::Event::ChannelOpened(LinkId(u32::from(*length % 3))),
            5 => client::Event::ChannelData(LinkId(u32::from(*length % 3)), piece.to_vec()),
            6 => client::Event::CardIdle,
            7 => client::Event::Coverage(length % 2 == 0),
            8 => client::Event::Submitted { reference: message, accepted: length % 2 == 0 },
            _ => {
                let jump_s = i64::from(i8::from_be_bytes([*length])) * 100_000;
                now = now.plus_s(jump_s);
                client::Event::Deadline
            }
        };
        client.handle(now, &mut random, event);
        let _ = client.is_notification(piece);
        let _ = client.claims(piece, true);
        let _ = client.next_deadline();
    }
    assert!(client.queues().outbound().len() <= crate::outbound::OUTBOUND_MAX);
}

fn answer_of(piece: &[u8]) -> HttpResponse {
    let (kind, body) = piece.split_first().unwrap_or((&0, &[]));
    HttpResponse {
        status: [200, 200, 200, 403, 503, 511][usize::from(kind % 6)],
        content_type: if kind % 2 == 0 { RELAY_CONTENT_TYPE } else { "text/xml" }.to_owned(),
        set_cookie: vec![String::from_utf8_lossy(body).into_owned()],
        retry_after_s: Some(u32::from(*kind)),
        body: body.to_vec(),
    }
}

fn authentication_of(piece: &[u8]) -> Authentication {
    match piece.first_chunk::<14>() {
        Some(auts) => Authentication::SynchronisationFailure { auts: *auts },
        None => Authentication::Success(AkaAnswer { res: vec![1; 8], ck: [2; 16], ik: [3; 16] }),
    }
}
