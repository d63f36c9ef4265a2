//! PINs and administrative codes (ETSI TS 102 221, 9.5 and 11.1.9 to 11.1.13).

use crate::card::Card;
use crate::storage::Kind;
use simtide_protocol::apdu::{Command, Response, StatusWord};
use simtide_protocol::profile::Authority;
use subtle::ConstantTimeEq;
use zeroize::ZeroizeOnDrop;

/// Which PIN or code; also its place in the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum PinReference {
    /// Application PIN, key reference 01.
    Pin1 = 0,
    /// Second application PIN, key reference 81.
    Pin2 = 1,
    /// First administrative code, key reference 0A.
    Adm1 = 2,
}

impl PinReference {
    /// In the order in which FCP templates name them.
    pub(crate) const ALL: [Self; 3] = [Self::Pin1, Self::Pin2, Self::Adm1];

    /// P2 of the PIN commands (ETSI TS 102 221, 9.5.1).
    pub(crate) const fn key_reference(self) -> u8 {
        match self {
            Self::Pin1 => 0x01,
            Self::Pin2 => 0x81,
            Self::Adm1 => 0x0A,
        }
    }

    const fn authority(self) -> Authority {
        match self {
            Self::Pin1 => Authority::PIN1,
            Self::Pin2 => Authority::PIN2,
            Self::Adm1 => Authority::ADM1,
        }
    }
}

/// A PIN with its unblocking code and its counters.
#[derive(ZeroizeOnDrop)]
pub(crate) struct Pin {
    value: [u8; 8],
    unblock: [u8; 8],
    attempts: u8,
    unblock_attempts: u8,
    pub(crate) enabled: bool,
}

impl Pin {
    pub(crate) fn new(
        value: [u8; 8],
        unblock: [u8; 8],
        attempts: u8,
        unblock_attempts: u8,
        enabled: bool,
    ) -> Self {
        Self { value, unblock, attempts, unblock_attempts, enabled }
    }

    /// Attempts at the PIN and at its unblocking code.
    pub(crate) const fn attempts_left(&self) -> (u8, u8) {
        (self.attempts, self.unblock_attempts)
    }

    fn encode(&self) -> [u8; 19] {
        let mut entry = [0; 19];
        entry[..8].copy_from_slice(&self.value);
        entry[8..16].copy_from_slice(&self.unblock);
        entry[16..].copy_from_slice(&[self.attempts, self.unblock_attempts, u8::from(self.enabled)]);
        entry
    }

    fn decode(entry: &[u8]) -> Option<Self> {
        let (value, rest) = entry.split_first_chunk()?;
        let (unblock, rest) = rest.split_first_chunk()?;
        let &[attempts, unblock_attempts, enabled] = rest else { return None };
        Some(Self::new(*value, *unblock, attempts, unblock_attempts, enabled != 0))
    }
}

impl Card {
    pub(crate) fn pin(&self, reference: PinReference) -> Option<Pin> {
        Pin::decode(self.storage.get(Kind::Pin, reference as u16)?)
    }

    pub(crate) fn set_pin(&mut self, reference: PinReference, pin: &Pin) {
        self.storage.put(Kind::Pin, reference as u16, &pin.encode());
    }

    /// Clause 9.5.1: while PIN 1 is disabled, its condition counts as met.
    pub(crate) fn pin1_is_disabled(&self) -> bool {
        self.pin(PinReference::Pin1).is_some_and(|pin| !pin.enabled)
    }

    /// VERIFY, CHANGE, DISABLE, ENABLE, UNBLOCK PIN; `None` for every other command.
    pub(crate) fn pin_command(&mut self, command: &Command<'_>) -> Option<Response> {
        if command.cla & 0xF0 != 0 || !matches!(command.ins, 0x20 | 0x24 | 0x26 | 0x28 | 0x2C) {
            return None;
        }
        let Some(reference) = PinReference::ALL.into_iter().find(|pin| pin.key_reference() == command.p2)
        else {
            return Some(StatusWord::REFERENCE_NOT_FOUND.into());
        };
        let Some(mut pin) = self.pin(reference) else {
            return Some(StatusWord::REFERENCE_NOT_FOUND.into());
        };
        let status = match command.ins {
            0x20 => self.verify(reference, &mut pin, command.data),
            0x24 => self.change(reference, &mut pin, command.data),
            0x26 | 0x28 => self.enable(reference, &mut pin, command.ins == 0x28, command.data),
            _ => self.unblock(reference, &mut pin, command.data),
        };
        Some(status.into())
    }

