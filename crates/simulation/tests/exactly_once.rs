//! Content that is not repeatable, on a whole card, whatever breaks: power cut at every command of the device, before
//! and after it has taken effect; server killed at every commit and every answer. What counts is read from the card.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use simtide_agent::personalization::of_test_card;
use simtide_card::secure_channel::{ChannelError, SecureChannel, SecureChannels};
use simtide_card::{Card, Environment};
use simtide_platform::audience::Audience;
use simtide_platform::campaign::{Campaign, CampaignState, Settings};
use simtide_platform::card::{Applied, CardState, CardView, Tags};
use simtide_platform::content::Content;
use simtide_platform::poll::{
    CampaignOutcome, CardRow, CardRowStatus, Command, Dialogue, Event, Opened, Outcome, PollRecord,
    StartedCampaign, offer,
};
use simtide_protocol::ids::EpochMs;
use simtide_protocol::patch;
use simtide_protocol::poll_date;
use simtide_protocol::profile::Profile;
use simtide_protocol::scp81::{Framing, Limits, RequestDecoder, Response, ScriptStatus};
use simtide_protocol::tlv::{find_comprehension, push_comprehension};

const NOW: EpochMs = EpochMs::from_seconds(1_800_000_000);
const CAMPAIGN: u32 = 77;
const NUMBER: u32 = 5;

/// Plain text where TLS would be: the machines above do not see the difference.
#[derive(Default)]
struct Plain {
    to_peer: Vec<u8>,
    from_peer: Vec<u8>,
}

impl SecureChannel for Plain {
    fn from_peer(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        self.from_peer.extend_from_slice(bytes);
        Ok(())
    }
    fn to_peer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.to_peer)
    }
    fn read(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.from_peer)
    }
    fn write(&mut self, plaintext: &[u8]) -> Result<(), ChannelError> {
        self.to_peer.extend_from_slice(plaintext);
        Ok(())
    }
    fn is_established(&self) -> bool {
        true
    }
}

struct PlainChannels;

impl SecureChannels for PlainChannels {
    fn open(&self, _: &[u8], _: &[u8]) -> Result<Box<dyn SecureChannel>, ChannelError> {
        Ok(Box::new(Plain::default()))
    }
}

/// What breaks, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The power goes before this command (from 0) reaches the card.
    Before(usize),
    /// The card works, but the power goes before it has stored anything of this command.
    NotStored(usize),
    /// The card has stored everything, but the device does not hear of it.
    NotHeard(usize),
    /// The server dies before this commit (from 0).
    BeforeCommit(usize),
    /// The server dies after this commit.
    AfterCommit(usize),
}

/// What the platform has stored.
#[derive(Default)]
struct Stored {
    applied: Applied,
    begun: BTreeMap<u32, u8>,
    closed: BTreeMap<u32, Outcome>,
    seen: bool,
    next_poll: Option<EpochMs>,
}

impl Stored {
    fn commit(&mut self, record: PollRecord) {
        self.seen = true;
        self.next_poll = record.begun.or(self.next_poll);
        for attempt in record.attempts {
            self.begun.insert(attempt.campaign, attempt.step);
        }
        for CampaignOutcome { campaign, number, outcome } in record.outcomes {
            self.begun.remove(&campaign);
            match outcome {
                Outcome::Done(None) => assert!(self.applied.mark(number)),
                other => assert_eq!(self.closed.insert(campaign, other), None),
            }
        }
    }

    fn rows(&self) -> Vec<CardRow> {
        let begun =
            self.begun.iter().map(|(campaign, step)| (*campaign, CardRowStatus::Begun { step: *step }));
        let closed = self.closed.keys().map(|campaign| (*campaign, CardRowStatus::Closed));
        begun.chain(closed).map(|(campaign, status)| CardRow { campaign, status }).collect()
    }
}

/// Card, device and server.
struct World {
    profile: Arc<Profile>,
    card: Card,
    journal: Vec<u8>,
    campaigns: Vec<StartedCampaign>,
    stored: Stored,
    fault: Fault,
    commands: usize,
    commits: usize,
    session: Option<Dialogue>,
    decoder: RequestDecoder,
    /// Bytes on their way to the card, in the device.
    waiting: Vec<u8>,
    linked: bool,
    /// What the card believes of its channel.
    open: bool,
    /// Seconds of the card's timer.
    timer_s: Option<u32>,
    now: EpochMs,
    sessions: usize,
}

/// The power went: nothing more comes of this session of the device.
struct PowerCut;

