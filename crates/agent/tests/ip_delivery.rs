//! A card without coverage is reached over IP: our card in our device, a server within the process.

#![allow(clippy::unwrap_used)]

#[path = "ip/server.rs"]
mod server;
#[path = "ip/world.rs"]
mod world;

use std::sync::{Arc, Mutex};

use server::Server;
use simtide_agent::port::soft::SoftPort;
use simtide_protocol::scp80::ResponseStatus;
use simtide_protocol::second_layer::UplinkContent;
use simtide_protocol::sms::Submit;
use world::{BY_REPORT, BY_SUBMIT, START, World, configuration, item, opened, packet, test_card};

fn server(items: Vec<simtide_protocol::second_layer::Item>) -> Arc<Mutex<Server>> {
    Arc::new(Mutex::new(Server { sqn: 1000, items, ..Server::default() }))
}

/// Three packets of one delivery, the second in several short messages.
fn delivery(second_of_spi: u8) -> Vec<simtide_protocol::second_layer::Item> {
    (1..=3_u8)
        .map(|n| {
            let text = format!("{n:02x}").repeat(usize::from(n));
            let repeats = if n == 2 { 30 } else { 1 };
            item(&format!("00000000000000a1-{n}"), packet(u64::from(n), second_of_spi, &text, repeats))
        })
        .collect()
}

#[test]
fn a_delivery_reaches_the_card_and_one_message_carries_its_proofs() {
    let server = server(delivery(BY_REPORT));
    let mut card = test_card();
    let mut world = World::new(&server, None, START);
    assert!(world.run(&mut card));
    let server = server.lock().unwrap();
    assert_eq!(configuration(&mut card, 3), "030303");
    assert_eq!(server.fetched.len(), 3);
    let proofs = server.proofs();
    assert_eq!(proofs.len(), 3);
    for (n, (id, proof)) in proofs.iter().enumerate() {
        assert_eq!(id.as_ref().unwrap().to_string(), format!("00000000000000a1-{}", n + 1));
        let response = opened(proof, BY_REPORT);
        assert_eq!(
            (response.header.status, response.header.counter.value()),
            (ResponseStatus::PorOk, n as u64 + 1)
        );
    }
    // Two rounds of EAP, the receipts, and one message with all proofs.
    assert_eq!(server.requests, ["start", "eap", "post", "post"]);
    assert_eq!(server.batches, [0, 3]);
    assert!(world.queues().inbound().is_empty() && world.queues().outbound().is_empty());
}

#[test]
fn proofs_by_short_message_take_the_same_way() {
    let server = server(delivery(BY_SUBMIT));
    let mut card = test_card();
    let mut world = World::new(&server, None, START);
    assert!(world.run(&mut card));
    let server = server.lock().unwrap();
    assert_eq!(configuration(&mut card, 3), "030303");
    assert_eq!(server.uplinks.len(), 3);
    for content in &server.uplinks {
        let UplinkContent::Submit { tpdu } = content else { panic!("{content:?}") };
        let submit = Submit::from_bytes(tpdu).unwrap();
        assert_eq!(submit.destination.number, "43660500");
        assert_eq!(opened(&submit.user_data.octets, BY_SUBMIT).header.status, ResponseStatus::PorOk);
    }
    assert_eq!(server.batches.iter().sum::<usize>(), 3);
    assert_eq!(server.batches.last(), Some(&3));
}

#[test]
fn a_number_that_is_not_fresh_is_brought_together() {
    let server = server(delivery(BY_REPORT));
    let mut card = test_card();
    let mut world = World::new(&server, None, START);
    assert!(world.run(&mut card));
    // The register has forgotten where it was, and the token is gone too.
    server.lock().unwrap().sqn = 5;
    server.lock().unwrap().forget_tokens();
    server.lock().unwrap().requests.clear();
    assert!(world.pass(5000, &mut card));
    let server = server.lock().unwrap();
    assert_eq!(server.requests[..4], ["get", "start", "eap", "eap"]);
    assert!(server.sqn > 1000);
}

