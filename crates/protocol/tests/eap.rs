//! EAP-AKA: the recorded exchange of other implementations, both ends against each other, and bad input.

#![allow(clippy::unwrap_used, clippy::panic, clippy::result_large_err)]

use simtide_protocol::aka::{self, AkaFunctions, Sqn, SqnArray, Vector};
use simtide_protocol::eap::Method;
use simtide_protocol::eap::keys::{ReauthKeys, SessionKeys, sign, verify};
use simtide_protocol::eap::packet::{Attribute, Code, Packet, Subtype};
use simtide_protocol::eap::peer::{CardAnswer, Command as Do, Event as Told, Identities, Peer, PeerFailure};
use simtide_protocol::eap::server::{Command, Event, Failure, Fresh, Resolution, Session, Settings, Success};
use simtide_protocol::entitlement::{EapIdentity, IdentityKind};
use simtide_protocol::ids::Imsi;
use simtide_protocol::milenage::Milenage;
use zeroize::Zeroizing;

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    hex::decode(hex).unwrap().try_into().unwrap()
}

fn identity(text: &str) -> EapIdentity {
    EapIdentity::parse(text).unwrap()
}

const NAI: &str = "0001010000000001@nai.epc.mnc001.mcc001.3gppnetwork.org";
const NAI_PRIME: &str = "6001010000000001@nai.epc.mnc001.mcc001.3gppnetwork.org";
const PSEUDONYM: &str = "2aBcD@nai.epc.mnc001.mcc001.3gppnetwork.org";
const REAUTH: &str = "4next@nai.epc.mnc001.mcc001.3gppnetwork.org";
const REAUTH_PRIME: &str = "8next@nai.epc.mnc001.mcc001.3gppnetwork.org";

/// Milenage of test set 1.
fn milenage() -> Milenage {
    Milenage::new(&bytes("465b5ce8b199b49faa5f0a2ee238a6bc"), &bytes("cd63cb71954a9f4e48a5994e37a02baf"))
}

fn settings(result_indication: bool) -> Settings {
    Settings { network: "WLAN".into(), result_indication }
}

fn plain() -> Fresh {
    Fresh { iv: [9; 16], nonce_s: [8; 16], notification_iv: [6; 16], pseudonym: None, reauth_id: None }
}

fn named(aka_prime: bool) -> Fresh {
    let reauth = if aka_prime { REAUTH_PRIME } else { REAUTH };
    Fresh { pseudonym: Some(PSEUDONYM.into()), reauth_id: Some(reauth.into()), ..plain() }
}

/// The vector of a recorded challenge: what the card made of it comes from Milenage.
fn recorded(rand: &str, autn: &str) -> Vector {
    let answer = milenage().f2345(&bytes(rand));
    let mut vector = Vector::new(&milenage(), bytes(rand), Sqn::new(1), [0x80, 0]);
    assert_eq!(vector.ck, answer.ck);
    vector.autn = bytes(autn);
    vector
}

