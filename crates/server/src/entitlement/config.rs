//! `[entitlement]`: the entitlement server's settings.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use simtide_protocol::entitlement::{AppId, OTA_APP_DEFAULT};

/// `[entitlement]`: the server that devices ask over IP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Entitlement {
    /// Where devices connect, `address:port`; empty: no entitlement server.
    pub listen: String,
    /// It runs as a process of its own (`simtide entitlement`): devices are told that something waits although nothing
    /// listens here.
    pub separate: bool,
    /// PEM certificate chain; empty: plain HTTP, on loopback only.
    pub tls_certificate: PathBuf,
    /// PEM private key.
    pub tls_key: PathBuf,
    /// Where requests go.
    pub path: String,
    /// Names that devices may call this server by (`Host`); empty: any.
    pub server_names: Vec<String>,
    /// Application id of the delivery.
    pub ota_app: AppId,
    /// What the server says about voice over Wi-Fi.
    pub vowifi: bool,
    /// TP-OA that devices set where the wrapper is made here; empty: that of `[smpp]`.
    pub originating_address: String,
    /// Name of the access network in AKA'.
    pub network: String,
    /// How long a token and its keys hold, in campaign time.
    pub token_validity_s: u32,
    /// How long a document holds.
    pub document_validity_s: u32,
    /// When a device asks again by itself.
    pub next_query_s: u32,
    /// Give out pseudonyms.
    pub pseudonyms: bool,
    /// Fast re-authentications before the next full one; 0: none.
    pub reauthentications_max: u16,
    /// Offer a protected success indication.
    pub result_indication: bool,
    /// Most authentications under way.
    pub sessions_max: usize,
    /// Most of them for one subscriber.
    pub sessions_per_imsi_max: u16,
    /// Longest authentication.
    pub session_deadline_s: u64,
    /// Most tokens.
    pub tokens_max: usize,
    /// Most connections.
    pub connections_max: usize,
    /// Longest request, and longest silence of a connection.
    pub request_deadline_s: u64,
    /// Authentications that one subscriber may begin at once before it has to wait.
    pub imsi_burst: u32,
    /// After which time it may begin another one.
    pub imsi_interval_ms: u64,
    /// The same for one address; 0: no limit.
    pub address_burst: u32,
    /// After which time.
    pub address_interval_ms: u64,
    /// Header in which a front server on loopback says where a request came from; empty: none does.
    pub forwarded_header: String,
    /// Call devices by SMS when something waits for their card.
    pub notify_by_sms: bool,
    /// Where cloud pushes are handed over, by POST; empty: nowhere.
    pub push_url: String,
    /// File with the bearer token of `push_url`.
    pub push_token_file: PathBuf,
    /// File with the key by which pushes are signed; empty: they are not.
    pub push_secret_file: PathBuf,
}

impl Default for Entitlement {
    fn default() -> Self {
        Entitlement {
            listen: String::new(),
            separate: false,
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            path: "/".to_owned(),
            server_names: Vec::new(),
            ota_app: OTA_APP_DEFAULT,
            vowifi: false,
            originating_address: String::new(),
            network: "WLAN".to_owned(),
            token_validity_s: 86_400,
            document_validity_s: 172_800,
            next_query_s: 86_400,
            pseudonyms: true,
            reauthentications_max: 16,
            result_indication: true,
            sessions_max: 10_000,
            sessions_per_imsi_max: 4,
            session_deadline_s: 60,
            tokens_max: 1_000_000,
            connections_max: 10_000,
            request_deadline_s: 30,
            imsi_burst: 6,
            imsi_interval_ms: 30_000,
            address_burst: 200,
            address_interval_ms: 100,
            forwarded_header: String::new(),
            notify_by_sms: true,
            push_url: String::new(),
            push_token_file: PathBuf::new(),
            push_secret_file: PathBuf::new(),
        }
    }
}

impl Entitlement {
    /// What is outside its range: the key and what it must be.
    pub fn wrong(&self) -> Option<(&'static str, &'static str)> {
        let rules: [(bool, &str, &str); 9] = [
            (self.path.starts_with('/') && !self.path.contains('?'), "entitlement.path", "a path from / on"),
            (
                self.tls_certificate.as_os_str().is_empty() == self.tls_key.as_os_str().is_empty(),
                "entitlement.tls_certificate and entitlement.tls_key",
                "given both or not at all",
            ),
            ((1..=255).contains(&self.network.len()), "entitlement.network", "a name of 1 to 255 characters"),
            (self.token_validity_s > 0, "entitlement.token_validity_s", "at least 1"),
            (
                (1..=1_000_000).contains(&self.sessions_max) && self.sessions_per_imsi_max > 0,
                "entitlement.sessions_max and entitlement.sessions_per_imsi_max",
                "1 to 1000000, and at least 1",
            ),
            (self.session_deadline_s > 0, "entitlement.session_deadline_s", "at least 1"),
            (
                self.tokens_max > 0 && self.connections_max > 0,
                "entitlement.tokens_max and entitlement.connections_max",
                "at least 1",
            ),
            (self.request_deadline_s > 0, "entitlement.request_deadline_s", "at least 1"),
            (self.imsi_burst > 0, "entitlement.imsi_burst", "at least 1"),
        ];
        rules.into_iter().find(|(holds, _, _)| !holds).map(|(_, key, rule)| (key, rule))
    }
}
