//! Counts what is opened: someone who opens the keys of all cards is noticed within a minute.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Role;

/// Length of a window.
const WINDOW: Duration = Duration::from_secs(60);

/// Records of a role that may be opened in a minute before the alarm; 0: no alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlarmLimits {
    /// OTA key sets: as many as packets are sealed.
    pub ota: u64,
    /// Pre-shared keys: as many as cards poll.
    pub psk: u64,
    /// Ki and OPc: only a subscription change needs them.
    pub subscription: u64,
    /// Admin codes: only a subscription change needs them.
    pub admin_code: u64,
}

impl Default for AlarmLimits {
    fn default() -> AlarmLimits {
        AlarmLimits { ota: 120_000, psk: 120_000, subscription: 600, admin_code: 600 }
    }
}

/// What was opened since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenCounts {
    /// Records opened, in the order of [`Role::ALL`].
    pub opened: [u64; 5],
    /// Minutes in which more were opened than usual.
    pub alarms: u64,
    /// Damaged records met.
    pub damaged: u64,
}

pub(super) struct Meter {
    limits: AlarmLimits,
    opened: [AtomicU64; 5],
    alarms: AtomicU64,
    damaged: AtomicU64,
    window: Mutex<Window>,
}

struct Window {
    start: Instant,
    opened: [u64; 5],
}

impl Meter {
    pub(super) fn new(limits: AlarmLimits) -> Meter {
        let window = Mutex::new(Window { start: Instant::now(), opened: [0; 5] });
        Meter {
            limits,
            opened: Default::default(),
            alarms: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            window,
        }
    }

    pub(super) fn opened(&self, role: Role) {
        let place = usize::from(role.code() - 1);
        self.opened[place].fetch_add(1, Ordering::Relaxed);
        let limit =
            [self.limits.ota, self.limits.psk, self.limits.subscription, self.limits.admin_code, 0][place];
        let Ok(mut window) = self.window.lock() else { return };
        if window.start.elapsed() >= WINDOW {
            *window = Window { start: Instant::now(), opened: [0; 5] };
        }
        window.opened[place] += 1;
        if limit > 0 && window.opened[place] == limit + 1 {
            self.alarms.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                role = role.name(),
                limit_per_minute = limit,
                "many sealed records are being opened: find out by whom"
            );
        }
    }

    pub(super) fn damaged(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> OpenCounts {
        OpenCounts {
            opened: self.opened.each_ref().map(|count| count.load(Ordering::Relaxed)),
            alarms: self.alarms.load(Ordering::Relaxed),
            damaged: self.damaged.load(Ordering::Relaxed),
        }
    }
}
