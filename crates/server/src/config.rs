//! Configuration: one small struct per concern, every default in `simtide.toml`, unknown keys refused.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use simtide_platform::flow::{FlowError, FlowSettings, Policy};

use crate::clock::Clock;
use crate::smpp::LinkConfig;

/// Everything that `simtide serve` can be told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where data lives.
    pub data: Data,
    /// Where cards connect.
    pub card_port: CardPort,
    /// How cards are called in.
    pub trigger: Trigger,
    /// Links to SMSCs.
    pub smpp: Smpp,
    /// How deliveries are carried.
    pub delivery: simtide_platform::delivery::Settings,
    /// What is offered to the entitlement server.
    pub second_interface: SecondInterface,
    /// The server that devices ask over IP.
    pub entitlement: crate::entitlement::config::Entitlement,
    /// Who keeps the OTA keys of cards.
    pub sealing: Sealing,
    /// Flow control.
    pub flow: Flow,
    /// The REST API.
    pub api: Api,
    /// Campaign time.
    pub clock: ClockRate,
    /// How the platform ends.
    pub shutdown: Shutdown,
}

/// `[data]`: database, key file, first token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// Data folder, created at the first start.
    pub folder: PathBuf,
    /// Key-encryption key; empty: in the data folder.
    pub key_file: PathBuf,
    /// Groups of cards, a power of two.
    pub buckets: u16,
    /// How long the history of a card is kept.
    pub history_retention_days: u32,
}

/// `[card_port]`: admission, deadlines and limits of card sessions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CardPort {
    /// Where cards connect.
    pub listen: SocketAddr,
    /// Most sessions at any time.
    pub sessions_max: u32,
    /// How long a connection waits for a session before it is reset.
    pub admission_wait_ms: u64,
    /// Most connections that wait.
    pub admission_queue_max: u32,
    /// From accept to the end of the handshake.
    pub handshake_deadline_s: u64,
    /// Silence between two requests.
    pub idle_deadline_s: u64,
    /// From the first byte of a request to its last.
    pub body_deadline_s: u64,
    /// The whole session.
    pub session_deadline_s: u64,
    /// Largest request head in bytes.
    pub head_bytes_max: usize,
    /// Largest request body in bytes.
    pub body_bytes_max: usize,
    /// Offer 0x00A8 beside 0x00AE.
    pub gcm: bool,
    /// Take part in encrypt-then-MAC.
    pub encrypt_then_mac: bool,
    /// X-Admin-From of another card than the PSK identity.
    pub admin_from_mismatch: Mismatch,
    /// Framing of answers.
    pub response_framing: Framing,
}

/// What happens when X-Admin-From names another card than the PSK identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mismatch {
    /// Logged and counted; the PSK identity decides.
    Log,
    /// The session ends without work.
    Refuse,
}

/// How the bodies of answers are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framing {
    /// Content-Length.
    Length,
    /// Transfer-Encoding: chunked.
    Chunked,
}

/// `[trigger]`: the SMS that calls a card in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trigger {
    /// SPI of the packet, 4 hex digits.
    pub spi: String,
    /// Validity at the SMSC.
    pub validity_s: u32,
}

/// `[smpp]`: links to SMSCs, and where our messages come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Smpp {
    /// Address that messages come from and that cards answer to.
    pub source_address: String,
    /// Its type of number.
    pub source_ton: u8,
    /// Its numbering plan.
    pub source_npi: u8,
    /// registered_delivery: 1 final receipts, 17 also "stored".
    pub registered_delivery: u8,
    /// One per account at an SMSC; the links share the messages.
    #[serde(skip_serializing)]
    pub links: Vec<LinkConfig>,
}

/// `[second_interface]`: between secure element manager and entitlement server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecondInterface {
    /// Whether packets are offered there at all.
    pub offered: bool,
    /// Whether campaigns go there too, for cards that their polls have not reached.
    pub campaigns: bool,
    /// Who sets the originating address of a packet and says that its proof is wanted.
    pub wrapper: Wrapper,
    /// TP-OA of packets that come over IP; empty: `smpp.source_address`.
    pub originating_address: String,
}

