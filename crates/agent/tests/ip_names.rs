//! Names that the server gives out: no IMSI travels twice, and the card is not asked where its keys can go on.

#![allow(clippy::unwrap_used)]

#[path = "ip/server.rs"]
mod server;
#[path = "ip/world.rs"]
mod world;

use std::sync::{Arc, Mutex};

use server::{NAME, Server};
use simtide_agent::port::soft::SoftPort;
use simtide_agent::port::{CardPort, PortError};
use simtide_device::client::ClientSettings;
use simtide_device::client::Reason;
use world::{BY_REPORT, START, World, configuration, item, packet, test_card};

/// Counts the AUTHENTICATEs of its card.
struct Watched {
    card: SoftPort,
    authentications: u32,
}

impl CardPort for Watched {
    fn reset(&mut self) -> Result<Vec<u8>, PortError> {
        self.card.reset()
    }

    fn transmit(&mut self, command: &[u8], response: &mut Vec<u8>) -> Result<(), PortError> {
        self.authentications += u32::from(command[1] == 0x88);
        self.card.transmit(command, response)
    }
}

struct Scene {
    server: Arc<Mutex<Server>>,
    card: Watched,
    world: World,
}

impl Scene {
    fn new(realm: &'static str, change: impl FnOnce(&mut ClientSettings)) -> Scene {
        let server =
            Arc::new(Mutex::new(Server { sqn: 1000, gives_names: Some(realm), ..Server::default() }));
        let mut settings = ClientSettings::of(NAME, b"490154203237518");
        change(&mut settings);
        let world = World::with(settings, Server::transport(&server), None, START);
        let mut scene = Scene { server, card: Watched { card: test_card(), authentications: 0 }, world };
        assert!(scene.world.run(&mut scene.card));
        scene
    }

    /// The token is gone, and the device asks: what its run began with, and how often the card was asked for it.
    fn again(&mut self) -> (String, u32) {
        let before = (self.server.lock().unwrap().began.len(), self.card.authentications);
        self.server.lock().unwrap().forget_tokens();
        self.world.now = self.world.now.plus_s(3_600);
        self.world.host.client(self.world.now, simtide_device::client::Event::Query(Reason::Asked));
        assert!(self.world.run(&mut self.card));
        let began = self.server.lock().unwrap().began[before.0..].join(" ");
        (began, self.card.authentications - before.1)
    }
}

#[test]
fn a_fast_re_authentication_spares_the_card_and_keys_are_new_all_the_same() {
    for realm in ["", "@other.example"] {
        let mut scene = Scene::new(realm, |settings| settings.fast_reauthentication = true);
        let began = scene.server.lock().unwrap().began.join(" ");
        assert_eq!((began.as_str(), scene.card.authentications), ("00010", 1));
        for _ in 0..3 {
            let (began, asked) = scene.again();
            assert!(began.starts_with("4name") && asked == 0, "{began} {asked}");
        }
        // The keys of the last run carry a delivery.
        let waiting = item("00000000000000a1-1", packet(1, BY_REPORT, "0a0b", 1));
        scene.server.lock().unwrap().items.push(waiting);
        let (began, asked) = scene.again();
        assert!(began.starts_with("4name") && asked == 0, "{began} {asked}");
        assert_eq!(configuration(&mut scene.card, 2), "0a0b");
        assert_eq!(scene.server.lock().unwrap().proofs().len(), 1);
    }
}

#[test]
fn a_pseudonym_keeps_the_imsi_at_home() {
    let mut scene = Scene::new("", |settings| settings.pseudonyms = true);
    for _ in 0..3 {
        let (began, asked) = scene.again();
        assert!(began.starts_with("2name") && asked == 1, "{began} {asked}");
    }
    // The server has forgotten everything: it asks, and the permanent identity is the last resort.
    scene.server.lock().unwrap().names.clear();
    let (began, asked) = scene.again();
    assert!(began.starts_with("2name") && asked == 1, "{began} {asked}");
}

#[test]
fn without_the_setting_no_name_is_used() {
    let mut scene = Scene::new("", |_| ());
    assert_eq!(scene.again(), ("00010".to_owned(), 1));
}

#[test]
fn names_that_are_not_taken_lead_back_to_the_card_at_once() {
    let mut scene = Scene::new("", |settings| {
        settings.fast_reauthentication = true;
        settings.pseudonyms = true;
    });
    scene.server.lock().unwrap().statuses = vec![403, 511];
    let (began, asked) = scene.again();
    assert_eq!((began.as_str(), asked), ("00010", 1));
}

#[test]
fn another_card_does_not_go_by_the_names_of_the_first() {
    let mut scene = Scene::new("", |settings| {
        settings.fast_reauthentication = true;
        settings.pseudonyms = true;
    });
    let before = scene.server.lock().unwrap().began.len();
    scene.world.host.handle(scene.world.now, simtide_device::Event::CardLost);
    assert!(scene.world.run(&mut scene.card));
    scene.world.host.handle(scene.world.now, simtide_device::Event::PowerOn);
    assert!(scene.world.run(&mut scene.card));
    assert_eq!(scene.server.lock().unwrap().began[before..], ["00010"]);
}
