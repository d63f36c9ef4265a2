//! Load, decide, one commit, effects.

use simtide_platform::delivery::{Bearer, Cause, Command, Event, Evidence, Presence, ScriptAnswer, State};
use simtide_protocol::ids::{CardId, DeliveryId, EpochMs};
use simtide_protocol::poll_date::MarkFile;
use simtide_protocol::scp80::ResponseStatus;
use simtide_protocol::script::compact;

use super::record::Record;
use super::{Deliveries, ready};
use crate::shell::proofs::Proof;
use crate::shell::sending::Outgoing;
use crate::store::{
    self, Card, CardChange, CaseKind, CaseRow, Cause as HistoryCause, Exception, ExceptionChange,
    ExceptionStatus, HistoryLine, HistoryResult, Op, Origin, Outcome, Packet, PacketChange, PacketKey,
    PacketState, PassedOver, PollDone, Progress, Standing, StoreError,
};

/// Packets of a key set among which the one under way is looked for.
const LATEST_MAX: usize = 8;
/// Decisions that follow one another without anything coming from outside: a packet that cannot be reserved.
const FOLLOWING_MAX: usize = 4;

/// A delivery with what its steps work on, as stored at one moment.
#[derive(Debug)]
pub(super) struct Loaded {
    /// Its card.
    pub(super) card: Card,
    /// The card's open packets.
    pub(super) open: Vec<Packet>,
    /// The delivery.
    pub(super) record: Record,
}

/// What an event came to.
#[derive(Debug, Default)]
pub(super) struct Stepped {
    /// The packet to be handed to the session that asks.
    pub(super) offered: Option<Packet>,
}

/// What an event brings with it.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Committed together with the new state, before what follows from it.
    pub(super) ops: Vec<Op>,
    /// Triggers of the card are given up in favour of the packet: its device is here by another way.
    pub(super) instead_of_triggers: bool,
}

impl Deliveries {
    /// Handles an event of one delivery. One that is over or unknown takes no events.
    pub(super) async fn event(
        &self,
        card: CardId,
        id: DeliveryId,
        event: Event,
    ) -> Result<Stepped, StoreError> {
        let _turn = self.turn(&card).await;
        self.event_in_turn(card, id, event, Beside::default()).await
    }

    /// The same for who has the card's turn.
    pub(super) async fn event_in_turn(
        &self,
        card: CardId,
        id: DeliveryId,
        event: Event,
        beside: Beside,
    ) -> Result<Stepped, StoreError> {
        match self.load(card, id).await? {
            Some(mut loaded) => self.step(&mut loaded, event, beside).await,
            None => {
                if !beside.ops.is_empty() {
                    self.core.commit_card(&card, beside.ops).await?;
                }
                Ok(Stepped::default())
            }
        }
    }

    /// A delivery of a card, as stored.
    pub(super) async fn load(&self, card: CardId, id: DeliveryId) -> Result<Option<Loaded>, StoreError> {
        match self.core.store.standing(card, Some((CaseKind::Delivery, id.0))).await? {
            Some(Standing { card, open, case: Some(row) }) => self.loaded(card, open, &row).await.map(Some),
            _ => Ok(None),
        }
    }

    /// The same from rows that were just read.
    pub(super) async fn loaded(
        &self,
        card: Card,
        open: Vec<Packet>,
        row: &CaseRow,
    ) -> Result<Loaded, StoreError> {
        let mut record = Record::read(row)?;
        self.make_portions(&card, &mut record).await;
        Ok(Loaded { card, open, record })
    }

    /// The portions of a record; none where its campaign or profile is gone, and then it only waits for its end.
    async fn make_portions(&self, card: &Card, record: &mut Record) {
        if !record.ready.is_empty() {
            record.machine.resume(ready::portions(&record.ready));
            return;
        }
        let of_campaign = match (&record.content, record.machine.cause) {
            (None, Cause::Campaign { campaign, .. }) => self.campaign_content(card, campaign).await,
            (Some(_), _) | (None, Cause::Request) => None,
        };
        let content = record.content.as_ref().or(of_campaign.as_ref());
        let catalogue = self.core.catalogue();
        let (Some(content), Some(profile)) = (content, catalogue.profile(card.hot.profile)) else { return };
        match record.portions(content, profile, self.core.config.delivery.packet_bytes_max) {
            Ok(portions) => record.machine.resume(portions),
            Err(error) => tracing::warn!(%error, "the content of a delivery cannot be packed any more"),
        }
    }

