//! Every crash point of a change of operator times every behaviour of a register, in every way that it can go: enumerated,
//! not sampled. The platform's machine, the card and its device are the product's own, what is between them
//! are the real bytes; shell and registers are played. After every step the invariants B1 to B8 are checked where they
//! hold: in the card's files and by its AUTHENTICATE, in the registers, on the air.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by it")]

mod air;
mod asking;
mod checks;
mod outside;
mod phone;
mod random;
mod register;
mod scenarios;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use phone::Cut;
use register::Fault;
use scenarios::{Scenario, scenarios};
use world::World;

/// What a run tells.
struct Played {
    /// Points at which the process could end.
    points: u32,
    /// Commands to the card, before each of which and after the power could go.
    commands: u32,
    /// The longest record of the change.
    record_bytes_max: usize,
}

/// Runs once.
fn play(scenario: &Scenario, fault: Option<Fault>, crashes: &[u32], cut: Option<Cut>) -> Played {
    let mut world = World::new(scenario, fault, crashes, cut);
    world.run();
    Played { points: world.points, commands: world.phone.commands, record_bytes_max: world.record_bytes_max }
}

/// As [`play`], and a failure says which run it was.
fn play_named(scenario: &Scenario, fault: Option<Fault>, crashes: &[u32], cut: Option<Cut>) -> Played {
    let run = || play(scenario, fault, crashes, cut);
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|cause| {
        eprintln!("failed: {} {fault:?}, crashes at {crashes:?}, {cut:?}", scenario.name);
        resume_unwind(cause)
    })
}

/// Plays something of each of these scenarios, on two cores; answers how many runs it were.
fn of_each(scenarios: &[Scenario], play: impl Fn(&Scenario) -> u64 + Sync) -> u64 {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut runs = 0;
        while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
            runs += play(scenario);
        }
        runs
    };
    std::thread::scope(|scope| {
        let halves = [scope.spawn(work), scope.spawn(work)];
        halves.into_iter().map(|half| half.join().unwrap_or_else(|cause| resume_unwind(cause))).sum()
    })
}

/// Ways that differ in what the registers and the machine do: these are crossed with everything. The others differ in
/// what the air, the phone or its user do on the way to the same events.
const CROSSED: [&str; 22] = [
    "nothing goes wrong",
    "operator 1 is asked and agrees",
    "operator 1 says no",
    "operator 1 is informed before",
    "operator 1 acknowledges late",
    "another packet of the card is open",
    "the message is lost once",
    "the message is always lost",
    "the message arrives after the fence",
    "the proof is lost",
    "part 1 comes after the fence",
    "the user says no",
    "cancelled while the user thinks",
    "the device is switched off over the question",
    "the admin code is wrong",
    "cancelled while operator 1 is asked",
    "cancelled before the message arrives",
    "cancelled after the card took it",
    "guarded, and it commits",
    "guarded, and the commit's report is lost",
    "guarded, and it goes back",
    "guarded, seen by register 2, and it goes back",
];

fn crossed() -> Vec<Scenario> {
    let is_crossed = |scenario: &Scenario| CROSSED.contains(&scenario.name.as_str());
    let crossed: Vec<_> = scenarios().into_iter().filter(is_crossed).collect();
    assert_eq!(crossed.len(), CROSSED.len());
    crossed
}

#[test]
fn every_way_ends_as_it_should() {
    for scenario in scenarios() {
        let Played { points, commands, record_bytes_max } = play_named(&scenario, None, &[], None);
        assert!(record_bytes_max < 4_096, "{}: a record of {record_bytes_max} bytes", scenario.name);
        println!(
            "{:58} {:9} {points:4} points, {commands:4} commands to the card, record of at most {record_bytes_max} bytes",
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
    let runs = of_each(&crossed(), |scenario| {
        let mut runs = 0;
        for fault in Fault::all() {
            let points = play_named(scenario, Some(fault), &[], None).points;
            runs += 1;
            for point in crash_points(Some(fault), points) {
                play_named(scenario, Some(fault), &[point], None);
                runs += 1;
            }
        }
        runs
    });
    println!("{runs} combinations of {} ways, a register's fault and a crash point", CROSSED.len());
    assert!(runs > 100_000, "something is not enumerated any more");
}

/// Points of a way in the whole product; those that have more are the ways that take weeks.
const WHOLE_POINTS_MAX: u32 = 1_000;

#[test]
#[ignore = "takes many minutes; cargo test --release -p simtide-simulation --test change_of_operator -- --ignored --nocapture"]
fn the_whole_product() {
    let scenarios = scenarios();
    let ended = AtomicUsize::new(0);
    let runs = of_each(&scenarios, |scenario| {
        let mut runs = 0;
        for fault in std::iter::once(None).chain(Fault::all().into_iter().map(Some)) {
            let points = play_named(scenario, fault, &[], None).points;
            runs += 1;
            for point in 1..=points.min(WHOLE_POINTS_MAX) {
                play_named(scenario, fault, &[point], None);
                runs += 1;
            }
        }
        let ended = ended.fetch_add(1, Ordering::Relaxed) + 1;
        println!("{ended:3} of {}: {runs:7} combinations, {}", scenarios.len(), scenario.name);
        runs
    });
    println!(
        "{runs} combinations of {} ways, a register's fault or none, and a crash point",
        scenarios.len()
    );
}

#[test]
fn every_way_times_every_register_fault_and_every_crash_point() {
    let scenarios = scenarios();
    let runs = of_each(&scenarios, |scenario| {
        let points = play_named(scenario, None, &[], None).points;
        let crashes = crash_points(None, points).map(|point| (None, Some(point)));
        let faults = Fault::all().into_iter().map(|fault| (Some(fault), None));
        let mut runs = 0;
        for (fault, crash) in crashes.chain(faults) {
            play_named(scenario, fault, crash.as_slice(), None);
            runs += 1;
        }
        runs
    });
    println!("{runs} combinations of {} ways with a register's fault or a crash point", scenarios.len());
}

/// Points after a crash in which another one finds it not yet mended.
const RESTART_POINTS: u32 = 24;

#[test]
fn every_pair_of_crashes() {
    let runs = of_each(&crossed(), |scenario| {
        let mut runs = 0;
        let points = play_named(scenario, None, &[], None).points;
        for first in 1..=points.min(POINTS_MAX / 2) {
            // The restart after the first is where the second matters.
            for second in first + 1..=(first + RESTART_POINTS).min(points + 8) {
                play_named(scenario, None, &[first, second], None);
                runs += 1;
            }
        }
        runs
    });
    println!("{runs} pairs of crashes");
}

/// Commands to the card after which a way only waits.
const COMMANDS_MAX: u32 = 300;

#[test]
fn every_cut_of_the_cards_power() {
    let runs = of_each(&scenarios(), |scenario| {
        let mut runs = 0;
        let mut scenario = scenario.clone();
        // Whoever is asked twice may answer otherwise: only the invariants are judged.
        scenario.end = None;
        let commands = play_named(&scenario, None, &[], None).commands;
        for command in 1..=commands.min(COMMANDS_MAX) {
            for carried_out in [false, true] {
                play_named(&scenario, None, &[], Some(Cut { command, carried_out }));
                runs += 1;
            }
        }
        runs
    });
    println!("{runs} combinations of a way and a command to the card at which the power went");
}