/// The exchange of facts: challenge, AUTS, challenge, response, MSK, byte for byte at the server's end.
#[test]
fn the_recorded_exchange_at_the_server() {
    let mut session = Session::new(settings(false));
    let Command::Draw { imsi, resynchronisation: None, aka_prime: false } =
        session.handle(Event::Begin(identity(NAI)))
    else {
        panic!("a vector is wanted at once")
    };
    assert_eq!(imsi.to_string(), "001010000000001");
    let first = recorded("1cd253d1db4127d7b42d5e1e5608cf92", "214160e0b9958000a53a44a45d64aa6b");
    let Command::Send(challenge) = session.handle(Event::Drawn(first, plain())) else {
        panic!("a challenge")
    };
    assert_eq!(
        hex::encode(challenge),
        concat!(
            "0101004817010000010500001cd253d1db4127d7b42d5e1e5608cf9202050000214160e0b9958000a53a44a45d64aa6b",
            "860100000b05000000b522230c292e973bc4a72f29d126fa"
        )
    );
    let failure = hex::decode("0201001817040000040413283782be7392d19e1e58bbe389").unwrap();
    let Command::Draw { resynchronisation: Some((rand, auts)), .. } = session.handle(Event::Packet(failure))
    else {
        panic!("a resynchronisation")
    };
    assert_eq!(rand, bytes("1cd253d1db4127d7b42d5e1e5608cf92"));
    assert!(aka::open_auts(&milenage(), &rand, &auts).is_some());
    let second = recorded("6264fe67e08e7ddba543315b2f7ad06f", "d344299beaf48000aa7d285333d21316");
    let Command::Send(challenge) = session.handle(Event::Drawn(second, plain())) else {
        panic!("a challenge")
    };
    assert_eq!(
        hex::encode(challenge),
        concat!(
            "0102004817010000010500006264fe67e08e7ddba543315b2f7ad06f02050000d344299beaf48000aa7d285333d21316",
            "860100000b05000031c9174b531d6c1a33aa13a1cf75d142"
        )
    );
    let response = "0202002c1701000003030040114c0df9606c4e97860100000b050000938e6a628cfdcb3de2d383e91d602efa";
    let Command::Succeed(success) = session.handle(Event::Packet(hex::decode(response).unwrap())) else {
        panic!("success")
    };
    assert_eq!(success.keys.msk, bytes(MSK));
    assert!(session.is_over());
}

const MSK: &str = concat!(
    "6754fdeb19c5d4d988eff8eb7166a811e34dfecef45d0bb532daad5d64accdfb",
    "983b8ed86045f033d6b5ffe4be7619ef4c58fd84678077b79fd5928532cc2397"
);

/// The same at the device's end.
#[test]
fn the_recorded_exchange_at_the_peer() {
    let mut peer = Peer::new(known(NAI), false, false, [1; 16], false);
    let challenge = concat!(
        "0101004817010000010500001cd253d1db4127d7b42d5e1e5608cf9202050000214160e0b9958000a53a44a45d64aa6b",
        "860100000b05000000b522230c292e973bc4a72f29d126fa"
    );
    let Do::Authenticate { .. } = peer.handle(Told::Packet(hex::decode(challenge).unwrap())) else {
        panic!("the card is asked")
    };
    let auts = bytes("13283782be7392d19e1e58bbe389");
    assert_eq!(
        peer.handle(Told::Card(CardAnswer::SynchronisationFailure { auts })),
        Do::Send(hex::decode("0201001817040000040413283782be7392d19e1e58bbe389").unwrap())
    );
    let challenge = concat!(
        "0102004817010000010500006264fe67e08e7ddba543315b2f7ad06f02050000d344299beaf48000aa7d285333d21316",
        "860100000b05000031c9174b531d6c1a33aa13a1cf75d142"
    );
    let Do::Authenticate { rand, .. } = peer.handle(Told::Packet(hex::decode(challenge).unwrap())) else {
        panic!("the card is asked")
    };
    let response = "0202002c1701000003030040114c0df9606c4e97860100000b050000938e6a628cfdcb3de2d383e91d602efa";
    assert_eq!(
        peer.handle(Told::Card(answer(&milenage().f2345(&rand)))),
        Do::Send(hex::decode(response).unwrap())
    );
    assert_eq!(peer.finish().unwrap().keys.msk, bytes(MSK));
}

fn known(permanent: &str) -> Identities {
    Identities { permanent: identity(permanent), pseudonym: None, reauth: None }
}

fn answer(answer: &aka::Answer) -> CardAnswer {
    CardAnswer::Success {
        res: answer.res.to_vec(),
        ck: Zeroizing::new(answer.ck),
        ik: Zeroizing::new(answer.ik),
    }
}

