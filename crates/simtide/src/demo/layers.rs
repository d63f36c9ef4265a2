//! One message in its layers: what passes the network, what the device hands to its card, what the card executes.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use simtide_protocol::card_file::CardRow;
use simtide_protocol::ids::EpochMs;
use simtide_protocol::scp80::{self, Key, KeySet};
use simtide_protocol::script::compact;
use simtide_protocol::sms::{Arrival, Deliver, Limits, Reassembly, SmsPpDownload};

/// Exchanges that are kept.
const EXCHANGES_MAX: usize = 4_096;
/// Bytes of one direction of an exchange that are kept.
const BYTES_MAX: usize = 32 * 1024;
/// Characters of a layer that are shown.
const SHOWN_MAX: usize = 96;

/// A wire between devices and the entitlement server that remembers what passes.
pub struct Wire {
    /// Where devices connect.
    pub address: SocketAddr,
    exchanges: Arc<Mutex<VecDeque<Exchange>>>,
}

#[derive(Default)]
struct Exchange {
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Wire {
    /// Leads to `server`, for as long as the process lives.
    pub fn lay(server: SocketAddr) -> std::io::Result<Wire> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let exchanges = Arc::new(Mutex::new(VecDeque::new()));
        let kept = exchanges.clone();
        std::thread::spawn(move || {
            for device in listener.incoming().map_while(Result::ok) {
                let kept = kept.clone();
                std::thread::spawn(move || {
                    // A connection that breaks is the device's business.
                    let _ = pass(device, server, &kept);
                });
            }
        });
        Ok(Wire { address, exchanges })
    }

    /// The longest message of the second layer that went to a subscriber.
    fn message_to(&self, imsi: &str) -> Option<String> {
        let exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        let of_subscriber = exchanges.iter().filter(|one| contains(&one.request, imsi.as_bytes()));
        of_subscriber.filter_map(|one| longest_message(&one.answer)).max_by_key(String::len)
    }
}

/// Both directions of one connection; whatever follows an answer begins the next exchange.
fn pass(mut device: TcpStream, server: SocketAddr, kept: &Mutex<VecDeque<Exchange>>) -> std::io::Result<()> {
    let mut upstream = TcpStream::connect(server)?;
    let current = Arc::new(Mutex::new(Exchange::default()));
    let (mut from_server, mut to_device) = (upstream.try_clone()?, device.try_clone()?);
    let answers = current.clone();
    let back = std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = from_server.read(&mut buffer) {
            append(&mut answers.lock().unwrap_or_else(PoisonError::into_inner).answer, &buffer[..count]);
            if to_device.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to_device.shutdown(std::net::Shutdown::Both);
    });
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = device.read(&mut buffer) {
        {
            let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
            if !current.answer.is_empty() {
                keep(kept, std::mem::take(&mut current));
            }
            append(&mut current.request, &buffer[..count]);
        }
        upstream.write_all(&buffer[..count])?;
    }
    let _ = upstream.shutdown(std::net::Shutdown::Both);
    let _ = back.join();
    keep(kept, std::mem::take(&mut current.lock().unwrap_or_else(PoisonError::into_inner)));
    Ok(())
}

fn append(kept: &mut Vec<u8>, bytes: &[u8]) {
    let room = BYTES_MAX.saturating_sub(kept.len());
    kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

fn keep(kept: &Mutex<VecDeque<Exchange>>, exchange: Exchange) {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() >= EXCHANGES_MAX {
        kept.pop_front();
    }
    kept.push_back(exchange);
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// A compact JWE begins with a JSON object in base64.
fn longest_message(answer: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(answer);
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let words = text.split(|letter| !is_part(letter));
    words
        .filter(|word| word.starts_with("eyJ") && word.matches('.').count() == 4)
        .max_by_key(|word| word.len())
        .map(str::to_owned)
}

/// The three views of one card's messages, as lines; what was not seen is left out.
pub fn shown(wire: &Wire, row: &CardRow, apdus: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let imsi = row.imsi.map(|imsi| imsi.to_string()).unwrap_or_default();
    if let Some(message) = wire.message_to(&imsi) {
        lines.push(format!("the network sees (inside TLS, where it is on):  {}", short(&message)));
    }
    let envelopes = envelopes(apdus);
    if let Some((envelope, _)) = envelopes.first() {
        lines.push(format!("the device sees and hands to its card:          {}", short(envelope)));
    }
    if let Some(commands) = executed(row, &envelopes) {
        lines.push(format!("the card sees and executes:                     {}", short(&commands)));
    }
    lines
}

fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}.. ({} characters)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

/// ENVELOPE commands of the record, as hex and as the message inside.
fn envelopes(apdus: &Path) -> Vec<(String, Deliver)> {
    let text = std::fs::read_to_string(apdus).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter_map(|line| {
            let command = line["command"].as_str()?.to_owned();
            let bytes = hex::decode(&command).ok()?;
            let body = bytes.strip_prefix(&[0x80, 0xC2, 0x00, 0x00])?;
            let length = usize::from(*body.first()?);
            let download = SmsPpDownload::from_bytes(body.get(1..=length)?).ok()?;
            Some((command, Deliver::from_bytes(&download.tpdu).ok()?))
        })
        .collect()
}

/// The C-APDUs of the first packet that the card's own keys open.
fn executed(row: &CardRow, envelopes: &[(String, Deliver)]) -> Option<String> {
    let set = row.key_sets.first()?;
    let keys = KeySet::new(Key::new(set.kic.as_bytes()).ok(), Key::new(set.kid.as_bytes()).ok());
    let mut reassembly = Reassembly::new(Limits::CARD);
    for (_, message) in envelopes {
        let Ok(Arrival::Whole(whole)) = reassembly.accept(EpochMs(0), (), &message.user_data.octets) else {
            continue;
        };
        if let Ok(opened) = scp80::open(&whole.data, &keys) {
            let commands = compact::Commands::new(&opened.data).map_while(Result::ok);
            let commands: Vec<_> = commands.map(|command| hex::encode_upper(command.encode())).collect();
            return Some(commands.join(" "));
        }
    }
    None
}
