//! Sessions of cards: from the PSK identity to the last commit.
//!
//! What a card gets and in which order things become durable is decided by [`Dialogue`]; here its commands are
//! carried out.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use simtide_platform::delivery::Evidence;
use simtide_platform::poll::{
    CampaignOutcome, CardRow, CardRowStatus, Command, Dialogue, Event, Opened, PollRecord, offer,
};
use simtide_platform::poll::{Outcome as CampaignResult, Script};
use simtide_protocol::ids::{CardId, EpochMs};
use simtide_protocol::scp81::{Request, RequestTarget, Response, ScriptStatus};
use tokio::sync::Notify;

use super::campaigns::Campaigns;
use super::core::Core;
use super::delivery::{Deliveries, Polling};
use super::flight::Flight;
use super::lookup;
use super::planning::Results;
use super::subscription::{Carries, Changes};
use super::tide::Tide;
use crate::card_port::{self, Answer, Busy, CardSession, Ended};
use crate::store::{
    CampaignId, Card, Cause, Exception, ExceptionChange, ExceptionStatus, HistoryLine, HistoryResult, Op,
    Origin, Packet, PacketChange, PacketState, PollDone, Progress, StoreError,
};

/// By how much a card's clock may differ from ours, in seconds, beside the time that a session takes.
const CLOCK_TOLERANCE_S: f64 = 300.0;
/// Real seconds that a session usually takes at most.
const SESSION_S: f64 = 2.0;
/// How long a card that comes back waits for the end of the session that it has left.
const SUPERSEDE_WAIT: Duration = Duration::from_secs(5);

/// The decisions behind the card port.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

/// What sessions share.
pub struct Inner {
    /// Shared by all loops.
    pub core: Arc<Core>,
    /// What may be offered.
    pub campaigns: Arc<Campaigns>,
    /// Triggers that a session answers.
    pub flight: Arc<Flight>,
    /// What polls carry beside campaigns, and what they must leave alone.
    pub deliveries: Arc<Deliveries>,
    /// What a poll carries at its end.
    pub changes: Arc<Changes>,
    /// Dates.
    pub tide: Arc<Tide>,
    /// For the thresholds of campaigns.
    pub results: Arc<Results>,
    /// Cards in a session: one at a time.
    pub open: Mutex<HashMap<CardId, Arc<Turn>>>,
}

/// What an open session and the one that waits for its end tell each other.
#[derive(Debug, Default)]
pub struct Turn {
    /// The card has come back by another connection.
    superseded: Notify,
    /// The session is over.
    left: Notify,
}

impl Sessions {
    /// The decisions of one card port.
    pub fn new(inner: Inner) -> Sessions {
        let inner = Arc::new(inner);
        let watched = Arc::downgrade(&inner);
        inner.deliveries.sessions_are(Box::new(move |card| {
            watched.upgrade().is_some_and(|inner| {
                inner.open.lock().unwrap_or_else(PoisonError::into_inner).contains_key(card)
            })
        }));
        Sessions(inner)
    }
}

impl card_port::Sessions for Sessions {
    type Session = Session;

    async fn find(&self, identity: Vec<u8>) -> Option<card_port::Found> {
        match lookup::find(&self.0.core, identity).await {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "a card's key cannot be looked up");
                None
            }
        }
    }

    async fn open(&self, card: CardId) -> Result<Session, Busy> {
        let place = tokio::time::timeout(SUPERSEDE_WAIT, self.place(card)).await.map_err(|_| Busy)?;
        Ok(Session { place, visit: None })
    }
}

impl Sessions {
    /// Takes the card's place; ends the session that holds it and waits until it has let go.
    async fn place(&self, card: CardId) -> Place {
        loop {
            let turn = {
                let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
                match open.get(&card) {
                    Some(turn) => turn.clone(),
                    None => {
                        let turn = Arc::new(Turn::default());
                        open.insert(card, turn.clone());
                        return Place { inner: self.0.clone(), card, turn };
                    }
                }
            };
            tracing::debug!(%card, "a card has come back: its session before ends");
            turn.superseded.notify_one();
            // Both keep a notification that nobody waits for yet.
            turn.left.notified().await;
        }
    }
}

/// A card's place in the set of open sessions, given back when dropped.
struct Place {
    inner: Arc<Inner>,
    card: CardId,
    turn: Arc<Turn>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inner.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.card);
        self.turn.left.notify_one();
    }
}

