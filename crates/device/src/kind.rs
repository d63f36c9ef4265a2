//! What sort of device this is.

use serde::{Deserialize, Serialize};

/// What the device is. It decides what the device says that it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A telephone: display, keys, a person in front of it.
    #[default]
    Phone,
    /// A telematics unit of a vehicle.
    Vehicle,
    /// A meter.
    Meter,
    /// A tracker.
    Tracker,
    /// A router or another box that offers a connection.
    Router,
    /// A computer with a modem.
    Computer,
}

impl Kind {
    /// Whether devices of this kind have a display and keys, unless told otherwise.
    pub fn has_display(self) -> bool {
        matches!(self, Self::Phone | Self::Computer)
    }
}

impl std::str::FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        Ok(match name {
            "phone" => Self::Phone,
            "vehicle" => Self::Vehicle,
            "meter" => Self::Meter,
            "tracker" => Self::Tracker,
            "router" => Self::Router,
            "computer" => Self::Computer,
            other => return Err(UnknownKind(other.to_owned())),
        })
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Phone => "phone",
            Self::Vehicle => "vehicle",
            Self::Meter => "meter",
            Self::Tracker => "tracker",
            Self::Router => "router",
            Self::Computer => "computer",
        })
    }
}

/// A word that names no kind of device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no kind of device: use phone, vehicle, meter, tracker, router or computer")]
pub struct UnknownKind(pub String);

/// What a device is given when it is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What the device is.
    pub kind: Kind,
    /// Whether it has a display and keys.
    pub display: bool,
    /// Its IMEI, 15 digits.
    pub imei: [u8; 15],
    /// PIN 1 of the card, where it is asked for.
    pub pin: Option<Pin>,
    /// How long a person has to answer, in seconds.
    pub user_answer_timeout_s: u16,
    /// Where the device is.
    pub location: Location,
    /// Offset of the local time from UTC, in quarters of an hour.
    pub time_zone_quarters: i8,
}

impl Settings {
    /// Everything that goes without saying for a device of this kind.
    pub fn of(kind: Kind) -> Self {
        Self {
            kind,
            display: kind.has_display(),
            imei: *b"490154203237518",
            pin: None,
            user_answer_timeout_s: 60,
            location: Location::default(),
            time_zone_quarters: 0,
        }
    }
}

/// A cell (3GPP TS 24.008, 10.5.1.3 and 10.5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Country and network code as they stand in a location area identification.
    pub plmn: [u8; 3],
    /// Location area or tracking area.
    pub area: u16,
    /// Cell.
    pub cell: u16,
}

impl Default for Location {
    /// Network 001/01, the one for tests.
    fn default() -> Self {
        Self { plmn: [0x00, 0xF1, 0x10], area: 1, cell: 1 }
    }
}

/// A PIN, padded with FF to eight bytes (ETSI TS 102 221, 11.1.9). Never printed.
#[derive(Clone, PartialEq, Eq, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct Pin([u8; 8]);

impl Pin {
    /// From four to eight digits.
    pub fn from_digits(digits: &str) -> Option<Self> {
        if !(4..=8).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let mut padded = [0xFF; 8];
        padded[..digits.len()].copy_from_slice(digits.as_bytes());
        Some(Self(padded))
    }

    /// As it goes to the card.
    pub(crate) fn padded(&self) -> &[u8; 8] {
        &self.0
    }
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pin(..)")
    }
}
