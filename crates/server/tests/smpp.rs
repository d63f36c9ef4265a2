//! The SMPP link, and the service centre of the simulation, against an implementation of others: `smpp34`.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::ssl::{Ssl, SslAcceptor, SslMethod};
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509NameBuilder};
use simtide_server::smpp::{
    BindMode, DeliveryState, Link, LinkConfig, LinkEvent, LinkHandle, Password, StopReason, Submit,
    TlsConfig, Verdict,
};
use simtide_simulation::smsc::{Settings, Smsc};
use smpp34::client::{BIND_TYPE, SMSC, SmppClient, SmppClientListener};
use smpp34::server::ESME;
use smpp34::{
    SmppConnectionInformation, SmppError, SmppServer, SmppServerListener, bind_receiver, bind_receiver_resp,
    bind_transceiver, bind_transceiver_resp, bind_transmitter, bind_transmitter_resp, deliver_sm,
    deliver_sm_resp, submit_sm, submit_sm_resp,
};
use tokio::sync::mpsc;
use tokio_openssl::SslStream;

/// Only so that a hanging test ends.
const PATIENCE: Duration = Duration::from_secs(30);

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn soon<T>(what: impl Future<Output = Option<T>>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("nothing happens").unwrap()
}

/// Their service centre: hands out what it gets.
struct Listener {
    submits: mpsc::UnboundedSender<submit_sm>,
    bound: mpsc::UnboundedSender<ESME>,
    password: String,
}

#[async_trait]
impl SmppServerListener for Listener {
    async fn on_bind_transceiver(
        &self,
        bind: bind_transceiver,
        _: &SmppConnectionInformation,
        _: &String,
    ) -> bind_transceiver_resp {
        if bind.password == self.password {
            bind.accept("theirs".to_owned(), Some(0x34))
        } else {
            bind.reject(SmppError::ESME_RINVPASWD)
        }
    }

    async fn on_bind_transmitter(
        &self,
        bind: bind_transmitter,
        _: &SmppConnectionInformation,
        _: &String,
    ) -> bind_transmitter_resp {
        bind.accept("theirs".to_owned(), Some(0x34))
    }

    async fn on_bind_receiver(
        &self,
        bind: bind_receiver,
        _: &SmppConnectionInformation,
        _: &String,
    ) -> bind_receiver_resp {
        bind.accept("theirs".to_owned(), None)
    }

    async fn on_submit_sm(
        &self,
        submit: submit_sm,
        _: &SmppConnectionInformation,
        _: &String,
    ) -> submit_sm_resp {
        let id = "00A7".to_owned();
        self.submits.send(submit.clone()).unwrap();
        submit.accept(id)
    }

    async fn on_esme_bound(&self, esme: ESME, _: &String) {
        self.bound.send(esme).unwrap();
    }
}

struct Theirs {
    server: SmppServer,
    submits: mpsc::UnboundedReceiver<submit_sm>,
    bound: mpsc::UnboundedReceiver<ESME>,
    config: LinkConfig,
}

impl Theirs {
    async fn start() -> Theirs {
        let port = free_port();
        let (submits, seen) = mpsc::unbounded_channel();
        let (bound, binds) = mpsc::unbounded_channel();
        let listener = Arc::new(Listener { submits, bound, password: "secret".into() });
        let mut server = SmppServer::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port, listener);
        server.start().await;
        let config = LinkConfig {
            port,
            system_id: "simtide".into(),
            password: Password::new("secret"),
            ..LinkConfig::default()
        };
        Theirs { server, submits: seen, bound: binds, config }
    }
}

async fn up(config: LinkConfig) -> (LinkHandle, mpsc::Receiver<LinkEvent>) {
    let (sender, mut events) = mpsc::channel(1_000);
    let link = Link::start(config, sender).unwrap();
    assert_eq!(soon(events.recv()).await, LinkEvent::Up);
    (link, events)
}

/// Sends a delivery while we take it. Their service centre drops the answers that come from a receiver.
async fn answered<A, T>(
    bind_mode: BindMode,
    sending: impl Future<Output = A>,
    taking: impl Future<Output = T>,
) -> (Option<A>, T) {
    let mut sending = std::pin::pin!(sending);
    let mut taking = std::pin::pin!(taking);
    let (early, taken) = tokio::select! {
        answer = &mut sending => (Some(answer), taking.await),
        taken = &mut taking => (None, taken),
    };
    match (early, bind_mode) {
        (None, BindMode::Transceiver) => (Some(sending.await), taken),
        (early, _) => (early, taken),
    }
}

