//! Ways that nobody has thought of: messages, fences and proofs lost, twice, late, in any order, with crashes, a device that
//! is off, users and registers that do what they like.

use proptest::prelude::*;
use simtide_platform::subscription::{ConsentRule, State};

use crate::play;
use crate::register::Fault;
use crate::scenarios::{Air, Parts, Scenario, User};
use crate::world::{DAY_MS, HOUR_MS};

fn air() -> impl Strategy<Value = Vec<Air>> {
    let one = prop_oneof![
        3 => Just(Air::Arrives),
        2 => Just(Air::Lost),
        2 => (0..5 * DAY_MS).prop_map(Air::Late),
        1 => (0..5 * DAY_MS).prop_map(Air::Twice),
    ];
    proptest::collection::vec(one, 1..6)
}

fn user() -> impl Strategy<Value = User> {
    prop_oneof![
        6 => Just(User::NotAsked),
        1 => Just(User::No),
        1 => (0..18 * HOUR_MS).prop_map(User::Yes),
        1 => Just(User::SwitchesOff),
        1 => Just(User::Silent),
    ]
}

fn parts() -> impl Strategy<Value = Parts> {
    prop_oneof![
        4 => Just(Parts::InOrder),
        1 => Just(Parts::Reversed),
        1 => (0..3_usize).prop_map(Parts::Without),
        1 => (0..3_usize, 0..3 * DAY_MS).prop_map(|(part, by)| Parts::Twice(part, by)),
        1 => (0..3_usize, 0..3 * DAY_MS).prop_map(|(part, by)| Parts::Late(part, by)),
    ]
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let consent =
        prop_oneof![Just(ConsentRule::Ask), Just(ConsentRule::InformBefore), Just(ConsentRule::InformAfter)];
    let times = (0..2 * DAY_MS, 0..5 * DAY_MS, 2_000..2 * DAY_MS, 0..2 * DAY_MS, 0..8 * HOUR_MS);
    let verbs = (proptest::option::of(0..3 * DAY_MS), proptest::option::of(0..3 * DAY_MS));
    let flags = (any::<bool>(), any::<bool>(), 0_u32..4);
    let users = (user(), parts(), proptest::option::of(0..3 * DAY_MS));
    (consent, users, air(), air(), air(), times, verbs, flags).prop_map(
        |(consent, users, messages, fences, proofs, times, verbs, flags)| {
            let (off_at, off_for, sending_ms, shut_until_ms, busy_until_ms) = times;
            let (guarded, unchallenged, notices_lost) = flags;
            let (user, parts, moves_at) = users;
            Scenario {
                consent,
                user,
                parts,
                moves_at,
                messages,
                fences,
                proofs,
                off: Some((off_at, off_at + off_for)),
                sending_ms,
                shut_until_ms,
                busy_until_ms,
                cancel_at: verbs.0,
                resolve_at: verbs.1,
                notices_lost,
                guarded,
                unchallenged: guarded && unchallenged,
                end: None,
                ..Scenario::new("random", State::Done)
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_air_does_the_invariants_hold(
        scenario in scenario(),
        fault in proptest::option::of(0..Fault::all().len()),
        crashes in proptest::collection::vec(1_u32..200, 0..4),
    ) {
        let fault = fault.map(|place| Fault::all()[place]);
        play(&scenario, fault, &crashes, None);
    }
}
