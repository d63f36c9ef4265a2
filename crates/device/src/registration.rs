//! Registration with the network (3GPP TS 24.008, 4.4). The shell chooses the network of the identity; the device says
//! when it attaches, and what a refusal means.
//!
//! | state | event | next |
//! |---|---|---|
//! | `None` | an identity was read from the card | `Attaching` |
//! | `Attaching` | accepted | `Registered` |
//! | `Attaching` | refused for good (4.4.4.7: the identity, the device, the network) | `Refused` |
//! | `Attaching` | refused for now | `Waiting`: 15 s, after [`ATTEMPTS_MAX`] in a row 12 minutes |
//! | `Waiting` | its time has come | `Attaching` |
//! | `Registered` | taken away by the network | as a refusal with that cause |
//! | `Attaching`, `Waiting`, `Registered` | coverage lost | `NoCoverage` |
//! | `NoCoverage` | coverage | `Attaching` |
//!
//! In every state another identity on the card, or a reset of it, begins again; the end of the card session leads to
//! `None`. The shell says whether there is coverage; until it does there is.

use simtide_protocol::ids::EpochMs;

use crate::device::{Device, EVENT_LOCATION_STATUS, Purpose, push};
use crate::event::Command;
use crate::proactive::tag;
use crate::response;

/// Attempts one after the other before the device waits longer (3GPP TS 24.008, 4.2.3 and 11.2: T3211, T3212).
pub const ATTEMPTS_MAX: u8 = 5;

/// Wait after an attempt that was refused for now, in seconds (T3211).
pub const RETRY_S: i64 = 15;

/// Wait after [`ATTEMPTS_MAX`] of them, in seconds.
pub const LONG_RETRY_S: i64 = 12 * 60;

/// Causes after which the identity is not tried again until the card is reset or the device switched off (4.4.4.7).
const FOR_GOOD: [u8; 5] = [0x02, 0x03, 0x06, 0x07, 0x0B];

/// ETSI TS 102 223, 8.27: location status.
const NORMAL_SERVICE: u8 = 0x00;
const LIMITED_SERVICE: u8 = 0x01;
const NO_SERVICE: u8 = 0x02;

/// Where a device stands with its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Registration {
    /// No identity.
    #[default]
    None,
    /// The network has been asked.
    Attaching,
    /// In service.
    Registered,
    /// Refused for now.
    Waiting,
    /// No network is in reach.
    NoCoverage,
    /// Refused for good, with the cause of 3GPP TS 24.008, 10.5.3.6.
    Refused(u8),
}

#[derive(Debug)]
pub(crate) struct Registering {
    state: Registration,
    covered: bool,
    attempts: u8,
    again_at: Option<EpochMs>,
    /// What the card is to be told.
    location_due: Option<u8>,
}

impl Default for Registering {
    fn default() -> Self {
        Self { state: Registration::None, covered: true, attempts: 0, again_at: None, location_due: None }
    }
}

impl Registering {
    pub fn next(&self) -> Option<EpochMs> {
        self.again_at
    }
}

impl Device {
    /// Where the device stands with its network.
    pub fn registration(&self) -> Registration {
        self.registering.state
    }

    /// The card has been read: whoever was there before leaves, the identity attaches.
    pub(crate) fn register(&mut self) {
        if self.attached == self.files.imsi {
            return;
        }
        self.leave();
        self.attached = self.files.imsi;
        self.registering.attempts = 0;
        self.attach();
    }

    /// The end of a card session: the network is told, nothing is tried again.
    pub(crate) fn leave(&mut self) {
        if let Some(imsi) = self.attached.take() {
            self.commands.push_back(Command::Detach { imsi });
        }
        self.registering = Registering { covered: self.registering.covered, ..Registering::default() };
    }

    fn attach(&mut self) {
        let Some(imsi) = self.attached else { return };
        self.registering.again_at = None;
        self.registering.state = match self.registering.covered {
            true => Registration::Attaching,
            false => Registration::NoCoverage,
        };
        // Without coverage the shell still learns who is there: it chooses the network.
        let (msisdn, mnc_digits) = (self.files.msisdn, self.files.mnc_digits);
        self.commands.push_back(Command::Attach { imsi, msisdn, mnc_digits });
    }

    pub(crate) fn accepted(&mut self) {
        if self.attached.is_none() {
            return;
        }
        self.registering.covered = true;
        self.registering.attempts = 0;
        self.registering.again_at = None;
        self.registering.state = Registration::Registered;
        self.tell_location(NORMAL_SERVICE);
    }

    pub(crate) fn refused(&mut self, now: EpochMs, cause: u8) {
        if self.attached.is_none() {
            return;
        }
        if FOR_GOOD.contains(&cause) {
            self.registering.again_at = None;
            self.registering.state = Registration::Refused(cause);
        } else {
            self.registering.attempts = self.registering.attempts.saturating_add(1);
            let wait_s = if self.registering.attempts < ATTEMPTS_MAX { RETRY_S } else { LONG_RETRY_S };
            self.registering.again_at = Some(now.plus_s(wait_s));
            self.registering.state = Registration::Waiting;
        }
        self.tell_location(LIMITED_SERVICE);
    }

