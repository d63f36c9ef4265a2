//! EAP-AKA, requests and documents of entitlement servers, the second layer.

use std::str::FromStr;

use zeroize::Zeroizing;

use crate::aka::{Sqn, Vector};
use crate::eap::keys::{ReauthKeys, SessionKeys};
use crate::eap::packet::Packet;
use crate::eap::peer::{self, CardAnswer, Identities, Peer};
use crate::eap::server::{Command, Event, Fresh, Resolution, Session, Settings};
use crate::entitlement::{
    Application, Document, EapIdentity, Form, IdentityKind, OtaParameters, Request, relay,
};
use crate::ids::Imsi;
use crate::milenage::Milenage;
use crate::second_layer::{Channel, Content, Downlink, RootKey, Side, Uplinks};

/// The first octet chooses the session's beginning; then pieces of the input, each behind a length octet, are the
/// peer's packets. Nobody who does not have the card's key gets through, whatever is sent.
pub fn eap_server(data: &[u8]) {
    let Some((choice, mut rest)) = data.split_first() else { return };
    round_trip(rest);
    let identity = ["0001010000000001@x", "6001010000000001", "2name@x", "4name", "8name"];
    let Ok(identity) = EapIdentity::parse(identity[usize::from(*choice) % identity.len()]) else { return };
    let settings = Settings { network: "WLAN".to_owned(), result_indication: choice & 0x40 != 0 };
    let mut session = Session::new(settings);
    let mut event = Event::Begin(identity);
    loop {
        event = match session.handle(event) {
            Command::Succeed(_) => unreachable!("nobody knows the key"),
            Command::Fail(_) => return,
            Command::Resolve(identity) => {
                let is_fast = choice & 0x20 != 0 && identity.kind == IdentityKind::Reauthentication;
                let resolution = match Imsi::from_str("001010000000001") {
                    Ok(imsi) if is_fast => {
                        Resolution::Reauthentication(imsi, Box::new(earlier(identity.aka_prime)))
                    }
                    Ok(_) | Err(_) => Resolution::Unknown,
                };
                Event::Resolved(resolution, fresh())
            }
            Command::Draw { .. } => {
                let milenage = Milenage::new(&[0x5A; 16], &[0xA5; 16]);
                Event::Drawn(Vector::new(&milenage, [7; 16], Sqn::from_parts(3, 1), [0x80, 0]), fresh())
            }
            Command::Send(_) => match piece(&mut rest) {
                Some(packet) => Event::Packet(packet.to_vec()),
                None => return,
            },
        };
    }
}

/// The same for the device: pieces are the server's packets; the card agrees with everything. A run ends, and a server
/// that does not know the card's keys gets no response that proves the card.
pub fn eap_peer(data: &[u8]) {
    let Some((choice, mut rest)) = data.split_first() else { return };
    let permanent = if choice & 1 == 0 { "0001010000000001@nai.epc" } else { "6001010000000001@nai.epc" };
    let Ok(permanent) = EapIdentity::parse(permanent) else { return };
    let next = if permanent.aka_prime { "8next" } else { "4next" };
    let reauth = EapIdentity::parse(next).ok().map(|name| (name, earlier(permanent.aka_prime)));
    let identities = Identities { permanent, pseudonym: EapIdentity::parse("2name").ok(), reauth };
    let mut peer = Peer::new(identities, choice & 16 != 0, choice & 2 != 0, [3; 16], choice & 4 != 0);
    while let Some(packet) = piece(&mut rest) {
        let mut command = peer.handle(peer::Event::Packet(packet.to_vec()));
        if matches!(command, peer::Command::Authenticate { .. }) {
            let answer = if choice & 8 == 0 {
                let (ck, ik) = (Zeroizing::new([0x11; 16]), Zeroizing::new([0x22; 16]));
                CardAnswer::Success { res: vec![0x33; 8], ck, ik }
            } else {
                CardAnswer::SynchronisationFailure { auts: [0x44; 14] }
            };
            command = peer.handle(peer::Event::Card(answer));
        }
        match command {
            peer::Command::Send(packet) => assert!(Packet::decode(&packet).is_ok(), "ours can be read"),
            peer::Command::GiveUp(packet, _) => {
                assert!(Packet::decode(&packet).is_ok(), "ours can be read");
                return;
            }
            peer::Command::Authenticate { .. } | peer::Command::Fail(_) => return,
        }
    }
}

