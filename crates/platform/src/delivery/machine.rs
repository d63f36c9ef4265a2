//! One delivery to one card, from its request to the proof of its last packet.

mod answers;

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::{CardId, DeliveryId, EpochMs};
use simtide_protocol::poll_date::MarkFile;

use super::bearer::{Bearer, Bearers, Brought, Presence, Settings, Urgency, order};
use super::milestone::{Milestone, Milestones};
use super::packing::Portion;
use super::status::ScriptAnswer;

/// Rounds over all bearers at most before the pause between them grows no further.
const PAUSE_DOUBLINGS_MAX: u8 = 6;
/// How long another packet of the card is waited for before looking again, in seconds.
const BLOCKED_PAUSE_S: i64 = 30;

/// Where a delivery stands.
///
/// | state | accepts | becomes |
/// |---|---|---|
/// | Requested: no packet is reserved | Look, Asked; PassedOver; PollOpened; limit; Cancel | Sent, or waits for a poll or a device; Requested; Polling; Expired; Cancelled |
/// | Sent: a packet is reserved and may be on its way by some bearer | Failed, Look, Asked, Fetched; Proof; PollOpened (where D2 allows); limit, Cancel | Sent (next bearer, the same bytes), Fetched; Requested (next packet), Proven, Refused; Polling; Unproven, Cancelled |
/// | Fetched: it lies in the device's queue, on its disk | as Sent, but no poll replaces it | as Sent |
/// | Polling: a poll runs it | PollEnded | Proven, Refused, Requested (by poll only where a mark decides) |
/// | Sent, Fetched, asked for the mark | Marked | Requested (the same packet once more, or the next one), Proven, Refused |
/// | Unproven: the limit came, a copy had left, nobody knows | Proof | Proven, Refused |
/// | Proven, Refused, Expired, Cancelled | anything | the same: success absorbs |
///
/// Deadlines: the turn of a bearer, the pause between rounds and the limit of the delivery; all are met by
/// [`Event::Look`] at the time of [`Command::WakeAt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum State {
    /// The next packet has no counter yet.
    Requested,
    /// A packet is reserved; copies of it may be on their way.
    Sent,
    /// The device has confirmed that the packet lies in its inbound queue.
    Fetched,
    /// A poll is executing the content.
    Polling,
    /// Every packet is proven, or the poll has executed the content.
    Proven {
        /// What carried the last part.
        by: Bearer,
    },
    /// The card has refused it, or a command of it failed.
    Refused {
        /// What the card said.
        answer: ScriptAnswer,
    },
    /// The limit came before anything had left.
    Expired,
    /// The limit came, and nobody knows whether the card has executed the packet under way.
    Unproven,
    /// Ended by a user. A copy that had left may still have its effect.
    Cancelled,
}

impl State {
    /// Whether anything is still to be done for it.
    pub const fn is_open(self) -> bool {
        matches!(self, State::Requested | State::Sent | State::Fetched | State::Polling)
    }

    /// Number in rows.
    pub const fn code(self) -> u8 {
        match self {
            State::Requested => 0,
            State::Sent => 1,
            State::Fetched => 2,
            State::Polling => 3,
            State::Proven { .. } => 4,
            State::Refused { .. } => 5,
            State::Expired => 6,
            State::Unproven => 7,
            State::Cancelled => 8,
        }
    }

    /// Name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            State::Requested => "requested",
            State::Sent => "sent",
            State::Fetched => "fetched",
            State::Polling => "polling",
            State::Proven { .. } => "proven",
            State::Refused { .. } => "refused",
            State::Expired => "expired",
            State::Unproven => "unproven",
            State::Cancelled => "cancelled",
        }
    }
}

/// Why there is a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A user or another system asked for it.
    Request,
    /// A campaign's content, for a card that its polls do not reach.
    Campaign {
        /// The campaign's id.
        campaign: u32,
        /// Its number among the started ones.
        number: u32,
    },
}

/// What is to be delivered, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Names it.
    pub id: DeliveryId,
    /// To which card.
    pub card: CardId,
    /// Why.
    pub cause: Cause,
    /// What, in its order; at least one.
    pub portions: Vec<Portion>,
    /// Whether executing it twice does no harm.
    pub repeatable: bool,
    /// What may carry it.
    pub bearers: Bearers,
    /// How much waiting a short message is worth.
    pub urgency: Urgency,
    /// Until when it is tried.
    pub limit: EpochMs,
}