impl World {
    fn new(fault: Fault, code_bytes: usize) -> Self {
        let profile = Arc::new(Profile::standard());
        let mut card = Card::personalised(profile.clone(), &of_test_card(&profile));
        let journal = card.take_changes().unwrap();
        Self {
            card,
            journal,
            campaigns: vec![campaign(&profile, code_bytes)],
            profile,
            stored: Stored::default(),
            fault,
            commands: 0,
            commits: 0,
            session: None,
            decoder: RequestDecoder::new(Limits::default()),
            waiting: Vec::new(),
            linked: false,
            open: false,
            timer_s: None,
            now: NOW,
            sessions: 0,
        }
    }

    /// One command for the card, with what breaks on the way.
    fn send(&mut self, command: &[u8]) -> Result<(Vec<u8>, u16), PowerCut> {
        let number = self.commands;
        self.commands += 1;
        if self.fault == Fault::Before(number) {
            return Err(self.cut());
        }
        let mut random = |buffer: &mut [u8]| buffer.fill(7);
        let mut environment = Environment { channels: &PlainChannels, random: &mut random };
        let mut answer = self.card.transmit(&mut environment, command);
        if self.fault == Fault::NotStored(number) {
            return Err(self.cut());
        }
        self.journal.extend(self.card.take_changes().unwrap_or_default());
        if self.fault == Fault::NotHeard(number) {
            return Err(self.cut());
        }
        let status = answer.split_off(answer.len() - 2);
        Ok((answer, u16::from_be_bytes([status[0], status[1]])))
    }

    fn cut(&mut self) -> PowerCut {
        self.fault = Fault::None;
        self.card = Card::restore(self.profile.clone(), &self.journal).unwrap();
        self.unlink();
        PowerCut
    }

    /// The connection is gone; the server notices, unless it died itself.
    fn unlink(&mut self) {
        self.linked = false;
        self.waiting.clear();
        if let Some(mut session) = self.session.take()
            && let Some(Command::Commit(record)) = session.handle(Event::Broken)
        {
            self.stored.commit(record);
        }
    }

    fn reset(&mut self) {
        self.open = false;
        self.timer_s = None;
        let mut random = |buffer: &mut [u8]| buffer.fill(7);
        self.card.reset(&mut Environment { channels: &PlainChannels, random: &mut random });
    }

    /// Switches the device on and lets it work until nothing is left to do.
    fn power_on(&mut self) -> Result<(), PowerCut> {
        self.reset();
        let (_, mut status) = self.send(&[0x80, 0x10, 0x00, 0x00, 0x04, 0xFF, 0xFF, 0xFF, 0xFF])?;
        for _ in 0..1_000 {
            status = match status >> 8 {
                0x91 => self.proactive(status as u8)?,
                _ if self.linked && !self.waiting.is_empty() => {
                    let length = self.waiting.len().min(255) as u8;
                    self.envelope(0xD6, &[(0x19, &[0x09]), (0x38, &[0x81, 0x00]), (0x37, &[length])])?
                }
                // The server is gone: the device has lost the channel.
                _ if !self.linked && self.open => {
                    self.open = false;
                    self.envelope(0xD6, &[(0x19, &[0x0A]), (0x38, &[0x01, 0x05])])?
                }
                _ if !self.linked && !self.is_settled() && self.timer_s.is_some() => {
                    let timer_s = self.timer_s.take().unwrap();
                    self.now = self.now.plus_s(timer_s.into());
                    self.envelope(0xD7, &[(0x24, &[0x01]), (0x25, &[0, 0, 0])])?
                }
                _ => return Ok(()),
            };
        }
        panic!("the card never rests");
    }

    /// Whether the platform knows how the campaign has ended.
    fn is_settled(&self) -> bool {
        self.stored.applied.has(NUMBER) || !self.stored.closed.is_empty()
    }

    fn envelope(&mut self, tag: u8, objects: &[(u16, &[u8])]) -> Result<u16, PowerCut> {
        let mut body = Vec::new();
        push_comprehension(&mut body, 0x02, true, &[0x82, 0x81]);
        objects.iter().for_each(|(tag, value)| push_comprehension(&mut body, *tag, true, value));
        let data = [&[tag, body.len() as u8][..], &body].concat();
        let command = [&[0x80, 0xC2, 0x00, 0x00, data.len() as u8][..], &data].concat();
        Ok(self.send(&command)?.1)
    }