    async fn campaign_content(
        &self,
        card: &Card,
        campaign: u32,
    ) -> Option<simtide_platform::content::Content> {
        if let Some(started) = self.campaigns.find(campaign) {
            return Some(started.content.clone());
        }
        let row = self.campaigns.show(card.record.tenant, store::CampaignId(campaign)).await.ok()?;
        let definition: crate::shell::campaigns::Definition = serde_json::from_str(&row.definition).ok()?;
        definition.content.steps().cloned()
    }

    /// Decides, commits, acts.
    pub(super) async fn step(
        &self,
        loaded: &mut Loaded,
        event: Event,
        mut beside: Beside,
    ) -> Result<Stepped, StoreError> {
        let mut stepped = Stepped::default();
        let mut event = event;
        for _ in 0..FOLLOWING_MAX {
            let now = self.core.now();
            let packet = self.packet(loaded).await?;
            let Loaded { card, open, record } = &mut *loaded;
            if let Some(packet) = &packet {
                let reserved = Event::Reserved { counter: packet.key.counter };
                record.machine.handle(packet.at, reserved, &Presence::default(), &self.core.config.delivery);
            }
            let before = record.clone();
            let commands =
                record.machine.handle(now, event, &self.presence(card), &self.core.config.delivery);
            if record.machine == before.machine && commands.is_empty() {
                if !beside.ops.is_empty() {
                    self.core.commit_card(&card.record.id, std::mem::take(&mut beside.ops)).await?;
                }
                break;
            }
            let wanted = Wanted { commands: &commands, now, open };
            let followed =
                self.carry_out(card, record, &before, wanted, packet, &mut beside, &mut stepped).await?;
            match followed {
                Some(next) => event = next,
                None => break,
            }
            *open = self.core.store.open_packets(card.record.id).await?;
        }
        Ok(stepped)
    }

    /// The row of the packet under way.
    async fn packet(&self, loaded: &Loaded) -> Result<Option<Packet>, StoreError> {
        let Loaded { card, open, record } = loaded;
        let Some(under_way) = &record.machine.under_way else { return Ok(None) };
        let (card, key_set) = (card.record.id, under_way.key_set);
        let own = Origin::Delivery(record.machine.id);
        let is_it = |one: &Packet| {
            let PacketKey { key_set: of, counter, .. } = one.key;
            let fits = under_way.counter.map_or(counter > under_way.counter_before, |known| known == counter);
            of == key_set && one.origin == own && fits
        };
        if let Some(packet) = open.iter().find(|one| is_it(one)) {
            return Ok(Some(packet.clone()));
        }
        if let Some(counter) = under_way.counter {
            return self.core.store.packet(PacketKey { card, key_set, counter }).await;
        }
        let latest = self.core.store.latest_packets(card, key_set, LATEST_MAX).await?;
        Ok(latest.into_iter().find(is_it))
    }

    #[allow(clippy::too_many_arguments, reason = "one step, cut in two for its length")]
    async fn carry_out(
        &self,
        card: &Card,
        record: &mut Record,
        before: &Record,
        wanted: Wanted<'_>,
        packet: Option<Packet>,
        beside: &mut Beside,
        stepped: &mut Stepped,
    ) -> Result<Option<Event>, StoreError> {
        let Wanted { commands, now, .. } = wanted;
        let reserve = commands.contains(&Command::Reserve);
        record.due = commands.iter().rev().find_map(|command| match command {
            Command::WakeAt(at) => Some(*at),
            _ => None,
        });
        if record.due.is_none() && record.machine.state.is_open() {
            record.due = before.due;
        }
        if let Some(under_way) = record.machine.under_way.as_mut().filter(|_| reserve) {
            let given = card.counters.iter().find(|(key_set, _)| *key_set == under_way.key_set);
            under_way.counter_before = given.map_or(0, |(_, counter)| *counter);
        }
        let handed = record.machine.portion().and_then(|portion| portion.handed).filter(|_| reserve);
        if handed.is_some() && self.is_held_back(card, record, beside).await? {
            return Ok(Some(Event::PassedOver));
        }
        let (mut ops, displaced) = self.ops(record, before, &wanted, packet.as_ref(), beside)?;
        let command = reserve.then(|| self.command(record, &wanted)).flatten();
        if let (Some(handed), Some(command)) = (handed, &command) {
            // The next counter given is the one in the packet.
            let change = CardChange::RaiseCounter {
                key_set: command.key_set,
                counter: handed.counter.saturating_sub(1),
            };
            ops.push(Op::ChangeCard { card: command.card, change });
        }
        let place = ops.len();
        ops.extend(command.clone().map(|command| Op::Command(Box::new(command))));
        let committed = self.core.commit_card(&card.record.id, ops).await?;
        match committed.outcomes.first() {
            Some(Outcome::Done) => {}
            other => {
                tracing::warn!(outcome = ?other, "a delivery has moved on meanwhile");
                return Ok(None);
            }
        }
        record.version += 1;
        self.remember(record);
        self.let_go(&displaced, now);
        if let (Some(packet), true) = (&packet, commands.contains(&Command::Abandon)) {
            self.flight.evidence(packet.key, now, Evidence::Abandon);
        }
        if let Some(due) = record.due {
            self.schedule(before.due, due, record);
        }
        if commands.contains(&Command::Closed) {
            self.tell_campaign(card, record);
        }
        let packet = match (reserve, command) {
            (false, _) => packet,
            (true, None) => return Ok(Some(Event::Impossible)),
            (true, Some(command)) => {
                let outcome = committed.outcomes.get(place);
                match self.reserved(record, command, handed.map(|one| one.counter), outcome, now).await? {
                    Ok(packet) => Some(packet),
                    Err(event) => return Ok(Some(event)),
                }
            }
        };
        self.effects(card, commands, packet, stepped).await;
        Ok(None)
    }

