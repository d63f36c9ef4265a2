//! What requests are answered with, without HTTP: authentications, tokens, documents.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use simtide_protocol::eap::server::{Command, Event, Failure, Resolution, Session, Settings, Success};
use simtide_protocol::entitlement::{
    AppId, Application, Authentication as Shown, Document, EapIdentity, IdentityKind, Request, TokenGrant,
    VOWIFI_APP,
};
use simtide_protocol::ids::{EpochMs, Imsi};
use simtide_protocol::second_layer::{Channel, RootKey, Side};

use super::config::Entitlement;
use super::delivery;
use super::limits::Limit;
use super::names::{Kept, Name, Names};
use super::sessions::{Authentication, Cookie, Sessions};
use super::source::{DeliverySource, PushAddress, SourceError};
use super::tokens::{Grant, Life, Tokens};
use super::vectors::{Strangers, VectorSource, is_passing};
use crate::clock::Clock;
use crate::registers::{RegisterError, VectorsWanted};

/// Versions of TS.43 that are served: major numbers.
const VERSIONS: std::ops::RangeInclusive<u16> = 1..=12;
/// TS.43, 2.4.1: a status that says "not required".
const NOT_REQUIRED: &str = "2";
/// How long a device waits where nothing says how long.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// An entitlement server without its sockets.
pub struct Service {
    /// Settings.
    pub config: Entitlement,
    /// Campaign time: tokens hold by it.
    pub clock: Clock,
    /// The second interface.
    pub source: Arc<dyn DeliverySource>,
    /// Where vectors come from.
    pub vectors: Arc<dyn VectorSource>,
    /// Authentications under way.
    pub sessions: Sessions,
    /// Tokens given out.
    pub tokens: Tokens,
    /// What was done.
    pub stats: Stats,
    names: Names,
    strangers: Strangers,
    of_subscriber: Limit<Imsi>,
    of_address: Limit<IpAddr>,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Vectors asked for.
    pub vectors: Counter,
    /// Authentications that succeeded, fast ones included.
    pub authenticated: Counter,
    /// Fast re-authentications among them.
    pub fast: Counter,
    /// Requests refused by a limit.
    pub limited: Counter,
    /// Requests refused otherwise.
    pub refused: Counter,
    /// Requests with a token that fits.
    pub with_token: Counter,
    /// Items handed to devices, repeated ones included.
    pub items: Counter,
    /// Uplinks taken in.
    pub uplinks: Counter,
}

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The number.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a request gets.
pub enum Answer {
    /// An EAP packet, with the cookie of its authentication.
    Relay(Cookie, Vec<u8>),
    /// The document.
    Document(Document),
}

/// Why a request gets neither. Each is an HTTP status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 400.
    #[error("{0}")]
    Parameter(String),
    /// 403: the same words for every reason.
    #[error("the identity was not proven")]
    Forbidden,
    /// 406.
    #[error("this version of TS.43 is not served: 1 to 12 are")]
    Version,
    /// 503.
    #[error("too many requests: come again later")]
    Limited(Duration),
    /// 503.
    #[error("the server cannot answer now: come again later")]
    Unavailable,
    /// 511.
    #[error("authenticate with EAP_ID")]
    Token,
}

impl From<SourceError> for Refusal {
    fn from(error: SourceError) -> Refusal {
        tracing::warn!(%error, "the second interface does not answer");
        Refusal::Unavailable
    }
}

impl Refusal {
    /// How long to wait, where that is said.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Refusal::Limited(wait) => Some((*wait).max(Duration::from_secs(1))),
            Refusal::Unavailable => Some(RETRY_AFTER),
            Refusal::Parameter(_) | Refusal::Forbidden | Refusal::Version | Refusal::Token => None,
        }
    }
}

impl Service {
    /// A server that has seen nobody.
    pub fn new(
        config: Entitlement,
        clock: Clock,
        source: Arc<dyn DeliverySource>,
        vectors: Arc<dyn VectorSource>,
    ) -> Service {
        let deadline = Duration::from_secs(config.session_deadline_s);
        Service {
            clock,
            source,
            vectors,
            sessions: Sessions::new(config.sessions_max, config.sessions_per_imsi_max, deadline),
            tokens: Tokens::new(config.tokens_max),
            stats: Stats::default(),
            names: Names::new(config.pseudonyms, config.reauthentications_max),
            strangers: Strangers::default(),
            of_subscriber: Limit::new(config.imsi_burst, config.imsi_interval_ms),
            of_address: Limit::new(config.address_burst, config.address_interval_ms),
            config,
        }
    }