    /// Fetches a command, does it, answers it.
    fn proactive(&mut self, length: u8) -> Result<u16, PowerCut> {
        let (fetched, status) = self.send(&[0x80, 0x12, 0x00, 0x00, length])?;
        assert_eq!(status, 0x9000);
        // D0, length in one byte or two.
        let body = if fetched[1] == 0x81 { &fetched[3..] } else { &fetched[2..] };
        let &[number, kind, qualifier] = find_comprehension(body, 0x01).unwrap() else { panic!() };
        let mut objects: Vec<(u16, Vec<u8>)> = Vec::new();
        match kind {
            0x26 => {
                let (year, month, day, hour, minute, second) = self.now.civil();
                let swapped = |number: u8| ((number % 10) << 4) | (number / 10);
                let time = [(year - 2000) as u8, month, day, hour, minute, second].map(swapped);
                objects.push((0x26, [&time[..], &[0]].concat()));
            }
            0x27 => {
                let value = find_comprehension(body, 0x25).unwrap();
                let number = |byte: u8| u32::from(byte & 0x0F) * 10 + u32::from(byte >> 4);
                self.timer_s = Some(number(value[0]) * 3_600 + number(value[1]) * 60 + number(value[2]));
            }
            0x40 => {
                self.linked = true;
                self.open = true;
                self.sessions += 1;
                self.decoder = RequestDecoder::new(Limits::default());
                objects.push((0x38, vec![0x81, 0x00]));
            }
            0x43 => {
                let data = find_comprehension(body, 0x36).unwrap().to_vec();
                self.serve(&data);
                objects.push((0x37, vec![0xFF]));
            }
            0x42 => {
                let wanted = usize::from(find_comprehension(body, 0x37).unwrap()[0]);
                let rest = self.waiting.split_off(self.waiting.len().min(wanted));
                objects.push((0x36, std::mem::replace(&mut self.waiting, rest)));
                objects.push((0x37, vec![self.waiting.len().min(255) as u8]));
            }
            0x41 => {
                self.open = false;
                self.unlink();
            }
            _ => (),
        }
        let mut response = Vec::new();
        push_comprehension(&mut response, 0x01, true, &[number, kind, qualifier]);
        push_comprehension(&mut response, 0x02, true, &[0x82, 0x81]);
        push_comprehension(&mut response, 0x03, true, &[0x00]);
        objects.iter().for_each(|(tag, value)| push_comprehension(&mut response, *tag, true, value));
        let command = [&[0x80, 0x14, 0x00, 0x00, response.len() as u8][..], &response].concat();
        Ok(self.send(&command)?.1)
    }

    /// The server's side of the connection.
    fn serve(&mut self, data: &[u8]) {
        if !self.linked {
            return;
        }
        let Some(request) = self.decoder.receive(data).unwrap() else { return };
        let mut command = match &mut self.session {
            Some(session) => {
                let status = request.script_status.unwrap_or(ScriptStatus::Ok);
                session.handle(Event::Scripted { status, body: request.body })
            }
            None => Some(self.open(request.resume)),
        };
        while let Some(next) = command {
            let answer = match next {
                Command::Commit(record) => {
                    let number = self.commits;
                    self.commits += 1;
                    if self.fault == Fault::BeforeCommit(number) {
                        return self.die();
                    }
                    self.stored.commit(record);
                    if self.fault == Fault::AfterCommit(number) {
                        return self.die();
                    }
                    command = self.session.as_mut().and_then(|session| session.handle(Event::Committed));
                    continue;
                }
                Command::Send(script) => {
                    let next = "/poll".parse().unwrap();
                    Response::script(next, Some(script.application), script.content_type, script.body)
                }
                Command::Finish => Response::end(),
            };
            self.waiting.extend(answer.encode(Framing::ContentLength));
            return;
        }
    }

    fn open(&mut self, resume: bool) -> Command {
        let view = CardView {
            id: self.card.id().unwrap(),
            operator: 1,
            profile: "standard",
            kind: "",
            tags: Tags { bits: 0, names: &[] },
            iccid: None,
            imsi: None,
            last_update: None,
            next_poll: NOW,
            applied: self.stored.applied,
            state: CardState::Active,
        };
        let opened = Opened {
            offer: offer(&view, 1, &self.campaigns, &self.stored.rows()),
            profile: self.profile.clone(),
            now: self.now,
            planned: self.stored.next_poll.filter(|_| self.stored.seen),
            next_poll: poll_date::following(NOW, self.profile.poll.period_s, self.now),
            clock_tolerance_s: 60,
            resume,
        };
        let (dialogue, command) = Dialogue::open(opened);
        self.session = Some(dialogue);
        command
    }

    /// Killed: what is in memory is gone, what is stored stays.
    fn die(&mut self) {
        self.fault = Fault::None;
        self.session = None;
        self.linked = false;
        self.waiting.clear();
    }

    /// What is on the card: the counter, completed loads, committed patches.
    fn effects(&mut self) -> [u32; 3] {
        self.reset();
        self.fault = Fault::None;
        let mut read = |command: &str| {
            let Ok((data, status)) = self.send(&hex::decode(command).unwrap()) else { panic!() };
            assert!(matches!(status >> 8, 0x90 | 0x91), "{command}: {status:04X}");
            data
        };
        // A logical channel of its own, so that the device is not disturbed.
        read("0070000101");
        read("01A4080C047F906F03");
        let counter = read("01B2010404");
        read("01A4040C08A000000151000000");
        let loads = read("81CADF5300");
        read("01A4040C08A000000559101004");
        let patches = read("81CADF5200");
        let last = |data: &[u8]| u32::from(*data.last().unwrap());
        [last(&counter), last(&loads), last(&patches)]
    }
}

