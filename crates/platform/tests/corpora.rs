//! The fuzz targets of this crate on their corpora, on damaged seeds, and on random bytes.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../../../fuzz/replay.rs"]
mod replay;

use simtide_platform::fuzz;

const TARGETS: replay::Targets = &[
    ("poll_answers", fuzz::poll_answers),
    ("audience_filter", fuzz::audience_filter),
    ("delivery_events", fuzz::delivery_events),
];
