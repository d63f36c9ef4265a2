//! Proofs that are none: forged, of another card, of another packet, duplicated. None of them moves anything.

use super::*;
use tokio::sync::Barrier;

/// Proofs that are tried, each with something changed.
const FORGERIES: u64 = 1_000_000;
/// Of which so many are the true proof of another packet, or a true one a second time.
const EVERY: u64 = 16;

/// The proof that the card gives for an item, as the packet that a device brings.
fn proof_of(holder: &mut Holder, item: &Waiting) -> Vec<u8> {
    holder.packet(&item.packet, SOURCE);
    // UDHL, then the element that says "response packet".
    holder.sent.remove(0).user_data.octets[3..].to_vec()
}

async fn bring(platform: &Platform, n: u32, packet: Vec<u8>) -> Verdict {
    let proof = UplinkContent::Proof { id: None, originating_address: SOURCE.to_owned(), packet };
    platform.deliveries.uplink(card(n), proof).await.unwrap()
}

/// The next of a row of numbers that only looks random: every run tries the same.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB)
}

/// The proof with one to eight bytes changed, cut or grown, or nothing but noise.
fn forged(proof: &[u8], seed: &mut u64) -> Vec<u8> {
    let mut packet = proof.to_vec();
    let choice = next(seed);
    for _ in 0..=choice % 8 {
        let place = (next(seed) as usize) % packet.len();
        packet[place] ^= (next(seed) as u8).max(1);
    }
    match choice >> 8 & 0x0F {
        0 => packet.truncate((choice >> 16) as usize % proof.len()),
        1 => packet.extend((choice >> 16).to_be_bytes()),
        2 => packet.iter_mut().skip(6).for_each(|byte| *byte = next(seed) as u8),
        _ => {}
    }
    if packet == proof {
        packet[proof.len() - 1] ^= 1;
    }
    packet
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_forged_and_duplicated_proofs_and_none_is_accepted() {
    let (platform, id, item) = offered(2).await;
    let mut holder = Holder::new(0);
    let proof = proof_of(&mut holder, &item);
    let before = platform.core.store.case(CaseKind::Delivery, id.0).await.unwrap();
    let tasks = (0..2u64).map(|task| {
        let (platform, proof) = (platform.clone(), proof.clone());
        tokio::spawn(async move {
            let mut seed = task;
            for at in 0..FORGERIES / 2 {
                // The true proof, brought by the device of another card.
                let (n, packet) =
                    if at % EVERY == 0 { (1, proof.clone()) } else { (0, forged(&proof, &mut seed)) };
                let verdict = bring(&platform, n, packet).await;
                assert_eq!(verdict, Verdict::Refused, "task {task}, forgery {at}");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(
        platform.core.store.case(CaseKind::Delivery, id.0).await.unwrap(),
        before,
        "nothing has moved"
    );
    assert_eq!(bring(&platform, 0, proof.clone()).await, Verdict::Accepted, "and the true one still counts");
    assert_eq!(state(&platform, id).await, State::Proven { by: Bearer::Ip });
    let settled = platform.core.store.case(CaseKind::Delivery, id.0).await.unwrap();
    for _ in 0..1_000 {
        assert_eq!(bring(&platform, 0, proof.clone()).await, Verdict::Repeated);
    }
    assert_eq!(platform.core.store.case(CaseKind::Delivery, id.0).await.unwrap(), settled, "once");
    let history = platform.core.store.history(card(0), EpochMs(i64::MAX), 10).await;
    assert_eq!(history.unwrap().len(), 1, "one line for one proof");
    platform.stop().await;
}

/// The same proof over IP and by short message at once: a device that had lost IP, and got it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_that_comes_by_both_bearers_at_once_counts_once() {
    const ROUNDS: usize = 30;
    let store = store(1, Clock::REAL.now()).await;
    let platform = Arc::new(start(&store, None, "").await);
    let mut holder = Holder::new(0);
    for round in 1..=ROUNDS {
        let id = create(&platform, wanted(0, &[Bearer::Ip], content(true, &[counting()]))).await;
        let [item] = &ask(&platform, 0).await[..] else { panic!("it waits") };
        let proof = proof_of(&mut holder, item);
        let message = [&[0x02, 0x71, 0x00][..], &proof].concat();
        let (at_once, by_ip) = (Arc::new(Barrier::new(2)), platform.clone());
        let ready = at_once.clone();
        let by_ip = tokio::spawn(async move {
            ready.wait().await;
            bring(&by_ip, 0, proof).await
        });
        at_once.wait().await;
        let sms = Brought { by: Bearer::Sms, to: "1234".parse().ok() };
        let by_sms = platform.proofs.message_arrived(card(0), &message, sms).await.unwrap().into();
        let mut verdicts = [by_ip.await.unwrap(), by_sms];
        verdicts.sort_by_key(|verdict| *verdict != Verdict::Accepted);
        assert_eq!(verdicts, [Verdict::Accepted, Verdict::Repeated], "round {round}");
        assert_eq!(state(&platform, id).await, State::Proven { by: Bearer::Ip });
        let record = platform.deliveries.show(TENANT, id).await.unwrap();
        let is_proof = |one: &Milestone| matches!(one, Milestone::Proof { to: Some(_), .. });
        assert_eq!(record.machine.milestones.all().iter().filter(|(_, one)| is_proof(one)).count(), 1);
    }
    let history = platform.core.store.history(card(0), EpochMs(i64::MAX), 2 * ROUNDS).await.unwrap();
    assert_eq!(history.len(), ROUNDS, "one line for one proof");
    platform.stop().await;
}

#[tokio::test]
async fn proofs_of_other_packets_and_receipts_of_other_cards_move_nothing() {
    let (platform, id, item) = offered(2).await;
    let other = create(&platform, wanted(1, &[Bearer::Ip], content(true, &[counting()]))).await;
    let [of_other] = &ask(&platform, 1).await[..] else { panic!("it waits") };
    let mut stranger = Holder::new(1);
    let strange = proof_of(&mut stranger, of_other);
    // The same TAR and the same counter, but another card's keys.
    assert_eq!(bring(&platform, 0, strange.clone()).await, Verdict::Refused);
    // A receipt for an item that is not this card's.
    platform.deliveries.fetched(card(1), vec![item.id.clone()]).await.unwrap();
    assert_eq!(state(&platform, id).await, State::Sent);
    // Packets sealed for one card mean nothing to another.
    stranger.sent.clear();
    stranger.packet(&item.packet, SOURCE);
    assert_eq!(stranger.effects(), 1, "its own, and nothing else");
    assert_eq!(bring(&platform, 1, strange).await, Verdict::Accepted);
    assert_eq!(state(&platform, other).await, State::Proven { by: Bearer::Ip });
    assert_eq!(state(&platform, id).await, State::Sent);
    platform.stop().await;
}

#[tokio::test]
async fn parts_in_any_order_or_twice_are_the_same_packet_and_a_missing_one_is_nothing() {
    let store = store(1, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let script: Vec<String> = (0..6)
        .flat_map(|_| ["00A4080C047F906F04".to_owned(), format!("00D6000040{}", "5A".repeat(64))])
        .chain(["00A4080C047F906F03".to_owned(), "8032000003000001".to_owned()])
        .collect();
    let one = json!({ "do": { "script": { "commands": script } }, "tar": "B00000" });
    let id = create(&platform, wanted(0, &[Bearer::Ip], content(true, &[one]))).await;
    let [item] = &ask(&platform, 0).await[..] else { panic!("it waits") };
    let parts = Holder::messages(&item.packet, SOURCE);
    assert!(parts.len() >= 4, "{}", parts.len());
    let mut holder = Holder::new(0);
    for part in parts.iter().skip(1).rev().chain(parts.iter().skip(1)) {
        holder.message(part);
    }
    assert_eq!((holder.effects(), holder.sent.len()), (0, 0), "one is missing");
    holder.message(&parts[0]);
    assert_eq!((holder.effects(), holder.sent.len()), (1, 1));
    assert_eq!(holder.configuration(), [0x5A; 64]);
    let submit = holder.sent.remove(0);
    assert_eq!(prove(&platform, 0, &submit).await, Verdict::Accepted);
    assert_eq!(state(&platform, id).await, State::Proven { by: Bearer::Ip });
    platform.stop().await;
}
