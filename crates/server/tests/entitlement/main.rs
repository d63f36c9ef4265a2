//! The entitlement server over real sockets: by the book, by others' clients, and by those who mean no good.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attacks;
mod curl;
mod delivery;
mod osmo_hlr;
mod requests;
mod support;
