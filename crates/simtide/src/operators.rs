//! `simtide operators`: who takes part in changes of operator, and what they have agreed on.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};
use simtide_server::api::operators::{AgreementList, AgreementView, OperatorList, OperatorView};

use crate::Outcome;
use crate::client::{Asked, Client, ClientError, block_on};

/// Options of `simtide operators`.
pub type Args = Asked<Action>;

/// What it is asked for.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Make an operator from a file (JSON or TOML), or replace its settings
    Put {
        /// Name of the operator
        name: String,
        /// Its settings; a name that ends in .toml is read as TOML, everything else as JSON
        file: PathBuf,
    },
    /// List operators
    List,
    /// Show an operator and the pool of its register
    Show {
        /// Name of the operator
        name: String,
    },
    /// End an operator's part in changes; its cards stay
    Remove {
        /// Name of the operator
        name: String,
    },
    /// Agree that cards may go from one operator to another
    Agree {
        /// Where cards leave
        from: String,
        /// Where they go
        to: String,
        /// What the operator they leave wants: ask, inform-before or inform-after; as its settings say unless given
        #[arg(long)]
        consent: Option<String>,
        /// By which bearer new subscribers get their identity: sms or poll; as the operator they join says unless given
        #[arg(long)]
        bearer: Option<String>,
        /// No new changes for the time being
        #[arg(long)]
        suspended: bool,
        /// The other direction too
        #[arg(long)]
        both: bool,
    },
    /// List agreements
    Agreements,
}

type Done = Result<(), Box<dyn std::error::Error>>;

/// Runs `simtide operators`.
pub fn run(args: Args) -> Outcome {
    let client = args.server.client()?;
    let as_json = args.server.json;
    block_on(async {
        match args.action {
            Action::Put { name, file } => put(&client, &name, &file, as_json).await,
            Action::List => list(&client, as_json).await,
            Action::Show { name } => {
                let shown: OperatorView = client.get(&format!("/v1/operators/{name}")).await?;
                print(&shown, as_json)
            }
            Action::Remove { name } => {
                let path = format!("/v1/operators/{name}");
                client.text(client.request(reqwest::Method::DELETE, &path)).await?;
                Ok(())
            }
            Action::Agree { from, to, consent, bearer, suspended, both } => {
                let terms = terms(consent, bearer, suspended);
                agree(&client, &from, &to, &terms, as_json).await?;
                if both { agree(&client, &to, &from, &terms, as_json).await } else { Ok(()) }
            }
            Action::Agreements => agreements(&client, as_json).await,
        }
    })??;
    Ok(ExitCode::SUCCESS)
}

async fn put(client: &Client, name: &str, file: &PathBuf, as_json: bool) -> Done {
    let failed = |source| ClientError::File { path: file.clone(), source };
    let text = std::fs::read_to_string(file).map_err(failed)?;
    let body: Value = if file.extension().is_some_and(|extension| extension == "toml") {
        toml::from_str(&text)?
    } else {
        serde_json::from_str(&text)?
    };
    let request = client.request(reqwest::Method::PUT, &format!("/v1/operators/{name}")).json(&body);
    let kept: OperatorView = client.send(request).await?;
    print(&kept, as_json)
}

fn terms(consent: Option<String>, bearer: Option<String>, suspended: bool) -> Value {
    let mut terms = json!({ "suspended": suspended });
    for (key, value) in [("consent", consent), ("bearer", bearer)] {
        if let Some(value) = value {
            terms[key] = json!(value);
        }
    }
    terms
}

async fn agree(client: &Client, from: &str, to: &str, terms: &Value, as_json: bool) -> Done {
    let path = format!("/v1/agreements/{from}/{to}");
    let agreed: AgreementView = client.send(client.request(reqwest::Method::PUT, &path).json(terms)).await?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&agreed)?);
    } else {
        println!("cards may go from {} to {}", agreed.from, agreed.to);
    }
    Ok(())
}

async fn agreements(client: &Client, as_json: bool) -> Done {
    let list: AgreementList = client.get("/v1/agreements").await?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(());
    }
    for one in &list.agreements {
        println!("{} -> {}  {}", one.from, one.to, serde_json::to_string(&one.terms)?);
    }
    Ok(())
}

async fn list(client: &Client, as_json: bool) -> Done {
    let list: OperatorList = client.get("/v1/operators").await?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(());
    }
    println!("{:<20} {:<16} {:<6} {:<8} DISPLAY NAME", "NAME", "CODE", "PLMN", "CHANGES");
    for one in &list.operators {
        let part = if one.takes_part { "yes" } else { "no" };
        let plmn = format!("{}{}", one.mcc, one.mnc);
        println!("{:<20} {:<16} {plmn:<6} {part:<8} {}", one.name, one.id_mno, one.display_name);
    }
    Ok(())
}

fn print(operator: &OperatorView, as_json: bool) -> Done {
    if as_json {
        println!("{}", serde_json::to_string_pretty(operator)?);
        return Ok(());
    }
    println!("operator {}  {}", operator.name, operator.display_name);
    println!("code              {}", operator.id_mno);
    println!("network           {}{}", operator.mcc, operator.mnc);
    let register = operator.register.as_ref().map(|register| serde_json::to_value(register.kind));
    let register = register.transpose()?.and_then(|kind| kind.as_str().map(str::to_owned));
    println!("register          {}", register.as_deref().unwrap_or("none"));
    if let Some(pool) = operator.pool {
        println!(
            "pool              {} free, {} reserved, {} assigned, {} retired",
            pool.free, pool.reserved, pool.assigned, pool.retired
        );
    }
    let links =
        if operator.smpp_links.is_empty() { "all".to_owned() } else { operator.smpp_links.join(", ") };
    println!("SMPP links        {links}");
    println!("callback          {}", operator.callback_url.as_deref().unwrap_or("none"));
    println!("transport key     {}", if operator.transport_key_set { "set" } else { "none" });
    Ok(())
}