/// A packet of the delivery that is reserved and not proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderWay {
    /// Key set that seals it.
    pub key_set: u8,
    /// Last counter given before it was reserved: its own is higher. Its row tells which.
    pub counter_before: u64,
    /// Its counter, once known.
    pub counter: Option<u64>,
    /// Sets of short messages that have left.
    pub sms_copies: u8,
    /// End of the validity of the last of them.
    pub sms_until: Option<EpochMs>,
    /// It was handed to an authenticated session of the card.
    pub ip_copy: bool,
    /// The card has said that it had it before: no copy can have an effect any more, and one may have had it.
    #[serde(default)]
    pub had_before: bool,
}

/// The machine of one delivery. Its JSON is the body of its case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Names it.
    pub id: DeliveryId,
    /// To which card.
    pub card: CardId,
    /// Why.
    pub cause: Cause,
    /// Where it stands.
    pub state: State,
    /// When it was asked for.
    pub at: EpochMs,
    /// Until when it is tried.
    pub limit: EpochMs,
    /// How much waiting a short message is worth.
    pub urgency: Urgency,
    /// What may carry it.
    pub bearers: Bearers,
    /// Whether executing it twice does no harm.
    pub repeatable: bool,
    /// What, in its order. Not part of the record: it is made from the content again, see [`Delivery::resume`].
    #[serde(skip)]
    pub portions: Vec<Portion>,
    /// The portion that is next or under way; those before it are proven or let go.
    pub place: u16,
    /// The packet under way.
    pub under_way: Option<UnderWay>,
    /// Whose turn it is, and until when.
    pub turn: Option<(Bearer, EpochMs)>,
    /// Bearers that have had their turn in this round.
    pub tried: Bearers,
    /// Rounds that are over.
    pub rounds: u8,
    /// The answer to the portion in turn is lost: its mark is asked for, before anything else is sent.
    #[serde(default)]
    pub asking: bool,
    /// How often in a row the card has said that it had a counter before.
    #[serde(default)]
    pub counters_low: u8,
    /// The portion under way undoes the one before it, which failed with this answer.
    pub undoing: Option<ScriptAnswer>,
    /// What has happened.
    pub milestones: Milestones,
}

/// What happens to a delivery. What comes from the card has been authenticated and matched to the packet under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// See what is to be done now: after the request, at [`Command::WakeAt`], when presence has changed.
    Look,
    /// The reserved packet has got this counter.
    Reserved {
        /// The counter.
        counter: u64,
    },
    /// No counter was given: another packet of the card is open.
    PassedOver,
    /// The packet cannot be reserved or sealed, and never will: keys or counters are missing.
    Impossible,
    /// An authenticated session of the card on the second interface asks what there is.
    Asked,
    /// The device has the packet on its disk.
    Fetched,
    /// A bearer has given it up.
    Failed {
        /// Which.
        bearer: Bearer,
    },
    /// The network says that the short messages have reached the device.
    Reached,
    /// The card's proof of the packet under way.
    Proof {
        /// What brought it.
        by: Brought,
        /// What it says.
        answer: ScriptAnswer,
    },
    /// The card's answer to what [`Delivery::sending`] gave while [`Delivery::asking`]: the mark, if that can be read.
    Marked {
        /// What brought it.
        by: Brought,
        /// The mark.
        mark: Option<MarkFile>,
    },
    /// The card has opened a poll, which executes the content if [`Delivery::may_poll`].
    PollOpened,
    /// The poll that executed the content is over.
    PollEnded {
        /// How.
        outcome: Polled,
    },
    /// A user ends it.
    Cancel,
}

/// What a poll has made of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polled {
    /// Every script was answered well.
    Done,
    /// A script failed.
    Failed(ScriptAnswer),
    /// The session broke; `marked`: the card's mark decides at the next poll what was executed.
    Broken {
        /// Scripts that are not repeatable may have been executed.
        marked: bool,
    },
}

