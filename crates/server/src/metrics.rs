//! Metrics in OpenMetrics text: read from the counters of the parts when somebody asks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::http::header;
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::entitlement::Service;
use crate::shell::Platform;
use crate::smpp::Figures;

/// What is measured. Clones are the same metrics.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Registry>);

impl Metrics {
    /// The metrics of a running platform.
    pub fn new(platform: Arc<Platform>) -> Metrics {
        Metrics::of(vec![Box::new(Observed(platform))])
    }

    /// The metrics of a running platform with an entitlement server in its process.
    pub fn with_entitlement(platform: Arc<Platform>, service: Arc<Service>) -> Metrics {
        Metrics::of(vec![Box::new(Observed(platform)), Box::new(ObservedDevices(service))])
    }

    /// The metrics of an entitlement server that is a process of its own.
    pub fn of_entitlement(service: Arc<Service>) -> Metrics {
        Metrics::of(vec![Box::new(ObservedDevices(service))])
    }

    fn of(collectors: Vec<Box<dyn Collector>>) -> Metrics {
        let mut registry = Registry::with_prefix("simtide");
        collectors.into_iter().for_each(|collector| registry.register_collector(collector));
        Metrics(Arc::new(registry))
    }

    /// The text that `/metrics` answers.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0)?;
        Ok(text)
    }

    /// `/metrics` and `/healthz`.
    pub fn routes<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        let metrics = self.clone();
        let page = async move || {
            // Writing to memory does not fail.
            let text = metrics.text().unwrap_or_default();
            ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
        };
        Router::new().route("/metrics", get(page)).route("/healthz", get(async || "ok\n"))
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
        packets(&mut page, &self.0)?;
        links(&mut page, &self.0)?;
        changes(&mut page, &self.0)
    }
}

/// What an entitlement server has done, and what it holds.
struct ObservedDevices(Arc<Service>);

impl fmt::Debug for ObservedDevices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObservedDevices(..)")
    }
}

impl Collector for ObservedDevices {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        devices(&mut Page(encoder), &self.0)
    }
}

fn devices(page: &mut Page<'_>, service: &Service) -> fmt::Result {
    let stats = &service.stats;
    let open = service.sessions.count() as u64;
    page.gauge("entitlement_sessions_open", "Authentications of devices under way", open)?;
    let tokens = service.tokens.count() as u64;
    page.gauge("entitlement_tokens", "Tokens of devices, each with the keys of its second layer", tokens)?;
    page.counter("entitlement_vectors", "Authentication vectors asked for", stats.vectors.value())?;
    let fast = stats.fast.value();
    let full = stats.authenticated.value().saturating_sub(fast);
    let kinds = [("full", full), ("fast", fast)];
    page.counters("entitlement_authentications", "Authentications that succeeded", "kind", kinds)?;
    let refused = [("limit", stats.limited.value()), ("not_proven", stats.refused.value())];
    page.counters("entitlement_refusals", "Requests of devices that were refused", "reason", refused)?;
    let known = stats.with_token.value();
    page.counter("entitlement_token_requests", "Requests of devices with a token that fits", known)?;
    page.counter("entitlement_items", "Sealed packets handed to devices, also again", stats.items.value())?;
    let uplinks = stats.uplinks.value();
    page.counter("entitlement_uplinks", "Proofs and messages of cards that devices brought", uplinks)
}

