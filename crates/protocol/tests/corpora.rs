//! The fuzz targets of this crate on their corpora, on damaged seeds, and on random bytes.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../../../fuzz/replay.rs"]
mod replay;

use simtide_protocol::fuzz;

const TARGETS: replay::Targets = &[
    ("scp80_command", fuzz::scp80_command),
    ("scp80_response", fuzz::scp80_response),
    ("sms_tpdu", fuzz::sms_tpdu),
    ("sms_udh", fuzz::sms_udh),
    ("scp81_request", fuzz::scp81_request),
    ("scp81_response", fuzz::scp81_response),
    ("script", fuzz::script),
    ("script_response", fuzz::script_response),
    ("trigger", fuzz::trigger),
    ("tlv", fuzz::tlv),
    ("personalization_message", fuzz::personalization_message),
    ("personalization_uplink", fuzz::personalization_uplink),
    ("card_file_contents", fuzz::card_file_contents),
    ("gsup", fuzz::gsup),
    ("vendor_out", fuzz::vendor_out),
    ("vendor_csv", fuzz::vendor_csv),
    ("eap_server", fuzz::eap_server),
    ("eap_peer", fuzz::eap_peer),
    ("entitlement_request", fuzz::entitlement_request),
    ("entitlement_document", fuzz::entitlement_document),
    ("second_layer", fuzz::second_layer),
];
