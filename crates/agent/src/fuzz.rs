//! Targets that take any bytes: none may panic, each checks what must always hold.

use crate::air::{FromDevice, LINE_BYTES_MAX, ToDevice};
use crate::clock::Clock;
use crate::port::{PortAddress, at};
use crate::{smpp, vpcd};

/// What an SMSC sends to a device that is bound to it.
pub fn agent_smpp(data: &[u8]) {
    let mut buffer = data.to_vec();
    while let Some(pdu) = smpp::next_pdu(&mut buffer) {
        let Ok(pdu) = pdu else { return };
        assert!((16..=smpp::PDU_BYTES_MAX).contains(&pdu.len()));
        if let Some((_, tpdu)) = smpp::delivered(&pdu[16..]) {
            // What is made out of a deliver_sm can be read as an SMS-DELIVER again.
            assert!(simtide_protocol::sms::Deliver::from_bytes(&tpdu).is_ok());
        }
    }
}

/// Lines of the air interface and what a modem answers.
pub fn agent_lines(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n').filter(|line| line.len() <= LINE_BYTES_MAX) {
        if let Ok(message) = serde_json::from_slice::<ToDevice>(line) {
            let again = serde_json::to_vec(&message).unwrap_or_default();
            assert_eq!(serde_json::from_slice::<ToDevice>(&again).ok(), Some(message));
        }
        if let Ok(message) = serde_json::from_slice::<FromDevice>(line) {
            let again = serde_json::to_vec(&message).unwrap_or_default();
            assert_eq!(serde_json::from_slice::<FromDevice>(&again).ok(), Some(message));
        }
        let text = String::from_utf8_lossy(line);
        let _ = at::response_of(&text);
        let _ = text.parse::<PortAddress>();
        let _ = text.parse::<Clock>();
    }
}

/// Frames between a virtual reader and its card.
pub fn agent_vpcd(data: &[u8]) {
    let (mut rest, mut frame, mut copy) = (data, Vec::new(), Vec::new());
    while vpcd::read_frame(&mut rest, &mut frame).is_ok() {
        let _ = vpcd::Order::parse(&frame);
        assert!(vpcd::write_frame(&mut copy, &frame).is_ok());
    }
    assert!(data.starts_with(&copy));
}

/// The line to a helper: frames among any bytes.
pub fn agent_line(data: &[u8]) {
    assert!(crate::entitlement::line::messages_in(data) <= data.len() / 10);
}
