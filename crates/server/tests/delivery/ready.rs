//! Packets that an operator has sealed itself: carried as they are, by whichever bearer, and proven by their cards.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use simtide_platform::delivery::ScriptAnswer;
use simtide_server::shell::delivery::DeliveryRefused;
use simtide_server::shell::delivery::ready::{HandedIn, ReadyPacket, ReadyRefused};

use super::elsewhere::{Fault, kept_elsewhere, seal};
use super::*;

/// INCREASE of the file that counts, sealed by the operator for card n with this counter.
fn packet(n: u32, counter: u64, fault: Fault) -> ReadyPacket {
    // A compact script: SELECT by path, INCREASE.
    let script = hex::decode("00A4080C047F906F038032000003000001").unwrap();
    let request = json!({
        "key_set": 1, "counter": counter, "spi": "1639", "tar": "B00000", "data": STANDARD.encode(script),
    });
    ReadyPacket { packet: seal(n, &request, fault), counter }
}

fn handed_in(packets: Vec<ReadyPacket>, bearers: &[Bearer]) -> HandedIn {
    let bearers = bearers.iter().copied().collect();
    HandedIn { card: card(0), packets, bearers, urgency: Urgency::Normal, validity_s: None }
}

#[tokio::test]
async fn the_platform_carries_what_it_cannot_open() {
    let folder = tempfile::tempdir().unwrap();
    let (platform, keeper) = kept_elsewhere(folder.path()).await;
    let packets = vec![packet(0, 7, Fault::None), packet(0, 9, Fault::None)];
    let made = platform.deliveries.hand_in(TENANT, handed_in(packets.clone(), &[Bearer::Ip])).await.unwrap();
    let id = made.machine.id;
    let row = platform.core.store.case(CaseKind::Delivery, id.0).await.unwrap().unwrap();
    let inside = &packets[0].packet[13..];
    for stored in [&row.body, &row.sealed] {
        let text = String::from_utf8_lossy(stored);
        assert!(!stored.windows(inside.len()).any(|bytes| bytes == inside));
        assert!(
            !text.to_lowercase().contains(&hex::encode(inside)) && !text.contains(&STANDARD.encode(inside))
        );
    }
    let mut holder = Holder::new(0);
    for (number, sent) in (1..).zip(&packets) {
        let [item] = &ask(&platform, 0).await[..] else { panic!("packet {number} waits") };
        assert_eq!((item.id.as_str(), &item.packet), (&*format!("{id}-{}", sent.counter), &sent.packet));
        assert_eq!(carry(&platform, &mut holder, item).await, [Verdict::Accepted]);
        assert_eq!(holder.effects(), number);
    }
    assert_eq!(state(&platform, id).await, State::Proven { by: Bearer::Ip });
    assert_eq!(keeper.sealed(), 0, "nobody was asked to seal");
    // What the platform sends next is later.
    create(&platform, wanted(0, &[Bearer::Ip], content(true, &[counting()]))).await;
    let [item] = &ask(&platform, 0).await[..] else { panic!("it waits") };
    assert!(item.id.as_str().ends_with("-10"), "{}", item.id);
    platform.stop().await;
}

#[tokio::test]
async fn short_messages_carry_ready_packets_too() {
    let store = store(1, Clock::REAL.now()).await;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let smsc = Smsc::start(Settings::default(), any, any, AirClock::REAL, None).await.unwrap();
    let mut air = Air::attach(smsc.air, 0).await;
    let platform = start(&store, Some(smsc.smpp), "").await;
    let wanted = handed_in(vec![packet(0, 3, Fault::None)], &[Bearer::Sms, Bearer::Ip]);
    let id = platform.deliveries.hand_in(TENANT, wanted).await.unwrap().machine.id;
    let message = air.message().await;
    let mut holder = Holder::new(0);
    holder.message(&message);
    for submit in std::mem::take(&mut holder.sent) {
        air.submit(&submit).await;
    }
    until(async || !state(&platform, id).await.is_open()).await;
    assert_eq!((state(&platform, id).await, holder.effects()), (State::Proven { by: Bearer::Sms }, 1));
    platform.stop().await;
}

#[tokio::test]
async fn packets_that_cannot_be_carried_are_refused_with_the_reason() {
    let store = store(1, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let refused = async |packets: Vec<ReadyPacket>, bearers: &[Bearer]| {
        platform.deliveries.hand_in(TENANT, handed_in(packets, bearers)).await.unwrap_err()
    };
    let good = |counter| packet(0, counter, Fault::None);
    let ip = &[Bearer::Ip][..];
    let cut = ReadyPacket { packet: good(1).packet[..20].to_vec(), counter: 1 };
    let long = ReadyPacket { packet: vec![0; 5_000], counter: 1 };
    let mut two_sets = good(1);
    two_sets.packet[6] = 0x22;
    use ReadyRefused as R;
    assert!(matches!(refused(vec![], ip).await, DeliveryRefused::Ready(R::Count(0))));
    assert!(matches!(refused(vec![good(1), cut], ip).await, DeliveryRefused::Ready(R::Packet(2, _))));
    assert!(matches!(refused(vec![long], ip).await, DeliveryRefused::Ready(R::TooLong(1, 5_000))));
    assert!(matches!(refused(vec![two_sets], ip).await, DeliveryRefused::Ready(R::KeySets(1, 1, 2))));
    assert!(matches!(refused(vec![good(0)], ip).await, DeliveryRefused::Ready(R::Counter(1, 0, 0))));
    assert!(matches!(refused(vec![good(5), good(5)], ip).await, DeliveryRefused::Ready(R::Counter(2, 5, 5))));
    assert!(matches!(refused(vec![good(1)], &[Bearer::Poll]).await, DeliveryRefused::Ready(R::Poll)));
    let weak = refused(vec![packet(0, 1, Fault::Unciphered)], ip).await;
    assert!(matches!(weak, DeliveryRefused::Content(_)), "{weak}");
    let no_set = refused(vec![packet(0, 1, Fault::OtherKeySet)], ip).await;
    assert!(matches!(no_set, DeliveryRefused::Sealing(_)), "{no_set}");
    assert_eq!(platform.deliveries.open_count(), 0);
    platform.stop().await;
}

#[tokio::test]
async fn a_packet_whose_counter_was_used_meanwhile_does_not_leave() {
    let store = store(1, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let wanted = handed_in(vec![packet(0, 5, Fault::None)], &[Bearer::Ip]);
        ids.push(platform.deliveries.hand_in(TENANT, wanted).await.unwrap().machine.id);
    }
    let mut holder = Holder::new(0);
    let [item] = &ask(&platform, 0).await[..] else { panic!("one of them waits") };
    assert_eq!(carry(&platform, &mut holder, item).await, [Verdict::Accepted]);
    assert_eq!(ask(&platform, 0).await, [], "the other one would be dead on the card");
    let mut states = Vec::new();
    for id in ids {
        states.push(state(&platform, id).await);
    }
    states.sort_by_key(|state| state.code());
    let refused = State::Refused { answer: ScriptAnswer::NOT_SEALED };
    assert_eq!(states, [State::Proven { by: Bearer::Ip }, refused]);
    assert_eq!((holder.effects(), store.open_packets(card(0)).await.unwrap()), (1, vec![]));
    platform.stop().await;
}
