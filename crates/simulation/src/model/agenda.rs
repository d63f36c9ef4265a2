//! What falls due in which minute.

use super::fleet::{Fleet, NEVER};

/// How an attempt to open a session came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Own,
    Trigger,
}

/// An attempt to open a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) card: u32,
    pub(super) origin: Origin,
    /// Refusals before this one.
    pub(super) refused: u8,
}

/// Attempts and ends of validity by minute. The dates that cards have at the beginning lie in one sorted array;
/// what comes up later in a list per minute.
pub(super) struct Agenda {
    begin: i32,
    first_dates: Vec<u32>,
    /// Where each minute begins in `first_dates`, and the end.
    starts: Vec<u32>,
    attempts: Vec<Vec<Attempt>>,
    expiries: Vec<Vec<u32>>,
}

impl Agenda {
    pub(super) fn new(fleet: &Fleet, begin: i32, end: i32) -> Self {
        let minutes = (end - begin) as usize;
        let inside = |date: i32| (begin..end).contains(&date).then(|| (date - begin) as usize);
        let mut starts = vec![0u32; minutes + 1];
        for date in fleet.next_poll.iter().filter_map(|date| inside(*date)) {
            starts[date + 1] += 1;
        }
        for minute in 0..minutes {
            starts[minute + 1] += starts[minute];
        }
        let mut next = starts.clone();
        let mut first_dates = vec![0; starts[minutes] as usize];
        for (card, date) in (0..).zip(&fleet.next_poll) {
            if let Some(minute) = inside(*date) {
                first_dates[next[minute] as usize] = card;
                next[minute] += 1;
            }
        }
        Self {
            begin,
            first_dates,
            starts,
            attempts: vec![Vec::new(); minutes],
            expiries: vec![Vec::new(); minutes],
        }
    }

    /// Everything that falls due in a minute; each minute is asked for once, in order.
    pub(super) fn due(&mut self, minute: i32, attempts: &mut Vec<Attempt>) -> Vec<u32> {
        let index = (minute - self.begin) as usize;
        let dates = self.starts[index] as usize..self.starts[index + 1] as usize;
        let own = |card: &u32| Attempt { card: *card, origin: Origin::Own, refused: 0 };
        attempts.extend(self.first_dates[dates].iter().map(own));
        attempts.append(&mut std::mem::take(&mut self.attempts[index]));
        std::mem::take(&mut self.expiries[index])
    }

    pub(super) fn attempt(&mut self, minute: i32, attempt: Attempt) {
        if minute != NEVER
            && let Some(list) = self.attempts.get_mut((minute - self.begin) as usize)
        {
            list.push(attempt);
        }
    }

    pub(super) fn expiry(&mut self, minute: i32, card: u32) {
        if let Some(list) = self.expiries.get_mut((minute - self.begin) as usize) {
            list.push(card);
        }
    }
}
