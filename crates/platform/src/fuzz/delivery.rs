//! Deliveries: what may happen to them.

use std::collections::BTreeMap;

use simtide_protocol::ids::{DeliveryId, EpochMs, Iccid};
use simtide_protocol::profile::Profile;

use super::EVENTS_MAX;
use crate::content::{ANY_PROFILE, Action, Content, FileUpdate, HexBytes, OnFailure, Step};
use crate::delivery::{
    Bearer, Bearers, Cause, Command, Delivery, Event, Polled, Presence, ScriptAnswer, Settings, State,
    Urgency, Wish, pack,
};

/// What may happen to a delivery: pairs of bytes, an event and how long after the one before. Whatever it is, one packet
/// is open at a time, what was given up was open, and it ends once.
pub fn delivery_events(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let start = EpochMs::from_seconds(1_800_000_000);
    let Some(wish) = wish(*choice, start) else { return };
    let (mut delivery, settings) = (Delivery::new(start, wish), Settings::default());
    let presence = Presence { sms: choice & 0x40 != 0, ip: choice & 0x80 != 0, ..Presence::default() };
    let (mut now, mut ends) = (start, 0);
    for pair in rest.chunks_exact(2).take(EVENTS_MAX) {
        now = now.plus_s(i64::from(pair[1]) * 30);
        let (before, event) = (delivery.clone(), happening(pair[0]));
        let commands = delivery.handle(now, event, &presence, &settings);
        let says = |wanted| commands.contains(&wanted);
        let (was_open, gives_up) = (before.under_way.is_some(), says(Command::Abandon));
        assert!(was_open || !gives_up, "what is given up was open");
        let is_settled = gives_up || matches!(event, Event::Proof { .. } | Event::PassedOver);
        assert!(!was_open || is_settled || !says(Command::Reserve), "one packet at a time");
        ends += usize::from(says(Command::Closed) && before.state != State::Unproven);
        assert!(ends <= 1 && (ends == 1) != delivery.state.is_open(), "it ends once");
    }
}

/// Three steps of one packet each for a card in software.
fn wish(choice: u8, now: EpochMs) -> Option<Wish> {
    let update =
        FileUpdate { path: "3F00/7F90/6F04".parse().ok()?, offset: 0, record: None, data: HexBytes(vec![1]) };
    let repeatable = choice & 1 != 0;
    let step = Step { action: Action::FileUpdate(update), tar: None, on_failure: OnFailure::Stop };
    let steps = vec![step; 3];
    let variants = BTreeMap::from([(ANY_PROFILE.to_owned(), steps)]);
    let content = Content { repeatable, provides: BTreeMap::new(), variants };
    Some(Wish {
        id: DeliveryId(1),
        card: "8988211000000000011".parse::<Iccid>().ok()?.into(),
        cause: Cause::Request,
        portions: pack(&content, &Profile::standard(), 1, 256).ok()?,
        repeatable,
        bearers: Bearers::ALL,
        urgency: [Urgency::Low, Urgency::Normal, Urgency::High][usize::from(choice >> 1 & 0x0F) % 3],
        limit: now.plus_s(86_400),
    })
}

/// The event that a byte stands for: the low four bits say which, the others what it says.
fn happening(byte: u8) -> Event {
    let bearer = Bearer::ALL[usize::from(byte >> 4) % 3];
    let answers = [
        ScriptAnswer::OK,
        ScriptAnswer { status: 0, executed: Some(1), word: Some(0x6982) },
        ScriptAnswer { status: 0x0B, executed: None, word: None },
        ScriptAnswer { status: 0x02, executed: None, word: None },
    ];
    let answer = answers[usize::from(byte >> 6)];
    match byte & 0x0F {
        0..=2 => Event::Look,
        3 | 4 => Event::Asked,
        5 => Event::Fetched,
        6 => Event::Reached,
        7 => Event::PassedOver,
        8 => Event::Reserved { counter: u64::from(byte >> 4) + 1 },
        9 => Event::Failed { bearer },
        10 | 11 => Event::Proof { by: bearer.into(), answer },
        12 => Event::PollOpened,
        13 if byte & 0x10 == 0 => Event::PollEnded { outcome: Polled::Done },
        13 if byte & 0x20 == 0 => Event::PollEnded { outcome: Polled::Failed(answer) },
        13 => Event::PollEnded { outcome: Polled::Broken { marked: byte & 0x40 != 0 } },
        14 => Event::Impossible,
        _ => Event::Cancel,
    }
}