/// One session of one card.
pub struct Session {
    place: Place,
    visit: Option<Box<Visit>>,
}

/// What a session knows once its first request is there.
struct Visit {
    dialogue: Dialogue,
    cause: Cause,
    /// Campaigns whose triggers this session answers.
    called_by: Vec<CampaignId>,
    /// Open triggers of the card. With the first commit those that have left are proven by this session, and the
    /// others, for which it came too early, are given up.
    triggers: Vec<Packet>,
    steps: u32,
    /// Deliveries that it carries.
    polling: Polling,
    /// What it carries at its end for the card's change of operator, until the answer.
    carries: Option<Carries>,
}

impl CardSession for Session {
    async fn request(&mut self, request: Request) -> Answer {
        match Box::pin(self.answer(request)).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(%error, "a session ends: the store did not serve it");
                Answer::Finish(Response::refusal(503))
            }
        }
    }

    async fn superseded(&mut self) {
        self.place.turn.superseded.notified().await;
    }

    async fn ended(mut self, _how: Ended) {
        if let Err(error) = self.break_off().await {
            tracing::error!(%error, "the end of a session was not stored");
        }
    }
}

impl Session {
    /// The dialogue under way, if there is one, has come to nothing.
    async fn break_off(&mut self) -> Result<(), StoreError> {
        let Some(mut visit) = self.visit.take() else { return Ok(()) };
        if let Some(Command::Commit(record)) = visit.dialogue.handle(Event::Broken) {
            commit(&self.place, &mut visit, record).await?;
        }
        if let Some(carries) = visit.carries.take() {
            self.place.inner.changes.poll_said(self.place.card, carries, None).await?;
        }
        let polling = std::mem::take(&mut visit.polling);
        self.place.inner.deliveries.poll_ended(self.place.card, polling).await
    }

    async fn answer(&mut self, request: Request) -> Result<Answer, StoreError> {
        if self.visit.is_some() && request.script_status.is_none() {
            // No word on the script that it was given: the card has begun anew on its connection.
            self.break_off().await?;
        }
        let (visit, mut command) = match &mut self.visit {
            None => {
                let Some((visit, command)) = begin(&self.place, request.resume).await? else {
                    return Ok(Answer::Finish(Response::refusal(403)));
                };
                (&mut **self.visit.insert(Box::new(visit)), Some(command))
            }
            Some(visit) => {
                let status = request.script_status.unwrap_or(ScriptStatus::Ok);
                if let Some(carries) = visit.carries.take() {
                    let answer = Some((status, request.body));
                    self.place.inner.changes.poll_said(self.place.card, carries, answer).await?;
                    return Ok(Answer::Finish(Response::end()));
                }
                let command = visit.dialogue.handle(Event::Scripted { status, body: request.body });
                (&mut **visit, command)
            }
        };
        loop {
            command = match command {
                Some(Command::Commit(record)) => {
                    commit(&self.place, visit, record).await?;
                    visit.dialogue.handle(Event::Committed)
                }
                Some(Command::Send(script)) => {
                    visit.steps += 1;
                    return Ok(Answer::Continue(response(script, visit.steps)));
                }
                Some(Command::Finish) | None => {
                    let card = self.place.card;
                    let Some((carries, script)) = self.place.inner.changes.poll_carries(card).await? else {
                        return Ok(Answer::Finish(Response::end()));
                    };
                    visit.carries = Some(carries);
                    visit.steps += 1;
                    return Ok(Answer::Continue(response(script, visit.steps)));
                }
            };
        }
    }
}

/// The address of the answer tells the step, for those who read a capture; the session itself is the connection.
fn response(script: Script, step: u32) -> Response {
    let next = format!("/poll?step={step}").parse().unwrap_or_else(|_| RequestTarget::root());
    Response::script(next, Some(script.application), script.content_type, script.body)
}

