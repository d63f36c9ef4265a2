//! What a poll costs the card port, against the server half of an in-memory handshake measured in the same run, and
//! what an idle connection holds, with its clients in another process.
//!
//! `cargo bench --bench card_port`; fails when a limit is exceeded. `-- --idle N` sets the number of connections.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on ends")]

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use openssl::ssl::{
    HandshakeError, MidHandshakeSslStream, Ssl, SslContext, SslContextBuilder, SslMethod, SslMode,
    SslOptions, SslSessionCacheMode, SslStream, SslVersion,
};
use simtide_protocol::ids::{CardId, Iccid};
use simtide_protocol::scp81::{ContentType, Request, Response};
use simtide_server::card_port::{Answer, Busy, CardPort, CardSession, Ended, Found, Psk, Sessions};
use simtide_server::config;

const KEY: [u8; 16] = [0x42; 16];
const IDENTITY: &str =
    "8001028110890010000000000000000000000000014F10A000000559101000000000000000000082010183014";
const POLLS: u32 = 8_000;
/// Cards that poll at the same time.
const CLIENTS: u32 = 16;
const IDLE: usize = 15_000;
/// Connections that one client process can hold: ephemeral ports of one source address.
const IDLE_PER_ADDRESS: usize = 10_000;

const POLL_RATIO_MAX: f64 = 2.5;
const SCRIPT_RATIO_MAX: f64 = 3.5;
const IDLE_BYTES_MAX: f64 = 18.0 * 1024.0;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--hold") {
        hold(arguments[at + 1].parse().unwrap(), arguments[at + 2].parse().unwrap());
        return ExitCode::SUCCESS;
    }
    let after = |name: &str| arguments.iter().position(|argument| argument == name).map(|at| at + 1);
    let idle = after("--idle").map_or(IDLE, |at| arguments[at].parse().unwrap());
    let handshake_us = in_memory_handshake();
    println!("in-memory handshake, server half: {handshake_us:.1} us");
    let mut within = true;
    for (what, scripts, ratio_max) in
        [("poll without script", 0, POLL_RATIO_MAX), ("poll with script and result", 1, SCRIPT_RATIO_MAX)]
    {
        let poll_us = polls(scripts);
        let ratio = poll_us / handshake_us;
        within &= ratio <= ratio_max;
        println!("{what}: {poll_us:.1} us of server CPU = {ratio:.2} x (limit {ratio_max})");
    }
    let bytes = idle_memory(idle);
    within &= bytes <= IDLE_BYTES_MAX;
    println!("{idle} idle connections: {:.1} KB each (limit {:.1})", bytes / 1024.0, IDLE_BYTES_MAX / 1024.0);
    if within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// CPU time of this thread, user and system, in microseconds.
fn thread_cpu_us() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of this frame.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

// ---- the measure of all things -----------------------------------------------------------------------------------

/// One end of a pipe in memory.
#[derive(Debug)]
struct End {
    incoming: std::rc::Rc<std::cell::RefCell<Vec<u8>>>,
    outgoing: std::rc::Rc<std::cell::RefCell<Vec<u8>>>,
}

impl Read for End {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut incoming = self.incoming.borrow_mut();
        if incoming.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = buf.len().min(incoming.len());
        buf[..count].copy_from_slice(&incoming[..count]);
        incoming.drain(..count);
        Ok(count)
    }
}

impl Write for End {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.outgoing.borrow_mut().extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn in_memory_handshake() -> f64 {
    let (server, client) = (server_context(), client_context(IDENTITY));
    let mut spent = 0.0;
    for _ in 0..POLLS {
        let (one, two) = (std::rc::Rc::default(), std::rc::Rc::default());
        let client_end = End { incoming: std::rc::Rc::clone(&one), outgoing: std::rc::Rc::clone(&two) };
        let client = half(Ssl::new(&client).unwrap().connect(client_end));
        let before = thread_cpu_us();
        let server = half(Ssl::new(&server).unwrap().accept(End { incoming: two, outgoing: one }));
        spent += thread_cpu_us() - before;
        let client = half(client.handshake());
        let before = thread_cpu_us();
        let _server = server.handshake().unwrap();
        spent += thread_cpu_us() - before;
        client.handshake().unwrap();
    }
    spent / f64::from(POLLS)
}

/// A handshake that waits for its peer.
fn half(result: Result<SslStream<End>, HandshakeError<End>>) -> MidHandshakeSslStream<End> {
    match result {
        Err(HandshakeError::WouldBlock(waiting)) => waiting,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("done without a peer"),
    }
}

fn server_context() -> SslContext {
    let mut builder = SslContextBuilder::new(SslMethod::tls_server()).unwrap();
    builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    builder.set_cipher_list("PSK-AES128-CBC-SHA256").unwrap();
    builder.set_options(SslOptions::NO_TICKET);
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_mode(SslMode::RELEASE_BUFFERS);
    builder.set_psk_server_callback(|_, _, key| {
        key[..16].copy_from_slice(&KEY);
        Ok(16)
    });
    builder.build()
}

fn client_context(identity: &str) -> SslContext {
    let identity = CString::new(identity).unwrap();
    let mut builder = SslContextBuilder::new(SslMethod::tls_client()).unwrap();
    builder.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
    builder.set_cipher_list("PSK-AES128-CBC-SHA256").unwrap();
    builder.set_psk_client_callback(move |_, _, out, psk| {
        let identity = identity.as_bytes_with_nul();
        out[..identity.len()].copy_from_slice(identity);
        psk[..16].copy_from_slice(&KEY);
        Ok(16)
    });
    builder.build()
}

// ---- the card port -----------------------------------------------------------------------------------------------

#[derive(Clone)]
struct World {
    scripts: u32,
}

struct Visit {
    left: u32,
}

impl Sessions for World {
    type Session = Visit;

