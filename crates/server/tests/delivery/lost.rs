//! Answers that are lost between the card and the device's disk, as by a power cut: the packet is handed over again, the
//! card says that it had it before, and the platform finds out what became of it.

use super::*;

/// The card executes the packet, the power goes before its answer is on the disk, and the device hands it over again.
async fn cut(platform: &Platform, holder: &mut Holder, item: &Waiting) -> Vec<Verdict> {
    holder.packet(&item.packet, item.originating_address.as_deref().unwrap());
    assert!(!std::mem::take(&mut holder.sent).is_empty(), "an answer that nobody gets");
    carry(platform, holder, item).await
}

#[tokio::test]
async fn repeatable_content_is_sent_once_more_with_a_counter_of_its_own() {
    let store = store(1, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let mut holder = Holder::new(0);
    let id = create(&platform, wanted(0, &[Bearer::Ip], content(true, &[counting()]))).await;
    let [first] = &ask(&platform, 0).await[..] else { panic!("it waits") };
    assert_eq!(cut(&platform, &mut holder, first).await, [Verdict::Accepted]);
    assert!(state(&platform, id).await.is_open(), "the card has refused a copy, not the content");
    let [second] = &ask(&platform, 0).await[..] else { panic!("once more") };
    assert_eq!(second.id.as_str(), format!("{id}-2"));
    assert_eq!(carry(&platform, &mut holder, second).await, [Verdict::Accepted]);
    assert_eq!((state(&platform, id).await, holder.effects()), (State::Proven { by: Bearer::Ip }, 2));
    platform.stop().await;
}

#[tokio::test]
async fn of_other_content_the_cards_mark_tells() {
    let store = store(1, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let mut holder = Holder::new(0);
    let id = create(&platform, wanted(0, &[Bearer::Ip], content(false, &[counting(), counting()]))).await;
    let [first] = &ask(&platform, 0).await[..] else { panic!("the first step waits") };
    assert_eq!(cut(&platform, &mut holder, first).await, [Verdict::Accepted]);
    // The question, which may get lost as well.
    let [question] = &ask(&platform, 0).await[..] else { panic!("the card is asked") };
    assert_eq!(question.id.as_str(), format!("{id}-2"));
    assert_eq!(cut(&platform, &mut holder, question).await, [Verdict::Accepted]);
    let [question] = &ask(&platform, 0).await[..] else { panic!("the card is asked once more") };
    assert_eq!(question.id.as_str(), format!("{id}-3"));
    assert_eq!(carry(&platform, &mut holder, question).await, [Verdict::Accepted]);
    assert_eq!(holder.effects(), 1, "the first step, once");
    // The second step follows, across a restart.
    let [step] = &ask(&platform, 0).await[..] else { panic!("the second step waits") };
    assert_eq!(cut(&platform, &mut holder, step).await, [Verdict::Accepted]);
    platform.stop().await;
    drop(platform);
    let platform = start(&store, None, "").await;
    let [question] = &ask(&platform, 0).await[..] else { panic!("the card is asked") };
    assert_eq!(carry(&platform, &mut holder, question).await, [Verdict::Accepted]);
    assert_eq!((state(&platform, id).await, holder.effects()), (State::Proven { by: Bearer::Ip }, 2));
    platform.stop().await;
}

/// The card's counter is ahead of the platform's: it refuses a packet that it never had. Nothing is taken for done.
#[tokio::test]
async fn a_card_that_never_had_it_gets_it() {
    for repeatable in [true, false] {
        let store = store(1, Clock::REAL.now()).await;
        let platform = start(&store, None, "").await;
        let mut holder = Holder::ahead(0, 2);
        let id = create(&platform, wanted(0, &[Bearer::Ip], content(repeatable, &[counting()]))).await;
        let mut packets = 0;
        while let [item] = &ask(&platform, 0).await[..] {
            carry(&platform, &mut holder, item).await;
            packets += 1;
        }
        assert!(packets <= 5, "{packets}");
        assert_eq!((state(&platform, id).await, holder.effects()), (State::Proven { by: Bearer::Ip }, 1));
        platform.stop().await;
    }
}

#[tokio::test]
async fn a_counter_that_is_far_behind_is_told_and_not_tried_for_ever() {
    let store = store(1, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let mut holder = Holder::ahead(0, 1_000);
    let id = create(&platform, wanted(0, &[Bearer::Ip], content(false, &[counting()]))).await;
    while let [item] = &ask(&platform, 0).await[..] {
        carry(&platform, &mut holder, item).await;
    }
    let State::Refused { answer } = state(&platform, id).await else { panic!("it ends") };
    assert!(answer.is_counter_low() && answer.explained().contains("raise"), "{}", answer.explained());
    assert_eq!(holder.effects(), 0);
    platform.stop().await;
}

/// A copy that comes days late, or its recorded answer brought once more, says nothing about the packet under way.
#[tokio::test]
async fn what_is_said_of_an_older_packet_moves_no_newer_one() {
    let store = store(1, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let mut holder = Holder::new(0);
    create(&platform, wanted(0, &[Bearer::Ip], content(false, &[counting()]))).await;
    let [old] = &ask(&platform, 0).await[..] else { panic!("it waits") };
    assert_eq!(carry(&platform, &mut holder, old).await, [Verdict::Accepted]);
    let id = create(&platform, wanted(0, &[Bearer::Ip], content(false, &[counting()]))).await;
    let [new] = &ask(&platform, 0).await[..] else { panic!("it waits") };
    for _ in 0..2 {
        let verdicts = carry(&platform, &mut holder, old).await;
        assert_eq!(verdicts, [Verdict::Repeated]);
        assert_eq!(state(&platform, id).await, State::Sent);
    }
    assert_eq!(carry(&platform, &mut holder, new).await, [Verdict::Accepted]);
    assert_eq!((state(&platform, id).await, holder.effects()), (State::Proven { by: Bearer::Ip }, 2));
    platform.stop().await;
}