    /// What the commit has made of a reservation: the packet, or why there is none. One that was handed in sealed has its
    /// counter already, which must be the one that was given.
    async fn reserved(
        &self,
        record: &mut Record,
        command: store::Command,
        handed: Option<u64>,
        outcome: Option<&Outcome>,
        now: EpochMs,
    ) -> Result<Result<Packet, Event>, StoreError> {
        let counter = match outcome {
            Some(Outcome::Counter(counter)) => *counter,
            Some(Outcome::PassedOver(PassedOver::OpenPacket)) => return Ok(Err(Event::PassedOver)),
            _ => return Ok(Err(Event::Impossible)),
        };
        if handed.is_some_and(|handed| handed != counter) {
            let key = PacketKey { card: command.card, key_set: command.key_set, counter };
            let given_up = moved(key, PacketState::Abandoned, None);
            self.core.commit_card(&command.card, vec![given_up]).await?;
            return Ok(Err(Event::Impossible));
        }
        let event = Event::Reserved { counter };
        record.machine.handle(now, event, &Presence::default(), &self.core.config.delivery);
        Ok(Ok(store::rules::command_packet(&command, counter)))
    }

    /// Whether a packet of the card is open: while it is, no counter is raised in vain.
    async fn is_held_back(&self, card: &Card, record: &Record, beside: &Beside) -> Result<bool, StoreError> {
        let key_set = record.machine.portion().map(|portion| portion.key_set);
        let open = self.core.store.open_packets(card.record.id).await?;
        Ok(open.iter().any(|one| {
            let displaced = beside.instead_of_triggers && matches!(one.origin, Origin::Trigger(_));
            Some(one.key.key_set) == key_set && !displaced
        }))
    }

    /// What becomes durable before the packet is reserved; with the triggers that it takes the place of.
    fn ops(
        &self,
        record: &Record,
        before: &Record,
        wanted: &Wanted<'_>,
        packet: Option<&Packet>,
        beside: &mut Beside,
    ) -> Result<(Vec<Op>, Vec<PacketKey>), StoreError> {
        let row = record.row().map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let version_before = (before.version > 0).then_some(before.version);
        let mut ops = vec![Op::PutCase { row: Box::new(row), version_before }];
        ops.append(&mut beside.ops);
        let mut displaced = Vec::new();
        for command in wanted.commands {
            match (command, packet) {
                (Command::Reserve, _) => {
                    if beside.instead_of_triggers {
                        displaced = triggers(wanted.open);
                        ops.extend(displaced.iter().map(|key| moved(*key, PacketState::Abandoned, None)));
                    }
                    ops.extend(self.attempt(record, wanted.now));
                }
                // The same bytes leave again.
                (Command::SubmitSms { until }, Some(packet))
                    if !wanted.commands.contains(&Command::Reserve) =>
                {
                    ops.push(moved(packet.key, PacketState::Unknown, Some(*until)));
                }
                (Command::Abandon, Some(packet)) if !is_settled(&ops, packet.key) => {
                    ops.push(moved(packet.key, PacketState::Abandoned, None));
                }
                (Command::Closed, _) => ops.extend(closing(record, before, wanted.now)),
                _ => {}
            }
        }
        Ok((ops, displaced))
    }

