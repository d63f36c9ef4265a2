//! `simtide agent`: one device with whatever card is in its port, in a terminal.

use std::process::ExitCode;
use std::time::Duration;

use simtide_agent::air::AirLine;
use simtide_agent::clock::Clock;
use simtide_agent::host::Shown;
use simtide_agent::network::{Line, NETWORKS_MAX, NetworkEvent, Networks};
use simtide_agent::port::at::AtPort;
use simtide_agent::port::vpcd::VpcdPort;
use simtide_agent::port::{CardPort, PortAddress};
use simtide_agent::runner::{Inbound, Runner};
use simtide_agent::smpp::{SmppLine, SmppSettings};
use simtide_device::client::Reason;
use simtide_device::{Device, Event, Kind, Menu, Pin, Prompt, Settings, UserAction};
use simtide_protocol::ids::{IdError, Plmn};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::{mpsc, oneshot};

use crate::Outcome;
use crate::card::{RowArgs, profile, soft_port};
use entitlement::EntitlementArgs;

mod entitlement;

/// Arguments of `simtide agent`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the card is: soft:PROFILE or soft:PROFILE:STATE, vpcd:ADDRESS, pcsc:READER or at:DEVICE
    #[arg(long, value_name = "PORT", required_unless_present = "relay")]
    card: Option<PortAddress>,
    /// The network: air:ADDRESS (the demo's SMSC) or smpp:ADDRESS (any SMSC)
    #[arg(long, value_name = "LINE")]
    smsc: Option<SmscAddress>,
    /// One of several networks, by the code in the card's identity: 001-01=air:ADDRESS; with --smsc for all others
    #[arg(long, value_name = "MCC-MNC=LINE")]
    network: Vec<NetworkAddress>,
    /// system_id of an SMPP bind; without it the card's own number
    #[arg(long, value_name = "NAME")]
    smpp_system_id: Option<String>,
    /// Password of an SMPP bind
    #[arg(
        long,
        value_name = "PASSWORD",
        env = "SIMTIDE_SMPP_PASSWORD",
        default_value = "",
        hide_env_values = true
    )]
    smpp_password: String,
    /// What the device is: phone, vehicle, meter, tracker, router or computer
    #[arg(long, default_value = "phone")]
    kind: Kind,
    /// A device without display and keys, whatever its kind
    #[arg(long)]
    no_display: bool,
    /// PIN 1 of the card
    #[arg(long, value_name = "DIGITS", env = "SIMTIDE_CARD_PIN", hide_env_values = true)]
    pin: Option<String>,
    /// What the radio adds to connections, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency_ms: u64,
    /// Time: `real`, or REAL_MS:VIRTUAL_MS:RATE
    #[arg(long, default_value = "real")]
    clock: Clock,
    #[command(flatten)]
    entitlement: EntitlementArgs,
    #[command(flatten)]
    row: RowArgs,
}

/// Which line leads to the network.
#[derive(Debug, Clone)]
enum SmscAddress {
    Air(String),
    Smpp(String),
}

/// A network by its code.
#[derive(Debug, Clone)]
struct NetworkAddress(Plmn, SmscAddress);

impl std::str::FromStr for NetworkAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (plmn, line) = text.split_once('=').ok_or("use MCC-MNC=LINE, as in 001-01=air:127.0.0.1:2776")?;
        Ok(Self(plmn.parse().map_err(|error: IdError| error.to_string())?, line.parse()?))
    }
}

impl std::str::FromStr for SmscAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("air", address)) if !address.is_empty() => Ok(Self::Air(address.to_owned())),
            Some(("smpp", address)) if !address.is_empty() => Ok(Self::Smpp(address.to_owned())),
            _ => Err("use air:ADDRESS or smpp:ADDRESS".to_owned()),
        }
    }
}

