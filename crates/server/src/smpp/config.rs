//! What an operator says about one SMPP link.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;
use zeroize::Zeroizing;

/// Most connections of one link: published accounts allow 1 to 10.
pub const BINDS_MAX: u8 = 16;
/// Widest window of one bind, in submits without an answer.
pub const WINDOW_MAX: u16 = 1_000;
/// Longest queue in front of the binds, in short messages.
pub const QUEUE_MAX: usize = 1_000_000;

/// One SMPP link: one account at one SMSC, over one or several connections.
///
/// Every field has a default; `host`, `system_id` and `password` are the ones that an account needs.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkConfig {
    /// Name of the link in logs, metrics and events: unique per configuration.
    pub name: String,
    /// Host name or address of the SMSC.
    pub host: String,
    /// TCP port of the SMSC; 2775 is the registered one.
    pub port: u16,
    /// Account name, at most 15 ASCII characters (SMPP 3.4, 5.2.1).
    pub system_id: String,
    /// Password of the account, at most 8 ASCII characters (SMPP 3.4, 5.2.2). Never logged.
    pub password: Password,
    /// File that holds the password instead of `password`; a line end after it is cut off.
    pub password_file: Option<PathBuf>,
    /// System type, at most 12 ASCII characters; most SMSCs want it empty.
    pub system_type: String,
    /// How the link binds.
    pub bind_mode: BindMode,
    /// Connections that carry submits, 1 to 16. With `transmitter-receiver` one receiver comes on top.
    pub binds: u8,
    /// Submits without an answer per bind, 1 to 1000.
    pub window: u16,
    /// What the SMSC allows on the whole link, in short messages per second; 0 is without pacing.
    /// The link slows down by itself when the SMSC throttles, and comes back to this figure.
    pub rate_per_s: u32,
    /// Short messages that may wait for a window slot; one more is refused at once.
    pub queue_max: usize,
    /// How long a short message may wait here before it is refused, in seconds: it is then late for its slot.
    pub queue_wait_s: u32,
    /// Silence after which the link asks whether the SMSC is there (enquire_link), in seconds.
    pub enquire_link_s: u32,
    /// How long an answer may take, in seconds; after it the outcome of a submit is unknown.
    pub response_timeout_s: u32,
    /// How long connecting and binding may take, in seconds.
    pub bind_timeout_s: u32,
    /// First pause before the next attempt to connect, in seconds; it doubles up to `reconnect_s_max`.
    pub reconnect_s_min: u32,
    /// Longest pause between attempts to connect, in seconds.
    pub reconnect_s_max: u32,
    /// TLS towards the SMSC; absent is plain TCP.
    pub tls: Option<TlsConfig>,
}

impl Default for LinkConfig {
    fn default() -> Self {
        LinkConfig {
            name: "smsc".to_owned(),
            host: "127.0.0.1".to_owned(),
            port: 2775,
            system_id: String::new(),
            password: Password::default(),
            password_file: None,
            system_type: String::new(),
            bind_mode: BindMode::Transceiver,
            binds: 1,
            window: 100,
            rate_per_s: 0,
            queue_max: 10_000,
            queue_wait_s: 300,
            enquire_link_s: 30,
            response_timeout_s: 30,
            bind_timeout_s: 10,
            reconnect_s_min: 1,
            reconnect_s_max: 60,
            tls: None,
        }
    }
}

