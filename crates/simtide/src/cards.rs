//! `simtide cards`: what the platform knows of cards, and single commands to them.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use simtide_server::api::cards::{CardDetail, CardList};
use simtide_server::api::commands::PacketView;

use crate::Outcome;
use crate::client::{Asked, Client, block_on};

/// Options of `simtide cards`.
pub type Args = Asked<Action>;

/// What it is asked for.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// List cards
    List(List),
    /// Show a card with its history
    Show {
        /// ICCID or EID
        card: String,
    },
    /// Send a command to a card by SMS
    Command(Command),
    /// Give up a command whose proof does not come, so that the next one may leave
    Abandon {
        /// ICCID or EID
        card: String,
        /// Key set and counter: 1-42
        command: String,
    },
}

#[derive(Debug, clap::Args)]
pub struct List {
    /// Only cards of this profile
    #[arg(long)]
    profile: Option<String>,
    /// Only cards of this operator
    #[arg(long)]
    operator: Option<String>,
    /// Only cards in this state: active, suspended, retired
    #[arg(long)]
    state: Option<String>,
    /// Only cards with this tag
    #[arg(long)]
    tag: Option<String>,
    /// Only cards expected before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    next_poll_before: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

#[derive(Debug, clap::Args)]
pub struct Command {
    /// ICCID or EID
    card: String,
    /// Receiver on the card, 6 hex digits
    #[arg(long)]
    tar: String,
    /// Plain secured data in hex
    #[arg(long, conflicts_with = "apdu")]
    data: Option<String>,
    /// A C-APDU in hex; several make a script
    #[arg(long)]
    apdu: Vec<String>,
    /// Security parameter indicator, 4 hex digits; as the card profile says unless given
    #[arg(long)]
    spi: Option<String>,
    /// Key set
    #[arg(long)]
    key_set: Option<u8>,
    /// Seconds that the network may try
    #[arg(long)]
    validity_s: Option<u32>,
    /// Wait so many seconds for the card's proof
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait_s: u64,
}

/// Runs `simtide cards`.
pub fn run(args: Args) -> Outcome {
    let client = args.server.client()?;
    let as_json = args.server.json;
    block_on(async {
        match args.action {
            Action::List(list) => show_list(&client, list, as_json).await,
            Action::Show { card } => show(&client, &card, as_json).await,
            Action::Command(command) => send(&client, command, as_json).await,
            Action::Abandon { card, command } => {
                let path = format!("/v1/cards/{card}/commands/{command}/abandon");
                print_packet(&client.post(&path, &Value::Null).await?, as_json)
            }
        }
    })??;
    Ok(ExitCode::SUCCESS)
}

async fn show_list(client: &Client, list: List, as_json: bool) -> Result<(), Box<dyn std::error::Error>> {
    let mut left = list.limit;
    let mut after: Option<String> = None;
    let mut all = Vec::new();
    while left > 0 {
        let query = [
            ("profile", list.profile.clone()),
            ("operator", list.operator.clone()),
            ("state", list.state.clone()),
            ("tag", list.tag.clone()),
            ("next_poll_before", list.next_poll_before.clone()),
            ("after", after.clone()),
            ("limit", Some(left.min(1_000).to_string())),
        ];
        let given: Vec<_> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        let page: CardList =
            client.send(client.request(reqwest::Method::GET, "/v1/cards").query(&given)).await?;
        left = left.saturating_sub(page.cards.len());
        all.extend(page.cards);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if as_json {
        println!("{}", serde_json::to_string_pretty(&CardList { cards: all, next: after })?);
        return Ok(());
    }
    println!("{:<20} {:<16} {:<9} {:<24} {:<20}", "CARD", "PROFILE", "STATE", "LAST CONTACT", "NEXT POLL");
    for card in &all {
        let last = card.last_update.map_or("never".to_owned(), |at| at.to_string());
        let state = serde_json::to_value(card.state)?;
        let state = state.as_str().unwrap_or_default();
        println!("{:<20} {:<16} {state:<9} {last:<24} {:<20}", card.id, card.profile, card.next_poll);
    }
    if after.is_some() {
        eprintln!("there are more: raise --limit");
    }
    Ok(())
}

async fn show(client: &Client, card: &str, as_json: bool) -> Result<(), Box<dyn std::error::Error>> {
    let detail: CardDetail = client.get(&format!("/v1/cards/{card}")).await?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&detail)?);
        return Ok(());
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    println!("card          {}", detail.card.id);
    println!("iccid         {}", text(&detail.iccid));
    println!("eid           {}", text(&detail.eid));
    println!("imsi          {}", text(&detail.imsi));
    println!("msisdn        {}", text(&detail.msisdn));
    println!("profile       {}", detail.card.profile);
    println!("operator      {}", detail.card.operator);
    println!("device        {}", detail.card.device_kind);
    println!("tags          {}", detail.card.tags.join(", "));
    println!("last contact  {}", detail.card.last_update.map_or("never".to_owned(), |at| at.to_string()));
    println!("next poll     {}", detail.card.next_poll);
    for exception in &detail.exceptions {
        println!("campaign {}: {} at step {}", exception.campaign, exception.status, exception.step);
    }
    for packet in &detail.packets {
        println!("packet {}: {} {} to {}", packet.id, packet.origin, packet.state, packet.tar);
    }
    println!("\n{:<24} {:<9} {:<9} {:<12} DETAIL", "TIME", "CAUSE", "CAMPAIGN", "RESULT");
    for line in &detail.history {
        let campaign = line.campaign.map_or("-".to_owned(), |campaign| campaign.to_string());
        let word = line.status_word.clone().unwrap_or_default();
        println!(
            "{:<24} {:<9} {campaign:<9} {:<12} {word} {}",
            line.at, line.cause, line.result, line.detail
        );
    }
    Ok(())
}

async fn send(client: &Client, command: Command, as_json: bool) -> Result<(), Box<dyn std::error::Error>> {
    let mut body = json!({ "tar": command.tar });
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            body[name] = value;
        }
    };
    put("data", json!(command.data));
    put("apdus", if command.apdu.is_empty() { Value::Null } else { json!(command.apdu) });
    put("spi", json!(command.spi));
    put("key_set", json!(command.key_set));
    put("validity_s", json!(command.validity_s));
    let path = format!("/v1/cards/{}/commands", command.card);
    let mut packet: PacketView = client.post(&path, &body).await?;
    let path = format!("{path}/{}", packet.id);
    for _ in 0..command.wait_s * 10 {
        packet = client.get(&path).await?;
        if matches!(packet.state.as_str(), "proven" | "refused" | "expired" | "abandoned") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    print_packet(&packet, as_json)?;
    Ok(())
}

fn print_packet(packet: &PacketView, as_json: bool) -> Result<(), Box<dyn std::error::Error>> {
    if as_json {
        println!("{}", serde_json::to_string_pretty(packet)?);
        return Ok(());
    }
    println!("command {} to {}: {}", packet.id, packet.tar, packet.state);
    if let Some(answer) = &packet.answer {
        let trust = if answer.authenticated { "" } else { " (not authenticated)" };
        println!("card answered: {}{trust} {}", answer.status_text, answer.data);
    }
    Ok(())
}
