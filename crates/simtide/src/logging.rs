//! Logs: to standard error, readable alone, with fields; JSON lines where a machine reads them.

use tracing_subscriber::EnvFilter;

/// Logging options, the same for every role.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What is logged: a level (error, warn, info, debug, trace) or directives such as `info,simtide_server=debug`;
    /// without it services log `info`, everything else `warn`
    #[arg(long, global = true, value_name = "FILTER", env = "SIMTIDE_LOG")]
    log: Option<String>,
    /// Log as JSON, one object per line
    #[arg(long, global = true)]
    log_json: bool,
}

/// Installs the subscriber; an unreadable filter falls back to warnings and says so.
pub fn start(args: &Args, service: bool) {
    let default = if service { "info" } else { "warn" };
    let directives = args.log.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(directives).unwrap_or_else(|error| {
        eprintln!("simtide: --log {directives:?} is not a filter ({error}); logging warnings only");
        EnvFilter::new("warn")
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if args.log_json {
        builder.json().init();
    } else {
        builder.init();
    }
}
