//! Personalization over the air: what a change of operator puts on a card, and what the card says about it (ours:
//! `docs/card-profile.md`).
//!
//! The platform builds a [`Message`] and seals it for one card under its admin code ([`Message::seal`]); it travels as the
//! commands of [`commands`] to the personalization application, in secured packets or in a script of a poll. The card
//! opens it ([`Sealed::open`]), stages the identity and answers with an [`Answer`]. In the other direction a card sends
//! [`Uplink`]s: the wish of its user to change, and the outcome of a guarded swap.
//!
//! | file | holds |
//! |---|---|
//! | `identity.rs` | IMSI, algorithm and keys of a subscription, and their digest |
//! | `files.rs` | the files that change with an operator |
//! | `message.rs` | the personalization message in both modes of protection |
//! | `command.rs` | the commands of the personalization application |
//! | `answer.rs` | what it answers: state of a change, status |
//! | `offer.rs` | the list of the menu, and what the device's own application needs for a request |
//! | `uplink.rs` | what a card sends by itself |

mod answer;
mod command;
mod files;
mod identity;
mod message;
mod offer;
mod uplink;

pub use answer::{Answer, AnswerError, CHANGES_MAX, Refusal, State, Status};
pub use command::{
    BLOCK_BYTES, PersonalizationCommand, STATUS_TAG, TEXT_BYTES_MAX, commands, put_operators, read_identity,
    read_offer, read_status, seal_wish, show_text,
};
pub use files::{FileContent, OperatorFile, OperatorFiles};
pub use identity::{DIGEST_BYTES, Identity, IdentityError, identity_digest};
pub use message::{
    ADMIN_CODE_BYTES, GUARD_S_MAX, MESSAGE_BYTES_MAX, Message, MessageError, NAME_BYTES_MAX, OpenFailure,
    Options, Protection, Sealed,
};
pub use offer::{
    OPERATORS_MAX, Offer, OperatorEntry, OperatorsError, Wish, decode_operators, encode_operators,
};
pub use uplink::{Consent, ConsentWay, Notice, Request, Uplink, UplinkError, UplinkHead};
