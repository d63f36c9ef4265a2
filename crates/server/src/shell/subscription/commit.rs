//! The one commit of an event: the change's record, the packets that it reserves, the card's new subscription.

use std::collections::VecDeque;

use simtide_platform::delivery::Evidence;
use simtide_platform::subscription::{Change, Command, Event, Identity, PacketKind, Party, State};
use simtide_protocol::ids::{ChangeId, EpochMs};

use super::personalization::{self, Carried, Receiver};
use super::texts::TEXT_FIRST_S;
use super::{Changes, Effect, read, tally};
use crate::kill_point;
use crate::store::{
    CampaignId, Card, CardChange, CaseRow, Cause, Command as PacketCommand, HistoryLine, HistoryResult, Op,
    Origin, Outcome, Packet, PacketChange, PacketKey, PacketState, StoreError, SubscriptionChange,
};

/// Milliseconds between two ticks of a change at least.
const PAUSE_MS_MIN: i64 = 100;

/// Why a change was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotWritten {
    /// Another one of the card is open; what stood beside it was written.
    #[error("change {0} of the card is open")]
    Open(ChangeId),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<NotWritten> for StoreError {
    fn from(error: NotWritten) -> StoreError {
        match error {
            NotWritten::Open(_) => StoreError::Misuse("two open changes of one card"),
            NotWritten::Store(error) => error,
        }
    }
}

/// A packet that the commit is to reserve.
struct Reservation {
    kind: PacketKind,
    over: Option<Party>,
    command: PacketCommand,
}

/// What one event makes durable.
struct Plan {
    ops: Vec<Op>,
    reservation: Option<Reservation>,
    /// Nothing can be reserved: as if there had been no place.
    not_queued: Option<PacketKind>,
    /// The message is not reserved: it takes too many short messages, and the card polls.
    only_by_poll: bool,
}

impl Changes {
    /// Handles the event and those that its commits bring; answers the change as it is now, and what is to be done.
    pub(super) async fn settle(
        &self,
        row: CaseRow,
        event: Event,
        beside: Vec<Op>,
        sealed: Option<Vec<u8>>,
    ) -> Result<(Change, Vec<Effect>), NotWritten> {
        let mut change = read(&row)?;
        let before = change.clone();
        let now = self.core.now();
        let commands = change.handle(now, event);
        let row = CaseRow { sealed: sealed.unwrap_or_else(|| row.sealed.clone()), ..row };
        self.settle_from(now, row, Some(before), change, commands, beside).await
    }

    /// The same from the first commands of a change that is new (`before`: `None`).
    pub(super) async fn settle_from(
        &self,
        mut now: EpochMs,
        mut row: CaseRow,
        mut before: Option<Change>,
        mut change: Change,
        mut commands: Vec<Command>,
        mut beside: Vec<Op>,
    ) -> Result<(Change, Vec<Effect>), NotWritten> {
        let mut events = VecDeque::new();
        let mut effects = Vec::new();
        loop {
            let in_commit = commands.iter().any(Command::is_in_commit);
            let is_same = before.as_ref().is_some_and(|before| *before == change);
            if in_commit || !is_same || !beside.is_empty() {
                let beside = std::mem::take(&mut beside);
                let (event, sent) =
                    self.commit(now, &mut row, before.as_ref(), &change, &commands, beside).await?;
                events.extend(event);
                effects.extend(sent);
            }
            let is_done = |one: &Command| one.is_in_commit() || matches!(one, Command::Tell(_));
            effects.extend(commands.into_iter().filter(|one| !is_done(one)).map(Effect::Command));
            let Some(event) = events.pop_front() else { break };
            before = Some(change.clone());
            now = self.core.now();
            commands = change.handle(now, event);
        }
        self.timers.set((change.card, change.id), change.due().map(|due| due.max(now.plus_ms(PAUSE_MS_MIN))));
        Ok((change, effects))
    }

