//! Polls beside other bearers: what a poll carries, and what it leaves alone.

use super::*;

/// The scripts that a poll of card n brings, each answered well.
async fn poll(address: SocketAddr, n: u32) -> Vec<Vec<u8>> {
    polling::poll(address, iccid(n)).await
}

fn counts(scripts: &[Vec<u8>]) -> usize {
    let increase = [0x80, 0x32, 0x00, 0x00, 0x03, 0x00, 0x00, 0x01];
    scripts.iter().map(|script| script.windows(8).filter(|bytes| *bytes == increase).count()).sum()
}

#[tokio::test]
async fn a_poll_carries_a_delivery_and_tells_what_became_of_it() {
    let store = store(1, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let id = create(&platform, wanted(0, &[Bearer::Poll], content(false, &[counting()]))).await;
    assert_eq!(ask(&platform, 0).await, [], "not by this bearer");
    assert_eq!(counts(&poll(platform.port.address(), 0).await), 1);
    until(async || !state(&platform, id).await.is_open()).await;
    assert_eq!(state(&platform, id).await, State::Proven { by: Bearer::Poll });
    assert_eq!(counts(&poll(platform.port.address(), 0).await), 0, "once");
    let row = store.card(card(0)).await.unwrap().unwrap();
    assert!(row.exceptions.is_empty() && !row.hot.applied.has(1), "{row:?}");
    platform.stop().await;
}

#[tokio::test]
async fn what_a_device_holds_no_poll_repeats_and_what_a_poll_did_no_device_gets() {
    let store = store(2, Clock::REAL.now()).await;
    let platform = start(&store, None, "").await;
    let definition: Definition = serde_json::from_value(json!({
        "content": { "repeatable": false, "variants": { "*": [counting()] } },
        "settings": { "never_seen": "like-others" },
    }))
    .unwrap();
    let campaign = platform.campaigns.create(TENANT, "count", &definition).await.unwrap();
    platform.campaigns.start(TENANT, campaign.id, "test").await.unwrap();
    // Card 0: its device has fetched the content, and then the card polls before it has got it.
    let [item] = &ask(&platform, 0).await[..] else { panic!("the campaign waits") };
    platform.deliveries.fetched(card(0), vec![item.id.clone()]).await.unwrap();
    assert_eq!(counts(&poll(platform.port.address(), 0).await), 0, "left to the copy that is under way");
    let mut holder = Holder::new(0);
    carry(&platform, &mut holder, item).await;
    assert_eq!(holder.effects(), 1);
    assert!(store.card(card(0)).await.unwrap().unwrap().hot.applied.has(1));
    assert_eq!(counts(&poll(platform.port.address(), 0).await), 0);
    // Card 1: its poll is first.
    assert_eq!(counts(&poll(platform.port.address(), 1).await), 1);
    assert_eq!(ask(&platform, 1).await, []);
    let progress = store.progress(campaign.id).await.unwrap();
    assert_eq!((progress.done_by_command, progress.done_by_poll), (1, 1));
    platform.stop().await;
}
