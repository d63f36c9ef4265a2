//! `simtide demo`: the whole system on this machine, on loopback, in a minute.
//!
//! Platform, SMSC and a fleet of software cards run as processes of their own and speak the real protocols. A vendor
//! delivers the cards, they poll through one period, then an urgent campaign runs against that tide to its end. What
//! happened is read from the cards themselves, by APDU.

mod change;
mod content;
mod figure;
mod layers;
mod platform;
mod process;
mod report;
mod stage;
mod uncovered;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::Outcome;

/// Options of `simtide demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Cards in the vendor's file
    #[arg(long, value_name = "N", default_value_t = 2_000, default_value_ifs([("change", "true", Some("3")), ("no_coverage", "true", Some("150"))]), value_parser = clap::value_parser!(u32).range(1..=50_000))]
    cards: u32,
    /// Batches that the figure shows
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(2..=100))]
    batches: u16,
    /// Makes the cards and their keys
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Most sessions at any time; without it, what makes the sessions left free equal the recurring load
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    capacity: Option<u32>,
    /// Percentage of the cards that have never been switched on
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=90))]
    never_seen: u8,
    /// Print one JSON object instead of the figures and the figure
    #[arg(long)]
    json: bool,
    /// Where files, logs and the figure are left; made anew at each run
    #[arg(long, value_name = "DIR", default_value = "demo")]
    folder: PathBuf,
    /// Real seconds in which the period of 20 days passes
    #[arg(long, value_name = "S", default_value_t = 15, value_parser = clap::value_parser!(u32).range(5..=3_600))]
    period_s: u32,
    /// Milliseconds that the radio adds to each round trip of a session
    #[arg(long, value_name = "MS", default_value_t = 40, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    latency_ms: u32,
    /// Cards move back and forth between two operators with a register each, 3 cards unless --cards says more
    #[arg(long, conflicts_with = "no_coverage")]
    change: bool,
    /// How often every card moves, with --change
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=20))]
    moves: u8,
    /// A part of the fleet has no cellular coverage: a campaign reaches it over IP, each card once
    #[arg(long)]
    no_coverage: bool,
    /// Percentage of the cards whose devices have only Wi-Fi, with --no-coverage
    #[arg(long, value_name = "PERCENT", default_value_t = 30, value_parser = clap::value_parser!(u8).range(1..=99))]
    without_coverage: u8,
    /// Change one byte on one card before the cards are read: the report must show it
    #[arg(long, hide = true)]
    spoil: bool,
    /// Leave the platform without SMSC: nothing can be triggered
    #[arg(long, hide = true)]
    no_smsc: bool,
}

/// Fewest cards that make a tide with batches.
const TIDE_CARDS_MIN: u32 = 20;

/// Runs the demo; exit status 1 where a card in the field has not had the campaign exactly once.
pub fn run(args: Args) -> Outcome {
    if args.no_coverage {
        return run_without_coverage(&args);
    }
    if args.change {
        return run_change(&args);
    }
    if args.cards < TIDE_CARDS_MIN {
        return Err(format!("--cards: at least {TIDE_CARDS_MIN} make a tide").into());
    }
    let report = stage::play(&args)?;
    std::fs::write(args.folder.join("figure-1.svg"), report.figure.svg())?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report.figures)?);
    } else {
        print!("{}", report.text(&args.folder));
    }
    Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A part of the fleet has only Wi-Fi; exit status 1 where a card has not had everything exactly once.
fn run_without_coverage(args: &Args) -> Outcome {
    let report = uncovered::play(args)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report.figures)?);
    } else {
        print!("{}{}", report.text(), uncovered::folder_line(&args.folder));
    }
    Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Cards change their operators; exit status 1 where a change is not done or a card has not exactly one identity.
fn run_change(args: &Args) -> Outcome {
    let report = change::play(args)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report.figures)?);
    } else {
        print!("{}", report.text(&args.folder));
    }
    Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
