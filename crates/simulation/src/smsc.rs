//! A short-message service centre: SMPP towards platforms, a documented air interface towards devices.
//!
//! It stores, forwards, expires and reports like a real one, on a clock of its own that may run fast, and misbehaves on
//! request ([`Faults`]). Everything it does goes into a record, so that a test counts what really was on the wire.
//!
//! [`Core`] is the service centre without sockets and clock; [`Smsc`] runs it. The air interface is described in
//! `docs/air-interface.md`.
//!
//! With a register behind it ([`RegisterAddress`]) it is the VLR as well: it lets cards prove themselves before they are
//! attached, and tells the register where they are.

mod air;
mod core;
mod esme;
mod receipt;
mod record;
mod register;
mod server;
mod settings;

pub use self::core::{Core, Figures, Moment};
pub use air::{FromDevice, Hex, ToDevice};
pub use record::{Entry, Happened};
pub use register::{RegisterAddress, RegisterAddressError};
pub use server::{Smsc, SmscError};
pub use settings::{Account, Faults, IdStyle, Settings};
