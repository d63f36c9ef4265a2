//! `simtide delivery`: content for a single card, by whichever bearer reaches it, until the card has proven it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use simtide_server::api::deliveries::{DeliveryList, DeliveryView};

use crate::Outcome;
use crate::client::{Asked, Client, ClientError, block_on};

/// How often `watch` looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Options of `simtide delivery`.
pub type Args = Asked<Action>;

/// What it is asked for.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Deliver content to a card: steps from a file, or single APDUs
    Send(Send),
    /// Show a delivery with everything that has happened
    Show {
        /// Id of the delivery, 16 hex digits
        delivery: String,
    },
    /// Follow a delivery until it is over
    Watch {
        /// Id of the delivery, 16 hex digits
        delivery: String,
    },
    /// List deliveries
    List {
        /// Only this card's, the latest first: ICCID or EID
        #[arg(long)]
        card: Option<String>,
        /// Only those that are not over
        #[arg(long)]
        open: bool,
    },
    /// End a delivery; a copy that has left may still have its effect
    Cancel {
        /// Id of the delivery, 16 hex digits
        delivery: String,
    },
}

#[derive(Debug, clap::Args)]
pub struct Send {
    /// ICCID or EID
    card: String,
    /// File with the steps, as campaigns have them: a list, or an object with "steps" and "repeatable"; a name that
    /// ends in .toml is read as TOML, everything else as JSON
    #[arg(long, value_name = "FILE", conflicts_with = "apdu")]
    steps: Option<PathBuf>,
    /// C-APDU in hex, repeated for a script; with --tar
    #[arg(long, value_name = "HEX", requires = "tar")]
    apdu: Vec<String>,
    /// Application that gets the APDUs, 6 hex digits
    #[arg(long)]
    tar: Option<String>,
    /// Packet that the operator has sealed itself, repeated for several: the counter in it, a colon, and the packet from
    /// its CPL on in hex
    #[arg(long, value_name = "COUNTER:HEX", conflicts_with_all = ["steps", "apdu", "repeatable"])]
    packet: Vec<String>,
    /// Executing it twice does no harm
    #[arg(long)]
    repeatable: bool,
    /// What may carry it: poll, sms, ip, with commas between; all unless given
    #[arg(long, value_delimiter = ',')]
    bearers: Vec<String>,
    /// How much waiting a short message is worth: low, normal or high
    #[arg(long)]
    urgency: Option<String>,
    /// How long it is tried, in seconds
    #[arg(long)]
    validity_s: Option<u32>,
    /// Follow it until it is over
    #[arg(long)]
    watch: bool,
}

/// Runs `simtide delivery`.
pub fn run(args: Args) -> Outcome {
    let client = args.server.client()?;
    let as_json = args.server.json;
    block_on(async {
        match args.action {
            Action::Send(send) => {
                let made: DeliveryView = client.post("/v1/deliveries", &body(&send)?).await?;
                if send.watch {
                    return watch(&client, &made.id, as_json).await;
                }
                print(&made, as_json)
            }
            Action::Show { delivery } => print(&show(&client, &delivery).await?, as_json),
            Action::Watch { delivery } => watch(&client, &delivery, as_json).await,
            Action::List { card, open } => list(&client, card.as_deref(), open, as_json).await,
            Action::Cancel { delivery } => {
                let path = format!("/v1/deliveries/{delivery}/cancel");
                let ended: DeliveryView = client.post(&path, &json!({})).await?;
                print(&ended, as_json)
            }
        }
    })?
}

async fn show(client: &Client, delivery: &str) -> Result<DeliveryView, ClientError> {
    client.get(&format!("/v1/deliveries/{delivery}")).await
}

