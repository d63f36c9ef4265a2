//! One packet from reservation to proof.

use serde::{Deserialize, Serialize};
use simtide_protocol::ids::EpochMs;

/// Parts of a concatenated message at most.
pub const PARTS_MAX: u8 = 128;

/// Where a packet stands.
///
/// | state | evidence | becomes |
/// |---|---|---|
/// | Queued | Submitting; Deadline | Submitted; Expired (nothing has left) |
/// | Submitted | Accepted (all parts); RefusedBySmsc; Busy; LinkLost; receipts | Accepted; Refused; Queued; Unknown; as below |
/// | Accepted, Delivered, Unknown | Delivered (all parts); Undeliverable | Delivered; Expired (trigger, unproven), Unknown (command) |
/// | any of these | Deadline | Expired (trigger, unproven), Unknown (command: only a proof or a fence settles it) |
/// | any but Proven | Proof: success; refusal | Proven; Refused |
/// | any open | Proof: more time, the response will follow | Delivered: the proof proper is still to come |
/// | any open | Called (trigger) | Proven |
/// | any open | Fenced, Abandon | Abandoned |
/// | Proven | anything | Proven: the second copy's "counter low" is ignored |
/// | Refused, Expired, Abandoned | Proof of success | Proven: a card's proof outweighs a report of the network |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PacketState {
    /// Reserved; no byte has left.
    Queued,
    /// Handed to the SMSC, no answer yet.
    Submitted,
    /// The SMSC has taken every part.
    Accepted,
    /// A receipt came for every part.
    Delivered,
    /// Nobody can say whether it arrived.
    Unknown,
    /// The card has proven it, with this response status code; 00 for a trigger that was answered by a session.
    Proven(u8),
    /// Refused for good: by the SMSC (command status) or by the card (response status code).
    Refused(u32),
    /// Its validity has ended.
    Expired,
    /// Given up, or overtaken.
    Abandoned,
}

impl PacketState {
    /// Whether an effect or an answer is still possible.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Submitted | Self::Accepted | Self::Delivered | Self::Unknown)
    }
}

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Calls the card in. Losing it costs another one.
    Trigger,
    /// Changes something on the card. Whether it did must become known.
    Command,
    /// The same without a proof: nobody tells what became of it, and it stands in nobody's way after its validity.
    Unproven,
}

/// One packet: what the decisions need of its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// What it is for.
    pub purpose: Purpose,
    /// Key set that seals it.
    pub key_set: u8,
    /// Its counter.
    pub counter: u64,
    /// Where it stands.
    pub state: PacketState,
    /// Short messages that it takes, 1 to [`PARTS_MAX`].
    pub parts: u8,
    /// How often the same bytes have been handed to a bearer.
    pub copies: u8,
    /// End of its validity.
    pub deadline: EpochMs,
    accepted: u128,
    delivered: u128,
}

/// What has become known about a packet. What comes from the card has been authenticated and matched to this
/// packet by cryptographic checksum, TAR and counter before it gets here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// It is being handed to a bearer, first or again.
    Submitting,
    /// The SMSC has taken this part, from 0.
    Accepted {
        /// Which part.
        part: u8,
    },
    /// The SMSC has refused it for good, with this command status.
    RefusedBySmsc {
        /// SMPP command status.
        status: u32,
    },
    /// The SMSC is too busy: ESME_RTHROTTLED, ESME_RMSGQFUL. Nothing of it was taken.
    Busy,
    /// The link was lost before the answer.
    LinkLost,
    /// A receipt: this part has reached the device.
    Delivered {
        /// Which part, from 0.
        part: u8,
    },
    /// A receipt: the network has given it up.
    Undeliverable,
    /// A proof of receipt with this response status code (ETSI TS 102 225, 5.2).
    Proof {
        /// Response status code.
        status: u8,
    },
    /// The card has opened an authenticated session after the packet was reserved.
    Called,
    /// A packet of the same key set with a higher counter has been proven: this one can have no effect any more.
    Fenced,
    /// Given up for good by a user.
    Abandon,
    /// The clock: is the validity over?
    Deadline,
}

/// What evidence has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing: a repetition, or weaker than what is known.
    Nothing,
    /// The state, from this one.
    From(PacketState),
    /// The state, and it is decided: proven, refused, expired or abandoned.
    Settled(PacketState),
}

/// Response status codes (ETSI TS 102 225, 5.2).
mod status {
    pub(super) const OK: u8 = 0x00;
    pub(super) const COUNTER_LOW: u8 = 0x02;
    pub(super) const MORE_TIME: u8 = 0x08;
    /// The command has arrived, the response comes in messages of its own.
    pub(super) const RESPONSE_BY_SMS: u8 = 0x0B;
    pub(super) const RESPONSE_BY_USSD: u8 = 0x0C;
}

