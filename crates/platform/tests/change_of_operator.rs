//! One change of operator under any events in any order, forged ones among them: what it commands keeps the invariants,
//! whatever it is told.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use proptest::prelude::*;
use simtide_platform::card::CardState;
use simtide_platform::subscription::*;
use simtide_protocol::ids::{CardId, ChangeId, EpochMs, Iccid, Imsi};

fn imsi(number: u8) -> Imsi {
    format!("0010{number}0000000001").parse().unwrap()
}

fn card() -> CardId {
    CardId::from("8988211000000000011".parse::<Iccid>().unwrap())
}

fn begin(guarded: bool, consent: ConsentRule, way: Way) -> (Change, Vec<Command>) {
    let side = |operator: u32| Side { operator, id_mno: operator.to_string(), name: operator.to_string() };
    let request = Request {
        id: ChangeId(7),
        card: card(),
        from: side(1),
        imsi: imsi(1),
        msisdn: Some("43660000001".parse().unwrap()),
        to: side(2),
        terms: Terms {
            consent,
            consent_within_s: 3_600,
            ask_user: false,
            guard_s: guarded.then_some(900),
            eap_aka_counts_as_seen: false,
            bearer: Bearer::Sms,
        },
        evidence: Evidence {
            agreed_at: EpochMs(0),
            way,
            token: String::new(),
            campaign: None,
            uplink_counter: None,
            reference: String::new(),
        },
    };
    Change::begin(EpochMs(0), request)
}

