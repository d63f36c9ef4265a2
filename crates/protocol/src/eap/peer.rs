//! The device's end (RFC 4187, RFC 9048). The card answers AUTHENTICATE; the device has no key of its own.
//!
//! | state | event | next state | command |
//! |---|---|---|---|
//! | waiting | Identity request | waiting | `Send` the identity asked for, each kind once |
//! | waiting | Challenge | with the card | `Authenticate` |
//! | with the card | `Card`: success, MAC right | answered | `Send` Challenge response |
//! | with the card | `Card`: AUTS | waiting | `Send` Synchronization-Failure |
//! | with the card | `Card`: refused | failed | `Send` Authentication-Reject |
//! | waiting | Reauthentication, MAC and counter right | answered | `Send` Reauthentication response |
//! | waiting | Reauthentication, counter not above ours | waiting | `Send` with AT_COUNTER_TOO_SMALL |
//! | answered | Notification | answered, or failed | `Send` Notification response |
//! | any | a packet that cannot be read or has a wrong MAC | failed | `Send` Client-Error |
//!
//! Success is told by what carries the packets; [`Peer::finish`] then hands out the keys.

use super::Method;
use super::encrypted;
use super::keys::{ReauthKeys, SessionKeys, sign, verify};
use super::packet::{Attribute, Code, MAC_BYTES, Packet, Subtype};
use super::server::checkcode;
use crate::entitlement::identity::{EapIdentity, IdentityKind};

/// RFC 4187, 10.20, 0: unable to process packet.
const CLIENT_ERROR: u16 = 0;
/// RFC 4187, 10.19: the success bit, and the bit that says "before authentication".
const NOTIFICATION_SUCCESS_BIT: u16 = 0x8000;
const NOTIFICATION_BEFORE_BIT: u16 = 0x4000;
/// Requests of one run: three identity rounds, a challenge with two resynchronisations, a notification.
pub const REQUESTS_MAX: u8 = 10;
/// RFC 9048, 3.3.
const KDF_DEFAULT: u16 = 1;

/// What the peer is told.
pub enum Event {
    /// The server's packet.
    Packet(Vec<u8>),
    /// What the card said to the last `Authenticate`.
    Card(CardAnswer),
}

/// The card's answer to AUTHENTICATE in 3G context (3GPP TS 31.102, 7.1.2).
pub enum CardAnswer {
    /// `DB`: the network is genuine.
    Success {
        /// 4 to 16 bytes.
        res: Vec<u8>,
        /// Cipher key.
        ck: zeroize::Zeroizing<[u8; 16]>,
        /// Integrity key.
        ik: zeroize::Zeroizing<[u8; 16]>,
    },
    /// `DC`: the number is not fresh.
    SynchronisationFailure {
        /// The card's own.
        auts: [u8; 14],
    },
    /// `98 62` or any other status: the card does not accept the network.
    Refused,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Let the card do AUTHENTICATE in 3G context.
    Authenticate {
        /// Challenge.
        rand: [u8; 16],
        /// The network's proof.
        autn: [u8; 16],
    },
    /// Send this packet.
    Send(Vec<u8>),
    /// Send this packet, and expect nothing good of the answer.
    GiveUp(Vec<u8>, PeerFailure),
    /// Nothing can be sent: too many requests.
    Fail(PeerFailure),
}

/// Why the peer gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerFailure {
    /// A packet that cannot be read or does not belong here.
    #[error("the server's packet cannot be used: {0}")]
    Packet(&'static str),
    /// The MAC is wrong: the server does not have the card's vector.
    #[error("the server did not prove that it knows the card")]
    Mac,
    /// The card has refused the network.
    #[error(
        "the card does not accept the network: it belongs to another register, or its keys are different"
    )]
    CardRefused,
    /// The server has told a failure with this code.
    #[error("the server has told failure {0}")]
    Notification(u16),
    /// More than [`REQUESTS_MAX`] requests.
    #[error("the server asks again and again")]
    TooMany,
}

/// What a run yields.
pub struct Outcome {
    /// Keys of the run.
    pub keys: SessionKeys,
    /// A pseudonym for the next full authentication.
    pub pseudonym: Option<String>,
    /// An identity for the next fast re-authentication, and what it goes on from.
    pub reauth: Option<(String, ReauthKeys)>,
    /// Whether this was a fast re-authentication.
    pub was_fast: bool,
}

/// What a peer can be known by.
pub struct Identities {
    /// The root NAI.
    pub permanent: EapIdentity,
    /// A pseudonym from an earlier run.
    pub pseudonym: Option<EapIdentity>,
    /// A re-authentication identity with its keys. Used once.
    pub reauth: Option<(EapIdentity, ReauthKeys)>,
}

