//! What a batch makes of the model.

use simtide_protocol::ids::{CardId, EpochMs};

use super::State;
use crate::store::rules::{self, Layout};
use crate::store::*;

impl State {
    pub(super) fn apply_all(
        &mut self,
        layout: Layout,
        group: Group,
        batch: &Batch,
    ) -> Result<Committed, StoreError> {
        let mut outcomes = Vec::with_capacity(batch.ops.len());
        for op in &batch.ops {
            let outcome = self.apply(layout, group, op)?;
            let stops = matches!(op, Op::PutCase { .. }) && outcome != Outcome::Done;
            outcomes.push(outcome);
            if stops {
                outcomes.resize(batch.ops.len(), Outcome::Skipped);
                break;
            }
        }
        Ok(Committed { outcomes })
    }

    fn apply(&mut self, layout: Layout, group: Group, op: &Op) -> Result<Outcome, StoreError> {
        Ok(match op {
            Op::ClaimAlias { alias, card, from } => self.claim(alias, *card, *from),
            Op::ReleaseAlias { alias, card } => {
                let is_theirs = self.aliases.get(alias) == Some(card);
                if is_theirs {
                    self.aliases.remove(alias);
                }
                if is_theirs { Outcome::Done } else { Outcome::Unchanged }
            }
            Op::PutCard(new) => {
                if self.cards.contains_key(&new.record.id) {
                    return Ok(Outcome::Unchanged);
                }
                let mut new = new.as_ref().clone();
                new.counters.sort_unstable();
                self.cards.insert(new.record.id, new);
                Outcome::Done
            }
            Op::ChangeCard { card, change: CardChange::Subscription(change) } => {
                self.subscription(*card, change)
            }
            Op::PutCase { row, version_before } => self.put_case(row, *version_before),
            Op::ChangeCard { card, change } => self.on_card(*card, |new| {
                rules::change_card(&mut new.record, &mut new.hot, &mut new.counters, change);
            }),
            Op::PollBegun { card, at, next_poll } => self.on_card(*card, |new| {
                new.hot.last_update = Some(*at);
                new.hot.next_poll = *next_poll;
            }),
            Op::Attempt { card, campaign, step, .. } => {
                if !self.cards.contains_key(card) {
                    return Ok(Outcome::Missing);
                }
                let before = self.exceptions.get(&(*card, *campaign));
                let row = rules::attempt_row(before, *campaign, *card, *step);
                self.exceptions.insert((*card, *campaign), row);
                Outcome::Done
            }
            Op::PollDone(done) => self.poll_done(layout, done)?,
            Op::Trigger(trigger) => self.trigger(trigger),
            Op::Command(command) => self.command(command),
            Op::Packet(change) => self.packet(change),
            Op::Exception(change) => self.exception(change),
            Op::History { card, lines } => {
                lines.iter().for_each(|line| self.history_line(*card, line));
                Outcome::Done
            }
            Op::Progress { bucket, campaign, change } => {
                self.progress.entry((*campaign, *bucket)).or_default().add(change);
                Outcome::Done
            }
            Op::Cursor { bucket, campaign, operator, cursor } => {
                self.cursors.insert((*campaign, *bucket, *operator), *cursor);
                Outcome::Done
            }
            Op::JumpCounters => {
                let cards = self.cards.values_mut().filter(|new| layout.group_of(new.record.id) == group);
                let counters = cards.flat_map(|new| new.counters.iter_mut());
                for (_, counter) in counters.filter(|(key_set, _)| key_set & UPLINK_COUNTER == 0) {
                    *counter = (*counter + COUNTER_JUMP).min(rules::COUNTER_MAX);
                }
                Outcome::Done
            }
            Op::Purge { packets_before, history_before } => {
                self.purge(layout, group, *packets_before, *history_before)
            }
            _ => self.apply_platform(op),
        })
    }