/// Power goes at every single step, before what it led to was stored and after, when nothing of it has left yet; the
/// device starts anew with what lies on its disk.
#[test]
fn a_cut_at_any_step_loses_nothing_and_applies_nothing_twice() {
    for (second_of_spi, stored) in
        [(BY_REPORT, false), (BY_REPORT, true), (BY_SUBMIT, false), (BY_SUBMIT, true)]
    {
        let mut cut_after = 0;
        loop {
            let folder = tempfile::tempdir().unwrap();
            let server = server(delivery(second_of_spi));
            let mut card = test_card();
            let mut world = World::new(&server, Some(folder.path()), START);
            world.power = Some(cut_after);
            let whole = world.run(&mut card);
            if stored {
                server.lock().unwrap().lets_through = Some(0);
                world.power = Some(1);
                world.run(&mut card);
                server.lock().unwrap().lets_through = None;
            }
            let now = world.now.plus_s(60);
            drop(world);
            // Without a proof the server offers the packets again.
            let mut restarted = World::new(&server, Some(folder.path()), now);
            assert!(restarted.run(&mut card));
            restarted.pass(20, &mut card);
            assert!(restarted.queues().inbound().is_empty(), "cut after {cut_after}");
            assert!(restarted.queues().outbound().is_empty(), "cut after {cut_after}");
            drop(restarted);
            let mut server = server.lock().unwrap();
            assert_eq!(configuration(&mut card, 3), "030303", "cut after {cut_after}");
            let statuses = statuses(&server, second_of_spi);
            for counter in 1..=3 {
                let of = |status| statuses.iter().filter(|one| **one == (counter, status)).count();
                let (done, low) = (of(ResponseStatus::PorOk), of(ResponseStatus::CounterLow));
                // At most once; and the card has said something of each, whatever was cut.
                assert!(done <= 1 && done + low >= 1, "cut after {cut_after}: {statuses:?}");
            }
            server.uplinks.clear();
            if whole {
                break;
            }
            cut_after += 1;
        }
        assert!(cut_after > 25, "{cut_after} steps are too few for a whole delivery");
    }
}

fn statuses(server: &Server, second_of_spi: u8) -> Vec<(u64, ResponseStatus)> {
    let of = |bytes: &[u8]| {
        let header = opened(bytes, second_of_spi).header;
        (header.counter.value(), header.status)
    };
    let each = server.uplinks.iter().map(|content| match content {
        UplinkContent::Proof { packet, .. } => of(packet),
        UplinkContent::Submit { tpdu } => of(&Submit::from_bytes(tpdu).unwrap().user_data.octets),
    });
    each.collect()
}

/// The line drops after any number of requests, and answers get lost after the server has acted on them.
#[test]
fn links_that_drop_delay_and_change_nothing_else() {
    for lets_through in 0..6 {
        for loses_answers in [false, true] {
            let server = server(delivery(BY_REPORT));
            let mut card = test_card();
            let mut world = World::new(&server, None, START);
            server.lock().unwrap().lets_through = Some(lets_through);
            assert!(world.run(&mut card));
            server.lock().unwrap().lets_through = None;
            server.lock().unwrap().loses_answers = loses_answers;
            assert!(world.pass(15, &mut card));
            server.lock().unwrap().loses_answers = false;
            assert!(world.pass(600, &mut card));
            let server = server.lock().unwrap();
            assert_eq!(configuration(&mut card, 3), "030303");
            let statuses = statuses(&server, BY_REPORT);
            let expected = [1, 2, 3].map(|counter| (counter, ResponseStatus::PorOk));
            assert_eq!(statuses, expected, "{lets_through} {loses_answers}");
            assert!(world.queues().inbound().is_empty() && world.queues().outbound().is_empty());
            assert!(server.items.is_empty());
        }
    }
}

