//! The server's session (RFC 4187, 4 and 6; RFC 9048, 3).
//!
//! | state | event | next state | command |
//! |---|---|---|---|
//! | idle | `Begin`, permanent identity | drawing | `Draw` |
//! | idle | `Begin`, pseudonym or re-authentication identity | resolving | `Resolve` |
//! | resolving | `Resolved`: subscriber | drawing | `Draw` |
//! | resolving | `Resolved`: keys of a re-authentication | re-authenticating | `Send` Reauthentication |
//! | resolving | `Resolved`: unknown | asking | `Send` Identity, at most [`IDENTITY_ROUNDS_MAX`] in all |
//! | asking | Identity response | as after `Begin` | as after `Begin` |
//! | drawing | `Drawn` | challenged | `Send` Challenge |
//! | drawing | `NotDrawn` | over | `Fail` |
//! | challenged | Challenge response, MAC and RES right | over, or notified | `Succeed`, or `Send` Notification |
//! | challenged | Synchronization-Failure | drawing, at most [`RESYNCHRONISATIONS_MAX`] times | `Draw` with AUTS |
//! | re-authenticating | Reauthentication response, MAC and counter right | over, or notified | `Succeed`, or `Send` |
//! | re-authenticating | counter too small | drawing | `Draw`: full authentication |
//! | notified | Notification response, MAC right | over | `Succeed` |
//! | any | Authentication-Reject, Client-Error, anything else | over | `Fail` |
//! | over | any | over | `Fail` |
//!
//! There is no deadline here: who carries the packets forgets a session that is silent.

use sha1::{Digest, Sha1};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::Method;
use super::encrypted;
use super::keys::{ReauthKeys, SessionKeys, sign, verify};
use super::packet::{Attribute, Code, MAC_BYTES, Packet, PacketError, Subtype};
use crate::aka::Vector;
use crate::entitlement::identity::{EapIdentity, IdentityKind};
use crate::ids::Imsi;

/// RFC 4187, 4.1.5: identity requests of one session, ANY, then FULLAUTH, then PERMANENT.
pub const IDENTITY_ROUNDS_MAX: u8 = 3;
/// Resynchronisations of one session: clients come back two or three times.
pub const RESYNCHRONISATIONS_MAX: u8 = 2;
/// RFC 4187, 10.19, 32768: success.
const NOTIFICATION_SUCCESS: u16 = 0x8000;
/// RFC 9048, 3.3: the only key derivation function.
const KDF_DEFAULT: u16 = 1;

/// What sessions of a server have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// AT_KDF_INPUT: the name of the access network, both ends of AKA' bind their keys to it.
    pub network: String,
    /// Offer AT_RESULT_IND: peers that take it get a protected success notification.
    pub result_indication: bool,
}

/// What a session is told.
pub enum Event {
    /// The identity that the session begins with.
    Begin(EapIdentity),
    /// What an identity that the server had given out stands for.
    Resolved(Resolution, Fresh),
    /// A vector for the last `Draw`.
    Drawn(Vector, Fresh),
    /// There is none.
    NotDrawn,
    /// The peer's packet.
    Packet(Vec<u8>),
}

/// What an identity stands for.
pub enum Resolution {
    /// A pseudonym of this subscriber.
    Subscriber(Imsi),
    /// The keys of an earlier run of this subscriber.
    Reauthentication(Imsi, Box<ReauthKeys>),
    /// The server does not know it (any more).
    Unknown,
}

/// Fresh random bytes and names, made by the caller for every event that can lead to a challenge.
pub struct Fresh {
    /// IV of AT_ENCR_DATA.
    pub iv: [u8; 16],
    /// NONCE_S of a re-authentication.
    pub nonce_s: [u8; 16],
    /// IV of AT_ENCR_DATA in the notification that ends a re-authentication.
    pub notification_iv: [u8; 16],
    /// A pseudonym to give out.
    pub pseudonym: Option<String>,
    /// An identity for the next re-authentication to give out.
    pub reauth_id: Option<String>,
}

/// What to do.
pub enum Command {
    /// Find out what this identity, which the server gave out, stands for.
    Resolve(EapIdentity),
    /// Get a vector.
    Draw {
        /// Of this subscriber.
        imsi: Imsi,
        /// RAND of the refused challenge and AUTS.
        resynchronisation: Option<([u8; 16], [u8; 14])>,
        /// For AKA'.
        aka_prime: bool,
    },
    /// Send this packet and wait for the answer.
    Send(Vec<u8>),
    /// The card has proven itself.
    Succeed(Box<Success>),
    /// It ends here.
    Fail(Failure),
}