    /// A GET, or a POST with parameters.
    pub async fn ask(&self, request: Request, from: IpAddr, server_name: &str) -> Result<Answer, Refusal> {
        let major = request.entitlement_version.split('.').next().and_then(|major| major.parse().ok());
        if !major.is_some_and(|major| VERSIONS.contains(&major)) {
            return Err(Refusal::Version);
        }
        match request.authentication.clone() {
            Shown::Nothing => Err(Refusal::Token),
            Shown::Token { token, imsi } => {
                let token = zeroize::Zeroizing::new(token);
                self.with_token(&token, imsi.as_deref(), &request).await.map(Answer::Document)
            }
            Shown::Eap(identity) => self.begin(identity, request, from, server_name).await,
        }
    }

    /// A POST with an EAP packet.
    pub async fn relay(&self, cookie: &Cookie, packet: Vec<u8>) -> Result<Answer, Refusal> {
        let authentication = self.sessions.take(cookie, Instant::now()).ok_or(Refusal::Token)?;
        self.go_on(cookie, authentication, Event::Packet(packet)).await
    }

    /// Limits first: neither a place nor a vector is spent on who asks too often.
    async fn begin(
        &self,
        identity: EapIdentity,
        request: Request,
        from: IpAddr,
        server_name: &str,
    ) -> Result<Answer, Refusal> {
        let now = Instant::now();
        if identity.kind == IdentityKind::Unknown {
            return Err(Refusal::Forbidden);
        }
        let cookie = match self.of_address.take(&from, now) {
            Ok(()) => self.sessions.open(identity.user(), now).map_err(|_| Refusal::Limited(RETRY_AFTER)),
            Err(wait) => Err(Refusal::Limited(wait)),
        };
        let cookie = cookie.inspect_err(|_| self.stats.limited.add(1))?;
        let settings = Settings {
            network: self.config.network.clone(),
            result_indication: self.config.result_indication,
        };
        let authentication = Authentication {
            session: Session::new(settings),
            request,
            identity: identity.clone(),
            server_name: server_name.to_owned(),
            drawn: 0,
            card: None,
        };
        self.go_on(&cookie, Box::new(authentication), Event::Begin(identity)).await
    }

    /// Carries out what the EAP session wants until it sends or ends. A request that is dropped half-way leaves its place
    /// to the deadline.
    async fn go_on(
        &self,
        cookie: &Cookie,
        mut authentication: Box<Authentication>,
        event: Event,
    ) -> Result<Answer, Refusal> {
        let mut event = event;
        loop {
            event = match authentication.session.handle(event) {
                Command::Send(packet) => {
                    self.sessions.put(cookie, authentication);
                    return Ok(Answer::Relay(*cookie, packet));
                }
                Command::Succeed(success) => {
                    self.sessions.close(cookie);
                    return self.succeeded(*authentication, *success).await.map(Answer::Document);
                }
                Command::Fail(failure) => {
                    self.sessions.close(cookie);
                    self.stats.refused.add(1);
                    return Err(self.failed(failure));
                }
                Command::Resolve(identity) => {
                    let resolved = self.resolve(&mut authentication, &identity).await;
                    resolved.inspect_err(|_| self.sessions.close(cookie))?
                }
                Command::Draw { imsi, resynchronisation, aka_prime } => {
                    let wanted = VectorsWanted { count: 1, resynchronisation, aka_prime };
                    let drawn = self.draw(&mut authentication, imsi, wanted).await;
                    drawn.inspect_err(|_| self.sessions.close(cookie))?
                }
            };
        }
    }

    /// What a name that this server gave out stands for. Only the card that had proven itself goes on from there: where the
    /// subscriber is on another one by now, that one authenticates in full.
    async fn resolve(
        &self,
        authentication: &mut Authentication,
        identity: &EapIdentity,
    ) -> Result<Event, Refusal> {
        let resolution = match self.names.resolve(identity, self.clock.now()) {
            Name::Unknown => Resolution::Unknown,
            Name::Pseudonym(imsi) => Resolution::Subscriber(imsi),
            Name::Reauthentication(kept) => {
                let Kept { imsi, card, keys, .. } = *kept;
                authentication.card = self.source.subscriber(imsi).await?;
                if authentication.card == card {
                    Resolution::Reauthentication(imsi, Box::new(keys))
                } else {
                    Resolution::Unknown
                }
            }
        };
        Ok(Event::Resolved(resolution, self.names.fresh(identity, None)))
    }

