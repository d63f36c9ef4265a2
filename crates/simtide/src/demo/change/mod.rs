//! `simtide demo --change`: cards move back and forth between two operators.
//!
//! Each operator has a register of its own (our authentication centre behind its gateway) and an SMSC of its own; the
//! platform stands between them. Every card is moved as often as asked for; at the end the cards are read by APDU and
//! prove themselves against both registers, which say what they hold.

mod messages;
mod opened;
mod operator;
mod reading;
mod stage;
mod wording;

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Changes asked for.
    pub changes: u64,
    /// Changes that are done.
    pub done: u64,
    /// Changes that were refused, or ended otherwise without success.
    pub refused: u64,
    /// Changes whose end is not known yet.
    pub unknown: u64,
    /// Cards whose identity and key belong together: they prove themselves against one register, and only one.
    pub cards_with_one_identity: u64,
    /// Cards that no register accepts.
    pub cards_stranded: u64,
    /// How many of the cards each operator's register accepts.
    pub registered_by_operator: BTreeMap<String, u64>,
    /// How long the demo took, in seconds.
    pub wall_s: f64,
}

/// The figures, and what a reader sees besides.
pub struct Report {
    /// The numbers.
    pub figures: Figures,
    /// Cards in the play.
    pub cards: u64,
    /// What every card holds: its line.
    pub card_lines: Vec<String>,
    /// What every register holds: its line.
    pub register_lines: Vec<String>,
    /// Identities that cards have left and that a register still accepts.
    pub left_behind: u64,
}

pub use stage::play;

impl Report {
    /// Whether every change is done and every card has one identity.
    pub fn is_complete(&self) -> bool {
        let figures = &self.figures;
        figures.done == figures.changes
            && figures.cards_with_one_identity == self.cards
            && figures.cards_stranded == 0
            && self.left_behind == 0
    }

    /// The report for a terminal.
    pub fn text(&self, folder: &std::path::Path) -> String {
        let figures = &self.figures;
        let mut out = String::new();
        let _ = writeln!(out, "\nthe cards, read by APDU:");
        for line in &self.card_lines {
            let _ = writeln!(out, "  {line}");
        }
        let _ = writeln!(out, "the registers:");
        for line in &self.register_lines {
            let _ = writeln!(out, "  {line}");
        }
        let registered: Vec<String> = figures
            .registered_by_operator
            .iter()
            .map(|(operator, count)| format!("{operator} {count}"))
            .collect();
        let rows = [
            (
                "changes",
                format!(
                    "{}: {} done, {} refused, {} unknown",
                    figures.changes, figures.done, figures.refused, figures.unknown
                ),
            ),
            (
                "cards",
                format!(
                    "{} of {} with one identity, {} stranded",
                    figures.cards_with_one_identity, self.cards, figures.cards_stranded
                ),
            ),
            ("registered", registered.join(", ")),
            ("left behind", format!("{} old identities that a register still accepts", self.left_behind)),
            ("took", format!("{:.1} s", figures.wall_s)),
        ];
        let _ = writeln!(out);
        for (name, value) in rows {
            let _ = writeln!(out, "  {name:<14}{value}");
        }
        let _ = writeln!(out, "\nLogs and all files: {}", folder.display());
        out
    }
}
