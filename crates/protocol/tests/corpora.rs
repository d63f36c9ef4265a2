//! The fuzz targets of this crate on their corpora, on damaged seeds, and on random bytes.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use simtide_protocol::fuzz;

type Target = fn(&[u8]);

/// Name (that of the corpus) and target.
const TARGETS: &[(&str, Target)] = &[
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

/// Every seed with its target.
fn seeds() -> Vec<(String, Vec<u8>, Target)> {
    let mut seeds = Vec::new();
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
        let before = seeds.len();
        for entry in
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        {
            let path = entry.unwrap().path();
            seeds.push((path.display().to_string(), std::fs::read(&path).unwrap(), *target));
        }
        assert!(seeds.len() > before, "{name} has no seeds");
    }
    seeds
}

#[test]
fn every_seed_passes() {
    for (path, seed, target) in seeds() {
        println!("{path}");
        target(&seed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn damaged_seeds_pass(
        seed in any::<Index>(),
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        cut in proptest::option::weighted(0.2, any::<Index>()),
    ) {
        let seeds = seeds();
        let (_, mut data, target) = seeds[seed.index(seeds.len())].clone();
        for (at, byte) in changes {
            if !data.is_empty() {
                let at = at.index(data.len());
                data[at] = byte;
            }
        }
        if let Some(cut) = cut {
            data.truncate(cut.index(data.len() + 1));
        }
        target(&data);
    }

    #[test]
    fn random_bytes_pass(data in proptest::collection::vec(any::<u8>(), 0..400)) {
        for (_, target) in TARGETS {
            target(&data);
        }
    }
}