/// Runs the role until it is ended.
pub fn run(args: Args) -> Outcome {
    if let Some(line) = &args.entitlement.relay {
        return entitlement::relay(line, &args.entitlement);
    }
    let port = open_port(&args)?;
    let mut settings = Settings::of(args.kind);
    settings.display &= !args.no_display;
    settings.pin = match &args.pin {
        Some(digits) => Some(Pin::from_digits(digits).ok_or("a PIN has four to eight digits")?),
        None => None,
    };
    let display = settings.display;
    let ip = entitlement::bearer(&args.entitlement, &settings.imei)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async move {
        let (outside, inbox) = mpsc::unbounded_channel();
        let (shown, screen) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let runner = Runner {
            device: Device::new(settings),
            ip,
            networks: networks(&args, &outside)?,
            clock: args.clock,
            latency: Duration::from_millis(args.latency_ms),
            inbox,
            outside: outside.clone(),
            display: shown,
        };
        entitlement::wake(&args.entitlement, &outside).await?;
        tokio::spawn(person(screen, outside, display));
        tokio::spawn(async move {
            ended().await;
            let _ = stop.send(());
        });
        runner.run(port, stopped).await
    })?;
    // The thread of a port may hang in its card for ever; it must not hold up the end.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

fn open_port(args: &Args) -> Result<Box<dyn CardPort>, Box<dyn std::error::Error>> {
    let card = args.card.as_ref().ok_or("where is the card? give --card")?;
    Ok(match card {
        PortAddress::Soft { profile: path, state } => {
            let profile = profile(path)?;
            let personalization = args.row.personalization(&profile)?;
            Box::new(soft_port(&profile, personalization, state.as_deref())?)
        }
        PortAddress::Vpcd(address) => {
            let port = VpcdPort::listen(address)?;
            tracing::info!(address = %port.local_addr()?, "waiting for a card");
            Box::new(port)
        }
        PortAddress::At(device) => Box::new(AtPort::open(device)?),
        PortAddress::Pcsc(reader) => pcsc_port(reader)?,
    })
}

#[cfg(feature = "pcsc")]
fn pcsc_port(reader: &str) -> Result<Box<dyn CardPort>, Box<dyn std::error::Error>> {
    Ok(Box::new(simtide_agent::port::pcsc::PcscPort::open(reader)?))
}

#[cfg(not(feature = "pcsc"))]
fn pcsc_port(_reader: &str) -> Result<Box<dyn CardPort>, Box<dyn std::error::Error>> {
    Err("this build knows no card readers: build with `--features pcsc` (needs libpcsclite-dev)".into())
}

fn networks(args: &Args, outside: &mpsc::UnboundedSender<Inbound>) -> Result<Networks, std::io::Error> {
    let mut networks = Networks::default();
    let named = args.network.iter().map(|NetworkAddress(plmn, address)| (Some(*plmn), address));
    for (number, (plmn, address)) in named.chain(args.smsc.iter().map(|address| (None, address))).enumerate()
    {
        if !networks.add(plmn, line(args, address, number, outside)) {
            return Err(std::io::Error::other(format!("a device knows at most {NETWORKS_MAX} networks")));
        }
    }
    Ok(networks)
}

fn line(args: &Args, address: &SmscAddress, number: usize, outside: &mpsc::UnboundedSender<Inbound>) -> Line {
    let outside = outside.clone();
    let tell = move |event: NetworkEvent| {
        let _ = outside.send(Inbound::Network(number, event));
    };
    match address {
        SmscAddress::Air(address) => Line::Air(AirLine::start(address.clone(), tell)),
        SmscAddress::Smpp(address) => {
            let settings = SmppSettings {
                address: address.clone(),
                system_id: args.smpp_system_id.clone(),
                password: args.smpp_password.clone(),
            };
            Line::Smpp(SmppLine::start(settings, tell))
        }
    }
}