#[test]
fn an_overloaded_server_is_asked_when_it_says_and_a_token_that_is_gone_is_replaced() {
    let server = server(Vec::new());
    let mut card = test_card();
    let mut world = World::new(&server, None, START);
    server.lock().unwrap().statuses = vec![503, 500];
    assert!(world.run(&mut card));
    assert!(server.lock().unwrap().requests.is_empty());
    assert!(world.pass(120, &mut card));
    assert_eq!(server.lock().unwrap().requests, ["start", "eap"]);
    // Two servers behind one name: the second one does not know the token.
    server.lock().unwrap().forget_tokens();
    server.lock().unwrap().items = delivery(BY_REPORT);
    assert!(world.pass(5000, &mut card));
    assert_eq!(server.lock().unwrap().requests[2..], ["get", "start", "eap", "post", "post"]);
    assert_eq!(configuration(&mut card, 3), "030303");
}

/// What was fetched for one card never reaches another one, and waits for its own.
#[test]
fn another_card_in_the_device_gets_nothing_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(delivery(BY_REPORT));
    let (mut first, mut second) = (test_card(), other_card());
    let mut world = World::new(&server, Some(folder.path()), START);
    // Up to the moment at which the first packet is to be handed over.
    world.power = Some(0);
    while world.queues().inbound().is_empty() {
        world.power = world.power.map(|left| left + 1);
        assert!(!world.run(&mut first));
    }
    world.power = None;
    world.host.handle(world.now, simtide_device::Event::CardLost);
    world.host.handle(world.now, simtide_device::Event::PowerOn);
    assert!(world.run(&mut second));
    assert!(world.pass(10_000, &mut second));
    assert_eq!(configuration(&mut second, 3), "ffffff");
    assert_eq!(world.queues().inbound().len(), 3);
    assert!(server.lock().unwrap().uplinks.is_empty());
    let now = world.now;
    drop(world);
    let mut world = World::new(&server, Some(folder.path()), now);
    assert!(world.run(&mut first));
    assert!(world.pass(600, &mut first));
    assert_eq!(configuration(&mut first, 3), "030303");
    assert_eq!(server.lock().unwrap().uplinks.len(), 3);
}

/// Another card lies in the device from any step on: it gets nothing of the first one and says nothing in its name; the
/// first one gets everything once it is back.
#[test]
fn a_card_that_is_swapped_at_any_step_loses_nothing_to_the_other() {
    for second_of_spi in [BY_REPORT, BY_SUBMIT] {
        let mut swap_after = 0;
        loop {
            let server = server(delivery(second_of_spi));
            let (mut first, mut second) = (test_card(), other_card());
            let mut world = World::new(&server, None, START);
            world.power = Some(swap_after);
            let whole = world.run(&mut first);
            world.power = None;
            let swap = |world: &mut World, pulled: &mut SoftPort| {
                world.host.handle(world.now, simtide_device::Event::CardLost);
                assert!(world.run(pulled));
                world.host.handle(world.now, simtide_device::Event::PowerOn);
            };
            // The server has nothing for the other card.
            let withheld = std::mem::take(&mut server.lock().unwrap().items);
            let said = server.lock().unwrap().uplinks.len();
            swap(&mut world, &mut first);
            assert!(world.run(&mut second));
            assert!(world.pass(100, &mut second));
            assert_eq!(configuration(&mut second, 3), "ffffff", "swapped after {swap_after}");
            assert_eq!(server.lock().unwrap().uplinks.len(), said, "swapped after {swap_after}");
            server.lock().unwrap().items = withheld;
            swap(&mut world, &mut second);
            assert!(world.run(&mut first));
            assert!(world.pass(600, &mut first));
            assert_eq!(configuration(&mut first, 3), "030303", "swapped after {swap_after}");
            assert!(world.queues().inbound().is_empty() && world.queues().outbound().is_empty());
            let statuses = statuses(&server.lock().unwrap(), second_of_spi);
            for counter in 1..=3 {
                let of = |status| statuses.iter().filter(|one| **one == (counter, status)).count();
                let (done, low) = (of(ResponseStatus::PorOk), of(ResponseStatus::CounterLow));
                assert!(done <= 1 && done + low >= 1, "swapped after {swap_after}: {statuses:?}");
            }
            if whole {
                break;
            }
            swap_after += 1;
        }
        assert!(swap_after > 25, "{swap_after} steps are too few for a whole delivery");
    }
}

