//! Vectors from a real register: OsmoHLR by GSUP.

#[path = "../../../simtide/tests/support/hlr/mod.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod hlr;

use std::sync::Arc;

use simtide_protocol::aka::Sqn;
use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
use simtide_protocol::second_layer::Uplinks;
use simtide_server::clock::Clock;
use simtide_server::entitlement::vectors::OneRegister;
use simtide_server::entitlement::{Server, Service};
use simtide_server::registers::front::Pooled;
use simtide_server::registers::osmo_hlr::{OsmoHlr, OsmoHlrAddresses};
use simtide_server::registers::pool::Pool;
use simtide_server::registers::{Register, Subscriber};

use crate::support::{K, OPC, card, config, imsi, item, world};

#[tokio::test]
async fn vectors_of_osmo_hlr_open_a_session_and_a_resynchronisation_is_followed() {
    if let Some(missing) = hlr::missing() {
        eprintln!("skipped: {missing}");
        return;
    }
    let hlr = hlr::Hlr::start().await;
    let folder = tempfile::tempdir().unwrap();
    let pool = Arc::new(Pool::open(&folder.path().join("pool.db")).unwrap());
    let addresses = OsmoHlrAddresses::read(&hlr.ctrl().to_string(), None, None).unwrap();
    let register = Pooled::new(pool, Arc::new(OsmoHlr::new(addresses)));
    let subscriber = Subscriber {
        card: card(1),
        imsi: imsi(1),
        algorithm: AuthenticationAlgorithm::Milenage,
        k: Secret::new(&K).unwrap(),
        opc: Secret::new(&OPC).unwrap(),
        msisdn: Some("43660000001".parse().unwrap()),
    };
    register.provision(subscriber).await.unwrap();
    let mut world = world(config()).await;
    world.source.put_subscriber(imsi(1), card(1));
    world.source.put_waiting(card(1), item("00a1-1", 0x5A, 60));
    let vectors = Arc::new(OneRegister(Arc::new(register)));
    let service = Service::new(config(), Clock::REAL, world.source.clone(), vectors);
    world.server = Server::start(service).await.unwrap();
    let mut device = world.stranger(1);
    // The card has been elsewhere: its numbers are ahead of this register's.
    for place in 0..32 {
        assert!(device.array.accept(Sqn::from_parts(1 << 20, place)));
    }
    let document = device.authenticate(&world.client, false).await.unwrap_or_else(|status| {
        panic!("{status}: {}", hlr.log());
    });
    assert_eq!(device.open(&document).unwrap().items.len(), 1);
    assert_eq!(world.server.service.stats.vectors.value(), 2);
    device.exchange(&world.client, &Uplinks::default()).await.unwrap();
    device.authenticate(&world.client, false).await.unwrap();
    assert_eq!(world.server.service.stats.vectors.value(), 3);
    // Who is not in the register gets a challenge too.
    let mut stranger = world.stranger(2);
    assert_eq!(stranger.authenticate(&world.client, false).await.err(), Some(403));
}
