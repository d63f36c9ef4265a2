//! submit_sm per second with a window of 100: our link and the client of `smpp34`, against the same service centre, in
//! the same run. Prints both and their ratio.
//!
//! `cargo bench -p simtide-server --bench smpp`

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use simtide_server::smpp::{Link, LinkConfig, LinkEvent, Submit, SubmitError};
use smpp34::client::{BIND_TYPE, SMSC, SmppClient, SmppClientListener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

const SUBMITS: u64 = 100_000;
const WINDOW: u16 = 100;
const ROUNDS: usize = 3;
/// What the link must reach, as a multiple of the other client.
const RATIO_MIN: f64 = 3.0;

fn main() {
    // Run by `cargo test` as well: then once and small, to see that it works.
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let (submits, rounds) = if is_test { (1_000, 1) } else { (SUBMITS, ROUNDS) };
    let smsc = service_centre();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..rounds {
        theirs.push(runtime.block_on(run_theirs(smsc, submits)));
        ours.push(runtime.block_on(run_ours(smsc, submits)));
    }
    let (ours, theirs) = (median(ours), median(theirs));
    let ratio = ours / theirs;
    println!(
        "smpp submit_sm, window {WINDOW}: ours {ours:.0}/s, smpp34 {theirs:.0}/s, ratio {ratio:.2} (at least {RATIO_MIN})"
    );
    if !is_test && ratio < RATIO_MIN {
        std::process::exit(1);
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

async fn run_ours(smsc: SocketAddr, submits: u64) -> f64 {
    let (sender, mut events) = mpsc::channel(10_000);
    let config = LinkConfig {
        port: smsc.port(),
        system_id: "bench".to_owned(),
        window: WINDOW,
        queue_max: 1_000,
        ..LinkConfig::default()
    };
    let link = Link::start(config, sender).unwrap();
    while events.recv().await.unwrap() != LinkEvent::Up {}
    let destination = "31600000000".parse().unwrap();
    let start = Instant::now();
    let (mut sent, mut accepted) = (0, 0);
    while accepted < submits {
        while sent < submits {
            match link.submit(Submit::binary(sent, destination, b"perf test message".to_vec())) {
                Ok(()) => sent += 1,
                Err(SubmitError::Full) => break,
                Err(error) => panic!("{error}"),
            }
        }
        match events.recv().await.unwrap() {
            LinkEvent::Accepted { .. } => accepted += 1,
            other => panic!("{other:?}"),
        }
    }
    let rate = submits as f64 / start.elapsed().as_secs_f64();
    link.shutdown();
    rate
}

struct Binder(mpsc::UnboundedSender<SMSC>);

#[async_trait]
impl SmppClientListener for Binder {
    async fn on_smsc_bound(&self, smsc: SMSC, _: &String) {
        let _ = self.0.send(smsc);
    }
}

async fn run_theirs(smsc: SocketAddr, submits: u64) -> f64 {
    let (sender, mut bound) = mpsc::unbounded_channel();
    let text = |text: &str| text.to_owned();
    let mut client = SmppClient::new(
        text("127.0.0.1"),
        smsc.port(),
        false,
        BIND_TYPE::TRX,
        text("bench"),
        text("bench"),
        String::new(),
        0,
        0,
        String::new(),
        Arc::new(Binder(sender)),
        WINDOW.into(),
    );
    client.start().await;
    let smsc = Arc::new(bound.recv().await.unwrap());
    let left = Arc::new(AtomicU64::new(submits));
    let start = Instant::now();
    let senders: Vec<_> = (0..WINDOW)
        .map(|_| {
            let (smsc, left) = (smsc.clone(), left.clone());
            tokio::spawn(async move {
                while left
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                    .is_ok()
                {
                    let submit = smsc.submit_sm().destination_addr("31600000000");
                    submit.short_message(b"perf test message").send().await.unwrap();
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    let rate = submits as f64 / start.elapsed().as_secs_f64();
    client.stop().await;
    rate
}

/// A service centre in a thread of its own that only answers, as fast as it can: one write for all that one read
/// brought.
fn service_centre() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream));
            }
        });
    });
    address
}

async fn answer(mut stream: tokio::net::TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = vec![0; 64 * 1024];
    let mut rest: Vec<u8> = Vec::new();
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        rest.extend_from_slice(&buffer[..n]);
        let (mut at, mut out) = (0, Vec::new());
        while let Some(header) = rest.get(at..at + 16) {
            let word = |i: usize| u32::from_be_bytes(header[i..i + 4].try_into().unwrap());
            let length = word(0) as usize;
            if rest.len() < at + length {
                break;
            }
            if word(4) & 0x8000_0000 == 0 {
                // Binds and submits are answered with a text, the others with a header.
                let body: &[u8] = if matches!(word(4), 1 | 2 | 4 | 9) { b"1\0" } else { b"" };
                for word in [16 + body.len() as u32, word(4) | 0x8000_0000, 0, word(12)] {
                    out.extend_from_slice(&word.to_be_bytes());
                }
                out.extend_from_slice(body);
            }
            at += length;
        }
        rest.drain(..at);
        if stream.write_all(&out).await.is_err() {
            return;
        }
    }
}