    fn apply_platform(&mut self, op: &Op) -> Outcome {
        match op {
            Op::PutCampaign(record) => {
                let number = self.campaigns.get(&record.id).and_then(|before| before.number);
                self.campaigns.insert(record.id, CampaignRecord { number, ..record.as_ref().clone() });
                Outcome::Done
            }
            Op::StartCampaign { campaign, at, state } => self.start(*campaign, *at, state),
            Op::PutDirectory(row) => {
                self.directory.insert(types::directory_key(row), row.clone());
                Outcome::Done
            }
            Op::Audit(line) => {
                let sequence = self.audit.len() as u64 + 1;
                let previous = self.audit.last().map_or([0; 32], |row| row.chain);
                let chain = rules::audit_chain(&previous, sequence, line);
                self.audit.push(AuditRow { sequence, chain, line: line.clone() });
                Outcome::Done
            }
            Op::Idempotency(row) => {
                let key = (row.tenant, row.key.clone());
                if self.idempotency.contains_key(&key) {
                    return Outcome::Unchanged;
                }
                self.idempotency.insert(key, row.as_ref().clone());
                Outcome::Done
            }
            Op::PutImportJob(job) => {
                self.import_jobs.insert(job.id, job.as_ref().clone());
                Outcome::Done
            }
            _ => Outcome::Missing,
        }
    }

    fn claim(&mut self, alias: &Alias, card: CardId, from: Option<CardId>) -> Outcome {
        match self.aliases.get(alias) {
            Some(owner) if *owner == card => Outcome::Unchanged,
            Some(owner) if Some(*owner) != from => Outcome::Taken(*owner),
            _ => {
                self.aliases.insert(alias.clone(), card);
                Outcome::Done
            }
        }
    }

    fn on_card(&mut self, card: CardId, change: impl FnOnce(&mut NewCard)) -> Outcome {
        let Some(new) = self.cards.get_mut(&card) else { return Outcome::Missing };
        change(new);
        Outcome::Done
    }

    fn put_case(&mut self, row: &CaseRow, version_before: Option<u32>) -> Outcome {
        let found = self.cases.get(&(row.kind, row.id)).map(|row| row.version);
        if found.is_none() && !self.cards.contains_key(&row.card) {
            return Outcome::Missing;
        }
        let other = self.cases.values().find(|other| {
            other.card == row.card && other.kind == row.kind && other.open && other.id != row.id
        });
        match rules::grant_case(row, version_before, found, other.map(|other| other.id)) {
            Ok(()) => {
                let key = (row.kind, row.id);
                let row = match self.cases.remove(&key) {
                    Some(CaseRow { card, tenant, at, .. }) => CaseRow { card, tenant, at, ..row.clone() },
                    None => row.clone(),
                };
                self.cases.insert(key, row);
                Outcome::Done
            }
            Err(outcome) => outcome,
        }
    }

    fn subscription(&mut self, card: CardId, change: &SubscriptionChange) -> Outcome {
        let Some(new) = self.cards.get_mut(&card) else { return Outcome::Missing };
        let identities = self.identities.entry(card).or_default();
        let added = rules::identity_rows(&new.record, new.hot.operator, identities.last(), change);
        if added.is_empty() {
            return Outcome::Unchanged;
        }
        identities.extend(added);
        let change = CardChange::Subscription(Box::new(change.clone()));
        rules::change_card(&mut new.record, &mut new.hot, &mut new.counters, &change);
        Outcome::Done
    }

    fn poll_done(&mut self, layout: Layout, done: &PollDone) -> Result<Outcome, StoreError> {
        let Some(new) = self.cards.get_mut(&done.card) else { return Ok(Outcome::Missing) };
        rules::poll_done(&mut new.hot, done)?;
        done.packets.iter().for_each(|change| {
            self.packet(change);
        });
        done.exceptions.iter().for_each(|change| {
            self.exception(change);
        });
        done.history.iter().for_each(|line| self.history_line(done.card, line));
        for (campaign, change) in &done.progress {
            self.progress.entry((*campaign, layout.bucket(done.card))).or_default().add(change);
        }
        Ok(Outcome::Done)
    }

    fn has_open_packet(&self, card: CardId) -> bool {
        self.packets.values().any(|packet| packet.key.card == card && packet.state.is_open())
    }

    fn counter(&self, card: CardId, key_set: u8) -> Option<u64> {
        let counters = &self.cards.get(&card)?.counters;
        counters.iter().find(|(index, _)| *index == key_set).map(|(_, counter)| *counter)
    }

    fn reserve(&mut self, packet: Packet) {
        let key = packet.key;
        if let Some(new) = self.cards.get_mut(&key.card) {
            new.counters
                .iter_mut()
                .filter(|(index, _)| *index == key.key_set)
                .for_each(|(_, last)| *last = key.counter);
        }
        self.packets.insert(key, packet);
    }