    async fn commit(
        &self,
        now: EpochMs,
        row: &mut CaseRow,
        before: Option<&Change>,
        change: &Change,
        commands: &[Command],
        beside: Vec<Op>,
    ) -> Result<(Option<Event>, Option<Effect>), NotWritten> {
        let version_before = before.map(|_| row.version);
        row.version += 1;
        row.state = change.state.code();
        row.open = change.is_open();
        row.due = change.due();
        row.body = serde_json::to_vec(change).map_err(|_| StoreError::Misuse("a change is not JSON"))?;
        let card = match commands.iter().any(|one| one.is_in_commit() || matches!(one, Command::Tell(_))) {
            true => self.core.store.card(change.card).await?,
            false => None,
        };
        let plan = self.plan(row, change, commands, card.as_ref(), now).await?;
        let mut ops = beside;
        let place = ops.len();
        ops.push(Op::PutCase { row: Box::new(row.clone()), version_before });
        ops.extend(plan.ops);
        let reserved_at = ops.len();
        let reserved = plan.reservation.as_ref().map(|one| Op::Command(Box::new(one.command.clone())));
        ops.extend(reserved);
        let lines = history(before, change, now);
        if !lines.is_empty() {
            ops.push(Op::History { card: change.card, lines });
        }
        if let Some((campaign, change)) = tally::sums(before, change) {
            let (campaign, bucket) = (CampaignId(campaign), self.core.bucket(&row.card));
            ops.push(Op::Progress { bucket, campaign, change });
        }
        let text = card.as_ref().and_then(|card| self.text(card, commands));
        let text_at = ops.len();
        ops.extend(text.clone().map(|(_, packet)| Op::Command(Box::new(packet))));
        kill_point::reached("change.commit.before");
        let outcomes = self.core.commit_card(&change.card, ops).await?.outcomes;
        kill_point::reached("change.commit.after");
        match outcomes.get(place) {
            Some(Outcome::Done) => {
                self.tally.is_now(change);
                self.watch.is_now(change);
            }
            Some(Outcome::OpenCase(other)) => return Err(NotWritten::Open(ChangeId(*other))),
            _ => return Err(StoreError::Misuse("a change has moved on outside of its turn").into()),
        }
        if let Some((text, packet)) = text {
            self.text_reserved(change.card, text, packet, outcomes.get(text_at)).await;
        }
        let Some(Reservation { kind, over, command }) = plan.reservation else {
            let only_by_poll = plan.only_by_poll.then_some(Event::OnlyByPoll);
            return Ok((plan.not_queued.map(|kind| Event::NotQueued { kind }).or(only_by_poll), None));
        };
        match outcomes.get(reserved_at) {
            Some(Outcome::Counter(counter)) => {
                let packet = Box::new(queued(command, *counter));
                Ok((Some(Event::Queued { kind, counter: *counter }), Some(Effect::Send(packet, over))))
            }
            _ => Ok((Some(Event::NotQueued { kind }), None)),
        }
    }

    /// What the user is told: reserved with the state that it is about.
    fn text(&self, card: &Card, commands: &[Command]) -> Option<(&'static str, PacketCommand)> {
        let text = commands.iter().find_map(|command| match command {
            Command::Tell(text) => Some(text.text()),
            _ => None,
        })?;
        Some((text, self.text_packet(card, text)?))
    }

