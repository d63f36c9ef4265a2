//! Every crash point of a change of operator times every behaviour of a register times every way that it can go:
//! enumerated, not sampled. After every step the invariants B1 to B5 are checked where they hold: on the card, in the
//! registers, on the air.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by it")]

mod card;
mod register;
mod scenarios;
mod world;

use register::Fault;
use scenarios::scenarios;
use world::{Scenario, World};

/// Runs once; answers how many points there were at which the process could end.
fn play(scenario: &Scenario, fault: Option<Fault>, crashes: &[u32]) -> (u32, usize) {
    let mut world = World::new(scenario, fault, crashes);
    world.run();
    (world.points, world.record_bytes_max)
}

/// As [`play`], and a failure says which run it was.
fn play_named(scenario: &Scenario, fault: Option<Fault>, crashes: &[u32]) -> (u32, usize) {
    let run = || play(scenario, fault, crashes);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|cause| {
        eprintln!("failed: {} {fault:?}, crashes at {crashes:?}", scenario.name);
        std::panic::resume_unwind(cause)
    })
}

#[test]
fn every_way_ends_as_it_should() {
    for scenario in scenarios() {
        let (points, bytes) = play_named(&scenario, None, &[]);
        assert!(bytes < 4_096, "{}: a record of {bytes} bytes", scenario.name);
        println!(
            "{:44} {:9} {points:4} points, record of at most {bytes} bytes",
            scenario.name,
            scenario.end.name()
        );
    }
}

#[test]
fn every_crash_point_times_every_register_fault() {
    let mut runs = 0_u64;
    for scenario in scenarios() {
        for fault in std::iter::once(None).chain(Fault::all().into_iter().map(Some)) {
            let (points, _) = play_named(&scenario, fault, &[]);
            runs += 1;
            for point in 1..=points.min(points_max(fault)) {
                play_named(&scenario, fault, &[point]);
                runs += 1;
            }
        }
    }
    println!("{runs} combinations of a way, a register's fault and a crash");
}

/// Further points are retries, all alike; a fault that lasts for ever makes nothing else.
const POINTS_MAX: u32 = 160;

fn points_max(fault: Option<Fault>) -> u32 {
    if fault.is_some_and(|fault| fault.always) { POINTS_MAX / 4 } else { POINTS_MAX }
}

#[test]
fn every_pair_of_crashes() {
    let mut runs = 0_u64;
    for scenario in scenarios() {
        let (points, _) = play_named(&scenario, None, &[]);
        for first in 1..=points.min(POINTS_MAX) {
            for second in first + 1..=(points + 8).min(POINTS_MAX) {
                play_named(&scenario, None, &[first, second]);
                runs += 1;
            }
        }
    }
    println!("{runs} pairs of crashes");
}
