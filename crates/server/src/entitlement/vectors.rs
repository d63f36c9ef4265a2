//! Where authentication vectors come from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use simtide_protocol::aka::Vector;
use simtide_protocol::ids::Imsi;

use super::random;
use crate::registers::{Answer, Register, RegisterError, VectorsWanted};

/// Makes vectors for any subscriber; [`RegisterError::NotFound`] for who is none.
pub trait VectorSource: Send + Sync {
    /// See [`Register::vectors`].
    fn vectors(&self, imsi: Imsi, wanted: VectorsWanted) -> Answer<'_, Vec<Vector>>;
}

/// One register for everybody.
pub struct OneRegister(pub Arc<dyn Register>);

impl VectorSource for OneRegister {
    fn vectors(&self, imsi: Imsi, wanted: VectorsWanted) -> Answer<'_, Vec<Vector>> {
        self.0.vectors(imsi, wanted)
    }
}

/// Challenges for subscribers that do not exist. Nobody can tell them from others: RAND and AUTN are random there too,
/// but for AMF, which follows that of the last real one.
pub struct Strangers {
    amf: AtomicU16,
}

impl Default for Strangers {
    fn default() -> Strangers {
        Strangers { amf: AtomicU16::new(0x8000) }
    }
}

impl Strangers {
    /// Learns from a real vector.
    pub fn saw(&self, vector: &Vector) {
        self.amf.store(u16::from_be_bytes([vector.autn[6], vector.autn[7]]), Ordering::Relaxed);
    }

    /// A challenge that no card answers.
    pub fn vector(&self, aka_prime: bool) -> Vector {
        let mut autn = random::bytes::<16>();
        let amf = if aka_prime { 0x8000 } else { self.amf.load(Ordering::Relaxed) };
        autn[6..8].copy_from_slice(&amf.to_be_bytes());
        Vector {
            rand: random::bytes(),
            autn,
            xres: random::bytes(),
            ck: random::bytes(),
            ik: random::bytes(),
        }
    }
}

/// What a failed question means for the session: wait and come again, or go on as with a stranger.
pub fn is_passing(error: &RegisterError) -> bool {
    match error {
        RegisterError::Unreachable(_)
        | RegisterError::Unknown(_)
        | RegisterError::Exhausted
        | RegisterError::Invalid(_) => true,
        RegisterError::NotFound | RegisterError::Conflict(_) | RegisterError::Refused(_) => false,
    }
}
