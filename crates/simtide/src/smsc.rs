//! `simtide smsc`: a short-message service centre for simulations.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use simtide_agent::clock::Clock;
use simtide_protocol::ids::Plmn;
use simtide_simulation::smsc::{Account, RegisterAddress, Settings, Smsc};

use crate::Outcome;

/// Options of `simtide smsc`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where platforms bind (SMPP 3.4); port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:2775")]
    smpp: SocketAddr,
    /// Where devices connect (docs/air-interface.md); port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:2776")]
    air: SocketAddr,
    /// Settings, accounts and faults (TOML); the options below go before it
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// The one account that may bind
    #[arg(long, value_name = "NAME", requires = "password")]
    system_id: Option<String>,
    /// Its password
    #[arg(long, value_name = "TEXT", requires = "system_id")]
    password: Option<String>,
    /// Its short code; without one it gets every message that is for no device
    #[arg(long, value_name = "DIGITS", requires = "system_id")]
    short_code: Option<String>,
    /// The operator's register, on the same machine: cards prove themselves against it before they are attached
    #[arg(long, value_name = "gsup:ADDR")]
    register: Option<RegisterAddress>,
    /// The network's code, as in 001-01: only identities of it are let in
    #[arg(long, value_name = "MCC-MNC")]
    plmn: Option<Plmn>,
    /// The name by which the register knows this network
    #[arg(long, value_name = "NAME", requires = "register")]
    element_name: Option<String>,
    /// Write what happens to this file, one line of JSON each
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// `real`, or REAL_MS:VIRTUAL_MS:RATE for validity, retries and dates
    #[arg(long, value_name = "CLOCK", default_value = "real")]
    clock: Clock,
}

/// Runs until it is interrupted. The first line of the output is `{"smpp": ADDR, "air": ADDR}`.
pub fn run(args: Args) -> Outcome {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let settings = settings(&args)?;
        let smsc = Smsc::start(settings, args.smpp, args.air, args.clock, args.record).await?;
        println!("{}", serde_json::json!({ "smpp": smsc.smpp, "air": smsc.air }));
        tokio::signal::ctrl_c().await?;
        Ok(ExitCode::SUCCESS)
    })
}

fn settings(args: &Args) -> Result<Settings, Box<dyn std::error::Error>> {
    let mut settings: Settings = match &args.settings {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?
        }
        None => Settings::default(),
    };
    if let (Some(system_id), Some(password)) = (&args.system_id, &args.password) {
        settings.accounts = vec![Account {
            system_id: system_id.clone(),
            password: password.clone(),
            addresses: args.short_code.iter().cloned().collect(),
            ..Account::default()
        }];
    }
    settings.register = args.register.or(settings.register);
    settings.plmn = args.plmn.or(settings.plmn);
    settings.element_name = args.element_name.clone().or(settings.element_name);
    Ok(settings)
}