/// A register with one subscriber, and its card.
struct World {
    seq: u64,
    array: SqnArray,
    reauth: Option<(String, ReauthKeys)>,
    knows_pseudonym: bool,
    draws: usize,
    resynchronisations: usize,
    sent: Vec<Vec<u8>>,
}

impl World {
    fn new() -> World {
        World {
            seq: 1,
            array: SqnArray::default(),
            reauth: None,
            knows_pseudonym: true,
            draws: 0,
            resynchronisations: 0,
            sent: Vec::new(),
        }
    }

    /// Answers the server's commands until it sends or ends.
    fn serve(&mut self, session: &mut Session, event: Event) -> Result<Vec<u8>, Result<Success, Failure>> {
        let mut event = event;
        loop {
            event = match session.handle(event) {
                Command::Send(packet) => {
                    self.sent.push(packet.clone());
                    return Ok(packet);
                }
                Command::Succeed(success) => return Err(Ok(*success)),
                Command::Fail(failure) => return Err(Err(failure)),
                Command::Resolve(asked) => Event::Resolved(self.resolve(&asked), named(asked.aka_prime)),
                Command::Draw { resynchronisation, aka_prime, .. } => {
                    self.draws += 1;
                    if let Some((rand, auts)) = resynchronisation {
                        self.resynchronisations += 1;
                        self.seq = aka::open_auts(&milenage(), &rand, &auts).unwrap().seq();
                    }
                    self.seq += 1;
                    let rand = [self.draws as u8; 16];
                    let sqn = Sqn::from_parts(self.seq, 7);
                    Event::Drawn(Vector::new(&milenage(), rand, sqn, [0x80, 0]), named(aka_prime))
                }
            };
        }
    }

    fn resolve(&mut self, asked: &EapIdentity) -> Resolution {
        let imsi: Imsi = "001010000000001".parse().unwrap();
        match asked.kind {
            IdentityKind::Pseudonym if self.knows_pseudonym => Resolution::Subscriber(imsi),
            IdentityKind::Reauthentication => match self.reauth.take() {
                Some((name, keys)) if name == asked.as_str() => {
                    Resolution::Reauthentication(imsi, Box::new(keys))
                }
                _ => Resolution::Unknown,
            },
            IdentityKind::Pseudonym | IdentityKind::Permanent(_) | IdentityKind::Unknown => {
                Resolution::Unknown
            }
        }
    }

    /// Answers the peer's commands until it sends.
    fn play(&mut self, peer: &mut Peer, packet: Vec<u8>) -> Result<Vec<u8>, (Vec<u8>, PeerFailure)> {
        let mut event = Told::Packet(packet);
        loop {
            event = match peer.handle(event) {
                Do::Send(packet) => return Ok(packet),
                Do::GiveUp(packet, why) => return Err((packet, why)),
                Do::Fail(why) => return Err((Vec::new(), why)),
                Do::Authenticate { rand, autn } => {
                    Told::Card(match aka::authenticate(&milenage(), &mut self.array, &rand, &autn) {
                        aka::Outcome::Success(found) => answer(&found),
                        aka::Outcome::MacFailure => CardAnswer::Refused,
                        aka::Outcome::SynchronisationFailure { auts } => {
                            CardAnswer::SynchronisationFailure { auts }
                        }
                    })
                }
            };
        }
    }

    /// A whole run; both ends must come to the same keys.
    fn run(
        &mut self,
        identities: Identities,
        fast: bool,
        result: bool,
    ) -> (Success, simtide_protocol::eap::peer::Outcome) {
        let mut peer = Peer::new(identities, fast, true, [5; 16], result);
        let mut session = Session::new(settings(true));
        let mut event = Event::Begin(peer.identity().clone());
        for _ in 0..12 {
            match self.serve(&mut session, event) {
                Ok(packet) => {
                    let response = self.play(&mut peer, packet);
                    event = Event::Packet(response.unwrap_or_else(|(_, why)| panic!("{why}")));
                }
                Err(Ok(success)) => {
                    let outcome = peer.finish().unwrap();
                    assert_eq!(success.keys.msk, outcome.keys.msk);
                    assert_eq!(success.keys.emsk, outcome.keys.emsk);
                    return (success, outcome);
                }
                Err(Err(failure)) => panic!("{failure}"),
            }
        }
        panic!("no end")
    }
}

