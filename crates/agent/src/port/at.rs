//! `at:DEVICE`: the card in a modem, by AT+CSIM (3GPP TS 27.007, 8.17).
//!
//! The modem's own toolkit engine may take a status 91xx for itself; whoever uses this port switches it off first, by the
//! modem's own means.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::{CardPort, PortError};

/// Most bytes of a modem's answer: an APDU answer of 258 bytes in hex, its echo and some words around.
const ANSWER_BYTES_MAX: usize = 4096;

/// What stands for the ATR, which AT+CSIM does not tell: a UICC with protocol T=0 and no historical bytes.
const ATR_UNKNOWN: [u8; 2] = [0x3B, 0x00];

/// A modem's line.
#[derive(Debug)]
pub struct AtPort<L> {
    line: L,
}

impl AtPort<File> {
    /// Opens a device file, makes the line raw and switches the echo off. The speed of a serial line is left as it is
    /// set (`stty`).
    pub fn open(device: &Path) -> Result<Self, PortError> {
        let line = OpenOptions::new().read(true).write(true).open(device)?;
        // What is no terminal (a socket's device, a pipe) has nothing to be made raw.
        if let Ok(mut settings) = tcgetattr(&line) {
            settings.make_raw();
            tcsetattr(&line, OptionalActions::Now, &settings).map_err(io::Error::from)?;
        }
        Self::over(line)
    }
}

impl<L: Read + Write> AtPort<L> {
    /// Takes a line that leads to a modem and switches its echo off.
    pub fn over(line: L) -> Result<Self, PortError> {
        let mut port = Self { line };
        port.order("ATE0")?;
        Ok(port)
    }

    /// Sends one AT command and gives the lines before its `OK`.
    fn order(&mut self, command: &str) -> Result<String, PortError> {
        self.line.write_all(format!("{command}\r").as_bytes())?;
        self.line.flush()?;
        let mut answer = Vec::new();
        let mut byte = [0; 1];
        loop {
            if self.line.read(&mut byte)? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            answer.push(byte[0]);
            if answer.len() > ANSWER_BYTES_MAX {
                return Err(PortError::NoAnswer { bytes: answer.len() });
            }
            if byte[0] != b'\n' {
                continue;
            }
            let text = String::from_utf8_lossy(&answer);
            let last = text.trim_end().rsplit('\n').next().unwrap_or_default().trim();
            if last == "OK" {
                return Ok(text.into_owned());
            }
            if last == "ERROR" || last.starts_with("+CME ERROR") || last.starts_with("+CMS ERROR") {
                return Err(PortError::Modem(last.to_owned()));
            }
        }
    }
}

/// The bytes of `+CSIM: <length>,"<hex>"`; the quotes are missing on some modems.
pub(crate) fn response_of(answer: &str) -> Option<Vec<u8>> {
    let line = answer.lines().map(str::trim).find(|line| line.starts_with("+CSIM:"))?;
    let (_, digits) = line.split_once(',')?;
    hex::decode(digits.trim().trim_matches('"')).ok()
}

impl<L: Read + Write + Send> CardPort for AtPort<L> {
    /// The modem keeps the card powered: the radio is switched off and on, which makes it start the card anew.
    fn reset(&mut self) -> Result<Vec<u8>, PortError> {
        self.order("AT+CFUN=0")?;
        self.order("AT+CFUN=1")?;
        Ok(ATR_UNKNOWN.to_vec())
    }

    fn transmit(&mut self, command: &[u8], response: &mut Vec<u8>) -> Result<(), PortError> {
        let digits = hex::encode_upper(command);
        let answer = self.order(&format!("AT+CSIM={},\"{digits}\"", digits.len()))?;
        match response_of(&answer) {
            Some(bytes) if bytes.len() >= 2 => *response = bytes,
            _ => return Err(PortError::NoAnswer { bytes: answer.len() }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A modem that expects these lines and gives these answers.
    struct Modem {
        script: std::vec::IntoIter<(&'static str, &'static str)>,
        heard: Vec<u8>,
        answer: std::collections::VecDeque<u8>,
    }

    impl Write for Modem {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.extend_from_slice(bytes);
            if self.heard.ends_with(b"\r") {
                let (expected, answer) = self.script.next().expect("one more command than expected");
                assert_eq!(String::from_utf8_lossy(&self.heard), format!("{expected}\r"));
                self.heard.clear();
                self.answer.extend(answer.bytes());
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Read for Modem {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.answer.read(into)
        }
    }

    fn port(script: Vec<(&'static str, &'static str)>) -> AtPort<Modem> {
        let mut lines = vec![("ATE0", "ATE0\r\r\nOK\r\n")];
        lines.extend(script);
        let modem = Modem { script: lines.into_iter(), heard: Vec::new(), answer: Default::default() };
        AtPort::over(modem).unwrap()
    }

    #[test]
    fn exchanges_and_refusals() {
        let mut port = port(vec![
            ("AT+CSIM=14,\"00A40004023F00\"", "\r\n+CSIM: 4,\"612D\"\r\n\r\nOK\r\n"),
            ("AT+CSIM=10,\"00C000002D\"", "+CSIM: 6,629000\r\nOK\r\n"),
            ("AT+CSIM=10,\"00C000002D\"", "\r\n+CME ERROR: SIM busy\r\n"),
            ("AT+CSIM=10,\"00C000002D\"", "\r\nOK\r\n"),
        ]);
        let mut response = Vec::new();
        port.transmit(&hex::decode("00A40004023F00").unwrap(), &mut response).unwrap();
        assert_eq!(response, [0x61, 0x2D]);
        let get_response = hex::decode("00C000002D").unwrap();
        port.transmit(&get_response, &mut response).unwrap();
        assert_eq!(response, [0x62, 0x90, 0x00]);
        assert!(matches!(port.transmit(&get_response, &mut response), Err(PortError::Modem(_))));
        assert!(matches!(port.transmit(&get_response, &mut response), Err(PortError::NoAnswer { .. })));
    }

    #[test]
    fn a_modem_that_never_ends_is_cut() {
        struct Chatter;
        impl Write for Chatter {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        impl Read for Chatter {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                into.fill(b'x');
                Ok(into.len())
            }
        }
        assert!(matches!(AtPort::over(Chatter), Err(PortError::NoAnswer { .. })));
    }
}