/// Reads what the card is, and asks what it gets. `None`: it is retired or unknown by now.
async fn begin(place: &Place, resume: bool) -> Result<Option<(Visit, Command)>, StoreError> {
    let Inner { core, campaigns, tide, .. } = &*place.inner;
    let Some(card) = core.store.card(place.card).await? else { return Ok(None) };
    let catalogue = core.catalogue();
    let Some(profile) = catalogue.profile(card.hot.profile) else {
        tracing::error!("a card is refused: its profile is not known; add it");
        return Ok(None);
    };
    if card.hot.state == simtide_platform::card::CardState::Retired {
        return Ok(None);
    }
    let now = core.now();
    let triggers: Vec<Packet> = core
        .store
        .open_packets(place.card)
        .await?
        .into_iter()
        .filter(|packet| matches!(packet.origin, Origin::Trigger(_)))
        .collect();
    let next_poll = tide.give_date(&place.card, &card.hot, profile.poll.period_s, now);
    let started = campaigns.started();
    let rows = rows(&card);
    let view = catalogue.view_of(&card);
    let offers = started.iter().map(|campaign| &campaign.offered);
    let mut offered = offer(&view, card.record.tenant.0, offers, &rows);
    let polling = place.inner.deliveries.poll_begins(&card, &rows, &mut offered).await?;
    let opened = Opened {
        offer: offered,
        profile: profile.clone(),
        now,
        planned: card.hot.last_update.is_some().then_some(card.hot.next_poll),
        next_poll,
        clock_tolerance_s: (SESSION_S * core.clock.rate).max(CLOCK_TOLERANCE_S) as u32,
        resume,
    };
    let (dialogue, command) = Dialogue::open(opened);
    let sent = || triggers.iter().filter(|packet| has_left(packet));
    let cause = sent().next_back().map_or(Cause::Own, |packet| Cause::Trigger {
        key_set: packet.key.key_set,
        counter: packet.key.counter,
    });
    let called_by = sent()
        .filter_map(|packet| match packet.origin {
            Origin::Trigger(campaign) => Some(campaign),
            _ => None,
        })
        .collect();
    Ok(Some((Visit { dialogue, cause, called_by, triggers, steps: 0, polling, carries: None }, command)))
}

/// Whether the card can have come because of this trigger.
fn has_left(trigger: &Packet) -> bool {
    trigger.state != PacketState::Queued
}

/// What is written about a card and single campaigns, as decisions want it.
pub fn rows(card: &Card) -> Vec<CardRow> {
    let status = |exception: &Exception| match exception.status {
        ExceptionStatus::Begun => Some(CardRowStatus::Begun { step: exception.step }),
        ExceptionStatus::Failed | ExceptionStatus::Interrupted | ExceptionStatus::OptedOut => {
            Some(CardRowStatus::Closed)
        }
        ExceptionStatus::Listed | ExceptionStatus::Retry => None,
    };
    let row = |exception: &Exception| {
        status(exception).map(|status| CardRow { campaign: exception.campaign.0, status })
    };
    card.exceptions.iter().filter_map(row).collect()
}

/// Makes a record durable, in one commit, and tells those who count.
async fn commit(place: &Place, visit: &mut Visit, record: PollRecord) -> Result<(), StoreError> {
    let Inner { core, campaigns, flight, results, .. } = &*place.inner;
    let now = core.now();
    let mut ops = Vec::new();
    if let Some(next_poll) = record.begun {
        ops.push(Op::PollBegun { card: place.card, at: now, next_poll });
        ops.extend(visit.triggers.iter().map(|packet| {
            Op::Packet(PacketChange {
                key: packet.key,
                state: if has_left(packet) { PacketState::Proven(0) } else { PacketState::Abandoned },
                message_ids: Vec::new(),
                deadline: None,
            })
        }));
    }
    for attempt in &record.attempts {
        let campaign = CampaignId(attempt.campaign);
        ops.push(Op::Attempt { card: place.card, campaign, step: attempt.step, at: now });
    }
    let broken = record.ended.as_ref().is_some_and(|ended| ended.broken);
    if !record.outcomes.is_empty() || record.ended.is_some() {
        ops.push(Op::PollDone(Box::new(done(place, visit, &record, now))));
    }
    core.commit_card(&place.card, ops).await?;
    if record.begun.is_some() {
        let was_called = visit.triggers.iter().any(has_left);
        let counter = if was_called { &flight.arrived } else { &flight.polled };
        counter.fetch_add(1, Ordering::Relaxed);
        for packet in visit.triggers.drain(..) {
            // The row says so already.
            let evidence = if has_left(&packet) { Evidence::Called } else { Evidence::Abandon };
            flight.evidence(packet.key, now, evidence);
        }
    }
    for CampaignOutcome { campaign, outcome, .. } in &record.outcomes {
        place.inner.deliveries.poll_told(place.card, &mut visit.polling, *campaign, *outcome).await?;
        if Deliveries::is_delivery(*campaign) {
            continue;
        }
        let success = matches!(outcome, CampaignResult::Done(_));
        if matches!(outcome, CampaignResult::Nothing) {
            continue;
        }
        results.add(*campaign, success);
        if !success && let Some(campaign) = campaigns.find(*campaign) {
            campaign.exclude(place.card);
        }
    }
    if broken && visit.steps > 0 {
        tracing::debug!(card = %place.card, "a session broke under way");
    }
    Ok(())
}

