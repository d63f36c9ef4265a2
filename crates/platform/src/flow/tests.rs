use super::*;
use std::collections::VecDeque;

/// A server and a network reduced to what the controller sees: triggers bring a session after a while, sessions last a
/// while, more than the limit are refused. Arrivals are spread evenly over a tick.
struct Plant {
    tick_ms: i64,
    session_ms: f64,
    response_ticks: usize,
    works: f64,
    polls_per_tick: f64,
    forecast: f64,
    limit: f64,
    now: EpochMs,
    open: f64,
    under_way: VecDeque<f64>,
    seen: [f64; 4],
    /// Sent, polled, refused, largest demand, and open sessions summed up over the ticks.
    sent: f64,
    refused: f64,
    demand_max: f64,
    open_sum: f64,
    ticks: u32,
}

impl Plant {
    fn new(settings: &FlowSettings, tick_ms: i64, session_ms: f64) -> Self {
        let limit = f64::from(settings.sessions_max);
        Self {
            tick_ms,
            session_ms,
            response_ticks: 4,
            works: 1.0,
            // Half of the limit by default: capacity 2.
            polls_per_tick: limit * tick_ms as f64 / session_ms / 2.0,
            forecast: 1.0,
            limit,
            now: EpochMs(1_800_000_000_000),
            open: 0.0,
            under_way: VecDeque::new(),
            seen: [0.0; 4],
            sent: 0.0,
            refused: 0.0,
            demand_max: 0.0,
            open_sum: 0.0,
            ticks: 0,
        }
    }

    fn step(&mut self, flow: &mut Flow, sends: bool) -> u32 {
        let tick = self.tick_ms as f64;
        let due = self.under_way.len().saturating_sub(self.response_ticks);
        let called: f64 = self.under_way.drain(..due).sum();
        let (arrived, silent) = (called * self.works, called * (1.0 - self.works));
        let wanted = (self.polls_per_tick + arrived).max(1e-9);
        // Those that are still open of the ticks before, and those that have begun in this one.
        let stay = (-tick / self.session_ms).exp();
        let demand = self.open * stay + wanted * (1.0 - stay) * self.session_ms / tick;
        let served = (self.limit / demand).min(1.0) * wanted;
        self.open = demand.min(self.limit);
        self.demand_max = self.demand_max.max(demand);
        self.refused += wanted - served;
        self.seen[0] += self.polls_per_tick * served / wanted;
        self.seen[1] += arrived * served / wanted;
        self.seen[2] += silent;
        self.seen[3] += wanted - served;
        let mut whole = |place: usize| {
            let whole = self.seen[place].floor();
            self.seen[place] -= whole;
            whole as u32
        };
        let seen =
            Seen { polled: whole(0), arrived: whole(1), expired: whole(2), refused: whole(3), throttled: 0 };
        let load = Load {
            open: self.open.round() as u32,
            polls_due_per_day: (self.polls_per_tick * self.forecast / tick * DAY_MS).round() as u64,
            in_flight: InFlight {
                accepted: self.under_way.iter().sum::<f64>() as u32,
                ..InFlight::default()
            },
            seen,
        };
        self.now = self.now.plus_ms(self.tick_ms);
        let allowed = flow.tick(self.now, &load);
        let sent = if sends { allowed } else { 0 };
        flow.sent(self.now, sent);
        self.under_way.push_back(f64::from(sent));
        self.sent += f64::from(sent);
        self.open_sum += self.open;
        self.ticks += 1;
        sent
    }

    fn run(&mut self, flow: &mut Flow, ticks: u32) -> f64 {
        (self.sent, self.refused, self.demand_max, self.open_sum, self.ticks) = (0.0, 0.0, 0.0, 0.0, 0);
        for _ in 0..ticks {
            self.step(flow, true);
        }
        self.open_sum / f64::from(self.ticks)
    }
}

fn settings() -> FlowSettings {
    FlowSettings { sessions_max: 600, ..FlowSettings::default() }
}

#[test]
fn what_is_free_is_used_and_the_limit_is_kept() {
    let mut flow = Flow::new(settings());
    let mut plant = Plant::new(&settings(), 60_000, 30_000.0);
    let open = plant.run(&mut flow, 500);
    assert!((0.90..=0.96).contains(&(open / 600.0)), "{open}");
    assert!(plant.demand_max <= 600.0, "{}", plant.demand_max);
    assert_eq!(plant.refused, 0.0);
}

