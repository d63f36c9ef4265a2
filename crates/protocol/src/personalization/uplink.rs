//! What a card sends by itself: secured command packets from the card to the platform.
//!
//! They are sealed with the card's OTA keys and a counter of their own, for a TAR that no application of the card has
//! ([`crate::profile::PersonalizationSettings::uplink_tar`]): sent back to the card they are for nobody and move no counter,
//! and a command of the platform is no uplink.

use super::answer::State;
use super::identity::DIGEST_BYTES;
use crate::ids::{CardId, ChangeId, EpochMs, IdMno, Tar};
use crate::scp80::{
    CommandHeader, Counter, CounterMode, Integrity, KeySet, Kic, Kid, OpenError, SealError, Security, Spi,
    open, seal,
};
use crate::tlv::{Reader, find, push, push_with};

/// CC, ciphered, counter higher; no proof of receipt, which would be one from the platform.
const SPI: Spi = Spi::new(0x16, 0x00);

/// Tags of uplinks.
mod tag {
    pub(super) const CARD: u32 = 0x80;
    pub(super) const CHANGE: u32 = 0x81;
    pub(super) const OPERATOR: u32 = 0x82;
    pub(super) const WAY: u32 = 0x84;
    pub(super) const AT: u32 = 0x85;
    pub(super) const DIGEST: u32 = 0x8E;
    pub(super) const STATE: u32 = 0x8B;
    pub(super) const REFUSAL: u32 = 0x8C;
    pub(super) const REQUEST: u32 = 0xB1;
    pub(super) const NOTICE: u32 = 0xB2;
}

/// By which way the user has agreed on the card's device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConsentWay {
    /// Chose the operator in the card's menu, and confirmed.
    Menu,
    /// Typed the code of the operator's leaflet, and confirmed.
    Code,
    /// Used the device's own application, and confirmed.
    Application,
}

/// That the user wants the change, and how that was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consent {
    /// How.
    pub way: ConsentWay,
    /// When, by the device's clock; none where the device does not tell the time. Whole seconds until the year 2106.
    pub at: Option<EpochMs>,
}

/// The wish to become a subscriber of another operator: the seed's request {IdSC, IdMNO}.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// IdSC.
    pub card: CardId,
    /// IdMNO.
    pub operator: IdMno,
    /// The user's agreement.
    pub consent: Consent,
}

/// What became of a change, said by the card without being asked: the outcome of a guarded swap, or of a question to
/// the user that was asked during a poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Who says so.
    pub card: CardId,
    /// Which change.
    pub change: ChangeId,
    /// How far it is.
    pub state: State,
    /// [`super::identity_digest`] of the identity that the card serves now.
    pub digest: [u8; DIGEST_BYTES],
}

/// One message of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uplink {
    /// Its user wants another operator.
    Request(Request),
    /// What became of a change.
    Notice(Notice),
}

/// Why a packet is no uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UplinkError {
    /// It is for something else.
    #[error("TAR {0} is not that of uplinks")]
    Tar(Tar),
    /// It is not protected as every uplink is.
    #[error("the packet is not protected by CC, ciphering and counter")]
    Protection,
    /// It does not open.
    #[error(transparent)]
    Packet(#[from] OpenError),
    /// Its content is none that a card writes.
    #[error("the content is malformed: {0}")]
    Content(&'static str),
}

/// The open part of an uplink: which keys it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UplinkHead {
    /// Index of the key set, 1 to 15.
    pub key_index: u8,
    /// Whom it is for.
    pub tar: Tar,
}

impl UplinkHead {
    /// Reads what is not ciphered; `None` where it is no command packet. Nothing of it is authenticated yet.
    pub fn of(packet: &[u8]) -> Option<Self> {
        let (security, tar) = CommandHeader::clear_part(packet).ok()?;
        Some(Self { key_index: security.kid.index(), tar })
    }
}

