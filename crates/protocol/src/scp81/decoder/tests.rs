//! Tests of the decoder: whole messages, split anywhere, and what has to be refused.

use super::*;
use crate::scp81::{Framing, ScriptStatus, TargetedApplication};
use proptest::prelude::*;

const FIRST: &str = "POST /poll HTTP/1.1\r\nHost: ota\r\nX-Admin-Protocol: globalplatform-remote-admin/1.0\r\n\
                     X-Admin-From: card 1\r\n\r\n";

fn request(text: &str) -> Result<Option<Request>, HttpError> {
    RequestDecoder::new(Limits::default()).receive(text.as_bytes())
}

/// A request with these further header lines and this body.
fn with(lines: &str, body: &str) -> Result<Option<Request>, HttpError> {
    request(&format!("{}{lines}\r\n{body}", FIRST.strip_suffix("\r\n").unwrap()))
}

#[test]
fn first_request_of_a_dialogue() {
    let first = request(FIRST).unwrap().unwrap();
    assert_eq!(
        first,
        Request::first("/poll".parse().unwrap(), "ota".parse().unwrap(), "card 1".parse().unwrap())
    );
    let lower = FIRST.replace("X-Admin-Protocol", "x-admin-protocol").replace("X-Admin-From", "X-ADMIN-FROM");
    assert_eq!(request(&lower).unwrap().unwrap(), first);
}

#[test]
fn one_byte_at_a_time_and_two_messages_in_one_packet() {
    let script = Request {
        script_status: Some(ScriptStatus::Ok),
        resume: true,
        content_type: Some(ContentType::ResponseData),
        body: (0..=255).collect(),
        ..request(FIRST).unwrap().unwrap()
    };
    for framing in [Framing::ContentLength, Framing::Chunked] {
        let bytes = script.encode(framing);
        let mut decoder = RequestDecoder::new(Limits::default());
        for byte in &bytes[..bytes.len() - 1] {
            assert_eq!(decoder.receive(&[*byte]), Ok(None));
        }
        assert_eq!(decoder.receive(&bytes[bytes.len() - 1..]), Ok(Some(script.clone())));
        assert!(decoder.is_idle());
        assert_eq!(decoder.received.capacity(), 0, "nothing is kept between two messages");

        let twice = [bytes.as_slice(), bytes.as_slice()].concat();
        assert_eq!(decoder.receive(&twice), Ok(Some(script.clone())));
        assert!(!decoder.is_idle());
        assert_eq!(decoder.receive(&[]), Ok(Some(script.clone())));
        assert!(decoder.is_idle());
    }
}

#[test]
fn bodies_are_framed_once() {
    let length = "Content-Length: 2\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    assert_eq!(with(length, "ab").unwrap().unwrap().body, b"ab");
    assert_eq!(
        with(chunked, "2;x=y\r\nab\r\n1\r\nc\r\n0\r\nTrailer: 1\r\n\r\n").unwrap().unwrap().body,
        b"abc"
    );
    assert_eq!(with(&format!("{length}{length}"), "ab"), Err(HttpError::Repeated("Content-Length")));
    assert_eq!(with(&format!("{length}{chunked}"), "ab"), Err(HttpError::BothFramings));
    assert_eq!(with(&format!("{chunked}{length}"), "ab"), Err(HttpError::BothFramings));
    for wrong in [
        "Content-Length: +2",
        "Content-Length: 2, 2",
        "Content-Length: -1",
        "Content-Length: 0x2",
        "Content-Length:",
    ] {
        assert_eq!(with(&format!("{wrong}\r\n"), "ab"), Err(HttpError::Value("Content-Length")), "{wrong}");
    }
    assert_eq!(with("Content-Length: 99999999999999999999\r\n", ""), Err(HttpError::Value("Content-Length")));
    assert!(matches!(
        with("Content-Length: 18446744073709551615\r\n", ""),
        Err(HttpError::BodyTooLarge { .. })
    ));
    assert_eq!(with("Transfer-Encoding: gzip, chunked\r\n", ""), Err(HttpError::Value("Transfer-Encoding")));
}

#[test]
fn chunks_that_are_none() {
    let chunked = "Transfer-Encoding: chunked\r\n";
    for wrong in [
        "ffffffffffffffff\r\n",
        "-1\r\n",
        "\r\n",
        "0x2\r\nab\r\n",
        "2\nab\r\n",
        "2\r\nabc\r\n",
        "2\r\nab\r\rx\n",
        &format!("2;{}", "x".repeat(CHUNK_LINE_BYTES_MAX)),
        &format!("0\r\n{}", "a: b\r\n".repeat(TRAILERS_MAX + 1)),
    ] {
        assert_eq!(with(chunked, wrong), Err(HttpError::Chunk), "{wrong}");
    }
    assert!(matches!(with(chunked, "fffffffffffffff\r\n"), Err(HttpError::BodyTooLarge { .. })));
}

