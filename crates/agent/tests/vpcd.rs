//! A software card at a listening virtual reader, over a real socket.

#![allow(clippy::unwrap_used)]

use std::io::{self, Write};
use std::net::TcpStream;

use simtide_agent::port::vpcd::VpcdPort;
use simtide_agent::port::{CardPort, PortError};
use simtide_agent::vpcd::{present, write_frame};

/// A card that says what it was asked, backwards.
struct Mirror {
    resets: u8,
}

impl CardPort for Mirror {
    fn reset(&mut self) -> Result<Vec<u8>, PortError> {
        self.resets += 1;
        Ok(vec![0x3B, self.resets])
    }

    fn transmit(&mut self, command: &[u8], response: &mut Vec<u8>) -> Result<(), PortError> {
        *response = command.iter().rev().copied().chain([0x90, 0x00]).collect();
        Ok(())
    }
}

#[test]
fn a_card_connects_answers_and_is_replaced_by_the_next() {
    let mut port = VpcdPort::listen("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    let mut response = Vec::new();
    let refused = port.transmit(&[0x00, 0xA4], &mut response);
    assert!(matches!(refused, Err(PortError::Io(error)) if error.kind() == io::ErrorKind::NotConnected));
    for _ in 0..2 {
        let stream = TcpStream::connect(address).unwrap();
        let hang_up = stream.try_clone().unwrap();
        let card = std::thread::spawn(move || present(stream, &mut Mirror { resets: 0 }));
        // The first card hung up without the reader noticing: the reset finds the second one.
        assert_eq!(port.reset().unwrap()[0], 0x3B);
        port.transmit(&[0x00, 0xB0, 0x01], &mut response).unwrap();
        assert_eq!(response, [0x01, 0xB0, 0x00, 0x90, 0x00]);
        let long = vec![0xD6; 60_000];
        port.transmit(&long, &mut response).unwrap();
        assert_eq!(response.len(), 60_002);
        hang_up.shutdown(std::net::Shutdown::Both).unwrap();
        card.join().unwrap().unwrap();
        assert!(port.transmit(&[0x00, 0xB0], &mut response).is_err());
    }
}

#[test]
fn an_answer_without_status_word_is_none() {
    let mut port = VpcdPort::listen("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(port.local_addr().unwrap()).unwrap();
    write_frame(&mut stream, &[0x3B, 0x00]).unwrap();
    write_frame(&mut stream, &[0x90]).unwrap();
    stream.flush().unwrap();
    port.reset().unwrap();
    let answer = port.transmit(&[0x00, 0xA4, 0x00, 0x00], &mut Vec::new());
    assert!(matches!(answer, Err(PortError::NoAnswer { bytes: 1 })));
}