/// One run of the peer.
pub struct Peer {
    identities: Identities,
    /// What the server knows us by now: goes into the keys.
    current: EapIdentity,
    method: Method,
    iv: [u8; 16],
    wants_result: bool,
    state: State,
    requests: u8,
    identity_packets: Vec<u8>,
}

enum State {
    Waiting,
    WithCard { packet: Packet, bytes: Vec<u8> },
    Answered(Box<Outcome>),
    Failed,
}

impl Peer {
    /// A run that begins with the identity that is sent in `EAP_ID`: the re-authentication identity where there is one
    /// (`use_fast`), else the pseudonym where `use_pseudonym`, else the permanent one. `iv` is 16 fresh random bytes.
    /// `wants_result`: take AT_RESULT_IND where the server offers it.
    pub fn new(
        identities: Identities,
        use_fast: bool,
        use_pseudonym: bool,
        iv: [u8; 16],
        wants_result: bool,
    ) -> Peer {
        let fast = identities.reauth.as_ref().filter(|_| use_fast).map(|(identity, _)| identity);
        let pseudonym = identities.pseudonym.as_ref().filter(|_| use_pseudonym);
        let current = fast.or(pseudonym).unwrap_or(&identities.permanent).clone();
        let method = if current.aka_prime { Method::AkaPrime } else { Method::Aka };
        Peer {
            identities,
            current,
            method,
            iv,
            wants_result,
            state: State::Waiting,
            requests: 0,
            identity_packets: Vec::new(),
        }
    }

    /// What goes into `EAP_ID`; while nothing was received.
    pub fn identity(&self) -> &EapIdentity {
        &self.current
    }

    /// Takes an event; each leads to one command.
    pub fn handle(&mut self, event: Event) -> Command {
        let state = std::mem::replace(&mut self.state, State::Failed);
        match (event, state) {
            (Event::Packet(bytes), state) => self.packet(bytes, state),
            (Event::Card(answer), State::WithCard { packet, bytes }) => self.card(answer, &packet, &bytes),
            (Event::Card(_), State::Waiting | State::Answered(_) | State::Failed) => {
                Command::Fail(PeerFailure::Packet("the card was not asked"))
            }
        }
    }

    /// The server has told success: the keys, where the run came that far.
    pub fn finish(self) -> Option<Outcome> {
        match self.state {
            State::Answered(outcome) => Some(*outcome),
            State::Waiting | State::WithCard { .. } | State::Failed => None,
        }
    }

    fn packet(&mut self, bytes: Vec<u8>, state: State) -> Command {
        self.requests += 1;
        if self.requests > REQUESTS_MAX {
            return Command::Fail(PeerFailure::TooMany);
        }
        let identifier = bytes.get(1).copied().unwrap_or_default();
        let Ok(packet) = Packet::decode(&bytes) else {
            return self.give_up(identifier, PeerFailure::Packet("it cannot be read"));
        };
        if packet.code != Code::Request || packet.method != self.method {
            return self.give_up(identifier, PeerFailure::Packet("no request of our method"));
        }
        match (packet.subtype, state) {
            (Subtype::Identity, State::Waiting) => self.identity_request(&packet, &bytes),
            (Subtype::Challenge, State::Waiting) => self.challenge(packet, bytes),
            (Subtype::Reauthentication, State::Waiting) => self.reauthentication(&packet, &bytes),
            (Subtype::Notification, state) => self.notification(&packet, &bytes, state),
            _ => self.give_up(identifier, PeerFailure::Packet("it does not belong here")),
        }
    }

    fn identity_request(&mut self, packet: &Packet, bytes: &[u8]) -> Command {
        let identities = &self.identities;
        let pseudonym = identities.pseudonym.as_ref();
        let fast = identities.reauth.as_ref().map(|(identity, _)| identity);
        let chosen = if packet.has(&Attribute::PermanentIdReq) {
            &identities.permanent
        } else if packet.has(&Attribute::FullauthIdReq) {
            pseudonym.unwrap_or(&identities.permanent)
        } else if packet.has(&Attribute::AnyIdReq) {
            fast.or(pseudonym).unwrap_or(&identities.permanent)
        } else {
            return self.give_up(packet.identifier, PeerFailure::Packet("no identity is asked for"));
        };
        self.current = chosen.clone();
        let attributes = vec![Attribute::Identity(self.current.as_str().as_bytes().to_vec())];
        let response = self.response(packet.identifier, Subtype::Identity, attributes).encode();
        self.identity_packets.extend(bytes);
        self.identity_packets.extend(&response);
        self.state = State::Waiting;
        Command::Send(response)
    }

