//! Every crash point of a change of operator times every behaviour of a register times every way that it can go:
//! enumerated, not sampled. After every step the invariants B1 to B5 are checked where they hold: on the card, in the
//! registers, on the air.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by it")]

mod asking;
mod card;
mod checks;
mod random;
mod register;
mod scenarios;
mod world;

use register::Fault;
use scenarios::{Scenario, scenarios};
use world::World;

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
            scenario.end.map_or("", |end| end.name())
        );
    }
}

/// Further points are retries, all alike; a fault that lasts for ever makes nothing else, nor does a way that takes weeks.
const POINTS_MAX: u32 = 120;
/// A way with more points than this is one that takes weeks.
const LONG_POINTS: u32 = 300;

fn crash_points(fault: Option<Fault>, points: u32) -> std::ops::RangeInclusive<u32> {
    let last = match fault {
        None => POINTS_MAX,
        Some(fault) if fault.always => POINTS_MAX / 5,
        Some(_) if points > LONG_POINTS => 0,
        Some(_) => POINTS_MAX,
    };
    1..=points.min(last)
}

#[test]
fn every_crash_point_times_every_register_fault() {
    let scenarios = scenarios();
    let halves = [0, 1].map(|half| scenarios.iter().skip(half).step_by(2).cloned().collect::<Vec<_>>());
    let work = halves.map(|scenarios| {
        std::thread::spawn(move || {
            let mut runs = 0_u64;
            for scenario in scenarios {
                for fault in std::iter::once(None).chain(Fault::all().into_iter().map(Some)) {
                    let (points, _) = play_named(&scenario, fault, &[]);
                    runs += 1;
                    for point in crash_points(fault, points) {
                        play_named(&scenario, fault, &[point]);
                        runs += 1;
                    }
                }
            }
            runs
        })
    });
    let runs: u64 = work.into_iter().map(|half| half.join().unwrap()).sum();
    println!(
        "{runs} combinations of a way, a register's fault and a crash point; B1 to B5 held after every step"
    );
    assert!(runs > 100_000, "something is not enumerated any more");
}

/// Points after a crash in which another one finds it not yet mended.
const RESTART_POINTS: u32 = 24;

#[test]
fn every_pair_of_crashes() {
    let mut runs = 0_u64;
    for scenario in scenarios() {
        let (points, _) = play_named(&scenario, None, &[]);
        if points > LONG_POINTS {
            continue;
        }
        for first in 1..=points.min(POINTS_MAX / 2) {
            // The restart after the first is where the second matters.
            for second in first + 1..=(first + RESTART_POINTS).min(points + 8) {
                play_named(&scenario, None, &[first, second]);
                runs += 1;
            }
        }
    }
    println!("{runs} pairs of crashes");
}