    fn let_go(&self, displaced: &[PacketKey], now: EpochMs) {
        for key in displaced {
            self.flight.evidence(*key, now, Evidence::Abandon);
        }
    }

    /// Content that is not repeatable may be on the card from now on, and a poll has to look at the mark first.
    fn attempt(&self, record: &Record, now: EpochMs) -> Option<Op> {
        let machine = &record.machine;
        let read_by_polls =
            matches!(machine.cause, Cause::Campaign { .. }) || machine.bearers.contains(Bearer::Poll);
        if machine.repeatable || machine.asking || !read_by_polls {
            return None;
        }
        let step = machine.portion()?.step;
        Some(Op::Attempt { card: machine.card, campaign: record.campaign(), step, at: now })
    }

    /// The packet of the portion in turn.
    fn command(&self, record: &Record, wanted: &Wanted<'_>) -> Option<store::Command> {
        let machine = &record.machine;
        let portion = machine.sending()?;
        let until = wanted.commands.iter().find_map(|command| match command {
            Command::SubmitSms { until } => Some(*until),
            _ => None,
        });
        Some(store::Command {
            card: machine.card,
            key_set: portion.key_set,
            origin: Origin::Delivery(machine.id),
            tar: portion.tar,
            spi: portion.spi,
            data: portion.data.0.clone(),
            at: wanted.now,
            deadline: until.unwrap_or(machine.limit),
        })
    }

    async fn effects(
        &self,
        card: &Card,
        commands: &[Command],
        packet: Option<Packet>,
        stepped: &mut Stepped,
    ) {
        for command in commands {
            match (command, &packet) {
                (Command::SubmitSms { until }, Some(packet)) => {
                    let packet = Packet { deadline: *until, ..packet.clone() };
                    let card = Some(Box::new(card.clone()));
                    self.outbox.send(vec![Outgoing { packet, card }]).await;
                }
                (Command::Offer, Some(packet)) => {
                    if !self.flight.contains(packet.key) {
                        self.flight.takes_off(packet, 1);
                    }
                    self.flight.evidence(packet.key, self.core.now(), Evidence::Submitting);
                    stepped.offered = Some(packet.clone());
                }
                (Command::Notify, _) => {
                    if let Some(notifier) = self.notifier.get() {
                        notifier.something_waits(card, self.sightings.of(&card.record.id).push);
                    }
                }
                _ => {}
            }
        }
    }

    fn presence(&self, card: &Card) -> Presence {
        let config = &self.core.config;
        let sms = card.record.msisdn.is_some() && self.outbox.has_links();
        let next_poll = (card.hot.next_poll.0 > 0).then_some(card.hot.next_poll);
        self.sightings.of(&card.record.id).presence(sms, config.delivery_over_ip(), next_poll)
    }

    /// A proof of a packet of a delivery: one commit for packet, delivery and campaign.
    pub(super) async fn proof_came(&self, card: &Card, proof: Proof, ops: Vec<Op>) -> Result<(), StoreError> {
        let Origin::Delivery(id) = proof.origin else { return Ok(()) };
        let card = card.record.id;
        let by = proof.brought;
        let _turn = self.turn(&card).await;
        // A second copy's "counter low" leaves the row open; the other copy's proof settles it, or the delivery finds out.
        let says_something = is_settled(&ops, proof.key) || proof.status == ResponseStatus::CounterLow;
        let beside = Beside { ops, ..Beside::default() };
        if !says_something {
            self.core.commit_card(&card, beside.ops).await?;
            return Ok(());
        }
        let answer = ScriptAnswer::read(proof.status, &proof.data);
        if by.by == Bearer::Sms && proof.status == ResponseStatus::PorOk {
            self.sightings.reached(&card, self.core.now());
        }
        match self.load(card, id).await? {
            Some(mut loaded) if self.is_under_way(&loaded, proof.key).await? => {
                let event = if loaded.record.machine.asking && proof.status == ResponseStatus::PorOk {
                    let response = compact::Response::decode(&proof.data).ok();
                    Event::Marked { by, mark: response.and_then(|one| MarkFile::decode(&one.data).ok()) }
                } else {
                    Event::Proof { by, answer }
                };
                self.step(&mut loaded, event, beside).await?;
            }
            _ => {
                self.core.commit_card(&card, beside.ops).await?;
            }
        }
        Ok(())
    }

    /// Whether this packet is the one that the delivery waits for.
    async fn is_under_way(&self, loaded: &Loaded, key: PacketKey) -> Result<bool, StoreError> {
        Ok(self.packet(loaded).await?.is_some_and(|packet| packet.key == key))
    }