    /// A subscriber that does not exist gets a challenge too, which no card answers.
    async fn draw(
        &self,
        authentication: &mut Authentication,
        imsi: Imsi,
        wanted: VectorsWanted,
    ) -> Result<Event, Refusal> {
        // Whatever name the session began with: the limit holds for whom the vector is.
        let waits = self.of_subscriber.take(&imsi, Instant::now());
        waits.map_err(Refusal::Limited).inspect_err(|_| self.stats.limited.add(1))?;
        authentication.card = self.source.subscriber(imsi).await?;
        self.stats.vectors.add(1);
        authentication.drawn += 1;
        let fresh = self.names.fresh(&authentication.identity, Some(imsi));
        match self.vectors.vectors(imsi, wanted).await {
            Ok(mut vectors) if !vectors.is_empty() => {
                let vector = vectors.swap_remove(0);
                self.strangers.saw(&vector);
                Ok(Event::Drawn(vector, fresh))
            }
            Ok(_) | Err(RegisterError::NotFound) if wanted.resynchronisation.is_none() => {
                Ok(Event::Drawn(self.strangers.vector(wanted.aka_prime), fresh))
            }
            Ok(_) | Err(RegisterError::NotFound) => Ok(Event::NotDrawn),
            Err(error) if is_passing(&error) => {
                tracing::warn!(%error, "no vector for an authentication");
                Err(Refusal::Unavailable)
            }
            Err(error) => {
                tracing::info!(%error, "a register refuses a vector");
                Ok(match wanted.resynchronisation {
                    Some(_) => Event::NotDrawn,
                    None => Event::Drawn(self.strangers.vector(wanted.aka_prime), fresh),
                })
            }
        }
    }

    fn failed(&self, failure: Failure) -> Refusal {
        tracing::debug!(%failure, "an authentication has failed");
        if failure.is_malformed() { Refusal::Parameter(failure.to_string()) } else { Refusal::Forbidden }
    }

    /// The card has proven itself: keys for the second layer, a token, and the document that was asked for.
    async fn succeeded(&self, authentication: Authentication, success: Success) -> Result<Document, Refusal> {
        let Authentication { request, identity, server_name, drawn, card, .. } = authentication;
        let Success { imsi, keys, reauth, was_fast, .. } = success;
        let root = RootKey::from_emsk(&keys.emsk, identity.as_str(), &server_name);
        drop(keys);
        let channel = Channel::new(&root, Side::Server);
        drop(root);
        let now = self.clock.now();
        let expires = now.plus_s(i64::from(self.config.token_validity_s));
        let life = Life { created: now, expires };
        (0..drawn).for_each(|_| self.of_subscriber.give_back(&imsi));
        self.stats.authenticated.add(1);
        self.stats.fast.add(u64::from(was_fast));
        // What has proven itself is the card of the challenge; the identity may have moved since.
        if self.source.subscriber(imsi).await? != card {
            return Err(Refusal::Token);
        }
        if let Some((name, keys)) = reauth {
            self.names.keep(name, Kept { imsi, card, keys, life });
        }
        if !was_fast {
            self.source.authenticated(imsi).await?;
        }
        let granted = self.tokens.grant(&request, imsi, card, channel, life);
        let (token, grant) = granted.map_err(|error| {
            tracing::error!(%error, "no token can be given out");
            Refusal::Unavailable
        })?;
        let token = TokenGrant { token: token.to_string(), validity_s: Some(self.config.token_validity_s) };
        self.document(&request, &grant, Some(token), now).await
    }

    async fn with_token(
        &self,
        token: &str,
        imsi: Option<&str>,
        request: &Request,
    ) -> Result<Document, Refusal> {
        let now = self.clock.now();
        let grant = self.tokens.find(token, imsi, request, now);
        let grant = grant.ok_or(Refusal::Token).inspect_err(|_| self.stats.refused.add(1))?;
        // A subscriber that is on another card by now proves that other card first.
        if self.source.subscriber(grant.imsi).await? != grant.card {
            self.tokens.end(token, &grant);
            return Err(Refusal::Token);
        }
        self.stats.with_token.add(1);
        // The token goes on: a document without one leaves the device with what it has.
        self.document(request, &grant, None, now).await
    }

    async fn document(
        &self,
        request: &Request,
        grant: &Grant,
        token: Option<TokenGrant>,
        now: EpochMs,
    ) -> Result<Document, Refusal> {
        if let (Some(card), Some(action)) = (grant.card, request.notif_action) {
            let token = request.notif_token.clone().filter(|_| action > 0);
            let address = token.map(|token| PushAddress { token, action });
            self.source.push_address(card, address).await?;
        }
        let mut apps = Vec::with_capacity(request.apps.len());
        for app in &request.apps {
            apps.push(if *app == self.config.ota_app {
                delivery::answer(self, grant, request.ota_data.as_deref(), now).await?.to_application(*app)
            } else {
                self.other(*app)
            });
        }
        Ok(Document { version: 1, validity_s: self.config.document_validity_s, token, apps })
    }

    /// TS.43, 3.2: voice over Wi-Fi in its shortest form; everything else is not served.
    fn other(&self, app: AppId) -> Application {
        let is_served = app == VOWIFI_APP && self.config.vowifi;
        let mut parameters = vec![("EntitlementStatus".to_owned(), u8::from(is_served).to_string())];
        if app == VOWIFI_APP {
            for name in ["AddrStatus", "TC_Status", "ProvStatus"] {
                parameters.push((name.to_owned(), NOT_REQUIRED.to_owned()));
            }
        }
        Application { id: app, parameters }
    }
}