/// The clock is set back by years, and ahead: the device goes on asking, and a token that seems old is renewed.
#[test]
fn clocks_that_jump_do_not_stop_a_device() {
    let server = server(Vec::new());
    let mut card = test_card();
    let mut world = World::new(&server, None, START);
    assert!(world.run(&mut card));
    for jump_s in [-20 * 366 * 86_400, 40 * 366 * 86_400] {
        server.lock().unwrap().requests.clear();
        world.now = world.now.plus_s(jump_s);
        world.host.handle(world.now, simtide_device::Event::Deadline);
        assert!(world.run(&mut card));
        assert!(world.pass(86_400 * 2, &mut card));
        assert!(!server.lock().unwrap().requests.is_empty(), "{jump_s}");
    }
}

/// The same card with another number and another subscriber.
fn other_card() -> SoftPort {
    let profile = Arc::new(simtide_protocol::profile::Profile::standard());
    let mut personalization = simtide_agent::personalization::of_test_card(&profile);
    personalization.iccid = "8988211000000000029".parse().unwrap();
    let card = simtide_card::Card::personalised(profile, &personalization);
    SoftPort::volatile(card, Arc::new(simtide_card::secure_channel::NoChannels))
}

/// Messages of the second layer that are repeated or changed are not taken: the card proves itself anew, and everything
/// is done once all the same.
#[test]
fn repeated_and_forged_messages_are_not_taken() {
    let server = server(delivery(BY_REPORT));
    let mut card = test_card();
    let mut world = World::new(&server, None, START);
    server.lock().unwrap().forges = true;
    assert!(world.run(&mut card));
    assert!(world.queues().inbound().is_empty() && server.lock().unwrap().fetched.is_empty());
    assert_eq!(configuration(&mut card, 3), "ffffff");
    server.lock().unwrap().forges = false;
    assert!(world.pass(600, &mut card));
    assert_eq!(configuration(&mut card, 3), "030303");
    let more = item("00000000000000a2-1", packet(4, BY_REPORT, "04", 1));
    server.lock().unwrap().items.push(more);
    server.lock().unwrap().repeats = true;
    server.lock().unwrap().requests.clear();
    assert!(world.pass(5000, &mut card));
    assert_eq!(server.lock().unwrap().requests[..3], ["get", "start", "eap"]);
    assert_eq!(configuration(&mut card, 3), "040303");
    assert_eq!(statuses(&server.lock().unwrap(), BY_REPORT).len(), 4);
}

/// There is coverage, but the network does not take what the card sends: it leaves over IP.
#[test]
fn what_the_network_does_not_take_leaves_over_ip() {
    use simtide_agent::network::{Line, NetworkEvent, Networks};
    let server = server(Vec::new());
    let mut card = test_card();
    let mut world = World::new(&server, None, START);
    world.around.networks = Networks::one(Line::None);
    assert!(world.run(&mut card));
    let imsi = "001010000000001".parse().unwrap();
    world.host.network(world.now, 0, NetworkEvent::Attached { imsi });
    assert!(world.run(&mut card));
    // A packet by SMS whose proof the card sends by SMS.
    let mut sat = simtide_device::sat::Sat::default();
    let key = simtide_device::inbound::CardKey::Imsi(imsi);
    let part = sat.deliver(START, key, &item("a-1", packet(1, BY_SUBMIT, "77", 1))).unwrap();
    let (service_center, tpdu) = (String::new(), part.tpdu);
    world.host.network(world.now, 0, NetworkEvent::Deliver { imsi, id: 1, service_center, tpdu });
    assert!(world.run(&mut card));
    assert_eq!(configuration(&mut card, 1), "77");
    assert_eq!(statuses(&server.lock().unwrap(), BY_SUBMIT), [(1, ResponseStatus::PorOk)]);
    assert!(world.queues().outbound().is_empty());
}