/// `[sealing]`: who keeps the OTA keys of cards, and seals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sealing {
    /// The platform itself, or an operator's own server.
    pub by: KeptBy,
    /// Names of the operators whose cards that server seals for; empty: all.
    pub operators: Vec<String>,
    /// Where that server answers, `https://..`.
    pub url: String,
    /// File with the bearer token for it; empty: none.
    pub token_file: PathBuf,
    /// PEM certificates that may have signed its certificate; empty: those of the system.
    pub ca_file: PathBuf,
}

/// Who keeps keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeptBy {
    /// The platform, in its vault.
    Own,
    /// An operator's own server.
    Operator,
}

/// Where the wrapper around a sealed packet is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wrapper {
    /// Before the second interface.
    Platform,
    /// Behind it.
    EntitlementServer,
}

/// `[flow]`: how much campaigns may ask of the card port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flow {
    /// Part of `sessions_max` that is planned for.
    pub plan_margin: f64,
    /// Campaign milliseconds between two decisions.
    pub tick_ms: u32,
    /// What a session takes until it has been measured, in campaign time.
    pub session_initial_ms: u32,
    /// What a trigger takes to bring its session, until it has been measured, in campaign time.
    pub response_initial_ms: u32,
    /// When a refused card comes again, on average, in campaign time.
    pub retry_ms: u32,
    /// With feedback or without.
    pub policy: Policy,
}

impl Flow {
    /// The settings of the controller of a port with so many sessions.
    pub fn settings(&self, sessions_max: u32) -> FlowSettings {
        FlowSettings {
            sessions_max,
            plan_margin: self.plan_margin,
            session_initial_ms: self.session_initial_ms,
            response_initial_ms: self.response_initial_ms,
            retry_ms: self.retry_ms,
            policy: self.policy,
        }
    }
}

/// `[api]`: the REST interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// Where it listens.
    pub listen: SocketAddr,
    /// PEM certificate chain; empty: plain HTTP.
    pub tls_certificate: PathBuf,
    /// PEM private key.
    pub tls_key: PathBuf,
    /// Largest body of a request.
    pub body_bytes_max: usize,
    /// Largest import.
    pub import_bytes_max: u64,
    /// Where metrics answer; empty: beside the API.
    pub metrics_listen: String,
}

/// `[clock]`: how fast campaign time passes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClockRate {
    /// Campaign milliseconds per real one.
    pub rate: f64,
    /// Real epoch milliseconds of the anchor.
    pub real_anchor_ms: i64,
    /// Campaign epoch milliseconds of the anchor.
    pub virtual_anchor_ms: i64,
}