#[test]
fn without_polls_all_of_it_is_free_and_at_the_limit_nothing() {
    let mut flow = Flow::new(settings());
    let mut plant = Plant { polls_per_tick: 0.0, ..Plant::new(&settings(), 60_000, 30_000.0) };
    let open = plant.run(&mut flow, 500);
    assert!(open > 0.90 * 600.0, "{open}");
    let full = 600.0 * 2.0;
    let mut flow = Flow::new(settings());
    let mut plant = Plant { polls_per_tick: full, ..Plant::new(&settings(), 60_000, 30_000.0) };
    plant.run(&mut flow, 500);
    assert_eq!(plant.sent, 0.0);
}

#[test]
fn half_the_margin_leaves_half_free() {
    let halved = FlowSettings { plan_margin: 0.6, ..settings() };
    let mut flow = Flow::new(halved.clone());
    let open = Plant::new(&halved, 60_000, 30_000.0).run(&mut flow, 500);
    assert!((0.57..=0.61).contains(&(open / 600.0)), "{open}");
}

/// The same world on another scale of time: 100 ms of a fast clock that makes hours, or one-second ticks.
#[test]
fn no_unit_of_time_is_built_in() {
    let mut sent = Vec::new();
    for factor in [1i64, 192, 60_000] {
        let scaled = FlowSettings {
            session_initial_ms: (500 * factor) as u32,
            response_initial_ms: (4_000 * factor) as u32,
            retry_ms: (35_000 * factor) as u32,
            ..settings()
        };
        let mut flow = Flow::new(scaled.clone());
        let mut plant = Plant::new(&scaled, 1_000 * factor, 500.0 * factor as f64);
        let open = plant.run(&mut flow, 400);
        assert!((0.85..=0.97).contains(&(open / 600.0)), "{factor}: {open}");
        assert!(plant.demand_max <= 600.0, "{factor}: {}", plant.demand_max);
        sent.push(plant.sent);
    }
    assert!(sent.iter().all(|sent_here| (sent_here / sent[0] - 1.0).abs() < 0.05), "{sent:?}");
}

#[test]
fn sessions_that_last_longer_than_told_are_measured() {
    let mut flow = Flow::new(settings());
    let mut plant = Plant::new(&settings(), 60_000, 90_000.0);
    // The tide alone is enough to learn from: no trigger leaves yet.
    for _ in 0..200 {
        plant.step(&mut flow, false);
    }
    assert!((80_000.0..100_000.0).contains(&flow.session_ms()), "{}", flow.session_ms());
    let open = plant.run(&mut flow, 500);
    assert!((0.88..=0.98).contains(&(open / 600.0)), "{open}");
    assert!(plant.demand_max <= 1.05 * 600.0, "{}", plant.demand_max);
}

#[test]
fn a_wrong_forecast_is_corrected() {
    for forecast in [0.5, 1.6] {
        let mut flow = Flow::new(settings());
        let mut plant = Plant { forecast, ..Plant::new(&settings(), 60_000, 30_000.0) };
        plant.run(&mut flow, 200);
        let open = plant.run(&mut flow, 300);
        assert!((0.88..=0.99).contains(&(open / 600.0)), "{forecast}: {open}");
    }
}

#[test]
fn triggers_that_bring_nothing_are_made_up_for() {
    let mut flow = Flow::new(settings());
    let mut plant = Plant { works: 0.8, ..Plant::new(&settings(), 60_000, 30_000.0) };
    plant.run(&mut flow, 200);
    let open = plant.run(&mut flow, 300);
    assert!(open > 0.88 * 600.0, "{open}");
}

#[test]
fn a_network_that_stands_still_gets_no_more() {
    let mut flow = Flow::new(settings());
    let mut plant = Plant::new(&settings(), 60_000, 30_000.0);
    plant.run(&mut flow, 200);
    let usual: f64 = plant.under_way.iter().sum();
    plant.response_ticks = 10_000;
    plant.run(&mut flow, 60);
    let stuck: f64 = plant.under_way.iter().sum();
    assert!(stuck < 3.0 * usual, "{stuck} {usual}");
    assert_eq!(plant.step(&mut flow, true), 0);
    // When it moves again everything goes on.
    plant.response_ticks = 4;
    plant.run(&mut flow, 300);
    assert!(plant.run(&mut flow, 100) > 0.8 * 600.0);
}