    fn challenge(&mut self, packet: Packet, bytes: Vec<u8>) -> Command {
        let rand = packet.find(|attribute| match attribute {
            Attribute::Rand(rand) => Some(*rand),
            _ => None,
        });
        let autn = packet.find(|attribute| match attribute {
            Attribute::Autn(autn) => Some(*autn),
            _ => None,
        });
        let (Some(rand), Some(autn)) = (rand, autn) else {
            return self.give_up(packet.identifier, PeerFailure::Packet("no AT_RAND or no AT_AUTN"));
        };
        if self.method == Method::AkaPrime {
            if network_of(&packet).is_empty() || !packet.has(&Attribute::Kdf(KDF_DEFAULT)) {
                return self.give_up(packet.identifier, PeerFailure::Packet("no AT_KDF that we know"));
            }
            // RFC 9048, 3.1 (3GPP TS 33.402, 6.1): the separation bit of AMF must be 1.
            if autn[6] & 0x80 == 0 {
                return self.reject(packet.identifier);
            }
        }
        self.state = State::WithCard { packet, bytes };
        Command::Authenticate { rand, autn }
    }

    fn card(&mut self, answer: CardAnswer, packet: &Packet, bytes: &[u8]) -> Command {
        let (res, ck, ik) = match answer {
            CardAnswer::Success { res, ck, ik } => (res, ck, ik),
            CardAnswer::Refused => return self.reject(packet.identifier),
            CardAnswer::SynchronisationFailure { auts } => {
                // RFC 9048, 3.1: which functions were offered goes back with AUTS; AKA has no such attribute.
                let offered = packet.attributes.iter().filter(|one| matches!(one, Attribute::Kdf(_)));
                let mut attributes: Vec<Attribute> = offered.cloned().collect();
                attributes.push(Attribute::Auts(auts));
                let response = self.response(packet.identifier, Subtype::SynchronizationFailure, attributes);
                self.state = State::Waiting;
                return Command::Send(response.encode());
            }
        };
        let autn = packet.find(|attribute| match attribute {
            Attribute::Autn(autn) => Some(*autn),
            _ => None,
        });
        let autn = autn.unwrap_or_default();
        let keys =
            SessionKeys::full(self.method, self.current.as_str(), &ck, &ik, &autn, &network_of(packet));
        if !verify(bytes, &keys.aut, &[]) {
            return self.give_up(packet.identifier, PeerFailure::Mac);
        }
        let (inner, true) = (encrypted::open(&keys.encr, packet), self.checkcode_holds(packet)) else {
            return self.give_up(packet.identifier, PeerFailure::Packet("its checkcode is wrong"));
        };
        let Ok(inner) = inner else {
            return self.give_up(packet.identifier, PeerFailure::Packet("its encrypted part cannot be read"));
        };
        let mut attributes = vec![Attribute::Res(res)];
        self.add_checkcode_and_result(packet, &mut attributes);
        attributes.push(Attribute::Mac([0; MAC_BYTES]));
        let mut response = self.response(packet.identifier, Subtype::Challenge, attributes).encode();
        sign(&mut response, &keys.aut, &[]);
        let reauth = next_reauth(&inner).map(|name| (name, keys.reauth_keys(0)));
        let outcome = Outcome { keys, pseudonym: next_pseudonym(&inner), reauth, was_fast: false };
        self.state = State::Answered(Box::new(outcome));
        Command::Send(response)
    }

    fn reauthentication(&mut self, packet: &Packet, bytes: &[u8]) -> Command {
        let is_current = |identity: &EapIdentity| *identity == self.current;
        let Some((_, before)) = self.identities.reauth.as_ref().filter(|(identity, _)| is_current(identity))
        else {
            return self.give_up(packet.identifier, PeerFailure::Packet("there is nothing to go on from"));
        };
        if self.current.kind != IdentityKind::Reauthentication || !verify(bytes, &before.aut, &[]) {
            return self.give_up(packet.identifier, PeerFailure::Mac);
        }
        let (Ok(inner), true) = (encrypted::open(&before.encr, packet), self.checkcode_holds(packet)) else {
            return self.give_up(packet.identifier, PeerFailure::Packet("its content cannot be used"));
        };
        let counter = inner.iter().find_map(|attribute| match attribute {
            Attribute::Counter(counter) => Some(*counter),
            _ => None,
        });
        let nonce_s = inner.iter().find_map(|attribute| match attribute {
            Attribute::NonceS(nonce) => Some(*nonce),
            _ => None,
        });
        let (Some(counter), Some(nonce_s)) = (counter, nonce_s) else {
            return self.give_up(packet.identifier, PeerFailure::Packet("no counter or no nonce"));
        };
        let is_fresh = counter > before.counter;
        let keys = before.session(self.current.as_str(), counter, &nonce_s);
        let mut inside = Vec::new();
        if !is_fresh {
            inside.push(Attribute::CounterTooSmall);
        }
        inside.push(Attribute::Counter(counter));
        let mut attributes = encrypted::seal(&before.encr, self.iv, &inside).to_vec();
        self.add_checkcode_and_result(packet, &mut attributes);
        attributes.push(Attribute::Mac([0; MAC_BYTES]));
        let mut response = self.response(packet.identifier, Subtype::Reauthentication, attributes).encode();
        sign(&mut response, &keys.aut, &nonce_s);
        self.state = if is_fresh {
            let reauth = next_reauth(&inner).map(|name| (name, keys.reauth_keys(counter)));
            State::Answered(Box::new(Outcome { keys, pseudonym: None, reauth, was_fast: true }))
        } else {
            State::Waiting
        };
        Command::Send(response)
    }