/// A peer that has proven itself.
pub struct Success {
    /// Who it is.
    pub imsi: Imsi,
    /// AKA or AKA'.
    pub method: Method,
    /// Keys of the run.
    pub keys: SessionKeys,
    /// The identity given out for a re-authentication, and what it will go on from.
    pub reauth: Option<(String, ReauthKeys)>,
    /// Whether this was a fast re-authentication.
    pub was_fast: bool,
}

/// Why a session ended without success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The bytes are no packet.
    #[error("the packet cannot be read: {0}")]
    Packet(PacketError),
    /// A packet that does not belong here.
    #[error("the packet does not fit the session: {0}")]
    Unexpected(&'static str),
    /// No identity that this server knows how to authenticate.
    #[error("the identity is none of a subscriber")]
    Identity,
    /// There is no vector.
    #[error("no vector can be had for the subscriber")]
    NoVector,
    /// AT_MAC is wrong or missing.
    #[error("the MAC of the answer is wrong")]
    Mac,
    /// RES is wrong.
    #[error("the card's response is wrong")]
    Response,
    /// The hash over the identity round is wrong.
    #[error("the identity round was changed on its way")]
    Checkcode,
    /// The card did not accept the network: AKA-Authentication-Reject.
    #[error("the card has refused the network")]
    Rejected,
    /// The device has given up with this code.
    #[error("the device has given up with error {0}")]
    Client(u16),
    /// The card's number and the register's do not come together.
    #[error("the sequence numbers do not come together after {RESYNCHRONISATIONS_MAX} resynchronisations")]
    Resynchronisations,
    /// The session had ended.
    #[error("the session has ended")]
    Over,
}

impl Failure {
    /// Whether the peer spoke wrongly, as opposed to not having proven itself.
    pub fn is_malformed(&self) -> bool {
        matches!(self, Failure::Packet(_) | Failure::Unexpected(_))
    }
}

/// One session.
pub struct Session {
    settings: Settings,
    state: State,
    identifier: u8,
    identity_rounds: u8,
    resynchronisations: u8,
    /// Packets of the identity round, for the checkcode.
    identity_packets: Vec<u8>,
    identity: Option<EapIdentity>,
}

enum State {
    Idle,
    Resolving,
    Asking,
    Drawing(Imsi),
    Challenged(Box<Challenged>),
    Reauthenticating(Box<Reauthenticating>),
    Notified(Box<Success>, Option<u16>),
    Over,
}

struct Challenged {
    imsi: Imsi,
    rand: [u8; 16],
    xres: Vec<u8>,
    keys: SessionKeys,
    reauth_id: Option<String>,
}

struct Reauthenticating {
    imsi: Imsi,
    counter: u16,
    nonce_s: [u8; 16],
    notification_iv: [u8; 16],
    keys: SessionKeys,
    reauth_id: Option<String>,
}

impl Session {
    /// A session that has not begun.
    pub fn new(settings: Settings) -> Session {
        Session {
            settings,
            state: State::Idle,
            identifier: 0,
            identity_rounds: 0,
            resynchronisations: 0,
            identity_packets: Vec::new(),
            identity: None,
        }
    }

    /// Takes an event; each leads to one command.
    pub fn handle(&mut self, event: Event) -> Command {
        let state = std::mem::replace(&mut self.state, State::Over);
        let result = match (state, event) {
            (State::Idle, Event::Begin(identity)) => self.identified(identity),
            (State::Resolving, Event::Resolved(resolution, fresh)) => self.resolved(resolution, fresh),
            (State::Drawing(imsi), Event::Drawn(vector, fresh)) => Ok(self.challenge(imsi, &vector, fresh)),
            (State::Drawing(_), Event::NotDrawn) => Err(Failure::NoVector),
            (state, Event::Packet(bytes)) => self.packet(state, &bytes),
            (State::Over, _) => Err(Failure::Over),
            (
                State::Idle
                | State::Resolving
                | State::Asking
                | State::Drawing(_)
                | State::Challenged(_)
                | State::Reauthenticating(_)
                | State::Notified(..),
                Event::Begin(_) | Event::Resolved(..) | Event::Drawn(..) | Event::NotDrawn,
            ) => Err(Failure::Unexpected("an answer that was not asked for")),
        };
        result.unwrap_or_else(|failure| {
            self.state = State::Over;
            Command::Fail(failure)
        })
    }

