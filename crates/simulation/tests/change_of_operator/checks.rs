//! B1 to B5, where they hold: on the card, in the registers, on the air.

use simtide_platform::subscription::{PacketKind, State};

use crate::world::{World, imsi_1, imsi_2};

impl World {
    /// What holds at every moment.
    pub fn check(&self) {
        let register_accepts = match self.card.identity {
            1 => self.first.accepts(imsi_1()),
            _ => self.second.accepts(imsi_2()),
        };
        assert!(
            register_accepts,
            "B1 {}: no register accepts the card: {:?}",
            self.scenario.name, self.trail
        );
        if !self.first.accepts(imsi_1()) {
            let seen = self.second.has_seen.contains(&imsi_2());
            let committed = !self.scenario.guarded || self.card.is_committed();
            assert!(seen && committed, "B3 {}: {:?}", self.scenario.name, self.trail);
        }
        let counters: Vec<u64> = self.transmitted.iter().map(|(counter, _)| *counter).collect();
        let rises = counters.windows(2).all(|pair| pair[0] <= pair[1]);
        assert!(rises, "C2 {}: {counters:?} {:?}", self.scenario.name, self.trail);
    }

    /// B4: identity 2 goes back only when the card has identity 1 and no message can change that any more.
    pub(super) fn check_release(&self) {
        let name = self.scenario.name;
        assert_eq!(self.card.identity, 1, "B4 {name}: {:?}", self.trail);
        assert!(!self.card.is_waiting(), "B4 {name}: the card is about to change: {:?}", self.trail);
        for (counter, row) in &self.rows {
            let is_dead = row.kind == PacketKind::Fence || *counter <= self.card.counter;
            assert!(is_dead, "B4 {name}: packet {counter} can still be executed: {:?}", self.trail);
        }
    }

    pub(super) fn check_end(&self) {
        let change = self.change();
        let context = || format!("{}, {:?}: {:?}", self.scenario.name, self.fault, self.trail);
        // Registers that fail for ever keep a change open for ever; the card has an identity that works.
        if change.is_open() {
            let excused = self.fault.is_some_and(|fault| fault.always)
                || self.scenario.blind
                || self.scenario.end.is_none();
            assert!(excused, "not closed: {}", context());
            return;
        }
        let lies = self.fault.is_some_and(|fault| fault.always && fault.behaviour.lies());
        let (knows_1, knows_2) =
            (self.first.entries.contains_key(&imsi_1()), !self.second.entries.is_empty());
        if change.state == State::Done {
            assert_eq!((self.card.identity, self.operator), (2, 2), "{}", context());
            assert!(lies || (!knows_1 && knows_2), "B5 {}", context());
        } else {
            assert_eq!((self.card.identity, self.operator), (1, 1), "{}", context());
            assert!(lies || (knows_1 && !knows_2), "B5 {}", context());
            assert!(self.first.accepts(imsi_1()), "{}", context());
        }
        if let Some(end) = self.scenario.end.filter(|_| self.fault.is_none()) {
            assert_eq!(change.state, end, "{}", context());
        }
    }
}
