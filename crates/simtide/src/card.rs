//! `simtide card`: one card in software at somebody's virtual reader, so that any PC/SC tool can work with it.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use simtide_agent::channel::OpensslChannels;
use simtide_agent::personalization::{CardFileError, PersonalizationError, of_row, of_test_card, read_cards};
use simtide_agent::port::soft::SoftPort;
use simtide_agent::vpcd;
use simtide_card::{Card, Personalization};
use simtide_protocol::card_file::CardRow;
use simtide_protocol::ids::Iccid;
use simtide_protocol::profile::Profile;

use crate::Outcome;

/// How long to wait for a reader that is not there, in seconds.
const RETRY_S: u64 = 1;

/// Arguments of `simtide card`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Card profile: a TOML file, or `standard` for the one that is built in
    #[arg(long, value_name = "FILE", default_value = "standard")]
    profile: String,
    /// Address of the virtual reader (vpcd), for instance 127.0.0.1:35963
    #[arg(long, value_name = "ADDR")]
    vpcd: String,
    #[command(flatten)]
    row: RowArgs,
    /// File that keeps the card's state; without it the state lives as long as the process
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Ends when the reader hangs up, instead of waiting for it to come back
    #[arg(long)]
    once: bool,
}

/// Which card of a vendor file; without one a test card with keys that everybody knows.
#[derive(Debug, clap::Args)]
pub struct RowArgs {
    /// OUT or CSV file with the card's personalization
    #[arg(long, value_name = "FILE")]
    cards: Option<PathBuf>,
    /// The card in that file; without it the first one
    #[arg(long, value_name = "ICCID", requires = "cards")]
    iccid: Option<Iccid>,
}

/// Why there is no card.
#[derive(Debug, thiserror::Error)]
enum CardError {
    #[error(transparent)]
    File(#[from] CardFileError),
    #[error(transparent)]
    Row(#[from] PersonalizationError),
    #[error("the file has no such card: check --iccid")]
    NotFound,
    #[error("the profile cannot be read: {path}: {reason}")]
    Profile { path: String, reason: String },
}

impl RowArgs {
    /// The personalization that is asked for.
    pub fn personalization(&self, profile: &Profile) -> Result<Personalization, Box<dyn std::error::Error>> {
        let Some(file) = &self.cards else { return Ok(of_test_card(profile)) };
        let mut found: Option<CardRow> = None;
        read_cards(file, u64::MAX, |row| {
            if found.is_none() && self.iccid.is_none_or(|iccid| iccid == row.iccid) {
                found = Some(row);
            }
            Ok::<_, CardFileError>(())
        })?;
        let row = found.ok_or(CardError::NotFound)?;
        Ok(of_row(&row, profile, None)?)
    }
}

/// Reads a profile by its path; `standard` is built in.
pub fn profile(path: &str) -> Result<Arc<Profile>, Box<dyn std::error::Error>> {
    if path == "standard" {
        return Ok(Arc::new(Profile::standard()));
    }
    let failed = |reason: String| CardError::Profile { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    Ok(Arc::new(Profile::parse(&text).map_err(|error| failed(error.to_string()))?))
}

/// The card in software, with its state on disk where one is named.
pub fn soft_port(
    profile: &Arc<Profile>,
    personalization: Personalization,
    state: Option<&Path>,
) -> Result<SoftPort, Box<dyn std::error::Error>> {
    let channels = Arc::new(OpensslChannels::new()?);
    Ok(match state {
        Some(path) => SoftPort::durable(path, profile, || personalization, channels)?,
        None => SoftPort::volatile(Card::personalised(profile.clone(), &personalization), channels),
    })
}

/// Runs the role until it is ended.
pub fn run(args: Args) -> Outcome {
    let profile = profile(&args.profile)?;
    let personalization = args.row.personalization(&profile)?;
    let mut port = soft_port(&profile, personalization, args.state.as_deref())?;
    let mut waiting = false;
    loop {
        match TcpStream::connect(&args.vpcd) {
            Ok(stream) => {
                waiting = false;
                tracing::info!(reader = %args.vpcd, "the card lies in the reader");
                vpcd::present(stream, &mut port)?;
                if args.once {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Err(error) if !waiting => {
                waiting = true;
                tracing::info!(reader = %args.vpcd, %error, "no reader yet: waiting for it");
            }
            Err(_) => {}
        }
        std::thread::sleep(Duration::from_secs(RETRY_S));
    }
}
