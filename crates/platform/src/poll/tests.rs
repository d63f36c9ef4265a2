//! Sessions as events and commands, against a card that keeps a mark, counts effects and breaks where it is told to.

use super::*;
use crate::audience::Audience;
use crate::campaign::{Campaign, CampaignState, Settings};
use crate::card::{Applied, CardState, CardView, Tags};
use crate::content::Content;
use proptest::prelude::*;
use simtide_protocol::apdu::{Command as Apdu, Response as Answer, StatusWord};
use simtide_protocol::ids::Iccid;
use simtide_protocol::poll_date::MarkFile;
use simtide_protocol::script::expanded::{Item, Items, ResponseWriter};
use std::collections::BTreeMap;

const DAY_S: i64 = 86_400;
const NOW: EpochMs = EpochMs::from_seconds(1_800_000_000);

/// A file update of the content with this one byte.
fn file_update(byte: u8, on_failure: &str) -> String {
    format!(
        r#"{{"do": {{"file_update": {{"path": "3F00/7F90/6F04", "data": "{byte:02X}"}}}}, "on_failure": {on_failure}}}"#
    )
}

fn campaign(number: u32, repeatable: bool, steps: &[String]) -> StartedCampaign {
    let json = format!(r#"{{"repeatable": {repeatable}, "variants": {{"*": [{}]}}}}"#, steps.join(","));
    let content: Content = serde_json::from_str(&json).unwrap();
    let profile = Profile::standard();
    content.check(&[&profile]).unwrap();
    let row = Campaign {
        id: 100 + number,
        number: Some(number),
        tenant: 1,
        name: String::new(),
        audience: Audience::Everyone,
        settings: Settings::default(),
        state: CampaignState::Running,
    };
    StartedCampaign::new(&row, number, &content, &[&profile]).unwrap()
}

fn view(applied: Applied) -> CardView<'static> {
    CardView {
        id: Iccid::with_check_digit("898821100000000001").unwrap().into(),
        operator: 1,
        profile: "standard",
        kind: "phone",
        tags: Tags { bits: 0, names: &[] },
        iccid: None,
        imsi: None,
        last_update: None,
        next_poll: NOW,
        applied,
        state: CardState::Active,
    }
}

/// What the platform has stored about one card.
#[derive(Debug, Default, Clone)]
struct Stored {
    applied: Applied,
    begun: BTreeMap<u32, u8>,
    closed: BTreeMap<u32, Outcome>,
    last: Option<Ended>,
    /// The server dies together with the next dialogue: nothing is recorded of its end.
    dies: bool,
    /// The card has never been in contact.
    unknown_date: bool,
    /// The card says that its last dialogue broke.
    resume: bool,
}

impl Stored {
    fn rows(&self) -> Vec<CardRow> {
        let begun =
            self.begun.iter().map(|(campaign, step)| (*campaign, CardRowStatus::Begun { step: *step }));
        let closed = self.closed.keys().map(|campaign| (*campaign, CardRowStatus::Closed));
        begun.chain(closed).map(|(campaign, status)| CardRow { campaign, status }).collect()
    }

    fn commit(&mut self, record: PollRecord) {
        if self.dies && record.ended.as_ref().is_some_and(|ended| ended.broken) {
            return;
        }
        for attempt in record.attempts {
            self.begun.insert(attempt.campaign, attempt.step);
        }
        for CampaignOutcome { campaign, number, outcome } in record.outcomes {
            self.begun.remove(&campaign);
            match outcome {
                Outcome::Done(_) | Outcome::Nothing => assert!(self.applied.mark(number)),
                other => assert_eq!(self.closed.insert(campaign, other), None),
            }
        }
        if let Some(ended) = record.ended {
            self.applied.settle(ended.settled);
            self.last = Some(ended);
        }
    }

    fn open(&self, campaigns: &[StartedCampaign], next_poll: EpochMs) -> (Dialogue, Command) {
        let offer = offer(&view(self.applied), 1, campaigns, &self.rows());
        let profile = Arc::new(Profile::standard());
        let opened = Opened {
            offer,
            profile,
            now: NOW,
            planned: if self.unknown_date { None } else { Some(NOW) },
            next_poll,
            clock_tolerance_s: 3_600,
            resume: self.resume,
        };
        Dialogue::open(opened)
    }
}

/// The date that the card's own rule gives for a poll in time.
fn by_rule() -> EpochMs {
    NOW.plus_s(20 * DAY_S)
}