/// What is to be done. Reserve, Abandon and Closed belong into the commit that makes the new state durable; the rest
/// follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Reserve a counter for the portion in turn and write its packet row.
    Reserve,
    /// Submit the packet as short messages, valid until then.
    SubmitSms {
        /// End of their validity.
        until: EpochMs,
    },
    /// Hand the packet to the session that asks.
    Offer,
    /// Tell the device that something waits.
    Notify,
    /// The packet row is given up: a copy that has left is dead once a higher counter reaches the card.
    Abandon,
    /// It is over: note what became of it where its cause wants it.
    Closed,
    /// Give [`Event::Look`] then.
    WakeAt(EpochMs),
}

impl Delivery {
    /// A delivery as asked for; give [`Event::Look`] next.
    pub fn new(now: EpochMs, wish: Wish) -> Self {
        let Wish { id, card, cause, portions, repeatable, bearers, urgency, limit } = wish;
        let mut milestones = Milestones::default();
        milestones.add(now, Milestone::Requested);
        Self {
            id,
            card,
            cause,
            state: State::Requested,
            at: now,
            limit,
            urgency,
            bearers,
            repeatable,
            portions,
            place: 0,
            under_way: None,
            turn: None,
            tried: Bearers::NONE,
            rounds: 0,
            asking: false,
            counters_low: 0,
            undoing: None,
            milestones,
        }
    }

    /// Gives a delivery that its record was read from the portions that were made from its content.
    pub fn resume(&mut self, portions: Vec<Portion>) {
        self.portions = portions;
        if self.undoing.is_some() && self.place > 0 {
            self.undo_after(usize::from(self.place) - 1);
        }
    }

    /// The portion that is next or under way.
    pub fn portion(&self) -> Option<&Portion> {
        self.portions.get(usize::from(self.place))
    }

    /// What the next packet carries, or the one under way does: the portion, or the question what became of it.
    pub fn sending(&self) -> Option<&Portion> {
        let portion = self.portion()?;
        match &portion.marks {
            Some(marks) if self.asking => Some(&marks.question),
            _ => Some(portion),
        }
    }

    /// Whether a poll may execute the content now. It replaces copies only where none of them can have its effect
    /// any more without the card's mark telling, or where twice does no harm (trust invariant D2); and it starts
    /// from the beginning.
    pub fn may_poll(&self, now: EpochMs) -> bool {
        let copies_are_over = self.under_way.as_ref().is_none_or(|packet| {
            self.repeatable
                || (!packet.ip_copy && packet.sms_copies == 0)
                || (!packet.ip_copy && packet.sms_until.is_none_or(|until| until <= now))
        });
        self.state.is_open()
            && self.state != State::Polling
            && self.bearers.contains(Bearer::Poll)
            && self.undoing.is_none()
            && (copies_are_over && self.state != State::Fetched || self.repeatable)
    }

    /// Whether a poll must leave alone what this delivery carries.
    pub fn keeps_from_polls(&self, now: EpochMs) -> bool {
        let begun = self.place > 0 || self.under_way.is_some();
        self.state.is_open() && begun && !self.may_poll(now) && !self.repeatable
    }