/// The server's notification comes as a short message, where there is coverage for one: the device asks at once.
#[test]
fn a_notification_leads_to_a_query() {
    use simtide_protocol::sms::{Address, Deliver, Timestamp, UserData};
    let server = server(Vec::new());
    let mut card = test_card();
    let mut world = World::new(&server, None, START);
    assert!(world.run(&mut card));
    server.lock().unwrap().items = delivery(BY_REPORT);
    let mut text = vec![0x06, 0x05, 0x04, 0x1F, 0x9F, 0x00, 0x00];
    text.extend(b"001010000000001-aescfg,ap5901");
    let user_data = UserData::from_octets(text).unwrap();
    let mut deliver =
        Deliver::data_download(Address::number("500").unwrap(), Timestamp::from_epoch(START), user_data);
    (deliver.pid, deliver.dcs) = (0x00, 0x04);
    for id in [1, 2] {
        let (service_center, tpdu) = (String::new(), deliver.to_bytes());
        world.host.handle(world.now, simtide_device::Event::Sms { id, service_center, tpdu });
        assert!(world.run(&mut card));
    }
    assert_eq!(configuration(&mut card, 3), "030303");
    // Two notifications within seconds are one.
    assert_eq!(server.lock().unwrap().requests[2..], ["get", "post", "post"]);
}

/// The device's own application: its user chooses an operator, the card seals the wish, and it leaves over IP where there
/// is no coverage.
#[test]
fn a_wish_of_the_user_is_sealed_by_the_card_and_leaves_over_ip() {
    use simtide_agent::host::Shown;
    use simtide_device::{Event, Prompt, UserAction};
    use simtide_protocol::personalization::{OperatorEntry, Uplink};
    use simtide_protocol::sms::UserDataHeader;

    let mut profile = simtide_protocol::profile::Profile::standard();
    let operator = |id: &str, name: &str| OperatorEntry { id: id.parse().unwrap(), name: name.to_owned() };
    profile.personalization.operators = vec![operator("ONE", "First"), operator("TWO", "Second")];
    profile.personalization.service_number = "1234".to_owned();
    let tar = profile.personalization.uplink_tar;
    let profile = Arc::new(profile);
    let personalization = simtide_agent::personalization::of_test_card(&profile);
    let card = simtide_card::Card::personalised(profile, &personalization);
    let mut card = simtide_agent::port::soft::SoftPort::volatile(
        card,
        Arc::new(simtide_card::secure_channel::NoChannels),
    );
    let server = server(Vec::new());
    let mut world = World::new(&server, None, START);
    assert!(world.run(&mut card));
    for action in [UserAction::Operators, UserAction::Choose(2), UserAction::Confirm] {
        world.host.handle(world.now, Event::User(action));
        assert!(world.run(&mut card));
    }
    let shown = world.around.shown.lock().unwrap();
    let texts: Vec<String> = shown
        .iter()
        .filter_map(|shown| match shown {
            Shown::Prompt(Prompt::List(menu)) => Some(format!("{} {}", menu.title, menu.items.len())),
            Shown::Prompt(Prompt::Key { text, .. } | Prompt::Note(text)) => Some(text.clone()),
            _ => None,
        })
        .collect();
    let expected =
        ["Operators for card 8988211000000000011 2", "Change to Second?", "The request is on its way."];
    assert_eq!(texts, expected);
    let server = server.lock().unwrap();
    let [UplinkContent::Submit { tpdu }] = &server.uplinks[..] else { panic!("{:?}", server.uplinks) };
    let submit = Submit::from_bytes(tpdu).unwrap();
    assert_eq!(submit.destination.number, "1234");
    let (header, packet) = UserDataHeader::split(&submit.user_data.octets).unwrap();
    assert!(header.contains(0x70));
    match Uplink::open(packet, tar, &world::keys()).unwrap().0 {
        Uplink::Request(request) => assert_eq!(request.operator.as_str(), "TWO"),
        other => panic!("{other:?}"),
    }
}
