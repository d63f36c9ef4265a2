//! The platform killed at every commit and every answer, at every submission, and at random moments, in the middle of
//! campaigns that must run once on each card. The cards, the service centre and the store are asked what came of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "support/stage/mod.rs"]
mod stage;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde_json::{Value, json};
use simtide_protocol::ids::EpochMs;
use simtide_protocol::scp80::{self, Key, KeySet};
use simtide_simulation::smsc::Happened;
use stage::{COUNTER, Plan, Stage};

/// Where the platform dies; see `simtide_server::kill_point`.
const PLACES: [&str; 6] =
    ["commit.before", "commit.after", "submit.before", "submit.after", "answer.before", "answer.after"];
const KILLS: usize = 300;
/// A place kills when it is reached for the first time, the second, and so on up to this.
const COUNT_MAX: usize = 20;
/// Every so many kills one comes at a random moment.
const RANDOM_EVERY: usize = 5;
/// How long a platform may live that does not come to its place.
const LIFE_LIMIT: Duration = Duration::from_secs(3);
/// Longest life before a random kill, in milliseconds.
const RANDOM_MS: u64 = 500;

/// Campaigns, one after the other, each begun when the one before is done on every card.
#[derive(Default)]
struct Campaigns {
    begun: u32,
    running: Option<u64>,
}

impl Campaigns {
    /// Looks whether the running one is done, and begins the next. The platform may die under it.
    fn go_on(&mut self, stage: &Stage) -> Option<()> {
        if let Some(id) = self.running {
            let [done, failed, interrupted] = stage.progress(id)?;
            assert_eq!([failed, interrupted], [0, 0], "campaign {id}\n{}", stage.log());
            if done < i64::from(stage.plan.in_field) {
                return Some(());
            }
            assert_eq!(done, i64::from(stage.plan.in_field), "campaign {id} counts a card twice");
            self.running = None;
        }
        // What was created or started before a crash, with nobody left to hear the answer, is taken up.
        let list = stage.get("/v1/campaigns")?;
        let latest =
            list["campaigns"].get(0).filter(|latest| latest["id"].as_u64() > Some(self.begun.into()));
        let id = match latest {
            Some(latest) => latest["id"].as_u64()?,
            None => {
                let name = format!("campaign {}", self.begun + 1);
                stage.post("/v1/campaigns", &stage.campaign(&name))?.1["id"].as_u64()?
            }
        };
        let (status, started) = stage.post(&format!("/v1/campaigns/{id}/start"), &json!({}))?;
        assert!(status == 200 || status == 409 && latest.is_some(), "{started}");
        assert_eq!(id, u64::from(self.begun) + 1);
        self.begun += 1;
        self.running = Some(id);
        Some(())
    }
}

