//! A whole poll with real parts: a card in software, its device, TCP, and a TLS-PSK server written for the test.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openssl::ssl::{Ssl, SslContextBuilder, SslMethod, SslStream, SslVersion};
use simtide_agent::channel::OpensslChannels;
use simtide_agent::clock::{Clock, real_now};
use simtide_agent::network::Networks;
use simtide_agent::personalization::of_test_card;
use simtide_agent::port::soft::SoftPort;
use simtide_agent::port::{CardPort, PortError};
use simtide_agent::runner::Runner;
use simtide_card::Card;
use simtide_device::{Device, Kind, Settings};
use simtide_protocol::card_file::Secret;
use simtide_protocol::ids::{ChangeId, Imsi};
use simtide_protocol::personalization::{
    Answer, Identity, Message, OperatorFiles, Options, Protection, State, commands,
};
use simtide_protocol::poll_date::PollFile;
use simtide_protocol::profile::Profile;
use simtide_protocol::script::expanded::{LengthForm, Response, ScriptWriter};
use tokio::sync::{mpsc, oneshot};

/// A port whose card the test can read as well.
#[derive(Clone)]
struct Shared(Arc<Mutex<SoftPort>>);

impl CardPort for Shared {
    fn reset(&mut self) -> Result<Vec<u8>, PortError> {
        self.0.lock().unwrap().reset()
    }

    fn transmit(&mut self, command: &[u8], response: &mut Vec<u8>) -> Result<(), PortError> {
        self.0.lock().unwrap().transmit(command, response)
    }
}

impl Shared {
    /// The same where the channel may have gone with a reset.
    fn try_ask(&mut self, command: &str) -> Option<String> {
        let mut response = Vec::new();
        self.transmit(&hex::decode(command).unwrap(), &mut response).unwrap();
        let status = response.split_off(response.len() - 2);
        matches!(status[0], 0x90 | 0x91).then(|| hex::encode_upper(response))
    }

    /// One command in hex, on a logical channel of its own where its class says so; gives the data.
    fn ask(&mut self, command: &str) -> String {
        let mut response = Vec::new();
        self.transmit(&hex::decode(command).unwrap(), &mut response).unwrap();
        let status = response.split_off(response.len() - 2);
        // 91xx on any channel: done, and the toolkit has something for the device.
        assert!(matches!(status[0], 0x90 | 0x91), "{command}: {}", hex::encode(status));
        hex::encode_upper(response)
    }
}

/// One request with its whole body of so many bytes.
fn request(stream: &mut SslStream<std::net::TcpStream>) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length =
        head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).map_or(0, |l| l.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head, body)
}

