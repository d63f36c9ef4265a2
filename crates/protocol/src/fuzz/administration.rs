//! Targets for what administers a card: scripts, the dialogue over HTTP, triggers.

use crate::profile::RetryTimerCoding;
use crate::scp81::{Framing, HttpError, Limits, RequestDecoder, ResponseDecoder};
use crate::script::{SCRIPT_BYTES_MAX, compact, expanded};
use crate::trigger::Trigger;

/// Limits that a few hundred bytes reach.
const LIMITS: Limits = Limits { head_bytes_max: 256, body_bytes_max: 128 };

/// Scripts of both formats as a card walks through them: what is read is written and reads again the same.
pub fn script(data: &[u8]) {
    let commands: Vec<_> = compact::Commands::new(data).map_while(Result::ok).collect();
    if let Some((last, before)) = commands.split_last() {
        let mut script = compact::Script::new();
        before.iter().for_each(|command| script.push(command));
        let script = script.finish_with(last).unwrap_or_default();
        let again: Vec<_> = compact::Commands::new(&script).map_while(Result::ok).collect();
        assert_eq!(again.len(), commands.len(), "no command is lost");
        assert_eq!(again.first().map(|command| command.data), commands.first().map(|command| command.data));
    }
    let Ok(items) = expanded::Items::new(data) else { return };
    let form = items.form();
    let read: Vec<_> = items.map_while(Result::ok).collect();
    let mut writer = expanded::ScriptWriter::new(form);
    read.iter().for_each(|item| writer.item(*item));
    if let Ok(script) = writer.finish() {
        assert!(script.len() <= SCRIPT_BYTES_MAX);
        let again: Vec<_> = expanded::Items::new(&script).into_iter().flatten().collect();
        let expected: Vec<_> = read.into_iter().map(Ok).collect();
        assert_eq!(again, expected, "what was written reads the same");
    }
}

/// Answers to scripts of both formats, as the platform reads them.
pub fn script_response(data: &[u8]) {
    if let Ok(response) = compact::Response::decode(data) {
        assert_eq!(response.encode(), data);
    }
    let Ok(response) = expanded::Response::decode(data) else { return };
    let failed = response.failed();
    assert!(failed.is_none_or(|(place, status)| response.responses[place].status == status));
    let mut writer = expanded::ResponseWriter::new(expanded::LengthForm::Indefinite);
    response.responses.iter().for_each(|answer| writer.response(answer));
    let again = expanded::Response::decode(&writer.finish()).map(|again| again.responses);
    assert_eq!(again.as_ref(), Ok(&response.responses), "what was written reads the same");
}

/// What cards post. The first byte says in which pieces it arrives: the pieces make no difference, limits hold, and
/// what is read is written and reads again the same.
pub fn scp81_request(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else { return };
    let pieces = |bytes: &[u8], piece: usize| {
        let mut decoder = RequestDecoder::new(LIMITS);
        collect(bytes, piece, |part| decoder.receive(part))
    };
    let (requests, error) = pieces(bytes, bytes.len());
    let (in_pieces, error_in_pieces) = pieces(bytes, usize::from(*piece));
    // Of what is too long in one way or wrong in another, the arrival decides which is found first.
    assert_eq!(requests, in_pieces, "pieces make no difference");
    assert_eq!(error.is_some(), error_in_pieces.is_some());
    for request in requests {
        assert!(request.body.len() <= LIMITS.body_bytes_max);
        for framing in [Framing::ContentLength, Framing::Chunked] {
            let mut decoder = RequestDecoder::new(Limits::default());
            assert_eq!(decoder.receive(&request.encode(framing)), Ok(Some(request.clone())));
            assert!(decoder.is_idle());
        }
    }
}

/// What servers answer, in the same way.
pub fn scp81_response(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else { return };
    let pieces = |bytes: &[u8], piece: usize| {
        let mut decoder = ResponseDecoder::new(LIMITS);
        collect(bytes, piece, |part| decoder.receive(part))
    };
    let (responses, error) = pieces(bytes, bytes.len());
    let (in_pieces, error_in_pieces) = pieces(bytes, usize::from(*piece));
    assert_eq!(responses, in_pieces, "pieces make no difference");
    assert_eq!(error.is_some(), error_in_pieces.is_some());
    for response in responses {
        assert!(response.body.len() <= LIMITS.body_bytes_max);
        let mut decoder = ResponseDecoder::new(Limits::default());
        assert_eq!(decoder.receive(&response.encode(Framing::Chunked)), Ok(Some(response)));
    }
}

/// Feeds bytes piece by piece; the messages until the end or the first error.
fn collect<M>(
    bytes: &[u8],
    piece: usize,
    mut receive: impl FnMut(&[u8]) -> Result<Option<M>, HttpError>,
) -> (Vec<M>, Option<HttpError>) {
    let mut messages = Vec::new();
    for part in bytes.chunks(piece.max(1)) {
        let mut part = part;
        loop {
            match receive(std::mem::take(&mut part)) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

/// Triggers in both codings of the timer: what is read is written and reads again the same.
pub fn trigger(data: &[u8]) {
    for coding in [RetryTimerCoding::SemiOctets, RetryTimerCoding::Binary] {
        let Ok(trigger) = Trigger::decode(data, coding) else { continue };
        // A timer of a day and more is cut to what a timer can run.
        let Ok(coded) = trigger.encode(coding) else { continue };
        let again = Trigger::decode(&coded, coding);
        assert_eq!(
            again.and_then(|again| again.encode(coding)),
            Ok(coded),
            "what was written reads the same"
        );
    }
}