#[test]
fn both_methods_with_and_without_result_indication() {
    for (nai, method) in [(NAI, Method::Aka), (NAI_PRIME, Method::AkaPrime)] {
        for result in [false, true] {
            let mut world = World::new();
            let (success, outcome) = world.run(known(nai), false, result);
            assert_eq!((success.method, success.was_fast), (method, false));
            assert_eq!(outcome.pseudonym.as_deref(), Some(PSEUDONYM));
            // Challenge, and the notification where the peer wants it.
            assert_eq!(world.sent.len(), 1 + usize::from(result));
            assert_eq!(world.draws, 1);
        }
    }
}

#[test]
fn a_card_that_is_ahead_is_followed() {
    let mut world = World::new();
    assert!(world.array.accept(Sqn::from_parts(5_000, 7)));
    world.run(known(NAI), false, false);
    assert_eq!((world.draws, world.resynchronisations), (2, 1));
    world.run(known(NAI), false, false);
    assert_eq!((world.draws, world.resynchronisations), (3, 1));
}

#[test]
fn fast_reauthentication_draws_nothing_and_its_counter_rises() {
    for nai in [NAI, NAI_PRIME] {
        let mut world = World::new();
        let (success, outcome) = world.run(known(nai), false, true);
        world.reauth = success.reauth;
        let mut kept = outcome.reauth;
        let mut before = success.keys.msk;
        for counter in 1..=3 {
            let (name, keys) = kept.take().unwrap();
            let identities = Identities { reauth: Some((identity(&name), keys)), ..known(nai) };
            let (success, outcome) = world.run(identities, true, counter % 2 == 0);
            assert!(success.was_fast && outcome.was_fast);
            assert_ne!(success.keys.msk, before);
            before = success.keys.msk;
            assert_eq!(success.reauth.as_ref().unwrap().1.counter, counter);
            world.reauth = success.reauth;
            kept = outcome.reauth;
        }
        assert_eq!(world.draws, 1);
    }
}

/// RFC 4187, 9.10: the notification after a re-authentication carries the counter; its IV is the caller's, no key's part.
#[test]
fn the_end_of_a_reauthentication_shows_nothing_of_its_keys() {
    let mut world = World::new();
    let (success, outcome) = world.run(known(NAI), false, true);
    world.reauth = success.reauth;
    let (name, keys) = outcome.reauth.unwrap();
    let (success, _) =
        world.run(Identities { reauth: Some((identity(&name), keys)), ..known(NAI) }, true, true);
    let notification = Packet::decode(world.sent.last().unwrap()).unwrap();
    assert_eq!(notification.subtype, Subtype::Notification);
    assert!(notification.has(&Attribute::Iv([6; 16])));
    let bytes = world.sent.last().unwrap();
    for key in [&success.keys.msk, &success.keys.emsk] {
        assert!(key.windows(8).all(|part| !bytes.windows(8).any(|sent| sent == part)));
    }
}

