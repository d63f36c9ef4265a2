//! IP goes away between the card's answer and the server: the proof leaves by short message, where there is a network.

#![allow(clippy::unwrap_used)]

#[path = "ip/server.rs"]
mod server;
#[path = "ip/world.rs"]
mod world;

use std::sync::{Arc, Mutex};

use server::Server;
use simtide_agent::port::soft::SoftPort;
use simtide_device::client::ClientSettings;
use simtide_device::{Kind, Settings};
use simtide_protocol::scp80::ResponseStatus;
use simtide_protocol::second_layer::UplinkContent;
use simtide_protocol::sms::Submit;
use world::{BY_REPORT, BY_SUBMIT, START, World, configuration, item, opened, packet, test_card};

/// Requests until the packets lie in the queue and the server knows: two of EAP, the receipts.
const FETCHED: u32 = 3;
/// How long IP is away before proofs leave by short message, and the longest jitter.
const AWAY_S: i64 = 900;
const AWAY_S_MAX: i64 = AWAY_S * 12 / 10;

/// Two packets of one delivery; IP lasts until they are fetched.
fn server(second_of_spi: u8) -> Arc<Mutex<Server>> {
    let items = ["01", "0202"]
        .into_iter()
        .zip(1..)
        .map(|(text, n)| item(&format!("00000000000000a1-{n}"), packet(n, second_of_spi, text, 1)));
    let lets_through = Some(FETCHED);
    Arc::new(Mutex::new(Server { sqn: 1000, items: items.collect(), lets_through, ..Server::default() }))
}

/// Counter and status of each message at the service centre, which all go to the originating address.
fn by_sms(world: &World, second_of_spi: u8) -> Vec<(u64, ResponseStatus)> {
    let taken = &world.network.as_ref().unwrap().taken;
    let messages = taken.iter().map(|tpdu| Submit::from_bytes(tpdu).unwrap());
    messages
        .map(|submit| {
            assert_eq!((submit.destination.kind, submit.destination.number.as_str()), (0x91, "43660500"));
            assert_eq!((submit.pid, submit.dcs, submit.has_header), (0x00, 0xF6, true));
            assert_eq!(submit.user_data.octets[..3], [0x02, 0x71, 0x00]);
            said(&submit.user_data.octets, second_of_spi)
        })
        .collect()
}

fn by_ip(server: &Server, second_of_spi: u8) -> Vec<(u64, ResponseStatus)> {
    let each = server.uplinks.iter().map(|content| match content {
        UplinkContent::Proof { packet, originating_address, .. } => {
            assert_eq!(originating_address, "+43660500");
            said(packet, second_of_spi)
        }
        UplinkContent::Submit { tpdu } => {
            said(&Submit::from_bytes(tpdu).unwrap().user_data.octets, second_of_spi)
        }
    });
    each.collect()
}

fn said(bytes: &[u8], second_of_spi: u8) -> (u64, ResponseStatus) {
    let header = opened(bytes, second_of_spi).header;
    (header.counter.value(), header.status)
}

const DONE: [(u64, ResponseStatus); 2] = [(1, ResponseStatus::PorOk), (2, ResponseStatus::PorOk)];

#[test]
fn a_proof_leaves_by_sms_once_ip_has_been_away_and_over_ip_when_it_is_back() {
    for second_of_spi in [BY_REPORT, BY_SUBMIT] {
        let server = server(second_of_spi);
        let mut card = test_card();
        let mut world = World::new(&server, None, START).covered();
        assert!(world.run(&mut card));
        assert_eq!(configuration(&mut card, 2), "0202");
        assert!(world.pass(AWAY_S - 60, &mut card));
        assert_eq!(by_sms(&world, second_of_spi), [], "it is away for a moment only");
        assert!(world.pass(AWAY_S_MAX, &mut card));
        assert_eq!(by_sms(&world, second_of_spi), DONE);
        assert!(by_ip(&server.lock().unwrap(), second_of_spi).is_empty());
        // The service centre has them: they do not leave that way again, and wait for the server all the same.
        assert!(world.pass(10 * AWAY_S, &mut card));
        assert_eq!(by_sms(&world, second_of_spi), DONE);
        assert_eq!(world.queues().outbound().len(), 2);
        server.lock().unwrap().lets_through = None;
        assert!(world.pass(2 * 3600, &mut card));
        assert_eq!(by_ip(&server.lock().unwrap(), second_of_spi), DONE);
        assert!(world.queues().outbound().is_empty());
    }
}

