//! The fuzz targets of this crate on their corpora, on damaged seeds, and on random bytes.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../../../fuzz/replay.rs"]
mod replay;

use simtide_card::fuzz;

const TARGETS: replay::Targets = &[
    ("card_apdus", fuzz::card_apdus),
    ("card_scripts", fuzz::card_scripts),
    ("card_journal", fuzz::card_journal),
    ("card_personalization", fuzz::card_personalization),
];