/// The request of a delivery.
fn body(send: &Send) -> Result<Value, Box<dyn std::error::Error>> {
    let mut body = match &send.steps {
        Some(path) => match read(path)? {
            list @ Value::Array(_) => json!({ "steps": list }),
            object => object,
        },
        None if !send.packet.is_empty() => {
            let packets = send.packet.iter().map(|text| packet(text)).collect::<Result<Vec<_>, _>>()?;
            json!({ "packets": packets })
        }
        None if send.apdu.is_empty() => {
            return Err("give --steps FILE, or --tar and --apdu, or --packet".into());
        }
        None => json!({ "steps": [{ "do": { "script": { "commands": send.apdu } }, "tar": send.tar }] }),
    };
    body["card"] = json!(send.card);
    if send.repeatable {
        body["repeatable"] = json!(true);
    }
    if !send.bearers.is_empty() {
        body["bearers"] = json!(send.bearers);
    }
    if let Some(urgency) = &send.urgency {
        body["urgency"] = json!(urgency);
    }
    if let Some(validity_s) = send.validity_s {
        body["validity_s"] = json!(validity_s);
    }
    Ok(body)
}

/// A packet that is sealed already.
fn packet(text: &str) -> Result<Value, Box<dyn std::error::Error>> {
    let (counter, packet) = text.split_once(':').ok_or("--packet: give COUNTER:HEX, as in 17:0025...")?;
    let counter: u64 = counter.parse().map_err(|_| format!("--packet: {counter:?} is no counter"))?;
    Ok(json!({ "counter": counter, "packet": packet }))
}

fn read(path: &Path) -> Result<Value, Box<dyn std::error::Error>> {
    let file = |source| ClientError::File { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(file)?;
    if path.extension().is_some_and(|extension| extension == "toml") {
        Ok(toml::from_str(&text)?)
    } else {
        Ok(serde_json::from_str(&text)?)
    }
}

/// Prints milestones as they come; fails where the card has not got it.
async fn watch(client: &Client, delivery: &str, as_json: bool) -> Outcome {
    let mut shown = 0;
    loop {
        let view = show(client, delivery).await?;
        if !as_json {
            for milestone in view.milestones.iter().skip(shown) {
                println!("{}  {}", milestone.at, milestone.text);
            }
            shown = view.milestones.len();
        }
        if !is_open(&view.state) {
            if as_json {
                println!("{}", serde_json::to_string_pretty(&view)?);
            }
            return Ok(if view.state == "proven" { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn is_open(state: &str) -> bool {
    matches!(state, "requested" | "sent" | "fetched" | "polling")
}

fn print(view: &DeliveryView, as_json: bool) -> Outcome {
    if as_json {
        println!("{}", serde_json::to_string_pretty(view)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("delivery {} to card {}: {}", view.id, view.card, view.state);
    if let Some(by) = &view.delivered_by {
        println!("  delivered by {by}");
    } else if let Some(turn) = &view.turn {
        println!("  {turn} is tried now; until {}", view.limit);
    }
    if view.packets > 1 {
        println!("  {} of {} packets proven", view.packets_proven.min(view.packets), view.packets);
    }
    if let Some(explained) = &view.explained {
        println!("  the card: {explained}");
    }
    for milestone in &view.milestones {
        println!("  {}  {}", milestone.at, milestone.text);
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, card: Option<&str>, open: bool, as_json: bool) -> Outcome {
    let mut after = None::<String>;
    let mut all = Vec::new();
    loop {
        let mut query = Vec::new();
        query.extend(card.map(|card| format!("card={card}")));
        query.extend(open.then(|| "open=true".to_owned()));
        query.extend(after.map(|after| format!("after={after}")));
        let page: DeliveryList = client.get(&format!("/v1/deliveries?{}", query.join("&"))).await?;
        if as_json {
            all.extend(page.deliveries);
        } else {
            for view in page.deliveries {
                let by = view.delivered_by.as_deref().or(view.turn.as_deref()).unwrap_or("-");
                println!("{}  {}  {:9}  {:4}  {}", view.id, view.card, view.state, by, view.requested_at);
            }
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if as_json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(ExitCode::SUCCESS)
}
