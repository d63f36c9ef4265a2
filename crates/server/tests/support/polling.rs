//! A card that polls, played by a test: TLS-PSK, requests, and scripts that are all executed well.

use std::net::SocketAddr;
use std::pin::Pin;

use openssl::ssl::{Ssl, SslContextBuilder, SslMethod, SslVersion};
use simtide_protocol::apdu;
use simtide_protocol::ids::Iccid;
use simtide_protocol::scp81::{Framing, Limits, Request, Response, ResponseDecoder, ScriptStatus};
use simtide_protocol::script::expanded::{Items, LengthForm, ResponseWriter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

/// The key of every card.
pub const PSK: [u8; 16] = [0x42; 16];

/// The first request of a session.
pub fn first_request() -> Request {
    Request::first("/poll".parse().unwrap(), "ota".parse().unwrap(), "card".parse().unwrap())
}

/// The scripts that a poll brings, each answered well.
pub async fn poll(address: SocketAddr, card: Iccid) -> Vec<Vec<u8>> {
    let mut stream = connect(address, card).await;
    let mut request = first_request();
    let mut decoder = ResponseDecoder::new(Limits::default());
    let mut scripts = Vec::new();
    loop {
        stream.write_all(&request.encode(Framing::ContentLength)).await.unwrap();
        let response = receive(&mut stream, &mut decoder).await;
        if response.status == 204 {
            return scripts;
        }
        assert_eq!(response.status, 200);
        request = Request {
            target: response.next_uri.clone().unwrap(),
            script_status: Some(ScriptStatus::Ok),
            content_type: response.content_type.map(|kind| kind.of_response()),
            body: execute(&response.body),
            ..request
        };
        scripts.push(response.body);
    }
}

/// A session of this card, its handshake done.
pub async fn connect(address: SocketAddr, card: Iccid) -> SslStream<TcpStream> {
    let identity = std::ffi::CString::new(card.to_string()).unwrap();
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

/// The next answer of the platform.
pub async fn receive(stream: &mut SslStream<TcpStream>, decoder: &mut ResponseDecoder) -> Response {
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "the server closed");
        if let Some(response) = decoder.receive(&buffer[..count]).unwrap() {
            return response;
        }
    }
}

fn execute(script: &[u8]) -> Vec<u8> {
    let mut writer = ResponseWriter::new(LengthForm::Definite);
    for item in Items::new(script).unwrap() {
        item.unwrap();
        writer.response(&apdu::Response::status(apdu::StatusWord::OK));
    }
    writer.finish()
}
