//! What carries the client module's requests.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use simtide_device::client::Event;
use simtide_device::client::http::{HttpRequest, HttpResponse, Method, RESPONSE_BODY_BYTES_MAX};

use super::line::LineClient;

/// How long the making of a connection may take, in seconds.
pub const CONNECT_TIMEOUT_S: u64 = 15;
/// How long a request may take in all, in seconds.
pub const REQUEST_TIMEOUT_S: u64 = 60;
/// How long an idle connection is kept, in seconds: devices ask seldom.
const IDLE_S: u64 = 20;

/// A way to the entitlement server. Cheap to clone; a fleet shares one.
#[derive(Clone)]
pub struct Transport(Arc<Way>);

enum Way {
    Http { http: reqwest::Client, url: reqwest::Url },
    Line(LineClient),
    Direct(Answerer),
}

/// A server within the process: the answer to a request, or none.
pub type Answerer = Box<dyn Fn(HttpRequest) -> Option<HttpResponse> + Send + Sync>;

/// Why there is no way.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The URL.
    #[error("`{0}` is no address of an entitlement server: use https://HOST[:PORT][/PATH]")]
    Url(String),
    /// HTTP without TLS to somewhere else.
    #[error("`{0}` has no TLS: http is for loopback only, use https")]
    Plain(String),
    /// A certificate file.
    #[error("the certificates in {path} cannot be used: {reason}")]
    Certificates {
        /// Which file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The client cannot be made.
    #[error("TLS cannot be set up: {0}")]
    Client(#[from] reqwest::Error),
}

/// The server's name as it goes into the keys of the second layer, and the addresses that a card would open a channel to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPlace {
    /// Host of the URL, in lower case, without port.
    pub name: String,
    /// Where it is, as far as that is known here.
    pub addresses: Vec<SocketAddr>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match *self.0 {
            Way::Http { .. } => "Transport(HTTP)",
            Way::Line(_) => "Transport(line)",
            Way::Direct(_) => "Transport(direct)",
        })
    }
}

impl ServerPlace {
    /// Of an entitlement server's URL. Names are looked up; without a network there are no addresses.
    pub fn of(url: &str) -> Result<Self, TransportError> {
        let url = parse(url)?;
        let name = url.host_str().unwrap_or_default().to_ascii_lowercase();
        let port = url.port_or_known_default().unwrap_or(443);
        let host = name.trim_start_matches('[').trim_end_matches(']');
        let addresses = (host, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
        Ok(Self { name, addresses })
    }
}

impl Transport {
    /// HTTPS to this URL, or HTTP on loopback. Certificates are those of the system, or the ones in `ca_file` (PEM) alone.
    pub fn http(url: &str, ca_file: Option<&std::path::Path>) -> Result<Self, TransportError> {
        let url = parse(url)?;
        let mut builder = reqwest::Client::builder()
            // A token is for this server and nobody that it names.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_secs(CONNECT_TIMEOUT_S))
            .timeout(Duration::from_secs(REQUEST_TIMEOUT_S))
            .pool_idle_timeout(Duration::from_secs(IDLE_S))
            .user_agent(concat!("simtide/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = ca_file {
            let unusable =
                |reason: String| TransportError::Certificates { path: path.display().to_string(), reason };
            let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
            let certificates =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unusable(error.to_string()))?;
            if certificates.is_empty() {
                return Err(unusable("it holds none".to_owned()));
            }
            builder = builder.tls_certs_only(certificates);
        }
        Ok(Self(Arc::new(Way::Http { http: builder.build()?, url })))
    }

    /// A line to a machine that has a network.
    pub fn line(line: LineClient) -> Self {
        Self(Arc::new(Way::Line(line)))
    }

    /// To a server within the process, without any I/O: the answer is told before [`Self::send`] returns.
    pub fn direct(answer: Answerer) -> Self {
        Self(Arc::new(Way::Direct(answer)))
    }

