//! `simtide serve`: the platform.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::Outcome;

/// Options of `simtide serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration; without it the defaults of simtide.toml hold
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Record every event of the campaign engine, so that a run can be replayed
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

/// Runs the platform until it is told to stop.
pub fn run(_args: Args) -> Outcome {
    Ok(ExitCode::SUCCESS)
}