#[test]
fn every_card_has_every_campaign_once_although_the_platform_is_killed_300_times() {
    let seed = std::env::var("SIMTIDE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("seed {seed} (SIMTIDE_SEED)");
    let begun = Instant::now();
    let mut random = ChaCha12Rng::seed_from_u64(seed);
    let mut stage = Stage::start(Plan { seed, ..Plan::default() });
    let mut campaigns = Campaigns::default();
    campaigns.go_on(&stage).expect("the platform answers");
    let mut kills: BTreeMap<&str, usize> = BTreeMap::new();
    let mut place = 0;
    for kill in 0..KILLS {
        let at_random = kill % RANDOM_EVERY == RANDOM_EVERY - 1;
        let name = if at_random { "at random" } else { PLACES[place % PLACES.len()] };
        let kill_at = (!at_random).then(|| format!("{name}:{}", place / PLACES.len() % COUNT_MAX + 1));
        place += usize::from(!at_random);
        let limit = if at_random { Duration::from_millis(random.next_u64() % RANDOM_MS) } else { LIFE_LIMIT };
        let ready = stage.serve(kill_at.as_deref());
        assert!(ready || !at_random, "the platform does not start again\n{}", stage.log());
        let lived = Instant::now();
        let mut by_itself = !ready;
        while lived.elapsed() < limit && !by_itself {
            // Nothing is lost by what the platform did not answer: the next one is asked.
            let _ = campaigns.go_on(&stage);
            stage.note_sessions();
            std::thread::sleep(Duration::from_millis(10));
            by_itself = stage.server.as_mut().unwrap().has_ended();
        }
        if let Some(server) = &mut stage.server {
            server.kill();
        }
        *kills.entry(if by_itself { name } else { "at random" }).or_default() += 1;
    }
    let killed_s = begun.elapsed().as_secs_f64();
    assert!(stage.serve(None), "the platform does not start again\n{}", stage.log());
    campaigns.go_on(&stage).expect("the platform answers");
    if let Some(id) = campaigns.running {
        stage.finish_campaign(id);
    }
    // One more without a crash: every card ends in a session that was complete.
    stage.run_campaign("the last");
    let total = campaigns.begun + 1;
    println!("{KILLS} kills in {killed_s:.0} s, {total} campaigns: {kills:?}");

    each_card_once(&stage, total);
    dates_agree(&stage);
    let sent = counters_rise(&stage);
    nobody_is_called_after_its_poll(&stage, &sent);
    let (peak, limit) = (stage.sessions_peak.get(), u64::from(stage.plan.sessions_max));
    assert!((1..=limit).contains(&peak), "C3: {peak} sessions were open, the limit is {limit}");
    println!("sessions at most {peak} of {limit}; all in {:.0} s", begun.elapsed().as_secs_f64());
}

/// C1 and C7, counted on the cards.
fn each_card_once(stage: &Stage, campaigns: u32) {
    for row in stage.in_field() {
        let counter = stage.counter(row, &COUNTER);
        assert_eq!(counter, campaigns, "C1: card {}: {}\n{}", row.iccid, stage.card(row), stage.log());
    }
}

/// C5: the card and the platform have the same date.
fn dates_agree(stage: &Stage) {
    for row in stage.in_field() {
        // A card may poll by itself between the two looks.
        let agree = (0..20).any(|_| {
            let (card, known) = (stage.next_poll(row), moment(&stage.card(row)["next_poll"]));
            known.is_some_and(|known| known.seconds() == card.seconds())
        });
        assert!(agree, "C5: card {}: {} and {:?}", row.iccid, stage.card(row), stage.next_poll(row));
    }
}

/// What was submitted for a card: when, counter.
type Sent = HashMap<usize, Vec<(EpochMs, u64)>>;

/// C2: the counters of a card on the wire rise; what comes again is the same bytes.
fn counters_rise(stage: &Stage) -> Sent {
    let mut sent = Sent::new();
    let mut bytes: HashMap<(usize, u64), Vec<u8>> = HashMap::new();
    let came = |event| matches!(event, Happened::Submitted | Happened::Dropped | Happened::Throttled);
    for entry in stage.record().into_iter().filter(|entry| came(entry.event)) {
        let Some(place) = stage.rows.iter().position(|row| is_number(row.msisdn, &entry.destination)) else {
            continue;
        };
        let packet = entry.user_data.0.get(3..).expect("a user data header of 027000");
        let opened = scp80::open(packet, &keys(stage, place)).unwrap();
        let counter = opened.header.counter.value();
        let before = sent.entry(place).or_default();
        match bytes.insert((place, counter), packet.to_vec()) {
            Some(same) => assert_eq!(same, packet, "C2: counter {counter} with other bytes"),
            None => {
                let highest = before.iter().map(|(_, counter)| *counter).max().unwrap_or(0);
                assert!(counter > highest, "C2: counter {counter} after {highest} of card {place}");
            }
        }
        before.push((entry.time, counter));
    }
    assert!(sent.len() > stage.rows.len() / 2, "only {} cards were triggered", sent.len());
    sent
}

/// C4: within one campaign a card gets no more triggers than attempts, and none after it has polled: what reaches the
/// service centre after the poll was durable as sent before it, and what was not has stayed at home.
fn nobody_is_called_after_its_poll(stage: &Stage, sent: &Sent) {
    let list = stage.get("/v1/campaigns").unwrap();
    let mut starts: Vec<(u64, EpochMs)> = list["campaigns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|campaign| (campaign["id"].as_u64().unwrap(), moment(&campaign["started_at"]).unwrap()))
        .collect();
    starts.sort_unstable();
    let (mut most, mut crossed) = (0, 0);
    for (place, row) in stage.in_field().iter().enumerate() {
        let Some(sent) = sent.get(&place) else { continue };
        let card = stage.card(row);
        let history = card["history"].as_array().unwrap();
        for (nth, (id, started)) in starts.iter().enumerate() {
            let end = starts.get(nth + 1).map_or(EpochMs(i64::MAX), |(_, at)| *at);
            let done: Vec<EpochMs> = history
                .iter()
                .filter(|line| line["campaign"].as_u64() == Some(*id) && line["result"] == "done")
                .filter_map(|line| moment(&line["at"]))
                .collect();
            let [done] = done[..] else { panic!("campaign {id} of card {}: {card}", row.iccid) };
            let within = |from: EpochMs| sent.iter().filter(move |(at, _)| *at > from && *at < end);
            most = most.max(within(*started).count());
            for (_, counter) in within(done) {
                let packet = stage.get(&format!("/v1/cards/{}/commands/1-{counter}", row.iccid)).unwrap();
                // Given up while the platform was dead, or answered by the poll: either way reserved before it.
                let reserved = moment(&packet["at"]).unwrap();
                let closed = packet["state"] == "proven" || (packet["state"] == "expired" && reserved < done);
                assert!(closed, "C4: card {} was called after its poll: {packet}", row.iccid);
                crossed += 1;
            }
        }
    }
    assert!(most <= 16, "C4: {most} triggers of one campaign for one card");
    println!(
        "at most {most} triggers per card and campaign; {crossed} were on their way when their card polled"
    );
}

fn keys(stage: &Stage, place: usize) -> KeySet {
    let set = &stage.rows[place].key_sets[0];
    let key = |secret: &simtide_protocol::card_file::Secret| Key::new(secret.as_bytes()).ok();
    KeySet::new(key(&set.kic), key(&set.kid))
}

fn is_number(msisdn: Option<simtide_protocol::ids::Msisdn>, destination: &str) -> bool {
    let digits = msisdn.map(|msisdn| msisdn.to_string()).unwrap_or_default();
    digits.trim_start_matches('+') == destination.trim_start_matches('+')
}

fn moment(value: &Value) -> Option<EpochMs> {
    value.as_str()?.parse().ok()
}