#[test]
fn refusals_brake_at_once_and_the_brake_lets_go() {
    let mut flow = Flow::new(settings());
    let mut plant = Plant::new(&settings(), 60_000, 30_000.0);
    plant.run(&mut flow, 200);
    let usual = plant.step(&mut flow, true);
    // A wave of polls that nobody expected.
    plant.polls_per_tick *= 4.0;
    plant.run(&mut flow, 3);
    assert!(plant.step(&mut flow, true) <= usual / 10);
    plant.polls_per_tick /= 4.0;
    plant.run(&mut flow, 600);
    assert!(plant.step(&mut flow, true) >= usual * 8 / 10);
}

#[test]
fn a_stopped_clock_is_no_free_capacity() {
    let mut flow = Flow::new(settings());
    let mut plant = Plant::new(&settings(), 60_000, 30_000.0);
    plant.run(&mut flow, 200);
    let usual = plant.step(&mut flow, true);
    plant.now = plant.now.plus_s(86_400);
    let late = plant.step(&mut flow, true);
    assert!(late <= 5 * usual, "{late} {usual}");
    // And a clock that goes back is none either.
    plant.now = plant.now.plus_s(-86_400);
    let back = plant.step(&mut flow, true);
    assert!(back <= usual + 1, "{back} {usual}");
}

#[test]
fn a_batch_is_saved_up_for_and_no_more() {
    let mut flow = Flow::new(settings());
    flow.save_up_for(5_000);
    let mut plant = Plant::new(&settings(), 60_000, 30_000.0);
    let mut allowed = 0;
    for _ in 0..200 {
        plant.now = plant.now.plus_ms(60_000);
        let load = Load { polls_due_per_day: 864_000, ..Load::default() };
        allowed = flow.tick(plant.now, &load);
    }
    assert!((5_000..7_000).contains(&allowed), "{allowed}");
    flow.sent(plant.now, 5_000);
    flow.returned(1_000);
    plant.now = plant.now.plus_ms(1);
    assert!(flow.tick(plant.now, &Load::default()) < 3_000);
}

#[test]
fn the_open_scheme_does_not_look() {
    let open = FlowSettings { policy: Policy::Open, ..settings() };
    let mut flow = Flow::new(open.clone());
    let mut plant = Plant::new(&open, 60_000, 30_000.0);
    plant.run(&mut flow, 10);
    let usual = plant.step(&mut flow, true);
    // 0.95 * 600 sessions of 30 s are 1,140 a minute, 600 of them polls.
    assert!((538..=542).contains(&usual), "{usual}");
    plant.limit = 100.0;
    assert!(plant.step(&mut flow, true).abs_diff(usual) <= 1);
}

#[test]
fn settings_outside_their_range_are_refused() {
    assert_eq!(settings().check(), Ok(()));
    assert_eq!(FlowSettings { sessions_max: 0, ..settings() }.check(), Err(FlowError::NoSessions));
    assert_eq!(FlowSettings { plan_margin: 1.5, ..settings() }.check(), Err(FlowError::Margin(1.5)));
    let zero = FlowSettings { retry_ms: 0, ..settings() };
    assert_eq!(zero.check(), Err(FlowError::NoDuration("retry_ms")));
}

#[test]
fn hours_of_the_day_are_learned() {
    let mut hours = Hours::default();
    let start = EpochMs(1_800_000_000_000 / 86_400_000 * 86_400_000);
    for minute in 0..5 * 1_440 {
        let now = start.plus_s(minute * 60);
        let morning = (420..480).contains(&(minute % 1_440));
        hours.add(now, if morning { 30.0 } else { 10.0 }, 10.0);
    }
    assert!(hours.at(start.plus_s(450 * 60)) > 2.7);
    assert!((hours.at(start.plus_s(720 * 60)) - 1.0).abs() < 0.1);
}
