//! What `tests/corpora.rs` of every crate does with its fuzz targets: the corpora, damaged seeds, random bytes.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;

use super::TARGETS;

/// Names (those of the corpora) and targets.
pub type Targets = &'static [(&'static str, fn(&[u8]))];

/// Path, content, target.
type Seed = (String, Vec<u8>, fn(&[u8]));

/// Every seed with its target.
fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
        let before = seeds.len();
        let entries =
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
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
    #![proptest_config(ProptestConfig::with_cases(300))]

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