    fn trigger(&mut self, trigger: &Trigger) -> Outcome {
        let mut grants = Vec::with_capacity(trigger.cards.len());
        for seen in &trigger.cards {
            let hot = self.cards.get(&seen.card).map(|new| &new.hot);
            let counter = self.counter(seen.card, seen.key_set);
            let grant =
                rules::grant_trigger(hot, seen, trigger.number, self.has_open_packet(seen.card), counter);
            if let Ok(counter) = grant {
                self.reserve(rules::trigger_packet(trigger, seen, counter));
            }
            grants.push(grant);
        }
        let sums = self.progress.entry((trigger.campaign, trigger.bucket)).or_default();
        sums.add(&rules::trigger_progress(&grants));
        if let Some((operator, cursor)) = trigger.cursor {
            self.cursors.insert((trigger.campaign, trigger.bucket, operator), cursor);
        }
        Outcome::Triggered(grants)
    }

    fn command(&mut self, command: &Command) -> Outcome {
        let Some(new) = self.cards.get(&command.card) else { return Outcome::Missing };
        let counter = self.counter(command.card, command.key_set);
        match rules::grant_command(&new.hot, self.has_open_packet(command.card), counter) {
            Ok(counter) => {
                self.reserve(rules::command_packet(command, counter));
                Outcome::Counter(counter)
            }
            Err(passed_over) => Outcome::PassedOver(passed_over),
        }
    }

    fn packet(&mut self, change: &PacketChange) -> Outcome {
        let Some(packet) = self.packets.get_mut(&change.key) else { return Outcome::Missing };
        if !packet.state.may_become(change.state) {
            return Outcome::Unchanged;
        }
        packet.state = change.state;
        packet.deadline = change.deadline.unwrap_or(packet.deadline);
        if !change.message_ids.is_empty() {
            packet.message_ids.clone_from(&change.message_ids);
        }
        Outcome::Done
    }

    fn exception(&mut self, change: &ExceptionChange) -> Outcome {
        match change {
            ExceptionChange::Put(row) => {
                self.exceptions.insert((row.card, row.campaign), row.clone());
                Outcome::Done
            }
            ExceptionChange::Remove { campaign, card } => match self.exceptions.remove(&(*card, *campaign)) {
                Some(_) => Outcome::Done,
                None => Outcome::Missing,
            },
        }
    }

    fn history_line(&mut self, card: CardId, line: &HistoryLine) {
        let detail = rules::cut_detail(&line.detail).to_owned();
        self.history.entry(card).or_default().push(HistoryLine { detail, ..line.clone() });
    }

    fn purge(
        &mut self,
        layout: Layout,
        group: Group,
        packets_before: EpochMs,
        history_before: EpochMs,
    ) -> Outcome {
        let mut count = 0;
        self.packets.retain(|key, packet| {
            let old = !packet.state.is_open() && packet.deadline < packets_before;
            let gone = old && layout.group_of(key.card) == group;
            count += u64::from(gone);
            !gone
        });
        self.cases.retain(|_, row| {
            let old = row.kind == CaseKind::Delivery && !row.open && row.at < history_before;
            let gone = old && layout.group_of(row.card) == group;
            count += u64::from(gone);
            !gone
        });
        for (card, lines) in &mut self.history {
            let before = lines.len();
            lines.retain(|line| layout.group_of(*card) != group || line.at >= history_before);
            count += (before - lines.len()) as u64;
        }
        Outcome::Count(count)
    }

    fn start(&mut self, campaign: CampaignId, at: EpochMs, state: &str) -> Outcome {
        let Some(tenant) = self.campaigns.get(&campaign).map(|record| record.tenant) else {
            return Outcome::Missing;
        };
        let of_tenant = || self.campaigns.values().filter(|record| record.tenant == tenant);
        let open = of_tenant().filter(|record| record.number.is_some() && record.ended_at.is_none()).count();
        let next = of_tenant().filter_map(|record| record.number).max().unwrap_or(0) + 1;
        let oldest_open =
            of_tenant().filter(|record| record.ended_at.is_none()).filter_map(|record| record.number).min();
        let Some(record) = self.campaigns.get_mut(&campaign) else { return Outcome::Missing };
        if let Some(number) = record.number {
            record.state = state.to_owned();
            return Outcome::Number(number);
        }
        if open as u32 >= CAMPAIGNS_RUNNING_MAX
            || oldest_open.is_some_and(|oldest| next - oldest >= CAMPAIGNS_RUNNING_MAX)
        {
            return Outcome::Full;
        }
        record.number = Some(next);
        record.started_at = Some(at);
        record.state = state.to_owned();
        Outcome::Number(next)
    }
}
