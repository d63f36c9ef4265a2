//! Configuration: one small struct per concern, every default in `simtide.toml`, unknown keys refused.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;

/// Everything that `simtide serve` can be told.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
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
    /// Flow control.
    pub flow: Flow,
    /// Defaults of campaigns.
    pub campaign: Campaign,
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

/// `[smpp]`: links to SMSCs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Smpp {
    /// Longest wait between two attempts to connect.
    pub reconnect_max_s: u64,
    /// One per bind.
    pub links: Vec<SmppLink>,
}

/// One `[[smpp.links]]`: one bind to one SMSC.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SmppLink {
    /// Name in logs and metrics.
    pub name: String,
    /// host:port.
    pub address: String,
    /// Who binds.
    pub system_id: String,
    /// The password; never logged.
    pub password: String,
    /// System type, as the SMSC wants it.
    pub system_type: String,
    /// Address that the messages come from and that cards answer to.
    pub source_address: String,
    /// Unanswered submits at any time.
    pub window: u32,
    /// Messages per second; adapted downwards when the SMSC throttles.
    pub rate_max_per_s: u32,
    /// TLS towards the SMSC.
    pub tls: bool,
}

/// `[flow]`: how much a campaign may ask of the card port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flow {
    /// Part of `sessions_max` that is planned for.
    pub plan_margin: f64,
    /// Campaign seconds between two decisions.
    pub tick_s: u32,
    /// Most triggers of one batch.
    pub batch_max: u32,
    /// What a session takes until it has been measured.
    pub session_s: u32,
}

/// `[campaign]`: defaults of campaigns that do not say otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Campaign {
    /// Retries closer than this to the card's own poll are left to the poll.
    pub poll_is_near_s: u32,
    /// Triggers per card at most.
    pub attempts: u8,
    /// Wait before the second trigger of a card.
    pub backoff_s: u32,
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
    /// A value outside its range.
    #[error("{key} must be {rule}; see simtide.toml")]
    Range {
        /// The key, with its table.
        key: &'static str,
        /// What it must be.
        rule: &'static str,
    },
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
        let rules: [(bool, &'static str, &'static str); 13] = [
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
            (
                self.flow.plan_margin > 0.0 && self.flow.plan_margin <= 1.0,
                "flow.plan_margin",
                "above 0 and at most 1",
            ),
            (
                self.flow.tick_s > 0 && self.flow.session_s > 0 && self.flow.batch_max > 0,
                "flow.tick_s, session_s and batch_max",
                "at least 1",
            ),
            (self.clock.rate.is_finite() && self.clock.rate > 0.0, "clock.rate", "a number above 0"),
            (
                self.api.tls_certificate.as_os_str().is_empty() == self.api.tls_key.as_os_str().is_empty(),
                "api.tls_certificate and api.tls_key",
                "given both or not at all",
            ),
        ];
        match rules.into_iter().find(|(holds, _, _)| !holds) {
            Some((_, key, rule)) => Err(ConfigError::Range { key, rule }),
            None => Ok(()),
        }
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

impl std::fmt::Debug for SmppLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SmppLink")
            .field("name", &self.name)
            .field("address", &self.address)
            .field("system_id", &self.system_id)
            .finish_non_exhaustive()
    }
}

impl Default for Data {
    fn default() -> Self {
        Data {
            folder: "simtide-data".into(),
            key_file: PathBuf::new(),
            buckets: 16,
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
        Smpp { reconnect_max_s: 60, links: Vec::new() }
    }
}

impl Default for SmppLink {
    fn default() -> Self {
        SmppLink {
            name: "smsc-1".into(),
            address: "127.0.0.1:2775".into(),
            system_id: "simtide".into(),
            password: "secret".into(),
            system_type: String::new(),
            source_address: "1234".into(),
            window: 100,
            rate_max_per_s: 100,
            tls: false,
        }
    }
}

impl Default for Flow {
    fn default() -> Self {
        Flow { plan_margin: 0.95, tick_s: 60, batch_max: 1000, session_s: 30 }
    }
}

impl Default for Campaign {
    fn default() -> Self {
        Campaign { poll_is_near_s: 7200, attempts: 3, backoff_s: 86_400 }
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
        assert_eq!(Config::parse(SHIPPED).unwrap(), Config::default());
    }

    #[test]
    fn the_shipped_file_says_every_default() {
        let shipped: toml::Table = toml::from_str(SHIPPED).unwrap();
        assert_eq!(toml::Table::try_from(Config::default()).unwrap(), shipped);
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
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
            "[trigger]\nspi = \"16\"",
            "[card_port]\nsessions_max = 0",
            "[api]\ntls_key = \"x\"",
        ] {
            assert!(matches!(Config::parse(text), Err(ConfigError::Range { .. })), "{text}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let link = SmppLink { password: "canary-password".into(), ..SmppLink::default() };
        assert!(!format!("{link:?}").contains("canary"));
    }
}
