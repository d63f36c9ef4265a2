//! The house rules that a compiler does not check.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target" && name != ".git") {
                files(&path, extension, found);
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(&root().join("crates"), "rs", &mut found);
    found
}

/// Who may depend on whom: the arrows of ARCHITECTURE.md.
#[test]
fn crates_point_only_where_the_architecture_says() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("protocol", &[][..]),
        ("card", &["protocol"]),
        ("device", &["protocol"]),
        ("platform", &["protocol"]),
        ("agent", &["protocol", "card", "device"]),
        ("server", &["protocol", "platform"]),
        ("simulation", &["protocol", "card", "device", "platform", "agent"]),
    ]);
    for (name, allowed) in allowed {
        let manifest = fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap();
        for line in dependencies.lines().filter(|line| line.starts_with("simtide-")) {
            let target = line.trim_start_matches("simtide-").split(['.', ' ', '=']).next().unwrap();
            assert!(allowed.contains(&target), "crates/{name} must not depend on crates/{target}");
        }
    }
}

/// A file past 600 lines usually holds two nouns; tests of one noun may take a little more.
#[test]
fn no_source_file_is_too_long() {
    let limit = |path: &Path| if path.ends_with("tests.rs") { 700 } else { 600 };
    let long: Vec<String> = sources()
        .into_iter()
        .map(|path| (fs::read_to_string(&path).unwrap().lines().count(), path))
        .filter(|(lines, path)| *lines > limit(path))
        .map(|(lines, path)| format!("{lines} {}", path.display()))
        .collect();
    assert!(long.is_empty(), "split these:\n{}", long.join("\n"));
}

#[test]
fn nothing_is_left_unfinished() {
    let words =
        [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("FIX", "ME"), concat!("XX", "X:")];
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        for word in words {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}

/// Names that say nothing about what is inside.
#[test]
fn no_room_is_called_util() {
    for path in sources() {
        let stem = path.file_stem().unwrap().to_string_lossy();
        assert!(
            !["util", "utils", "common", "helper", "helpers", "manager", "misc", "sim"].contains(&&*stem),
            "{}: name it after its noun",
            path.display()
        );
    }
}

/// ARCHITECTURE.md names every crate, and every path it names exists.
#[test]
fn the_architecture_page_is_true() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(text.lines().count() <= 200, "ARCHITECTURE.md is a page, not a book");
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(text.contains(&format!("crates/{name}")), "ARCHITECTURE.md does not name crates/{name}");
    }
    for word in text.split(['`', ' ', '(', ')', '\n', '|']).filter(|word| word.starts_with("crates/")) {
        let path = word.trim_end_matches(['.', ',', ':', ';']);
        assert!(root().join(path).exists(), "ARCHITECTURE.md names {path}, which does not exist");
    }
}

/// A corpus without a target finds nothing, and a target that only a fuzzer runs finds nothing in CI.
#[test]
fn every_corpus_has_its_target_and_is_replayed() {
    let fuzz = root().join("fuzz");
    let read = |path: PathBuf| fs::read_to_string(&path).unwrap_or_default();
    let replayed: String = fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| read(entry.unwrap().path().join("tests/corpora.rs")))
        .collect();
    let manifest = read(fuzz.join("Cargo.toml"));
    for entry in fs::read_dir(fuzz.join("corpus")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let named = replayed.contains(&format!("(\"{name}\", "));
        assert!(named && replayed.contains(&format!("fuzz::{name})")), "no tests/corpora.rs has {name}");
        assert!(manifest.contains(&format!("targets/{name}.rs")), "fuzz/Cargo.toml has no {name}");
        assert!(
            read(fuzz.join("targets").join(format!("{name}.rs"))).contains(&format!("::{name}")),
            "{name}"
        );
    }
}

/// Relative links of all Markdown pages lead somewhere.
#[test]
fn links_of_the_documents_lead_somewhere() {
    let mut pages = Vec::new();
    files(&root(), "md", &mut pages);
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("http") || target.starts_with('#') {
                continue;
            }
            let target = target.split('#').next().unwrap();
            assert!(page.parent().unwrap().join(target).exists(), "{}: dead link {target}", page.display());
        }
    }
}