impl Packet {
    /// A packet as reserved.
    pub fn reserved(purpose: Purpose, key_set: u8, counter: u64, parts: u8, deadline: EpochMs) -> Self {
        let parts = parts.clamp(1, PARTS_MAX);
        let state = PacketState::Queued;
        Self { purpose, key_set, counter, state, parts, copies: 0, deadline, accepted: 0, delivered: 0 }
    }

    /// A packet from its row. Which parts were acknowledged is not kept: their states tell for all of them.
    pub fn restored(self, state: PacketState, copies: u8) -> Self {
        let all = u128::MAX >> (128 - u32::from(self.parts));
        let accepted = if matches!(state, PacketState::Accepted | PacketState::Delivered) { all } else { 0 };
        let delivered = if state == PacketState::Delivered { all } else { 0 };
        Self { state, copies, accepted, delivered, ..self }
    }

    /// Takes evidence in. Every evidence is possible in every state and in any order, once or repeatedly.
    pub fn apply(&mut self, now: EpochMs, evidence: Evidence) -> Change {
        let before = self.state;
        self.state = self.next(now, evidence);
        match self.state {
            after if after == before => Change::Nothing,
            after if after.is_open() => Change::From(before),
            _ => Change::Settled(before),
        }
    }

    fn next(&mut self, now: EpochMs, evidence: Evidence) -> PacketState {
        use PacketState as S;
        let state = self.state;
        match (state, evidence) {
            (S::Proven(_), _) => state,
            (_, Evidence::Proof { status }) => self.proven(status),
            (S::Refused(_) | S::Expired | S::Abandoned, _) => state,
            (_, Evidence::Fenced | Evidence::Abandon) => S::Abandoned,
            (_, Evidence::Called) => match self.purpose {
                Purpose::Trigger => S::Proven(status::OK),
                Purpose::Command | Purpose::Unproven => state,
            },
            (_, Evidence::Deadline) if now < self.deadline => state,
            (S::Queued, Evidence::Deadline) if self.copies == 0 => S::Expired,
            (_, Evidence::Deadline | Evidence::Undeliverable) => self.lost(),
            (_, Evidence::Submitting) => {
                self.copies = self.copies.saturating_add(1);
                if state == S::Queued { S::Submitted } else { state }
            }
            (_, Evidence::Accepted { part }) => {
                self.accepted |= self.bit(part);
                let complete = self.accepted.count_ones() == u32::from(self.parts);
                if complete && matches!(state, S::Queued | S::Submitted | S::Unknown) {
                    S::Accepted
                } else {
                    state
                }
            }
            (_, Evidence::Delivered { part }) => {
                self.delivered |= self.bit(part);
                if self.delivered.count_ones() == u32::from(self.parts) { S::Delivered } else { state }
            }
            // A refused copy says nothing about one that was taken before.
            (S::Submitted, Evidence::RefusedBySmsc { status }) if self.copies <= 1 => S::Refused(status),
            (S::Submitted, Evidence::RefusedBySmsc { .. }) => S::Unknown,
            (S::Submitted, Evidence::Busy) if self.accepted == 0 => {
                self.copies = self.copies.saturating_sub(1);
                if self.copies == 0 { S::Queued } else { S::Unknown }
            }
            (S::Submitted, Evidence::LinkLost) => S::Unknown,
            (_, Evidence::RefusedBySmsc { .. } | Evidence::Busy | Evidence::LinkLost) => state,
        }
    }

    fn proven(&self, code: u8) -> PacketState {
        match code {
            status::OK => PacketState::Proven(code),
            // Only success is stronger than what is settled.
            _ if !self.state.is_open() => self.state,
            status::MORE_TIME | status::RESPONSE_BY_SMS | status::RESPONSE_BY_USSD => PacketState::Delivered,
            // Of two copies the second is refused so where the first was executed: its own proof will tell, or a fence.
            status::COUNTER_LOW if self.copies > 1 => PacketState::Unknown,
            other => PacketState::Refused(u32::from(other)),
        }
    }

    fn lost(&self) -> PacketState {
        match self.purpose {
            Purpose::Trigger | Purpose::Unproven => PacketState::Expired,
            Purpose::Command => PacketState::Unknown,
        }
    }

    fn bit(&self, part: u8) -> u128 {
        if part < self.parts { 1 << part } else { 0 }
    }
}

/// Why a packet must not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// A command before it is open: the card would refuse that one afterwards.
    #[error("command {counter} of key set {key_set} is open: wait for its proof, or abandon it")]
    ByOpenCommand {
        /// Key set.
        key_set: u8,
        /// Counter of the open command.
        counter: u64,
    },
    /// A later counter has already left or been proven: the card will refuse this one.
    #[error("counter {counter} of key set {key_set} has already been used on the card: reserve a new one")]
    Overtaken {
        /// Key set.
        key_set: u8,
        /// The later counter.
        counter: u64,
    },
}