impl LinkConfig {
    /// Checks every limit; the error names the field and what to write.
    pub fn check(&self) -> Result<(), ConfigError> {
        let text = |field, value: &str, bytes_max| {
            if value.len() > bytes_max || !value.bytes().all(|b| (0x20..0x7F).contains(&b)) {
                return Err(ConfigError::Text { field, bytes_max });
            }
            Ok(())
        };
        let range = |field, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) { Ok(()) } else { Err(ConfigError::Range { field, min, max }) }
        };
        text("system_id", &self.system_id, 15)?;
        text("password", self.password.reveal(), 8)?;
        text("system_type", &self.system_type, 12)?;
        range("binds", self.binds.into(), 1, BINDS_MAX.into())?;
        range("window", self.window.into(), 1, WINDOW_MAX.into())?;
        range("rate_per_s", self.rate_per_s.into(), 0, 1_000_000)?;
        range("queue_max", self.queue_max as u64, 1, QUEUE_MAX as u64)?;
        range("queue_wait_s", self.queue_wait_s.into(), 1, 86_400)?;
        range("enquire_link_s", self.enquire_link_s.into(), 1, 3_600)?;
        range("response_timeout_s", self.response_timeout_s.into(), 1, 3_600)?;
        range("bind_timeout_s", self.bind_timeout_s.into(), 1, 600)?;
        range("reconnect_s_min", self.reconnect_s_min.into(), 1, 3_600)?;
        range("reconnect_s_max", self.reconnect_s_max.into(), self.reconnect_s_min.into(), 3_600)
    }

    pub(super) fn seconds(seconds: u32) -> Duration {
        Duration::from_secs(seconds.into())
    }
}

/// How a link binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BindMode {
    /// Every connection carries both directions.
    Transceiver,
    /// `binds` connections submit, one further connection receives.
    TransmitterReceiver,
}

/// TLS towards an SMSC.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificates (PEM) that may have signed the SMSC's; absent are those of the system.
    pub ca_file: Option<PathBuf>,
    /// Our certificate chain (PEM), where the SMSC asks for one.
    pub certificate_file: Option<PathBuf>,
    /// The private key (PEM) of `certificate_file`.
    pub key_file: Option<PathBuf>,
    /// The name the SMSC's certificate must carry; absent is `host`.
    pub server_name: Option<String>,
}

/// A password that no log, error or panic shows.
#[derive(Clone, Default, Deserialize)]
#[serde(from = "String")]
pub struct Password(Zeroizing<String>);

impl Password {
    /// A password from text.
    pub fn new(text: impl Into<String>) -> Self {
        Password(Zeroizing::new(text.into()))
    }

    /// The text, for the bind PDU only.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Password {
    fn from(text: String) -> Self {
        Password(Zeroizing::new(text))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// A setting of a link that cannot work.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// A text is too long for its field or not printable ASCII.
    #[error("smpp: {field} must be at most {bytes_max} printable ASCII characters")]
    Text {
        /// Name of the setting.
        field: &'static str,
        /// Longest text.
        bytes_max: usize,
    },
    /// A number is out of its range.
    #[error("smpp: {field} must be from {min} to {max}")]
    Range {
        /// Name of the setting.
        field: &'static str,
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_not_shown() {
        let config = LinkConfig { password: Password::new("canary77"), ..LinkConfig::default() };
        assert!(!format!("{config:?}").contains("canary77"));
    }

    #[test]
    fn limits_are_checked_and_named() {
        assert_eq!(LinkConfig::default().check(), Ok(()));
        let config = LinkConfig { window: 0, ..LinkConfig::default() };
        assert_eq!(config.check(), Err(ConfigError::Range { field: "window", min: 1, max: 1_000 }));
        let config = LinkConfig { password: Password::new("ninechars"), ..LinkConfig::default() };
        assert_eq!(config.check(), Err(ConfigError::Text { field: "password", bytes_max: 8 }));
    }

    #[test]
    fn reads_toml_and_refuses_unknown_keys() {
        let config: LinkConfig =
            toml::from_str("host = \"smsc.example\"\nbind_mode = \"transmitter-receiver\"\nbinds = 3")
                .unwrap();
        assert_eq!((config.host.as_str(), config.binds), ("smsc.example", 3));
        assert_eq!(config.bind_mode, BindMode::TransmitterReceiver);
        assert!(toml::from_str::<LinkConfig>("windows = 3").is_err());
    }
}
