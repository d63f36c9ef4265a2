//! Where a card sends after a change, from which number it is known, and what its user is told.

use simtide_protocol::ids::Msisdn;
use simtide_protocol::personalization::{Offer, Wish, read_offer, seal_wish};
use simtide_protocol::profile::{ApplicationKind, Profile};
use simtide_protocol::sms::{Address, PacketKind, Reference, Submit, UserData, segment};

use super::*;

/// What the device's own application reads after it has selected the card's.
fn offer(phone: &mut Phone) -> Offer {
    let aid = Profile::standard().application(ApplicationKind::Personalization).unwrap().aid;
    let aid = aid.as_bytes();
    let select = [&[0x00, 0xA4, 0x04, 0x0C, aid.len() as u8][..], aid].concat();
    assert_eq!(phone.transmit(&select), [0x90, 0x00]);
    Offer::parse(&whole(phone, &read_offer())).unwrap()
}

/// An answer without its status word, fetched where the card says that there is more.
fn whole(phone: &mut Phone, command: &[u8]) -> Vec<u8> {
    let mut answer = phone.transmit(command);
    if let [.., 0x61, length] = answer[..] {
        answer = phone.transmit(&[0x00, 0xC0, 0x00, 0x00, length]);
    }
    assert!(answer.ends_with(&[0x90, 0x00]), "{answer:02X?}");
    answer.truncate(answer.len() - 2);
    answer
}

#[tokio::test]
async fn a_card_sends_to_the_platforms_number_in_its_new_network_and_from_its_new_one() {
    let world = World::new(2).await;
    let number: Msisdn = "467012345".parse().unwrap();
    for (name, place, link, more) in [
        ("home", 1, "one", json!({})),
        ("two", 2, "two", json!({ "service_number": number })),
        ("three", 3, "one", json!({})),
    ] {
        let mut settings = json!({ "smpp_links": [link] });
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(world.put_operator(name, place, settings).await.0, 200);
    }
    let mut phone = Phone::usual(world.smscs[0].air).await;
    assert_eq!(offer(&mut phone).service_number.as_deref(), Some("1234"), "as its vendor set it");
    let (_, begun) = world.request("two").await;
    let id = begun["id"].as_str().unwrap();
    phone.answers().await;
    world.reaches(id, "applied").await;
    attaches(&world, &mut phone, 1).await;
    world.reaches(id, "done").await;
    let service_number = offer(&mut phone).service_number.unwrap();
    assert_eq!(service_number.trim_start_matches('+'), number.to_string());

    // Its user wants another operator: the request comes from the new number, over the new operator's link.
    let (_, shown) = world.ask(Method::GET, &format!("/v1/cards/{}", card()), json!({})).await;
    let own: Msisdn = shown["msisdn"].as_str().unwrap().parse().unwrap();
    assert_ne!(own, first_msisdn());
    phone.moves(world.smscs[1].air, own).await;
    offer(&mut phone);
    let wish = Wish { operator: "OP3".parse().unwrap(), at: Some(EpochMs::from_seconds(1_767_000_000)) };
    let packet = whole(&mut phone, &seal_wish(&wish));
    for part in segment(&packet, PacketKind::Command, Reference::after(3)).unwrap() {
        let destination = Address::number(&service_number).unwrap();
        let submit = Submit::with_header(0, destination, UserData::from_octets(part).unwrap());
        phone.submit(&submit).await;
    }
    let list = format!("/v1/changes?card={}&open=true", card());
    until(async || world.ask(Method::GET, &list, json!({})).await.1["changes"] != json!([])).await;
    let (_, list) = world.ask(Method::GET, &list, json!({})).await;
    assert_eq!(
        (&list["changes"][0]["to"], &list["changes"][0]["consent"]["how"]),
        (&json!("three"), &json!("device"))
    );
}

#[tokio::test]
async fn a_text_for_the_user_waits_until_the_card_has_answered_something_else() {
    let world = World::new(1).await;
    let mut phone = Phone::usual(world.smscs[0].air).await;
    let status = json!({ "tar": "BFFF20", "data": "80CADF6000" });
    let commands = format!("/v1/cards/{}/commands", card());
    assert_eq!(world.ask(Method::POST, &commands, status).await.0, 202);
    phone.says(&wish("OP1"), 5, &keys()).await;
    phone.answers().await;
    assert_eq!(phone.is_shown().await, "You are with this operator already.");
}