/// Whether a packet may leave, given the card's other packets of recent time: while a sealed command of a key set
/// is open, no later counter of it leaves; and none leaves that a later one has made worthless.
pub fn may_send<'a>(next: &Packet, others: impl IntoIterator<Item = &'a Packet>) -> Result<(), Blocked> {
    for other in others.into_iter().filter(|other| other.key_set == next.key_set) {
        let (key_set, counter) = (other.key_set, other.counter);
        if counter < next.counter && other.purpose != Purpose::Trigger && other.state.is_open() {
            return Err(Blocked::ByOpenCommand { key_set, counter });
        }
        if counter > next.counter && matches!(other.state, PacketState::Proven(_)) {
            return Err(Blocked::Overtaken { key_set, counter });
        }
    }
    Ok(())
}

/// Which of a card's packets a proof makes dead: those of the same key set with a lower counter that are open.
pub fn fenced_by<'a>(proven: &'a Packet, others: &'a [Packet]) -> impl Iterator<Item = usize> + 'a {
    others.iter().enumerate().filter_map(|(place, other)| {
        let older = other.key_set == proven.key_set && other.counter < proven.counter;
        (older && other.state.is_open()).then_some(place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(purpose: Purpose) -> Packet {
        Packet::reserved(purpose, 1, 7, 2, EpochMs(1_000))
    }

    fn after(purpose: Purpose, evidence: &[Evidence]) -> PacketState {
        let mut packet = packet(purpose);
        for one in evidence {
            packet.apply(EpochMs(500), *one);
        }
        packet.state
    }

    #[test]
    fn the_usual_way_of_a_command() {
        let mut packet = packet(Purpose::Command);
        let mut step = |evidence| {
            let change = packet.apply(EpochMs(1), evidence);
            (change, packet.state)
        };
        use PacketState as S;
        assert_eq!(step(Evidence::Submitting), (Change::From(S::Queued), S::Submitted));
        assert_eq!(step(Evidence::Accepted { part: 0 }), (Change::Nothing, S::Submitted));
        assert_eq!(step(Evidence::Accepted { part: 1 }), (Change::From(S::Submitted), S::Accepted));
        assert_eq!(step(Evidence::Delivered { part: 1 }), (Change::Nothing, S::Accepted));
        assert_eq!(step(Evidence::Delivered { part: 1 }), (Change::Nothing, S::Accepted));
        assert_eq!(step(Evidence::Delivered { part: 0 }), (Change::From(S::Accepted), S::Delivered));
        assert_eq!(step(Evidence::Proof { status: 0 }), (Change::Settled(S::Delivered), S::Proven(0)));
        assert_eq!(step(Evidence::Proof { status: 2 }), (Change::Nothing, S::Proven(0)));
    }

    #[test]
    fn what_asks_for_no_proof_ends_with_its_validity() {
        let mut packet = packet(Purpose::Unproven);
        for part in [0, 1] {
            packet.apply(EpochMs(1), Evidence::Delivered { part });
        }
        assert_eq!(packet.state, PacketState::Delivered);
        assert_eq!(packet.apply(EpochMs(500), Evidence::Called), Change::Nothing);
        let change = packet.apply(EpochMs(1_000), Evidence::Deadline);
        assert_eq!((change, packet.state), (Change::Settled(PacketState::Delivered), PacketState::Expired));
    }

    #[test]
    fn a_proof_may_come_before_the_answer_of_the_smsc() {
        let proof = [Evidence::Submitting, Evidence::Proof { status: 0 }, Evidence::Accepted { part: 0 }];
        assert_eq!(after(Purpose::Command, &proof), PacketState::Proven(0));
    }

    #[test]
    fn an_announced_response_leaves_the_command_open_until_it_comes() {
        for announcement in [0x0B, 0x0C] {
            let announced = [Evidence::Submitting, Evidence::Proof { status: announcement }];
            assert_eq!(after(Purpose::Command, &announced), PacketState::Delivered);
            for (status, state) in [(0, PacketState::Proven(0)), (7, PacketState::Refused(7))] {
                let followed = [&announced[..], &[Evidence::Proof { status }]].concat();
                assert_eq!(after(Purpose::Command, &followed), state);
                let backwards = [announced[0], Evidence::Proof { status }, announced[1]];
                assert_eq!(after(Purpose::Command, &backwards), state, "the announcement came late");
            }
        }
    }

    #[test]
    fn counter_low_is_a_refusal_only_of_a_single_copy() {
        let low = Evidence::Proof { status: 2 };
        assert_eq!(after(Purpose::Command, &[Evidence::Submitting, low]), PacketState::Refused(2));
        let twice = [Evidence::Submitting, Evidence::LinkLost, Evidence::Submitting, low];
        assert_eq!(after(Purpose::Command, &twice), PacketState::Unknown);
    }

    #[test]
    fn a_command_never_just_expires_once_it_has_left() {
        for purpose in [Purpose::Trigger, Purpose::Command] {
            let mut queued = packet(purpose);
            queued.apply(EpochMs(1_000), Evidence::Deadline);
            assert_eq!(queued.state, PacketState::Expired);
            let mut sent = packet(purpose);
            sent.apply(EpochMs(0), Evidence::Submitting);
            assert_eq!(sent.apply(EpochMs(999), Evidence::Deadline), Change::Nothing);
            sent.apply(EpochMs(1_000), Evidence::Deadline);
            let expected =
                if purpose == Purpose::Trigger { PacketState::Expired } else { PacketState::Unknown };
            assert_eq!(sent.state, expected);
        }
    }

    #[test]
    fn a_session_answers_a_trigger_but_no_command() {
        assert_eq!(
            after(Purpose::Trigger, &[Evidence::Submitting, Evidence::Called]),
            PacketState::Proven(0)
        );
        assert_eq!(
            after(Purpose::Command, &[Evidence::Submitting, Evidence::Called]),
            PacketState::Submitted
        );
    }

    #[test]
    fn an_open_command_holds_later_counters_back() {
        let mut open = packet(Purpose::Command);
        open.apply(EpochMs(0), Evidence::Submitting);
        let next = Packet::reserved(Purpose::Trigger, 1, 8, 1, EpochMs(1_000));
        let other_set = Packet::reserved(Purpose::Trigger, 2, 8, 1, EpochMs(1_000));
        assert_eq!(may_send(&next, [&open]), Err(Blocked::ByOpenCommand { key_set: 1, counter: 7 }));
        assert_eq!(may_send(&other_set, [&open]), Ok(()));
        let mut later = next.clone();
        later.apply(EpochMs(0), Evidence::Proof { status: 0 });
        assert_eq!(may_send(&open, [&later]), Err(Blocked::Overtaken { key_set: 1, counter: 8 }));
        let fenced: Vec<_> = fenced_by(&later, std::slice::from_ref(&open)).collect();
        assert_eq!(fenced, [0]);
        open.apply(EpochMs(0), Evidence::Fenced);
        assert_eq!(may_send(&next, [&open]), Ok(()));
    }

    fn evidence() -> impl Strategy<Value = Evidence> {
        prop_oneof![
            Just(Evidence::Submitting),
            (0..3u8).prop_map(|part| Evidence::Accepted { part }),
            Just(Evidence::RefusedBySmsc { status: 0x0B }),
            Just(Evidence::Busy),
            Just(Evidence::LinkLost),
            (0..3u8).prop_map(|part| Evidence::Delivered { part }),
            Just(Evidence::Undeliverable),
            (0..13u8).prop_map(|status| Evidence::Proof { status }),
            Just(Evidence::Called),
            Just(Evidence::Fenced),
            Just(Evidence::Abandon),
            Just(Evidence::Deadline),
        ]
    }

    proptest! {
        #[test]
        fn any_evidence_in_any_order(
            trigger in any::<bool>(),
            steps in proptest::collection::vec((0i64..2_000, evidence()), 0..30),
        ) {
            let mut packet = packet(if trigger { Purpose::Trigger } else { Purpose::Command });
            let mut succeeded = false;
            for (now, one) in steps {
                let before = packet.state;
                let change = packet.apply(EpochMs(now), one);
                succeeded |= one == (Evidence::Proof { status: 0 });
                succeeded |= one == Evidence::Called && trigger && before.is_open();
                prop_assert_eq!(change == Change::Nothing, before == packet.state);
                // Success absorbs, and only success or a decision leaves what is settled.
                prop_assert_eq!(matches!(packet.state, PacketState::Proven(_)), succeeded);
                if !before.is_open() && packet.state != before {
                    prop_assert!(matches!(packet.state, PacketState::Proven(_)));
                }
            }
        }

        #[test]
        fn a_repetition_changes_nothing(
            steps in proptest::collection::vec(evidence(), 0..12),
            last in evidence(),
        ) {
            let mut packet = packet(Purpose::Command);
            packet.copies = 2;
            for one in steps.iter().chain([&last]) {
                packet.apply(EpochMs(2_000), *one);
            }
            // A throttled copy and a submission are new each time; everything else is a report that may come twice.
            if !matches!(last, Evidence::Busy | Evidence::Submitting) {
                prop_assert_eq!(packet.apply(EpochMs(2_000), last), Change::Nothing);
            }
        }
    }
}
