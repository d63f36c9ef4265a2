//! `simtide entitlement`: the entitlement server as a process of its own, in front of a platform elsewhere.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;
use simtide_platform::subscription::{RegisterKind, RegisterSettings};
use simtide_server::config::Config;
use simtide_server::entitlement::remote::RemotePlatform;
use simtide_server::entitlement::vectors::{OneRegister, VectorSource};
use simtide_server::entitlement::{Server, Service};
use simtide_server::metrics::Metrics;
use simtide_server::registers::connect::Local;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use crate::Outcome;

/// Options of `simtide entitlement`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// URL of the platform's API: https, or http on this machine
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    platform: String,
    /// File with a token of the platform, of role admin
    #[arg(long, value_name = "FILE", default_value = "simtide-data/admin.token")]
    token_file: PathBuf,
    /// Certificates (PEM) that may have signed the platform's; without it those of the system
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Configuration: its sections `entitlement` and `clock` are used; without it the defaults of simtide.toml hold
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Take vectors from our own authentication centre in this process, with its pool in this database, instead of the
    /// platform's registers
    #[arg(long, value_name = "FILE")]
    centre: Option<PathBuf>,
    /// Where devices connect, instead of entitlement.listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where /metrics and /healthz answer; without it nowhere
    #[arg(long, value_name = "ADDR")]
    metrics: Option<String>,
}

/// Why the server did not start, beside what its parts say themselves.
#[derive(Debug, thiserror::Error)]
enum EntitlementError {
    #[error("{path} cannot be read: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("metrics cannot be served on {address}: {source}; choose another --metrics")]
    Metrics { address: String, source: std::io::Error },
    #[error("there is no address to listen on: set entitlement.listen, or give --listen 127.0.0.1:8444")]
    Listen,
}

/// Serves devices until SIGTERM or SIGINT. When it listens, one line of JSON on standard output says where.
pub fn run(args: Args) -> Outcome {
    let mut config = match &args.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    if let Some(listen) = args.listen {
        config.entitlement.listen = listen;
    }
    if config.entitlement.listen.is_empty() {
        return Err(EntitlementError::Listen.into());
    }
    let read = |path: PathBuf| {
        std::fs::read(&path).map_err(|source| EntitlementError::File { path, source }).map(Zeroizing::new)
    };
    let token = read(args.token_file)?;
    let token = Zeroizing::new(String::from_utf8_lossy(&token).trim().to_owned());
    let authority = args.ca_file.map(read).transpose()?;
    let platform = RemotePlatform::new(&args.platform, token, authority.as_ref().map(|pem| pem.as_slice()))?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(
        config,
        platform,
        args.centre,
        args.metrics,
    ))
}

async fn serve(
    config: Config,
    platform: RemotePlatform,
    centre: Option<PathBuf>,
    metrics: Option<String>,
) -> Outcome {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let platform = Arc::new(platform);
    let own = RegisterSettings { kind: RegisterKind::Own, ..RegisterSettings::default() };
    let centre = centre.map(|database| Local::open(&own, &database)).transpose()?;
    let vectors: Arc<dyn VectorSource> = match &centre {
        Some(centre) => Arc::new(OneRegister(centre.register.clone())),
        None => platform.clone(),
    };
    let service = Service::new(config.entitlement_settings(), config.clock(), platform, vectors);
    let server = Server::start(service).await?;
    let metrics = match metrics {
        Some(address) => Some(serve_metrics(address, &server).await?),
        None => None,
    };
    println!(
        "{}",
        json!({
            "type": "ready",
            "ready": "entitlement",
            "entitlement": server.address(),
            "metrics": metrics,
        })
    );
    tracing::info!(address = %server.address(), "devices are answered over IP");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    server.stop();
    Ok(ExitCode::SUCCESS)
}

/// Answers until the process ends.
async fn serve_metrics(address: String, server: &Server) -> Result<SocketAddr, EntitlementError> {
    let failed = |source| EntitlementError::Metrics { address: address.clone(), source };
    let listener = TcpListener::bind(&address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let routes = Metrics::of_entitlement(server.service.clone()).routes::<()>();
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "metrics are no longer served");
        }
    });
    Ok(bound)
}
