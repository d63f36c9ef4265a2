//! `simtide demo`: the whole system on this machine, on loopback, in a minute.
//!
//! Platform, SMSC and a fleet of software cards run as processes of their own and speak the real protocols. A vendor
//! delivers the cards, they poll through one period, then an urgent campaign runs against that tide to its end. What
//! happened is read from the cards themselves, by APDU.

mod content;
mod figure;
mod platform;
mod process;
mod report;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::Outcome;

/// Options of `simtide demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Cards in the vendor's file
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(20..=50_000))]
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
    /// Change one byte on one card before the cards are read: the report must show it
    #[arg(long, hide = true)]
    spoil: bool,
    /// Leave the platform without SMSC: nothing can be triggered
    #[arg(long, hide = true)]
    no_smsc: bool,
}

/// Runs the demo; exit status 1 where a card in the field has not had the campaign exactly once.
pub fn run(args: Args) -> Outcome {
    let report = stage::play(&args)?;
    std::fs::write(args.folder.join("figure-1.svg"), report.figure.svg())?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report.figures)?);
    } else {
        print!("{}", report.text(&args.folder));
    }
    Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
