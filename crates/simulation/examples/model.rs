//! Runs the model of millions of cards without the rest of the binary: `model CARDS WORLD POLICY ATTEMPTS [MARGIN]`.

use simtide_simulation::model::{Options, Policy, Scenario, run};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |place: usize, default: &str| args.get(place).cloned().unwrap_or_else(|| default.to_owned());
    let world = arg(1, "ideal");
    let text = match world.as_str() {
        "ideal" => Scenario::IDEAL.to_owned(),
        "realistic" => Scenario::REALISTIC.to_owned(),
        file => std::fs::read_to_string(file)?,
    };
    let options = Options {
        cards: arg(0, "200000").parse()?,
        period_days: 20.0,
        days: arg(5, "20").parse()?,
        capacity: 2.0,
        policy: match arg(2, "seed").as_str() {
            "random" => Policy::Random,
            "oldest" => Policy::Oldest,
            "closed-loop" => Policy::ClosedLoop,
            _ => Policy::Seed,
        },
        attempts: arg(3, "1").parse()?,
        seed: 1,
        plan_margin: args.get(4).map(|margin| margin.parse()).transpose()?,
        scenario: Scenario::parse(&text)?,
    };
    let report = run(&options, &mut |_| ())?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}