    /// RFC 4187, 6.1: every notification is answered, also one that is not understood.
    fn notification(&mut self, packet: &Packet, bytes: &[u8], state: State) -> Command {
        let code = packet.find(|attribute| match attribute {
            Attribute::Notification(code) => Some(*code),
            _ => None,
        });
        let Some(code) = code else {
            return self.give_up(packet.identifier, PeerFailure::Packet("no AT_NOTIFICATION"));
        };
        let is_success = code & NOTIFICATION_SUCCESS_BIT != 0;
        match state {
            State::Answered(outcome) if code & NOTIFICATION_BEFORE_BIT == 0 => {
                if !verify(bytes, &outcome.keys.aut, &[]) {
                    return self.give_up(packet.identifier, PeerFailure::Mac);
                }
                let mut attributes = Vec::new();
                if outcome.was_fast {
                    let inner = encrypted::open(&outcome.keys.encr, packet).unwrap_or_default();
                    let counter =
                        inner.into_iter().filter(|attribute| matches!(attribute, Attribute::Counter(_)));
                    let iv = std::array::from_fn(|place| self.iv[place] ^ 0xFF);
                    let inner: Vec<_> = counter.collect();
                    attributes.extend(encrypted::seal(&outcome.keys.encr, iv, &inner));
                }
                attributes.push(Attribute::Mac([0; MAC_BYTES]));
                let response = self.response(packet.identifier, Subtype::Notification, attributes);
                let mut response = response.encode();
                sign(&mut response, &outcome.keys.aut, &[]);
                if is_success {
                    self.state = State::Answered(outcome);
                    return Command::Send(response);
                }
                Command::GiveUp(response, PeerFailure::Notification(code))
            }
            State::Waiting | State::WithCard { .. } | State::Answered(_) | State::Failed => {
                let response = self.response(packet.identifier, Subtype::Notification, Vec::new());
                Command::GiveUp(response.encode(), PeerFailure::Notification(code))
            }
        }
    }

    fn add_checkcode_and_result(&self, packet: &Packet, attributes: &mut Vec<Attribute>) {
        if packet.find(|attribute| matches!(attribute, Attribute::Checkcode(_)).then_some(())).is_some() {
            attributes.push(Attribute::Checkcode(checkcode(self.method, &self.identity_packets)));
        }
        if self.wants_result && packet.has(&Attribute::ResultInd) {
            attributes.push(Attribute::ResultInd);
        }
    }

    fn checkcode_holds(&self, packet: &Packet) -> bool {
        let found = packet.find(|attribute| match attribute {
            Attribute::Checkcode(code) => Some(code),
            _ => None,
        });
        found.is_none_or(|found| *found == checkcode(self.method, &self.identity_packets))
    }

    fn reject(&self, identifier: u8) -> Command {
        let response = self.response(identifier, Subtype::AuthenticationReject, Vec::new());
        Command::GiveUp(response.encode(), PeerFailure::CardRefused)
    }

    fn give_up(&self, identifier: u8, why: PeerFailure) -> Command {
        let attributes = vec![Attribute::ClientErrorCode(CLIENT_ERROR)];
        let response = self.response(identifier, Subtype::ClientError, attributes);
        Command::GiveUp(response.encode(), why)
    }

    fn response(&self, identifier: u8, subtype: Subtype, attributes: Vec<Attribute>) -> Packet {
        Packet { code: Code::Response, identifier, method: self.method, subtype, attributes }
    }
}

fn network_of(packet: &Packet) -> Vec<u8> {
    let network = packet.find(|attribute| match attribute {
        Attribute::KdfInput(network) => Some(network.clone()),
        _ => None,
    });
    network.unwrap_or_default()
}

fn next_pseudonym(inner: &[Attribute]) -> Option<String> {
    inner.iter().find_map(|attribute| match attribute {
        Attribute::NextPseudonym(name) => String::from_utf8(name.clone()).ok(),
        _ => None,
    })
}

fn next_reauth(inner: &[Attribute]) -> Option<String> {
    inner.iter().find_map(|attribute| match attribute {
        Attribute::NextReauthId(name) => String::from_utf8(name.clone()).ok(),
        _ => None,
    })
}