/// Serves one poll: a script for an application, its result, the end. Gives the heads and the result.
fn serve(listener: TcpListener, application: &str, script: &[u8]) -> (String, String, Vec<u8>) {
    let mut context = SslContextBuilder::new(SslMethod::tls_server()).unwrap();
    context.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    context.set_cipher_list("PSK-AES128-CBC-SHA256").unwrap();
    context.set_psk_server_callback(|_, identity, psk| {
        assert_eq!(identity, Some(&b"8988211000000000011"[..]));
        psk[..16].copy_from_slice(&[0x55; 16]);
        Ok(16)
    });
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut stream = SslStream::new(Ssl::new(&context.build()).unwrap(), stream).unwrap();
    stream.accept().unwrap();
    let (first, _) = request(&mut stream);
    let head = format!(
        "HTTP/1.1 200 OK\r\nX-Admin-Protocol: globalplatform-remote-admin/1.0\r\nX-Admin-Next-URI: /next?step=2\r\n\
         Content-Type: application/vnd.etsi.scp.command-data;version=1.0\r\n\
         X-Admin-Targeted-Application: //aid/A000000559/{application}\r\nContent-Length: {}\r\n\r\n",
        script.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(script).unwrap();
    let (second, result) = request(&mut stream);
    stream
        .write_all(b"HTTP/1.1 204 No Content\r\nX-Admin-Protocol: globalplatform-remote-admin/1.0\r\n\r\n")
        .unwrap();
    // The card closes.
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    (first, second, result)
}

/// A card whose date has come, and the profile that leads it to this server.
fn card(server: SocketAddr) -> Shared {
    let mut profile = Profile::standard();
    profile.administration.address = server.ip();
    profile.administration.port = server.port();
    let mut personalization = of_test_card(&profile);
    let file = profile.poll.first_file().with_next(real_now().plus_s(-5));
    personalization.files.push((profile.poll.file.clone(), file.encode().to_vec()));
    let card = Card::personalised(Arc::new(profile), &personalization);
    Shared(Arc::new(Mutex::new(SoftPort::volatile(card, Arc::new(OpensslChannels::new().unwrap())))))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_polls_runs_a_script_and_keeps_its_place() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut card = card(listener.local_addr().unwrap());
    // SELECT EF.CONFIGURATION by its path, UPDATE BINARY.
    let script =
        hex::decode("AE80 2209 00A40804047F906F04 2208 00D6000003ABCDEF 0000".replace(' ', "")).unwrap();
    let server = std::thread::spawn(move || serve(listener, "10100001", &script));
    let (outside, inbox) = mpsc::unbounded_channel();
    let (display, mut shown) = mpsc::unbounded_channel();
    let (stop, stopped) = oneshot::channel();
    let runner = Runner {
        device: Device::new(Settings::of(Kind::Meter)),
        ip: None,
        networks: Networks::default(),
        clock: Clock::REAL,
        latency: Duration::from_millis(5),
        inbox,
        outside,
        display,
    };
    let running = tokio::spawn(runner.run(Box::new(card.clone()), stopped));
    let (first, second, result) = tokio::task::spawn_blocking(move || server.join().unwrap()).await.unwrap();
    assert!(first.starts_with("POST /poll HTTP/1.1\r\n"), "{first}");
    assert!(first.contains("X-Admin-Protocol: globalplatform-remote-admin/1.0\r\n"), "{first}");
    assert!(second.starts_with("POST /next?step=2 HTTP/1.1\r\n"), "{second}");
    assert!(second.contains("X-Admin-Script-Status: ok\r\n"), "{second}");
    let result = hex::encode_upper(result);
    assert!(result.contains("9000"), "{result}");
    // The reader's own logical channel, as the card door's readers do.
    assert_eq!(card.ask("0070000001"), "01");
    card.ask("01A4080C047F906F04");
    assert_eq!(card.ask("01B0000003"), "ABCDEF");
    card.ask("01A4080C047F906F01");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let moved = loop {
        let file = hex::decode(card.ask("01B0000010")).unwrap();
        let file = PollFile::decode(&file[..16]).unwrap();
        if file.next() > real_now() || tokio::time::Instant::now() > deadline {
            break file;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // One period on, in the same place.
    let period_s = i64::from(moved.period_s);
    let ahead_s = moved.next().seconds() - real_now().seconds();
    assert!((period_s - 60..=period_s).contains(&ahead_s), "{ahead_s} of {period_s}");
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
    assert!(shown.try_recv().is_err(), "nothing to complain about");
}

/// A change of operator in a poll: the card answers in the session, closes it, asks its device for the reset, and is
/// somebody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_changes_its_operator_in_a_poll() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut card = card(listener.local_addr().unwrap());
    let imsi: Imsi = "240990000000007".parse().unwrap();
    let message = Message {
        change: ChangeId(7),
        options: Options::default(),
        operator_name: "Second operator".into(),
        service_number: None,
        identity: Identity::milenage(imsi, &[7; 16], &[8; 16]).unwrap(),
        files: OperatorFiles::of_subscription(&imsi, 2, None),
    };
    let id = card.0.lock().unwrap().card().id().unwrap();
    let code = Secret::new(b"12345678").unwrap();
    let sealed = message.seal(Protection::AdminCode, &id, &code).unwrap();
    let mut script = ScriptWriter::new(LengthForm::Indefinite);
    commands(&sealed).iter().for_each(|command| script.command_bytes(command));
    let script = script.finish().unwrap();
    let server = std::thread::spawn(move || serve(listener, "101005", &script));
    let (outside, inbox) = mpsc::unbounded_channel();
    let (display, _shown) = mpsc::unbounded_channel();
    let (stop, stopped) = oneshot::channel();
    let runner = Runner {
        device: Device::new(Settings::of(Kind::Meter)),
        ip: None,
        networks: Networks::default(),
        clock: Clock::REAL,
        latency: Duration::from_millis(5),
        inbox,
        outside,
        display,
    };
    let running = tokio::spawn(runner.run(Box::new(card.clone()), stopped));
    let (_, second, result) = tokio::task::spawn_blocking(move || server.join().unwrap()).await.unwrap();
    assert!(second.contains("X-Admin-Script-Status: ok\r\n"), "{second}");
    let result = Response::decode(&result).unwrap();
    let answer = Answer::parse(&result.responses.last().unwrap().data).unwrap();
    assert_eq!((answer.change, answer.state), (ChangeId(7), State::Staged));
    let expected = hex::encode_upper(imsi.to_file());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        // The reader's own logical channel, which the reset closes.
        let channel = card.ask("0070000001");
        let select = card.try_ask("01A4080C047FF06F07").is_some();
        let found = select.then(|| card.try_ask("01B0000009")).flatten();
        if found.as_deref() == Some(&expected) && channel == "01" {
            break;
        }
        card.try_ask("00708001");
        assert!(tokio::time::Instant::now() < deadline, "{found:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}
