//! The platform as its users see it: the REST API, with a token, asked from a thread that waits.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::client::{Client, ClientError};

/// A user of the API.
pub struct Platform {
    runtime: Runtime,
    client: Client,
}

impl Platform {
    /// A user of the API at `address` who has a token.
    pub fn new(address: &str, token: &str) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, client: Client::with_token(format!("http://{address}"), token) })
    }

    /// GET, as JSON.
    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.runtime.block_on(self.client.get(path))
    }

    /// POST of a JSON body.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.runtime.block_on(self.client.post(path, body))
    }

    /// PUT of a JSON body.
    pub fn put(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.runtime.block_on(self.client.send(self.client.request(Method::PUT, path).json(body)))
    }

    /// All cards, page by page.
    pub fn cards(&self) -> Result<Vec<Value>, ClientError> {
        let mut cards = Vec::new();
        let mut after = String::new();
        loop {
            let page = self.get(&format!("/v1/cards?limit=1000{after}"))?;
            cards.extend(page["cards"].as_array().cloned().unwrap_or_default());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(cards),
            }
        }
    }

    /// The metrics, by name with labels.
    pub fn metrics(&self) -> Result<BTreeMap<String, f64>, ClientError> {
        let text = self.runtime.block_on(self.client.text(self.client.request(Method::GET, "/metrics")))?;
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Ok(lines
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect())
    }
}