    /// Takes in what has happened. Every event is possible in every state, once or repeatedly.
    pub fn handle(
        &mut self,
        now: EpochMs,
        event: Event,
        presence: &Presence,
        settings: &Settings,
    ) -> Vec<Command> {
        match (self.state, event) {
            (State::Unproven, Event::Proof { by, answer }) => self.proof(now, by, answer, presence, settings),
            (state, _) if !state.is_open() => Vec::new(),
            (_, Event::Cancel) => self.close(now, State::Cancelled),
            (_, Event::Proof { by, answer }) => self.proof(now, by, answer, presence, settings),
            (_, Event::Marked { by, mark }) => self.marked(now, by, mark, presence, settings),
            (_, Event::PollEnded { outcome }) => self.polled(now, outcome, presence, settings),
            (State::Polling, _) => Vec::new(),
            (_, Event::Look) => self.look(now, presence, settings),
            (_, Event::Reserved { counter }) => {
                if let Some(packet) = self.under_way.as_mut().filter(|packet| packet.counter.is_none()) {
                    packet.counter = Some(counter);
                    self.milestones.add(now, Milestone::Sealed { counter });
                    let by = [(packet.sms_copies > 0, Bearer::Sms), (packet.ip_copy, Bearer::Ip)];
                    for (_, bearer) in by.into_iter().filter(|(has_left, _)| *has_left) {
                        self.milestones.add(now, Milestone::SentBy { bearer });
                    }
                }
                Vec::new()
            }
            (_, Event::PassedOver) => self.passed_over(now),
            (_, Event::Impossible) => self.close(now, State::Refused { answer: ScriptAnswer::NOT_SEALED }),
            (_, Event::Asked) => self.asked(now, settings),
            (_, Event::Fetched) => self.fetched(now, settings),
            (_, Event::Failed { bearer }) => self.failed(now, bearer, presence, settings),
            (_, Event::Reached) => {
                self.milestones.add(now, Milestone::Reached);
                Vec::new()
            }
            (_, Event::PollOpened) => {
                if !self.may_poll(now) {
                    return Vec::new();
                }
                self.state = State::Polling;
                self.place = 0;
                self.asking = false;
                self.turn = None;
                self.milestones.add(now, Milestone::SentBy { bearer: Bearer::Poll });
                self.under_way.take().map(|_| Command::Abandon).into_iter().collect()
            }
        }
    }

    /// Whose turn is it, and what does that ask for?
    fn look(&mut self, now: EpochMs, presence: &Presence, settings: &Settings) -> Vec<Command> {
        if now >= self.limit {
            return self.at_limit(now);
        }
        if self.is_answer_lost(now) {
            return self.answer_lost(now, Bearer::Sms, presence, settings);
        }
        if let Some((_, until)) = self.turn.filter(|(_, until)| *until > now) {
            return self.wake(until);
        }
        if let Some((bearer, _)) = self.turn.take() {
            self.tried = self.tried.with(bearer);
        }
        let parts = self.sending().map_or(1, Portion::sms_parts);
        let bearers = order(self.bearers, presence, parts, self.urgency, settings, now, self.limit);
        let spent = |bearer: &Bearer| {
            *bearer == Bearer::Sms
                && self.under_way.as_ref().is_some_and(|one| one.sms_copies >= settings.sms_attempts_max)
        };
        let next = bearers.into_iter().find(|bearer| !self.tried.contains(*bearer) && !spent(bearer));
        match next {
            Some(bearer) => self.begin_turn(now, bearer, presence, settings),
            None => self.pause(now, settings),
        }
    }

    fn begin_turn(
        &mut self,
        now: EpochMs,
        bearer: Bearer,
        presence: &Presence,
        settings: &Settings,
    ) -> Vec<Command> {
        let until = match bearer {
            Bearer::Sms => now.plus_s(settings.sms_validity_s.into()),
            Bearer::Ip => now.plus_s(settings.ip_wait_s.into()),
            Bearer::Poll => presence.next_poll.unwrap_or(now).max(now).plus_s(settings.poll_grace_s.into()),
        };
        let until = until.min(self.limit);
        self.turn = Some((bearer, until));
        match bearer {
            // The packet is reserved when the device asks; until then the key set stays free for others.
            Bearer::Ip => [vec![Command::Notify], self.wake(until)].concat(),
            Bearer::Poll => self.wake(until),
            Bearer::Sms => {
                let mut commands = self.reserve();
                if let Some(packet) = &mut self.under_way {
                    packet.sms_copies = packet.sms_copies.saturating_add(1);
                    packet.sms_until = Some(until);
                }
                self.sent(now, bearer);
                commands.push(Command::SubmitSms { until });
                // An urgent one is fetched over IP by whichever device is sooner: the same bytes.
                if self.urgency == Urgency::High && self.bearers.contains(Bearer::Ip) {
                    commands.push(Command::Notify);
                }
                commands.extend(self.wake(until));
                commands
            }
        }
    }

    /// The packet of the portion in turn exists from now on.
    fn reserve(&mut self) -> Vec<Command> {
        if self.under_way.is_some() {
            return Vec::new();
        }
        self.under_way = Some(UnderWay {
            key_set: self.sending().map_or(0, |portion| portion.key_set),
            counter_before: 0,
            counter: None,
            sms_copies: 0,
            sms_until: None,
            ip_copy: false,
            had_before: false,
        });
        self.state = State::Sent;
        vec![Command::Reserve]
    }