fn says() -> impl Strategy<Value = CardSays> {
    prop_oneof![
        Just(CardSays::Untouched(None)),
        Just(CardSays::Untouched(Some(CardRefusal::UserNo))),
        Just(CardSays::Untouched(Some(CardRefusal::WrongCode))),
        Just(CardSays::Untouched(Some(CardRefusal::Busy))),
        Just(CardSays::Asking),
        Just(CardSays::Staged),
        Just(CardSays::Active),
        Just(CardSays::Committed),
        Just(CardSays::Reverted),
        Just(CardSays::Silent),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let kind = || prop_oneof![Just(PacketKind::Personalization), Just(PacketKind::Fence)];
    let verb = || {
        prop_oneof![
            Just(Verb::Reserve),
            Just(Verb::Arm),
            Just(Verb::Withdraw),
            Just(Verb::Retire),
            Just(Verb::Release)
        ]
    };
    let fault = prop_oneof![
        Just(RegisterFault::Unreachable),
        Just(RegisterFault::Unknown),
        Just(RegisterFault::NotFound),
        Just(RegisterFault::Conflict),
        Just(RegisterFault::Exhausted),
        Just(RegisterFault::Refused),
        Just(RegisterFault::Invalid)
    ];
    let who = || 1_u8..4;
    let reserved =
        (0_u64..10, who(), any::<bool>(), any::<bool>()).prop_map(|(change, who, owned, taken)| {
            Event::Reserved {
                change: ChangeId(change.max(6)),
                card: None,
                identity: Identity { imsi: imsi(who), msisdn: None },
                owned: owned && who == 2,
                taken_by: taken.then(card),
            }
        });
    let usual = Event::Reserved {
        change: ChangeId(7),
        card: Some(card()),
        identity: Identity { imsi: imsi(2), msisdn: None },
        owned: true,
        taken_by: None,
    };
    prop_oneof![
        3 => Just(Event::Tick),
        1 => Just(Event::Restarted),
        1 => Just(Event::Resolve),
        1 => Just(Event::Cancel),
        2 => any::<bool>().prop_map(|granted| Event::Consent { granted }),
        2 => prop_oneof![Just(Notice::Before), Just(Notice::After)].prop_map(Event::Acknowledged),
        1 => reserved,
        3 => Just(usual),
        6 => (verb(), who()).prop_map(|(verb, who)| Event::Did { verb, imsi: imsi(who) }),
        1 => (verb(), fault).prop_map(|(verb, fault)| Event::DidNot { verb, fault }),
        2 => (who(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(who, known, attached, eap)| {
            let by = if eap { SeenBy::EapAka } else { SeenBy::Register };
            Event::Seen { imsi: imsi(who), known, attached, by }
        }),
        4 => (kind(), 1_u64..12).prop_map(|(kind, counter)| Event::Queued { kind, counter }),
        1 => kind().prop_map(|kind| Event::NotQueued { kind }),
        1 => (kind(), 1_u64..12).prop_map(|(kind, counter)| Event::Lost { kind, counter }),
        4 => (kind(), 1_u64..12, says()).prop_map(|(kind, counter, says)| Event::Proof { kind, counter, says }),
        2 => says().prop_map(Event::Report),
        2 => Just(Event::PollOpened),
        2 => proptest::option::of(says()).prop_map(|says| Event::PollEnded { says }),
        1 => Just(Event::OnlyByPoll),
    ]
}

/// What has been told so far, as far as the invariants need it.
#[derive(Default)]
struct Told {
    armed: bool,
    sent: bool,
    seen: bool,
    committed: bool,
    /// Highest counter of a personalization packet.
    last: u64,
    /// The card has answered the last personalization packet itself, or a fence above it, that it has identity 1.
    word: bool,
    /// A personalization packet may still have an effect; before the last one was asked for.
    live: (bool, bool),
    /// A session may have left the message behind, or carries it.
    in_session: bool,
    adopted: u32,
}

impl Told {
    fn hear(&mut self, awaited: Option<PacketKind>, polls: Option<PollWork>, event: &Event) {
        let nothing_left = |kind: &PacketKind| *kind == PacketKind::Personalization && awaited == Some(*kind);
        match event {
            // Of one session at a time.
            Event::PollOpened => self.in_session = false,
            Event::PollEnded { says: Some(says) } if polls.is_some() => {
                self.in_session = false;
                self.word |= !self.live.0 && matches!(says, CardSays::Untouched(_) | CardSays::Reverted);
                // Only the card has K2: register 2 has seen that the message was executed, and it is executed once.
                self.word |= self.seen && *says == CardSays::Reverted;
                self.committed |= *says == CardSays::Committed;
            }
            Event::Did { verb: Verb::Arm, imsi: which } if *which == imsi(2) => self.armed = true,
            Event::Seen { imsi: which, attached: true, by: SeenBy::Register, .. } if *which == imsi(2) => {
                self.seen = true;
            }
            Event::Queued { kind: PacketKind::Personalization, counter }
                if awaited == Some(PacketKind::Personalization) =>
            {
                self.word &= *counter <= self.last;
                self.last = self.last.max(*counter);
            }
            Event::NotQueued { kind } if nothing_left(kind) => self.not_left(),
            Event::OnlyByPoll if nothing_left(&PacketKind::Personalization) => self.not_left(),
            Event::Proof { kind, counter, says } => {
                if *kind == PacketKind::Personalization {
                    self.word &= *counter <= self.last;
                    self.last = self.last.max(*counter);
                }
                let is_final = match kind {
                    PacketKind::Personalization => *counter == self.last,
                    PacketKind::Fence => *counter > self.last,
                };
                let executed =
                    !matches!(says, CardSays::Silent | CardSays::Asking | CardSays::Untouched(None));
                let waits = awaited == Some(PacketKind::Personalization);
                let is_dead = match kind {
                    PacketKind::Personalization => executed,
                    PacketKind::Fence => *says != CardSays::Asking && !waits,
                };
                self.live.0 &= !(is_final && is_dead) && *says != CardSays::Committed;
                self.word |= is_final && !self.in_session && matches!(says, CardSays::Untouched(_));
                self.word |= *says == CardSays::Reverted;
                self.committed |= *says == CardSays::Committed;
            }
            Event::Report(CardSays::Committed) => self.committed = true,
            Event::Report(CardSays::Reverted) => self.word = true,
            _ => {}
        }
    }

    /// As if it had not been asked for: what was proven before still holds.
    fn not_left(&mut self) {
        self.live.0 = self.live.1;
        self.word = !self.live.0 && !self.in_session;
    }

    /// Counters are given by commits that the change asked for: a card cannot answer what was never sealed.
    fn is_impossible(&self, awaited: Option<PacketKind>, event: &Event) -> bool {
        let Event::Proof { kind: PacketKind::Personalization, counter, .. } = event else { return false };
        *counter > self.last && awaited != Some(PacketKind::Personalization)
    }

    fn check(&mut self, guarded: bool, command: &Command) -> Result<(), TestCaseError> {
        match command {
            Command::SendPersonalization { attempt, .. } => {
                prop_assert!(self.armed, "B1: nothing leaves before register 2 lets identity 2 in");
                prop_assert!(*attempt <= SENDS_MAX);
                (self.sent, self.word) = (true, false);
                self.live = (true, self.live.0);
            }
            Command::Withdraw(which) | Command::Retire(which) => {
                prop_assert_eq!(*which, imsi(1));
                prop_assert!(self.seen && (!guarded || self.committed), "B3");
            }
            Command::Adopt(identity) => {
                self.adopted += 1;
                prop_assert!(self.adopted == 1 && self.seen && (!guarded || self.committed));
                prop_assert_eq!(identity.imsi, imsi(2));
            }
            Command::Release(_) => prop_assert!(!self.sent || self.word, "B4"),
            Command::InformOperator1(Notice::After) => prop_assert!(self.seen),
            _ => {}
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_it_is_told_it_keeps_the_invariants(
        guarded in any::<bool>(),
        on_device in any::<bool>(),
        rule in 0_usize..3,
        events in proptest::collection::vec((event(), 0_i64..20_000_000), 0..80),
    ) {
        let consent = [ConsentRule::Ask, ConsentRule::InformBefore, ConsentRule::InformAfter][rule];
        let way = if on_device { Way::Menu } else { Way::WebSite };
        let (mut change, _) = begin(guarded, consent, way);
        let mut told = Told::default();
        let mut now = EpochMs(0);
        for (event, after_ms) in events {
            now = now.plus_ms(after_ms);
            if told.is_impossible(change.awaits_queue(), &event) {
                continue;
            }
            told.hear(change.awaits_queue(), change.poll_work(), &event);
            let was_open = change.is_open();
            let opens = event == Event::PollOpened;
            let commands = change.handle(now, event);
            if opens && change.poll_work() == Some(PollWork::Personalization) {
                prop_assert!(told.armed, "B1: no session carries it before register 2 lets identity 2 in");
                (told.sent, told.word, told.in_session) = (true, false, true);
            }
            for command in &commands {
                told.check(guarded, command)?;
            }
            prop_assert!(was_open || (commands.is_empty() && !change.is_open()), "closed is closed");
            prop_assert!(commands.len() <= 8 && change.steps.len() <= STEPS_MAX);
            let bytes = serde_json::to_vec(&change).unwrap();
            prop_assert!(bytes.len() < 4_096);
            prop_assert_eq!(&serde_json::from_slice::<Change>(&bytes).unwrap(), &change);
            // An open change waits for the clock, or for the packet whose commit is awaited.
            prop_assert!(!change.is_open() || change.due().is_some(), "{:?}", change);
        }
    }
}

#[test]
fn a_packet_that_found_no_place_does_not_take_back_what_a_session_carries() {
    let (kind, identity) = (PacketKind::Personalization, Identity { imsi: imsi(2), msisdn: None });
    let reserved =
        Event::Reserved { change: ChangeId(7), card: Some(card()), identity, owned: true, taken_by: None };
    let armed = Event::Did { verb: Verb::Arm, imsi: imsi(2) };
    for nothing_left in [Event::NotQueued { kind }, Event::OnlyByPoll] {
        let (mut change, _) = begin(false, ConsentRule::InformAfter, Way::WebSite);
        let mut step = |event| change.handle(EpochMs(1_000), event);
        let events = [reserved.clone(), armed.clone(), Event::PollOpened, Event::Cancel, nothing_left];
        let commands: Vec<Command> = events.into_iter().flat_map(&mut step).collect();
        assert!(!commands.contains(&Command::Release(imsi(2))), "B4: the card may have identity 2 by now");
        step(Event::PollEnded { says: Some(CardSays::Untouched(None)) });
        assert_eq!(change.state, State::Cancelled);
    }
}

#[test]
fn the_usual_way_step_by_step() {
    let (mut change, commands) = begin(false, ConsentRule::Ask, Way::Menu);
    assert_eq!(commands, [Command::AskConsent]);
    let mut step = |event| {
        let commands = change.handle(EpochMs(1_000), event);
        (change.state, commands)
    };
    assert_eq!(step(Event::Consent { granted: true }), (State::Authorised, vec![Command::Reserve]));
    let identity = Identity { imsi: imsi(2), msisdn: None };
    let reserved =
        Event::Reserved { change: ChangeId(7), card: Some(card()), identity, owned: true, taken_by: None };
    assert_eq!(step(reserved), (State::Reserved, vec![Command::Arm(imsi(2))]));
    let send = Command::SendPersonalization { attempt: 1, validity_s: SEND_VALIDITY_S };
    assert_eq!(step(Event::Did { verb: Verb::Arm, imsi: imsi(2) }), (State::Sent, vec![send]));
    let kind = PacketKind::Personalization;
    assert_eq!(step(Event::Queued { kind, counter: 4 }), (State::Sent, vec![]));
    let proof = Event::Proof { kind, counter: 4, says: CardSays::Staged };
    assert_eq!(step(proof), (State::Applied, vec![Command::Watch(imsi(2))]));
    let seen = Event::Seen { imsi: imsi(2), known: true, attached: true, by: SeenBy::Register };
    let after = Command::InformOperator1(Notice::After);
    let wanted = vec![Command::Adopt(identity), after, Command::Withdraw(imsi(1))];
    assert_eq!(step(seen), (State::Attached, wanted));
    let did = |verb| Event::Did { verb, imsi: imsi(1) };
    assert_eq!(step(did(Verb::Withdraw)), (State::Withdrawn, vec![Command::Retire(imsi(1))]));
    assert_eq!(step(did(Verb::Retire)), (State::Retired, vec![]));
    let forget = Command::ForgetAliases { imsi: imsi(1), msisdn: Some("43660000001".parse().unwrap()) };
    assert_eq!(step(Event::Acknowledged(Notice::After)), (State::Done, vec![forget]));
    assert!(!change.is_open() && change.due().is_none());
}

#[test]
fn a_register_that_never_takes_the_identity_back_does_not_keep_the_card() {
    for knows_which in [false, true] {
        let (mut change, _) = begin(false, ConsentRule::Ask, Way::WebSite);
        change.handle(EpochMs(0), Event::Consent { granted: true });
        if knows_which {
            let identity = Identity { imsi: imsi(2), msisdn: None };
            let (change_id, owned) = (ChangeId(7), true);
            let reserved =
                Event::Reserved { change: change_id, card: Some(card()), identity, owned, taken_by: None };
            change.handle(EpochMs(0), reserved);
        }
        let asked = if knows_which { Command::Release(imsi(2)) } else { Command::Reserve };
        assert!(change.handle(EpochMs(0), Event::Cancel).contains(&asked));
        let mut alarms = 0;
        let mut last = EpochMs(0);
        while let Some(due) = change.due() {
            last = due;
            let commands = change.handle(due, Event::Tick);
            let alarm = Command::Alarm(Alarm::RegisterRefuses { verb: Verb::Release });
            alarms += usize::from(commands.contains(&alarm));
            assert!(commands.contains(&asked) || !change.is_open());
        }
        assert_eq!((change.state, change.is_open(), alarms), (State::Cancelled, false, 2));
        let week_s = i64::from(GIVE_BACK_WITHIN_S);
        assert!((week_s..week_s + i64::from(PAUSE_S_MAX)).contains(&(last.0 / 1_000)), "{last:?}");
        // Its late answer changes nothing.
        let late = Event::Did { verb: Verb::Release, imsi: imsi(2) };
        assert_eq!(change.handle(last, late), []);
    }
}

#[test]
fn only_what_is_agreed_begins() {
    let agreed = AgreementTerms::default();
    let standing = Standing {
        state: CardState::Active,
        operator: 1,
        imsi: Some(imsi(1)),
        has_admin_code: true,
        can_be_personalized: true,
        open: None,
        admin_code_failures: 0,
    };
    assert_eq!(admit(standing, 2, Some(&agreed)), Ok(imsi(1)));
    assert_eq!(admit(standing, 1, Some(&agreed)), Err(Refusal::SameOperator));
    assert_eq!(admit(standing, 2, None), Err(Refusal::NoAgreement));
    let suspended = AgreementTerms { suspended: true, ..AgreementTerms::default() };
    assert_eq!(admit(standing, 2, Some(&suspended)), Err(Refusal::Suspended));
    let with = |change: fn(&mut Standing)| {
        let mut standing = standing;
        change(&mut standing);
        admit(standing, 2, Some(&AgreementTerms::default()))
    };
    assert_eq!(with(|card| card.open = Some(ChangeId(3))), Err(Refusal::Open(ChangeId(3))));
    assert_eq!(with(|card| card.admin_code_failures = ADMIN_CODE_FAILURES_MAX), Err(Refusal::Locked));
    assert_eq!(with(|card| card.state = CardState::Retired), Err(Refusal::NotActive));
    assert_eq!(with(|card| card.imsi = None), Err(Refusal::NoIdentity));
    assert_eq!(with(|card| card.has_admin_code = false), Err(Refusal::NotPossible));
}

#[test]
fn wrong_codes_count_until_a_change_succeeds() {
    let ended = |state, reason| {
        let (mut change, _) = begin(false, ConsentRule::InformAfter, Way::WebSite);
        (change.state, change.reason) = (state, reason);
        change
    };
    let wrong = ended(State::Refused, Some(Reason::Card(CardRefusal::WrongCode)));
    let no = ended(State::Refused, Some(Reason::Card(CardRefusal::UserNo)));
    let done = ended(State::Done, None);
    assert_eq!(admin_code_failures([&wrong, &no, &wrong, &done, &wrong]), 2);
    assert_eq!(admin_code_failures([&done, &wrong]), 0);
}

/// A change that waits for a poll, or for a place: register 2 lets identity 2 in.
fn armed(bearer: Bearer) -> Change {
    let (mut change, _) = begin(false, ConsentRule::InformAfter, Way::WebSite);
    change.terms.bearer = bearer;
    let identity = Identity { imsi: imsi(2), msisdn: None };
    let reserved = Event::Reserved { change: ChangeId(7), card: None, identity, owned: true, taken_by: None };
    change.handle(EpochMs(1_000), reserved);
    change.handle(EpochMs(1_000), Event::Did { verb: Verb::Arm, imsi: imsi(2) });
    change
}

#[test]
fn a_message_that_waits_goes_by_the_next_poll() {
    let mut change = armed(Bearer::Poll);
    assert_eq!((change.state, change.poll_work()), (State::Armed, None), "nothing has left");
    assert_eq!(change.handle(EpochMs(2_000), Event::PollOpened), []);
    assert_eq!((change.state, change.poll_work()), (State::Sent, Some(PollWork::Personalization)));
    let staged = Event::PollEnded { says: Some(CardSays::Staged) };
    assert_eq!(change.handle(EpochMs(3_000), staged), [Command::Watch(imsi(2))]);
    assert_eq!((change.state, change.poll_work()), (State::Applied, None));
    // Where no poll comes, short messages carry it in the end.
    let mut change = armed(Bearer::Poll);
    let due = change.due().unwrap();
    assert_eq!(due, EpochMs(1_000 + i64::from(POLL_WITHIN_S) * 1_000));
    let send = [Command::SendPersonalization { attempt: 1, validity_s: SEND_VALIDITY_S }];
    assert_eq!(change.handle(due, Event::Tick), send);
    // Somebody who does not want to wait.
    assert_eq!(armed(Bearer::Poll).handle(EpochMs(2_000), Event::Resolve), send);
}

#[test]
fn a_message_for_which_short_messages_are_too_many_waits_for_a_poll() {
    let mut change = armed(Bearer::Sms);
    assert_eq!((change.state, change.awaits_queue()), (State::Sent, Some(PacketKind::Personalization)));
    assert_eq!(change.handle(EpochMs(1_000), Event::OnlyByPoll), []);
    assert_eq!((change.state, change.awaits_queue()), (State::Armed, None));
    change.handle(EpochMs(2_000), Event::PollOpened);
    assert_eq!(change.poll_work(), Some(PollWork::Personalization));
}

/// The message may lie in the device when the session breaks: no packet tells whether it will be executed, the card's next
/// session does.
#[test]
fn what_a_broken_session_left_behind_is_fenced_by_the_next_one_only() {
    let mut change = armed(Bearer::Poll);
    change.handle(EpochMs(2_000), Event::PollOpened);
    let commands = change.handle(EpochMs(3_000), Event::PollEnded { says: None });
    assert!(matches!(commands[..], [Command::Watch(_), Command::Fence { .. }]), "{commands:?}");
    assert_eq!(change.state, State::Unknown);
    change.handle(EpochMs(3_000), Event::Queued { kind: PacketKind::Fence, counter: 9 });
    let untouched = CardSays::Untouched(None);
    let proof = Event::Proof { kind: PacketKind::Fence, counter: 9, says: untouched };
    assert_eq!(change.handle(EpochMs(4_000), proof), [], "it may still come");
    assert_eq!(change.state, State::Unknown);
    // Cancelled: the next session only asks, and what it answers is certain.
    change.handle(EpochMs(5_000), Event::Cancel);
    change.handle(EpochMs(6_000), Event::NotQueued { kind: PacketKind::Fence });
    change.handle(EpochMs(6_000), Event::PollOpened);
    assert_eq!(change.poll_work(), Some(PollWork::Status));
    let commands = change.handle(EpochMs(7_000), Event::PollEnded { says: Some(untouched) });
    assert_eq!((change.state, commands), (State::Cancelled, vec![Command::Release(imsi(2))]));
}

/// Short messages that are lost: the card is asked nothing, it gets its message by the poll.
#[test]
fn a_poll_takes_over_from_lost_short_messages() {
    let mut change = armed(Bearer::Sms);
    let kind = PacketKind::Personalization;
    change.handle(EpochMs(1_000), Event::Queued { kind, counter: 4 });
    change.handle(EpochMs(9_000), Event::Lost { kind, counter: 4 });
    assert_eq!(change.state, State::Unknown);
    change.handle(EpochMs(9_000), Event::NotQueued { kind: PacketKind::Fence });
    change.handle(EpochMs(10_000), Event::PollOpened);
    assert_eq!(change.poll_work(), Some(PollWork::Personalization));
    // A refusal is not believed while the packets may still come: the card could forget that it has refused.
    let mut refused = change.clone();
    let says = Some(CardSays::Untouched(Some(CardRefusal::UserNo)));
    refused.handle(EpochMs(11_000), Event::PollEnded { says });
    assert_eq!(refused.state, State::Unknown);
    change.handle(EpochMs(11_000), Event::PollEnded { says: Some(CardSays::Staged) });
    assert_eq!(change.state, State::Applied);
}
