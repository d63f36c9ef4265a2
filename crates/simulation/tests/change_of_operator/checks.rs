//! B1 to B8 where they hold: read from the card's own files and its AUTHENTICATE, in the registers, on the air.

use simtide_platform::subscription::{PacketKind, State, Verb};

use crate::world::{World, imsi_1, imsi_2};

impl World {
    /// What holds at every moment. B2 is checked by whoever reads the card.
    pub fn check(&mut self) {
        let (before, resets_before) = (self.found, self.resets_found);
        self.look();
        self.resets_found = self.phone.resets;
        let name = self.scenario.name.as_str();
        if self.found != before {
            // A card that is off was read as what it is with its next reset.
            let was_reset = self.phone.resets > resets_before || !self.phone.is_on();
            assert!(was_reset, "B8 {name}: without a reset: {:?}", self.trail);
            assert!(
                self.submits > 0 || !self.proof_may_leave(),
                "B8 {name}: before its proof: {:?}",
                self.trail
            );
        }
        let register_accepts = match self.found {
            1 => self.first.accepts(imsi_1()),
            _ => self.second.accepts(imsi_2()),
        };
        assert!(register_accepts, "B1 {name}: no register accepts the card: {:?}", self.trail);
        if !self.first.accepts(imsi_1()) {
            let seen = self.second.has_seen.contains(&imsi_2());
            let committed = !self.scenario.guarded || self.is_committed();
            assert!(seen && committed, "B3 {name}: {:?}", self.trail);
        }
        let rises = self.transmitted.windows(2).all(|pair| pair[0].0 <= pair[1].0);
        assert!(rises, "C2 {name}: {:?} {:?}", self.transmitted, self.trail);
    }

    /// The network takes messages: then the card swaps only after one has left.
    fn proof_may_leave(&self) -> bool {
        self.scenario.takes_nothing_until_ms == 0
    }

    /// Identity 2, and nothing is left of identity 1.
    fn is_committed(&self) -> bool {
        self.found == 2 && !self.phone.keeps_other()
    }

    /// B4: identity 2 goes back only when the card has identity 1 and no message can change that any more: none is staged,
    /// nobody is being asked, and a copy of the card takes none of those that have ever left.
    pub(super) fn check_release(&self) {
        let name = self.scenario.name.as_str();
        assert_eq!(self.found, 1, "B4 {name}: {:?}", self.trail);
        let waits = self.phone.keeps_other() || self.phone.is_asking;
        assert!(!waits, "B4 {name}: the card is about to change: {:?}", self.trail);
        for (counter, kind) in &self.transmitted {
            if *kind == PacketKind::Personalization {
                let takes = self.phone.would_take(&self.on_air[counter]);
                assert!(!takes, "B4 {name}: packet {counter} can still be executed: {:?}", self.trail);
            }
        }
    }

    pub(super) fn check_end(&mut self) {
        self.look();
        let change = self.change();
        let context = || format!("{}, {:?}: {:?}", self.scenario.name, self.fault, self.trail);
        // Registers that fail for ever keep a change open for ever, but not one that has ended; the card has an identity
        // that works.
        let for_ever = self.fault.filter(|fault| fault.always);
        let gives_back = for_ever.is_some_and(|fault| fault.verb == Some(Verb::Release));
        if change.is_open() {
            let excused = for_ever.is_some() || self.scenario.blind || self.scenario.end.is_none();
            assert!(excused && !(gives_back && change.state.is_closing()), "not closed: {}", context());
            return;
        }
        let lies = gives_back || for_ever.is_some_and(|fault| fault.behaviour.lies());
        let (knows_1, knows_2) =
            (self.first.entries.contains_key(&imsi_1()), !self.second.entries.is_empty());
        if change.state == State::Done {
            assert_eq!((self.found, self.operator), (2, 2), "{}", context());
            assert!(lies || (!knows_1 && knows_2), "B5 {}", context());
        } else {
            assert_eq!((self.found, self.operator), (1, 1), "{}", context());
            assert!(lies || (knows_1 && !knows_2), "B5 {}", context());
            assert!(self.first.accepts(imsi_1()), "{}", context());
        }
        if let Some(end) = self.scenario.end.filter(|_| self.fault.is_none()) {
            assert_eq!(change.state, end, "{}", context());
        }
    }
}