    /// A copy leaves; of the first one it is said when its packet has a counter.
    fn sent(&mut self, now: EpochMs, bearer: Bearer) {
        if self.under_way.as_ref().is_some_and(|packet| packet.counter.is_some()) {
            self.milestones.add(now, Milestone::SentBy { bearer });
        }
    }

    /// All bearers have had their turn, or none is there.
    fn pause(&mut self, now: EpochMs, settings: &Settings) -> Vec<Command> {
        let pause_s = i64::from(settings.round_pause_s) << self.rounds.min(PAUSE_DOUBLINGS_MAX);
        self.rounds = self.rounds.saturating_add(1);
        self.tried = Bearers::NONE;
        self.wake(now.plus_s(pause_s.max(1)))
    }

    fn wake(&self, at: EpochMs) -> Vec<Command> {
        vec![Command::WakeAt(at.min(self.limit))]
    }

    fn asked(&mut self, now: EpochMs, settings: &Settings) -> Vec<Command> {
        if !self.bearers.contains(Bearer::Ip) {
            return Vec::new();
        }
        if now >= self.limit {
            return self.at_limit(now);
        }
        let device_has_it = self.turn.is_some_and(|(bearer, until)| bearer == Bearer::Ip && until > now);
        let had_before = self.under_way.as_ref().is_some_and(|packet| packet.had_before);
        if had_before || (self.state == State::Fetched && device_has_it) {
            return Vec::new();
        }
        let mut commands = self.reserve();
        if let Some(packet) = self.under_way.as_mut().filter(|packet| !packet.ip_copy) {
            packet.ip_copy = true;
            self.sent(now, Bearer::Ip);
        }
        commands.push(Command::Offer);
        // A copy that left by SMS keeps its turn; otherwise it is now the device's.
        if self.turn.is_none_or(|(bearer, until)| bearer != Bearer::Sms || until <= now) {
            let until = now.plus_s(settings.ip_wait_s.into()).min(self.limit);
            self.turn = Some((Bearer::Ip, until));
            commands.extend(self.wake(until));
        }
        commands
    }

    fn fetched(&mut self, now: EpochMs, settings: &Settings) -> Vec<Command> {
        if self.state != State::Sent || self.under_way.is_none() {
            return Vec::new();
        }
        self.state = State::Fetched;
        self.milestones.add(now, Milestone::Fetched);
        let until = now.plus_s(settings.ip_wait_s.into()).min(self.limit);
        self.turn = Some((Bearer::Ip, until));
        self.wake(until)
    }

    fn passed_over(&mut self, now: EpochMs) -> Vec<Command> {
        if self.under_way.as_ref().is_some_and(|packet| packet.counter.is_some()) {
            return Vec::new();
        }
        self.under_way = None;
        self.state = State::Requested;
        self.turn = None;
        self.milestones.add(now, Milestone::Waits);
        self.wake(now.plus_s(BLOCKED_PAUSE_S))
    }

    fn failed(
        &mut self,
        now: EpochMs,
        bearer: Bearer,
        presence: &Presence,
        settings: &Settings,
    ) -> Vec<Command> {
        self.milestones.add(now, Milestone::FailedBy { bearer });
        if let Some(packet) = self.under_way.as_mut().filter(|_| bearer == Bearer::Sms) {
            packet.sms_until = packet.sms_until.map(|until| until.max(now));
        }
        match self.turn {
            Some((whose, _)) if whose == bearer => {
                self.turn = Some((bearer, now));
                self.look(now, presence, settings)
            }
            _ => Vec::new(),
        }
    }

    fn at_limit(&mut self, now: EpochMs) -> Vec<Command> {
        let left = self.place > 0 || self.under_way.is_some();
        self.close(now, if left { State::Unproven } else { State::Expired })
    }

    fn close(&mut self, now: EpochMs, state: State) -> Vec<Command> {
        self.state = state;
        self.turn = None;
        self.milestones.add(now, Milestone::Closed { state });
        let abandon = self.under_way.is_some().then_some(Command::Abandon);
        abandon.into_iter().chain([Command::Closed]).collect()
    }
}
