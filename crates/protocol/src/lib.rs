//! What two parties must agree on.

pub mod apdu;
pub mod card_file;
pub mod fuzz;
pub mod ids;
pub mod poll_date;
pub mod profile;
pub mod sms;
pub mod tlv;
pub mod scp80;
pub mod scp81;
pub mod script;
pub mod ram;
pub mod rfm;
pub mod trigger;
pub mod aka;
pub mod milenage;
pub mod patch;