/// RFC 9048, 3.1: with AKA' the offered functions go back beside AUTS, and the server goes on from there.
#[test]
fn a_resynchronisation_of_aka_prime_repeats_the_functions() {
    let mut world = World::new();
    assert!(world.array.accept(Sqn::from_parts(5_000, 7)));
    let mut session = Session::new(settings(false));
    let mut peer = Peer::new(known(NAI_PRIME), false, false, [5; 16], false);
    let challenge = world.serve(&mut session, Event::Begin(identity(NAI_PRIME))).ok().unwrap();
    let failure = world.play(&mut peer, challenge).unwrap();
    let read = Packet::decode(&failure).unwrap();
    assert_eq!(read.subtype, Subtype::SynchronizationFailure);
    assert!(matches!(read.attributes[..], [Attribute::Kdf(1), Attribute::Auts(_)]));
    let challenge = world.serve(&mut session, Event::Packet(failure)).ok().unwrap();
    let response = world.play(&mut peer, challenge).unwrap();
    assert!(matches!(world.serve(&mut session, Event::Packet(response)), Err(Ok(_))));
}

#[test]
fn a_counter_that_is_too_small_leads_to_full_authentication() {
    let mut world = World::new();
    let (success, outcome) = world.run(known(NAI), false, false);
    world.reauth = success.reauth;
    let (name, mut keys) = outcome.reauth.unwrap();
    keys.counter = 40;
    let identities = Identities { reauth: Some((identity(&name), keys)), ..known(NAI) };
    let (success, _) = world.run(identities, true, false);
    assert!(!success.was_fast);
    assert_eq!(world.draws, 2);
}

#[test]
fn forgotten_names_lead_to_the_permanent_identity() {
    let mut world = World::new();
    world.knows_pseudonym = false;
    let keys = SessionKeys::aka("x", &[1; 16], &[2; 16]).reauth_keys(0);
    let identities = Identities {
        permanent: identity(NAI),
        pseudonym: Some(identity(PSEUDONYM)),
        reauth: Some((identity(REAUTH), keys)),
    };
    // Re-authentication identity, then the pseudonym, then the IMSI: two identity rounds, a checkcode that covers them.
    let (success, _) = world.run(identities, true, true);
    assert!(!success.was_fast);
    assert_eq!(world.sent.len(), 4);
    let challenge = Packet::decode(&world.sent[2]).unwrap();
    let code = challenge.find(|attribute| match attribute {
        Attribute::Checkcode(code) => Some(code.len()),
        _ => None,
    });
    assert_eq!(code, Some(20));
}

#[test]
fn identity_rounds_end() {
    let mut session = Session::new(settings(true));
    let mut world = World::new();
    world.knows_pseudonym = false;
    let mut event = Event::Begin(identity(PSEUDONYM));
    for round in 1..=3 {
        let packet = world.serve(&mut session, event).ok().unwrap();
        assert_eq!(Packet::decode(&packet).unwrap().subtype, Subtype::Identity, "{round}");
        let response = Packet {
            code: Code::Response,
            identifier: packet[1],
            method: Method::Aka,
            subtype: Subtype::Identity,
            attributes: vec![Attribute::Identity(PSEUDONYM.as_bytes().to_vec())],
        };
        event = Event::Packet(response.encode());
    }
    assert_eq!(end_of(world.serve(&mut session, event)), Some(Failure::Identity));
}

/// A challenged session, and the right response.
fn challenged(world: &mut World) -> (Session, Vec<u8>) {
    let mut session = Session::new(settings(false));
    let mut peer = Peer::new(known(NAI), false, false, [5; 16], false);
    let packet = world.serve(&mut session, Event::Begin(identity(NAI))).ok().unwrap();
    let response = world.play(&mut peer, packet).unwrap();
    (session, response)
}

fn end(world: &mut World, session: &mut Session, bytes: Vec<u8>) -> Option<Failure> {
    world.serve(session, Event::Packet(bytes)).err().and_then(Result::err)
}

#[test]
fn wrong_answers_never_succeed() {
    let mut world = World::new();
    let (_, right) = challenged(&mut world);
    for place in 0..right.len() {
        // Every byte of the response changed: reserved bytes are covered by the MAC too.
        let (mut session, mut response) = challenged(&mut world);
        response[place] ^= 0x01;
        assert!(end(&mut world, &mut session, response).is_some(), "{place}");
        assert!(session.is_over());
    }
    // The answer to another session's challenge.
    let (mut session, _) = challenged(&mut world);
    assert!(end(&mut world, &mut session, right.clone()).is_some());
    // A second answer after success.
    let (mut session, right) = challenged(&mut world);
    assert!(matches!(world.serve(&mut session, Event::Packet(right.clone())), Err(Ok(_))));
    assert_eq!(end(&mut world, &mut session, right), Some(Failure::Over));
}

