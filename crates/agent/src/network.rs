//! The network as a device sees it, whatever line leads there.

use simtide_device::SmsReport;
use simtide_protocol::ids::{Imsi, Msisdn};

use crate::air::{AirLine, ToNetwork};
use crate::smpp::SmppLine;

/// What the network tells its subscribers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkEvent {
    /// The line stands: whoever is attached has to say so again.
    Up,
    /// The line broke: what was submitted has no known outcome.
    Down,
    /// A subscriber is registered.
    Attached {
        /// Who.
        imsi: Imsi,
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
    /// Registers a subscriber.
    pub fn attach(&self, imsi: Imsi, msisdn: Option<Msisdn>) {
        match self {
            Self::Air(line) => line.say(ToNetwork::Attach { imsi, msisdn }),
            Self::Smpp(line) => line.attach(imsi, msisdn),
            Self::None => {}
        }
    }

    /// Takes a subscriber away.
    pub fn detach(&self, imsi: Imsi) {
        match self {
            Self::Air(line) => line.say(ToNetwork::Detach { imsi }),
            Self::Smpp(line) => line.detach(),
            Self::None => {}
        }
    }

    /// Sends an SMS-SUBMIT; [`NetworkEvent::Submitted`] answers it. `false` where there is no line at all.
    pub fn submit(&self, imsi: Imsi, reference: u32, tpdu: Vec<u8>) -> bool {
        match self {
            Self::Air(line) => line.say(ToNetwork::Submit { imsi, reference, tpdu: hex::encode(tpdu) }),
            Self::Smpp(line) => line.submit(reference, tpdu),
            Self::None => return false,
        }
        true
    }

    /// Says what became of a delivered message.
    pub fn report(&self, id: u64, report: SmsReport) {
        match self {
            Self::Air(line) => line.say(ToNetwork::report(id, report)),
            Self::Smpp(line) => line.report(id, report),
            Self::None => {}
        }
    }
}
