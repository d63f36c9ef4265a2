//! A delivery as its operator sees it, with processes on loopback: a platform with its entitlement server, a service
//! centre, and a device that has coverage and IP. Something comes to wait for the card, the platform says so by a
//! short message to port 8095, and the device fetches it over IP, long before it would have asked by itself.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/processes.rs"]
mod processes;

use processes::{Ended, address, client, operator_with_cards, refused, server, silent};
use serde_json::Value;

const ANY: &str = "127.0.0.1:0";

struct World {
    folder: tempfile::TempDir,
    smsc: (Ended, Value),
    platform: (Ended, Value),
    card: String,
}

impl World {
    /// A platform with a link to a service centre, and one card.
    fn start() -> World {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let card = operator_with_cards(path, 9, 1).remove(0);
        let smsc = ["smsc", "--smpp", ANY, "--air", ANY, "--system-id", "simtide", "--password", "secret"];
        let smsc = server(path, &smsc);
        let config = format!(
            "[card_port]\nlisten = \"{ANY}\"\n[api]\nlisten = \"{ANY}\"\n[entitlement]\nlisten = \"{ANY}\"\n\
             [[smpp.links]]\nport = {}\nsystem_id = \"simtide\"\npassword = \"secret\"\n",
            address(&smsc.1, "smpp").port()
        );
        std::fs::write(path.join("simtide.toml"), config).unwrap();
        let platform = server(path, &["serve", "--config", "simtide.toml"]);
        let world = World { folder, smsc, platform, card };
        world.client(&["operators", "put", "home", "home.toml"]);
        world.client(&["import", "--plain", "--register", "home", "cards.csv"]);
        world
    }

    fn api(&self) -> String {
        format!("http://{}", address(&self.platform.1, "api"))
    }

    fn client(&self, arguments: &[&str]) -> String {
        client(self.folder.path(), &self.api(), arguments)
    }

    fn refused(&self, arguments: &[&str]) -> String {
        refused(self.folder.path(), &self.api(), arguments)
    }

    /// The device: it asks when it starts, and by itself again after a day.
    fn switch_on(&self) -> Ended {
        let url = format!("http://{}", address(&self.platform.1, "entitlement"));
        let air = format!("air:{}", address(&self.smsc.1, "air"));
        let around = ["--smsc", &air, "--entitlement", &url, "--queue", "queue", "--no-display"];
        let card = ["--card", "soft:standard:card.bin", "--cards", "cards.csv", "--iccid", &self.card];
        silent(self.folder.path(), &[&["agent"], &card[..], &around].concat())
    }

    /// `simtide delivery send` of an update of the card's configuration.
    fn send(&self, data: &str, more: &[&str]) -> String {
        let update = format!("00D60000{:02X}{data}", data.len() / 2);
        let content = ["--tar", "B00000", "--apdu", "00A4080C047F906F04", "--apdu", &update, "--repeatable"];
        self.client(&[&["delivery", "send", &self.card], &content[..], more].concat())
    }
}

#[test]
fn a_device_that_is_told_by_sms_fetches_over_ip_at_once() {
    let world = World::start();
    // What waits when it starts: afterwards it has no reason to ask for a day.
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| world.send("C0FFEE01", &["--bearers", "ip", "--watch"]));
        let device = world.switch_on();
        (first.join().unwrap(), device)
    });
    let (text, _device) = first;
    assert!(text.contains("sent by ip") && text.contains("proven"), "{text}");

    let text = world.send("C0FFEE02", &["--bearers", "ip", "--watch"]);
    let told = ["asked for", "sealed with counter 2", "sent by ip", "on its disk", "proven"];
    let places: Vec<_> =
        told.iter().map(|line| text.find(line).unwrap_or_else(|| panic!("{text}"))).collect();
    assert!(places.is_sorted(), "{text}");

    let list = world.client(&["delivery", "list", "--card", &world.card]);
    assert_eq!(
        list.lines().filter(|line| line.contains("proven") && line.contains("ip")).count(),
        2,
        "{list}"
    );
    assert_eq!(world.client(&["delivery", "list", "--open"]), "");
    let id = list.split_whitespace().next().unwrap();
    let shown = world.client(&["delivery", "show", id]);
    for line in ["delivered by ip", "the card: ", "on its disk"] {
        assert!(shown.contains(line), "{shown}");
    }
    let state = std::fs::read(world.folder.path().join("card.bin")).unwrap();
    assert!(
        state.windows(4).any(|bytes| bytes == [0xC0, 0xFF, 0xEE, 0x02]),
        "read from the card's own state"
    );
}

#[test]
fn what_cannot_be_delivered_is_said_in_words() {
    let world = World::start();
    let send = |more: &[&str]| world.refused(&[&["delivery", "send", &world.card], more].concat());
    let apdu = ["--tar", "B00000", "--apdu", "00A4080C047F906F04"];
    for (arguments, said) in [
        (&[][..], "give --steps FILE, or --tar and --apdu"),
        (&["--apdu", "00A4080C047F906F04"], "--tar"),
        (&["--tar", "B000", "--apdu", "00A4080C047F906F04"], "TAR"),
        (&["--tar", "B00000", "--apdu", "00A4080C047F906F0"], "hex"),
        (&[&apdu[..], &["--validity-s", "0"]].concat(), "validity_s is 0"),
        (&[&apdu[..], &["--bearers", "pigeon"]].concat(), "pigeon"),
        (&[&apdu[..], &["--urgency", "soonish"]].concat(), "soonish"),
        (&["--steps", "nowhere.json"], "nowhere.json"),
    ] {
        let text = send(arguments);
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
    let other = "8988211000000000029";
    let text = world.refused(&[&["delivery", "send", other], &apdu[..]].concat());
    assert!(text.contains("card"), "{text}");
    let wrong = "8988211000000000012";
    let text = world.refused(&[&["delivery", "send", wrong], &apdu[..]].concat());
    assert!(text.to_lowercase().contains("check digit"), "{text}");
    for verb in ["show", "watch", "cancel"] {
        let text = world.refused(&["delivery", verb, "00f3a1c24b5d6e70"]);
        assert!(text.contains("the delivery"), "{text}");
        let text = world.refused(&["delivery", verb, "nonsense"]);
        assert!(text.contains("16 hex digits"), "{text}");
    }
    // One that waits, and its end.
    let made: Value = serde_json::from_str(&world.send("C0FFEE", &["--bearers", "ip", "--json"])).unwrap();
    let id = made["id"].as_str().unwrap();
    assert!(world.client(&["delivery", "list", "--open"]).contains(id));
    let ended = world.client(&["delivery", "cancel", id]);
    assert!(ended.contains("cancelled"), "{ended}");
    assert_eq!(world.client(&["delivery", "cancel", id]), ended, "a second time changes nothing");
    let shown: Value = serde_json::from_str(&world.client(&["delivery", "show", id, "--json"])).unwrap();
    assert_eq!(shown["state"], "cancelled");
    assert_eq!(world.client(&["delivery", "list", "--open"]), "");
    assert!(world.refused(&["delivery", "watch", id]).is_empty(), "it ends, and not well");
}
