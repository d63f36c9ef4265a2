//! `simtide tokens`: who may ask the API.

use std::process::ExitCode;

use serde_json::json;
use simtide_protocol::ids::EpochMs;
use simtide_server::api::token_routes::{MadeToken, TokenList};
use simtide_server::api::tokens::Role;

use crate::Outcome;
use crate::client::{Asked, Client, block_on};

/// Options of `simtide tokens`.
pub type Args = Asked<Action>;

/// What it is asked for.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Make a token; it is shown this once
    Create {
        /// Name of the token: it stands in the audit trail
        name: String,
        /// What it may do: viewer reads; operator imports cards, runs campaigns, sends commands; admin makes tokens too
        #[arg(long, value_parser = role, default_value = "viewer")]
        role: Role,
        /// Operator that it acts for: it sees that operator's cards and its side of changes
        #[arg(long)]
        operator: Option<String>,
        /// When it ends, RFC 3339; without it, it does not
        #[arg(long)]
        expires_at: Option<EpochMs>,
    },
    /// List tokens
    List,
    /// End a token
    Revoke {
        /// Name of the token
        name: String,
    },
}

fn role(text: &str) -> Result<Role, String> {
    serde_json::from_value(json!(text)).map_err(|_| "a role is viewer, operator or admin".to_owned())
}

/// Runs `simtide tokens`.
pub fn run(args: Args) -> Outcome {
    let client = args.server.client()?;
    let as_json = args.server.json;
    block_on(async {
        match args.action {
            Action::Create { name, role, operator, expires_at } => {
                let body =
                    json!({ "name": name, "role": role, "operator": operator, "expires_at": expires_at });
                let made: MadeToken = client.post("/v1/tokens", &body).await?;
                if as_json {
                    println!("{}", serde_json::to_string_pretty(&made)?);
                } else {
                    println!("{}", made.token);
                }
                Ok(ExitCode::SUCCESS)
            }
            Action::List => list(&client, as_json).await,
            Action::Revoke { name } => {
                client.text(client.request(reqwest::Method::DELETE, &format!("/v1/tokens/{name}"))).await?;
                Ok(ExitCode::SUCCESS)
            }
        }
    })?
}

async fn list(client: &Client, as_json: bool) -> Outcome {
    let list: TokenList = client.get("/v1/tokens").await?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(ExitCode::SUCCESS);
    }
    for token in &list.tokens {
        let role = serde_json::to_value(token.role)?;
        let operator = token.operator.as_deref().unwrap_or("all");
        let expires = token.expires_at.map_or("never".to_owned(), |at| at.to_string());
        println!("{:24} {:9} {operator:16} ends {expires}", token.name, role.as_str().unwrap_or_default());
    }
    Ok(ExitCode::SUCCESS)
}