    fn verify(&mut self, reference: PinReference, pin: &mut Pin, data: &[u8]) -> StatusWord {
        if data.is_empty() {
            return attempts(pin.attempts);
        }
        if !pin.enabled {
            return StatusWord::REFERENCE_INVALIDATED;
        }
        self.present(reference, pin, data)
    }

    /// Compares, counts and remembers; a wrong PIN takes away what a right one had given.
    fn present(&mut self, reference: PinReference, pin: &mut Pin, data: &[u8]) -> StatusWord {
        let Ok(presented) = <&[u8; 8]>::try_from(data) else { return StatusWord::WRONG_LENGTH };
        if pin.attempts == 0 {
            return StatusWord::BLOCKED;
        }
        let right = bool::from(pin.value.ct_eq(presented));
        pin.attempts = if right { self.attempts_of(reference) } else { pin.attempts - 1 };
        self.set_pin(reference, pin);
        let session = self.session();
        if right {
            session.verified = session.verified.with(reference.authority());
            StatusWord::OK
        } else {
            session.verified = session.verified.without(reference.authority());
            attempts(pin.attempts)
        }
    }

    fn change(&mut self, reference: PinReference, pin: &mut Pin, data: &[u8]) -> StatusWord {
        let Some((old, new)) = data.split_first_chunk::<8>() else { return StatusWord::WRONG_LENGTH };
        let Ok(new) = <[u8; 8]>::try_from(new) else { return StatusWord::WRONG_LENGTH };
        if !pin.enabled {
            return StatusWord::REFERENCE_INVALIDATED;
        }
        let status = self.present(reference, pin, old);
        if status == StatusWord::OK {
            pin.value = new;
            self.set_pin(reference, pin);
        }
        status
    }

    fn enable(&mut self, reference: PinReference, pin: &mut Pin, enabled: bool, data: &[u8]) -> StatusWord {
        // Only PIN 1 can be switched off; asking for what is so already is an error (clause 11.1.11).
        if reference != PinReference::Pin1 {
            return StatusWord::FUNCTION_NOT_SUPPORTED;
        }
        if pin.enabled == enabled {
            return StatusWord::REFERENCE_INVALIDATED;
        }
        let status = self.present(reference, pin, data);
        if status == StatusWord::OK {
            pin.enabled = enabled;
            self.set_pin(reference, pin);
        }
        status
    }

    fn unblock(&mut self, reference: PinReference, pin: &mut Pin, data: &[u8]) -> StatusWord {
        if reference == PinReference::Adm1 {
            return StatusWord::FUNCTION_NOT_SUPPORTED;
        }
        if data.is_empty() {
            return attempts(pin.unblock_attempts);
        }
        let Some((code, new)) = data.split_first_chunk::<8>() else { return StatusWord::WRONG_LENGTH };
        let Ok(new) = <[u8; 8]>::try_from(new) else { return StatusWord::WRONG_LENGTH };
        if pin.unblock_attempts == 0 {
            return StatusWord::BLOCKED;
        }
        if !bool::from(pin.unblock.ct_eq(code)) {
            pin.unblock_attempts -= 1;
            self.set_pin(reference, pin);
            return attempts(pin.unblock_attempts);
        }
        pin.unblock_attempts = self.profile.pins.unblock_attempts;
        pin.attempts = self.attempts_of(reference);
        pin.value = new;
        if reference == PinReference::Pin1 {
            pin.enabled = true;
        }
        self.set_pin(reference, pin);
        let session = self.session();
        session.verified = session.verified.with(reference.authority());
        StatusWord::OK
    }

    fn attempts_of(&self, reference: PinReference) -> u8 {
        match reference {
            PinReference::Pin1 | PinReference::Pin2 => self.profile.pins.attempts,
            PinReference::Adm1 => self.profile.pins.administrative_attempts,
        }
    }
}

/// `63 Cx`, or blocked where nothing is left.
fn attempts(left: u8) -> StatusWord {
    if left == 0 { StatusWord::BLOCKED } else { StatusWord::attempts_left(left) }
}