impl Uplink {
    /// Seals the message as a command packet, from CPL on.
    ///
    /// # Errors
    /// The keys do not fit the algorithms.
    pub fn seal(
        &self,
        tar: Tar,
        kic: Kic,
        kid: Kid,
        counter: Counter,
        keys: &KeySet,
    ) -> Result<Vec<u8>, SealError> {
        let security = Security { spi: SPI, kic, kid };
        seal(&CommandHeader { security, tar, counter }, keys, &self.encode())
    }

    /// Opens a packet of a card: the message and its counter, which has to be higher than every one before and is to be
    /// made durable before the message has any effect.
    ///
    /// # Errors
    /// It is not for `tar`, not protected, does not open with these keys, or holds something else.
    pub fn open(packet: &[u8], tar: Tar, keys: &KeySet) -> Result<(Self, Counter), UplinkError> {
        let (security, found) = CommandHeader::clear_part(packet)?;
        if found != tar {
            return Err(UplinkError::Tar(found));
        }
        let spi = security.spi;
        let strong = spi.ciphered()
            && spi.integrity() == Integrity::CryptographicChecksum
            && spi.counter_mode() == CounterMode::Higher
            && security.kic.index() == security.kid.index();
        if !strong {
            return Err(UplinkError::Protection);
        }
        let opened = open(packet, keys)?;
        Ok((Self::parse(&opened.data)?, opened.header.counter))
    }

    /// The card that says it, which has to be the one whose keys opened the packet.
    pub const fn card(&self) -> CardId {
        match self {
            Self::Request(request) => request.card,
            Self::Notice(notice) => notice.card,
        }
    }

    /// The content, in the clear.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::Request(Request { card, operator, consent }) => {
                push_with(&mut out, tag::REQUEST, |body| {
                    push(body, tag::CARD, card.as_bytes());
                    push(body, tag::OPERATOR, operator.as_str().as_bytes());
                    push(body, tag::WAY, &[consent.way.code()]);
                    if let Some(seconds) = consent.at.and_then(|at| u32::try_from(at.seconds()).ok()) {
                        push(body, tag::AT, &seconds.to_be_bytes());
                    }
                });
            }
            Self::Notice(Notice { card, change, state, digest }) => {
                let (state, refusal) = state.codes();
                push_with(&mut out, tag::NOTICE, |body| {
                    push(body, tag::CARD, card.as_bytes());
                    push(body, tag::CHANGE, &change.to_bytes());
                    push(body, tag::STATE, &[state]);
                    if let Some(refusal) = refusal {
                        push(body, tag::REFUSAL, &[refusal]);
                    }
                    push(body, tag::DIGEST, digest);
                });
            }
        }
        out
    }

    /// Reads [`Uplink::encode`].
    ///
    /// # Errors
    /// The bytes are something else.
    pub fn parse(bytes: &[u8]) -> Result<Self, UplinkError> {
        let wrong = UplinkError::Content;
        let object = Reader::new(bytes).next().and_then(Result::ok).ok_or(wrong("no object"))?;
        let body = object.value;
        let card = find(body, tag::CARD).and_then(|card| CardId::try_from(card).ok());
        let card = card.ok_or(wrong("card id"))?;
        let byte = |tag| match find(body, tag) {
            Some([byte]) => Some(*byte),
            _ => None,
        };
        match object.tag {
            tag::REQUEST => {
                let operator = find(body, tag::OPERATOR).and_then(|text| std::str::from_utf8(text).ok());
                let operator = operator.and_then(|text| text.parse().ok()).ok_or(wrong("operator"))?;
                let way = byte(tag::WAY).and_then(ConsentWay::from_code).ok_or(wrong("consent"))?;
                let at = match find(body, tag::AT) {
                    None => None,
                    Some(seconds) => {
                        let seconds = seconds.try_into().map_err(|_| wrong("time of consent"))?;
                        Some(EpochMs::from_seconds(i64::from(u32::from_be_bytes(seconds))))
                    }
                };
                Ok(Self::Request(Request { card, operator, consent: Consent { way, at } }))
            }
            tag::NOTICE => {
                let change = find(body, tag::CHANGE).and_then(|change| change.try_into().ok());
                let state = byte(tag::STATE).and_then(|state| State::from_codes(state, byte(tag::REFUSAL)));
                let digest = find(body, tag::DIGEST).and_then(|digest| digest.try_into().ok());
                Ok(Self::Notice(Notice {
                    card,
                    change: change.map(ChangeId::from_bytes).ok_or(wrong("change"))?,
                    state: state.ok_or(wrong("state"))?,
                    digest: digest.ok_or(wrong("digest"))?,
                }))
            }
            _ => Err(wrong("kind")),
        }
    }
}