#[test]
fn limits_hold_at_their_value() {
    let limits = Limits { head_bytes_max: FIRST.len() + 30, body_bytes_max: 10 };
    let decode = |text: String| RequestDecoder::new(limits).receive(text.as_bytes());
    let padded = |length: usize| FIRST.replace("/poll", &format!("/{}", "p".repeat(4 + length)));
    assert!(decode(padded(30)).unwrap().is_some());
    assert_eq!(decode(padded(31)), Err(HttpError::HeadTooLarge { bytes_max: limits.head_bytes_max }));
    assert_eq!(decode("x".repeat(limits.head_bytes_max - 1)), Ok(None));
    assert_eq!(
        decode("x".repeat(limits.head_bytes_max)),
        Err(HttpError::HeadTooLarge { bytes_max: limits.head_bytes_max })
    );
    let limits = Limits { body_bytes_max: 10, ..Limits::default() };
    let body = |length: usize, chunked: bool| {
        let request = Request { body: vec![b'x'; length], ..request(FIRST).unwrap().unwrap() };
        RequestDecoder::new(limits).receive(&request.encode(if chunked {
            Framing::Chunked
        } else {
            Framing::ContentLength
        }))
    };
    for chunked in [false, true] {
        assert_eq!(body(10, chunked).unwrap().unwrap().body.len(), 10);
        assert_eq!(body(11, chunked), Err(HttpError::BodyTooLarge { bytes_max: 10 }));
    }
    let lines = "A: b\r\n".repeat(HEADERS_MAX - 3);
    assert!(with(&lines, "").unwrap().is_some());
    assert_eq!(with(&format!("{lines}A: b\r\n"), ""), Err(HttpError::TooManyHeaders));
}

#[test]
fn what_is_no_administration_request() {
    assert_eq!(request(&FIRST.replace("POST", "GET")), Err(HttpError::Method));
    assert_eq!(request(&FIRST.replace("HTTP/1.1", "HTTP/1.0")), Err(HttpError::Version));
    assert_eq!(request("hello\r\n\r\n"), Err(HttpError::Syntax));
    assert_eq!(request("\x16\x03\x01\x02\x00\x01\r\n\r\n"), Err(HttpError::Syntax));
    assert_eq!(request(&FIRST.replace("admin/1.0", "admin/2.0")), Err(HttpError::Value("X-Admin-Protocol")));
    assert_eq!(request("POST / HTTP/1.1\r\n\r\n"), Err(HttpError::Missing("X-Admin-Protocol")));
    assert_eq!(with("X-Admin-From: card 2\r\n", ""), Err(HttpError::Repeated("X-Admin-From")));
    assert_eq!(with("X-Admin-Script-Status: fine\r\n", ""), Err(HttpError::Value("X-Admin-Script-Status")));
    assert_eq!(with("Content-Type: text/html\r\n", ""), Err(HttpError::Value("Content-Type")));
    let mut decoder = RequestDecoder::new(Limits::default());
    assert_eq!(decoder.receive(b"GET / HTTP/1.1\r\n\r\n"), Err(HttpError::Method));
    assert_eq!(
        decoder.receive(FIRST.as_bytes()),
        Err(HttpError::Method),
        "an error is the end of the connection"
    );
}

#[test]
fn responses_of_every_kind() {
    let script = Response::script(
        "/next?x=1".parse().unwrap(),
        Some(TargetedApplication("A0000005591010".parse().unwrap())),
        ContentType::CardContentManagement,
        hex::decode("AE80220580CAFF21000000").unwrap(),
    );
    for response in [script, Response::end(), Response::refusal(503)] {
        for framing in [Framing::ContentLength, Framing::Chunked] {
            let bytes = response.encode(framing);
            let decoded = ResponseDecoder::new(Limits::default()).receive(&bytes);
            assert_eq!(decoded, Ok(Some(response.clone())));
        }
    }
    let receive = |text: &str| ResponseDecoder::new(Limits::default()).receive(text.as_bytes());
    assert_eq!(receive("HTTP/1.1 200 OK\r\n\r\n"), Err(HttpError::Unframed));
    assert_eq!(
        receive("HTTP/1.1 204 No Content\r\nContent-Length: 1\r\n\r\nx"),
        Err(HttpError::Value("Content-Length"))
    );
    assert_eq!(receive("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"), Ok(Some(Response::end())));
    let page = "HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nno";
    assert_eq!(receive(page).unwrap().unwrap().status, 404);
}

proptest! {
    #[test]
    fn any_split_gives_the_same_message(
        body in proptest::collection::vec(any::<u8>(), 0..300),
        cuts in proptest::collection::vec(1_usize..80, 1..20),
        chunked: bool,
        resume: bool,
    ) {
        let request = Request {
            script_status: Some(ScriptStatus::Ok),
            content_type: Some(ContentType::ResponseData),
            resume,
            body,
            ..request(FIRST).unwrap().unwrap()
        };
        let bytes = request.encode(if chunked { Framing::Chunked } else { Framing::ContentLength });
        let mut decoder = RequestDecoder::new(Limits::default());
        let (mut rest, mut found, mut cuts) = (bytes.as_slice(), None, cuts.iter().cycle());
        while !rest.is_empty() {
            let (part, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            prop_assert!(found.is_none());
            found = decoder.receive(part).unwrap();
            rest = after;
        }
        prop_assert_eq!(found, Some(request));
        prop_assert!(decoder.is_idle());
    }
}