/// `[shutdown]`: how the platform ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// How long sessions under way may take to end.
    pub limit_s: u64,
}

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or not readable.
    #[error("the configuration {path} cannot be read: {source}; give another file with --config")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("the configuration is not understood: {0}simtide.toml shows every key with its default")]
    Syntax(#[from] toml::de::Error),
    /// A setting of the flow controller outside its range.
    #[error("flow: {0}")]
    Flow(#[from] FlowError),
    /// A setting of an SMPP link outside its range.
    #[error(transparent)]
    Link(#[from] crate::smpp::ConfigError),
    /// A value outside its range.
    #[error("{key} must be {rule}; see simtide.toml")]
    Range {
        /// The key, with its table.
        key: &'static str,
        /// What it must be.
        rule: &'static str,
    },
}

impl Smpp {
    /// The source address as cards of every network reach it; `None`: it is a short code of one.
    pub fn international_source(&self) -> Option<simtide_protocol::ids::Msisdn> {
        // SMPP 5.0, 4.7.1: TON 1 is an international number.
        if self.source_ton == 1 { self.source_address.parse().ok() } else { None }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Config::parse(&text)
    }

    /// Parses and checks a text; what it does not say keeps its default.
    pub fn parse(text: &str) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(text)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let rules: [(bool, &'static str, &'static str); 16] = [
            (self.data.buckets.is_power_of_two(), "data.buckets", "a power of two from 1 to 32768"),
            (
                (1..=1_000_000).contains(&self.card_port.sessions_max),
                "card_port.sessions_max",
                "1 to 1000000",
            ),
            (self.card_port.handshake_deadline_s > 0, "card_port.handshake_deadline_s", "at least 1"),
            (self.card_port.idle_deadline_s > 0, "card_port.idle_deadline_s", "at least 1"),
            (self.card_port.body_deadline_s > 0, "card_port.body_deadline_s", "at least 1"),
            (self.card_port.session_deadline_s > 0, "card_port.session_deadline_s", "at least 1"),
            (
                (512..=65_536).contains(&self.card_port.head_bytes_max),
                "card_port.head_bytes_max",
                "512 to 65536",
            ),
            (
                (1024..=16_777_216).contains(&self.card_port.body_bytes_max),
                "card_port.body_bytes_max",
                "1024 to 16777216",
            ),
            (self.trigger.spi().is_some(), "trigger.spi", "4 hex digits"),
            (self.delivery.validity_s > 0, "delivery.validity_s", "at least 1"),
            ((1..=128).contains(&self.delivery.sms_parts_max), "delivery.sms_parts_max", "1 to 128"),
            (
                (256..=4_000).contains(&self.delivery.packet_bytes_max),
                "delivery.packet_bytes_max",
                "256 to 4000",
            ),
            (
                self.sealing.by == KeptBy::Own || self.sealing.url.starts_with("http"),
                "sealing.url",
                "the address of the operator's sealing server",
            ),
            (self.flow.tick_ms > 0, "flow.tick_ms", "at least 1"),
            (self.clock.rate.is_finite() && self.clock.rate > 0.0, "clock.rate", "a number above 0"),
            (
                self.api.tls_certificate.as_os_str().is_empty() == self.api.tls_key.as_os_str().is_empty(),
                "api.tls_certificate and api.tls_key",
                "given both or not at all",
            ),
        ];
        for link in &self.smpp.links {
            link.check()?;
        }
        self.flow.settings(self.card_port.sessions_max).check()?;
        if let Some((key, rule)) = self.entitlement.wrong() {
            return Err(ConfigError::Range { key, rule });
        }
        match rules.into_iter().find(|(holds, _, _)| !holds) {
            Some((_, key, rule)) => Err(ConfigError::Range { key, rule }),
            None => Ok(()),
        }
    }

    /// Whether deliveries can go over IP.
    pub fn delivery_over_ip(&self) -> bool {
        self.second_interface.offered
    }

    /// Where messages that came over IP are answered to.
    pub fn originating_address(&self) -> &str {
        match self.second_interface.originating_address.as_str() {
            "" => &self.smpp.source_address,
            own => own,
        }
    }

    /// The entitlement server's settings, with the platform's address where it has none of its own.
    pub fn entitlement_settings(&self) -> crate::entitlement::config::Entitlement {
        let mut settings = self.entitlement.clone();
        if settings.originating_address.is_empty() {
            settings.originating_address = self.originating_address().to_owned();
        }
        settings
    }

    /// The key-encryption key file.
    pub fn key_file(&self) -> PathBuf {
        if self.data.key_file.as_os_str().is_empty() {
            self.data.folder.join("key-encryption.key")
        } else {
            self.data.key_file.clone()
        }
    }

    /// The clock of campaigns.
    pub fn clock(&self) -> Clock {
        let ClockRate { rate, real_anchor_ms, virtual_anchor_ms } = self.clock;
        Clock { rate, real_anchor_ms, virtual_anchor_ms }
    }
}

impl Trigger {
    /// The two octets of the SPI; `None` if the text is not 4 hex digits.
    pub fn spi(&self) -> Option<[u8; 2]> {
        let mut spi = [0; 2];
        hex::decode_to_slice(&self.spi, &mut spi).ok().map(|()| spi)
    }
}

impl Shutdown {
    /// How long sessions under way may take to end.
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.limit_s)
    }
}

impl Default for Data {
    fn default() -> Self {
        Data {
            folder: "simtide-data".into(),
            key_file: PathBuf::new(),
            buckets: 64,
            history_retention_days: 400,
        }
    }
}

