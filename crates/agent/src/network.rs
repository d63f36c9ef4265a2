//! Networks as a device sees them, whatever lines lead there. A device is with the network of its card's identity.

use simtide_device::{Authentication, SmsReport};
use simtide_protocol::ids::{Imsi, Msisdn, Plmn};

use crate::air::{AirLine, FromDevice, Hex};
use crate::smpp::SmppLine;

/// What the network tells its subscribers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkEvent {
    /// The line stands: whoever is attached has to say so again.
    Up,
    /// The line broke: what was submitted has no known outcome.
    Down,
    /// The card has to answer before the attach goes on.
    Challenge {
        /// Who.
        imsi: Imsi,
        /// RAND.
        rand: [u8; 16],
        /// AUTN.
        autn: [u8; 16],
    },
    /// A subscriber is registered.
    Attached {
        /// Who.
        imsi: Imsi,
    },
    /// The attach is refused.
    Rejected {
        /// Who.
        imsi: Imsi,
        /// Why: 3GPP TS 24.008, 10.5.3.6.
        cause: u8,
    },
    /// The network has taken the registration away.
    Detached {
        /// Who.
        imsi: Imsi,
        /// Why: 3GPP TS 24.008, 10.5.3.6.
        cause: u8,
    },
    /// A message for a device.
    Deliver {
        /// For whom.
        imsi: Imsi,
        /// Given back in the report.
        id: u64,
        /// Address of the service centre.
        service_center: String,
        /// The SMS-DELIVER.
        tpdu: Vec<u8>,
    },
    /// What became of a message from a device.
    Submitted {
        /// Who sent it.
        imsi: Imsi,
        /// The number given with it.
        reference: u32,
        /// Whether the service centre took it.
        accepted: bool,
    },
}

impl NetworkEvent {
    /// Whom it concerns, where it does not concern everybody.
    pub fn imsi(&self) -> Option<Imsi> {
        match self {
            Self::Up | Self::Down => None,
            Self::Challenge { imsi, .. }
            | Self::Attached { imsi }
            | Self::Rejected { imsi, .. }
            | Self::Detached { imsi, .. }
            | Self::Deliver { imsi, .. }
            | Self::Submitted { imsi, .. } => Some(*imsi),
        }
    }
}

/// A line to the network.
#[derive(Debug, Clone)]
pub enum Line {
    /// The air interface of the project's own SMSC.
    Air(AirLine),
    /// SMPP to any SMSC, one subscriber.
    Smpp(SmppLine),
    /// No network: nothing is sent, nothing comes.
    None,
}

impl Line {
    /// Whether somebody may hear what is said. An SMPP line binds by itself when it is told of a subscriber.
    pub fn stands(&self) -> bool {
        match self {
            Self::Air(line) => line.stands(),
            Self::Smpp(_) | Self::None => true,
        }
    }

    /// Answers a challenge. Only the air interface has any.
    pub fn respond(&self, imsi: Imsi, authentication: Option<Authentication>) {
        let Self::Air(line) = self else { return };
        let (mut res, mut auts, mut refused) = (None, None, None);
        match authentication {
            Some(Authentication::Success(answer)) => res = Some(Hex(answer.res.clone())),
            Some(Authentication::SynchronisationFailure { auts: number }) => {
                auts = Some(Hex(number.to_vec()))
            }
            Some(Authentication::Refused(status)) => refused = Some(Hex(status.0.to_be_bytes().to_vec())),
            None => refused = Some(Hex(vec![0x6F, 0x00])),
        }
        line.say(FromDevice::Response { imsi, res, auts, refused });
    }

    /// Registers a subscriber.
    pub fn attach(&self, imsi: Imsi, msisdn: Option<Msisdn>) {
        match self {
            Self::Air(line) => line.say(FromDevice::Attach { imsi, msisdn }),
            Self::Smpp(line) => line.attach(imsi, msisdn),
            Self::None => {}
        }
    }

    /// Takes a subscriber away.
    pub fn detach(&self, imsi: Imsi) {
        match self {
            Self::Air(line) => line.say(FromDevice::Detach { imsi }),
            Self::Smpp(line) => line.detach(),
            Self::None => {}
        }
    }