#[tokio::test]
async fn their_service_centre_reads_our_submits_and_we_read_its_deliveries() {
    for bind_mode in [BindMode::Transceiver, BindMode::TransmitterReceiver] {
        let mut theirs = Theirs::start().await;
        let (link, mut events) = up(LinkConfig { bind_mode, ..theirs.config.clone() }).await;
        let user_data = vec![0x02, 0x70, 0x00, 0x00, 0xFF];
        let submit = Submit {
            validity_s: 3_600,
            user_message_reference: 0x0107,
            ..Submit::binary(7, "436641234567".parse().unwrap(), user_data.clone())
        };
        link.submit(submit).unwrap();
        let seen = soon(theirs.submits.recv()).await;
        assert_eq!(
            (seen.destination_addr.as_str(), seen.dest_addr_ton, seen.dest_addr_npi),
            ("436641234567", 1, 1)
        );
        assert_eq!((seen.esm_class, seen.protocol_id, seen.data_coding), (0x40, 0x7F, 0xF6));
        assert_eq!((seen.validity_period.as_str(), seen.registered_delivery), ("000000010000000R", 1));
        assert_eq!(seen.short_message, user_data);
        let LinkEvent::Accepted { token: 7, message_id } = soon(events.recv()).await else {
            panic!("not accepted")
        };

        let esme = loop {
            let esme = soon(theirs.bound.recv()).await;
            if esme.can_receive {
                break esme;
            }
        };
        let id = u32::from_str_radix(&message_id, 16).unwrap();
        let text = format!(
            "id:{id:010} sub:001 dlvrd:001 submit date:2611210930 done date:2611210930 stat:DELIVRD err:000 text:"
        );
        let receipt =
            esme.deliver_sm().source_addr("436641234567").esm_class(0x04).short_message(text.into_bytes());
        let (answer, ()) = answered(bind_mode, receipt.send(), async {
            let LinkEvent::Receipt(receipt) = soon(events.recv()).await else { panic!("no receipt") };
            assert_eq!((receipt.token, receipt.state), (Some(7), DeliveryState::Delivered));
        })
        .await;
        assert!(answer.is_none_or(|answer| answer.unwrap().is_success()));

        let message = esme.deliver_sm().source_addr("436641234567").destination_addr("500");
        let message = message.esm_class(0x41).data_coding(0x02).short_message(vec![0x02, 0x71, 0x00]);
        let (answer, ()) = answered(bind_mode, message.send(), async {
            let LinkEvent::Message(message) = soon(events.recv()).await else { panic!("no message") };
            assert_eq!((message.udhi, message.user_data.as_slice()), (true, &[0x02, 0x71, 0x00][..]));
            link.answer(message.answer, Verdict::Taken);
        })
        .await;
        assert!(answer.is_none_or(|answer| answer.unwrap().is_success()));

        link.shutdown();
        while soon(events.recv()).await != (LinkEvent::Stopped { reason: StopReason::Requested }) {}
        theirs.server.stop().await;
    }
}

#[tokio::test]
async fn their_refusal_of_the_password_ends_the_link() {
    let mut theirs = Theirs::start().await;
    let (sender, mut events) = mpsc::channel(10);
    let config = LinkConfig { password: Password::new("wrong"), ..theirs.config.clone() };
    let _link = Link::start(config, sender).unwrap();
    assert_eq!(soon(events.recv()).await, LinkEvent::Stopped { reason: StopReason::Bind(0x0E) });
    theirs.server.stop().await;
}

/// Their platform: hands out what it gets.
struct Client {
    bound: mpsc::UnboundedSender<SMSC>,
    deliveries: mpsc::UnboundedSender<deliver_sm>,
}

#[async_trait]
impl SmppClientListener for Client {
    async fn on_smsc_bound(&self, smsc: SMSC, _: &String) {
        // Nobody waits for a second one.
        let _ = self.bound.send(smsc);
    }

    async fn on_deliver_sm(
        &self,
        delivery: deliver_sm,
        _: &SmppConnectionInformation,
        _: &String,
    ) -> deliver_sm_resp {
        let _ = self.deliveries.send(delivery.clone());
        delivery.accept()
    }
}

