//! An entitlement server for the tests, within the process: EAP-AKA with the card's vectors, tokens, the second layer.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use simtide_agent::entitlement::Transport;
use simtide_device::client::http::{HttpRequest, HttpResponse, Method};
use simtide_protocol::aka::{Sqn, Vector, open_auts};
use simtide_protocol::eap::keys::ReauthKeys;
use simtide_protocol::eap::server::{Command, Event, Fresh, Resolution, Session, Settings};
use simtide_protocol::entitlement::{
    Authentication, Document, JSON_CONTENT_TYPE, OTA_APP_DEFAULT, OtaParameters, RELAY_CONTENT_TYPE, Request,
    TokenGrant, XML_CONTENT_TYPE, relay,
};
use simtide_protocol::milenage::Milenage;
use simtide_protocol::second_layer::{
    Acknowledged, Channel, Content, Downlink, Item, ItemId, RootKey, Side, Uplink, UplinkContent, Uplinks,
    Verdict,
};

pub const NAME: &str = "127.0.0.1";

/// What the server knows and has seen.
#[derive(Default)]
pub struct Server {
    /// The card's SQN at the register; the first challenge may be too old for the card.
    pub sqn: u64,
    pub sessions: HashMap<String, (Session, String, [u8; 16])>,
    pub tokens: HashMap<String, Channel>,
    /// What waits, until it was fetched.
    pub items: Vec<Item>,
    pub fetched: Vec<ItemId>,
    /// Each once, in the order in which they came.
    pub uplinks: Vec<UplinkContent>,
    pub seen: HashSet<String>,
    /// Every request: what it was.
    pub requests: Vec<&'static str>,
    /// Uplinks of each POST.
    pub batches: Vec<usize>,
    /// So many requests get through, then none; `None`: all.
    pub lets_through: Option<u32>,
    /// Requests are carried out and their answers lost.
    pub loses_answers: bool,
    /// The last document, and whether it is given once more in place of the next: a message that is repeated.
    pub last: Option<HttpResponse>,
    pub repeats: bool,
    /// One bit of every message of the second layer is turned over.
    pub forges: bool,
    /// Statuses to give before anything else.
    pub statuses: Vec<u16>,
    /// Pseudonyms and identities for fast re-authentication are given out, with a realm or without one.
    pub gives_names: Option<&'static str>,
    /// What they stand for.
    pub names: HashMap<String, Option<ReauthKeys>>,
    /// What each run began with: its first digits.
    pub began: Vec<String>,
}

impl Server {
    pub fn transport(server: &Arc<Mutex<Server>>) -> Transport {
        let server = server.clone();
        Transport::direct(Box::new(move |request| server.lock().unwrap().answer(&request)))
    }

    /// Proofs so far, with the item that each names.
    pub fn proofs(&self) -> Vec<(Option<ItemId>, Vec<u8>)> {
        let proofs = self.uplinks.iter().filter_map(|content| match content {
            UplinkContent::Proof { id, packet, .. } => Some((id.clone(), packet.clone())),
            UplinkContent::Submit { .. } => None,
        });
        proofs.collect()
    }

    pub fn forget_tokens(&mut self) {
        self.tokens.clear();
    }

    pub fn answer(&mut self, request: &HttpRequest) -> Option<HttpResponse> {
        if let Some(left) = &mut self.lets_through {
            *left = left.checked_sub(1)?;
        }
        let response = match self.statuses.pop() {
            Some(status) => status_only(status),
            None => {
                let response = self.served(request);
                match self.last.clone().filter(|_| std::mem::take(&mut self.repeats)) {
                    Some(before) => before,
                    None => {
                        self.last = Some(response.clone());
                        response
                    }
                }
            }
        };
        (!self.loses_answers).then_some(response)
    }

    fn served(&mut self, request: &HttpRequest) -> HttpResponse {
        if request.method == Method::Post && request.content_type == RELAY_CONTENT_TYPE {
            self.requests.push("eap");
            return self.eap(request);
        }
        let parsed = match request.method {
            Method::Get => Request::from_query(&request.query).unwrap(),
            Method::Post => {
                assert_eq!(request.content_type, JSON_CONTENT_TYPE);
                Request::from_json(&request.body).unwrap()
            }
        };
        assert_eq!(parsed.apps, [OTA_APP_DEFAULT]);
        match parsed.authentication {
            Authentication::Eap(identity) => {
                self.requests.push("start");
                self.began.push(identity.as_str()[..identity.as_str().len().min(5)].to_owned());
                let network = Settings { network: "WLAN".into(), result_indication: false };
                let mut session = Session::new(network);
                let text = identity.as_str().to_owned();
                let command = session.handle(Event::Begin(identity));
                let cookie = format!("session-{}", self.requests.len());
                self.go_on(session, text, cookie, command)
            }
            Authentication::Token { token, .. } => {
                self.requests.push(if parsed.ota_data.is_some() { "post" } else { "get" });
                let Some(channel) = self.tokens.remove(&token) else { return status_only(511) };
                self.document(token, channel, parsed.ota_data)
            }
            Authentication::Nothing => status_only(511),
        }
    }