    /// Sends a request from a task of its own; `tell` gets the answer, or that there is none. Within a runtime.
    pub fn send(&self, request: HttpRequest, tell: impl Fn(Event) + Send + Sync + 'static) {
        let id = request.id;
        let event = move |response| match response {
            Some(response) => Event::Response { id, response },
            None => Event::Failed { id },
        };
        if let Way::Direct(answer) = &*self.0 {
            return tell(event(answer(request)));
        }
        let this = self.clone();
        tokio::spawn(async move { tell(event(this.exchange(request).await)) });
    }

    /// One request and its answer.
    pub async fn exchange(&self, request: HttpRequest) -> Option<HttpResponse> {
        match &*self.0 {
            Way::Http { http, url } => match over_http(http, url, request).await {
                Ok(response) => Some(response),
                Err(error) => {
                    // The URL of a request may hold a token.
                    tracing::info!(error = %error.without_url(), "the entitlement server does not answer");
                    None
                }
            },
            Way::Line(line) => line.exchange(request).await,
            Way::Direct(answer) => answer(request),
        }
    }
}

fn parse(text: &str) -> Result<reqwest::Url, TransportError> {
    let bad = || TransportError::Url(text.to_owned());
    let url: reqwest::Url = text.parse().map_err(|_| bad())?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(bad)?;
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
        return Err(bad());
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(host) => {}
        "http" => return Err(TransportError::Plain(text.to_owned())),
        _ => return Err(bad()),
    }
    Ok(url)
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    address.parse::<std::net::IpAddr>().map_or(host == "localhost", |address| address.is_loopback())
}

async fn over_http(
    http: &reqwest::Client,
    url: &reqwest::Url,
    request: HttpRequest,
) -> Result<HttpResponse, reqwest::Error> {
    let mut url = url.clone();
    if !request.query.is_empty() {
        url.set_query(Some(&request.query));
    }
    let mut builder = match request.method {
        Method::Get => http.get(url),
        Method::Post => http.post(url).body(request.body),
    };
    builder = builder.header("Accept", request.accept);
    if !request.content_type.is_empty() {
        builder = builder.header("Content-Type", request.content_type);
    }
    if let Some(cookie) = request.cookie {
        builder = builder.header("Cookie", cookie);
    }
    let mut answer = builder.send().await?;
    let texts = |name: &str| -> Vec<String> {
        let values = answer.headers().get_all(name).iter();
        values.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect()
    };
    let mut response = HttpResponse {
        status: answer.status().as_u16(),
        content_type: texts("Content-Type").pop().unwrap_or_default(),
        set_cookie: texts("Set-Cookie"),
        retry_after_s: texts("Retry-After").pop().and_then(|seconds| seconds.trim().parse().ok()),
        body: Vec::new(),
    };
    while let Some(piece) = answer.chunk().await? {
        if response.body.len() + piece.len() > RESPONSE_BODY_BYTES_MAX {
            // No document is that long: what it is will not be understood, and that is told.
            break;
        }
        response.body.extend_from_slice(&piece);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers() {
        for good in [
            "https://aes.example",
            "https://aes.example:8443/entitlement",
            "http://127.0.0.1:80/",
            "http://[::1]:1",
        ] {
            assert!(Transport::http(good, None).is_ok(), "{good}");
        }
        for bad in [
            "",
            "aes.example",
            "ftp://aes.example",
            "https://",
            "https://a@aes.example",
            "https://aes.example?x=1",
        ] {
            assert!(matches!(Transport::http(bad, None), Err(TransportError::Url(_))), "{bad}");
        }
        for plain in ["http://aes.example", "http://10.0.0.1:80"] {
            assert!(matches!(Transport::http(plain, None), Err(TransportError::Plain(_))), "{plain}");
        }
        let place = ServerPlace::of("http://127.0.0.1:8099/x").unwrap();
        assert_eq!(
            place,
            ServerPlace { name: "127.0.0.1".into(), addresses: vec!["127.0.0.1:8099".parse().unwrap()] }
        );
    }
}
