//! A server on loopback, a register in memory, and a device with a card whose client follows the protocol by the book.

use std::sync::Arc;

use simtide_protocol::aka::{self, SqnArray};
use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
use simtide_protocol::eap::peer::{CardAnswer, Command, Event, Identities, Peer};
use simtide_protocol::entitlement::{
    ACCEPT, AppId, Authentication, Document, EapIdentity, OTA_APP_DEFAULT, OtaParameters, RELAY_CONTENT_TYPE,
    Request, relay,
};
use simtide_protocol::ids::{CardId, Iccid, Imsi};
use simtide_protocol::milenage::Milenage;
use simtide_protocol::second_layer::{Channel, Content, Downlink, RootKey, Side, Uplinks};
use simtide_server::clock::Clock;
use simtide_server::entitlement::config::Entitlement;
use simtide_server::entitlement::source::{MemorySource, Waiting};
use simtide_server::entitlement::vectors::OneRegister;
use simtide_server::entitlement::{Server, Service};
use simtide_server::registers::memory::MemoryRegister;
use simtide_server::registers::{Register, Subscriber};
use zeroize::Zeroizing;

/// K and OPc of every card here.
pub const K: [u8; 16] = [0x11; 16];
pub const OPC: [u8; 16] = [0x22; 16];

pub struct World {
    pub server: Server,
    pub source: Arc<MemorySource>,
    pub register: MemoryRegister,
    pub client: reqwest::Client,
}

/// Limits wide enough for tests that do not test them.
pub fn config() -> Entitlement {
    Entitlement {
        listen: "127.0.0.1:0".to_owned(),
        address_burst: 0,
        imsi_burst: 50,
        originating_address: "447000".to_owned(),
        ..Entitlement::default()
    }
}

pub async fn world(config: Entitlement) -> World {
    with_clock(config, Clock::REAL).await
}

pub async fn with_clock(config: Entitlement, clock: Clock) -> World {
    let register = MemoryRegister::new("register", "00101", 0);
    let source = Arc::new(MemorySource::default());
    let vectors = Arc::new(OneRegister(Arc::new(register.clone())));
    let service = Service::new(config, clock, source.clone(), vectors);
    let server = Server::start(service).await.unwrap();
    World { server, source, register, client: client() }
}

impl World {
    /// The server ends, and a new process takes its place.
    pub async fn restart(&mut self, config: Entitlement) {
        self.server.stop();
        let vectors = self.server.service.vectors.clone();
        let service = Service::new(config, Clock::REAL, self.source.clone(), vectors);
        self.server = Server::start(service).await.unwrap();
    }
}

pub fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

pub fn card(n: u32) -> CardId {
    Iccid::with_check_digit(&format!("894470000000{n:06}")).unwrap().into()
}

pub fn imsi(n: u32) -> Imsi {
    format!("0010100000{n:05}").parse().unwrap()
}

pub fn item(id: &str, byte: u8, length: usize) -> Waiting {
    Waiting {
        id: id.parse().unwrap(),
        packet: vec![byte; length],
        originating_address: Some("1234".to_owned()),
        proof_wanted: true,
    }
}

/// What a step of the client came to.
#[derive(Debug)]
pub enum Reply {
    Relay { cookie: String, packet: Vec<u8> },
    Document(Document),
    Status(u16, Option<u64>),
}

impl Reply {
    pub fn status(&self) -> u16 {
        match self {
            Reply::Relay { .. } | Reply::Document(_) => 200,
            Reply::Status(status, _) => *status,
        }
    }
}

pub struct Device {
    pub url: String,
    pub imsi: Imsi,
    pub aka_prime: bool,
    pub array: SqnArray,
    pub milenage: Milenage,
    pub request: Request,
    pub token: Option<String>,
    pub channel: Option<Channel>,
    pub reauth: Option<(EapIdentity, simtide_protocol::eap::keys::ReauthKeys)>,
    pub pseudonym: Option<EapIdentity>,
}

impl World {
    /// A subscriber at the register with a card known to the platform, and a device around it.
    pub async fn device(&self, n: u32) -> Device {
        self.source.put_subscriber(imsi(n), card(n));
        let subscriber = Subscriber {
            card: card(n),
            imsi: imsi(n),
            algorithm: AuthenticationAlgorithm::Milenage,
            k: Secret::new(&K).unwrap(),
            opc: Secret::new(&OPC).unwrap(),
            msisdn: None,
        };
        self.register.provision(subscriber).await.unwrap();
        self.stranger(n)
    }

    /// The device alone: the register knows nothing of its card.
    pub fn stranger(&self, n: u32) -> Device {
        let request = Request {
            authentication: Authentication::Nothing,
            terminal_id: format!("35000000000{n:04}"),
            entitlement_version: "8.0".into(),
            terminal_vendor: "SIMT".into(),
            terminal_model: "test".into(),
            terminal_sw_version: "1".into(),
            apps: vec![OTA_APP_DEFAULT],
            vers: 0,
            app_name: None,
            app_version: None,
            notif_token: None,
            notif_action: None,
            gid1: None,
            gid2: None,
            ota_data: None,
        };
        Device {
            url: format!("http://{}/", self.server.address()),
            imsi: imsi(n),
            aka_prime: false,
            array: SqnArray::default(),
            milenage: Milenage::new(&K, &OPC),
            request,
            token: None,
            channel: None,
            reauth: None,
            pseudonym: None,
        }
    }
}

