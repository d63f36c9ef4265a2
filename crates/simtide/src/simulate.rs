//! `simtide simulate`: the product's planner against a model of millions of cards on a virtual clock.

use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use simtide_simulation::model::{self, Options, Policy, Report, Scenario};

use crate::Outcome;

/// Options of `simtide simulate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Cards in the platform
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    cards: u32,
    /// Period of the cards' own polls, in days
    #[arg(long, value_name = "D", default_value_t = 20.0)]
    period: f64,
    /// How long the run may take, in days; without it one period
    #[arg(long, value_name = "D")]
    days: Option<f64>,
    /// Session limit over what the polls take on average
    #[arg(long, value_name = "RATIO", default_value_t = 2.0)]
    capacity: f64,
    /// The world that the cards live in
    #[arg(long, value_enum, default_value_t = World::Ideal)]
    world: World,
    /// A world of your own, as TOML; begin with a copy of crates/simulation/scenarios/realistic.toml
    #[arg(long, value_name = "FILE", conflicts_with = "world")]
    scenario: Option<PathBuf>,
    /// Who is triggered when
    #[arg(long, value_enum, default_value_t = PolicyName::ClosedLoop)]
    policy: PolicyName,
    /// Triggers per card at most
    #[arg(long, value_name = "N", default_value_t = 3)]
    attempts: u8,
    /// Share of the session limit that is planned; without it the scenario's
    #[arg(long, value_name = "SHARE")]
    plan_margin: Option<f64>,
    /// Seed of everything random: the same seed gives the same run
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print the figures as one JSON object
    #[arg(long)]
    json: bool,
    /// Draw the course of the run
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum World {
    /// Every card reachable, polls evenly spread
    Ideal,
    /// Cards in drawers, dead cards, phones off at night, rarely seen devices
    Realistic,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum PolicyName {
    /// Random order
    Random,
    /// Longest without contact first
    Oldest,
    /// Latest update first, limit minus forecast, no feedback
    Seed,
    /// What the product does: latest next poll first, closed loop
    ClosedLoop,
}

/// Runs the model and prints its figures.
pub fn run(args: Args) -> Outcome {
    let options = options(&args)?;
    let bar = progress_bar();
    let report = model::run(&options, &mut |progress| {
        bar.set_position((progress.done * 1_000.0) as u64);
        bar.set_message(format!("day {:.1}, {} SMS", progress.day, progress.sms));
    })?;
    bar.finish_and_clear();
    if let Some(path) = &args.plot {
        let policy = format!("{:?}", args.policy).to_lowercase().replace("closedloop", "closed loop");
        let title = format!(
            "Campaign against the tide: {policy}, period {} days, capacity {}",
            args.period, args.capacity
        );
        std::fs::write(path, model::svg(&report, &title))
            .map_err(|error| format!("--plot {}: {error}", path.display()))?;
    }
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(ExitCode::SUCCESS)
}

fn options(args: &Args) -> Result<Options, Box<dyn std::error::Error>> {
    let (name, text) = match (&args.scenario, args.world) {
        (Some(path), _) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("--scenario {}: {error}", path.display()))?;
            (path.display().to_string(), text)
        }
        (None, World::Ideal) => ("ideal".into(), Scenario::IDEAL.to_owned()),
        (None, World::Realistic) => ("realistic".into(), Scenario::REALISTIC.to_owned()),
    };
    Ok(Options {
        cards: args.cards,
        period_days: args.period,
        days: args.days.unwrap_or(args.period),
        capacity: args.capacity,
        policy: match args.policy {
            PolicyName::Random => Policy::Random,
            PolicyName::Oldest => Policy::Oldest,
            PolicyName::Seed => Policy::Seed,
            PolicyName::ClosedLoop => Policy::ClosedLoop,
        },
        attempts: args.attempts,
        seed: args.seed,
        plan_margin: args.plan_margin,
        scenario: Scenario::parse(&text).map_err(|error| format!("scenario {name}: {error}"))?,
    })
}

/// On standard error, and only where somebody watches.
fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40.cyan/blue} {percent:>3} % done  {msg}  {elapsed}");
    ProgressBar::new(1_000).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn print(report: &Report) {
    let day = |day: Option<f64>| day.map_or("not within the run".into(), |day| format!("{day:.2} days"));
    let limit = f64::from(report.sessions_limit);
    println!("cards               {} ({} in the field)", report.cards, report.active);
    println!("SMS                 {} ({:.3} per card in the field)", report.sms, report.sms_per_active);
    println!("  to others         {}", report.sms_to_inactive);
    println!("done       50 %     {}", day(report.days.p50));
    println!("           90 %     {}", day(report.days.p90));
    println!("           99 %     {}", day(report.days.p99));
    println!("           99.9 %   {}", day(report.days.p999));
    println!("           100 %    {}", day(report.days.p100));
    println!("sessions            at most {:.0} of {}", report.sessions_peak, report.sessions_limit);
    println!(
        "demand              at most {:.0} ({:.2} of the limit)",
        report.demand_peak,
        report.demand_peak / limit
    );
    println!("refused             {}", report.refused);
    println!("against the order   {}", report.order_inversions);
    println!("run                 {:.1} s, {} MB", report.wall_s, report.memory_bytes_max / 1_000_000);
}
