//! The line of waiting cards: what a store reads by its index, here a sorted array per bucket.

use simtide_platform::campaign::{Candidate, Cursor, Lane};
use simtide_protocol::ids::{Bucket, EpochMs};

use super::Policy;
use super::fleet::{DAY, Draw, Fleet, Kind, mix};

/// Cards examined for one page at most, as a store bounds it.
const EXAMINED_MAX: usize = 50_000;
/// Places that the random order draws from.
const RANDOM_PLACES: u64 = 1 << 18;

/// Cards by bucket, then by the key of the policy, the largest first, then by card.
pub(super) struct Line {
    cards: Vec<u32>,
    /// Where each bucket begins, and the end.
    starts: Vec<usize>,
    policy: Policy,
    period: i32,
}

/// The moment of a minute of the model; minute 0 is the start of the campaign.
pub(super) fn moment(minute: i32) -> EpochMs {
    // 2030-01-01T00:00:00Z.
    EpochMs::from_seconds(1_893_456_000 + i64::from(minute) * 60)
}

impl Line {
    pub(super) fn new(fleet: &Fleet, policy: Policy, period: i32, buckets: u16) -> Self {
        let bucket = |card: u32| (mix(u64::from(card)) % u64::from(buckets)) as usize;
        let mut line = Self { cards: vec![0; fleet.len() as usize], starts: Vec::new(), policy, period };
        let keys = || (0..fleet.len()).map(|card| line.key(fleet, card));
        let (least, most) =
            keys().fold((i64::MAX, i64::MIN), |(least, most), key| (least.min(key), most.max(key)));
        let places = (most - least + 1).max(1) as usize;
        let place = |card: u32, key: i64| bucket(card) * places + (most - key) as usize;

        // Counting sort: how many per place, then where each place begins, then every card to its place.
        let mut begins = vec![0u32; places * usize::from(buckets) + 1];
        for (card, key) in (0..).zip(keys()) {
            begins[place(card, key) + 1] += 1;
        }
        for index in 1..begins.len() {
            begins[index] += begins[index - 1];
        }
        let starts = (0..=usize::from(buckets)).map(|bucket| begins[bucket * places] as usize).collect();
        let mut sorted = vec![0; fleet.len() as usize];
        for (card, key) in (0..).zip(keys()) {
            let next = &mut begins[place(card, key)];
            sorted[*next as usize] = card;
            *next += 1;
        }
        (line.cards, line.starts) = (sorted, starts);
        line
    }

    pub(super) fn lanes(&self) -> Vec<Lane> {
        (0..self.starts.len() - 1).map(|bucket| Lane { bucket: Bucket(bucket as u16), operator: 1 }).collect()
    }

    /// The card at a place.
    pub(super) fn card(&self, place: u32) -> u32 {
        self.cards[place as usize]
    }

    /// The place as the planner orders it.
    pub(super) fn place(&self, fleet: &Fleet, place: u32) -> Cursor<u32> {
        Cursor { key: self.cursor_key(fleet, self.card(place)), card: place }
    }

    /// The next candidates of a lane that are not done, and where to go on. Places stand for cards.
    pub(super) fn page(
        &self,
        fleet: &Fleet,
        now: i32,
        lane: Lane,
        below: Option<Cursor<u32>>,
        rows: usize,
    ) -> (Vec<Candidate<u32>>, Option<Cursor<u32>>) {
        let bucket = usize::from(lane.bucket.0);
        let start = below.map_or(self.starts[bucket], |cursor| cursor.card as usize + 1);
        let end = self.starts[bucket + 1];
        let mut candidates = Vec::with_capacity(rows);
        let mut at = start;
        while at < end && candidates.len() < rows && at - start < EXAMINED_MAX {
            let card = self.cards[at];
            if !fleet.is_done(card) {
                candidates.push(self.candidate(fleet, now, at as u32));
            }
            at += 1;
        }
        let next = (at < end && at > start).then(|| self.place(fleet, (at - 1) as u32));
        (candidates, next)
    }

    fn candidate(&self, fleet: &Fleet, now: i32, place: u32) -> Candidate<u32> {
        let (card, place) = (self.card(place), self.place(fleet, place));
        if fleet.kind(card) == Kind::Never {
            return Candidate { place, last_update: None, next_poll: moment(now + self.period) };
        }
        let date = fleet.next_poll[card as usize];
        // The policies that know nothing of dates see every card's poll half a period away.
        let known = if self.policy.knows_dates() { date } else { now + self.period / 2 };
        Candidate { place, last_update: Some(moment(date - self.period)), next_poll: moment(known) }
    }

    fn cursor_key(&self, fleet: &Fleet, card: u32) -> EpochMs {
        moment(self.key(fleet, card).clamp(-1_000_000_000, 1_000_000_000) as i32)
    }

    /// What orders the line, in minutes; the largest comes first.
    fn key(&self, fleet: &Fleet, card: u32) -> i64 {
        // Before every date.
        let never = i64::from(-self.period - 400 * DAY);
        let date = i64::from(fleet.next_poll[card as usize]);
        match (self.policy, fleet.kind(card)) {
            (Policy::Random, _) => (fleet.random(card, Draw::Order, 0) % RANDOM_PLACES) as i64,
            (Policy::Seed | Policy::ClosedLoop | Policy::Oldest, Kind::Never) => never,
            (Policy::Seed, _) => date - i64::from(self.period),
            (Policy::ClosedLoop, _) => date,
            (Policy::Oldest, _) => -date,
        }
    }
}
