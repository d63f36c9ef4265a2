//! The fuzz targets of this crate on their corpora, on damaged seeds, and on random bytes.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use simtide_server::fuzz;

type Target = fn(&[u8]);

/// Name (that of the corpus) and target.
const TARGETS: &[(&str, Target)] = &[("smpp_link", fuzz::smpp_link)];

/// Every seed with its target.
fn seeds() -> Vec<(Vec<u8>, Target)> {
    let mut seeds = Vec::new();
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
        let before = seeds.len();
        for entry in std::fs::read_dir(&folder).unwrap() {
            seeds.push((std::fs::read(entry.unwrap().path()).unwrap(), *target));
        }
        assert!(seeds.len() > before, "{name} has no seeds");
    }
    seeds
}

#[test]
fn corpora_do_no_harm() {
    for (seed, target) in seeds() {
        target(&seed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_bytes_do_no_harm(data in proptest::collection::vec(any::<u8>(), 0..400)) {
        for (_, target) in TARGETS {
            target(&data);
        }
    }

    #[test]
    fn damaged_seeds_do_no_harm(at in any::<Index>(), byte in any::<u8>(), cut in any::<Index>()) {
        for (mut seed, target) in seeds() {
            if seed.is_empty() {
                continue;
            }
            let at = at.index(seed.len());
            seed[at] = byte;
            target(&seed);
            seed.truncate(cut.index(seed.len()));
            target(&seed);
        }
    }
}
