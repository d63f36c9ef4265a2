//! Devices without cellular coverage: no network, and a client module that asks an entitlement server over IP.

use std::path::PathBuf;
use std::sync::Arc;

use simtide_agent::entitlement::transport::ServerPlace;
use simtide_agent::entitlement::{IpBearer, Transport, TransportError};
use simtide_device::client::{Client, ClientSettings};
use simtide_device::queues::Queues;

/// Which devices have no coverage, and whom they ask.
#[derive(Debug, Clone)]
pub struct Uncovered {
    /// How many: the last cards of the file.
    pub cards: u64,
    /// The entitlement server: https, or http on loopback.
    pub url: String,
    /// Certificates (PEM) that may have signed the server's, in place of those of the system.
    pub ca_file: Option<PathBuf>,
    /// Time between two queries, in seconds of the devices' clock.
    pub period_s: u32,
}

/// What the client modules of a fleet share.
pub(super) struct Asking {
    transport: Transport,
    place: ServerPlace,
    period_s: u32,
}

impl Asking {
    pub fn new(uncovered: &Uncovered) -> Result<Self, TransportError> {
        Ok(Self {
            transport: Transport::http(&uncovered.url, uncovered.ca_file.as_deref())?,
            place: ServerPlace::of(&uncovered.url)?,
            period_s: uncovered.period_s,
        })
    }

    /// The client module of the device with this number. Its queues live as long as the fleet.
    pub fn client(&self, index: u32) -> IpBearer {
        let mut settings = ClientSettings::of(&self.place.name, &imei(index));
        settings.period_s = self.period_s;
        let client = Client::new(Arc::new(settings), Queues::default());
        IpBearer::new(client, None, self.transport.clone(), self.place.addresses.clone())
    }
}

/// An IMEI of its own for every device (3GPP TS 23.003, 6.2.1): a type that does not exist, the number, the check digit.
fn imei(index: u32) -> [u8; 15] {
    let digits = format!("00000001{:06}", index % 1_000_000);
    let mut imei = [b'0'; 15];
    imei[..14].copy_from_slice(digits.as_bytes());
    let sum: u32 = digits
        .bytes()
        .enumerate()
        .map(|(place, digit)| u32::from(digit - b'0') << (place % 2))
        .map(|value| value / 10 + value % 10)
        .sum();
    imei[14] = b'0' + ((10 - sum % 10) % 10) as u8;
    imei
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_is_another_one() {
        assert_eq!(&imei(0), b"000000010000008");
        assert_ne!(imei(1), imei(2));
        assert!(imei(999_999).iter().all(u8::is_ascii_digit));
    }
}
