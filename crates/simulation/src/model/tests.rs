use super::*;
use simtide_platform::campaign::{Command, Input};

fn options(policy: Policy, world: &str, cards: u32) -> Options {
    Options {
        cards,
        period_days: 20.0,
        days: 20.0,
        capacity: 2.0,
        policy,
        attempts: 3,
        seed: 1,
        plan_margin: None,
        scenario: Scenario::parse(world).unwrap(),
    }
}

fn run_quietly(options: &Options) -> Report {
    run(options, &mut |_| ()).unwrap()
}

/// A realistic world for few cards: long sessions, so that a limit of some hundred sessions is met.
fn small_world(policy: Policy) -> Options {
    let mut options = options(policy, Scenario::REALISTIC, 100_000);
    options.scenario.session.duration_s = 3_600;
    options.scenario.platform.warm_up_days = 3;
    options
}

#[test]
fn latest_first_needs_the_fewest_triggers_and_ends_first() {
    let seed = run_quietly(&options(Policy::Seed, Scenario::IDEAL, 500_000));
    let oldest = run_quietly(&options(Policy::Oldest, Scenario::IDEAL, 500_000));
    let random = run_quietly(&options(Policy::Random, Scenario::IDEAL, 500_000));
    assert!((0.45..=0.475).contains(&seed.sms_per_active), "{seed:?}");
    assert!(seed.sms_per_active < random.sms_per_active && random.sms_per_active < oldest.sms_per_active);
    let all = seed.days.p100.unwrap();
    assert!((10.0..=10.9).contains(&all), "{all}");
    assert!(oldest.days.p90.unwrap() > 17.0);
    assert_eq!((seed.order_inversions, random.order_inversions), (0, 0));
}

#[test]
fn the_closed_loop_does_as_well_where_the_world_is_perfect() {
    let report = run_quietly(&options(Policy::ClosedLoop, Scenario::IDEAL, 500_000));
    assert!((0.44..=0.48).contains(&report.sms_per_active), "{report:?}");
    assert!(report.days.p100.unwrap() <= 11.0);
    assert_eq!(report.order_inversions, 0);
}

#[test]
fn in_a_real_world_the_loop_has_to_be_closed() {
    let open = run_quietly(&small_world(Policy::Seed));
    let closed = run_quietly(&small_world(Policy::ClosedLoop));
    let share = |report: &Report| report.demand_peak / f64::from(report.sessions_limit);
    assert!(share(&open) > 1.5 * share(&closed), "{} {}", share(&open), share(&closed));
    assert!(closed.refused * 5 < open.refused, "{} {}", closed.refused, open.refused);
    assert!(closed.days.p50.unwrap() < 6.5, "{:?}", closed.days);
    for report in [&open, &closed] {
        assert_eq!(report.order_inversions, 0);
        assert!(report.sessions_peak <= f64::from(report.sessions_limit));
        assert!(report.sms_to_inactive < report.sms / 5, "cards never seen get no trigger");
    }
}

#[test]
fn half_the_margin_slows_it() {
    let whole = run_quietly(&options(Policy::ClosedLoop, Scenario::IDEAL, 200_000));
    let half = Options { plan_margin: Some(0.475), ..options(Policy::ClosedLoop, Scenario::IDEAL, 200_000) };
    let half = run_quietly(&half);
    assert!(half.days.p50.unwrap() > whole.days.p50.unwrap() * 1.3, "{:?} {:?}", half.days, whole.days);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let figures = |report: Report| (report.sms, report.refused, report.days, report.hours);
    let first = figures(run_quietly(&small_world(Policy::ClosedLoop)));
    assert_eq!(first, figures(run_quietly(&small_world(Policy::ClosedLoop))));
    let other = Options { seed: 2, ..small_world(Policy::ClosedLoop) };
    assert_ne!(first, figures(run_quietly(&other)));
}

/// A run of the model, written and read as a trace, replays through the planner step by step.
#[test]
fn a_recorded_run_replays() {
    let options = Options { days: 3.0, cards: 20_000, ..small_world(Policy::ClosedLoop) };
    let mut lines = Vec::new();
    let (report, header) =
        run_recorded(&options, &mut |line| lines.push(serde_json::to_string(&line).unwrap())).unwrap();
    assert!(report.sms > 500, "{report:?}");
    let header = serde_json::from_str(&serde_json::to_string(&header).unwrap()).unwrap();
    let read = || lines.iter().map(|line| serde_json::from_str::<trace::Line<u32>>(line).unwrap());
    assert_eq!(trace::replay(&header, read()), Ok(lines.len()));

    // One card swapped for another is noticed where it leaves.
    let mut forged: Vec<_> = read().collect();
    let place = forged.iter().position(|line| line.commands.iter().any(is_trigger)).unwrap();
    for command in &mut forged[place].commands {
        if let Command::Trigger { cards, .. } = command {
            cards[0].card += 1;
        }
    }
    let error = trace::replay(&header, forged).unwrap_err();
    assert!(matches!(error, trace::ReplayError::Diverged { step, .. } if step == place + 1), "{error}");

    // So is a load that differs, or a controller with another margin.
    let mut busier: Vec<_> = read().collect();
    for line in &mut busier {
        if let Input::Tick(load) = &mut line.input {
            load.polls_due_per_day *= 2;
        }
    }
    assert!(trace::replay(&header, busier).is_err());
}

fn is_trigger(command: &Command<u32>) -> bool {
    matches!(command, Command::Trigger { .. })
}

#[test]
fn the_picture_shows_what_it_should() {
    let report = run_quietly(&options(Policy::ClosedLoop, Scenario::IDEAL, 20_000));
    let picture = svg(&report, "A <test> & more");
    assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
    assert!(picture.contains("A &lt;test> &amp; more") && picture.contains("limit"));
    assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
}

#[test]
fn options_outside_their_range_are_refused() {
    let good = options(Policy::Seed, Scenario::IDEAL, 1_000);
    for (bad, name) in [
        (Options { cards: 0, ..good.clone() }, "--cards"),
        (Options { attempts: 0, ..good.clone() }, "--attempts"),
        (Options { capacity: 0.0, ..good.clone() }, "--capacity"),
        (Options { period_days: 0.0, ..good.clone() }, "--period"),
        (Options { days: 1e6, ..good.clone() }, "--days"),
        (Options { plan_margin: Some(1.5), ..good.clone() }, "--plan-margin"),
    ] {
        assert_eq!(run(&bad, &mut |_| ()).unwrap_err().option, name);
    }
    let unknown = Scenario::IDEAL.replace("[day]", "[day]\nmoon = 1");
    assert!(Scenario::parse(&unknown).unwrap_err().to_string().contains("moon"));
    let wrong = Scenario::IDEAL.replace("works = 1.0", "works = 2.0");
    assert!(Scenario::parse(&wrong).unwrap_err().to_string().contains("trigger.works"));
}

#[test]
fn the_smallest_fleet_runs() {
    for policy in [Policy::Random, Policy::Oldest, Policy::Seed, Policy::ClosedLoop] {
        let report = run_quietly(&options(policy, Scenario::REALISTIC, 1));
        assert_eq!(report.cards, 1);
    }
}
