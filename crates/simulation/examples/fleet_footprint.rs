//! What a device with its card costs at rest: resident memory of a fleet of N minus that of none, per device.
//!
//! `cargo run --release -p simtide-simulation --example fleet_footprint [N]`

use std::sync::Arc;
use std::time::Duration;

use simtide_agent::clock::{Clock, real_now};
use simtide_protocol::card_file::Format;
use simtide_protocol::profile::Profile;
use simtide_simulation::fleet::{FirstPoll, Fleet, Settings, rss_bytes};
use simtide_simulation::vendor::Order;

/// The limit per device, in bytes.
const LIMIT_BYTES: u64 = 32 * 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cards: u32 = std::env::args().nth(1).map_or(Ok(10_000), |count| count.parse())?;
    let path = std::env::temp_dir().join(format!("simtide-footprint-{}.out", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    // Everything that a fleet needs once, however small it is.
    let _none = start(&runtime, &path, 1)?;
    let before = rss_bytes().unwrap_or_default();
    let fleet = start(&runtime, &path, cards)?;
    let after = rss_bytes().unwrap_or_default();
    std::fs::remove_file(&path)?;
    let each = after.saturating_sub(before) / u64::from(cards.max(1));
    println!(
        "{}",
        serde_json::json!({
            "devices": fleet.status().on,
            "rss_none_bytes": before,
            "rss_bytes": after,
            "bytes_per_device": each,
            "limit_bytes": LIMIT_BYTES,
            "ratio": (each as f64 / LIMIT_BYTES as f64 * 100.0).round() / 100.0,
        })
    );
    Ok(())
}

/// A fleet whose devices are all on and at rest.
fn start(
    runtime: &tokio::runtime::Runtime,
    path: &std::path::Path,
    cards: u32,
) -> Result<Arc<Fleet>, Box<dyn std::error::Error>> {
    let order = Order {
        seed: 1,
        cards,
        network: "00101".into(),
        profile: "standard".parse()?,
        device_kind: "meter".into(),
        dated: cards,
        first_poll: real_now().plus_s(86_400),
        spread_ms: 20 * 86_400_000,
    };
    std::fs::write(path, order.file(Format::Out)?)?;
    let settings = Settings {
        cards: path.to_owned(),
        profiles: vec![Arc::new(Profile::standard())],
        count_max: u64::MAX,
        smsc: None,
        networks: Vec::new(),
        lines: 1,
        clock: Clock::REAL,
        latency: Duration::ZERO,
        uncovered: None,
        power_on_spread: Duration::ZERO,
        first_poll: FirstPoll::File,
        traced: Vec::new(),
        trace_file: None,
    };
    runtime.block_on(async {
        let fleet = Fleet::start(&settings)?;
        while fleet.status().on < u64::from(cards) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(fleet)
    })
}