    pub(crate) fn coverage(&mut self, is_there: bool) {
        self.registering.covered = is_there;
        if self.attached.is_none() || matches!(self.registering.state, Registration::Refused(_)) {
            return;
        }
        if is_there {
            // Otherwise the network has been asked already.
            if self.registering.state == Registration::NoCoverage {
                self.registering.attempts = 0;
                self.attach();
            }
        } else {
            let was_registered = self.registering.state == Registration::Registered;
            self.registering.again_at = None;
            self.registering.state = Registration::NoCoverage;
            if was_registered {
                self.tell_location(NO_SERVICE);
            }
        }
    }

    pub(crate) fn attach_again(&mut self, now: EpochMs) {
        if self.registering.again_at.is_some_and(|at| at <= now) {
            self.attach();
        }
    }

    fn tell_location(&mut self, status: u8) {
        self.registering.location_due = self.wants(EVENT_LOCATION_STATUS).then_some(status);
    }

    /// A busy card is told again.
    pub(crate) fn tell_location_again(&mut self, status: u8) {
        self.registering.location_due.get_or_insert(status);
    }

    /// The event download of the location status, where one is due.
    pub(crate) fn location_envelope(&mut self) -> Option<(Vec<u8>, Purpose)> {
        let status = self.registering.location_due.take()?;
        let place = response::location(self.settings.location);
        let envelope = response::event_envelope(EVENT_LOCATION_STATUS, |body| {
            push(body, tag::LOCATION_STATUS, &[status]);
            // ETSI TS 102 223, 7.5.4.2: only in normal service.
            if status == NORMAL_SERVICE {
                push(body, tag::LOCATION, &place);
            }
        });
        Some((envelope, Purpose::Location(status)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::kind::{Kind, Settings};

    const NOW: EpochMs = EpochMs(1_000_000);

    fn attaching() -> Device {
        let mut device = Device::new(Settings::of(Kind::Phone));
        device.files.imsi = "001020000000001".parse().ok();
        device.files.mnc_digits = Some(2);
        device.register();
        attaches(&mut device);
        device
    }

    fn attaches(device: &mut Device) {
        let imsi = "001020000000001".parse().unwrap();
        let attach = Command::Attach { imsi, msisdn: None, mnc_digits: Some(2) };
        assert_eq!(device.next_command(), Some(attach));
        assert_eq!(device.next_command(), None);
    }

    #[test]
    fn refused_for_now_is_tried_again_and_then_seldom() {
        let mut device = attaching();
        let mut now = NOW;
        for attempt in 1..=ATTEMPTS_MAX + 2 {
            device.handle(now, Event::AttachRefused { cause: 0x11 });
            assert_eq!(device.registration(), Registration::Waiting);
            assert_eq!(device.next_command(), None);
            let wait_s = if attempt < ATTEMPTS_MAX { RETRY_S } else { LONG_RETRY_S };
            assert_eq!(device.registering.next(), Some(now.plus_s(wait_s)), "{attempt}");
            device.handle(now.plus_s(wait_s - 1), Event::Deadline);
            assert_eq!(device.next_command(), None);
            now = now.plus_s(wait_s);
            device.handle(now, Event::Deadline);
            attaches(&mut device);
            assert_eq!(device.registration(), Registration::Attaching);
        }
        device.handle(now, Event::Attached);
        assert_eq!((device.registration(), device.registering.next()), (Registration::Registered, None));
        device.handle(now, Event::AttachRefused { cause: 0x11 });
        assert_eq!(device.registering.next(), Some(now.plus_s(RETRY_S)), "the count began again");
    }

    #[test]
    fn refused_for_good_is_tried_with_another_identity_only() {
        for cause in FOR_GOOD {
            let mut device = attaching();
            device.handle(NOW, Event::AttachRefused { cause });
            assert_eq!(device.registration(), Registration::Refused(cause));
            for event in [Event::Coverage(false), Event::Coverage(true), Event::Deadline] {
                device.handle(NOW.plus_s(86_400), event);
                assert_eq!(device.next_command(), None);
            }
            device.files.imsi = "001010000000001".parse().ok();
            device.register();
            let (before, after) = ("001020000000001".parse().unwrap(), "001010000000001".parse().unwrap());
            assert_eq!(device.next_command(), Some(Command::Detach { imsi: before }));
            let attach = Command::Attach { imsi: after, msisdn: None, mnc_digits: Some(2) };
            assert_eq!(device.next_command(), Some(attach));
            assert_eq!(device.registration(), Registration::Attaching);
        }
    }

    #[test]
    fn coverage_comes_and_goes() {
        let mut device = attaching();
        device.handle(NOW, Event::Attached);
        device.events = 1 << EVENT_LOCATION_STATUS;
        device.handle(NOW, Event::Coverage(false));
        assert_eq!(device.registration(), Registration::NoCoverage);
        let (envelope, _) = device.location_envelope().unwrap();
        assert_eq!(hex::encode(envelope), "80c200000cd60a990103820282819b0102");
        for _ in 0..2 {
            device.handle(NOW, Event::Coverage(true));
        }
        attaches(&mut device);
        assert_eq!(device.registration(), Registration::Attaching);
        // Without an identity nothing attaches.
        device.leave();
        device.handle(NOW, Event::Coverage(true));
        assert_eq!(device.next_command(), Some(Command::Detach { imsi: "001020000000001".parse().unwrap() }));
        assert_eq!((device.next_command(), device.registration()), (None, Registration::None));
    }
}