    /// The network has given up a packet's short messages.
    pub(super) async fn sms_failed(&self, key: PacketKey, id: DeliveryId) -> Result<(), StoreError> {
        let _turn = self.turn(&key.card).await;
        let Some(mut loaded) = self.load(key.card, id).await? else { return Ok(()) };
        // A device that has it over IP needs no short messages.
        let waits_for_sms = loaded.record.machine.turn.is_some_and(|(bearer, _)| bearer == Bearer::Sms);
        if waits_for_sms && self.is_under_way(&loaded, key).await? {
            let event = Event::Failed { bearer: Bearer::Sms };
            self.step(&mut loaded, event, Beside::default()).await?;
        }
        Ok(())
    }

    /// The network says that a packet's short messages have reached the device.
    pub(super) async fn sms_reached(&self, key: PacketKey, id: DeliveryId) -> Result<(), StoreError> {
        let _turn = self.turn(&key.card).await;
        let Some(mut loaded) = self.load(key.card, id).await? else { return Ok(()) };
        if self.is_under_way(&loaded, key).await? {
            self.step(&mut loaded, Event::Reached, Beside::default()).await?;
        }
        Ok(())
    }

    /// What the thresholds and lists of campaigns are told.
    fn tell_campaign(&self, card: &Card, record: &Record) {
        let Cause::Campaign { campaign, .. } = record.machine.cause else { return };
        match record.machine.state {
            State::Proven { by: Bearer::Sms | Bearer::Ip } => self.results.add(campaign, true),
            State::Refused { .. } => {
                self.results.add(campaign, false);
                if let Some(campaign) = self.campaigns.find(campaign) {
                    campaign.exclude(card.record.id);
                }
            }
            _ => {}
        }
    }
}

/// What a decision asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    commands: &'a [Command],
    now: EpochMs,
    /// The card's open packets.
    open: &'a [Packet],
}

fn triggers(open: &[Packet]) -> Vec<PacketKey> {
    let triggers = open.iter().filter(|one| matches!(one.origin, Origin::Trigger(_)));
    triggers.map(|one| one.key).collect()
}

/// Whether one of these closes the packet's row.
fn is_settled(ops: &[Op], key: PacketKey) -> bool {
    ops.iter().any(|op| matches!(op, Op::Packet(change) if change.key == key && !change.state.is_open()))
}

fn moved(key: PacketKey, state: PacketState, deadline: Option<EpochMs>) -> Op {
    Op::Packet(PacketChange { key, state, message_ids: Vec::new(), deadline })
}

/// What the end of a delivery changes elsewhere.
fn closing(record: &Record, before: &Record, now: EpochMs) -> Vec<Op> {
    let machine = &record.machine;
    let (card, campaign) = (machine.card, record.campaign());
    let remove = ExceptionChange::Remove { campaign, card };
    let begun = before.machine.place > 0 || before.machine.under_way.is_some();
    let Cause::Campaign { number, .. } = machine.cause else {
        return vec![Op::Exception(remove)];
    };
    let line = |result, detail: String| {
        let counter = before.machine.under_way.as_ref();
        let cause = counter.map_or(HistoryCause::Operator, |one| HistoryCause::Command {
            key_set: one.key_set,
            counter: one.counter.unwrap_or(0),
        });
        HistoryLine { at: now, cause, campaign: Some(campaign), result, detail }
    };
    let done = |applied, exception, history, progress| {
        vec![Op::PollDone(Box::new(PollDone {
            card,
            applied,
            settled: 0,
            next_poll: None,
            packets: Vec::new(),
            exceptions: vec![exception],
            history: vec![history],
            progress: vec![(campaign, progress)],
        }))]
    };
    match machine.state {
        State::Proven { by: by @ (Bearer::Sms | Bearer::Ip) } => {
            let progress = Progress { done_by_command: 1, ..Progress::default() };
            done(vec![number], remove, line(HistoryResult::Done, format!("by {}", by.name())), progress)
        }
        State::Refused { answer } if begun => {
            let progress = Progress { failed: 1, ..Progress::default() };
            let step = before.machine.portion().map_or(0, |portion| portion.step);
            let status = ExceptionStatus::Failed;
            let failed = Exception { campaign, card, status, attempts: 0, step, retry_at: None };
            let result = HistoryResult::Failed(answer.word.unwrap_or(u16::from(answer.status)));
            done(Vec::new(), ExceptionChange::Put(failed), line(result, answer.explained()), progress)
        }
        // The card's mark tells the next poll how far it came.
        _ => Vec::new(),
    }
}