    async fn find(&self, _identity: Vec<u8>) -> Option<Found> {
        let card = CardId::from(Iccid::with_check_digit("890010000000000001").unwrap());
        Some(Found { card, eid: None, psk: Psk::new(KEY.to_vec()) })
    }

    async fn open(&self, _card: CardId) -> Result<Visit, Busy> {
        Ok(Visit { left: self.scripts })
    }
}

impl CardSession for Visit {
    async fn request(&mut self, _request: Request) -> Answer {
        if self.left == 0 {
            return Answer::Finish(Response::end());
        }
        self.left -= 1;
        let next = "/next".parse().unwrap();
        Answer::Continue(Response::script(next, None, ContentType::CommandData, vec![0xAA; 200]))
    }

    async fn ended(self, _how: Ended) {}
}

fn config() -> config::CardPort {
    config::CardPort {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        sessions_max: 100_000,
        handshake_deadline_s: 600,
        idle_deadline_s: 600,
        ..config::CardPort::default()
    }
}

/// Server CPU per poll: the server has one thread, the cards have others.
fn polls(scripts: u32) -> f64 {
    let (tell, told) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let port = CardPort::start(config(), World { scripts }).await.unwrap();
            tell.send(port.address()).unwrap();
            // The first polls warm up caches and allocators.
            while port.counters().completed.load(std::sync::atomic::Ordering::Relaxed) < u64::from(POLLS / 10)
            {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let completed = port.counters().completed.load(std::sync::atomic::Ordering::Relaxed);
            let before = thread_cpu_us();
            stopped.await.unwrap();
            let spent = thread_cpu_us() - before;
            spent / (port.counters().completed.load(std::sync::atomic::Ordering::Relaxed) - completed) as f64
        })
    });
    let address = told.recv().unwrap();
    let context = client_context(IDENTITY);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| (0..POLLS / CLIENTS).for_each(|_| poll(&context, address, scripts)));
        }
    });
    stop.send(()).unwrap();
    server.join().unwrap()
}

fn poll(context: &SslContext, address: SocketAddr, scripts: u32) {
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_nodelay(true).unwrap();
    let mut stream = Ssl::new(context).unwrap().connect(tcp).unwrap();
    let mut answer = [0; 4096];
    let first = "POST /poll HTTP/1.1\r\nHost: ota.example\r\nX-Admin-Protocol: globalplatform-remote-admin/1.0\r\n\
                 X-Admin-From: //se-id/eid/89001000000000000000000000000001;//aa-id/aid/A000000559/10\r\n\r\n";
    stream.write_all(first.as_bytes()).unwrap();
    for _ in 0..scripts {
        let count = stream.read(&mut answer).unwrap();
        assert!(count > 200);
        let next = "POST /next HTTP/1.1\r\nHost: ota.example\r\nX-Admin-Protocol: globalplatform-remote-admin/1.0\r\n\
                    X-Admin-Script-Status: ok\r\n\
                    Content-Type: application/vnd.etsi.scp.response-data;version=1.0\r\nContent-Length: 10\r\n\r\n\
                    0123456789";
        stream.write_all(next.as_bytes()).unwrap();
    }
    let count = stream.read(&mut answer).unwrap();
    assert!(answer[..count].starts_with(b"HTTP/1.1 204"));
    let end = stream.read(&mut answer);
    assert!(matches!(end, Ok(0)) || end.is_err(), "the server closes");
}

// ---- idle connections --------------------------------------------------------------------------------------------

fn idle_memory(connections: usize) -> f64 {
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let port = runtime.block_on(CardPort::start(config(), World { scripts: 1 })).unwrap();
    // A few thousand before the measurement, so that what is paid once is not counted.
    let warm = (connections / 15).max(1);
    let first = clients(port.address(), warm);
    let before = resident_bytes();
    let rest = clients(port.address(), connections);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(port.open() as usize, warm + connections);
    let each = (resident_bytes() - before) / connections as f64;
    for mut process in first.into_iter().chain(rest) {
        drop(process.stdin.take());
        process.wait().unwrap();
    }
    each
}

/// Starts processes that hold so many established sessions, and waits until they do.
fn clients(address: SocketAddr, connections: usize) -> Vec<std::process::Child> {
    let mut processes = Vec::new();
    let mut left = connections;
    while left > 0 {
        let count = left.min(IDLE_PER_ADDRESS);
        left -= count;
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--hold", &address.to_string(), &count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        process.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        processes.push(process);
    }
    processes
}

/// The client process: established sessions, each after one request, until standard input ends.
fn hold(address: SocketAddr, connections: usize) {
    raise_open_files();
    let context = client_context(IDENTITY);
    let mut held = Vec::new();
    for _ in 0..connections {
        let mut stream = Ssl::new(&context).unwrap().connect(TcpStream::connect(address).unwrap()).unwrap();
        let first = "POST /poll HTTP/1.1\r\nX-Admin-Protocol: globalplatform-remote-admin/1.0\r\n\r\n";
        stream.write_all(first.as_bytes()).unwrap();
        let mut answer = [0; 1024];
        assert!(stream.read(&mut answer).unwrap() > 200);
        held.push(stream);
    }
    println!("ready");
    io::stdout().flush().unwrap();
    let _ = io::stdin().read(&mut [0]);
}

fn resident_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
}

fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointers are to a structure of this frame.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
}
