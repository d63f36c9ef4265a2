//! The fuzz targets of this crate on their corpora, on damaged seeds, and on random bytes.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../../../fuzz/replay.rs"]
mod replay;

use simtide_server::{fuzz, registers};

const TARGETS: replay::Targets = &[
    ("smpp_link", fuzz::smpp_link),
    ("delivery_content", fuzz::delivery_content),
    ("register_gateway", registers::fuzz::register_gateway),
    ("register_ctrl", registers::fuzz::register_ctrl),
    ("register_rest", registers::fuzz::register_rest),
    ("register_pool_file", registers::fuzz::register_pool_file),
];
