//! `simtide profiles`: what kinds of cards there are.

use std::path::PathBuf;
use std::process::ExitCode;

use simtide_server::api::profiles::{ProfileList, ProfileView};

use crate::Outcome;
use crate::client::{Asked, ClientError, block_on};

/// Options of `simtide profiles`.
pub type Args = Asked<Action>;

/// What it is asked for.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Add a kind of card from a file (TOML, docs/card-profile.md), or replace the one of the same name
    Put {
        /// The file
        file: PathBuf,
    },
    /// List kinds of cards
    List,
}

/// Runs `simtide profiles`.
pub fn run(args: Args) -> Outcome {
    let client = args.server.client()?;
    let list = block_on(async {
        match args.action {
            Action::Put { file } => {
                let failed = |source| ClientError::File { path: file.clone(), source };
                let text = std::fs::read_to_string(&file).map_err(failed)?;
                let request = client.request(reqwest::Method::POST, "/v1/profiles").body(text);
                let kept: ProfileView = client.send(request).await?;
                Ok::<_, ClientError>(ProfileList { profiles: vec![kept] })
            }
            Action::List => client.get("/v1/profiles").await,
        }
    })??;
    if args.server.json {
        println!("{}", serde_json::to_string_pretty(&list)?);
    } else {
        list.profiles.iter().for_each(|one| println!("{:24} {}", one.name, one.description));
    }
    Ok(ExitCode::SUCCESS)
}