impl ConsentWay {
    const ALL: [(Self, u8); 3] = [(Self::Menu, 1), (Self::Code, 2), (Self::Application, 3)];

    fn code(self) -> u8 {
        Self::ALL.iter().find(|(way, _)| *way == self).map_or(0, |(_, code)| *code)
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, other)| *other == code).map(|(way, _)| *way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::personalization::Refusal;
    use crate::scp80::Key;

    const TAR: Tar = Tar([0xBF, 0xFF, 0x21]);

    fn keys(byte: u8) -> KeySet {
        KeySet::new(Some(Key::new(&[byte; 16]).unwrap()), Some(Key::new(&[byte ^ 0x22; 16]).unwrap()))
    }

    fn request() -> Uplink {
        Uplink::Request(Request {
            card: "8988211000000000011".parse().unwrap(),
            operator: "two".parse().unwrap(),
            consent: Consent { way: ConsentWay::Code, at: Some(EpochMs::from_seconds(1_800_000_000)) },
        })
    }

    #[test]
    fn what_a_card_sends_opens_with_its_keys_only() {
        let notice = Uplink::Notice(Notice {
            card: "89049032123451234512345678901235".parse().unwrap(),
            change: ChangeId(1),
            state: State::Refused(Refusal::UserSaidNo),
            digest: [9; 8],
        });
        for uplink in [request(), notice] {
            let counter = Counter::new(5).unwrap();
            let packet = uplink.seal(TAR, Kic(0x12), Kid(0x12), counter, &keys(0x11)).unwrap();
            assert_eq!(UplinkHead::of(&packet), Some(UplinkHead { key_index: 1, tar: TAR }));
            assert_eq!(Uplink::open(&packet, TAR, &keys(0x11)), Ok((uplink.clone(), counter)));
            let stranger = Uplink::open(&packet, TAR, &keys(0x44));
            assert!(matches!(stranger, Err(UplinkError::Packet(_))), "{stranger:?}");
            let other = Uplink::open(&packet, Tar([0; 3]), &keys(0x11));
            assert_eq!(other, Err(UplinkError::Tar(TAR)));
            for place in 0..packet.len() {
                let mut damaged = packet.clone();
                damaged[place] ^= 0x40;
                assert!(Uplink::open(&damaged, TAR, &keys(0x11)).is_err(), "{place}");
            }
        }
    }

    #[test]
    fn weak_packets_are_no_uplinks() {
        let strong = Security { spi: SPI, kic: Kic(0x12), kid: Kid(0x12) };
        for spi in [Spi::new(0x12, 0), Spi::new(0x06, 0), Spi::new(0x0E, 0), Spi::new(0x14, 0)] {
            let header =
                CommandHeader { security: Security { spi, ..strong }, tar: TAR, counter: Counter::MAX };
            let packet = seal(&header, &keys(0x11), &request().encode()).unwrap();
            assert_eq!(Uplink::open(&packet, TAR, &keys(0x11)), Err(UplinkError::Protection), "{spi:?}");
        }
    }
}
