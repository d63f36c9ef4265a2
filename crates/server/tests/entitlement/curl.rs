//! curl as a client of others, up to the challenge.

use std::process::Command;

use simtide_protocol::eap::packet::{Attribute, Packet, Subtype};
use simtide_protocol::entitlement::relay;

use crate::support::{config, world};

#[tokio::test(flavor = "multi_thread")]
async fn curl_gets_a_challenge() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("skipped: curl is not installed (Debian package curl)");
        return;
    }
    let world = world(config()).await;
    let device = world.device(1).await;
    let folder = tempfile::tempdir().unwrap();
    let jar = folder.path().join("cookies");
    let url = format!("http://{}/", world.server.address());
    let mut ask = Command::new("curl");
    ask.args(["-sS", "-i", "--noproxy", "*", "-G", &url, "-c"]).arg(&jar);
    ask.args(["-H", "Accept: application/vnd.gsma.eap-relay.v1.0+json, text/vnd.wap.connectivity-xml"]);
    for parameter in [
        format!("EAP_ID={}", device.identity().as_str()).as_str(),
        "terminal_id=013787006099944",
        "entitlement_version=2.0",
        "terminal_vendor=TVEN",
        "terminal_model=TMODEL",
        "terminal_sw_version=TSWVERS",
        "app=ap2004",
        "app=ap5901",
        "vers=0",
    ] {
        ask.args(["--data-urlencode", parameter]);
    }
    let output = tokio::task::spawn_blocking(move || ask.output()).await.unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}"));
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/vnd.gsma.eap-relay.v1.0+json"), "{head}");
    let packet = Packet::decode(&relay::from_body(body.as_bytes()).unwrap()).unwrap();
    assert_eq!(packet.subtype, Subtype::Challenge);
    assert!(matches!(packet.attributes[..2], [Attribute::Rand(_), Attribute::Autn(_)]));
    // Its cookie jar brings the session back; the answer is wrong.
    let mut answer = Command::new("curl");
    answer.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*", "-b"]).arg(&jar);
    answer.args(["-H", "Content-Type: application/vnd.gsma.eap-relay.v1.0+json", "--data"]);
    answer
        .arg(String::from_utf8(relay::to_body(&[2, packet.identifier, 0, 8, 23, 2, 0, 0])).unwrap())
        .arg(&url);
    let output = tokio::task::spawn_blocking(move || answer.output()).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "403");
}