/// A card that knows two files, counts what is written, and fails where it is told to.
#[derive(Debug, Default, Clone)]
struct Card {
    selected: Vec<u8>,
    mark: [u8; 8],
    date: Option<u32>,
    written: Vec<u8>,
    applets: usize,
    /// Writing this byte fails.
    fails_at: Option<u8>,
    commands: usize,
    /// The power goes after so many commands of all, before anything is answered.
    dies_at: Option<usize>,
}

impl Card {
    /// The body of the answer; none where the power went.
    fn execute(&mut self, script: &Script) -> Option<Vec<u8>> {
        let items = Items::new(&script.body).unwrap();
        let mut answer = ResponseWriter::new(items.form());
        for item in items {
            let Ok(Item::Command(command)) = item else { panic!("{item:?}") };
            if self.dies_at.is_some_and(|at| self.commands >= at) {
                return None;
            }
            self.commands += 1;
            let response = self.command(&Apdu::parse(command).unwrap());
            answer.response(&response);
            if !response.status.is_success() {
                break;
            }
        }
        self.dies_at.is_none_or(|at| self.commands < at).then(|| answer.finish())
    }

    fn command(&mut self, command: &Apdu<'_>) -> Answer {
        match (command.ins, self.selected.as_slice()) {
            (0xA4, _) => self.selected = command.data.to_vec(),
            (0xB0, [0x7F, 0x90, 0x6F, 0x02]) => return Answer::ok(self.mark.to_vec()),
            (0xD6, [0x7F, 0x90, 0x6F, 0x02]) => self.mark = command.data.try_into().unwrap(),
            (0xD6, [0x7F, 0x90, 0x6F, 0x01]) => {
                assert_eq!(command.p2, 1);
                self.date = Some(u32::from_be_bytes(command.data.try_into().unwrap()));
            }
            (0xD6, [0x7F, 0x90, 0x6F, 0x04]) if Some(command.data[0]) == self.fails_at => {
                return Answer::status(StatusWord::MEMORY_PROBLEM);
            }
            (0xD6, [0x7F, 0x90, 0x6F, 0x04]) => self.written.push(command.data[0]),
            (0xE2, _) => self.mark = command.data[3..].try_into().unwrap(),
            (0xE4, _) if self.applets == 0 => return Answer::status(StatusWord::REFERENCE_NOT_FOUND),
            (0xE4, _) => self.applets -= 1,
            (0xE6, _) if command.p1 == 0x0C => self.applets += 1,
            (0xE6 | 0xE8, _) => (),
            _ => panic!("{command:?}"),
        }
        Answer::status(StatusWord::OK)
    }

    fn marked(&self) -> MarkFile {
        MarkFile::decode(&self.mark).unwrap()
    }
}

/// Leads a session to its end; the names of the commands in their order.
fn session(
    stored: &mut Stored,
    card: &mut Card,
    campaigns: &[StartedCampaign],
    next_poll: EpochMs,
) -> Vec<&'static str> {
    let (mut dialogue, first) = stored.open(campaigns, next_poll);
    let (mut command, mut names) = (Some(first), Vec::new());
    let mut begun = false;
    while let Some(next) = command {
        command = match next {
            Command::Commit(record) => {
                begun |= record.begun.is_some();
                assert!(begun, "the date is reserved first");
                names.push(if record.ended.is_some() { "end" } else { "commit" });
                stored.commit(record);
                dialogue.handle(Event::Committed)
            }
            Command::Send(script) => {
                names.push("send");
                match card.execute(&script) {
                    Some(body) => dialogue.handle(Event::Scripted { status: ScriptStatus::Ok, body }),
                    None => dialogue.handle(Event::Broken),
                }
            }
            Command::Finish => {
                names.push("finish");
                None
            }
        };
    }
    assert!(dialogue.is_over());
    assert_eq!(dialogue.handle(Event::Broken), None);
    names
}

#[test]
fn a_poll_without_work_is_one_commit_and_the_end() {
    let (mut stored, mut card) = (Stored::default(), Card::default());
    assert_eq!(session(&mut stored, &mut card, &[], by_rule()), ["end", "finish"]);
    assert_eq!(stored.last, Some(Ended { broken: false, settled: 0, next_poll: None, not_offered: vec![] }));
    // Another date than the card's own has to be written.
    let other = by_rule().plus_s(DAY_S);
    assert_eq!(session(&mut stored, &mut card, &[], other), ["commit", "send", "end", "finish"]);
    assert_eq!(card.date, Some(other.seconds() as u32));
}