    /// Whether nothing can follow.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    fn method(&self) -> Method {
        if self.identity.as_ref().is_some_and(|identity| identity.aka_prime) {
            Method::AkaPrime
        } else {
            Method::Aka
        }
    }

    fn identified(&mut self, identity: EapIdentity) -> Result<Command, Failure> {
        if self.identity.as_ref().is_some_and(|before| before.aka_prime != identity.aka_prime) {
            return Err(Failure::Identity);
        }
        let kind = identity.kind;
        self.identity = Some(identity.clone());
        match kind {
            IdentityKind::Permanent(imsi) => Ok(self.draw(imsi, None)),
            IdentityKind::Pseudonym | IdentityKind::Reauthentication => {
                self.state = State::Resolving;
                Ok(Command::Resolve(identity))
            }
            IdentityKind::Unknown => Err(Failure::Identity),
        }
    }

    fn resolved(&mut self, resolution: Resolution, fresh: Fresh) -> Result<Command, Failure> {
        match resolution {
            Resolution::Subscriber(imsi) => Ok(self.draw(imsi, None)),
            Resolution::Reauthentication(imsi, keys) if keys.method() == self.method() => {
                self.reauthenticate(imsi, &keys, fresh)
            }
            Resolution::Reauthentication(..) | Resolution::Unknown => self.ask(),
        }
    }

    /// A name that is not known any more: an unknown re-authentication identity may be followed by a pseudonym, an
    /// unknown pseudonym by the permanent identity only (RFC 4187, 4.1.5).
    fn ask(&mut self) -> Result<Command, Failure> {
        let was_pseudonym =
            self.identity.as_ref().is_some_and(|identity| identity.kind == IdentityKind::Pseudonym);
        if self.identity_rounds == IDENTITY_ROUNDS_MAX {
            return Err(Failure::Identity);
        }
        self.identity_rounds += 1;
        let wanted = if was_pseudonym { Attribute::PermanentIdReq } else { Attribute::FullauthIdReq };
        let packet = self.request(Subtype::Identity, vec![wanted]).encode();
        self.identity_packets.extend(&packet);
        self.state = State::Asking;
        Ok(Command::Send(packet))
    }

    fn draw(&mut self, imsi: Imsi, resynchronisation: Option<([u8; 16], [u8; 14])>) -> Command {
        self.state = State::Drawing(imsi);
        Command::Draw { imsi, resynchronisation, aka_prime: self.method() == Method::AkaPrime }
    }

    fn challenge(&mut self, imsi: Imsi, vector: &Vector, fresh: Fresh) -> Command {
        let method = self.method();
        let identity = self.identity.as_ref().map_or("", EapIdentity::as_str);
        let network = self.settings.network.as_bytes();
        let keys = SessionKeys::full(method, identity, &vector.ck, &vector.ik, &vector.autn, network);
        let mut attributes = vec![Attribute::Rand(vector.rand), Attribute::Autn(vector.autn)];
        if method == Method::AkaPrime {
            attributes.push(Attribute::Kdf(KDF_DEFAULT));
            attributes.push(Attribute::KdfInput(network.to_vec()));
        }
        let mut names = Vec::new();
        names.extend(fresh.pseudonym.map(|name| Attribute::NextPseudonym(name.into_bytes())));
        names.extend(fresh.reauth_id.clone().map(|name| Attribute::NextReauthId(name.into_bytes())));
        if !names.is_empty() {
            attributes.extend(encrypted::seal(&keys.encr, fresh.iv, &names));
        }
        attributes.push(Attribute::Checkcode(self.checkcode()));
        if self.settings.result_indication {
            attributes.push(Attribute::ResultInd);
        }
        attributes.push(Attribute::Mac([0; MAC_BYTES]));
        let mut packet = self.request(Subtype::Challenge, attributes).encode();
        sign(&mut packet, &keys.aut, &[]);
        self.state = State::Challenged(Box::new(Challenged {
            imsi,
            rand: vector.rand,
            xres: vector.xres.to_vec(),
            keys,
            reauth_id: fresh.reauth_id,
        }));
        Command::Send(packet)
    }

    /// RFC 4187, 5.4 and 9.7.
    fn reauthenticate(&mut self, imsi: Imsi, before: &ReauthKeys, fresh: Fresh) -> Result<Command, Failure> {
        let Some(counter) = before.counter.checked_add(1) else { return self.ask() };
        let identity = self.identity.as_ref().map_or("", EapIdentity::as_str);
        let keys = before.session(identity, counter, &fresh.nonce_s);
        let mut inner = vec![Attribute::Counter(counter), Attribute::NonceS(fresh.nonce_s)];
        inner.extend(fresh.reauth_id.clone().map(|name| Attribute::NextReauthId(name.into_bytes())));
        let mut attributes = encrypted::seal(&keys.encr, fresh.iv, &inner).to_vec();
        attributes.push(Attribute::Checkcode(self.checkcode()));
        if self.settings.result_indication {
            attributes.push(Attribute::ResultInd);
        }
        attributes.push(Attribute::Mac([0; MAC_BYTES]));
        let mut packet = self.request(Subtype::Reauthentication, attributes).encode();
        sign(&mut packet, &keys.aut, &[]);
        self.state = State::Reauthenticating(Box::new(Reauthenticating {
            imsi,
            counter,
            nonce_s: fresh.nonce_s,
            notification_iv: fresh.notification_iv,
            keys,
            reauth_id: fresh.reauth_id,
        }));
        Ok(Command::Send(packet))
    }

    fn packet(&mut self, state: State, bytes: &[u8]) -> Result<Command, Failure> {
        let packet = Packet::decode(bytes).map_err(Failure::Packet)?;
        if matches!(state, State::Over) {
            return Err(Failure::Over);
        }
        if packet.code != Code::Response || packet.identifier != self.identifier {
            return Err(Failure::Unexpected("no response to the last request"));
        }
        if packet.method != self.method() {
            return Err(Failure::Unexpected("another method than that of the identity"));
        }
        match (packet.subtype, state) {
            (Subtype::ClientError, _) => Err(Failure::Client(code_of(&packet))),
            (Subtype::AuthenticationReject, State::Challenged(_)) => Err(Failure::Rejected),
            (Subtype::Identity, State::Asking) => self.identity_response(&packet, bytes),
            (Subtype::Challenge, State::Challenged(challenged)) => {
                self.challenge_response(*challenged, &packet, bytes)
            }
            (Subtype::SynchronizationFailure, State::Challenged(challenged)) => {
                self.resynchronise(&challenged, &packet)
            }
            (Subtype::Reauthentication, State::Reauthenticating(run)) => {
                self.reauthentication_response(*run, &packet, bytes)
            }
            (Subtype::Notification, State::Notified(success, counter)) => {
                notification_response(success, counter, &packet, bytes)
            }
            _ => Err(Failure::Unexpected("a subtype that does not answer the request")),
        }
    }

    fn identity_response(&mut self, packet: &Packet, bytes: &[u8]) -> Result<Command, Failure> {
        let identity = packet.find(|attribute| match attribute {
            Attribute::Identity(identity) => std::str::from_utf8(identity).ok(),
            _ => None,
        });
        let identity = EapIdentity::parse(identity.ok_or(Failure::Identity)?);
        self.identity_packets.extend(bytes);
        self.identified(identity.map_err(|_| Failure::Identity)?)
    }

    fn challenge_response(
        &mut self,
        challenged: Challenged,
        packet: &Packet,
        bytes: &[u8],
    ) -> Result<Command, Failure> {
        let Challenged { imsi, xres, keys, reauth_id, .. } = challenged;
        if !verify(bytes, &keys.aut, &[]) {
            return Err(Failure::Mac);
        }
        let res = packet.find(|attribute| match attribute {
            Attribute::Res(res) => Some(res.as_slice()),
            _ => None,
        });
        let res = res.ok_or(Failure::Unexpected("no AT_RES"))?;
        if !bool::from(res.ct_eq(xres.as_slice())) {
            return Err(Failure::Response);
        }
        self.check_checkcode(packet)?;
        let reauth = reauth_id.map(|name| (name, keys.reauth_keys(0)));
        let success = Success { imsi, method: packet.method, keys, reauth, was_fast: false };
        Ok(self.succeed(success, packet, None))
    }

    fn resynchronise(&mut self, challenged: &Challenged, packet: &Packet) -> Result<Command, Failure> {
        let auts = packet.find(|attribute| match attribute {
            Attribute::Auts(auts) => Some(*auts),
            _ => None,
        });
        let auts = auts.ok_or(Failure::Unexpected("no AT_AUTS"))?;
        if self.resynchronisations == RESYNCHRONISATIONS_MAX {
            return Err(Failure::Resynchronisations);
        }
        self.resynchronisations += 1;
        Ok(self.draw(challenged.imsi, Some((challenged.rand, auts))))
    }

    fn reauthentication_response(
        &mut self,
        run: Reauthenticating,
        packet: &Packet,
        bytes: &[u8],
    ) -> Result<Command, Failure> {
        // RFC 4187, 10.15: NONCE_S of the request is hashed behind the response.
        if !verify(bytes, &run.keys.aut, &run.nonce_s) {
            return Err(Failure::Mac);
        }
        let inner = encrypted::open(&run.keys.encr, packet).map_err(Failure::Packet)?;
        if inner.contains(&Attribute::CounterTooSmall) {
            // RFC 4187, 5.5: full authentication follows at once.
            return Ok(self.draw(run.imsi, None));
        }
        if !inner.contains(&Attribute::Counter(run.counter)) {
            return Err(Failure::Unexpected("another counter than that of the request"));
        }
        self.check_checkcode(packet)?;
        let reauth = run.reauth_id.map(|name| (name, run.keys.reauth_keys(run.counter)));
        let success =
            Success { imsi: run.imsi, method: packet.method, keys: run.keys, reauth, was_fast: true };
        Ok(self.succeed(success, packet, Some((run.counter, run.notification_iv))))
    }

    /// RFC 4187, 6.2: a peer that has taken AT_RESULT_IND is told so under the MAC. 9.10: after a re-authentication its
    /// counter goes along, encrypted with the IV beside it.
    fn succeed(&mut self, success: Success, packet: &Packet, counted: Option<(u16, [u8; 16])>) -> Command {
        if !(self.settings.result_indication && packet.has(&Attribute::ResultInd)) {
            self.state = State::Over;
            return Command::Succeed(Box::new(success));
        }
        let mut attributes = vec![Attribute::Notification(NOTIFICATION_SUCCESS)];
        if let Some((counter, iv)) = counted {
            attributes.extend(encrypted::seal(&success.keys.encr, iv, &[Attribute::Counter(counter)]));
        }
        attributes.push(Attribute::Mac([0; MAC_BYTES]));
        let mut request = self.request(Subtype::Notification, attributes).encode();
        sign(&mut request, &success.keys.aut, &[]);
        self.state = State::Notified(Box::new(success), counted.map(|(counter, _)| counter));
        Command::Send(request)
    }

    fn request(&mut self, subtype: Subtype, attributes: Vec<Attribute>) -> Packet {
        self.identifier = self.identifier.wrapping_add(1);
        Packet {
            code: Code::Request,
            identifier: self.identifier,
            method: self.method(),
            subtype,
            attributes,
        }
    }

    /// RFC 4187, 10.13: the hash over all packets of the identity round; empty without one.
    fn checkcode(&self) -> Vec<u8> {
        checkcode(self.method(), &self.identity_packets)
    }

    /// Responses without AT_CHECKCODE are accepted: common clients leave it out.
    fn check_checkcode(&self, packet: &Packet) -> Result<(), Failure> {
        let found = packet.find(|attribute| match attribute {
            Attribute::Checkcode(code) => Some(code.as_slice()),
            _ => None,
        });
        let holds = found.is_none_or(|found| bool::from(found.ct_eq(self.checkcode().as_slice())));
        if holds { Ok(()) } else { Err(Failure::Checkcode) }
    }
}

/// RFC 4187, 10.13; RFC 9048, 3.4.2: SHA-256 with AKA'.
pub(super) fn checkcode(method: Method, packets: &[u8]) -> Vec<u8> {
    match method {
        _ if packets.is_empty() => Vec::new(),
        Method::Aka => Sha1::digest(packets).to_vec(),
        Method::AkaPrime => Sha256::digest(packets).to_vec(),
    }
}

fn notification_response(
    success: Box<Success>,
    counter: Option<u16>,
    packet: &Packet,
    bytes: &[u8],
) -> Result<Command, Failure> {
    if !verify(bytes, &success.keys.aut, &[]) {
        return Err(Failure::Mac);
    }
    if let Some(counter) = counter {
        let inner = encrypted::open(&success.keys.encr, packet).map_err(Failure::Packet)?;
        if !inner.contains(&Attribute::Counter(counter)) {
            return Err(Failure::Unexpected("another counter than that of the request"));
        }
    }
    Ok(Command::Succeed(success))
}

fn code_of(packet: &Packet) -> u16 {
    packet
        .find(|attribute| match attribute {
            Attribute::ClientErrorCode(code) => Some(*code),
            _ => None,
        })
        .unwrap_or_default()
}
