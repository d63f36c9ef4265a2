//! The card in a modem: AT+CSIM through a pseudo-terminal, the modem's end served by a card in software.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use simtide_agent::personalization::of_test_card;
use simtide_agent::port::at::AtPort;
use simtide_agent::port::soft::SoftPort;
use simtide_agent::port::{CardPort, PortError};
use simtide_card::Card;
use simtide_card::secure_channel::NoChannels;
use simtide_protocol::profile::Profile;

/// A modem that knows what the port needs, and chats between.
fn modem(line: File) {
    let profile = Arc::new(Profile::standard());
    let card = Card::personalised(profile.clone(), &of_test_card(&profile));
    let mut card = SoftPort::volatile(card, Arc::new(NoChannels));
    let mut lines = BufReader::new(line.try_clone().unwrap());
    let mut out = line;
    let mut text = Vec::new();
    // The device's end is closed: the terminal reports an error.
    while matches!(lines.read_until(b'\r', &mut text), Ok(count) if count > 0) {
        let command = String::from_utf8(std::mem::take(&mut text)).unwrap().trim().to_owned();
        let answer = match command.split_once('=') {
            Some(("AT+CSIM", rest)) => {
                let (length, digits) = rest.split_once(',').unwrap();
                let digits = digits.trim_matches('"');
                assert_eq!(length.parse(), Ok(digits.len()));
                let mut response = Vec::new();
                card.transmit(&hex::decode(digits).unwrap(), &mut response).unwrap();
                let digits = hex::encode_upper(response);
                format!("\r\n+CREG: 1\r\n\r\n+CSIM: {},\"{digits}\"\r\n\r\nOK\r\n", digits.len())
            }
            Some(("AT+CFUN", "1")) => {
                card.reset().unwrap();
                "\r\nOK\r\n".to_owned()
            }
            Some(("AT+CFUN", _)) | None => "\r\nOK\r\n".to_owned(),
            Some(_) => "\r\nERROR\r\n".to_owned(),
        };
        out.write_all(answer.as_bytes()).unwrap();
    }
}

#[test]
fn a_card_behind_a_modem_is_read() {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let device = PathBuf::from(ptsname(&controller, Vec::new()).unwrap().into_string().unwrap());
    let serving = std::thread::spawn(move || modem(File::from(controller)));
    let mut port = AtPort::open(&device).unwrap();
    assert!(!port.reset().unwrap().is_empty());
    let mut ask = |command: &str| -> Result<String, PortError> {
        let mut response = Vec::new();
        port.transmit(&hex::decode(command).unwrap(), &mut response)?;
        Ok(hex::encode_upper(response))
    };
    assert_eq!(ask("00A4000C023F00").unwrap(), "9000");
    assert_eq!(ask("00A4000C022FE2").unwrap(), "9000");
    assert_eq!(ask("00B000000A").unwrap(), "988812010000000010F19000");
    drop(port);
    serving.join().unwrap();
}
