//! What a run of the model reports.

use serde::Serialize;

/// The figures of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Cards in the platform.
    pub cards: u32,
    /// Cards in the field and alive; percentages refer to them.
    pub active: u32,
    /// Triggers sent.
    pub sms: u64,
    /// Triggers per active card.
    pub sms_per_active: f64,
    /// Triggers sent to cards that are not in the field or dead.
    pub sms_to_inactive: u64,
    /// After how many days which share of the active cards was done.
    pub days: Days,
    /// Triggers of the first pass that left against the campaign's order.
    pub order_inversions: u64,
    /// The most sessions open at the same time.
    pub sessions_peak: f64,
    /// The session limit.
    pub sessions_limit: u32,
    /// The most sessions wanted at the same time, served and refused.
    pub demand_peak: f64,
    /// Connections refused.
    pub refused: u64,
    /// Duration of the run in seconds of real time.
    pub wall_s: f64,
    /// The most memory that the process has held, in bytes.
    pub memory_bytes_max: u64,
    /// The course of the run by the hour; for the plot.
    #[serde(skip)]
    pub hours: Vec<Hour>,
}

/// After how many days which share of the active cards was done; `None`: not within the run.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Days {
    /// Half of them.
    pub p50: Option<f64>,
    /// 90 %.
    pub p90: Option<f64>,
    /// 99 %.
    pub p99: Option<f64>,
    /// 99.9 %.
    pub p999: Option<f64>,
    /// All of them.
    pub p100: Option<f64>,
}

/// One hour of the run, counted from the start of the campaign.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Hour {
    /// Triggers sent.
    pub sms: u64,
    /// Cards done in a poll of their own.
    pub done_by_poll: u64,
    /// Cards done in answer to a trigger.
    pub done_by_trigger: u64,
    /// Sum over the minutes of the sessions wanted at the same time; divide by `minutes`.
    pub demand: f64,
    /// The largest of them.
    pub demand_max: f64,
    /// Own polls among them, sum over the minutes.
    pub polls: f64,
    /// Minutes of this hour that were run.
    pub minutes: u32,
}

/// Finds the minutes at which shares of the active cards were done.
#[derive(Debug, Clone, Default)]
pub(super) struct Milestones {
    done: u64,
    days: Days,
}

impl Milestones {
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    pub(super) fn days(&self) -> Days {
        self.days
    }

    /// So many more were done by the end of this minute.
    pub(super) fn add(&mut self, minute: i32, done: u64, active: u64) {
        self.done += done;
        let reached = |per_mille: u64| active > 0 && self.done * 1_000 >= active * per_mille;
        let day = f64::from(minute + 1) / 1_440.0;
        let days = &mut self.days;
        for (share, place) in [
            (500, &mut days.p50),
            (900, &mut days.p90),
            (990, &mut days.p99),
            (999, &mut days.p999),
            (1_000, &mut days.p100),
        ] {
            if place.is_none() && reached(share) {
                *place = Some(day);
            }
        }
    }
}

/// The most memory that this process has held, in bytes; 0 where the system does not tell.
pub(super) fn memory_bytes_max() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1_024
}
