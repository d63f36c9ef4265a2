//! `simtide subscription`: changes of operator.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use simtide_protocol::ids::EpochMs;
use simtide_server::api::changes::{ChangeList, ChangeView, StepView};

use crate::Outcome;
use crate::client::{Asked, Client, ClientError, block_on};

/// How often a watched change is asked for.
const WATCH_PAUSE: Duration = Duration::from_millis(500);
/// Pages of a list at most.
const PAGES_MAX: usize = 1_000;

/// Options of `simtide subscription`.
pub type Args = Asked<Action>;

/// What it is asked for.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Ask for a change of operator, after the user has agreed
    Request(Request),
    /// Show a change with everything that has happened
    Show {
        /// Id of the change, 16 hex digits
        change: String,
    },
    /// Follow a change until it ends
    Watch {
        /// Id of the change, 16 hex digits
        change: String,
    },
    /// Try at once what is waited for; a change that ended without success begins anew
    Retry {
        /// Id of the change, 16 hex digits
        change: String,
    },
    /// Ask card and registers at once where the change stands
    Resolve {
        /// Id of the change, 16 hex digits
        change: String,
    },
    /// Stop a change that has not reached the card
    Cancel {
        /// Id of the change, 16 hex digits
        change: String,
    },
    /// Say yes or no as the operator that the card leaves
    Consent {
        /// Id of the change, 16 hex digits
        change: String,
        /// The card may not leave
        #[arg(long)]
        deny: bool,
    },
    /// List changes
    List(List),
}

#[derive(Debug, clap::Args)]
pub struct Request {
    /// ICCID or EID of the card
    card: String,
    /// Name or code of the operator that the user wants
    operator: String,
    /// How the user agreed: menu, code, contact-center or web-site
    #[arg(long, default_value = "contact-center")]
    how: String,
    /// When the user agreed, RFC 3339; now unless given
    #[arg(long)]
    when: Option<String>,
    /// Reference of your own records
    #[arg(long, default_value = "")]
    reference: String,
    /// The same key again asks for nothing new
    #[arg(long)]
    idempotency_key: Option<String>,
    /// Follow it until it ends
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, clap::Args)]
pub struct List {
    /// Only of this card
    #[arg(long)]
    card: Option<String>,
    /// Only those that this campaign began
    #[arg(long)]
    campaign: Option<u32>,
    /// Only open ones
    #[arg(long)]
    open: bool,
    /// Only in this state
    #[arg(long)]
    state: Option<String>,
    /// Only those that people have to look at
    #[arg(long)]
    alarm: bool,
}

type Done = Result<ExitCode, Box<dyn std::error::Error>>;

/// Runs `simtide subscription`. A watched change that ends without success ends with status 1.
pub fn run(args: Args) -> Outcome {
    let client = args.server.client()?;
    let as_json = args.server.json;
    block_on(async {
        match args.action {
            Action::Request(wanted) => request(&client, wanted, as_json).await,
            Action::Show { change } => print(&find(&client, &change).await?, as_json),
            Action::Watch { change } => watch(&client, &change, as_json).await,
            Action::Retry { change } => turn(&client, &change, "retry", json!({}), as_json).await,
            Action::Resolve { change } => turn(&client, &change, "resolve", json!({}), as_json).await,
            Action::Cancel { change } => turn(&client, &change, "cancel", json!({}), as_json).await,
            Action::Consent { change, deny } => {
                turn(&client, &change, "consent", json!({ "granted": !deny }), as_json).await
            }
            Action::List(query) => list(&client, &query, as_json).await,
        }
    })?
}

async fn request(client: &Client, wanted: Request, as_json: bool) -> Done {
    let when = match wanted.when {
        Some(when) => when,
        None => now().to_string(),
    };
    let consent = json!({ "when": when, "how": wanted.how, "reference": wanted.reference });
    let body = json!({ "card": wanted.card, "operator": wanted.operator, "consent": consent });
    let request = client.request(reqwest::Method::POST, "/v1/changes").json(&body);
    let key = wanted.idempotency_key.into_iter();
    let request = key.fold(request, |request, key| request.header("Idempotency-Key", key));
    let begun: ChangeView = client.send(request).await?;
    if wanted.watch {
        return watch(client, &begun.id, as_json).await;
    }
    if as_json {
        return print(&begun, true);
    }
    println!("change {} from {} to {} is {}", begun.id, begun.from, begun.to, begun.state);
    println!("follow it with `simtide subscription watch {}`", begun.id);
    Ok(ExitCode::SUCCESS)
}

