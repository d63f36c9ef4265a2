//! The connector to OsmoHLR against a peer that answers badly; the real one is in the tests of the `simtide` crate.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use simtide_protocol::card_file::AuthenticationAlgorithm;
use simtide_protocol::gsup::ipa::Frame;
use simtide_protocol::gsup::{Message, Procedure, cause};
use simtide_protocol::ids::{CardId, ChangeId};
use simtide_server::registers::front::Pooled;
use simtide_server::registers::gsup_client::GsupClient;
use simtide_server::registers::osmo_hlr::{OsmoHlr, OsmoHlrAddresses};
use simtide_server::registers::pool::{Pool, Stock};
use simtide_server::registers::{Register, RegisterError, VectorsWanted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How the peer answers its next request.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// As OsmoHLR does.
    Well,
    /// As OsmoHLR does, after a notification.
    AfterTrap,
    /// With the number of another request.
    OtherNumber,
    /// About another variable.
    OtherVariable,
    /// The connection ends inside the answer.
    Cut,
    /// The connection ends instead of an answer.
    Closed,
    /// No CTRL at all.
    Garbage,
    /// Done nothing, and no reason that is known.
    Error,
}

/// What the peer does next, and what it holds: one subscriber without keys, once it is created.
struct Peer {
    next: Answer,
    created: bool,
    /// Orders since the test last looked.
    orders: Vec<String>,
}

type Shared = Arc<Mutex<Peer>>;

async fn play_ctrl(mut stream: TcpStream, peer: Shared) -> Option<()> {
    loop {
        let length = stream.read_u16().await.ok()?;
        let mut content = vec![0; usize::from(length) + 1];
        stream.read_exact(&mut content).await.ok()?;
        let text = String::from_utf8(content[2..].to_vec()).unwrap();
        let mut words = text.split(' ');
        let (kind, number, variable) = (words.next()?, words.next()?, words.next()?);
        let imsi = "001020000000001";
        let value = match variable {
            _ if variable.ends_with("info") => format!("\nid\t1\nimsi\t{imsi}\nnam_cs\t1"),
            _ if variable.ends_with("aud3g") && kind == "GET" => "none".to_owned(),
            _ => "OK".to_owned(),
        };
        let mut good = format!("{kind}_REPLY {number} {variable} {value}");
        let answer = {
            let mut state = peer.lock().unwrap();
            let answer = std::mem::replace(&mut state.next, Answer::Well);
            state.orders.push(words.fold(variable.to_owned(), |order, word| order + " " + word));
            let creates = variable == "subscriber.create" && !matches!(answer, Answer::Error);
            if creates && std::mem::replace(&mut state.created, true) {
                good = format!("ERROR {number} Subscriber already exists for IMSI = '{imsi}'");
            }
            answer
        };
        let (texts, cut) = match answer {
            Answer::Well => (vec![good], false),
            Answer::AfterTrap => (vec!["TRAP 0 something 1".to_owned(), good], false),
            Answer::OtherNumber => (vec![good.replacen(&format!(" {number} "), " 999999 ", 1)], false),
            Answer::OtherVariable => (vec![format!("{kind}_REPLY {number} other {value}")], false),
            Answer::Cut => (vec![good], true),
            Answer::Closed => return None,
            Answer::Garbage => (vec!["HTTP/1.1 400 Bad Request".to_owned()], false),
            Answer::Error => (vec![format!("ERROR {number} An error has occurred.")], false),
        };
        for text in texts {
            let mut frame = ((text.len() + 1) as u16).to_be_bytes().to_vec();
            frame.extend_from_slice(&[0xEE, 0x00]);
            frame.extend_from_slice(text.as_bytes());
            if cut {
                frame.truncate(frame.len() / 2);
            }
            stream.write_all(&frame).await.ok()?;
        }
        if cut {
            return None;
        }
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn bad_answers_by_ctrl_are_never_taken_and_the_next_attempt_ends_well() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, ctrl) = listen().await;
    let shared = Arc::new(Mutex::new(Peer { next: Answer::Well, created: false, orders: Vec::new() }));
    let peer = shared.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(play_ctrl(stream, peer.clone()));
        }
    });
    let pool = Arc::new(Pool::open(&directory.path().join("pool.db")).unwrap());
    let first = "001020000000001".parse().unwrap();
    pool.add(Stock::range(first, 1, None, AuthenticationAlgorithm::Milenage).unwrap()).await.unwrap();
    let addresses = OsmoHlrAddresses::read(&ctrl.to_string(), None, None).unwrap();
    let register = Pooled::new(pool, Arc::new(OsmoHlr::new(addresses)));
    let card: CardId = "8988211000000000011".parse().unwrap();
    let mut keys = None;
    for answer in [
        Answer::OtherNumber,
        Answer::OtherVariable,
        Answer::Cut,
        Answer::Closed,
        Answer::Garbage,
        Answer::Error,
        Answer::AfterTrap,
        Answer::Well,
    ] {
        shared.lock().unwrap().next = answer;
        let result = register.reserve(ChangeId(1), card).await;
        match (answer, result) {
            (Answer::Well | Answer::AfterTrap, Ok(identity)) => {
                let orders = std::mem::take(&mut shared.lock().unwrap().orders);
                let shut = orders.iter().position(|order| order.ends_with("cs-enabled 0")).unwrap();
                let keyed = orders.iter().position(|order| order.contains("aud3g milenage")).unwrap();
                assert!(shut < keyed, "created by an attempt whose answer was lost, it would have access");
                let before = keys.replace(identity.k.clone());
                assert!(before.is_none_or(|before| before == identity.k));
            }
            (Answer::Error, Err(RegisterError::Refused(_))) => {}
            (Answer::Well | Answer::AfterTrap | Answer::Error, _) => panic!("{answer:?}"),
            (_, result) => {
                let error = result.err();
                assert!(matches!(error, Some(RegisterError::Unknown(_))), "{answer:?}: {error:?}");
            }
        }
        assert_eq!(register.pool().await.unwrap().reserved, 1);
    }
}

