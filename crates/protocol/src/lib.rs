//! What two parties must agree on: identifiers, bytes on the wire, contents of files, and the rules that both sides
//! compute alike. No I/O, no clock, no random source.
//!
//! | module | holds |
//! |---|---|
//! | [`ids`] | ICCID, EID, IMSI, MSISDN, TAR, AID, card ids, moments |
//! | [`tlv`], [`apdu`] | what everything else is coded in |
//! | [`scp80`], [`sms`] | secured packets, and the short messages that carry them |
//! | [`eap`] | EAP-AKA and EAP-AKA', both ends |
//! | [`entitlement`] | requests and documents of entitlement servers |
//! | [`second_layer`] | what travels around sealed packets over IP, keyed by the card |
//! | [`script`], [`rfm`], [`ram`], [`patch`] | scripts and the commands in them |
//! | [`scp81`], [`trigger`] | administration over HTTPS, and the message that asks for it |
//! | [`poll_date`] | EF.POLL, EF.MARK, and the rule of the next date |
//! | [`personalization`] | a change of operator: what it puts on a card, and what the card says |
//! | [`aka`], [`milenage`], [`tuak`] | authentication of subscribers |
//! | [`gsup`] | how network elements ask a register |
//! | [`profile`] | what a kind of card can do |
//! | [`card_file`] | what card vendors deliver |
//! | [`fuzz`] | targets that take any bytes |

pub mod aka;
pub mod apdu;
pub mod card_file;
pub mod eap;
pub mod entitlement;
pub mod fuzz;
pub mod gsup;
pub mod ids;
pub mod milenage;
pub mod patch;
pub mod personalization;
pub mod poll_date;
pub mod profile;
pub mod ram;
pub mod rfm;
pub mod scp80;
pub mod scp81;
pub mod script;
pub mod second_layer;
pub mod sms;
pub mod tlv;
pub mod trigger;
pub mod tuak;
