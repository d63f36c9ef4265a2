//! What the client module has agreed on with the server for one card: a run of EAP-AKA, then a token and the keys of the
//! second layer that live as long as it.

use simtide_protocol::eap::peer::{CardAnswer, Command, Event, Peer};
use simtide_protocol::entitlement::identity::EapIdentity;
use simtide_protocol::entitlement::{
    ACCEPT, Authentication as Proof, JSON_CONTENT_TYPE, RELAY_CONTENT_TYPE, Request, TokenGrant, relay,
};
use simtide_protocol::ids::{EpochMs, Imsi};
use simtide_protocol::second_layer::{Channel, RootKey, Side};
use zeroize::{Zeroize, Zeroizing};

use super::http::{Cookies, HttpRequest, HttpResponse, Method};
use super::names::Names;
use super::settings::ClientSettings;
use crate::authenticate::Authentication;

/// How long a token without a validity is used, in seconds: a day.
const TOKEN_VALIDITY_S: u32 = 86_400;
/// Longest validity that is believed, in seconds: a year.
const TOKEN_VALIDITY_S_MAX: u32 = 366 * 86_400;

/// A run of EAP-AKA under way.
pub(super) struct EapRun {
    peer: Peer,
    cookies: Cookies,
    identity: String,
    permanent: EapIdentity,
    /// The run began with a name that the server had given out.
    pub by_name: bool,
    /// What is left of the names that it began with.
    left: Names,
}

/// What goes on in a run.
pub(super) enum EapStep {
    /// The next request.
    Post(HttpRequest),
    /// The card has to answer.
    Ask {
        rand: [u8; 16],
        autn: [u8; 16],
    },
    Failed(String),
}

/// A token and the keys of the second layer. Dropped together.
pub(super) struct Access {
    token: Zeroizing<String>,
    imsi: Imsi,
    until: EpochMs,
    pub channel: Channel,
}

impl EapRun {
    /// A new run for this subscriber, and its first request. It begins with the best of `names` that the settings allow;
    /// they are used up by it.
    pub fn start(
        settings: &ClientSettings,
        imsi: Imsi,
        mnc_digits: u8,
        mut names: Names,
        iv: [u8; 16],
        id: u32,
    ) -> (EapRun, HttpRequest) {
        let permanent = EapIdentity::root(&imsi, mnc_digits, settings.aka_prime);
        let identities = names.identities(permanent.clone());
        let by_name = identities.reauth.is_some() || identities.pseudonym.is_some();
        // A protected success costs one more round, and only where the server offers it.
        let peer = Peer::new(identities, true, true, iv, true);
        let identity = peer.identity().clone();
        let text = identity.as_str().to_owned();
        let run =
            EapRun { peer, cookies: Cookies::default(), identity: text, permanent, by_name, left: names };
        let query = settings.request(Proof::Eap(identity)).to_query();
        (run, request(id, Method::Get, query, "", Vec::new()))
    }

    /// The server's packet has come.
    pub fn packet(&mut self, id: u32, response: &HttpResponse) -> EapStep {
        self.cookies.take(&response.set_cookie);
        match relay::from_body(&response.body) {
            Ok(packet) => self.event(id, Event::Packet(packet)),
            Err(error) => EapStep::Failed(error.to_string()),
        }
    }

    /// The card has answered.
    pub fn card(&mut self, id: u32, authentication: Authentication) -> EapStep {
        let answer = match authentication {
            Authentication::Success(answer) => CardAnswer::Success {
                res: answer.res.clone(),
                ck: Zeroizing::new(answer.ck),
                ik: Zeroizing::new(answer.ik),
            },
            Authentication::SynchronisationFailure { auts } => CardAnswer::SynchronisationFailure { auts },
            Authentication::Refused(_) => CardAnswer::Refused,
        };
        self.event(id, Event::Card(answer))
    }

    fn event(&mut self, id: u32, event: Event) -> EapStep {
        match self.peer.handle(event) {
            Command::Authenticate { rand, autn } => EapStep::Ask { rand, autn },
            // The server learns that it is over; what it answers is an error, which ends the run here too.
            Command::Send(packet) | Command::GiveUp(packet, _) => {
                let mut post =
                    request(id, Method::Post, String::new(), RELAY_CONTENT_TYPE, relay::to_body(&packet));
                post.cookie = self.cookies.header();
                EapStep::Post(post)
            }
            Command::Fail(failure) => EapStep::Failed(failure.to_string()),
        }
    }

    /// The server has answered with a document: the keys, where the run came that far, and the names for the next run.
    pub fn finish(
        self,
        settings: &ClientSettings,
        imsi: Imsi,
        grant: Option<&TokenGrant>,
        now: EpochMs,
    ) -> Option<(Access, Names)> {
        let outcome = self.peer.finish()?;
        let grant = grant?;
        let root = RootKey::from_emsk(&outcome.keys.emsk, &self.identity, &settings.server_name);
        let validity_s = grant.validity_s.unwrap_or(TOKEN_VALIDITY_S).min(TOKEN_VALIDITY_S_MAX);
        let names = self.left.after(settings, &self.permanent, outcome);
        let access = Access {
            token: Zeroizing::new(grant.token.clone()),
            imsi,
            until: now.plus_s(i64::from(validity_s)),
            channel: Channel::new(&root, Side::Device),
        };
        Some((access, names))
    }
}

impl Access {
    /// Whether it can still be used for this subscriber.
    pub fn is_valid(&self, now: EpochMs, imsi: Imsi) -> bool {
        self.imsi == imsi && now < self.until
    }

    /// A new validity, where the server gives the token again.
    pub fn renew(&mut self, grant: &TokenGrant, now: EpochMs) {
        let validity_s = grant.validity_s.unwrap_or(TOKEN_VALIDITY_S).min(TOKEN_VALIDITY_S_MAX);
        self.until = now.plus_s(i64::from(validity_s));
        self.token.zeroize();
        grant.token.clone_into(&mut self.token);
    }

    /// A query, with a message of the second layer where there is one.
    pub fn query(&self, settings: &ClientSettings, id: u32, message: Option<String>) -> HttpRequest {
        let proof = Proof::Token { token: self.token.to_string(), imsi: Some(self.imsi.to_string()) };
        let mut parameters = settings.request(proof);
        match message {
            None => request(id, Method::Get, parameters.to_query(), "", Vec::new()),
            Some(message) => {
                parameters.ota_data = Some(message);
                request(id, Method::Post, String::new(), JSON_CONTENT_TYPE, parameters.to_json())
            }
        }
    }
}

impl ClientSettings {
    fn request(&self, authentication: Proof) -> Request {
        Request {
            authentication,
            terminal_id: self.terminal_id.clone(),
            entitlement_version: "8.0".to_owned(),
            terminal_vendor: self.terminal_vendor.clone(),
            terminal_model: self.terminal_model.clone(),
            terminal_sw_version: env!("CARGO_PKG_VERSION").to_owned(),
            apps: vec![self.app],
            vers: 0,
            app_name: None,
            app_version: None,
            notif_token: self.push.as_ref().map(|push| push.token.clone()),
            notif_action: self.push.as_ref().map(|push| push.action),
            gid1: None,
            gid2: None,
            ota_data: None,
        }
    }
}

fn request(id: u32, method: Method, query: String, content_type: &'static str, body: Vec<u8>) -> HttpRequest {
    HttpRequest { id, method, query, accept: ACCEPT, content_type, cookie: None, body }
}