#[test]
fn without_coverage_or_when_it_is_switched_off_nothing_leaves_by_sms() {
    let start = |sms_after_s, server: &Arc<Mutex<Server>>| {
        let settings = ClientSettings {
            sms_after_s,
            ..ClientSettings::of("127.0.0.1", &Settings::of(Kind::Meter).imei)
        };
        World::with(settings, Server::transport(server), None, START)
    };
    let off = server(BY_REPORT);
    let mut card = test_card();
    let mut world = start(0, &off).covered();
    assert!(world.run(&mut card));
    assert!(world.pass(20 * AWAY_S, &mut card));
    assert_eq!((by_sms(&world, BY_REPORT), world.queues().outbound().len()), (vec![], 2));

    // Without a network it waits for one; when there is one it has been away for long enough.
    let dark = server(BY_REPORT);
    let mut card = test_card();
    let mut world = start(60, &dark);
    assert!(world.run(&mut card));
    assert!(world.pass(20 * AWAY_S, &mut card));
    assert_eq!(world.queues().outbound().len(), 2);
    let mut world = world.covered();
    let imsi = "001010000000001".parse().unwrap();
    world.host.handle(world.now, simtide_device::Event::Coverage(true));
    world.host.network(world.now, 0, simtide_agent::network::NetworkEvent::Attached { imsi });
    assert!(world.run(&mut card));
    assert!(world.pass(1, &mut card));
    assert_eq!(by_sms(&world, BY_REPORT), DONE);
}

#[test]
fn a_service_center_that_refuses_is_tried_again_after_a_pause() {
    let server = server(BY_REPORT);
    let mut card = test_card();
    let mut world = World::new(&server, None, START).covered();
    world.network.as_mut().unwrap().refuses = 2;
    assert!(world.run(&mut card));
    assert!(world.pass(AWAY_S_MAX, &mut card));
    assert_eq!(by_sms(&world, BY_REPORT), []);
    assert!(world.pass(60 + 120 + 60, &mut card));
    assert_eq!(by_sms(&world, BY_REPORT), DONE);
}

/// Power goes at every single step while IP is away; the device starts anew with what lies on its disk.
#[test]
fn a_cut_at_any_step_loses_no_proof_and_makes_no_second_one() {
    for second_of_spi in [BY_REPORT, BY_SUBMIT] {
        let mut cut_after = 0;
        loop {
            let folder = tempfile::tempdir().unwrap();
            let server = server(second_of_spi);
            let mut card = test_card();
            let mut world = World::new(&server, Some(folder.path()), START).covered();
            world.power = Some(cut_after);
            let whole = away(&mut world, &mut card);
            let (now, mut network) = (world.now.plus_s(60), world.network.take());
            drop(world);
            let mut world = World::new(&server, Some(folder.path()), now).covered();
            let taken = network.as_mut().map(|network| std::mem::take(&mut network.taken));
            world.network.as_mut().unwrap().taken = taken.unwrap();
            assert!(away(&mut world, &mut card));
            server.lock().unwrap().lets_through = None;
            assert!(world.pass(3 * 3600, &mut card));
            assert_eq!(configuration(&mut card, 2), "0202", "cut after {cut_after}");
            assert!(world.queues().inbound().is_empty() && world.queues().outbound().is_empty());
            let server = server.lock().unwrap();
            // A service centre may get one again where the power went before it was noted; it says the same.
            let mut all = [by_sms(&world, second_of_spi), by_ip(&server, second_of_spi)].concat();
            all.sort_by_key(|(counter, status)| (*counter, status.code()));
            all.dedup();
            for counter in 1..=2 {
                let of = |status| all.iter().filter(|one| **one == (counter, status)).count();
                assert!(
                    of(ResponseStatus::PorOk) + of(ResponseStatus::CounterLow) >= 1,
                    "cut after {cut_after}: {all:?}"
                );
            }
            if whole {
                assert_eq!(by_sms(&world, second_of_spi), DONE);
                break;
            }
            cut_after += 1;
        }
        assert!(cut_after > 25, "{cut_after} steps are too few");
    }
}

fn away(world: &mut World, card: &mut SoftPort) -> bool {
    world.run(card) && world.pass(2 * AWAY_S, card)
}
