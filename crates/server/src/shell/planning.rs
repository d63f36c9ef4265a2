//! The planner's loop: ticks, pages and wishes in; pages asked for, triggers committed and sent.
//!
//! One loop, with written priorities: first the end of the platform, then what users want, then what the store has
//! answered, then the tick. Triggers are committed within the loop, so that they leave in the promised order.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use simtide_platform::campaign::{
    CampaignState, Candidate, Command, Cursor, Event, Input, Lane, Order, Verb,
};
use simtide_platform::flow::Load;
use simtide_platform::trace::Recorder;
use simtide_protocol::ids::CardId;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::campaigns::{Campaigns, Started};
use super::core::Core;
use super::flight::Flight;
use super::sending::Outbox;
use super::tide::Tide;
use super::triggering::{self, Commanded, Left};
use crate::card_port::CardPort;
use crate::store::{self, CandidateQuery, OperatorId, Position, StoreError};

/// Wishes that wait for the planner.
pub const WISHES_MAX: usize = 256;
/// Pages that have been read and wait for the planner.
const PAGES_MAX: usize = 1_024;

/// What a user wants of a campaign, or what an earlier process left.
#[derive(Debug)]
pub struct Wish {
    /// Which.
    pub campaign: u32,
    /// What.
    pub verb: Verb<CardId>,
}

/// Results of dialogues since the last tick, by campaign: done and failed.
#[derive(Debug, Default)]
pub struct Results(Mutex<HashMap<u32, (u32, u32)>>);

impl Results {
    /// A dialogue has ended for a campaign.
    pub fn add(&self, campaign: u32, done: bool) {
        let mut results = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (dones, failures) = results.entry(campaign).or_default();
        *if done { dones } else { failures } += 1;
    }

    fn take(&self) -> HashMap<u32, (u32, u32)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the loop works with.
pub struct Planning {
    /// Shared.
    pub core: Arc<Core>,
    /// Rows of campaigns.
    pub campaigns: Arc<Campaigns>,
    /// Packets under way.
    pub flight: Arc<Flight>,
    /// Where triggers go.
    pub outbox: Outbox,
    /// Expected polls.
    pub tide: Arc<Tide>,
    /// Results of dialogues.
    pub results: Arc<Results>,
    /// Open sessions and refusals.
    pub port: Arc<CardPort>,
    /// Where events are recorded.
    pub trace: Option<Trace>,
}

/// Where events are recorded.
pub type Trace = Box<dyn Write + Send + Sync>;

/// The answer to a page that was asked for.
type Page = Event<CardId>;

impl Planning {
    /// Runs until `stop` says so.
    pub async fn run(mut self, mut wishes: mpsc::Receiver<Wish>, mut stop: watch::Receiver<bool>) {
        let config = &self.core.config;
        let (recorder, header) = Recorder::new(config.flow.settings(config.card_port.sessions_max));
        let mut planner = recorder;
        record(&mut self.trace, &header);
        let tick_ms = i64::from(config.flow.tick_ms);
        let mut ticks = tokio::time::interval(self.core.clock.real(tick_ms).max(TICK_MIN));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (answer, mut answers) = mpsc::channel::<Page>(PAGES_MAX);
        let mut refused_before = 0;
        loop {
            let inputs = tokio::select! {
                biased;
                () = stopped(&mut stop) => break,
                Some(Wish { campaign, verb }) = wishes.recv() => {
                    vec![Input::Event(Event::Verb { campaign, verb })]
                }
                Some(page) = answers.recv() => vec![Input::Event(page)],
                _ = ticks.tick() => self.tick(tick_ms, &mut refused_before).await,
            };
            for input in inputs {
                if let Err(error) = self.handle(&mut planner, input, &answer).await {
                    tracing::error!(%error, "the planner could not do what it decided");
                }
            }
        }
        if let Some(trace) = &mut self.trace {
            let _ = trace.flush();
        }
    }

    /// Results since the last tick, then the tick itself.
    async fn tick(&mut self, tick_ms: i64, refused_before: &mut u64) -> Vec<Input<CardId>> {
        self.outbox.expire().await;
        let now = self.core.now();
        let refused = self.port.counters().refused.load(std::sync::atomic::Ordering::Relaxed);
        let fresh = u32::try_from(refused - *refused_before).unwrap_or(u32::MAX);
        *refused_before = refused;
        let results = self
            .results
            .take()
            .into_iter()
            .map(|(campaign, (done, failed))| Input::Event(Event::Results { campaign, done, failed }));
        let load = Load {
            open: self.port.open(),
            polls_due_per_day: self.tide.due_per_day(now, tick_ms),
            in_flight: self.flight.in_flight(),
            seen: self.flight.seen(fresh),
        };
        results.chain([Input::Tick(load)]).collect()
    }

