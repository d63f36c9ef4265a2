//! `simtide register-gateway`: the entity in the operator's network that speaks mutual TLS to the platform and the native
//! protocol to the register, and holds the pool of identities.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use simtide_platform::subscription::{RegisterKind, RegisterSettings};
use simtide_protocol::card_file::AuthenticationAlgorithm;
use simtide_protocol::ids::{Imsi, Msisdn};
use simtide_server::registers::connect::{Local, secret_of};
use simtide_server::registers::gateway::certificates::make_link;
use simtide_server::registers::gateway::{Reporter, Served, TransportKey, server};
use simtide_server::registers::pool::{Pool, Stock};
use simtide_server::registers::{Register, RegisterError, http};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::Outcome;

/// Options of `simtide register-gateway`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make the files of a link: an authority, a certificate for each side, a transport key
    Certificates {
        /// Folder for them; files that are there are not touched
        #[arg(long, value_name = "FOLDER", default_value = "register-link")]
        folder: PathBuf,
        /// Address or host name under which the platform reaches the gateway; may be given several times
        #[arg(long = "name", value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// Add identities to the pool, or show its state
    Pool {
        /// Database of the pool
        #[arg(long, value_name = "FILE", default_value = "register-pool.db")]
        database: PathBuf,
        /// CSV with imsi and any of msisdn, algorithm, ki, opc
        #[arg(long, value_name = "FILE", conflicts_with = "first")]
        import: Option<PathBuf>,
        /// First IMSI of a range whose keys are drawn for each change
        #[arg(long, value_name = "IMSI", requires = "count")]
        first: Option<Imsi>,
        /// Identities of the range
        #[arg(long, value_name = "N", requires = "first")]
        count: Option<u64>,
        /// Number of the first identity of the range
        #[arg(long, value_name = "MSISDN", requires = "first")]
        msisdn_first: Option<Msisdn>,
        /// Algorithm of the range
        #[arg(long, value_enum, default_value = "milenage")]
        algorithm: Algorithm,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Algorithm {
    Milenage,
    Tuak,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Backend {
    /// OsmoHLR on this machine
    OsmoHlr,
    /// PyHSS on this machine, or behind https
    Pyhss,
    /// Our own authentication centre, in this process
    Own,
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// Where the platform connects, with TLS 1.3 and a certificate; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8446")]
    listen: SocketAddr,
    /// The register behind the gateway
    #[arg(long, value_enum, default_value = "own")]
    backend: Backend,
    /// OsmoHLR's CTRL
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4259")]
    ctrl: String,
    /// OsmoHLR's GSUP; for our own centre, where network elements connect
    #[arg(long, value_name = "ADDR")]
    gsup: Option<String>,
    /// OsmoHLR's terminal
    #[arg(long, value_name = "ADDR")]
    vty: Option<String>,
    /// PyHSS's REST interface
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    rest: String,
    /// File with PyHSS's provisioning key
    #[arg(long, value_name = "FILE")]
    provisioning_key: Option<PathBuf>,
    /// Id of the APN that new subscribers get in PyHSS
    #[arg(long, value_name = "ID")]
    apn: Option<u32>,
    /// Database of the pool
    #[arg(long, value_name = "FILE", default_value = "register-pool.db")]
    database: PathBuf,
    /// Folder with the files of the link, as `certificates` makes them
    #[arg(long, value_name = "FOLDER", default_value = "register-link")]
    link: PathBuf,
    /// URL of the platform's API: attaches are reported to it as they happen
    #[arg(long, value_name = "URL", requires_all = ["operator", "token_file"])]
    platform: Option<String>,
    /// Name of this operator at the platform
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
    /// File with a token of this operator
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificates (PEM) that may have signed the platform's API, beside those of the system
    #[arg(long, value_name = "FILE")]
    platform_ca: Option<PathBuf>,
    /// How often registers that tell nobody are looked at, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    watch_every_s: u64,
}

/// Runs until it is ended. The first line of the output is JSON: `gateway` and `gsup` are the addresses.
pub fn run(args: Args) -> Outcome {
    let runtime = tokio::runtime::Runtime::new()?;
    match args.action {
        None => runtime.block_on(serve(args.serve)),
        Some(Action::Certificates { folder, names }) => {
            let link = make_link(&folder, &names)?;
            println!(
                "{}",
                json!({
                    "authority": link.authority,
                    "gateway": { "certificate": link.gateway.certificate, "key": link.gateway.key },
                    "platform": { "certificate": link.platform.certificate, "key": link.platform.key },
                    "transport_key": link.transport_key,
                })
            );
            Ok(ExitCode::SUCCESS)
        }
        Some(Action::Pool { database, import, first, count, msisdn_first, algorithm }) => {
            let stock = match (import, first, count) {
                (Some(path), _, _) => read_stock(&path)?,
                (None, Some(first), Some(count)) => {
                    Stock::range(first, count, msisdn_first, algorithm.into())?
                }
                _ => Vec::new(),
            };
            runtime.block_on(add(&database, stock))
        }
    }
}

impl From<Algorithm> for AuthenticationAlgorithm {
    fn from(algorithm: Algorithm) -> AuthenticationAlgorithm {
        match algorithm {
            Algorithm::Milenage => AuthenticationAlgorithm::Milenage,
            Algorithm::Tuak => AuthenticationAlgorithm::Tuak,
        }
    }
}

/// The file has keys, perhaps: it is never shown.
fn read_stock(path: &Path) -> Result<Vec<Stock>, Box<dyn std::error::Error>> {
    let text = secret_of(&path.to_string_lossy())?.unwrap_or_default();
    Ok(Stock::read(&text).map_err(|error| format!("{}: {error}", path.display()))?)
}

async fn add(database: &Path, stock: Vec<Stock>) -> Outcome {
    let pool = Pool::open(database)?;
    let added = pool.add(stock).await?;
    println!("{}", json!({ "added": added.added, "known": added.known, "pool": pool.state()? }));
    Ok(ExitCode::SUCCESS)
}

impl Serve {
    fn settings(&self) -> RegisterSettings {
        let mut addresses = BTreeMap::new();
        let mut put = |name: &str, value: Option<&String>| {
            addresses.extend(value.map(|value| (name.to_owned(), value.clone())));
        };
        put("gsup", self.gsup.as_ref());
        let kind = match self.backend {
            Backend::OsmoHlr => {
                put("ctrl", Some(&self.ctrl));
                put("vty", self.vty.as_ref());
                RegisterKind::OsmoHlr
            }
            Backend::Pyhss => {
                put("rest", Some(&self.rest));
                put("apn", self.apn.map(|apn| apn.to_string()).as_ref());
                RegisterKind::Pyhss
            }
            Backend::Own => RegisterKind::Own,
        };
        let key = self.provisioning_key.as_ref().map(|path| path.to_string_lossy().into_owned());
        RegisterSettings { kind, addresses, key: key.unwrap_or_default(), ..RegisterSettings::default() }
    }

    fn reporter(&self, local: &Local) -> Result<Option<Reporter>, Box<dyn std::error::Error>> {
        let (Some(platform), Some(operator), Some(token)) =
            (&self.platform, &self.operator, &self.token_file)
        else {
            return Ok(None);
        };
        let token = secret_of(&token.to_string_lossy())?.unwrap_or_default();
        let mut builder = http::plain();
        if let Some(path) = &self.platform_ca {
            for certificate in reqwest::Certificate::from_pem_bundle(&std::fs::read(path)?)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let register: Arc<dyn Register> = local.register.clone();
        let reporter =
            Reporter::new(platform, operator, token, builder.build()?, local.pool.clone(), register)?;
        Ok(Some(reporter))
    }
}

async fn serve(args: Serve) -> Outcome {
    let file = |name: &str| args.link.join(name);
    let acceptor = server::acceptor(&file("authority.pem"), &file("gateway.pem"), &file("gateway.key"))?;
    let missing = || RegisterError::Refused("there is no transport key: run `certificates` first".to_owned());
    let transport = secret_of(&file("transport.key").to_string_lossy())?.ok_or_else(missing)?;
    let transport = TransportKey::read(&transport)?;
    let local = Local::open(&args.settings(), &args.database)?;
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|error| format!("{} cannot be listened on: {error}; give another --listen", args.listen))?;
    let address = listener.local_addr()?;
    let reporter = args.reporter(&local)?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    println!(
        "{}",
        json!({
            "type": "ready", "ready": "register-gateway", "gateway": address, "gsup": local.gsup,
            "register": local.register.name(), "pool": local.pool.state()?,
        })
    );
    let served = Arc::new(Served { register: local.register.clone(), transport });
    let pause = Duration::from_secs(args.watch_every_s.max(1));
    let report = async {
        match &reporter {
            Some(reporter) => reporter.run(pause).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        served = server::serve(listener, acceptor, served) => served?,
        () = report => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}