fn sessions(page: &mut Page<'_>, platform: &Platform) -> fmt::Result {
    let counters = platform.port.counters();
    let admission = platform.port.admission();
    let limit = platform.core.config.card_port.sessions_max;
    let demand = "Most card sessions wanted at once: open, in line, or refused within the time of a session";
    let session_ms = admission.session_time().as_millis() as u64;
    let so_far = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    page.gauge("sessions_open", "Card sessions open now, handshakes included", platform.port.open().into())?;
    page.gauge("sessions_limit", "Most card sessions at any time", limit.into())?;
    page.gauge("sessions_peak", "Most card sessions open at once", admission.peak().into())?;
    page.gauge("sessions_demand_peak", demand, admission.demand_peak().into())?;
    page.gauge("session_milliseconds", "Mean time that a card session takes", session_ms)?;
    let outcomes = [
        ("completed", so_far(&counters.completed)),
        ("broken", so_far(&counters.broken)),
        ("late", so_far(&counters.late)),
        ("bad_request", so_far(&counters.bad_request)),
        ("refused", so_far(&counters.refused_sessions)),
        ("stopped", so_far(&counters.stopped)),
        ("no_permit", so_far(&counters.refused)),
        ("handshake_failed", so_far(&counters.handshake_failed)),
        ("handshake_late", so_far(&counters.handshake_late)),
    ];
    page.counters("sessions", "Card sessions by how they ended", "outcome", outcomes)?;
    page.counter("handshakes", "TLS handshakes of cards that succeeded", so_far(&counters.handshakes))?;
    page.counter("card_requests", "Requests of cards that were answered", so_far(&counters.requests))?;
    let mismatch = "X-Admin-From named another card than the PSK identity";
    page.counter("admin_from_mismatches", mismatch, so_far(&counters.admin_from_mismatch))
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

fn links(page: &mut Page<'_>, platform: &Platform) -> fmt::Result {
    let links = platform.outbox.links();
    let of = |value: fn(&Figures) -> u64| links.iter().map(move |(name, figures)| (*name, value(figures)));
    page.gauges(
        "smpp_binds",
        "Binds in service: 0 is a link that is down",
        "link",
        of(|link| link.bound as u64),
    )?;
    let help = "Short messages that the service centre has not answered";
    page.gauges("smpp_in_flight", help, "link", of(|link| link.in_flight as u64))?;
    page.gauges(
        "smpp_pending",
        "Short messages that wait to be sent",
        "link",
        of(|link| link.pending as u64),
    )?;
    page.counters(
        "smpp_submitted",
        "Submits written, repetitions included",
        "link",
        of(|link| link.submitted),
    )?;
    page.counters("smpp_accepted", "Short messages accepted", "link", of(|link| link.accepted))?;
    page.counters("smpp_refused", "Short messages refused", "link", of(|link| link.refused))?;
    page.counters(
        "smpp_throttled",
        "Answers that asked for a lower rate",
        "link",
        of(|link| link.throttled),
    )?;
    page.counters(
        "smpp_unknown",
        "Short messages whose outcome is unknown",
        "link",
        of(|link| link.unknown),
    )?;
    page.counters("smpp_receipts", "Delivery receipts", "link", of(|link| link.receipts))?;
    page.counters("smpp_messages", "Short messages from devices", "link", of(|link| link.messages))?;
    let help = "Connections lost, and PDUs that could not be read or answer nothing";
    page.counters("smpp_faults", help, "link", of(|link| link.faults))
}

fn changes(page: &mut Page<'_>, platform: &Platform) -> fmt::Result {
    let watch = &platform.changes.watch;
    let (states, with_alarm) = watch.open();
    page.gauges("changes_open", "Changes of operator that are open, by state", "state", states)?;
    let help = "Open changes of operator that people have to look at";
    page.gauge("changes_with_alarm", help, with_alarm.into())?;
    page.counters("change_alarms", "Alarms of changes of operator", "alarm", watch.alarms())
}

const HOUR_MS: i64 = 3_600_000;

/// Where values are written, each with its name and what it means.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(metric)
    }

    fn gauges<'n, V: Into<u64>>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'n str, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (value, count) in values {
            ConstGauge::new(count.into()).encode(family.encode_family(&[(label, value)])?)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, count: u64) -> fmt::Result {
        let metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(count).encode(metric)
    }

    fn counters<'n>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        counts: impl IntoIterator<Item = (&'n str, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, count) in counts {
            ConstCounter::new(count).encode(family.encode_family(&[(label, value)])?)?;
        }
        Ok(())
    }
}