    /// One input, and all that follows from it.
    async fn handle(
        &mut self,
        planner: &mut Recorder<CardId>,
        input: Input<CardId>,
        answer: &mpsc::Sender<Page>,
    ) -> Result<(), StoreError> {
        let mut inputs = std::collections::VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let line = planner.handle(self.core.now(), input);
            record(&mut self.trace, &line);
            let mut triggers = Vec::new();
            let mut to_save = BTreeSet::new();
            for command in line.commands {
                match command {
                    Command::NextPage { campaign, generation, lane, order, below, rows } => {
                        self.ask(answer, Asked { campaign, generation, lane, order, below, rows });
                    }
                    Command::Trigger { campaign, pass, batch, lane, cards, cursor, validity_s } => {
                        triggers.push(Commanded { campaign, pass, batch, lane, cards, cursor, validity_s });
                    }
                    Command::WakeAt(_) => {}
                    Command::Save { campaign } => {
                        to_save.insert(campaign);
                    }
                    Command::Paused { campaign, failed, done } => {
                        tracing::warn!(
                            campaign,
                            failed,
                            done,
                            "a campaign has paused itself: it fails too often"
                        );
                        self.campaigns.by_itself(campaign, CampaignState::Paused, None).await?;
                    }
                    Command::Finished { campaign, absentees } => {
                        tracing::info!(campaign, "a campaign has finished");
                        self.campaigns.by_itself(campaign, CampaignState::Finished, Some(absentees)).await?;
                    }
                }
            }
            let mut left = Left::default();
            if !triggers.is_empty() {
                left = triggering::leave(&self.core, &self.campaigns, &self.outbox, triggers).await?;
            }
            // After the triggers: what was chosen and is not durable is chosen again.
            to_save.extend(left.batches.keys());
            for campaign in to_save {
                let saved = planner.planner().saved(campaign);
                let batches = left.batches.remove(&campaign).unwrap_or_default();
                self.campaigns.keep(campaign, saved, batches).await?;
            }
            inputs.extend(left.events.into_iter().map(Input::Event));
        }
        Ok(())
    }

    /// Reads a page aside and hands it to the loop. One that cannot be read is tried again as long as there is a loop:
    /// its lane waits for it.
    fn ask(&self, answer: &mpsc::Sender<Page>, asked: Asked) {
        let core = self.core.clone();
        let campaign = self.campaigns.find(asked.campaign);
        let answer = answer.clone();
        tokio::spawn(async move {
            let Some(campaign) = campaign else { return };
            let mut pause = PAGE_RETRY_MIN;
            loop {
                match read_page(&core, &campaign, &asked).await {
                    Ok(page) => return drop(answer.send(page).await),
                    Err(error) => tracing::error!(%error, "candidates of a campaign cannot be read yet"),
                }
                tokio::select! {
                    () = answer.closed() => return,
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAGE_RETRY_MAX),
                }
            }
        });
    }
}

/// Waits for the end, which is also when nobody is left to say so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Ticks are at least so far apart in real time, however fast campaign time passes.
const TICK_MIN: std::time::Duration = std::time::Duration::from_millis(1);

/// Pause before a page is read again, doubled each time up to the most.
const PAGE_RETRY_MIN: std::time::Duration = std::time::Duration::from_millis(200);
const PAGE_RETRY_MAX: std::time::Duration = std::time::Duration::from_secs(30);

/// [`Command::NextPage`] as a value.
struct Asked {
    campaign: u32,
    generation: u32,
    lane: Lane,
    order: Order,
    below: Option<Cursor<CardId>>,
    rows: u16,
}

/// Reads a page and leaves out whom the campaign does not concern.
async fn read_page(core: &Core, campaign: &Started, asked: &Asked) -> Result<Page, StoreError> {
    let order = match asked.order {
        Order::NextPoll => store::Order::NextPoll,
        Order::LastUpdate => store::Order::LastUpdate,
    };
    let query = CandidateQuery {
        bucket: asked.lane.bucket,
        operator: OperatorId(asked.lane.operator),
        order,
        below: asked.below.map(|cursor| Position { key: cursor.key, card: cursor.card }),
        rows_max: usize::from(asked.rows),
    };
    let page = core.store.candidates(query).await?;
    let catalogue = core.catalogue();
    let place = |row: &store::Candidate| Cursor { key: order.key(&row.hot), card: row.card };
    let next = if page.end { None } else { page.rows.last().map(place) };
    let audience = &campaign.audience;
    let by_number = audience.asks_for_numbers();
    let mut candidates = Vec::new();
    for row in &page.rows {
        if row.hot.applied.has(campaign.number) || campaign.excludes(&row.card) {
            continue;
        }
        let mut view = catalogue.view(campaign.tenant, row);
        if by_number && let Some(card) = core.store.card(row.card).await? {
            view.iccid = card.record.iccid;
            view.imsi = card.record.imsi;
        }
        if audience.matches(&view) {
            let (last_update, next_poll) = (row.hot.last_update, row.hot.next_poll);
            candidates.push(Candidate { place: place(row), last_update, next_poll });
        }
    }
    let Asked { campaign, generation, lane, .. } = *asked;
    Ok(Event::Page { campaign, generation, lane, candidates, next })
}

/// Writes a line of the trace; a trace that cannot be written ends the recording, not the platform.
fn record(trace: &mut Option<Trace>, line: &impl serde::Serialize) {
    let Some(file) = trace else { return };
    let written = serde_json::to_writer(&mut *file, line)
        .map_err(std::io::Error::from)
        .and_then(|()| file.write_all(b"\n"));
    if let Err(error) = written {
        tracing::error!(%error, "the trace cannot be written any more");
        *trace = None;
    }
}
