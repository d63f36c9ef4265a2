//! An operator that keeps its keys: its own server seals and opens, with an encoder that has nothing of ours.

use std::sync::Mutex;

use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use openssl::symm::{Cipher, Crypter, Mode};

use super::*;

/// What the operator's server does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    Unciphered,
    OtherReceiver,
    OtherKeySet,
    Down,
    Nonsense,
}

pub struct Keeper {
    fault: Mutex<Fault>,
    /// Card, counter: how often it was asked to seal.
    asked: Mutex<Vec<u64>>,
}

impl Keeper {
    /// How often it was asked to seal.
    pub fn sealed(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// Whole blocks, zero IV, no padding of its own.
fn run(mode: Mode, key: &[u8], input: &[u8]) -> Vec<u8> {
    let cipher = Cipher::aes_128_cbc();
    let mut crypter = Crypter::new(cipher, mode, key, Some(&[0; 16])).unwrap();
    crypter.pad(false);
    let mut output = vec![0; input.len() + 16];
    let mut count = crypter.update(input, &mut output).unwrap();
    count += crypter.finalize(&mut output[count..]).unwrap();
    output.truncate(count);
    output
}

/// NIST SP 800-38B, the first 8 bytes.
fn cmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let double = |block: &[u8]| {
        let wide = u128::from_be_bytes(block.try_into().unwrap());
        ((wide << 1) ^ if wide >> 127 == 1 { 0x87 } else { 0 }).to_be_bytes()
    };
    let first = double(&run(Mode::Encrypt, key, &[0; 16]));
    let mut padded = message.to_vec();
    let subkey = if !message.is_empty() && message.len().is_multiple_of(16) {
        first
    } else {
        padded.push(0x80);
        padded.resize(padded.len().next_multiple_of(16), 0);
        double(&first)
    };
    let last = padded.len() - 16;
    padded[last..].iter_mut().zip(subkey).for_each(|(byte, key)| *byte ^= key);
    run(Mode::Encrypt, key, &padded)[last..last + 8].to_vec()
}

/// ETSI TS 102 225, 5.1: CPL, CHL, SPI, KIc, KID, TAR; then ciphered: CNTR, PCNTR, CC, data, padding.
pub fn seal(n: u32, request: &Value, fault: Fault) -> Vec<u8> {
    let text = |name: &str| request[name].as_str().unwrap().to_owned();
    let mut spi = hex::decode(text("spi")).unwrap();
    let mut tar = hex::decode(text("tar")).unwrap();
    let mut octet = (request["key_set"].as_u64().unwrap() as u8) << 4 | 0x02;
    match fault {
        Fault::Unciphered => spi[0] &= !0x04,
        Fault::OtherReceiver => tar[2] ^= 1,
        Fault::OtherKeySet => octet += 0x10,
        _ => {}
    }
    let counter = request["counter"].as_u64().unwrap().to_be_bytes()[3..].to_vec();
    let mut data = STANDARD.decode(text("data")).unwrap();
    let padding = (16 - (5 + 1 + 8 + data.len()) % 16) % 16;
    data.resize(data.len() + padding, 0);
    let clear = [&spi[..], &[octet, octet], &tar].concat();
    let header_length = clear.len() + 6 + 8;
    let head = [&((1 + header_length + data.len()) as u16).to_be_bytes()[..], &[header_length as u8], &clear]
        .concat();
    let secret = [&counter[..], &[padding as u8]].concat();
    let check = cmac(&key_bytes(n, 0x22), &[&head[..], &secret, &data].concat());
    let body = [secret, check, data].concat();
    let body = if spi[0] & 0x04 == 0 { body } else { run(Mode::Encrypt, &key_bytes(n, 0x11), &body) };
    [head, body].concat()
}

/// ETSI TS 102 225, 5.2: RPL, RHL, TAR; then ciphered: CNTR, PCNTR, status, CC, data, padding.
fn open(n: u32, packet: &[u8]) -> Option<(u64, u8, Vec<u8>)> {
    let (head, body) = packet.split_at_checked(6)?;
    if usize::from(u16::from_be_bytes([head[0], head[1]])) != packet.len() - 2 || body.len() % 16 != 0 {
        return None;
    }
    let body = run(Mode::Decrypt, &key_bytes(n, 0x11), body);
    let (secret, rest) = body.split_at_checked(7)?;
    let (check, data) = rest.split_at_checked(8)?;
    let covered = [&[0x02, 0x71, 0x00][..], head, secret, data].concat();
    if cmac(&key_bytes(n, 0x22), &covered) != check {
        return None;
    }
    let counter = secret[..5].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    Some((counter, secret[6], data[..data.len() - usize::from(secret[5])].to_vec()))
}

fn of_card(request: &Value) -> u32 {
    (0..10).find(|n| card(*n).to_string() == request["card"].as_str().unwrap()).unwrap()
}

fn authorised(headers: &HeaderMap) {
    assert_eq!(headers["authorization"], "Bearer operator-secret");
}

async fn seal_route(
    Shared(keeper): Shared<Arc<Keeper>>,
    headers: HeaderMap,
    Json(request): Json<Value>,
) -> Result<Json<Value>, StatusCode> {
    authorised(&headers);
    keeper.asked.lock().unwrap().push(request["counter"].as_u64().unwrap());
    let fault = *keeper.fault.lock().unwrap();
    match fault {
        Fault::Down => Err(StatusCode::SERVICE_UNAVAILABLE),
        Fault::Nonsense => Ok(Json(json!({ "packet": "AAAA" }))),
        _ => Ok(Json(json!({ "packet": STANDARD.encode(seal(of_card(&request), &request, fault)) }))),
    }
}

async fn open_route(headers: HeaderMap, Json(request): Json<Value>) -> Result<Json<Value>, StatusCode> {
    authorised(&headers);
    let packet = STANDARD.decode(request["packet"].as_str().unwrap()).unwrap();
    let (counter, status, data) = open(of_card(&request), &packet).ok_or(StatusCode::NOT_FOUND)?;
    let data = STANDARD.encode(data);
    Ok(Json(json!({ "authenticated": true, "counter": counter, "status": status, "data": data })))
}

/// The platform of an operator that keeps its keys, and that operator's server.
pub async fn kept_elsewhere(folder: &std::path::Path) -> (Arc<Platform>, Arc<Keeper>) {
    let keeper = Arc::new(Keeper { fault: Mutex::new(Fault::None), asked: Mutex::default() });
    let routes = Router::new().route("/ota/seal", post(seal_route)).route("/ota/open", post(open_route));
    let routes = routes.with_state(keeper.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/ota", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let token = folder.join("token");
    std::fs::write(&token, "operator-secret\n").unwrap();
    let more = format!(
        "[sealing]\nby = \"operator\"\noperators = [\"operator\"]\nurl = {url:?}\ntoken_file = {token:?}\n"
    );
    let store = store(1, Clock::REAL.now()).await;
    (start_without_keys(&store, &more).await, keeper)
}

#[tokio::test]
async fn the_operators_own_server_seals_and_opens_and_the_platform_holds_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let (platform, keeper) = kept_elsewhere(folder.path()).await;
    let id = create(&platform, wanted(0, &[Bearer::Ip], content(false, &[counting(), counting()]))).await;
    let mut holder = Holder::new(0);
    for _ in 0..2 {
        let [item] = &ask(&platform, 0).await[..] else { panic!("it waits") };
        assert_eq!(carry(&platform, &mut holder, item).await, [Verdict::Accepted]);
    }
    assert_eq!((state(&platform, id).await, holder.effects()), (State::Proven { by: Bearer::Ip }, 2));
    assert_eq!(*keeper.asked.lock().unwrap(), [1, 2]);
    platform.stop().await;
}

#[tokio::test]
async fn what_its_server_changes_or_refuses_does_not_leave() {
    let folder = tempfile::tempdir().unwrap();
    let (platform, keeper) = kept_elsewhere(folder.path()).await;
    let id = create(&platform, wanted(0, &[Bearer::Ip], content(true, &[counting()]))).await;
    let faults = [Fault::Unciphered, Fault::OtherReceiver, Fault::OtherKeySet, Fault::Down, Fault::Nonsense];
    for fault in faults {
        *keeper.fault.lock().unwrap() = fault;
        assert_eq!(ask(&platform, 0).await, [], "{fault:?}");
    }
    *keeper.fault.lock().unwrap() = Fault::None;
    let [item] = &ask(&platform, 0).await[..] else { panic!("it waits still") };
    let mut holder = Holder::new(0);
    carry(&platform, &mut holder, item).await;
    assert_eq!((state(&platform, id).await, holder.effects()), (State::Proven { by: Bearer::Ip }, 1));
    assert!(keeper.asked.lock().unwrap().iter().all(|counter| *counter == 1), "one counter for all attempts");
    platform.stop().await;
}