/// A response with other attributes under a right MAC: only what the attributes say is wrong.
fn signed(world: &mut World, attributes: Vec<Attribute>) -> Option<Failure> {
    let mut session = Session::new(settings(false));
    let packet = world.serve(&mut session, Event::Begin(identity(NAI))).ok().unwrap();
    let rand = Packet::decode(&packet).unwrap().find(|attribute| match attribute {
        Attribute::Rand(rand) => Some(*rand),
        _ => None,
    });
    let answer = milenage().f2345(&rand.unwrap());
    let keys = SessionKeys::aka(NAI, &answer.ck, &answer.ik);
    let response = Packet {
        code: Code::Response,
        identifier: packet[1],
        method: Method::Aka,
        subtype: Subtype::Challenge,
        attributes,
    };
    let mut response = response.encode();
    sign(&mut response, &keys.aut, &[]);
    assert!(verify(&response, &keys.aut, &[]) || !response.contains(&0x0B));
    end(world, &mut session, response)
}

#[test]
fn a_response_must_carry_what_proves() {
    let mut world = World::new();
    let mac = Attribute::Mac([0; 16]);
    assert_eq!(signed(&mut world, vec![Attribute::Res(vec![0; 8])]), Some(Failure::Mac));
    assert_eq!(signed(&mut world, vec![Attribute::Res(vec![0; 8]), mac.clone()]), Some(Failure::Response));
    assert_eq!(signed(&mut world, vec![Attribute::Res(vec![0; 16]), mac.clone()]), Some(Failure::Response));
    assert!(matches!(signed(&mut world, vec![mac.clone()]), Some(Failure::Unexpected(_))));
    assert!(matches!(
        signed(&mut world, vec![Attribute::Res(Vec::new()), mac.clone()]),
        Some(Failure::Packet(_))
    ));
    assert!(matches!(
        signed(&mut world, vec![Attribute::Res(vec![0; 17]), mac.clone()]),
        Some(Failure::Packet(_))
    ));
    assert!(matches!(signed(&mut world, vec![mac.clone(), mac]), Some(Failure::Packet(_))));
}

#[test]
fn other_ends_of_a_session() {
    let mut world = World::new();
    let mut ends = |subtype: Subtype, attributes: Vec<Attribute>| {
        let (mut session, right) = challenged(&mut world);
        let packet =
            Packet { code: Code::Response, identifier: right[1], method: Method::Aka, subtype, attributes };
        end(&mut world, &mut session, packet.encode())
    };
    assert_eq!(ends(Subtype::AuthenticationReject, vec![]), Some(Failure::Rejected));
    assert_eq!(ends(Subtype::ClientError, vec![Attribute::ClientErrorCode(3)]), Some(Failure::Client(3)));
    assert!(matches!(ends(Subtype::SynchronizationFailure, vec![]), Some(Failure::Unexpected(_))));
    assert!(matches!(ends(Subtype::Identity, vec![]), Some(Failure::Unexpected(_))));
    assert!(matches!(ends(Subtype::Notification, vec![]), Some(Failure::Unexpected(_))));
    // A request, another identifier, another method, a Nak.
    let (mut session, mut right) = challenged(&mut world);
    right[0] = 1;
    assert!(matches!(end(&mut world, &mut session, right), Some(Failure::Unexpected(_))));
    let (mut session, mut right) = challenged(&mut world);
    right[4] = 50;
    assert!(matches!(end(&mut world, &mut session, right), Some(Failure::Unexpected(_))));
    let (mut session, right) = challenged(&mut world);
    let nak = vec![2, right[1], 0, 6, 3, 50];
    assert!(matches!(end(&mut world, &mut session, nak), Some(Failure::Packet(_))));
    // No vector.
    let mut session = Session::new(settings(false));
    assert!(matches!(session.handle(Event::Begin(identity(NAI))), Command::Draw { .. }));
    assert!(matches!(session.handle(Event::NotDrawn), Command::Fail(Failure::NoVector)));
    let mut session = Session::new(settings(false));
    assert!(matches!(session.handle(Event::Begin(identity("1x@y"))), Command::Fail(Failure::Identity)));
}