    /// Sends an SMS-SUBMIT; [`NetworkEvent::Submitted`] answers it. `false` where there is no line at all.
    pub fn submit(&self, imsi: Imsi, reference: u32, tpdu: Vec<u8>) -> bool {
        match self {
            Self::Air(line) => line.say(FromDevice::Submit { imsi, reference, tpdu: Hex(tpdu) }),
            Self::Smpp(line) => line.submit(reference, tpdu),
            Self::None => return false,
        }
        true
    }

    /// Says what became of a delivered message.
    pub fn report(&self, id: u64, report: SmsReport) {
        match self {
            Self::Air(line) => line.say(FromDevice::report(id, report)),
            Self::Smpp(line) => line.report(id, report),
            Self::None => {}
        }
    }
}

/// Most networks of one device.
pub const NETWORKS_MAX: usize = 32;

/// The networks in reach, in the order of their numbers.
#[derive(Debug, Clone, Default)]
pub struct Networks(Vec<(Option<Plmn>, Line)>);

impl Networks {
    /// One network, for whatever identity.
    pub fn one(line: Line) -> Self {
        Self(vec![(None, line)])
    }

    /// Adds a network; one without a code takes every identity that no other is home of. `false` where there are
    /// [`NETWORKS_MAX`] already.
    pub fn add(&mut self, plmn: Option<Plmn>, line: Line) -> bool {
        let fits = self.0.len() < NETWORKS_MAX;
        if fits {
            self.0.push((plmn, line));
        }
        fits
    }

    /// The number of the network that an identity belongs to; nothing where none is in reach.
    pub fn home_of(&self, imsi: &Imsi, mnc_digits: Option<u8>) -> Option<usize> {
        let is_home = |plmn: &Option<Plmn>| plmn.is_some_and(|plmn| plmn.is_home_of(imsi, mnc_digits));
        let home = self.0.iter().position(|(plmn, _)| is_home(plmn));
        home.or_else(|| self.0.iter().position(|(plmn, _)| plmn.is_none()))
    }

    /// The line to a network.
    pub fn line(&self, number: usize) -> Option<&Line> {
        self.0.get(number).map(|(_, line)| line)
    }

    /// Says what became of a delivered message.
    pub fn report(&self, id: u64, report: SmsReport) {
        let (number, id) = network_of_message(id);
        if let Some(line) = self.line(number) {
            line.report(id, report);
        }
    }
}

/// Bits of a message's id that are the network's own: above them stands the number of the network, so that messages of
/// two networks never have the same id within a device.
const MESSAGE_ID_BITS: u32 = 56;

/// The id of a message within the device.
pub(crate) fn message_id(network: usize, id: u64) -> u64 {
    (network as u64) << MESSAGE_ID_BITS | id & ((1 << MESSAGE_ID_BITS) - 1)
}

/// Number of the network and the network's own id.
fn network_of_message(id: u64) -> (usize, u64) {
    ((id >> MESSAGE_ID_BITS) as usize, id & ((1 << MESSAGE_ID_BITS) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_find_their_network() {
        let mut networks = Networks::default();
        let imsi: Imsi = "001020000000001".parse().unwrap();
        assert_eq!(networks.home_of(&imsi, Some(2)), None);
        for plmn in [Some("001-01"), None, Some("001-02"), Some("001-020")] {
            assert!(networks.add(plmn.map(|text| text.parse().unwrap()), Line::None));
        }
        assert_eq!(networks.home_of(&imsi, Some(2)), Some(2));
        assert_eq!(networks.home_of(&imsi, Some(3)), Some(3));
        assert_eq!(networks.home_of(&imsi, None), Some(2));
        assert_eq!(networks.home_of(&"262010000000001".parse().unwrap(), Some(2)), Some(1));
        while networks.add(None, Line::None) {}
        assert!(networks.line(NETWORKS_MAX - 1).is_some() && networks.line(NETWORKS_MAX).is_none());
    }

    #[test]
    fn messages_know_their_network() {
        assert_eq!(network_of_message(message_id(3, 7)), (3, 7));
        assert_eq!(message_id(0, 7), 7);
    }
}
