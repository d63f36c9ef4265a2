//! Metrics in OpenMetrics text: read from the counters of the parts when somebody asks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::shell::Platform;

/// What is measured.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// The metrics of a running platform.
    pub fn new(platform: Arc<Platform>) -> Metrics {
        let mut registry = Registry::with_prefix("simtide");
        registry.register_collector(Box::new(Observed(platform)));
        Metrics(registry)
    }

    /// The text that `/metrics` answers.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

struct Observed(Arc<Platform>);

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observed(..)")
    }
}

impl Collector for Observed {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        sessions(&mut page, &self.0)?;
        packets(&mut page, &self.0)
    }
}

fn sessions(page: &mut Page<'_>, platform: &Platform) -> fmt::Result {
    let counters = platform.port.counters();
    let admission = platform.port.admission();
    let limit = platform.core.config.card_port.sessions_max;
    let demand = "Most card sessions wanted at once: open, in line, or refused within the time of a session";
    let session_ms = admission.session_time().as_millis() as u64;
    page.gauge("sessions_open", "Card sessions open now, handshakes included", platform.port.open().into())?;
    page.gauge("sessions_limit", "Most card sessions at any time", limit.into())?;
    page.gauge("sessions_peak", "Most card sessions open at once", admission.peak().into())?;
    page.gauge("sessions_demand_peak", demand, admission.demand_peak().into())?;
    page.gauge("session_milliseconds", "Mean time that a card session takes", session_ms)?;
    let outcomes = [
        ("completed", &counters.completed),
        ("broken", &counters.broken),
        ("late", &counters.late),
        ("bad_request", &counters.bad_request),
        ("refused", &counters.refused_sessions),
        ("stopped", &counters.stopped),
        ("no_permit", &counters.refused),
        ("handshake_failed", &counters.handshake_failed),
        ("handshake_late", &counters.handshake_late),
    ];
    page.counters("sessions", "Card sessions by how they ended", "outcome", outcomes)?;
    page.counter("handshakes", "TLS handshakes of cards that succeeded", &counters.handshakes)?;
    page.counter("card_requests", "Requests of cards that were answered", &counters.requests)?;
    let mismatch = "X-Admin-From named another card than the PSK identity";
    page.counter("admin_from_mismatches", mismatch, &counters.admin_from_mismatch)
}

fn packets(page: &mut Page<'_>, platform: &Platform) -> fmt::Result {
    let flight = platform.flight.in_flight();
    let states = [
        ("submitted", flight.submitted),
        ("accepted", flight.accepted),
        ("delivered", flight.delivered),
        ("stored", flight.stored),
    ];
    page.gauges("triggers_in_flight", "Triggers under way, by what is known of them", "state", states)?;
    let open = platform.flight.len() as u64;
    page.gauge("packets_open", "Packets under way, triggers and commands", open)?;
    let due = platform.tide.due_per_day(platform.core.now(), HOUR_MS);
    page.gauge("polls_due_per_day", "Own polls expected in the coming hour, as a rate per day", due)
}

const HOUR_MS: i64 = 3_600_000;

/// Where values are written, each with its name and what it means.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)
    }

    fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: [(&str, u32); N],
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (value, count) in values {
            ConstGauge::new(count).encode(family.encode_family(&[(label, value)])?)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, counter: &AtomicU64) -> fmt::Result {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(counter.load(Ordering::Relaxed)).encode(metric)
    }

    fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        counters: [(&str, &AtomicU64); N],
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, counter) in counters {
            let count = ConstCounter::new(counter.load(Ordering::Relaxed));
            count.encode(family.encode_family(&[(label, value)])?)?;
        }
        Ok(())
    }
}
