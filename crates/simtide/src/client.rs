//! The API as a client: where the server is, who asks, and errors that say what to do.

use std::path::PathBuf;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;

/// How a command reaches the server; the same for all of them.
#[derive(Debug, Clone, clap::Args)]
pub struct Server {
    /// Where the API is
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "SIMTIDE_SERVER",
        default_value = "http://127.0.0.1:8080"
    )]
    server: String,
    /// Token of the API; without it the token file is read
    #[arg(long, global = true, value_name = "TOKEN", env = "SIMTIDE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// File with the token
    #[arg(long, global = true, value_name = "FILE", default_value = "simtide-data/admin.token")]
    token_file: PathBuf,
    /// Certificates (PEM) that may have signed the server's, beside those of the system
    #[arg(long, global = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// Options of a command that asks the server for one of several things.
#[derive(Debug, clap::Args)]
pub struct Asked<A: clap::Subcommand> {
    #[command(flatten)]
    pub server: Server,
    #[command(subcommand)]
    pub action: A,
}

/// A server that can be asked.
pub struct Client {
    base: String,
    token: String,
    http: reqwest::Client,
}

/// Why a command did not get an answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no token.
    #[error("there is no token: set SIMTIDE_TOKEN, or give --token-file (tried {path}: {source})")]
    Token {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the command line.
    #[error("{path} cannot be read: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The server was not reached.
    #[error(
        "the server at {server} was not reached: {source}; start it with `simtide serve` or give --server"
    )]
    Reach {
        /// Where.
        server: String,
        /// What the client said.
        source: reqwest::Error,
    },
    /// The server refused.
    #[error("{detail} ({status})")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// What it said.
        detail: String,
    },
    /// The answer is not what this version expects.
    #[error("the answer of the server is not understood: {0}; are both of the same version?")]
    Answer(String),
}

impl Server {
    /// Gets ready to ask.
    pub fn client(&self) -> Result<Client, ClientError> {
        let token = match &self.token {
            Some(token) => token.clone(),
            None => std::fs::read_to_string(&self.token_file)
                .map_err(|source| ClientError::Token { path: self.token_file.clone(), source })?,
        };
        let base = self.server.trim_end_matches('/').to_owned();
        let reach = |source| ClientError::Reach { server: base.clone(), source };
        let mut builder = reqwest::Client::builder();
        if let Some(path) = &self.ca_file {
            let file = |source| ClientError::File { path: path.clone(), source };
            let pem = std::fs::read(path).map_err(file)?;
            for certificate in reqwest::Certificate::from_pem_bundle(&pem).map_err(reach)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let http = builder.build().map_err(reach)?;
        Ok(Client { base, token: token.trim().to_owned(), http })
    }
}

impl Client {
    /// A client of a server whose address and token are known.
    pub fn with_token(base: String, token: &str) -> Client {
        Client { base, token: token.trim().to_owned(), http: reqwest::Client::new() }
    }

    /// A request to a path.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    /// Reads a path.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(self.request(Method::GET, path)).await
    }

    /// Posts JSON to a path.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, ClientError> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// Sends a request and reads its answer as JSON.
    pub async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let body = self.text(request).await?;
        serde_json::from_str(&body).map_err(|error| ClientError::Answer(error.to_string()))
    }

    /// Sends a request and reads its answer as text.
    pub async fn text(&self, request: RequestBuilder) -> Result<String, ClientError> {
        let reach = |source| ClientError::Reach { server: self.base.clone(), source };
        let answer = request.send().await.map_err(reach)?;
        let status = answer.status();
        let body = answer.text().await.map_err(reach)?;
        if !status.is_success() {
            let problem: Option<serde_json::Value> = serde_json::from_str(&body).ok();
            let detail = problem.and_then(|problem| problem["detail"].as_str().map(str::to_owned));
            return Err(ClientError::Refused { status, detail: detail.unwrap_or(body) });
        }
        Ok(body)
    }
}

/// Runs a command's future to its end.
pub fn block_on<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}
