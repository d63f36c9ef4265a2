//! The fuzz targets of this crate on their corpora, on damaged seeds, and on random bytes.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../../../fuzz/replay.rs"]
mod replay;

use simtide_server::fuzz;

const TARGETS: replay::Targets = &[("smpp_link", fuzz::smpp_link)];