impl Device {
    pub fn identity(&self) -> EapIdentity {
        EapIdentity::root(&self.imsi, 2, self.aka_prime)
    }

    /// The first GET with an identity.
    pub async fn begin(&self, client: &reqwest::Client, identity: &EapIdentity) -> Reply {
        let request =
            Request { authentication: Authentication::Eap(identity.clone()), ..self.request.clone() };
        let url = format!("{}?{}", self.url, request.to_query());
        read(client.get(url).header("accept", ACCEPT).send().await.unwrap()).await
    }

    pub async fn relay(&self, client: &reqwest::Client, cookie: &str, packet: &[u8]) -> Reply {
        let post = client.post(&self.url).header("content-type", RELAY_CONTENT_TYPE).header("cookie", cookie);
        read(post.header("accept", ACCEPT).body(relay::to_body(packet)).send().await.unwrap()).await
    }

    /// A whole authentication, from the best identity that is known.
    pub async fn authenticate(&mut self, client: &reqwest::Client, fast: bool) -> Result<Document, u16> {
        let identities = Identities {
            permanent: self.identity(),
            pseudonym: self.pseudonym.take(),
            reauth: self.reauth.take(),
        };
        let mut peer = Peer::new(identities, fast, true, [7; 16], true);
        let eap_id = peer.identity().clone();
        let mut reply = self.begin(client, &eap_id).await;
        loop {
            let (cookie, packet) = match reply {
                Reply::Relay { cookie, packet } => (cookie, packet),
                Reply::Status(status, _) => return Err(status),
                Reply::Document(document) => {
                    let outcome = peer.finish().expect("a document without authentication");
                    let host = "127.0.0.1";
                    let root = RootKey::from_emsk(&outcome.keys.emsk, eap_id.as_str(), host);
                    self.channel = Some(Channel::new(&root, Side::Device));
                    self.token = document.token.as_ref().map(|token| token.token.clone());
                    let realm = self.identity().realm().to_owned();
                    let with_realm = |user| EapIdentity::parse(&format!("{user}@{realm}")).unwrap();
                    self.pseudonym = outcome.pseudonym.map(with_realm);
                    self.reauth =
                        outcome.reauth.map(|(name, keys)| (EapIdentity::parse(&name).unwrap(), keys));
                    return Ok(document);
                }
            };
            let response = self.play(&mut peer, packet);
            reply = self.relay(client, &cookie, &response).await;
        }
    }

    pub fn play(&mut self, peer: &mut Peer, packet: Vec<u8>) -> Vec<u8> {
        let mut command = peer.handle(Event::Packet(packet));
        if let Command::Authenticate { rand, autn } = command {
            let answer = match aka::authenticate(&self.milenage, &mut self.array, &rand, &autn) {
                aka::Outcome::Success(found) => CardAnswer::Success {
                    res: found.res.to_vec(),
                    ck: Zeroizing::new(found.ck),
                    ik: Zeroizing::new(found.ik),
                },
                aka::Outcome::MacFailure => CardAnswer::Refused,
                aka::Outcome::SynchronisationFailure { auts } => CardAnswer::SynchronisationFailure { auts },
            };
            command = peer.handle(Event::Card(answer));
        }
        match command {
            Command::Send(packet) | Command::GiveUp(packet, _) => packet,
            Command::Authenticate { .. } | Command::Fail(_) => panic!("the peer sends nothing"),
        }
    }

    /// A request with the token.
    pub fn with_token(&self) -> Request {
        let token = self.token.clone().unwrap_or_default();
        let imsi = Some(self.imsi.to_string());
        Request { authentication: Authentication::Token { token, imsi }, ..self.request.clone() }
    }

    pub async fn post(&self, client: &reqwest::Client, request: &Request) -> Reply {
        let post = client.post(&self.url).header("content-type", "application/json");
        read(post.body(request.to_json()).send().await.unwrap()).await
    }

    /// Sends uplinks and opens what comes back.
    pub async fn exchange(&mut self, client: &reqwest::Client, uplinks: &Uplinks) -> Result<Downlink, u16> {
        let channel = self.channel.as_mut().unwrap();
        let message = channel.seal([9; 12], Content::Uplinks, &uplinks.to_json()).unwrap();
        let request = Request { ota_data: Some(message), ..self.with_token() };
        match self.post(client, &request).await {
            Reply::Document(document) => Ok(self.open(&document).expect("a sealed answer")),
            reply => Err(reply.status()),
        }
    }

    /// What the delivery application brought.
    pub fn open(&mut self, document: &Document) -> Option<Downlink> {
        let ota = ota(document, OTA_APP_DEFAULT);
        let payload = self.channel.as_mut().unwrap().open(Content::Items, &ota.data?).unwrap();
        Some(Downlink::from_json(&payload).unwrap())
    }
}

pub fn ota(document: &Document, app: AppId) -> OtaParameters {
    OtaParameters::from_application(document.app(app).unwrap()).unwrap()
}

pub async fn read(response: reqwest::Response) -> Reply {
    let status = response.status().as_u16();
    let header = |name: &str| {
        response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let (kind, cookie, retry) = (header("content-type"), header("set-cookie"), header("retry-after"));
    let body = response.bytes().await.unwrap();
    match status {
        200 if kind == RELAY_CONTENT_TYPE => {
            Reply::Relay { cookie, packet: relay::from_body(&body).unwrap() }
        }
        200 => Reply::Document(Document::from_bytes(&body).unwrap()),
        _ => Reply::Status(status, retry.parse().ok()),
    }
}