#[test]
fn a_date_is_written_where_nobody_knows_which_one_the_card_has() {
    for (unknown_date, resume) in [(true, false), (false, true)] {
        let (mut stored, mut card) = (Stored { unknown_date, resume, ..Stored::default() }, Card::default());
        assert_eq!(session(&mut stored, &mut card, &[], by_rule()), ["commit", "send", "end", "finish"]);
        assert_eq!(card.date, Some(by_rule().seconds() as u32));
    }
}

#[test]
fn repeatable_content_takes_two_commits_and_leaves_no_mark() {
    let (mut stored, mut card) = (Stored::default(), Card::default());
    let campaigns = [campaign(1, true, &[file_update(7, r#""stop""#)])];
    assert_eq!(session(&mut stored, &mut card, &campaigns, by_rule()), ["commit", "send", "end", "finish"]);
    assert_eq!((card.written.as_slice(), card.marked()), (&[7][..], MarkFile::default()));
    assert_eq!(card.date, Some(by_rule().seconds() as u32), "the date is in the last script");
    assert_eq!(stored.applied, Applied::up_to(1));
    assert_eq!(session(&mut stored, &mut card, &campaigns, by_rule()), ["end", "finish"]);
}

#[test]
fn content_that_is_not_repeatable_is_committed_before_each_step_and_marked() {
    let (mut stored, mut card) = (Stored::default(), Card::default());
    let campaigns = [campaign(3, false, &[file_update(7, r#""stop""#), file_update(8, r#""stop""#)])];
    let names = session(&mut stored, &mut card, &campaigns, by_rule());
    assert_eq!(names, ["commit", "send", "commit", "send", "end", "finish"]);
    assert_eq!(card.written, [7, 8]);
    assert_eq!(card.marked(), MarkFile { campaign: 3, step: 1, phase: MarkPhase::Done });
    assert!(stored.applied.has(3) && stored.begun.is_empty());
}

#[test]
fn what_follows_a_failure() {
    let failing = |on_failure: &str| {
        let (mut stored, mut card) = (Stored::default(), Card { fails_at: Some(7), ..Card::default() });
        let campaigns = [
            campaign(1, true, &[file_update(7, on_failure), file_update(8, r#""stop""#)]),
            campaign(2, true, &[file_update(9, r#""stop""#)]),
        ];
        session(&mut stored, &mut card, &campaigns, by_rule());
        assert!(stored.applied.has(2), "the next campaign runs");
        (stored, card.written)
    };
    let failure =
        Failure { step: 0, cause: FailureCause::Status { command: 2, status: StatusWord::MEMORY_PROBLEM } };
    assert_eq!(failure.to_string(), "step 1: command 2 ended with 6581");
    let (stored, written) = failing(r#""stop""#);
    assert_eq!(written, [9]);
    assert_eq!(stored.closed[&101], Outcome::Failed(failure, None));
    let (stored, written) = failing(r#""go_on""#);
    assert_eq!(written, [8, 9]);
    assert!(stored.applied.has(1));
    let (stored, written) = failing(r#"{"undo": ["00A4080C047F906F04", "00D600000101"]}"#);
    assert_eq!(written, [1, 9]);
    assert_eq!(stored.closed[&101], Outcome::Failed(failure, Some(true)));
}

#[test]
fn a_card_that_refuses_scripts() {
    for status in
        [ScriptStatus::UnknownApplication, ScriptStatus::NotASecurityDomain, ScriptStatus::SecurityError]
    {
        let mut stored = Stored::default();
        let campaigns = [campaign(1, true, &[file_update(7, r#""stop""#)])];
        let (mut dialogue, Command::Commit(first)) = stored.open(&campaigns, by_rule()) else { panic!() };
        stored.commit(first);
        assert!(matches!(dialogue.handle(Event::Committed), Some(Command::Send(_))));
        let Some(Command::Commit(record)) = dialogue.handle(Event::Scripted { status, body: vec![] }) else {
            panic!()
        };
        stored.commit(record);
        let refused = Failure { step: 0, cause: FailureCause::Refused(status) };
        assert_eq!(stored.closed[&101], Outcome::Failed(refused, None));
        assert_eq!(dialogue.handle(Event::Committed), Some(Command::Finish));
    }
}

#[test]
fn answers_that_are_none() {
    for (body, cause) in [
        ("", FailureCause::Unreadable),
        ("AB03 800101", FailureCause::Incomplete { answered: 0, sent: 4 }),
        ("AB0B 800102 23029000 23029000", FailureCause::Unreadable),
        (
            "AB0A 800101 23029000 900102",
            FailureCause::BadFormat(simtide_protocol::script::expanded::BadFormat::WrongLength),
        ),
        ("AB0B 800102 23029000 230262F1", FailureCause::Status { command: 2, status: StatusWord(0x62F1) }),
    ] {
        let body = hex::decode(body.replace(' ', "")).unwrap();
        let body =
            if cause == FailureCause::Unreadable && !body.is_empty() { body[..9].to_vec() } else { body };
        let mut stored = Stored::default();
        let (mut dialogue, _) = stored.open(&[campaign(1, true, &[file_update(7, r#""stop""#)])], by_rule());
        dialogue.handle(Event::Committed);
        let Some(Command::Commit(record)) =
            dialogue.handle(Event::Scripted { status: ScriptStatus::Ok, body })
        else {
            panic!()
        };
        stored.commit(record);
        assert_eq!(stored.closed[&101], Outcome::Failed(Failure { step: 0, cause }, None));
    }
}

#[test]
fn applets_are_replaced_whether_they_were_there_or_not() {
    let step = r#"{"do": {"applet_replace": {"load_file": "A0000000010203", "module": "A000000001020301",
                   "instance": "A000000001020302", "code": "00112233"}}}"#;
    for there in [0, 1] {
        let (mut stored, mut card) = (Stored::default(), Card { applets: there, ..Card::default() });
        let campaigns = [campaign(1, false, &[step.to_owned()])];
        let names = session(&mut stored, &mut card, &campaigns, by_rule());
        assert_eq!(
            names,
            ["commit", "send", "send", "end", "finish"],
            "the card comes to its date by itself"
        );
        assert_eq!((card.applets, card.marked().phase), (1, MarkPhase::Done));
        assert!(stored.applied.has(1));
        // A date of its own takes a script of its own: the security domain writes no files.
        let (mut stored, mut card) = (Stored::default(), Card::default());
        let names = session(&mut stored, &mut card, &campaigns, by_rule().plus_s(1));
        assert_eq!(names, ["commit", "send", "send", "send", "end", "finish"]);
        assert_eq!(card.date, Some(by_rule().seconds() as u32 + 1));
    }
}

#[test]
fn a_broken_attempt_is_decided_by_the_mark_that_is_read_first() {
    let campaigns = [campaign(5, false, &[file_update(7, r#""stop""#), file_update(8, r#""stop""#)])];
    // Commands of the first session: 0-1 mark begun, 2-3 the update, 4-5 mark done, 6-7 begun, 8-9 update, ...
    for (dies_at, written, outcome) in [
        (0, vec![7, 8], None),
        (1, vec![7, 8], None),
        (2, vec![], Some(Outcome::Interrupted { step: 0 })),
        (5, vec![7], Some(Outcome::Interrupted { step: 0 })),
        (6, vec![7, 8], None),
        (7, vec![7, 8], None),
        (8, vec![7], Some(Outcome::Interrupted { step: 1 })),
        (11, vec![7, 8], Some(Outcome::Interrupted { step: 1 })),
        (12, vec![7, 8], None),
    ] {
        let (mut stored, mut card) = (Stored::default(), Card { dies_at: Some(dies_at), ..Card::default() });
        session(&mut stored, &mut card, &campaigns, by_rule());
        assert!(stored.last.as_ref().unwrap().broken && !stored.applied.has(5), "{dies_at}");
        card.dies_at = None;
        session(&mut stored, &mut card, &campaigns, by_rule());
        assert_eq!((&card.written, stored.closed.get(&105)), (&written, outcome.as_ref()), "{dies_at}");
        assert_eq!(stored.applied.has(5), outcome.is_none(), "{dies_at}");
        assert!(stored.begun.is_empty());
    }
}

#[test]
fn a_mark_is_read_before_another_campaign_overwrites_it() {
    let mut campaigns = [
        campaign(1, false, &[file_update(7, r#""stop""#), file_update(8, r#""stop""#)]),
        campaign(2, false, &[file_update(9, r#""stop""#)]),
    ];
    // The first step of campaign 1 is done and never answered; then the campaign is paused.
    let (mut stored, mut card) = (Stored::default(), Card { dies_at: Some(6), ..Card::default() });
    campaigns[1].state = CampaignState::Paused;
    session(&mut stored, &mut card, &campaigns, by_rule());
    card.dies_at = None;
    campaigns[0].state = CampaignState::Paused;
    campaigns[1].state = CampaignState::Running;
    session(&mut stored, &mut card, &campaigns, by_rule());
    assert_eq!(card.written, [7, 9]);
    assert_eq!(stored.begun, BTreeMap::from([(101, 1)]), "what the mark said is kept");
    campaigns[0].state = CampaignState::Running;
    session(&mut stored, &mut card, &campaigns, by_rule());
    assert_eq!(card.written, [7, 9, 8]);
}

#[test]
fn offers_leave_out_what_does_not_concern_the_card() {
    let mut campaigns: Vec<_> =
        (1..=6).map(|number| campaign(number, true, &[file_update(7, r#""stop""#)])).collect();
    campaigns[1].state = CampaignState::Paused;
    campaigns[2].audience = Audience::Cards(Default::default());
    campaigns[3].tenant = 2;
    campaigns[5].state = CampaignState::Finished;
    let mut applied = Applied::default();
    assert!(applied.mark(1));
    let rows = [CardRow { campaign: 105, status: CardRowStatus::Closed }];
    let offered = offer(&view(applied), 1, &campaigns, &rows);
    assert_eq!(offered.work.iter().map(|work| work.number).collect::<Vec<_>>(), [6]);
    assert_eq!(offered.settled, 1, "campaign 2 may still come");
    campaigns[1].state = CampaignState::Stopped;
    assert_eq!(offer(&view(applied), 1, &campaigns, &rows).settled, 2);
    let suspended = CardView { state: CardState::Suspended, ..view(applied) };
    assert_eq!(offer(&suspended, 1, &campaigns, &[]).work, []);
    let elsewhere = CardView { profile: "unknown", ..view(applied) };
    assert_eq!(offer(&elsewhere, 1, &campaigns, &rows).nothing, [(106, 6)]);
}

#[test]
fn an_event_that_nobody_expects_ends_the_session() {
    let (mut dialogue, _) = Stored::default().open(&[], by_rule());
    let scripted = Event::Scripted { status: ScriptStatus::Ok, body: vec![] };
    let Some(Command::Commit(record)) = dialogue.handle(scripted) else { panic!() };
    assert!(record.ended.unwrap().broken);
    assert!(dialogue.is_over());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Whatever breaks, nothing that is not repeatable runs twice, and what is done is done on the card.
    #[test]
    fn exactly_once_or_shown_to_the_operator(
        breaks in proptest::collection::vec(0_usize..30, 0..6),
        steps in proptest::collection::vec(1_usize..4, 1..4),
        pauses in proptest::collection::vec(any::<u8>(), 0..6),
    ) {
        let mut campaigns: Vec<_> = steps
            .iter()
            .zip(1_u32..)
            .map(|(count, number)| {
                let updates: Vec<_> =
                    (0..*count).map(|step| file_update(number as u8 * 16 + step as u8, r#""stop""#)).collect();
                campaign(number, false, &updates)
            })
            .collect();
        let (mut stored, mut card) = (Stored::default(), Card::default());
        for (round, commands) in breaks.iter().enumerate() {
            let paused = pauses.get(round).copied().unwrap_or_default();
            for (place, campaign) in campaigns.iter_mut().enumerate() {
                let state = if paused >> place & 1 == 1 { CampaignState::Paused } else { CampaignState::Running };
                campaign.state = state;
            }
            card.dies_at = Some(card.commands + commands);
            stored.dies = paused & 0x80 != 0;
            session(&mut stored, &mut card, &campaigns, by_rule());
        }
        card.dies_at = None;
        campaigns.iter_mut().for_each(|campaign| campaign.state = CampaignState::Running);
        session(&mut stored, &mut card, &campaigns, by_rule());
        for (campaign, count) in campaigns.iter().zip(&steps) {
            let bytes = (0..*count).map(|step| campaign.number as u8 * 16 + step as u8);
            let effects: Vec<_> =
                bytes.map(|byte| card.written.iter().filter(|written| **written == byte).count()).collect();
            prop_assert!(effects.iter().all(|effect| *effect <= 1), "{:?}", effects);
            let done = stored.applied.has(campaign.number);
            prop_assert_eq!(done, effects.iter().all(|effect| *effect == 1) && !stored.closed.contains_key(&campaign.id));
            let interrupted = matches!(stored.closed.get(&campaign.id), Some(Outcome::Interrupted { .. }));
            prop_assert!(done != interrupted);
        }
    }
}
