//! Targets that take any bytes: none may panic, each checks what must always hold. Run by cargo-fuzz (see
//! `fuzz/README.md`); their corpora are replayed by `tests/corpora.rs`.

mod delivery;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use simtide_protocol::ids::EpochMs;
use simtide_protocol::poll_date::{MarkFile, MarkPhase};
use simtide_protocol::profile::Profile;
use simtide_protocol::scp81::ScriptStatus;

use crate::audience::{Audience, Filter};
use crate::content::{Action, AppletDelete, Content, FileUpdate, HexBytes, OnFailure, Step};
use crate::poll::{Command, Dialogue, Event, Offer, Opened, Work};

pub use delivery::delivery_events;

/// More events than any session of the content below takes.
const EVENTS_MAX: usize = 256;

/// The text form of an audience filter. What is accepted keeps its limits, is shown as a text that reads as the same
/// filter, and survives JSON.
pub fn audience_filter(data: &[u8]) {
    let Ok(filter) = String::from_utf8_lossy(data).parse::<Filter>() else { return };
    assert_eq!(filter.to_string().parse().as_ref(), Ok(&filter), "{filter}");
    assert_eq!(Audience::Filter(filter).check(), Ok(()));
}

/// What a card may answer in a session. The first byte chooses the work, each answer after it is a status and a
/// length, one byte each, and the response script. Whatever it is, the session ends, its first record reserves the
/// date and its last one says that it is over, no campaign has two outcomes, and no step that is not repeatable is
/// sent without an attempt before it.
pub fn poll_answers(data: &[u8]) {
    let Some((choice, mut rest)) = data.split_first() else { return };
    let work = work(*choice);
    let now = EpochMs::from_seconds(1_800_000_000);
    let opened = Opened {
        offer: Offer { work, ..Offer::default() },
        profile: Arc::new(Profile::standard()),
        now,
        planned: (choice & 0x40 != 0).then_some(now),
        next_poll: now.plus_s(20 * 86_400),
        clock_tolerance_s: 60,
        resume: choice & 0x80 != 0,
    };
    let (mut dialogue, first) = Dialogue::open(opened);
    let mut seen = Seen::default();
    let mut command = Some(first);
    for _ in 0..EVENTS_MAX {
        let event = match command {
            None => break,
            Some(Command::Finish) => break,
            Some(Command::Commit(record)) => {
                assert_eq!(record.begun.is_some(), !seen.begun, "the first record reserves the date");
                seen.begun = true;
                assert!(!seen.ended, "nothing follows the end");
                seen.ended = record.ended.is_some();
                seen.attempts.extend(record.attempts.iter().map(|attempt| (attempt.campaign, attempt.step)));
                for outcome in record.outcomes {
                    assert_eq!(seen.outcomes.insert(outcome.campaign, outcome.number), None);
                }
                Event::Committed
            }
            Some(Command::Send(script)) => {
                assert!(seen.begun && !seen.ended && !script.body.is_empty());
                for (campaign, step) in begins(&script.body) {
                    assert!(seen.attempts.contains(&(campaign, step)), "committed before it is sent");
                }
                answer(&mut rest)
            }
        };
        command = dialogue.handle(event);
    }
    assert!(dialogue.is_over() && seen.ended, "every session ends");
}

#[derive(Default)]
struct Seen {
    begun: bool,
    ended: bool,
    attempts: BTreeSet<(u32, u8)>,
    outcomes: BTreeMap<u32, u32>,
}

/// Campaigns and steps whose mark "begun" a script writes.
fn begins(script: &[u8]) -> Vec<(u32, u8)> {
    let marks = (0..4).flat_map(|place| [(place, 0), (place, 1)]);
    let written = marks.filter(|(place, step)| {
        let mark = MarkFile { campaign: 1 + place, step: *step, phase: MarkPhase::Begun }.encode();
        script.windows(mark.len()).any(|bytes| bytes == mark)
    });
    written.map(|(place, step)| (100 + place, step)).collect()
}

/// The next answer of the card; when there are none left the session breaks.
fn answer(rest: &mut &[u8]) -> Event {
    let [status, length, after @ ..] = *rest else { return Event::Broken };
    let (body, after) = after.split_at(usize::from(*length).min(after.len()));
    *rest = after;
    let status = match status % 8 {
        1 => ScriptStatus::UnknownApplication,
        2 => ScriptStatus::NotASecurityDomain,
        3 => ScriptStatus::SecurityError,
        4 => return Event::Broken,
        5 => return Event::Committed,
        _ => ScriptStatus::Ok,
    };
    Event::Scripted { status, body: body.to_vec() }
}

/// Up to four campaigns of two steps: bit 0 not repeatable, bits 1 and 2 how many more, bit 3 one was broken, bit 4 go
/// on after failures, bit 5 undo.
fn work(choice: u8) -> Vec<Work> {
    let on_failure = match choice >> 4 & 0x03 {
        1 => OnFailure::GoOn,
        2 | 3 => OnFailure::Undo(vec![HexBytes(vec![0x00, 0xA4, 0x00, 0x00])]),
        _ => OnFailure::Stop,
    };
    let (Ok(path), Ok(aid)) = ("3F00/7F90/6F04".parse(), "A000000001".parse()) else { return Vec::new() };
    let update = FileUpdate { path, offset: 0, record: None, data: HexBytes(vec![7]) };
    let actions = [Action::FileUpdate(update), Action::AppletDelete(AppletDelete { aid, related: false })];
    let steps = actions.map(|action| Step { action, tar: None, on_failure: on_failure.clone() });
    let content = Content {
        provides: std::collections::BTreeMap::new(),
        repeatable: choice & 0x01 == 0,
        variants: BTreeMap::from([(crate::content::ANY_PROFILE.to_owned(), steps.to_vec())]),
    };
    let Ok(Some(prepared)) = content.prepare(&Profile::standard()) else { return Vec::new() };
    let prepared = Arc::new(prepared);
    (0..=u32::from(choice >> 1 & 0x03))
        .map(|place| Work {
            campaign: 100 + place,
            number: 1 + place,
            content: prepared.clone(),
            unanswered: (place == 0 && choice & 0x08 != 0).then_some(choice >> 6 & 0x01),
            runs: place != 0 || choice & 0x80 == 0,
        })
        .collect()
}
