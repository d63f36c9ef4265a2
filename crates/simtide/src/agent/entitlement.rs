//! The agent's way over IP: flags, the client module that they make, and the helper on another machine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use simtide_agent::entitlement::line::{LineAddress, LineClient, relay as serve_line};
use simtide_agent::entitlement::notified::{self, Notified};
use simtide_agent::entitlement::transport::ServerPlace;
use simtide_agent::entitlement::{IpBearer, QueueFile, Transport};
use simtide_agent::runner::Inbound;
use simtide_device::client::settings::{Push, SMS_AFTER_S};
use simtide_device::client::{Client, ClientSettings};
use simtide_device::queues::Queues;
use simtide_protocol::entitlement::{AppId, OTA_APP_DEFAULT};
use tokio::sync::mpsc::UnboundedSender;

use crate::Outcome;

/// How a card is reached without coverage.
#[derive(Debug, clap::Args)]
pub struct EntitlementArgs {
    /// The entitlement server: https://HOST:PORT/PATH, or http on loopback
    #[arg(long, value_name = "URL", env = "SIMTIDE_ENTITLEMENT")]
    entitlement: Option<String>,
    /// Folder of the queues; without it they live as long as the process
    #[arg(long, value_name = "DIR", requires = "entitlement")]
    queue: Option<PathBuf>,
    /// Certificates (PEM) that may have signed the entitlement server's, in place of those of the system
    #[arg(long, value_name = "FILE", requires = "entitlement")]
    entitlement_ca: Option<PathBuf>,
    /// Reach the server through a helper: unix:PATH or serial:DEVICE
    #[arg(long, value_name = "LINE", requires = "entitlement", conflicts_with = "relay")]
    over: Option<LineAddress>,
    /// Be the helper: pass requests from this line on to the server (unix:PATH or serial:DEVICE)
    #[arg(long, value_name = "LISTEN", requires = "entitlement")]
    pub relay: Option<LineAddress>,
    /// Application id of the delivery at the server
    #[arg(long, value_name = "APP", requires = "entitlement", default_value_t = OTA_APP_DEFAULT)]
    entitlement_app: AppId,
    /// Time between two queries when nothing happens, in seconds
    #[arg(long, value_name = "S", requires = "entitlement", default_value_t = 86_400)]
    entitlement_period_s: u32,
    /// How long the server may be out of reach before answers of the card leave by short message, in seconds; 0: never
    #[arg(long, value_name = "S", requires = "entitlement", default_value_t = SMS_AFTER_S)]
    sms_after_s: u32,
    /// What a push service knows this device by: the server is told, and pushes where it would send an SMS
    #[arg(long, value_name = "TOKEN", requires = "entitlement")]
    notif_token: Option<String>,
    /// Which push service: 1 GCM, 2 FCM, 3 WNS, 4 APNS
    #[arg(long, value_name = "N", requires = "notif_token", default_value_t = 2,
        value_parser = clap::value_parser!(u8).range(1..=4))]
    notif_action: u8,
    /// Take notifications here, as a push service hands them over: POST on loopback
    #[arg(long, value_name = "ADDRESS", requires = "notif_token")]
    notified_at: Option<SocketAddr>,
    /// Authenticate by AKA' instead of AKA
    #[arg(long, requires = "entitlement")]
    aka_prime: bool,
    /// Use pseudonyms that the server gives out, in place of the IMSI
    #[arg(long, requires = "entitlement")]
    pseudonyms: bool,
    /// Use identities for fast re-authentication that the server gives out: the card is not asked then
    #[arg(long, requires = "entitlement")]
    fast_reauthentication: bool,
}

/// The client module, where there is a server.
pub fn bearer(
    args: &EntitlementArgs,
    imei: &[u8; 15],
) -> Result<Option<IpBearer>, Box<dyn std::error::Error>> {
    let Some(url) = &args.entitlement else { return Ok(None) };
    let place = ServerPlace::of(url)?;
    let mut settings = ClientSettings::of(&place.name, imei);
    settings.app = args.entitlement_app;
    settings.period_s = args.entitlement_period_s;
    settings.sms_after_s = args.sms_after_s;
    settings.push = args.notif_token.clone().map(|token| Push { token, action: args.notif_action });
    settings.aka_prime = args.aka_prime;
    settings.pseudonyms = args.pseudonyms;
    settings.fast_reauthentication = args.fast_reauthentication;
    let (queue, queues) = match &args.queue {
        Some(folder) => {
            let (file, queues) = QueueFile::open(folder)?;
            (Some(file), queues)
        }
        None => (None, Queues::default()),
    };
    let transport = match &args.over {
        Some(line) => Transport::line(LineClient::new(line.clone())),
        None => Transport::http(url, args.entitlement_ca.as_deref())?,
    };
    let client = Client::new(Arc::new(settings), queues);
    Ok(Some(IpBearer::new(client, queue, transport, place.addresses)))
}

/// Takes notifications for the client module, where the flags say so.
pub async fn wake(args: &EntitlementArgs, outside: &UnboundedSender<Inbound>) -> std::io::Result<()> {
    let (Some(address), Some(token)) = (args.notified_at, args.notif_token.clone()) else { return Ok(()) };
    let listener = notified::bind(address).await?;
    let (notified, outside) = (Notified { token, app: args.entitlement_app }, outside.clone());
    tokio::spawn(notified::listen(listener, notified, move |event| {
        // A device that has ended hears nothing.
        let _ = outside.send(Inbound::Client(event));
    }));
    Ok(())
}

/// Runs the helper until it is ended, or its line ends.
pub fn relay(line: &LineAddress, args: &EntitlementArgs) -> Outcome {
    let url = args.entitlement.as_deref().ok_or("where is the entitlement server? give --entitlement")?;
    let transport = Transport::http(url, args.entitlement_ca.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    tracing::info!(?line, "passing requests on to the entitlement server");
    match serve_line(line, &transport, runtime.handle()) {
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