    fn eap(&mut self, request: &HttpRequest) -> HttpResponse {
        let cookie = request.cookie.clone().unwrap();
        let cookie = cookie.strip_prefix("eap=").unwrap().to_owned();
        let Some((mut session, identity, _)) = self.sessions.remove(&cookie) else { return status_only(403) };
        let command = session.handle(Event::Packet(relay::from_body(&request.body).unwrap()));
        self.go_on(session, identity, cookie, command)
    }

    fn go_on(
        &mut self,
        mut session: Session,
        identity: String,
        cookie: String,
        mut command: Command,
    ) -> HttpResponse {
        let functions = Milenage::new(&[0x11; 16], &[0x22; 16]);
        loop {
            match command {
                Command::Draw { resynchronisation, aka_prime, .. } => {
                    if let Some((rand, auts)) = resynchronisation {
                        self.sqn = open_auts(&functions, &rand, &auts).unwrap().seq();
                    }
                    self.sqn += 1;
                    let amf = if aka_prime { [0x80, 0] } else { [0, 0] };
                    let rand = [self.sqn as u8; 16];
                    let vector = Vector::new(&functions, rand, Sqn::from_parts(self.sqn, 7), amf);
                    command = session.handle(Event::Drawn(vector, self.fresh()));
                }
                Command::Send(packet) => {
                    self.sessions.insert(cookie.clone(), (session, identity, [0; 16]));
                    return HttpResponse {
                        status: 200,
                        content_type: format!("{RELAY_CONTENT_TYPE}; charset=utf-8"),
                        set_cookie: vec![format!("eap={cookie}; Path=/; HttpOnly")],
                        retry_after_s: None,
                        body: relay::to_body(&packet),
                    };
                }
                Command::Resolve(identity) => {
                    let imsi = "001010000000001".parse().unwrap();
                    let resolution = match self.names.remove(identity.user()) {
                        Some(Some(keys)) => Resolution::Reauthentication(imsi, Box::new(keys)),
                        Some(None) => Resolution::Subscriber(imsi),
                        None => Resolution::Unknown,
                    };
                    command = session.handle(Event::Resolved(resolution, self.fresh()));
                }
                Command::Succeed(success) => {
                    if let Some((name, keys)) = success.reauth {
                        self.names.insert(name.split('@').next().unwrap().to_owned(), Some(keys));
                    }
                    let root = RootKey::from_emsk(&success.keys.emsk, &identity, NAME);
                    let token = format!("token-{}", self.requests.len());
                    return self.document(token, Channel::new(&root, Side::Server), None);
                }
                Command::Fail(_) => return status_only(403),
            }
        }
    }

    /// What a challenge gives out.
    fn fresh(&mut self) -> Fresh {
        let names = self.gives_names.map(|realm| {
            let n = self.requests.len();
            self.names.insert(format!("2name{n}"), None);
            (format!("2name{n}{realm}"), format!("4name{n}{realm}"))
        });
        let (pseudonym, reauth_id) = names.unzip();
        Fresh { iv: [1; 16], nonce_s: [2; 16], notification_iv: [3; 16], pseudonym, reauth_id }
    }

    fn document(&mut self, token: String, mut channel: Channel, message: Option<String>) -> HttpResponse {
        let mut acknowledged = Vec::new();
        if let Some(message) = message {
            let Ok(payload) = channel.open(Content::Uplinks, &message) else { return status_only(511) };
            let uplinks = Uplinks::from_json(&payload).unwrap();
            self.batches.push(uplinks.uplink.len());
            self.items.retain(|item| !uplinks.fetched.contains(&item.id));
            self.fetched.extend(uplinks.fetched);
            for Uplink { n, content } in uplinks.uplink {
                let is_new = self.seen.insert(format!("{content:?}"));
                acknowledged.push(Acknowledged {
                    n,
                    verdict: if is_new { Verdict::Accepted } else { Verdict::Repeated },
                });
                if is_new {
                    self.uplinks.push(content);
                }
            }
        }
        let downlink = Downlink { items: self.items.iter().take(4).cloned().collect(), acknowledged };
        let says_something = !downlink.items.is_empty() || !downlink.acknowledged.is_empty();
        let mut iv = [0; 12];
        simtide_agent::port::soft::random(&mut iv);
        let data = says_something.then(|| channel.seal(iv, Content::Items, &downlink.to_json()).unwrap());
        let data = data.map(|mut data| {
            if self.forges {
                let last = data.pop().unwrap();
                data.push(if last == 'A' { 'Q' } else { 'A' });
            }
            data
        });
        let parameters = OtaParameters {
            enabled: true,
            data,
            waiting: self.items.len().saturating_sub(4) as u32,
            next_query_s: 3600,
        };
        let document = Document {
            version: 1,
            validity_s: 3600,
            token: Some(TokenGrant { token: token.clone(), validity_s: Some(7200) }),
            apps: vec![parameters.to_application(OTA_APP_DEFAULT)],
        };
        self.tokens.insert(token, channel);
        HttpResponse {
            status: 200,
            content_type: XML_CONTENT_TYPE.into(),
            body: document.to_xml().into_bytes(),
            ..HttpResponse::default()
        }
    }
}

fn status_only(status: u16) -> HttpResponse {
    HttpResponse { status, ..HttpResponse::default() }
}