fn now() -> EpochMs {
    simtide_server::clock::Clock::REAL.now()
}

async fn find(client: &Client, change: &str) -> Result<ChangeView, ClientError> {
    client.get(&format!("/v1/changes/{change}")).await
}

async fn turn(client: &Client, change: &str, verb: &str, body: Value, as_json: bool) -> Done {
    let turned: ChangeView = client.post(&format!("/v1/changes/{change}/{verb}"), &body).await?;
    if as_json {
        return print(&turned, true);
    }
    println!("change {} is {}", turned.id, turned.state);
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &Client, query: &List, as_json: bool) -> Done {
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let [open, alarm] = [query.open, query.alarm].map(|only| only.then(|| "true".to_owned()));
        let parameters = [
            ("card", query.card.clone()),
            ("campaign", query.campaign.map(|campaign| campaign.to_string())),
            ("open", open),
            ("alarm", alarm),
            ("state", query.state.clone()),
            ("after", after.clone()),
        ];
        let given: Vec<_> = parameters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let request = client.request(reqwest::Method::GET, "/v1/changes").query(&given);
        let page: ChangeList = client.send(request).await?;
        found.extend(page.changes);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if as_json {
        println!("{}", serde_json::to_string_pretty(&ChangeList { changes: found, next: after })?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<16} {:<20} {:<10} {:<24} FROM -> TO  ALARMS", "ID", "CARD", "STATE", "SINCE");
    for one in &found {
        let since = one.steps.last().map_or("-".to_owned(), |step| step.at.to_string());
        let alarms: Vec<&str> = one.alarms.iter().map(|alarm| alarm.alarm.as_str()).collect();
        let way = format!("{} -> {}  {}", one.from, one.to, alarms.join(", "));
        println!("{:<16} {:<20} {:<10} {since:<24} {}", one.id, one.card, one.state, way.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

async fn watch(client: &Client, change: &str, as_json: bool) -> Done {
    let mut printed: Vec<StepView> = Vec::new();
    loop {
        let seen = find(client, change).await?;
        // A long change keeps some of its steps only, and takes one back that came to nothing.
        let is = |one: &StepView, other: &StepView| (one.at, &one.state) == (other.at, &other.state);
        let place = |step: &StepView| seen.steps.iter().rposition(|other| is(step, other));
        let known = printed.iter().rev().find_map(place);
        for step in seen.steps.iter().skip(known.map_or(0, |known| known + 1)).filter(|_| !as_json) {
            println!("{}  {}", step.at, step.state);
        }
        printed.clone_from(&seen.steps);
        if !seen.open {
            if as_json {
                print(&seen, true)?;
            } else if let Some(reason) = &seen.reason {
                println!("{}: {reason}", seen.state);
            }
            let ended_well = seen.state == "done";
            return Ok(if ended_well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        tokio::time::sleep(WATCH_PAUSE).await;
    }
}

fn print(change: &ChangeView, as_json: bool) -> Done {
    if as_json {
        println!("{}", serde_json::to_string_pretty(change)?);
        return Ok(ExitCode::SUCCESS);
    }
    let unknown = || "-".to_owned();
    println!("change {}  card {}", change.id, change.card);
    println!("from              {}", change.from);
    println!("to                {}", change.to);
    let reason = change.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    println!("state             {}{reason}", change.state);
    println!("identity 1        {}", change.imsi.clone().unwrap_or_else(unknown));
    println!("identity 2        {}", change.new_imsi.clone().unwrap_or_else(unknown));
    println!("new number        {}", change.new_msisdn.clone().unwrap_or_else(unknown));
    let how = serde_json::to_value(change.consent.how)?;
    println!("user agreed       {} by {}", change.consent.when, how.as_str().unwrap_or("?"));
    if !change.consent.token.is_empty() {
        println!("asked by token    {}", change.consent.token);
    }
    println!("operator 1        {}", change.operator_1);
    if let Some(due) = change.due {
        println!("next try          {due}");
    }
    for step in &change.steps {
        println!("  {}  {}", step.at, step.state);
    }
    for alarm in &change.alarms {
        let other = alarm.other_card.as_ref().map(|card| format!(" (card {card})")).unwrap_or_default();
        println!("  {}  ALARM {}{other}: {}", alarm.at, alarm.alarm, alarm.advice);
    }
    Ok(ExitCode::SUCCESS)
}
