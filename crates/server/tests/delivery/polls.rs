//! Polls beside other bearers: what a poll carries, and what it leaves alone.

use std::pin::Pin;

use openssl::ssl::{Ssl, SslContextBuilder, SslMethod, SslVersion};
use simtide_protocol::apdu;
use simtide_protocol::scp81::{Framing, Limits, Request, Response, ResponseDecoder, ScriptStatus};
use simtide_protocol::script::expanded::{Items, LengthForm, ResponseWriter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use super::*;

async fn connect(address: SocketAddr, n: u32) -> SslStream<TcpStream> {
    let identity = std::ffi::CString::new(iccid(n).to_string()).unwrap();
    let mut builder = SslContextBuilder::new(SslMethod::tls_client()).unwrap();
    builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    builder.set_cipher_list("PSK-AES128-CBC-SHA256").unwrap();
    builder.set_psk_client_callback(move |_, _, out, psk| {
        let identity = identity.as_bytes_with_nul();
        out[..identity.len()].copy_from_slice(identity);
        psk[..16].copy_from_slice(&PSK);
        Ok(16)
    });
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut stream = SslStream::new(Ssl::new(&builder.build()).unwrap(), tcp).unwrap();
    Pin::new(&mut stream).connect().await.unwrap();
    stream
}

async fn receive(stream: &mut SslStream<TcpStream>, decoder: &mut ResponseDecoder) -> Response {
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "the server closed");
        if let Some(response) = decoder.receive(&buffer[..count]).unwrap() {
            return response;
        }
    }
}

/// The scripts that a poll brings, each answered well.
async fn poll(address: SocketAddr, n: u32) -> Vec<Vec<u8>> {
    let mut stream = connect(address, n).await;
    let mut request =
        Request::first("/poll".parse().unwrap(), "ota".parse().unwrap(), "card".parse().unwrap());
    let mut decoder = ResponseDecoder::new(Limits::default());
    let mut scripts = Vec::new();
    loop {
        stream.write_all(&request.encode(Framing::ContentLength)).await.unwrap();
        let response = receive(&mut stream, &mut decoder).await;
        if response.status == 204 {
            return scripts;
        }
        assert_eq!(response.status, 200);
        let mut writer = ResponseWriter::new(LengthForm::Definite);
        for item in Items::new(&response.body).unwrap() {
            item.unwrap();
            writer.response(&apdu::Response::status(apdu::StatusWord::OK));
        }
        scripts.push(response.body);
        request = Request {
            target: response.next_uri.clone().unwrap(),
            script_status: Some(ScriptStatus::Ok),
            content_type: response.content_type.map(|kind| kind.of_response()),
            body: writer.finish(),
            ..request
        };
    }
}

fn counts(scripts: &[Vec<u8>]) -> usize {
    let increase = [0x80, 0x32, 0x00, 0x00, 0x03, 0x00, 0x00, 0x01];
    scripts.iter().map(|script| script.windows(8).filter(|bytes| *bytes == increase).count()).sum()
}

#[tokio::test]
async fn a_poll_carries_a_delivery_and_tells_what_became_of_it() {
    let store = store(1, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let id = create(&platform, wanted(0, &[Bearer::Poll], content(false, &[counting()]))).await;
    assert_eq!(ask(&platform, 0).await, [], "not by this bearer");
    assert_eq!(counts(&poll(platform.port.address(), 0).await), 1);
    until(async || !state(&platform, id).await.is_open()).await;
    assert_eq!(state(&platform, id).await, State::Proven { by: Bearer::Poll });
    assert_eq!(counts(&poll(platform.port.address(), 0).await), 0, "once");
    let row = store.card(card(0)).await.unwrap().unwrap();
    assert!(row.exceptions.is_empty() && !row.hot.applied.has(1), "{row:?}");
    platform.stop().await;
}

#[tokio::test]
async fn what_a_device_holds_no_poll_repeats_and_what_a_poll_did_no_device_gets() {
    let store = store(2, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let definition: Definition = serde_json::from_value(json!({
        "content": { "repeatable": false, "variants": { "*": [counting()] } },
        "settings": { "never_seen": "like-others" },
    }))
    .unwrap();
    let campaign = platform.campaigns.create(TENANT, "count", &definition).await.unwrap();
    platform.campaigns.start(TENANT, campaign.id).await.unwrap();
    // Card 0: its device has fetched the content, and then the card polls before it has got it.
    let [item] = &ask(&platform, 0).await[..] else { panic!("the campaign waits") };
    platform.deliveries.fetched(card(0), vec![item.id.clone()]).await.unwrap();
    assert_eq!(counts(&poll(platform.port.address(), 0).await), 0, "left to the copy that is under way");
    let mut holder = Holder::new(0);
    carry(&platform, &mut holder, item).await;
    assert_eq!(holder.effects(), 1);
    assert!(store.card(card(0)).await.unwrap().unwrap().hot.applied.has(1));
    assert_eq!(counts(&poll(platform.port.address(), 0).await), 0);
    // Card 1: its poll is first.
    assert_eq!(counts(&poll(platform.port.address(), 1).await), 1);
    assert_eq!(ask(&platform, 1).await, []);
    let progress = store.progress(campaign.id).await.unwrap();
    assert_eq!((progress.done_by_command, progress.done_by_poll), (1, 1));
    platform.stop().await;
}
