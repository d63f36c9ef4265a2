//! Changes of one card against each other: asked for at once, in opposite directions, with the messages of the one still
//! on the air during the other.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_requests_at_once_one_begins_whoever_asks() {
    let world = World::new(1).await;
    let mut phone = Phone::usual(world.smscs[0].air).await;
    let free_before = free(&world).await;
    // The card's own request is on its way while both operators ask.
    phone.says(&wish("OP2"), 5, &keys()).await;
    let asked = tokio::join!(
        world.request("two"),
        world.request("three"),
        world.request("two"),
        world.request("three"),
        world.request("two"),
        world.request("three"),
    );
    let asked = [asked.0, asked.1, asked.2, asked.3, asked.4, asked.5];
    let begun = asked.iter().filter(|(status, _)| *status == 202).count();
    assert!(begun <= 1 && asked.iter().all(|(status, _)| [202, 409].contains(status)), "{asked:?}");
    let list = async || world.ask(Method::GET, "/v1/changes", json!({})).await.1["changes"].clone();
    until(async || list().await[0]["state"] == "sent").await;
    assert_eq!(list().await.as_array().unwrap().len(), 1, "B7");
    assert_eq!(free(&world).await, free_before - 1, "one identity is reserved");
}

/// Identities that no card has, at all registers.
async fn free(world: &World) -> u64 {
    let mut free = 0;
    for register in &world.registers {
        free += register.pool().await.unwrap().free;
    }
    free
}

/// The card is in the network of its new operator, with its new number.
async fn has_moved(world: &World, phone: &mut Phone) {
    let (_, shown) = world.ask(Method::GET, &format!("/v1/cards/{}", card()), json!({})).await;
    phone.moves(world.smscs[0].air, shown["msisdn"].as_str().unwrap().parse().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_and_back_with_everything_that_was_said_replayed() {
    let world = World::new(1).await;
    let mut phone = Phone::usual(world.smscs[0].air).await;
    let (_, there) = world.request("two").await;
    let there = there["id"].as_str().unwrap().to_owned();
    phone.answers().await;
    world.reaches(&there, "applied").await;
    // Operator 1's register does not answer: the change is not over, and the way back not open.
    world.registers[0].fail_next(Verb::Withdraw, Fault::TimeoutBefore);
    world.registers[0].fail_next(Verb::Retire, Fault::TimeoutAfter);
    let second = attaches(&world, &mut phone, 1).await;
    if world.change(&there).await["open"] == true {
        assert_eq!(world.request("home").await.0, 409, "B7");
    }
    world.reaches(&there, "done").await;
    has_moved(&world, &mut phone).await;
    phone.hears_it_all_again().await;
    assert_eq!(phone.identity(), second);

    // Back, and on, at once: one of them.
    let (back, on) = tokio::join!(world.request("home"), world.request("three"));
    let (begun, refused, register) = if back.0 == 202 { (back, on, 0) } else { (on, back, 2) };
    assert_eq!((begun.0, refused.0), (202, 409), "{} {}", begun.1, refused.1);
    let id = begun.1["id"].as_str().unwrap().to_owned();
    phone.hears_it_all_again().await;
    assert_eq!(phone.identity(), second, "what is old is dead, whatever is open");
    phone.answers().await;
    world.reaches(&id, "applied").await;
    let third = attaches(&world, &mut phone, register).await;
    world.reaches(&id, "done").await;
    has_moved(&world, &mut phone).await;
    phone.hears_it_all_again().await;
    assert_eq!(phone.identity(), third);
    let let_in = [first_imsi(), second, third].map(|imsi| world.let_in(imsi));
    assert_eq!(let_in, [0, 0, 1], "B5");
    assert!(third != first_imsi(), "an identity that was retired is not handed out again");
    for id in [there, id] {
        assert_eq!(world.change(&id).await["state"], "done");
    }
}

#[tokio::test]
async fn a_text_that_no_proof_comes_of_gives_way_to_a_change() {
    let world = World::new(1).await;
    let mut phone = Phone::usual(world.smscs[0].air).await;
    // Refused: a text arrives, its proof does not leave.
    phone.says(&wish("OP1"), 5, &keys()).await;
    phone.take().await;
    let (_, begun) = world.request("two").await;
    let id = begun["id"].as_str().unwrap();
    world.reaches(id, "sent").await;
    let steps = world.change(id).await["steps"].clone();
    let [asked, .., sent] = &steps.as_array().unwrap()[..] else { panic!("{steps}") };
    let at = |step: &serde_json::Value| step["at"].as_str().unwrap().parse::<EpochMs>().unwrap();
    // Not the hour that the text is valid for.
    assert!(at(sent) < at(asked).plus_s(1_800), "{steps}");
}
