//! The subscription menu: from the user's choice to the request on the air, and what comes back.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bench;
mod phone;

use phone::{PERSONALIZATION, Phone, UPLINK, card, inkey, message};
use simtide_protocol::apdu::{Command, StatusWord};
use simtide_protocol::ids::EpochMs;
use simtide_protocol::personalization::{
    Consent, ConsentWay, Offer, OperatorEntry, Options, Request, Uplink, Wish, encode_operators,
    put_operators, read_offer, seal_wish, show_text,
};
use simtide_protocol::profile::Profile;
use simtide_protocol::scp80::Counter;
use simtide_protocol::script::compact;

fn operators() -> Vec<OperatorEntry> {
    let entry = |id: &str, name: &str| OperatorEntry { id: id.parse().unwrap(), name: name.into() };
    vec![entry("ONE", "First operator"), entry("TWO", "Second operator")]
}

fn phone() -> Phone {
    let mut profile = Profile::standard();
    profile.personalization.operators = operators();
    let mut phone = Phone::with(profile);
    assert!(phone.seen.iter().any(|(kind, ..)| *kind == 0x25), "SET UP MENU");
    phone.seen.clear();
    phone
}

fn request(operator: &str, way: ConsentWay) -> Uplink {
    // 2026-11-21 00:00:00 UTC, as the device says.
    let at = Some(EpochMs::from_seconds(1_795_219_200));
    Uplink::Request(Request {
        card: card(),
        operator: operator.parse().unwrap(),
        consent: Consent { way, at },
    })
}

fn last_text(phone: &Phone) -> &str {
    phone.seen.iter().rev().find(|(kind, ..)| *kind == 0x21).map_or("", |(_, _, text)| text)
}

#[test]
fn an_operator_is_chosen_from_the_list() {
    let mut phone = phone();
    phone.replies = vec![(0x24, 0x00, vec![0x90, 0x01, 0x02]), inkey(true)];
    phone.menu();
    assert_eq!(phone.uplink(), (request("TWO", ConsentWay::Menu), Counter::new(1).unwrap()));
    let texts: Vec<_> = phone.seen.iter().map(|(_, _, text)| text.as_str()).collect();
    assert!(texts.contains(&"Become a subscriber of Second operator?"), "{texts:?}");
    assert_eq!(last_text(&phone), "Your request is on its way.");

    // Again, after power loss: the counter of the card's messages only rises.
    phone.bench.restore();
    phone.start();
    phone.replies = vec![(0x24, 0x00, vec![0x90, 0x01, 0x01]), inkey(true)];
    phone.menu();
    assert_eq!(phone.uplink(), (request("ONE", ConsentWay::Menu), Counter::new(2).unwrap()));
}

#[test]
fn the_code_of_a_leaflet_is_typed() {
    let mut phone = phone();
    let typed = |text: &str| {
        let mut object = vec![0x8D, text.len() as u8 + 1, 0x04];
        object.extend_from_slice(text.as_bytes());
        (0x23, 0x00, object)
    };
    phone.replies = vec![(0x24, 0x00, vec![0x90, 0x01, 0x7F]), typed("op7"), inkey(true)];
    phone.menu();
    assert_eq!(phone.uplink().0, request("OP7", ConsentWay::Code));

    phone.replies = vec![(0x24, 0x00, vec![0x90, 0x01, 0x7F]), typed("op 7!")];
    phone.menu();
    assert!(phone.received().is_none());
    assert_eq!(last_text(&phone), "This is no code of an operator.");

    // A card without a list asks for the code at once.
    let mut bare = Phone::new();
    bare.replies = vec![typed("TWO"), inkey(true)];
    bare.menu();
    assert_eq!(bare.uplink().0, request("TWO", ConsentWay::Code));
}

#[test]
fn the_user_may_leave_at_every_question() {
    let chosen = || (0x24, 0x00, vec![0x90, 0x01, 0x02]);
    for replies in [
        vec![(0x24, 0x10, vec![])],
        vec![(0x24, 0x12, vec![])],
        vec![chosen(), inkey(false)],
        vec![chosen(), (0x22, 0x11, vec![])],
        vec![(0x24, 0x00, vec![0x90, 0x01, 0x7F]), (0x23, 0x12, vec![])],
        vec![(0x24, 0x00, vec![0x90, 0x01, 0x09])],
    ] {
        let mut phone = phone();
        phone.replies = replies;
        phone.menu();
        assert!(phone.received().is_none() && phone.replies.is_empty());
        // And begin anew.
        phone.replies = vec![chosen(), inkey(true)];
        phone.menu();
        assert_eq!(phone.uplink().0, request("TWO", ConsentWay::Menu));
    }
}

#[test]
fn what_cannot_be_sent_is_said() {
    let mut phone = phone();
    phone.sending = 0x21;
    phone.replies = vec![(0x24, 0x00, vec![0x90, 0x01, 0x02]), inkey(true)];
    phone.menu();
    assert!(last_text(&phone).contains("could not be sent"));
    phone.submits.clear();
    // While a change is open nobody asks for another one.
    phone.sending = 0x00;
    phone.in_a_call = true;
    phone.personalize(&message(1, Options::default()));
    phone.menu();
    assert!(last_text(&phone).contains("under way"));
}

