//! The connector to OsmoHLR, against the real one.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "support/hlr/mod.rs"]
mod hlr;

use std::sync::Arc;

use simtide_protocol::aka::{Outcome, Sqn, SqnArray, Vector, authenticate};
use simtide_protocol::card_file::AuthenticationAlgorithm;
use simtide_protocol::gsup::ipa::Frame;
use simtide_protocol::gsup::{Body, Domain, Message, Procedure};
use simtide_protocol::ids::{CardId, ChangeId, Imsi};
use simtide_server::registers::algorithm::Functions;
use simtide_server::registers::front::Pooled;
use simtide_server::registers::osmo_hlr::{OsmoHlr, OsmoHlrAddresses};
use simtide_server::registers::pool::{Pool, Stock};
use simtide_server::registers::{
    NewIdentity, PoolState, Register, RegisterError, Seen, Subscriber, VectorsWanted,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A VLR by hand.
struct Vlr {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Vlr {
    async fn connect(hlr: &hlr::Hlr) -> Vlr {
        let mut vlr = Vlr { stream: TcpStream::connect(hlr.gsup()).await.unwrap(), received: Vec::new() };
        let Frame::IdGet(asked) = vlr.frame().await else { panic!("no greeting") };
        vlr.stream.write_all(&Frame::here_is("vlr-by-hand", &asked).encode()).await.unwrap();
        vlr
    }

    async fn frame(&mut self) -> Frame {
        loop {
            if let Some((frame, length)) = Frame::split(&self.received).unwrap() {
                self.received.drain(..length);
                return frame;
            }
            let mut chunk = [0; 2048];
            let read = self.stream.read(&mut chunk).await.unwrap();
            assert_ne!(read, 0, "closed");
            self.received.extend_from_slice(&chunk[..read]);
        }
    }

    /// The next message; of what we have no type for, its first octet.
    async fn message(&mut self) -> Result<Message, u8> {
        loop {
            if let Frame::Gsup(content) = self.frame().await {
                return Message::decode(&content).map_err(|_| content[0]);
            }
        }
    }

    async fn say(&mut self, imsi: Imsi, body: Body) {
        let frame = Frame::Gsup(Message { imsi, body }.encode());
        self.stream.write_all(&frame.encode()).await.unwrap();
    }

    async fn attach(&mut self, imsi: Imsi) -> bool {
        self.say(imsi, Body::UpdateLocation { domain: Some(Domain::CircuitSwitched) }).await;
        loop {
            match self.message().await.map(|message| message.body) {
                Ok(Body::InsertData { .. }) => self.say(imsi, Body::Done(Procedure::InsertData)).await,
                Ok(Body::Done(Procedure::UpdateLocation)) => return true,
                Ok(Body::Failed { .. }) => return false,
                _ => {}
            }
        }
    }
}

/// A real OsmoHLR, and our pool in front of it; none where a part of it is missing.
async fn scene() -> Option<(hlr::Hlr, tempfile::TempDir, Pooled)> {
    if let Some(missing) = hlr::missing() {
        eprintln!("skipped: {missing}");
        return None;
    }
    let hlr = hlr::Hlr::start().await;
    let directory = tempfile::tempdir().unwrap();
    let register = pooled(&hlr, &directory).await;
    Some((hlr, directory, register))
}

/// What a card with this identity says to a vector of its register.
async fn authenticated(register: &Pooled, identity: &NewIdentity, array: &mut SqnArray) -> Outcome {
    let functions = functions(identity);
    let vector = one_vector(register, identity.imsi).await;
    authenticate(&functions, array, &vector.rand, &vector.autn)
}

fn functions(identity: &NewIdentity) -> Functions {
    Functions::new(identity.algorithm, &identity.k, &identity.opc).unwrap()
}

async fn one_vector(register: &Pooled, imsi: Imsi) -> Vector {
    register.vectors(imsi, VectorsWanted::plain(1)).await.ok().unwrap().remove(0)
}

async fn pooled(hlr: &hlr::Hlr, directory: &tempfile::TempDir) -> Pooled {
    let pool = Arc::new(Pool::open(&directory.path().join("pool.db")).unwrap());
    let first = "001020000000001".parse().unwrap();
    let number = Some("43660000001".parse().unwrap());
    pool.add(Stock::range(first, 5, number, AuthenticationAlgorithm::Milenage).unwrap()).await.unwrap();
    let addresses = OsmoHlrAddresses::read(&hlr.ctrl().to_string(), None, None).unwrap();
    Pooled::new(pool, Arc::new(OsmoHlr::new(addresses)))
}

fn card() -> CardId {
    "8988211000000000011".parse().unwrap()
}

#[tokio::test]
async fn an_identity_lives_and_leaves_at_osmo_hlr() {
    let Some((hlr, _directory, register)) = scene().await else { return };
    let mut vlr = Vlr::connect(&hlr).await;
    let identity = register.reserve(ChangeId(1), card()).await.ok().unwrap();
    let imsi = identity.imsi;
    let again = register.reserve(ChangeId(1), card()).await.ok().unwrap();
    assert!(again.imsi == imsi && again.k == identity.k && again.opc == identity.opc);
    assert_eq!(register.watch(imsi).await, Ok(Seen { known: true, attached: false }));
    assert!(!vlr.attach(imsi).await, "it has no access yet");
    for _ in 0..2 {
        register.arm(ChangeId(1), imsi).await.unwrap();
    }

    let functions = functions(&identity);
    let mut array = SqnArray::default();
    let vectors = register.vectors(imsi, VectorsWanted::plain(3)).await.ok().unwrap();
    assert_eq!(vectors.len(), 3);
    for vector in &vectors {
        match authenticate(&functions, &mut array, &vector.rand, &vector.autn) {
            Outcome::Success(answer) => assert_eq!(answer.res, vector.xres),
            _ => panic!("the card refuses a vector"),
        }
    }
    // A card that has been elsewhere: resynchronised by its AUTS.
    for ind in 0..32 {
        array.accept(Sqn::from_parts(1 << 20, ind));
    }
    let vector = one_vector(&register, imsi).await;
    let Outcome::SynchronisationFailure { auts } =
        authenticate(&functions, &mut array, &vector.rand, &vector.autn)
    else {
        panic!("the card takes an old number")
    };
    let mut wrong = auts;
    wrong[13] ^= 1;
    let with =
        |auts| VectorsWanted { resynchronisation: Some((vector.rand, auts)), ..VectorsWanted::plain(1) };
    assert!(matches!(register.vectors(imsi, with(wrong)).await, Err(RegisterError::Refused(_))));
    let vector = register.vectors(imsi, with(auts)).await.ok().unwrap().remove(0);
    let outcome = authenticate(&functions, &mut array, &vector.rand, &vector.autn);
    assert!(matches!(outcome, Outcome::Success(_)), "{}", hlr.log());

    assert!(vlr.attach(imsi).await, "{}", hlr.log());
    assert_eq!(register.watch(imsi).await, Ok(Seen { known: true, attached: true }));
    let released = register.release(ChangeId(1), imsi).await;
    assert!(matches!(released, Err(RegisterError::Conflict(_))), "{released:?}");

    register.withdraw(ChangeId(2), imsi).await.unwrap();
    // The VLR hears of it.
    let told = vlr.message().await;
    assert!(told.is_ok_and(|told| told.imsi == imsi && matches!(told.body, Body::DeleteData { .. })));
    assert!(!vlr.attach(imsi).await);
    for _ in 0..2 {
        register.withdraw(ChangeId(2), imsi).await.unwrap();
        register.retire(ChangeId(2), imsi).await.unwrap();
        assert_eq!(register.watch(imsi).await, Ok(Seen::default()));
    }
    assert!(register.vectors(imsi, VectorsWanted::plain(1)).await.err() == Some(RegisterError::NotFound));
    assert_eq!(register.pool().await, Ok(PoolState { free: 4, reserved: 0, assigned: 0, retired: 1 }));
}

#[tokio::test]
async fn released_identities_go_to_the_next_change_with_other_keys() {
    let Some((_hlr, _directory, register)) = scene().await else { return };
    let first = register.reserve(ChangeId(1), card()).await.ok().unwrap();
    register.arm(ChangeId(1), first.imsi).await.unwrap();
    for _ in 0..2 {
        register.release(ChangeId(1), first.imsi).await.unwrap();
        assert_eq!(register.watch(first.imsi).await, Ok(Seen::default()));
    }
    let second = register.reserve(ChangeId(2), card()).await.ok().unwrap();
    assert!(second.imsi == first.imsi && second.k != first.k);
    register.arm(ChangeId(2), second.imsi).await.unwrap();
    let outcome = authenticated(&register, &second, &mut SqnArray::default()).await;
    assert!(matches!(outcome, Outcome::Success(_)));
}

#[tokio::test]
async fn a_foreign_subscriber_in_the_pool_s_range_is_not_overwritten() {
    let Some((hlr, _directory, register)) = scene().await else { return };
    // Another pool over the same register: what it has written is foreign to the first one.
    let other_directory = tempfile::tempdir().unwrap();
    let other = pooled(&hlr, &other_directory).await;
    let taken = other.reserve(ChangeId(7), card()).await.ok().unwrap();
    let refused = register.reserve(ChangeId(8), card()).await;
    assert!(matches!(refused.err(), Some(RegisterError::Conflict(_))));
    other.arm(ChangeId(7), taken.imsi).await.unwrap();
    let outcome = authenticated(&other, &taken, &mut SqnArray::default()).await;
    assert!(matches!(outcome, Outcome::Success(_)), "its keys are as they were");
}

#[tokio::test]
async fn first_subscriptions_are_written_with_access_and_a_dead_register_is_unreachable() {
    let Some((hlr, _directory, register)) = scene().await else { return };
    let key = |byte: u8| simtide_protocol::card_file::Secret::new(&[byte, 1, 2, 3].repeat(4)).unwrap();
    let subscriber = Subscriber {
        card: card(),
        imsi: "001010000000042".parse().unwrap(),
        algorithm: AuthenticationAlgorithm::Milenage,
        k: key(9),
        opc: key(8),
        msisdn: Some("43660000042".parse().unwrap()),
    };
    for _ in 0..2 {
        register.provision(subscriber.clone()).await.unwrap();
    }
    let mut vlr = Vlr::connect(&hlr).await;
    assert!(vlr.attach(subscriber.imsi).await);
    let tuak = Subscriber {
        imsi: "001010000000043".parse().unwrap(),
        algorithm: AuthenticationAlgorithm::Tuak,
        opc: simtide_protocol::card_file::Secret::new(&[5; 32]).unwrap(),
        ..subscriber.clone()
    };
    // This version of OsmoHLR knows no TUAK, and says so; a later one does it.
    let answer = register.provision(tuak).await;
    assert!(matches!(answer, Ok(()) | Err(RegisterError::Refused(_))), "{answer:?}");
    drop(hlr);
    let gone = register.withdraw(ChangeId(3), subscriber.imsi).await;
    assert!(matches!(gone, Err(RegisterError::Unreachable(_) | RegisterError::Unknown(_))), "{gone:?}");
    let gone = register.withdraw(ChangeId(3), subscriber.imsi).await;
    assert!(matches!(gone, Err(RegisterError::Unreachable(_))), "{gone:?}");
}