/// Queries and bodies: what is read is written and reads the same.
pub fn entitlement_request(data: &[u8]) {
    let _ = relay::from_body(data);
    let query = std::str::from_utf8(data).ok().and_then(|query| Request::from_query(query).ok());
    let body = Request::from_json(data).ok();
    for request in [query, body].into_iter().flatten() {
        assert_eq!(Request::from_json(&request.to_json()), Ok(request.clone()));
        let without = Request { ota_data: None, ..request };
        assert_eq!(Request::from_query(&without.to_query()).as_ref(), Ok(&without));
    }
}

/// Documents of either form: what is read is written and reads the same.
pub fn entitlement_document(data: &[u8]) {
    let Ok(document) = Document::from_bytes(data) else { return };
    for app in &document.apps {
        let _ = OtaParameters::from_application(app);
    }
    let again = Document::from_bytes(&document.to_bytes(Form::Xml)).map(|again| again.apps.len());
    assert_eq!(again, Ok(document.apps.len()));
    let count = |app: &Application| app.parameters.len();
    let largest = document.apps.iter().map(count).max().unwrap_or_default();
    assert!(largest <= 2_000, "documents are bounded");
}

/// Messages and payloads: without the key nothing opens; a payload that is read is written and reads the same; and any
/// bytes sealed open again.
pub fn second_layer(data: &[u8]) {
    let root = RootKey::from_emsk(&[0x77; 64], "0001010000000001@x", "aes.example");
    let (mut server, mut device) = (Channel::new(&root, Side::Server), Channel::new(&root, Side::Device));
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(device.open(Content::Items, text).is_err(), "nobody knows the key");
        let _ = Channel::kid_of(text);
    }
    if let Ok(downlink) = Downlink::from_json(data) {
        assert_eq!(Downlink::from_json(&downlink.to_json()), Ok(downlink));
    }
    if let Ok(uplinks) = Uplinks::from_json(data) {
        assert_eq!(Uplinks::from_json(&uplinks.to_json()), Ok(uplinks));
    }
    if let Ok(message) = server.seal([1; 12], Content::Items, data) {
        assert_eq!(device.open(Content::Items, &message).as_deref().map(Vec::as_slice), Ok(data));
        assert!(device.open(Content::Items, &message).is_err(), "no message opens twice");
    }
}

fn round_trip(data: &[u8]) {
    if let Ok(packet) = Packet::decode(data) {
        let again = Packet::decode(&packet.encode());
        assert_eq!(again, Ok(packet), "what is read is written and reads the same");
    }
}

fn piece<'d>(rest: &mut &'d [u8]) -> Option<&'d [u8]> {
    let (length, after) = rest.split_first()?;
    let (piece, after) = after.split_at(usize::from(*length).min(after.len()));
    *rest = after;
    Some(piece)
}

/// What an earlier run left.
fn earlier(aka_prime: bool) -> ReauthKeys {
    let keys = if aka_prime { SessionKeys::aka_prime } else { SessionKeys::aka };
    keys("earlier", &[0x5A; 16], &[0xA5; 16]).reauth_keys(3)
}

fn fresh() -> Fresh {
    Fresh {
        iv: [1; 16],
        nonce_s: [2; 16],
        notification_iv: [3; 16],
        pseudonym: Some("2next".to_owned()),
        reauth_id: Some("4next".to_owned()),
    }
}
