//! `simtide audit`: who did what, and whether the trail is whole.

use std::process::ExitCode;

use simtide_server::api::audit::AuditList;

use crate::Outcome;
use crate::client::{Client, ClientError, Server, block_on};

/// Options of `simtide audit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    /// Only lines after this one
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    after: u64,
}

/// Runs `simtide audit`: prints the trail page by page, as JSON one page per line. A trail that was changed ends with
/// status 1.
pub fn run(args: Args) -> Outcome {
    let client = args.server.client()?;
    block_on(async {
        let mut after = Some(args.after);
        while let Some(from) = after {
            let page = page(&client, from).await?;
            if args.server.json {
                println!("{}", serde_json::to_string(&page)?);
            } else {
                show(&page);
            }
            if let Some(place) = page.broken_at {
                return Err(format!(
                    "line {place} does not follow from those before it: the trail was changed outside of the platform; \
                     compare it with a copy"
                )
                .into());
            }
            after = page.next;
        }
        Ok(ExitCode::SUCCESS)
    })?
}

async fn page(client: &Client, after: u64) -> Result<AuditList, ClientError> {
    client.get(&format!("/v1/audit?after={after}")).await
}

fn show(page: &AuditList) {
    for line in &page.lines {
        let detail = if line.detail.is_empty() { String::new() } else { format!("  {}", line.detail) };
        println!(
            "{:8}  {}  {:16}  {:18}  {}{detail}",
            line.sequence, line.at, line.actor, line.action, line.object
        );
    }
}