    /// What the commands are in the commit, beside the record.
    async fn plan(
        &self,
        row: &CaseRow,
        change: &Change,
        commands: &[Command],
        card: Option<&Card>,
        now: EpochMs,
    ) -> Result<Plan, StoreError> {
        let mut plan = Plan { ops: Vec::new(), reservation: None, not_queued: None, only_by_poll: false };
        let Some(card) = card else { return Ok(plan) };
        for command in commands {
            match command {
                Command::SendPersonalization { .. } if self.is_for_a_poll(card, row) => {
                    plan.only_by_poll = true
                }
                Command::SendPersonalization { validity_s, .. } => {
                    let deadline = now.plus_s(i64::from(*validity_s));
                    plan.ops.extend(self.clear_way(card, now, None).await?);
                    self.reserve_packet(
                        &mut plan,
                        change,
                        card,
                        PacketKind::Personalization,
                        (now, deadline),
                        None,
                    );
                }
                Command::Fence { over, validity_s, .. } => {
                    let deadline = now.plus_s(i64::from(*validity_s));
                    let own = Origin::Change(change.id);
                    plan.ops.extend(self.clear_way(card, now, Some(own)).await?);
                    self.reserve_packet(
                        &mut plan,
                        change,
                        card,
                        PacketKind::Fence,
                        (now, deadline),
                        Some(*over),
                    );
                }
                Command::Adopt(identity) => plan.ops.extend(self.adopt(row, change, card, *identity, now)),
                _ => {}
            }
        }
        Ok(plan)
    }

    fn reserve_packet(
        &self,
        plan: &mut Plan,
        change: &Change,
        card: &Card,
        kind: PacketKind,
        (at, deadline): (EpochMs, EpochMs),
        over: Option<Party>,
    ) {
        let catalogue = self.core.catalogue();
        let receiver = catalogue.profile(card.hot.profile).and_then(|profile| Receiver::of(profile));
        let data = match kind {
            // It holds keys: rebuilt from the change's sealed record when it is sealed.
            PacketKind::Personalization => Ok(Vec::new()),
            PacketKind::Fence => personalization::fence(),
        };
        let (Some(receiver), Ok(data)) = (receiver, data) else {
            tracing::error!(change = %change.id, "the card's profile has lost its personalization application");
            plan.not_queued = Some(kind);
            return;
        };
        let command = PacketCommand {
            card: change.card,
            key_set: receiver.key_set,
            origin: Origin::Change(change.id),
            tar: receiver.tar,
            spi: receiver.spi,
            data,
            at,
            deadline,
        };
        plan.reservation = Some(Reservation { kind, over, command });
    }

    /// Gives up packets that stand in the way: texts that have had their time, and those of `own`.
    async fn clear_way(&self, card: &Card, now: EpochMs, own: Option<Origin>) -> Result<Vec<Op>, StoreError> {
        let open = self.core.store.open_packets(card.record.id).await?;
        let in_the_way = open.into_iter().filter(|packet| {
            let is_text = packet.origin == Origin::Request && personalization::is_text(&packet.data);
            let gives_way = is_text && packet.at.plus_s(TEXT_FIRST_S) <= now;
            gives_way || own == Some(packet.origin)
        });
        let mut ops = Vec::new();
        for packet in in_the_way {
            // In memory too; the row is written by the commit.
            let _ = self.flight.evidence(packet.key, now, Evidence::Abandon);
            let state = PacketState::Abandoned;
            let change = PacketChange { key: packet.key, state, message_ids: Vec::new(), deadline: None };
            ops.push(Op::Packet(change));
        }
        Ok(ops)
    }

    /// Identity 2 is the card's subscription from now on.
    fn adopt(
        &self,
        row: &CaseRow,
        change: &Change,
        card: &Card,
        identity: Identity,
        now: EpochMs,
    ) -> Option<Op> {
        let opened = self.core.keyring.open_change(change.id, &card.record, &row.sealed);
        let sealed = opened
            .map_err(|error| error.to_string())
            .and_then(|plain| Carried::from_plain(&plain).map_err(|error| error.to_string()))
            .and_then(|carried| {
                let sealed = self.core.keyring.seal_identity(&card.record, &carried.identity);
                sealed.map_err(|error| error.to_string())
            });
        let sealed_subscription = sealed
            .inspect_err(|error| tracing::error!(error, "the keys of a new subscription cannot be kept"))
            .unwrap_or_default();
        let subscription = SubscriptionChange {
            imsi: identity.imsi,
            // Where register 2 gives none, the number has moved with its user.
            msisdn: identity.msisdn.or(card.record.msisdn),
            operator: crate::store::OperatorId(change.to.operator),
            sealed_subscription,
            at: now,
            change: change.id,
        };
        let change = CardChange::Subscription(Box::new(subscription));
        Some(Op::ChangeCard { card: card.record.id, change })
    }
}