#[test]
fn refusals_are_shown_and_the_list_is_replaced() {
    let mut phone = phone();
    phone.deliver(&show_text("Your operator has no agreement with THREE."));
    phone.drain();
    assert_eq!(last_text(&phone), "Your operator has no agreement with THREE.");
    let proof = phone.proof().unwrap();
    assert_eq!(compact::Response::decode(&proof.data).unwrap().status, StatusWord::OK);

    let list = encode_operators(&operators()[..1]).unwrap();
    phone.deliver(&put_operators(&list));
    phone.drain();
    phone.bench.restore();
    phone.start();
    phone.submits.clear();
    phone.replies = vec![(0x24, 0x00, vec![0x90, 0x01, 0x02])];
    phone.menu();
    assert!(phone.received().is_none(), "there is no second operator any more");
    phone.deliver(&put_operators(&[0xA1, 0x01, 0x00]));
    phone.drain();
    let proof = phone.proof().unwrap();
    assert_eq!(compact::Response::decode(&proof.data).unwrap().status, StatusWord::WRONG_DATA);
}

/// What the device's own application does: it reads the offer and has its user's wish sealed.
#[test]
fn the_devices_own_application_has_a_request_sealed() {
    let mut phone = phone();
    let aid = phone.bench.profile.application_by_tar(PERSONALIZATION).unwrap().aid;
    let select = Command::new(0x00, 0xA4, 0x04, 0x0C).with_data(aid.as_bytes()).encode();
    assert_eq!(phone.bench.send(&select)[0] & 0xFE, 0x90);
    let mut offer = phone.bench.send(&read_offer());
    assert_eq!(offer.split_off(offer.len() - 2), [0x90, 0x00]);
    let offer = Offer::parse(&offer).unwrap();
    assert_eq!((offer.card, offer.operators.len()), (card(), 2));
    assert_eq!(offer.service_number.as_deref(), Some("1234"));

    let wish =
        Wish { operator: offer.operators[1].id.clone(), at: Some(EpochMs::from_seconds(1_795_219_200)) };
    for counter in [1, 2] {
        let mut packet = phone.bench.send(&seal_wish(&wish));
        assert_eq!(packet.split_off(packet.len() - 2), [0x90, 0x00]);
        let opened = Uplink::open(&packet, UPLINK, &Phone::keys()).unwrap();
        assert_eq!(opened, (request("TWO", ConsentWay::Application), Counter::new(counter).unwrap()));
    }
    assert_eq!(phone.bench.transmit("805E0000028200"), [0x6A, 0x80]);
    // Everything else needs a secured packet.
    assert_eq!(phone.bench.transmit("80560000084144 4D434F444531".replace(' ', "").as_str()), [0x69, 0x82]);
    assert_eq!(phone.bench.transmit("805C800001AA"), [0x69, 0x82]);
}

/// A request that somebody sends back to the card is for nobody, and moves no counter.
#[test]
fn a_request_that_comes_back_means_nothing() {
    let mut phone = phone();
    phone.counter = 0;
    for _ in 0..3 {
        phone.replies = vec![(0x24, 0x00, vec![0x90, 0x01, 0x02]), inkey(true)];
        phone.menu();
        let packet = phone.received().unwrap();
        assert_eq!(&packet[7..10], &UPLINK.0);
        for envelope in phone.packet(&packet) {
            phone.bench.send(&envelope);
        }
        phone.drain();
        phone.submits.clear();
    }
    // The platform's first command, with counter 1, is still fresh.
    assert_eq!(phone.status().attempts_left, 5);
    assert_ne!(UPLINK, PERSONALIZATION);
}

/// Ten long names and a long text, none of it ASCII, still fit commands of 256 bytes.
#[test]
fn what_is_too_long_is_cut() {
    let mut profile = Profile::standard();
    let entry = |place: u8| OperatorEntry {
        id: format!("OP{place}").parse().unwrap(),
        name: "\u{d6}sterreichischer Betreiber".chars().take(31).collect(),
    };
    profile.personalization.operators = (0..10).map(entry).collect();
    let mut phone = Phone::with(profile);
    phone.replies = vec![(0x24, 0x00, vec![0x90, 0x01, 0x0A]), inkey(true)];
    phone.menu();
    assert_eq!(phone.uplink().0, request("OP9", ConsentWay::Menu));
    phone.seen.clear();
    phone.deliver(&show_text(&format!("{}\u{d6}", "x".repeat(190))));
    phone.drain();
    assert!(phone.seen.iter().any(|(kind, ..)| *kind == 0x21), "{:?}", phone.seen);
}

#[test]
fn devices_without_menu_get_none() {
    let no_display = hex::decode("3301e842110c0007a800001f8260000001").unwrap();
    let phone = Phone::of(Profile::standard(), no_display);
    assert!(phone.seen.iter().all(|(kind, ..)| *kind != 0x25));
    let mut profile = Profile::standard();
    profile.personalization.menu = false;
    assert!(Phone::with(profile).seen.iter().all(|(kind, ..)| *kind != 0x25));
    let mut profile = Profile::standard();
    profile.personalization.service_number = String::new();
    assert!(Phone::with(profile).seen.iter().all(|(kind, ..)| *kind != 0x25));
}
