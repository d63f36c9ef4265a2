//! `simtide fleet`: many devices with a card each, on real sockets.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use simtide_agent::clock::Clock;
use simtide_protocol::ids::{EpochMs, Iccid, IdError, Plmn};
use simtide_protocol::profile::Profile;
use simtide_simulation::fleet::{FirstPoll, Fleet, Settings, Status, Uncovered};
use tokio::io::AsyncReadExt;

use crate::Outcome;
use crate::card::profile;

/// Arguments of `simtide fleet`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cards: the OUT or CSV file that the platform imports
    #[arg(long, value_name = "FILE")]
    cards: PathBuf,
    /// Profiles that the rows name: TOML files; `standard` is built in
    #[arg(long, value_name = "FILE", default_value = "standard")]
    profile: Vec<String>,
    /// At most so many cards of the file
    #[arg(long, value_name = "N", default_value_t = u64::MAX)]
    count: u64,
    /// Air interface of the SMSC
    #[arg(long, value_name = "ADDR")]
    smsc: Option<String>,
    /// Air interface of one of several networks, by the code in the cards' identities: 001-01=ADDR; with --smsc for
    /// all others
    #[arg(long, value_name = "MCC-MNC=ADDR", value_parser = network)]
    network: Vec<(Plmn, String)>,
    /// The entitlement server that devices without coverage ask: https://HOST:PORT/PATH, or http on loopback
    #[arg(long, value_name = "URL")]
    entitlement: Option<String>,
    /// So many cards, the last ones of the file, have no coverage: only IP, where there is --entitlement
    #[arg(long, value_name = "N", requires = "entitlement", default_value_t = 0)]
    without_coverage: u64,
    /// Certificates (PEM) that may have signed the entitlement server's
    #[arg(long, value_name = "FILE", requires = "entitlement")]
    entitlement_ca: Option<PathBuf>,
    /// Time between two queries when nothing happens, in seconds of the devices' clock
    #[arg(long, value_name = "S", requires = "entitlement", default_value_t = 86_400)]
    entitlement_period_s: u32,
    /// How many connections carry each of them
    #[arg(long, value_name = "N", default_value_t = 2)]
    lines: usize,
    /// Where the cards can be read and written from outside
    #[arg(long, value_name = "ADDR")]
    door: Option<SocketAddr>,
    /// Card port that the cards poll, in place of the one in their profile
    #[arg(long, value_name = "ADDR")]
    platform: Option<SocketAddr>,
    /// Time: `real`, or REAL_MS:VIRTUAL_MS:RATE
    #[arg(long, default_value = "real")]
    clock: Clock,
    /// What the radio adds to the opening of a connection and to each round trip, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency_ms: u64,
    /// Over how many milliseconds of real time the devices are switched on
    #[arg(long, value_name = "MS", default_value_t = 1_000)]
    power_on_spread_ms: u64,
    /// When cards poll first: `file` (cards without a date stay in the shop) or `spread` over one period
    #[arg(long, default_value = "file")]
    first_poll: FirstPollArg,
    /// From when on `spread` counts, in virtual epoch milliseconds; without it from now
    #[arg(long, value_name = "MS")]
    first_poll_from_ms: Option<i64>,
    /// Cards whose APDUs are recorded; the record holds whatever the APDUs hold
    #[arg(long, value_name = "ICCID", requires = "apdu_log_file")]
    apdu_log: Vec<Iccid>,
    /// Where they are recorded, as lines of JSON
    #[arg(long, value_name = "FILE")]
    apdu_log_file: Option<PathBuf>,
    /// How often a line with figures is printed, in milliseconds; 0: never
    #[arg(long, value_name = "MS", default_value_t = 1_000)]
    status_ms: u64,
    /// Threads that carry the fleet
    #[arg(long, value_name = "N", default_value_t = 2)]
    threads: usize,
    /// Ends when standard input is closed, so that a fleet never outlives who started it
    #[arg(long)]
    until_stdin_closes: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum FirstPollArg {
    File,
    Spread,
}

/// Lines on standard output.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Ready {
        door: Option<SocketAddr>,
        #[serde(flatten)]
        status: &'a Status,
    },
    Status(&'a Status),
}

/// Runs the role until it is ended.
pub fn run(args: Args) -> Outcome {
    let settings = settings(&args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.threads.max(1))
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let fleet = Fleet::start(&settings)?;
        let door = match args.door {
            Some(address) => Some(fleet.open_door(address).await?),
            None => None,
        };
        print(&Line::Ready { door, status: &fleet.status() })?;
        let mut tick = tokio::time::interval(Duration::from_millis(args.status_ms.max(1)));
        tick.tick().await;
        let ended = ended(args.until_stdin_closes);
        tokio::pin!(ended);
        loop {
            tokio::select! {
                () = &mut ended => break,
                _ = tick.tick(), if args.status_ms > 0 => print(&Line::Status(&fleet.status()))?,
            }
        }
        print(&Line::Status(&fleet.status()))?;
        fleet.switch_off();
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

fn network(text: &str) -> Result<(Plmn, String), String> {
    let (plmn, address) = text.split_once('=').ok_or("use MCC-MNC=ADDR, as in 001-01=127.0.0.1:2776")?;
    let address = address.strip_prefix("air:").unwrap_or(address);
    Ok((plmn.parse().map_err(|error: IdError| error.to_string())?, address.to_owned()))
}

fn settings(args: &Args) -> Result<Settings, Box<dyn std::error::Error>> {
    let mut profiles = Vec::new();
    for path in &args.profile {
        let mut profile: Arc<Profile> = profile(path)?;
        if let Some(platform) = args.platform {
            let server = &mut Arc::make_mut(&mut profile).administration;
            server.address = platform.ip();
            server.port = platform.port();
        }
        profiles.push(profile);
    }
    let first_poll = match args.first_poll {
        FirstPollArg::File => FirstPoll::File,
        FirstPollArg::Spread => {
            FirstPoll::Spread(args.first_poll_from_ms.map_or_else(|| args.clock.now(), EpochMs))
        }
    };
    Ok(Settings {
        cards: args.cards.clone(),
        profiles,
        count_max: args.count,
        smsc: args.smsc.clone(),
        networks: args.network.clone(),
        lines: args.lines,
        clock: args.clock,
        latency: Duration::from_millis(args.latency_ms),
        uncovered: args.entitlement.as_ref().map(|url| Uncovered {
            cards: args.without_coverage,
            url: url.clone(),
            ca_file: args.entitlement_ca.clone(),
            period_s: args.entitlement_period_s,
        }),
        power_on_spread: Duration::from_millis(args.power_on_spread_ms),
        first_poll,
        traced: args.apdu_log.clone(),
        trace_file: args.apdu_log_file.clone(),
    })
}

/// Ctrl-C, the request to end, or the end of standard input where that was asked for.
async fn ended(with_stdin: bool) {
    let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
        return;
    };
    let closed = async {
        if !with_stdin {
            std::future::pending::<()>().await;
        }
        let mut stdin = tokio::io::stdin();
        let mut piece = [0; 64];
        while stdin.read(&mut piece).await.is_ok_and(|count| count > 0) {}
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        () = closed => {}
    }
}

fn print(line: &Line<'_>) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    writeln!(out)?;
    out.flush()
}