/// Ctrl-C, or the request to end.
async fn ended() {
    let mut terminate = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(_) => return,
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Shows what the device shows, and takes lines as what a person does.
async fn person(
    mut screen: mpsc::UnboundedReceiver<Shown>,
    outside: mpsc::UnboundedSender<Inbound>,
    display: bool,
) {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut prompt = None;
    let mut typing = display;
    loop {
        tokio::select! {
            shown = screen.recv() => match shown {
                Some(shown) => show(shown, &mut prompt),
                None => return,
            },
            line = lines.next_line(), if typing => match line {
                Ok(Some(line)) => {
                    if line.trim() == "check" {
                        let asked = simtide_device::client::Event::Query(Reason::Asked);
                        let _ = outside.send(Inbound::Client(asked));
                    } else if let Some(action) = action(line.trim(), prompt.as_ref()) {
                        let _ = outside.send(Inbound::Device(Event::User(action)));
                    } else {
                        println!("? (menu NUMBER, operators, check, back, cancel)");
                    }
                }
                // Nobody is there any more; the device goes on.
                _ => typing = false,
            },
        }
    }
}

fn show(shown: Shown, prompt: &mut Option<Prompt>) {
    match shown {
        Shown::Menu(Some(menu)) => print_list("menu", &menu),
        Shown::Menu(None) => println!("[no menu]"),
        Shown::Idle(text) => println!("[{text}]"),
        Shown::Sms(tpdu) => println!("[a message of {} bytes]", tpdu.len()),
        Shown::Client(notice) => tracing::info!(?notice, "the client module"),
        Shown::Notice(notice) => tracing::warn!(?notice, "the device has something to say"),
        Shown::Clear => *prompt = None,
        Shown::Prompt(asked) => {
            match &asked {
                Prompt::Text { text, wait: true } => println!("{text}\n(return to go on)"),
                Prompt::Text { text, wait: false } | Prompt::Note(text) => println!("{text}"),
                Prompt::Key { text, yes_no: true } => println!("{text} (yes/no)"),
                Prompt::Key { text, .. } => println!("{text} (one key)"),
                Prompt::Input { text, default, .. } if !default.is_empty() => println!("{text} [{default}]"),
                Prompt::Input { text, .. } => println!("{text}"),
                Prompt::List(menu) => print_list("list", menu),
            }
            *prompt = Some(asked);
        }
    }
}

fn print_list(what: &str, menu: &Menu) {
    println!("{what}: {}", menu.title);
    for (id, text) in &menu.items {
        println!("  {id} {text}");
    }
}

/// What a typed line means to what is shown.
fn action(line: &str, prompt: Option<&Prompt>) -> Option<UserAction> {
    if let Some(item) = line.strip_prefix("menu ") {
        return item.trim().parse().ok().map(UserAction::Menu);
    }
    if line == "operators" {
        return Some(UserAction::Operators);
    }
    Some(match (line, prompt?) {
        ("back", _) => UserAction::Back,
        ("cancel", _) => UserAction::Cancel,
        (_, Prompt::Text { .. }) => UserAction::Confirm,
        ("yes" | "y", Prompt::Key { yes_no: true, .. }) => UserAction::Confirm,
        ("no" | "n", Prompt::Key { yes_no: true, .. }) => UserAction::Deny,
        (_, Prompt::List(_)) => UserAction::Choose(line.parse().ok()?),
        ("", Prompt::Input { default, .. }) => UserAction::Enter(default.clone()),
        (_, Prompt::Input { .. } | Prompt::Key { yes_no: false, .. }) => UserAction::Enter(line.to_owned()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_actions() {
        let question = Prompt::Key { text: String::new(), yes_no: true };
        assert_eq!(action("yes", Some(&question)), Some(UserAction::Confirm));
        assert_eq!(action("n", Some(&question)), Some(UserAction::Deny));
        assert_eq!(action("perhaps", Some(&question)), None);
        assert_eq!(action("menu 3", None), Some(UserAction::Menu(3)));
        assert_eq!(action("hello", None), None);
        let list = Prompt::List(Menu { title: String::new(), items: Vec::new() });
        assert_eq!(action("2", Some(&list)), Some(UserAction::Choose(2)));
        assert_eq!(action("back", Some(&list)), Some(UserAction::Back));
    }
}
