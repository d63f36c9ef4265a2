//! What the agent remembers across power loss.

use super::Host;
use simtide_protocol::profile::RetryTimerCoding;
use simtide_protocol::trigger::SessionParameters;

const VERSION: u8 = 0x01;
const RESUME: u8 = 0x01;
const WANTED: u8 = 0x02;
const OPEN: u8 = 0x04;

/// Layout: version `01`, flags (1 resume, 2 wanted, 4 open), failures, parameters of the trigger as in tag 83.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Memory {
    /// The last dialogue broke: the next one says so.
    pub(super) resume: bool,
    /// A dialogue is under way. Where this is found at start, the power went within it.
    pub(super) open: bool,
    /// A trigger that has not been served, with what it said.
    pub(super) wanted: Option<SessionParameters>,
    /// Sessions that failed in a row.
    pub(super) failures: u8,
}

impl Memory {
    /// What was stored; what cannot be read counts as nothing.
    pub(super) fn load(host: &dyn Host) -> Self {
        let stored = host.memory();
        let [VERSION, flags, failures, parameters @ ..] = stored.as_slice() else { return Self::default() };
        let wanted = (flags & WANTED != 0)
            .then(|| SessionParameters::decode(parameters, RetryTimerCoding::SemiOctets).unwrap_or_default());
        Self { resume: flags & RESUME != 0, open: flags & OPEN != 0, wanted, failures: *failures }
    }

    pub(super) fn save(&self, host: &mut dyn Host) {
        if *self == Self::default() {
            return host.write_memory(&[]);
        }
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(self.resume, RESUME) | flag(self.wanted.is_some(), WANTED) | flag(self.open, OPEN);
        let mut bytes = vec![VERSION, flags, self.failures];
        if let Some(parameters) = &self.wanted {
            // It was decoded from a trigger, so it fits into one.
            bytes.extend(parameters.encode(RetryTimerCoding::SemiOctets).unwrap_or_default());
        }
        host.write_memory(&bytes);
    }
}
