//! Sums of a campaign.

/// Sums of a campaign: counter rows per bucket, changed once per batch; also a change of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Done in a poll that came by itself.
    pub done_by_poll: i64,
    /// Done in a poll that a trigger called in.
    pub done_by_trigger: i64,
    /// Done by an SCP80 command.
    pub done_by_command: i64,
    /// Done by a change of operator.
    pub done_by_change: i64,
    /// Failed for good.
    pub failed: i64,
    /// Interrupted, shown to the operator.
    pub interrupted: i64,
    /// Trigger packets reserved, all attempts; counted by the store itself.
    pub triggers: i64,
    /// Candidates that had polled meanwhile; counted by the store itself.
    pub passed_over: i64,
    /// Changes of operator that the user did not want.
    pub declined: i64,
    /// Changes of operator that the card refused.
    pub refused: i64,
    /// Changes of operator from which the card returned.
    pub reverted: i64,
    /// Changes of operator that were cancelled.
    pub cancelled: i64,
    /// Cards that cannot change their operator.
    pub not_possible: i64,
}

impl Progress {
    /// Names of the sums, in the order of [`Progress::values`].
    pub(super) const COLUMNS: [&str; 13] = [
        "done_by_poll",
        "done_by_trigger",
        "done_by_command",
        "done_by_change",
        "failed",
        "interrupted",
        "triggers",
        "passed_over",
        "declined",
        "refused",
        "reverted",
        "cancelled",
        "not_possible",
    ];

    /// The sums, one after the other.
    pub(super) fn values(mut self) -> [i64; Self::COLUMNS.len()] {
        self.sums().map(|sum| *sum)
    }

    /// The sums from one after the other.
    pub(super) fn of(values: [i64; Self::COLUMNS.len()]) -> Progress {
        let mut progress = Progress::default();
        progress.sums().into_iter().zip(values).for_each(|(sum, value)| *sum = value);
        progress
    }

    /// Adds a change, field by field.
    pub fn add(&mut self, other: &Progress) {
        self.sums().into_iter().zip(other.values()).for_each(|(sum, change)| *sum += change);
    }

    fn sums(&mut self) -> [&mut i64; Self::COLUMNS.len()] {
        [
            &mut self.done_by_poll,
            &mut self.done_by_trigger,
            &mut self.done_by_command,
            &mut self.done_by_change,
            &mut self.failed,
            &mut self.interrupted,
            &mut self.triggers,
            &mut self.passed_over,
            &mut self.declined,
            &mut self.refused,
            &mut self.reverted,
            &mut self.cancelled,
            &mut self.not_possible,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sum_has_its_place() {
        let counted = std::array::from_fn(|place| place as i64 + 1);
        let sums = Progress::of(counted);
        assert_eq!((sums.values(), sums.done_by_poll), (counted, 1));
        let mut twice = sums;
        twice.add(&sums);
        assert_eq!(twice.values(), counted.map(|one| one * 2));
    }
}
