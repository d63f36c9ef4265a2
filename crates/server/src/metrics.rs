//! Metrics in OpenMetrics text: read from the counters of the parts when somebody asks.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use crate::shell::Platform;

/// What is measured.
#[derive(Debug, Default)]
pub struct Metrics;

impl Metrics {
    /// The text that `/metrics` answers.
    pub fn text(&self, platform: &Platform) -> String {
        let mut text = String::new();
        sessions(&mut text, platform);
        triggers(&mut text, platform);
        text.push_str("# EOF\n");
        text
    }
}

fn sessions(text: &mut String, platform: &Platform) {
    let counters = platform.port.counters();
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    gauge(
        text,
        "simtide_sessions_open",
        "Card sessions open now, handshakes included.",
        platform.port.open().into(),
    );
    let limit = platform.core.config.card_port.sessions_max;
    gauge(text, "simtide_sessions_limit", "Most card sessions at any time.", limit.into());
    let admission = platform.port.admission();
    gauge(text, "simtide_sessions_peak", "Most card sessions open at once.", admission.peak().into());
    let demand = "Most card sessions wanted at once: open, in line, or refused within the time of a session.";
    gauge(text, "simtide_sessions_demand_peak", demand, admission.demand_peak().into());
    let session_ms = admission.session_time().as_millis() as u64;
    gauge(text, "simtide_session_milliseconds", "Mean time that a card session takes.", session_ms);
    family(text, "simtide_sessions", "counter", "Card sessions by how they ended.");
    for (outcome, counter) in [
        ("completed", &counters.completed),
        ("broken", &counters.broken),
        ("late", &counters.late),
        ("bad_request", &counters.bad_request),
        ("refused", &counters.refused_sessions),
        ("stopped", &counters.stopped),
        ("no_permit", &counters.refused),
        ("handshake_failed", &counters.handshake_failed),
        ("handshake_late", &counters.handshake_late),
    ] {
        labelled(text, "simtide_sessions_total", "outcome", outcome, load(counter));
    }
    for (name, help, counter) in [
        ("simtide_handshakes", "TLS handshakes of cards that succeeded.", &counters.handshakes),
        ("simtide_card_requests", "Requests of cards that were answered.", &counters.requests),
        (
            "simtide_admin_from_mismatches",
            "X-Admin-From named another card than the PSK identity.",
            &counters.admin_from_mismatch,
        ),
    ] {
        family(text, name, "counter", help);
        let _ = writeln!(text, "{name}_total {}", load(counter));
    }
}

fn triggers(text: &mut String, platform: &Platform) {
    let flight = platform.flight.in_flight();
    family(text, "simtide_triggers_in_flight", "gauge", "Triggers under way, by what is known of them.");
    for (state, count) in [
        ("submitted", flight.submitted),
        ("accepted", flight.accepted),
        ("delivered", flight.delivered),
        ("stored", flight.stored),
    ] {
        labelled(text, "simtide_triggers_in_flight", "state", state, count.into());
    }
    let packets = platform.flight.len() as u64;
    gauge(text, "simtide_packets_open", "Packets under way, triggers and commands.", packets);
    let now = platform.core.now();
    let due = platform.tide.due_per_day(now, 3_600_000);
    gauge(
        text,
        "simtide_polls_due_per_day",
        "Own polls expected in the coming hour, as a rate per day.",
        due,
    );
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn gauge(text: &mut String, name: &str, help: &str, value: u64) {
    family(text, name, "gauge", help);
    let _ = writeln!(text, "{name} {value}");
}

fn labelled(text: &mut String, name: &str, label: &str, value: &str, count: u64) {
    let _ = writeln!(text, "{name}{{{label}=\"{value}\"}} {count}");
}