#[test]
fn the_third_resynchronisation_is_refused() {
    let mut session = Session::new(settings(false));
    let mut event = Event::Begin(identity(NAI));
    for round in 0..=2_u8 {
        assert!(matches!(session.handle(event), Command::Draw { .. }), "{round}");
        let vector = Vector::new(&milenage(), [round; 16], Sqn::from_parts(9, 7), [0x80, 0]);
        let Command::Send(packet) = session.handle(Event::Drawn(vector, plain())) else {
            panic!("a challenge")
        };
        let failure = Packet {
            code: Code::Response,
            identifier: packet[1],
            method: Method::Aka,
            subtype: Subtype::SynchronizationFailure,
            attributes: vec![Attribute::Auts([7; 14])],
        };
        event = Event::Packet(failure.encode());
    }
    assert!(matches!(session.handle(event), Command::Fail(Failure::Resynchronisations)));
}

/// The peer against a server that lies.
#[test]
fn the_peer_gives_nothing_to_a_server_without_the_card() {
    let mut world = World::new();
    let mut session = Session::new(settings(false));
    let packet = world.serve(&mut session, Event::Begin(identity(NAI))).ok().unwrap();
    for place in 8..packet.len() {
        let mut peer = Peer::new(known(NAI), false, false, [5; 16], false);
        world.array = SqnArray::default();
        let mut changed = packet.clone();
        changed[place] ^= 0x20;
        let (response, _) = world.play(&mut peer, changed).unwrap_err();
        let response = Packet::decode(&response).unwrap();
        assert!(matches!(response.subtype, Subtype::ClientError | Subtype::AuthenticationReject), "{place}");
        assert!(peer.finish().is_none());
    }
}

/// RFC 9048, 3.1: a vector without the separation bit is for AKA, not for AKA'.
#[test]
fn aka_prime_wants_the_separation_bit() {
    let mut session = Session::new(settings(false));
    session.handle(Event::Begin(identity(NAI_PRIME)));
    let vector = Vector::new(&milenage(), [1; 16], Sqn::from_parts(9, 7), [0, 0]);
    let Command::Send(packet) = session.handle(Event::Drawn(vector, plain())) else { panic!("a challenge") };
    let mut peer = Peer::new(known(NAI_PRIME), false, false, [5; 16], false);
    assert!(matches!(peer.handle(Told::Packet(packet)), Do::GiveUp(_, PeerFailure::CardRefused)));
}

#[test]
fn the_peer_answers_failure_notifications() {
    let mut peer = Peer::new(known(NAI), false, false, [5; 16], false);
    let packet = Packet {
        code: Code::Request,
        identifier: 9,
        method: Method::Aka,
        subtype: Subtype::Notification,
        attributes: vec![Attribute::Notification(0x4000)],
    };
    let Do::GiveUp(response, PeerFailure::Notification(0x4000)) = peer.handle(Told::Packet(packet.encode()))
    else {
        panic!("an answer")
    };
    assert_eq!(response, [2, 9, 0, 8, 23, 12, 0, 0]);
}

fn end_of(result: Result<Vec<u8>, Result<Success, Failure>>) -> Option<Failure> {
    result.err().and_then(Result::err)
}
