//! `simtide simulate` as a process: output, files, misuse.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn simulate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_simtide")).arg("simulate").args(args).output().unwrap()
}

fn figures(args: &[&str]) -> serde_json::Value {
    let output = simulate(&[args, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn json_has_the_documented_keys() {
    let figures = figures(&[
        "--cards",
        "30000",
        "--policy",
        "seed",
        "--world",
        "ideal",
        "--attempts",
        "1",
        "--seed",
        "3",
    ]);
    let keys: Vec<_> = figures.as_object().unwrap().keys().map(String::as_str).collect();
    let mut documented = [
        "cards",
        "active",
        "sms",
        "sms_per_active",
        "sms_to_inactive",
        "days",
        "order_inversions",
        "sessions_peak",
        "sessions_limit",
        "demand_peak",
        "refused",
        "wall_s",
        "memory_bytes_max",
    ];
    documented.sort_unstable();
    assert_eq!(keys, documented);
    let days: Vec<_> = figures["days"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(days, ["p100", "p50", "p90", "p99", "p999"]);
    assert_eq!((&figures["cards"], &figures["active"]), (&30_000.into(), &30_000.into()));
    assert_eq!(figures["order_inversions"], 0);
}

#[test]
fn a_world_of_ones_own_and_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let (scenario, plot) = (folder.path().join("world.toml"), folder.path().join("run.svg"));
    let realistic = include_str!("../../simulation/scenarios/realistic.toml");
    std::fs::write(&scenario, realistic.replace("never_active = 0.12", "never_active = 0.5")).unwrap();
    let figures = figures(&[
        "--cards",
        "10000",
        "--days",
        "3",
        "--scenario",
        scenario.to_str().unwrap(),
        "--plot",
        plot.to_str().unwrap(),
    ]);
    assert!(figures["active"].as_u64().unwrap() < 5_000, "{figures}");
    assert!(std::fs::read_to_string(&plot).unwrap().starts_with("<svg"));
}

#[test]
fn misuse_says_what_to_do() {
    for (args, expected) in [
        (&["--cards", "0"][..], "--cards is out of range"),
        (&["--capacity", "0"], "--capacity is out of range"),
        (&["--scenario", "/nonexistent.toml"], "--scenario /nonexistent.toml"),
        (&["--world", "flat"], "possible values: ideal, realistic"),
        (&["--policy", "best"], "possible values: random, oldest, seed, closed-loop"),
    ] {
        let output = simulate(args);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains(expected), "{args:?}: {message}");
    }
}
