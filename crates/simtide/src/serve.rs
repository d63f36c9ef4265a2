//! `simtide serve`: the platform.

use std::fs::File;
use std::io::BufWriter;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;
use simtide_server::api::imports::Imports;
use simtide_server::api::tls::TlsListener;
use simtide_server::api::tokens::Tokens;
use simtide_server::api::{self, Api};
use simtide_server::config::Config;
use simtide_server::entitlement;
use simtide_server::entitlement::notification::Notifications;
use simtide_server::metrics::Metrics;
use simtide_server::shell::Platform;
use simtide_server::shell::delivery::vectors::OfOperators;
use simtide_server::shell::keyring::VaultKeyring;
use simtide_server::store::sqlite::{SqliteSettings, SqliteStore};
use simtide_server::vault::{AlarmLimits, KeyFile, Vault, VaultSettings};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::Outcome;

/// Options of `simtide serve`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration; without it the defaults of simtide.toml hold
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Record every event of the planner, so that a run can be replayed
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// The data folder was restored from a backup: raise all counters before anything is sent (once)
    #[arg(long)]
    restored: bool,
}

/// Why the platform did not start, beside what its parts say themselves.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("the data folder {path} cannot be made: {source}; set data.folder to one that can be written")]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("the trace {path} cannot be written: {source}")]
    Trace { path: PathBuf, source: std::io::Error },
    #[error("the API cannot listen on {address}: {source}; choose another api.listen")]
    Listen { address: String, source: std::io::Error },
    #[error(
        "the certificate or key of the API cannot be used: {0}; check api.tls_certificate and api.tls_key"
    )]
    Certificate(#[from] openssl::error::ErrorStack),
    #[error("the platform ended: {0}")]
    Ended(String),
}

/// Runs the platform until SIGTERM, SIGINT, or something that it cannot repair. When everything listens, one line of
/// JSON on standard output says where.
pub fn run(args: Args) -> Outcome {
    let config = match &args.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(config, args))
}

async fn serve(config: Config, args: Args) -> Outcome {
    let folder = config.data.folder.clone();
    make_folder(&folder)?;
    let (tokens, first_token) = Tokens::open(&folder)?;
    if let Some(path) = &first_token {
        tracing::info!(file = %path.display(), "the first token of the API was written; keep it secret");
    }
    let vault = Arc::new(open_vault(&config)?);
    let keyring = Box::new(VaultKeyring::new(vault.clone())?);
    let settings =
        SqliteSettings { buckets: config.data.buckets, ..SqliteSettings::new(folder.join("store")) };
    let store = Arc::new(SqliteStore::open(&settings)?);
    if args.restored {
        simtide_server::store::after_restore(&*store, "restore").await?;
        tracing::warn!("all counters were raised after a restore: start without --restored next time");
    }
    let trace = match args.trace {
        Some(path) => {
            let file = File::create(&path).map_err(|source| ServeError::Trace { path, source })?;
            Some(Box::new(BufWriter::new(file)) as simtide_server::shell::planning::Trace)
        }
        None => None,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let platform = Arc::new(Platform::start(config.clone(), store, keyring, trace).await?);
    platform.connect_registers(&vault);
    let entitlement = start_entitlement(&config, &platform).await?;
    let metrics = match &entitlement {
        Some(server) => Metrics::with_entitlement(platform.clone(), server.service.clone()),
        None => Metrics::new(platform.clone()),
    };
    let api =
        Arc::new(Api { platform: platform.clone(), tokens, metrics, vault, imports: Imports::default() });
    let (stop, stopped) = watch::channel(false);
    let address = listen(&config, api.clone(), stopped.clone()).await?;
    let metrics = match config.api.metrics_listen.as_str() {
        "" => None,
        text => Some(serve_http(bind(text).await?, api::observation(api), stopped)?),
    };
    println!(
        "{}",
        json!({
            "type": "ready",
            "ready": "serve",
            "card_port": platform.port.address(),
            "api": address,
            "api_tls": !config.api.tls_certificate.as_os_str().is_empty(),
            "metrics": metrics,
            "entitlement": entitlement.as_ref().map(entitlement::Server::address),
            "token_file": folder.join(simtide_server::api::tokens::FIRST_TOKEN_FILE),
        })
    );
    tracing::info!(card_port = %platform.port.address(), api = %address, "the platform serves");
    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        reason = platform.core.ended() => Some(reason),
    };
    tracing::info!("the platform stops: no more triggers, sessions under way may end");
    let _ = stop.send(true);
    if let Some(server) = &entitlement {
        server.stop();
    }
    platform.stop().await;
    match ended {
        Some(reason) => Err(ServeError::Ended(reason).into()),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// The second server, in this process, where the configuration says where it listens.
async fn start_entitlement(
    config: &Config,
    platform: &Arc<Platform>,
) -> Result<Option<entitlement::Server>, Box<dyn std::error::Error>> {
    let settings = config.entitlement_settings();
    if settings.separate || !settings.listen.is_empty() {
        let notifications = Notifications::new(&settings, config.clock(), platform.outbox.clone())?;
        platform.deliveries.notify_by(Arc::new(notifications));
    }
    if settings.listen.is_empty() {
        return Ok(None);
    }
    let vectors = Arc::new(OfOperators { platform: platform.clone(), tenant: None });
    let service = entitlement::Service::new(settings, config.clock(), platform.deliveries.clone(), vectors);
    let server = entitlement::Server::start(service).await?;
    tracing::info!(address = %server.address(), "devices are answered over IP");
    Ok(Some(server))
}

fn make_folder(folder: &Path) -> Result<(), ServeError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|source| ServeError::Folder { path: folder.to_owned(), source })
}

fn open_vault(config: &Config) -> Result<Vault, simtide_server::vault::VaultError> {
    let path = config.key_file();
    let made = !path.exists();
    let encryption = KeyFile::open_or_make(&path)?;
    if made {
        tracing::info!(file = %path.display(), "the key file was made; keep a copy in a safe place");
    }
    let keystore = config.data.folder.join("keystore.json");
    Vault::open(&encryption, &VaultSettings { keystore, limits: AlarmLimits::default() })
}

async fn bind(address: &str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen { address: address.to_owned(), source })
}

/// Starts the API, with TLS where there is a certificate.
async fn listen(
    config: &Config,
    api: Arc<Api>,
    stopped: watch::Receiver<bool>,
) -> Result<SocketAddr, ServeError> {
    let listener = bind(&config.api.listen.to_string()).await?;
    let routes = api::routes(api);
    if config.api.tls_certificate.as_os_str().is_empty() {
        if !config.api.listen.ip().is_loopback() {
            tracing::warn!("the API listens beyond loopback without TLS: tokens travel in clear");
        }
        return serve_http(listener, routes, stopped);
    }
    let listener = TlsListener::new(listener, &config.api.tls_certificate, &config.api.tls_key)?;
    serve_http(listener, routes, stopped)
}

fn serve_http<L>(
    listener: L,
    routes: axum::Router,
    mut stopped: watch::Receiver<bool>,
) -> Result<SocketAddr, ServeError>
where
    L: axum::serve::Listener<Addr = SocketAddr>,
{
    let address = listener.local_addr();
    let address = address.map_err(|source| ServeError::Listen { address: "?".to_owned(), source })?;
    let stop = async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(stop).await {
            tracing::error!(%error, "the API has ended");
        }
    });
    Ok(address)
}
