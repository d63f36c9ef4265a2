//! `simtide campaign`: what is urgent and runs against the tide of polls.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use simtide_server::api::campaigns::{CampaignDetail, CampaignList, CampaignSummary, ChangesView};

use crate::Outcome;
use crate::client::{Asked, Client, ClientError, block_on};

/// Options of `simtide campaign`.
pub type Args = Asked<Action>;

/// What it is asked for.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Make a campaign from a file (JSON or TOML: name, content, audience, settings)
    Create(Create),
    /// Start a draft
    Start {
        /// Id of the campaign
        campaign: u32,
    },
    /// Show a campaign with its progress and its absentees
    Show {
        /// Id of the campaign
        campaign: u32,
    },
    /// Follow a campaign until it ends
    Watch {
        /// Id of the campaign
        campaign: u32,
    },
    /// Let nothing leave until further notice
    Pause {
        /// Id of the campaign
        campaign: u32,
    },
    /// Go on with a paused campaign
    Resume {
        /// Id of the campaign
        campaign: u32,
    },
    /// End a campaign
    Stop {
        /// Id of the campaign
        campaign: u32,
    },
    /// List campaigns, latest first
    List,
}

#[derive(Debug, clap::Args)]
pub struct Create {
    /// File with the campaign; a name that ends in .toml is read as TOML, everything else as JSON
    file: PathBuf,
    /// Another name than the file's
    #[arg(long)]
    name: Option<String>,
    /// Only cards that this filter matches, e.g. 'profile=standard and tag:lab'
    #[arg(long)]
    filter: Option<String>,
    /// Who is triggered first: next-poll or last-update
    #[arg(long)]
    order: Option<String>,
    /// Triggers per card at most
    #[arg(long)]
    attempts: Option<u8>,
    /// Triggers that leave together
    #[arg(long)]
    batch_size: Option<u32>,
    /// Cards never seen: never, last or like-others
    #[arg(long)]
    never_seen: Option<String>,
    /// Start it at once
    #[arg(long)]
    start: bool,
}

/// Runs `simtide campaign`.
pub fn run(args: Args) -> Outcome {
    let client = args.server.client()?;
    let as_json = args.server.json;
    block_on(async {
        match args.action {
            Action::Create(create) => make(&client, create, as_json).await,
            Action::Start { campaign } => turn(&client, campaign, "start", as_json).await,
            Action::Pause { campaign } => turn(&client, campaign, "pause", as_json).await,
            Action::Resume { campaign } => turn(&client, campaign, "resume", as_json).await,
            Action::Stop { campaign } => turn(&client, campaign, "stop", as_json).await,
            Action::Show { campaign } => {
                let detail = detail(&client, campaign).await?;
                print(&detail, as_json)
            }
            Action::Watch { campaign } => watch(&client, campaign, as_json).await,
            Action::List => list(&client, as_json).await,
        }
    })??;
    Ok(ExitCode::SUCCESS)
}

type Done = Result<(), Box<dyn std::error::Error>>;

async fn make(client: &Client, create: Create, as_json: bool) -> Done {
    let body = definition(&create)?;
    let made: CampaignSummary = client.post("/v1/campaigns", &body).await?;
    if create.start {
        return turn(client, made.id, "start", as_json).await;
    }
    if as_json {
        println!("{}", serde_json::to_string_pretty(&made)?);
    } else {
        println!(
            "campaign {} ({}) is a draft; start it with `simtide campaign start {}`",
            made.id, made.name, made.id
        );
    }
    Ok(())
}

/// The file, with what the command line says instead.
fn definition(create: &Create) -> Result<Value, Box<dyn std::error::Error>> {
    let file = |source| ClientError::File { path: create.file.clone(), source };
    let text = std::fs::read_to_string(&create.file).map_err(file)?;
    let mut body: Value = if create.file.extension().is_some_and(|extension| extension == "toml") {
        toml::from_str(&text)?
    } else {
        serde_json::from_str(&text)?
    };
    if let Some(name) = &create.name {
        body["name"] = json!(name);
    }
    if let Some(filter) = &create.filter {
        body["audience"] = json!({ "filter": filter });
    }
    let mut settings = match body.get("settings") {
        Some(Value::Object(settings)) => settings.clone(),
        _ => Map::new(),
    };
    for (key, value) in [
        ("order", json!(create.order)),
        ("attempts", json!(create.attempts)),
        ("batch_size", json!(create.batch_size)),
        ("never_seen", json!(create.never_seen)),
    ] {
        if !value.is_null() {
            settings.insert(key.to_owned(), value);
        }
    }
    body["settings"] = Value::Object(settings);
    Ok(body)
}