#[tokio::test]
async fn their_platform_submits_to_our_service_centre_and_reads_its_receipt() {
    let any = "127.0.0.1:0".parse().unwrap();
    let clock = simtide_agent::clock::Clock { real_anchor_ms: 0, virtual_anchor_ms: 0, rate: 360_000.0 };
    let smsc = Smsc::start(Settings::default(), any, any, clock, None).await.unwrap();
    let (bound, mut binds) = mpsc::unbounded_channel();
    let (deliveries, mut seen) = mpsc::unbounded_channel();
    let mut client = SmppClient::new(
        "127.0.0.1".to_owned(),
        smsc.smpp.port(),
        false,
        BIND_TYPE::TRX,
        "simtide".to_owned(),
        "simtide".to_owned(),
        String::new(),
        0,
        0,
        String::new(),
        Arc::new(Client { bound, deliveries }),
        10,
    );
    client.start().await;
    let theirs = soon(binds.recv()).await;
    let submit = theirs.submit_sm().source_addr("500").destination_addr("436641234567");
    let submit =
        submit.validity_period("000000001000000R").registered_delivery(1).short_message(vec![1, 2, 3]);
    let answer = submit.send().await.unwrap();
    assert_eq!(answer.message_id.as_deref(), Some("1"));
    // Nobody is there, so its validity ends.
    let receipt = soon(seen.recv()).await;
    assert_eq!((receipt.esm_class, receipt.source_addr.as_str()), (0x04, "436641234567"));
    let text = String::from_utf8(receipt.short_message).unwrap();
    assert!(text.starts_with("id:0000000001 ") && text.contains("stat:EXPIRED"), "{text}");
    client.stop().await;
}

/// A self-signed certificate for `smsc.test`: the acceptor that shows it, and the file that holds it.
fn certificate(folder: &std::path::Path) -> (SslAcceptor, std::path::PathBuf) {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "smsc.test").unwrap();
    let name = name.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    let alternative =
        SubjectAlternativeName::new().dns("smsc.test").build(&builder.x509v3_context(None, None)).unwrap();
    builder.append_extension(alternative).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    let certificate = builder.build();
    let file = folder.join("smsc.pem");
    std::fs::write(&file, certificate.to_pem().unwrap()).unwrap();
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_private_key(&key).unwrap();
    acceptor.set_certificate(&certificate).unwrap();
    (acceptor.build(), file)
}

/// Ends TLS in front of a plain service centre; answers its address.
async fn in_front_of(smsc: std::net::SocketAddr, acceptor: SslAcceptor) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let ssl = Ssl::new(acceptor.context()).unwrap();
            let mut stream = SslStream::new(ssl, stream).unwrap();
            tokio::spawn(async move {
                if std::pin::Pin::new(&mut stream).accept().await.is_ok() {
                    let mut plain = tokio::net::TcpStream::connect(smsc).await.unwrap();
                    // Ends when either side does.
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_link_over_tls_trusts_only_whom_it_was_told_to() {
    let any = "127.0.0.1:0".parse().unwrap();
    let clock = simtide_agent::clock::Clock::REAL;
    let smsc = Smsc::start(Settings::default(), any, any, clock, None).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (acceptor, ca_file) = certificate(folder.path());
    let door = in_front_of(smsc.smpp, acceptor).await;
    let password_file = folder.path().join("password");
    std::fs::write(&password_file, "simtide\n").unwrap();
    let config = |server_name: &str, ca_file: Option<std::path::PathBuf>| LinkConfig {
        port: door.port(),
        system_id: "simtide".into(),
        password_file: Some(password_file.clone()),
        tls: Some(TlsConfig { ca_file, server_name: Some(server_name.into()), ..TlsConfig::default() }),
        ..LinkConfig::default()
    };
    let (link, mut events) = up(config("smsc.test", Some(ca_file.clone()))).await;
    link.submit(Submit::binary(1, "436641234567".parse().unwrap(), vec![0x02, 0x70, 0x00])).unwrap();
    assert!(matches!(soon(events.recv()).await, LinkEvent::Accepted { token: 1, .. }));

    // Another name, and nobody's word for it: the bind, and with it the password, never leaves.
    for config in [config("other.test", Some(ca_file)), config("smsc.test", None)] {
        let (sender, mut events) = mpsc::channel(10);
        let link = Link::start(config, sender).unwrap();
        while link.figures().faults == 0 {
            tokio::task::yield_now().await;
        }
        assert!(events.try_recv().is_err(), "nothing has happened");
    }
    assert_eq!(smsc.figures().bound, 1);
}