/// A counter is increased, an applet installed, the operating system patched.
fn campaign(profile: &Profile, code_bytes: usize) -> StartedCampaign {
    let image = vec![0x5A; 600];
    let patch = patch::commands(0x0200, &image, &openssl::sha::sha256(&image)).unwrap();
    let patch: Vec<_> = patch.iter().map(|command| format!("\"{}\"", hex::encode(command))).collect();
    let json = format!(
        r#"{{"variants": {{"*": [
            {{"do": {{"script": {{"commands": ["00A4080C047F906F03", "8032000003000001 00"]}}}}, "tar": "B00000"}},
            {{"do": {{"applet_install": {{"load_file": "A0000000010203", "module": "A000000001020301",
                     "instance": "A000000001020302", "code": "{}"}}}}}},
            {{"do": {{"os_patch": {{"commands": [{}]}}}}}}
        ]}}}}"#,
        "00".repeat(code_bytes),
        patch.join(",")
    );
    let content: Content = serde_json::from_str(&json).unwrap();
    content.check(&[profile]).unwrap();
    let row = Campaign {
        id: CAMPAIGN,
        number: Some(NUMBER),
        tenant: 1,
        name: String::new(),
        audience: Audience::Everyone,
        settings: Settings::default(),
        state: CampaignState::Running,
    };
    StartedCampaign::new(&row, NUMBER, &content, &[profile]).unwrap()
}

/// Runs until the campaign has ended on the card; how it ended, and what is on the card.
fn run(fault: Fault, code_bytes: usize) -> (Option<Outcome>, [u32; 3], World) {
    let mut world = World::new(fault, code_bytes);
    // Once for the start, once after the power has gone.
    for _ in 0..2 {
        if !world.is_settled() {
            let _ = world.power_on();
        }
    }
    let outcome = world.stored.closed.get(&CAMPAIGN).copied();
    assert!(outcome.is_some() || world.stored.applied.has(NUMBER), "{fault:?}: the card was not reached");
    let effects = world.effects();
    (outcome, effects, world)
}

#[test]
fn without_faults_everything_happens_once() {
    let (outcome, effects, world) = run(Fault::None, 600);
    assert_eq!((outcome, effects, world.sessions), (None, [1, 1, 1], 1));
}

/// Breaks everything that can break, every `step`th time; how often the campaign was done and interrupted.
fn break_everything(code_bytes: usize, step: usize) -> (usize, usize) {
    let (_, _, whole) = run(Fault::None, code_bytes);
    let (commands, commits) = (whole.commands, whole.commits);
    assert!(commands > 60 && commits >= 4, "{commands} commands, {commits} commits");
    let at_commands = (0..commands)
        .step_by(step)
        .flat_map(|at| [Fault::Before(at), Fault::NotStored(at), Fault::NotHeard(at)]);
    let at_commits = (0..commits).flat_map(|at| [Fault::BeforeCommit(at), Fault::AfterCommit(at)]);
    let (mut done, mut interrupted) = (0, 0);
    for fault in at_commands.chain(at_commits) {
        let (outcome, effects, _) = run(fault, code_bytes);
        assert!(effects.iter().all(|effect| *effect <= 1), "{fault:?}: {effects:?}");
        match outcome {
            None => {
                assert_eq!(effects, [1, 1, 1], "{fault:?}");
                done += 1;
            }
            Some(Outcome::Interrupted { step }) => {
                // The steps before were done, those after were not begun.
                let step = usize::from(step);
                assert!(effects[..step].iter().all(|effect| *effect == 1), "{fault:?}: {effects:?}");
                assert!(effects[step + 1..].iter().all(|effect| *effect == 0), "{fault:?}: {effects:?}");
                interrupted += 1;
            }
            Some(other) => panic!("{fault:?}: {other:?}"),
        }
    }
    (done, interrupted)
}

#[test]
fn whatever_breaks_nothing_happens_twice() {
    // Every script is one command for the card, which stores all of it or nothing.
    let (done, interrupted) = break_everything(600, 1);
    assert!(done > 200 && interrupted == 0, "{done} done, {interrupted} interrupted");
}

#[test]
fn content_of_several_scripts_can_be_interrupted_and_is_never_run_again_by_itself() {
    let (done, interrupted) = break_everything(20_000, 7);
    assert!(done > 0 && interrupted > 0, "{done} done, {interrupted} interrupted");
}
