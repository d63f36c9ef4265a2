//! What the demo reports: figures of the run, and seed A's Fig. 1 as it happened.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::figure::{BatchMark, Cause, Figure};

/// How the campaign came out on the cards that have been in the field, read from the cards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Effects {
    /// Cards that show every step once.
    pub once: u32,
    /// Cards on which something is missing.
    pub never: u32,
    /// Cards on which something ran more than once.
    pub twice: u32,
}

/// The figures of a run; their names are the JSON keys.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Cards imported.
    pub cards: u32,
    /// Cards that have never been in contact.
    pub never_seen: u32,
    /// Cards done in a poll of their own.
    pub done_by_poll: i64,
    /// Cards done in a session that a trigger asked for.
    pub done_by_trigger: i64,
    /// Trigger SMS in the SMSC's record.
    pub sms: u64,
    /// Trigger SMS to cards that have never been in contact.
    pub sms_to_never_seen: u64,
    /// Triggers of the first pass that left before one that the campaign's order wanted earlier.
    pub order_inversions: u64,
    /// The batches in the order in which half of their cards were done.
    pub batch_order: String,
    /// Most sessions open at any time.
    pub sessions_peak: u64,
    /// Most sessions that may be open.
    pub sessions_limit: u32,
    /// Most sessions open or refused at any time.
    pub demand_peak: u64,
    /// Connections refused because the server was full.
    pub refused: u64,
    /// Read from the cards.
    pub effects_on_cards: Effects,
    /// How long the demo took, in seconds.
    pub wall_s: f64,
}

/// Figures and figure.
pub struct Report {
    /// The numbers.
    pub figures: Figures,
    /// The picture.
    pub figure: Figure,
}

/// When and how one card was updated, in days since t0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contact {
    /// Last own poll before the start.
    pub before_days: f64,
    /// When the campaign was done on it, and by what; none: it was not.
    pub done: Option<(f64, Cause)>,
}

impl Report {
    /// Whether every card in the field had everything once.
    pub fn is_complete(&self) -> bool {
        self.figures.effects_on_cards.never == 0 && self.figures.effects_on_cards.twice == 0
    }

    /// The report for a terminal.
    pub fn text(&self, folder: &Path) -> String {
        let figures = &self.figures;
        let done = (figures.done_by_poll + figures.done_by_trigger).max(1) as f64;
        let percent = |part: i64| 100.0 * part as f64 / done;
        let mut out = String::new();
        let rows = [
            ("cards", format!("{}, {} of them never seen", figures.cards, figures.never_seen)),
            (
                "done by own poll",
                format!("{} ({:.0} %)", figures.done_by_poll, percent(figures.done_by_poll)),
            ),
            (
                "done by trigger",
                format!("{} ({:.0} %)", figures.done_by_trigger, percent(figures.done_by_trigger)),
            ),
            ("trigger SMS", format!("{}, {} to cards never seen", figures.sms, figures.sms_to_never_seen)),
            ("order inversions", figures.order_inversions.to_string()),
            (
                "sessions",
                format!(
                    "{} at most of {}, demand {}, {} refused",
                    figures.sessions_peak, figures.sessions_limit, figures.demand_peak, figures.refused
                ),
            ),
            (
                "effects on cards",
                format!(
                    "once {}, never {}, twice {} (read from each card by APDU)",
                    figures.effects_on_cards.once,
                    figures.effects_on_cards.never,
                    figures.effects_on_cards.twice
                ),
            ),
            ("batches", figures.batch_order.clone()),
            ("took", format!("{:.1} s", figures.wall_s)),
        ];
        let _ = writeln!(out);
        for (name, value) in rows {
            let _ = writeln!(out, "  {name:<18}{value}");
        }
        let _ = writeln!(out, "\n{}", self.figure.text());
        let _ = writeln!(out, "The figure as SVG, the logs and all files: {}", folder.display());
        out
    }
}

/// Divides the cards into equal batches by their place in the tide, and places each where half of it was done.
pub fn figure(mut contacts: Vec<Contact>, batches: usize, period_days: f64, start_days: f64) -> Figure {
    contacts.sort_by(|a, b| a.before_days.total_cmp(&b.before_days));
    let count = contacts.len();
    let mut figure = Figure { period_days, start_days, end_days: start_days, ..Figure::default() };
    for index in 0..batches {
        let batch = &contacts[index * count / batches..(index + 1) * count / batches];
        let number = index + 1;
        let before = median(batch.iter().map(|card| card.before_days).collect());
        if let Some(at_days) = before {
            figure.before.push(BatchMark { number, at_days, cause: Cause::Poll });
        }
        let done: Vec<(f64, Cause)> = batch.iter().filter_map(|card| card.done).collect();
        // Half of the whole batch, not of those that are done.
        let Some(at_days) = nth(done.iter().map(|(at, _)| *at).collect(), batch.len().div_ceil(2)) else {
            continue;
        };
        let triggered = done.iter().filter(|(_, cause)| *cause == Cause::Trigger).count();
        let cause = if triggered * 2 > done.len() { Cause::Trigger } else { Cause::Poll };
        figure.during.push(BatchMark { number, at_days, cause });
    }
    let last = contacts.iter().filter_map(|card| card.done).map(|(at, _)| at);
    figure.end_days = last.fold(start_days, f64::max);
    figure
}

fn median(values: Vec<f64>) -> Option<f64> {
    let half = values.len().div_ceil(2);
    nth(values, half)
}

/// The n-th smallest value, counted from 1.
fn nth(mut values: Vec<f64>, n: usize) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(n.checked_sub(1)?).copied()
}

/// Pairs of neighbouring triggers of which the second should have left first: its card's next poll was later.
pub fn inversions(planned_in_order_of_triggers: &[i64]) -> u64 {
    planned_in_order_of_triggers.windows(2).filter(|pair| pair[0] < pair[1]).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_stands_where_half_of_its_cards_are_done() {
        let card = |before_days, done| Contact { before_days, done };
        let contacts = vec![
            card(0.5, Some((20.5, Cause::Poll))),
            card(19.5, Some((20.6, Cause::Trigger))),
            card(0.6, Some((20.7, Cause::Poll))),
            card(19.6, None),
        ];
        let figure = figure(contacts, 2, 20.0, 20.0);
        assert_eq!(figure.batch_order(), "1-2");
        assert_eq!(figure.during[0], BatchMark { number: 1, at_days: 20.5, cause: Cause::Poll });
        assert_eq!(figure.during[1], BatchMark { number: 2, at_days: 20.6, cause: Cause::Trigger });
        assert_eq!(figure.end_days, 20.7);
    }

    #[test]
    fn a_batch_less_than_half_done_does_not_stand() {
        let contacts = vec![
            Contact { before_days: 1.0, done: None },
            Contact { before_days: 2.0, done: None },
            Contact { before_days: 3.0, done: Some((21.0, Cause::Poll)) },
        ];
        assert!(figure(contacts, 1, 20.0, 20.0).during.is_empty());
    }

    #[test]
    fn only_a_later_poll_after_an_earlier_one_is_an_inversion() {
        assert_eq!(inversions(&[30, 30, 20, 25, 10]), 1);
        assert_eq!(inversions(&[]), 0);
    }
}