async fn detail(client: &Client, campaign: u32) -> Result<CampaignDetail, ClientError> {
    client.get(&format!("/v1/campaigns/{campaign}")).await
}

async fn turn(client: &Client, campaign: u32, verb: &str, as_json: bool) -> Done {
    let path = format!("/v1/campaigns/{campaign}/{verb}");
    let turned: CampaignDetail = client.post(&path, &json!({})).await?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&turned)?);
    } else {
        println!("campaign {campaign} ({}) is {}", turned.campaign.name, turned.campaign.state);
    }
    Ok(())
}

async fn list(client: &Client, as_json: bool) -> Done {
    let list: CampaignList = client.get("/v1/campaigns").await?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(());
    }
    println!("{:>6} {:<9} {:<24} NAME", "ID", "STATE", "STARTED");
    for one in &list.campaigns {
        let started = one.started_at.map_or("-".to_owned(), |at| at.to_string());
        println!("{:>6} {:<9} {started:<24} {}", one.id, one.state, one.name);
    }
    Ok(())
}

fn print(detail: &CampaignDetail, as_json: bool) -> Done {
    if as_json {
        println!("{}", serde_json::to_string_pretty(detail)?);
        return Ok(());
    }
    let progress = &detail.progress;
    println!("campaign {}  {}", detail.campaign.id, detail.campaign.name);
    println!("state             {}", detail.campaign.state);
    if let Some(changes) = &detail.changes {
        print_changes(changes);
        return Ok(());
    }
    println!("done by poll      {}", progress.done_by_poll);
    println!("done by trigger   {}", progress.done_by_trigger);
    println!("failed            {}", progress.failed);
    println!("interrupted       {}", progress.interrupted);
    println!("triggers sent     {}", progress.triggers);
    println!("called meanwhile  {}", progress.passed_over);
    if let Some(absentees) = &detail.absentees {
        println!("never seen        {}", absentees.never_seen);
        println!("overdue           {}", absentees.overdue);
        println!("silent            {}", absentees.silent);
    }
    Ok(())
}

fn print_changes(changes: &ChangesView) {
    for (name, count) in [
        ("done", changes.done),
        ("under way", changes.under_way),
        ("unknown", changes.unknown),
        ("declined", changes.declined),
        ("refused by card", changes.refused),
        ("reverted", changes.reverted),
        ("failed", changes.failed),
        ("cancelled", changes.cancelled),
        ("not possible", changes.not_possible),
    ] {
        println!("{name:<17} {count}");
    }
    if let Some(reason) = &changes.paused_for {
        println!("paused for        {reason}");
    }
    if let Some(reason) = &changes.waits_for {
        println!("waits for         {reason}");
    }
}

/// How far a campaign is, in one line.
fn in_short(detail: &CampaignDetail) -> String {
    let progress = &detail.progress;
    match &detail.changes {
        Some(changes) => format!(
            "{} done, {} under way, {} unknown, {} declined, {} refused, reverted or failed",
            changes.done,
            changes.under_way,
            changes.unknown,
            changes.declined,
            changes.refused + changes.reverted + changes.failed
        ),
        None => format!(
            "{} done by poll, {} by trigger, {} failed; {} triggers sent, {} under way",
            progress.done_by_poll,
            progress.done_by_trigger,
            progress.failed,
            progress.triggers,
            progress.in_flight
        ),
    }
}

async fn watch(client: &Client, campaign: u32, as_json: bool) -> Done {
    let style = ProgressStyle::with_template("{spinner} {prefix} {msg}")?;
    let bar = ProgressBar::new_spinner().with_style(style);
    loop {
        let detail = detail(client, campaign).await?;
        bar.set_prefix(format!("{} ({})", detail.campaign.name, detail.campaign.state));
        bar.set_message(in_short(&detail));
        bar.tick();
        if matches!(detail.campaign.state.as_str(), "finished" | "stopped") {
            bar.finish_and_clear();
            return print(&detail, as_json);
        }
        tokio::time::sleep(WATCH_PAUSE).await;
    }
}

/// How often a watched campaign is asked for.
const WATCH_PAUSE: Duration = Duration::from_millis(500);