fn done(place: &Place, visit: &Visit, record: &PollRecord, now: EpochMs) -> PollDone {
    let ended = record.ended.as_ref();
    let mut done = PollDone {
        card: place.card,
        applied: Vec::new(),
        settled: ended.map_or(0, |ended| ended.settled),
        next_poll: ended.and_then(|ended| ended.next_poll),
        packets: Vec::new(),
        exceptions: Vec::new(),
        history: Vec::new(),
        progress: Vec::new(),
    };
    for outcome in &record.outcomes {
        note(&mut done, place.card, visit, *outcome, now);
    }
    if ended.is_some_and(|ended| ended.broken) && visit.steps > 0 {
        let detail = format!("after {} scripts", visit.steps);
        let result = HistoryResult::Broken;
        done.history.push(HistoryLine { at: now, cause: visit.cause, campaign: None, result, detail });
    } else if ended.is_some_and(|ended| !ended.broken) && done.history.is_empty() {
        // A contact without work is a contact all the same: the tide is read from the history.
        let (result, detail) = (HistoryResult::Nothing, String::new());
        done.history.push(HistoryLine { at: now, cause: visit.cause, campaign: None, result, detail });
    }
    done
}

/// What became of one campaign, in all rows that it concerns.
fn note(done: &mut PollDone, card: CardId, visit: &Visit, outcome: CampaignOutcome, now: EpochMs) {
    let campaign = CampaignId(outcome.campaign);
    let mut progress = Progress::default();
    let closed = |status, step| {
        ExceptionChange::Put(Exception { campaign, card, status, attempts: 0, step, retry_at: None })
    };
    if Deliveries::is_delivery(outcome.campaign) {
        let (result, detail) = match outcome.outcome {
            CampaignResult::Done(_) | CampaignResult::Nothing => (HistoryResult::Done, "delivery".to_owned()),
            CampaignResult::Failed(failure, _) => {
                (HistoryResult::Failed(failure.status_word().0), format!("delivery: {failure}"))
            }
            CampaignResult::Interrupted { .. } => (HistoryResult::Interrupted, "delivery".to_owned()),
        };
        done.history.push(HistoryLine { at: now, cause: visit.cause, campaign: None, result, detail });
        return;
    }
    let (result, detail) = match outcome.outcome {
        CampaignResult::Done(let_go) => {
            done.applied.push(outcome.number);
            done.exceptions.push(ExceptionChange::Remove { campaign, card });
            match visit.called_by.contains(&campaign) {
                true => progress.done_by_trigger = 1,
                false => progress.done_by_poll = 1,
            }
            (HistoryResult::Done, let_go.map_or(String::new(), |failure| format!("went on after {failure}")))
        }
        CampaignResult::Failed(failure, undone) => {
            progress.failed = 1;
            done.exceptions.push(closed(ExceptionStatus::Failed, failure.step));
            let undone = match undone {
                Some(true) => "; undone",
                Some(false) => "; the undo script failed",
                None => "",
            };
            let word = failure.status_word();
            (HistoryResult::Failed(word.0), format!("{failure}{undone}"))
        }
        CampaignResult::Interrupted { step } => {
            progress.interrupted = 1;
            done.exceptions.push(closed(ExceptionStatus::Interrupted, step));
            (HistoryResult::Interrupted, format!("step {} began and did not end", step + 1))
        }
        CampaignResult::Nothing => {
            done.applied.push(outcome.number);
            return;
        }
    };
    done.progress.push((campaign, progress));
    done.history.push(HistoryLine { at: now, cause: visit.cause, campaign: Some(campaign), result, detail });
}
