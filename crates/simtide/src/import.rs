//! `simtide import`: cards from a vendor file.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use simtide_server::api::imports::ImportView;

use crate::Outcome;
use crate::client::{Client, ClientError, Server, block_on};

/// Options of `simtide import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    /// The file: OUT or CSV
    file: PathBuf,
    /// out or csv; found from the first line unless given
    #[arg(long)]
    format: Option<String>,
    /// Card profile of rows that name none
    #[arg(long)]
    profile: Option<String>,
    /// Operator of the subscriptions
    #[arg(long)]
    operator: Option<String>,
    /// Write the subscriptions to the register of this operator as well; the cards are then this operator's
    #[arg(long, value_name = "OPERATOR")]
    register: Option<String>,
    /// Keys may stand in the file as plain text
    #[arg(long)]
    plain: bool,
    /// File with transport keys, one per line: INDEX:CHECK VALUE:COMPONENT[,COMPONENT..], in hex
    #[arg(long, value_name = "FILE")]
    transport_keys: Option<PathBuf>,
    /// Write what was refused to this file, as CSV
    #[arg(long, value_name = "FILE")]
    refused: Option<PathBuf>,
}

/// How often the import is asked for.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs `simtide import`. Fails if the file was refused or any row was.
pub fn run(args: Args) -> Outcome {
    let client = args.server.client()?;
    let view = block_on(import(&client, &args))??;
    if let Some(path) = &args.refused {
        let rows = view.refusals.iter().map(|refusal| {
            let card = refusal.card.as_deref().unwrap_or_default();
            format!("{},{card},\"{}\"\n", refusal.line, refusal.reason.replace('"', "'"))
        });
        std::fs::write(path, format!("line,card,reason\n{}", rows.collect::<String>()))?;
    }
    if args.server.json {
        println!("{}", serde_json::to_string_pretty(&view)?);
    } else {
        print(&view);
    }
    let well = view.state == "finished" && view.refused == 0;
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn import(client: &Client, args: &Args) -> Result<ImportView, Box<dyn std::error::Error>> {
    let file = |source| ClientError::File { path: args.file.clone(), source };
    let upload = tokio::fs::File::open(&args.file).await.map_err(file)?;
    let name = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let query = [
        ("name", Some(name)),
        ("format", args.format.clone()),
        ("profile", args.profile.clone()),
        ("operator", args.operator.clone()),
        ("register", args.register.clone()),
        ("plain", args.plain.then(|| "true".to_owned())),
    ];
    let given: Vec<_> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let mut request = client.request(Method::POST, "/v1/imports").query(&given).body(upload);
    if let Some(path) = &args.transport_keys {
        let file = |source| ClientError::File { path: path.clone(), source };
        let text = std::fs::read_to_string(path).map_err(file)?;
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            request = request.header("simtide-transport-key", line.trim());
        }
    }
    let style = ProgressStyle::with_template("{prefix:9} {wide_bar} {bytes}/{total_bytes} {msg}")?;
    let bar = ProgressBar::new(0).with_style(style).with_prefix("uploading");
    let mut view: ImportView = client.send(request).await?;
    while !matches!(view.state.as_str(), "finished" | "failed") {
        bar.set_prefix(view.state.clone());
        bar.set_length(view.bytes_total);
        bar.set_position(view.bytes);
        bar.set_message(format!("{} rows, {} refused", view.rows, view.refused));
        tokio::time::sleep(PAUSE).await;
        view = client.get(&format!("/v1/imports/{}", view.id)).await?;
    }
    bar.finish_and_clear();
    Ok(view)
}

fn print(view: &ImportView) {
    println!("{}: {}", view.name, view.state);
    if let Some(error) = &view.error {
        println!("{error}");
    }
    println!("{} imported, {} unchanged, {} refused", view.imported, view.unchanged, view.refused);
    for refusal in view.refusals.iter().take(20) {
        let card = refusal.card.as_deref().unwrap_or("-");
        println!("line {}: {card}: {}", refusal.line, refusal.reason);
    }
    if view.refusals.len() > 20 {
        println!("and more: write all of them to a file with --refused FILE");
    }
    if !view.columns_ignored.is_empty() {
        println!("columns without a meaning: {}", view.columns_ignored.join(", "));
    }
}
