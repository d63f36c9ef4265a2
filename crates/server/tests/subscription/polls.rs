//! Polls that carry a change, over TLS: a session that breaks leaves nobody certain, the next one makes it so.

use simtide_protocol::apdu::Response as CardResponse;
use simtide_protocol::ids::ChangeId;
use simtide_protocol::personalization::{Answer, Identity, State, Status};
use simtide_protocol::scp81::{Framing, Limits, Request, ResponseDecoder, ScriptStatus};
use simtide_protocol::script::expanded::{Items, LengthForm, ResponseWriter};
use tokio::io::AsyncWriteExt;

use super::*;

/// A session of the card up to the script that belongs to its change. Everything before is answered well.
struct Session {
    stream: tokio_openssl::SslStream<tokio::net::TcpStream>,
    decoder: ResponseDecoder,
    request: Request,
    script: Vec<u8>,
}

impl Session {
    async fn open(world: &World) -> Session {
        let stream = polling::connect(world.api.platform.port.address(), iccid()).await;
        let (decoder, request) = (ResponseDecoder::new(Limits::default()), polling::first_request());
        let mut session = Session { stream, decoder, request, script: Vec::new() };
        session.exchange().await;
        while !session.is_of_change() {
            let commands = Items::new(&session.script).unwrap().count();
            session.says(&vec![CardResponse::ok(Vec::new()); commands]);
            session.exchange().await;
        }
        session
    }

    fn is_of_change(&self) -> bool {
        let get_status = [0x80, 0xCA, 0xDF, 0x60];
        self.script.windows(3).any(|bytes| matches!(bytes, [0x80, 0x5C, 0x00 | 0x80]))
            || self.script.windows(4).any(|bytes| bytes == get_status)
    }

    /// The status of the platform's answer.
    async fn exchange(&mut self) -> u16 {
        self.stream.write_all(&self.request.encode(Framing::ContentLength)).await.unwrap();
        let response = polling::receive(&mut self.stream, &mut self.decoder).await;
        if response.status == 200 {
            self.request.target = response.next_uri.unwrap();
            self.request.content_type = response.content_type.map(|kind| kind.of_response());
        }
        self.script = response.body;
        response.status
    }

    fn says(&mut self, responses: &[CardResponse]) {
        let mut writer = ResponseWriter::new(LengthForm::Definite);
        responses.iter().for_each(|one| writer.response(one));
        self.request.script_status = Some(ScriptStatus::Ok);
        self.request.body = writer.finish();
    }
}

async fn by_poll(world: &World) -> String {
    let terms = json!({ "bearer": "poll" });
    assert_eq!(world.ask(Method::PUT, "/v1/agreements/home/two", terms).await.0, 200);
    let (status, begun) = world.request("two").await;
    assert_eq!(status, 202, "{begun}");
    let id = begun["id"].as_str().unwrap().to_owned();
    world.reaches(&id, "armed").await;
    id
}

#[tokio::test]
async fn a_session_that_breaks_is_resolved_by_the_next_one() {
    let world = World::new(1).await;
    let id = by_poll(&world).await;
    let first = Session::open(&world).await;
    assert_eq!(world.change(&id).await["state"], "sent", "durable before it leaves");
    let script = first.script.clone();
    drop(first);
    world.reaches(&id, "unknown").await;
    let mut second = Session::open(&world).await;
    assert_eq!(second.script, script, "every copy is the same");
    let change = ChangeId(u64::from_str_radix(&id, 16).unwrap());
    let answer = Answer { change, state: State::Staged, agreed: false }.encode();
    let mut responses = vec![CardResponse::ok(Vec::new()); Items::new(&script).unwrap().count() - 1];
    responses.push(CardResponse::ok(answer));
    second.says(&responses);
    assert_eq!(second.exchange().await, 204);
    world.reaches(&id, "applied").await;
}

#[tokio::test]
async fn what_a_session_leaves_behind_outlives_the_process_and_a_cancelled_change_is_only_asked_about() {
    let world = World::new(1).await;
    let id = by_poll(&world).await;
    let session = Session::open(&world).await;
    let world = world.restart().await;
    drop(session);
    world.reaches(&id, "unknown").await;
    let (status, cancelled) = world.ask(Method::POST, &format!("/v1/changes/{id}/cancel"), json!({})).await;
    assert_eq!((status, &cancelled["state"]), (202, &json!("unknown")), "it may be on the card: {cancelled}");
    let mut session = Session::open(&world).await;
    assert!(session.script.windows(4).any(|bytes| bytes == [0x80, 0xCA, 0xDF, 0x60]), "the question only");
    let status = Status {
        changes: Vec::new(),
        digest: Identity::milenage(first_imsi(), &[1; 16], &[2; 16]).unwrap().digest(),
        attempts_left: 5,
    };
    session.says(&[CardResponse::ok(status.encode())]);
    assert_eq!(session.exchange().await, 204);
    world.reaches(&id, "cancelled").await;
    until(async || world.change(&id).await["open"] == false).await;
    assert_eq!(world.let_in(first_imsi()), 1);
}