/// Greets, then answers every request with these bytes.
async fn play_gsup(listener: TcpListener, answers: Vec<Vec<u8>>) {
    let mut answers = answers.into_iter();
    while let Ok((mut stream, _)) = listener.accept().await {
        stream.write_all(&Frame::who_is_there().encode()).await.unwrap();
        let mut received = Vec::new();
        loop {
            let mut chunk = [0; 512];
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => break,
                Ok(read) => received.extend_from_slice(&chunk[..read]),
            }
            let mut asked = false;
            while let Some((frame, length)) = Frame::split(&received).unwrap() {
                received.drain(..length);
                asked |= matches!(frame, Frame::Gsup(_));
            }
            if asked {
                let Some(answer) = answers.next() else { return };
                if answer.is_empty() || stream.write_all(&answer).await.is_err() {
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn bad_answers_by_gsup_are_no_vectors() {
    let imsi = "001020000000001".parse().unwrap();
    let other = "001020000000002".parse().unwrap();
    let failed =
        |imsi, cause| Frame::Gsup(Message::failed(imsi, Procedure::SendAuthInfo, cause).encode()).encode();
    let cut = Frame::Gsup(vec![0x0A, 0x01, 0x08, 0x00]).encode();
    // A tuple whose RES has no bytes, then the refusal that ends the wait.
    let tuple = hex::decode("0a010800010200000000f1030a20080000000000000000").unwrap();
    let (listener, address) = listen().await;
    let answers = vec![
        failed(imsi, cause::IMSI_UNKNOWN),
        failed(imsi, cause::NOT_ALLOWED),
        failed(other, cause::NOT_ALLOWED),
        Vec::new(),
        [Frame::Ping.encode(), cut, Frame::Gsup(tuple).encode(), failed(imsi, 0x6F)].concat(),
        vec![0xFF; 64],
        failed(imsi, cause::IMSI_UNKNOWN),
    ];
    tokio::spawn(play_gsup(listener, answers));
    let client = GsupClient::new(address, "platform");
    let mut found = Vec::new();
    for _ in 0..7 {
        found.push(client.vectors(imsi, VectorsWanted::plain(1)).await.err().unwrap());
    }
    assert_eq!(found[0], RegisterError::NotFound);
    assert!(matches!(&found[1], RegisterError::Refused(why) if why.contains("0x07")));
    assert!(matches!(found[2], RegisterError::Invalid(_)), "another identity's answer");
    assert!(matches!(found[3], RegisterError::Unknown(_)), "closed");
    assert!(matches!(&found[4], RegisterError::Refused(why) if why.contains("0x6f")), "{:?}", found[4]);
    assert!(matches!(found[5], RegisterError::Unknown(_)), "no frame");
    assert_eq!(found[6], RegisterError::NotFound, "on a new connection");
}