/// A packet as its commit has reserved it.
pub(super) fn queued(command: PacketCommand, counter: u64) -> Packet {
    Packet {
        key: PacketKey { card: command.card, key_set: command.key_set, counter },
        origin: command.origin,
        tar: command.tar,
        spi: command.spi,
        state: PacketState::Queued,
        at: command.at,
        deadline: command.deadline,
        message_ids: Vec::new(),
        data: command.data,
    }
}

/// Lines of the card's history for the states that the change has entered. The record keeps some of its steps only, and
/// takes one back that came to nothing.
fn history(before: Option<&Change>, change: &Change, now: EpochMs) -> Vec<HistoryLine> {
    let written = before.map_or(&[][..], |before| &before.steps);
    let last = written.iter().rev().find_map(|step| change.steps.iter().rposition(|other| other == step));
    let entered = change.steps.iter().skip(last.map_or(0, |last| last + 1));
    let line = |(at, state): &(EpochMs, State)| {
        let result = match state {
            State::Done => HistoryResult::Done,
            State::Refused | State::Failed | State::Reverted => HistoryResult::Failed(0),
            State::Unknown => HistoryResult::Broken,
            State::Cancelled => HistoryResult::Interrupted,
            _ => HistoryResult::Nothing,
        };
        let detail =
            format!("change {} from {} to {}: {}", change.id, change.from.name, change.to.name, state.name());
        HistoryLine {
            at: (*at).max(EpochMs(0)).min(now),
            cause: Cause::Operator,
            campaign: change.evidence.campaign.map(CampaignId),
            result,
            detail,
        }
    };
    entered.map(line).collect()
}

#[cfg(test)]
mod tests {
    use simtide_platform::subscription::{
        AgreementTerms, Evidence, OperatorSettings, Request, Side, Terms, Way,
    };
    use simtide_protocol::ids::{CardId, Iccid};

    use super::*;

    fn change() -> Change {
        let side =
            |operator: u32| Side { operator, id_mno: operator.to_string(), name: operator.to_string() };
        let (settings, agreed) = (OperatorSettings::default(), AgreementTerms::default());
        let evidence = Evidence {
            agreed_at: EpochMs(0),
            way: Way::WebSite,
            token: String::new(),
            campaign: None,
            uplink_counter: None,
            reference: String::new(),
        };
        let request = Request {
            id: ChangeId(7),
            card: CardId::from(Iccid::with_check_digit("890010000000000001").unwrap()),
            from: side(1),
            imsi: "001010000000001".parse().unwrap(),
            msisdn: None,
            to: side(2),
            terms: Terms::of(&settings, &settings, &agreed, Way::WebSite),
            evidence,
        };
        Change::begin(EpochMs(0), request).0
    }

    #[test]
    fn every_state_gets_its_line_however_many_there_are() {
        let mut change = change();
        let first = history(None, &change, EpochMs(1_000));
        assert_eq!(first.len(), change.steps.len());
        for at in 1..100 {
            let before = change.clone();
            if change.steps.len() >= 24 {
                change.steps.remove(1);
            }
            change.steps.push((EpochMs(at), State::Unknown));
            let [line] = &history(Some(&before), &change, EpochMs(1_000))[..] else { panic!("one line") };
            assert_eq!(line.at, EpochMs(at));
        }
        // A step that is taken back, because nothing has left, is none; what follows it is one.
        let before = change.clone();
        change.steps.pop();
        assert!(history(Some(&before), &change, EpochMs(1_000)).is_empty());
        change.steps.push((EpochMs(200), State::Cancelled));
        assert_eq!(history(Some(&before), &change, EpochMs(1_000)).len(), 1);
    }
}