impl Default for CardPort {
    fn default() -> Self {
        CardPort {
            listen: SocketAddr::from(([127, 0, 0, 1], 8443)),
            sessions_max: 1000,
            admission_wait_ms: 500,
            admission_queue_max: 256,
            handshake_deadline_s: 15,
            idle_deadline_s: 60,
            body_deadline_s: 30,
            session_deadline_s: 900,
            head_bytes_max: 8192,
            body_bytes_max: 65_536,
            gcm: false,
            encrypt_then_mac: true,
            admin_from_mismatch: Mismatch::Log,
            response_framing: Framing::Length,
        }
    }
}

impl Default for Trigger {
    fn default() -> Self {
        Trigger { spi: "1600".into(), validity_s: 3600 }
    }
}

impl Default for Smpp {
    fn default() -> Self {
        Smpp {
            source_address: "1234".into(),
            source_ton: 0,
            source_npi: 1,
            registered_delivery: 1,
            links: Vec::new(),
        }
    }
}

impl Default for SecondInterface {
    fn default() -> Self {
        SecondInterface {
            offered: true,
            campaigns: true,
            wrapper: Wrapper::Platform,
            originating_address: String::new(),
        }
    }
}

impl Default for Sealing {
    fn default() -> Self {
        Sealing {
            by: KeptBy::Own,
            operators: Vec::new(),
            url: String::new(),
            token_file: PathBuf::new(),
            ca_file: PathBuf::new(),
        }
    }
}

impl Default for Flow {
    fn default() -> Self {
        let FlowSettings { plan_margin, session_initial_ms, response_initial_ms, retry_ms, policy, .. } =
            FlowSettings::default();
        Flow { plan_margin, tick_ms: 60_000, session_initial_ms, response_initial_ms, retry_ms, policy }
    }
}

impl Default for Api {
    fn default() -> Self {
        Api {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            body_bytes_max: 4 << 20,
            import_bytes_max: 16 << 30,
            metrics_listen: String::new(),
        }
    }
}

impl Default for ClockRate {
    fn default() -> Self {
        ClockRate { rate: 1.0, real_anchor_ms: 0, virtual_anchor_ms: 0 }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { limit_s: 20 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../simtide.toml");

    #[test]
    fn the_shipped_file_says_the_defaults() {
        let shown = |config: Config| format!("{config:?}");
        assert_eq!(shown(Config::parse(SHIPPED).unwrap()), shown(Config::default()));
    }

    #[test]
    fn the_shipped_file_says_every_default() {
        let shipped: toml::Table = toml::from_str(SHIPPED).unwrap();
        assert_eq!(toml::Table::try_from(Config::default()).unwrap(), shipped);
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(format!("{:?}", Config::parse("").unwrap()), format!("{:?}", Config::default()));
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = Config::parse("[card_port]\nsessions = 5\n").unwrap_err().to_string();
        assert!(error.contains("sessions") && error.contains("simtide.toml"), "{error}");
    }

    #[test]
    fn values_outside_their_range_are_refused() {
        for text in [
            "[data]\nbuckets = 3",
            "[flow]\nplan_margin = 1.5",
            "[clock]\nrate = nan",
            "[flow]\ntick_ms = 0",
            "[trigger]\nspi = \"16\"",
            "[card_port]\nsessions_max = 0",
            "[api]\ntls_key = \"x\"",
        ] {
            assert!(
                matches!(Config::parse(text), Err(ConfigError::Range { .. } | ConfigError::Flow(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn the_link_that_is_shown_as_an_example_is_one() {
        let begin = SHIPPED.find("# [[smpp.links]]").unwrap();
        let example: String = SHIPPED[begin..]
            .lines()
            .take_while(|line| line.starts_with('#'))
            .map(|line| format!("{}\n", line.trim_start_matches("# ")))
            .collect();
        let config = Config::parse(&example).unwrap();
        assert_eq!(config.smpp.links.len(), 1);
        assert!(!format!("{config:?}").contains("\"secret\""), "passwords are not shown");
    }
}
