//! The CTRL interface: text in IPA frames (length, stream EE, extension 00).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::super::RegisterError;

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// IPA stream of extensions, and the extension CTRL.
const STREAM: [u8; 2] = [0xEE, 0x00];
/// Frames that are nobody's answer (TRAP) before one is.
const TRAPS_MAX: u32 = 64;

/// What OsmoHLR says to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CtrlAnswer<'a> {
    /// Done; what stands behind the variable's name.
    Reply {
        /// Of which request.
        id: u32,
        /// The variable.
        variable: &'a str,
        /// Its value.
        value: &'a str,
    },
    /// Not done.
    Error {
        /// Of which request; none where it could not read the number.
        id: Option<u32>,
        /// Why.
        text: &'a str,
    },
    /// A notification that nobody asked for.
    Trap,
}

/// Reads the content of one CTRL frame; `None` for what is none.
pub fn read_answer(content: &[u8]) -> Option<CtrlAnswer<'_>> {
    let text = std::str::from_utf8(content).ok()?;
    let (kind, rest) = text.split_once(' ')?;
    let (id, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    match kind {
        "TRAP" => Some(CtrlAnswer::Trap),
        "ERROR" => Some(CtrlAnswer::Error { id: id.parse().ok(), text: rest }),
        "SET_REPLY" | "GET_REPLY" => {
            let (variable, value) = rest.split_once(' ').unwrap_or((rest, ""));
            Some(CtrlAnswer::Reply { id: id.parse().ok()?, variable, value })
        }
        _ => None,
    }
}

/// A value of `info`: lines of name, tab, value.
pub fn line<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().filter_map(|line| line.split_once('\t')).find(|(found, _)| *found == name).map(|(_, v)| v)
}

/// A client: one connection, one request at a time, connected again when it is lost.
pub(super) struct Ctrl {
    address: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stream: Option<TcpStream>,
    requests: u32,
}

/// What a request came to.
pub(super) enum Reply {
    /// Done, with this value.
    Value(Zeroizing<String>),
    /// Not done, for this reason.
    Error(String),
}

impl Ctrl {
    pub(super) fn new(address: SocketAddr) -> Ctrl {
        Ctrl { address, state: Mutex::default() }
    }

    /// Sets a variable.
    pub(super) async fn set(&self, variable: &str, value: &str) -> Result<Reply, RegisterError> {
        self.request("SET", variable, value).await
    }

    /// Reads a variable.
    pub(super) async fn read(&self, variable: &str) -> Result<Reply, RegisterError> {
        self.request("GET", variable, "").await
    }

    async fn request(&self, kind: &str, variable: &str, value: &str) -> Result<Reply, RegisterError> {
        let mut state = self.state.lock().await;
        let mut stream = match state.stream.take().filter(is_open) {
            Some(stream) => stream,
            None => connect(self.address).await?,
        };
        state.requests = state.requests % 1_000_000 + 1;
        let id = state.requests;
        let exchange = exchange(&mut stream, id, kind, variable, value);
        let outcome = tokio::time::timeout(ANSWER_WITHIN, exchange).await;
        let outcome =
            outcome.unwrap_or_else(|_| Err(RegisterError::Unknown("no answer by CTRL in time".to_owned())));
        // After anything unexpected the next answer could be the last request's: another connection.
        if outcome.is_ok() {
            state.stream = Some(stream);
        }
        outcome
    }
}

/// Whether the other side has closed, or has said something that nobody asked for.
fn is_open(stream: &TcpStream) -> bool {
    let mut byte = [0];
    matches!(stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, RegisterError> {
    let unreachable = |why: String| RegisterError::Unreachable(format!("{address}: {why}"));
    let connecting = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(address)).await;
    let stream = connecting.map_err(|_| unreachable("no connection in time".to_owned()))?;
    let stream = stream.map_err(|error| unreachable(error.to_string()))?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn exchange(
    stream: &mut TcpStream,
    id: u32,
    kind: &str,
    variable: &str,
    value: &str,
) -> Result<Reply, RegisterError> {
    let lost = |error: std::io::Error| RegisterError::Unknown(format!("the CTRL connection broke: {error}"));
    let text = Zeroizing::new(format!("{kind} {id} {variable} {value}"));
    let text = text.trim_end();
    let length = u16::try_from(text.len() + 1);
    let length = length.map_err(|_| RegisterError::Refused("a CTRL request that is too long".to_owned()))?;
    let mut frame = Zeroizing::new(Vec::with_capacity(text.len() + 4));
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&STREAM);
    frame.extend_from_slice(text.as_bytes());
    stream.write_all(&frame).await.map_err(lost)?;
    for _ in 0..TRAPS_MAX {
        let mut head = [0; 4];
        stream.read_exact(&mut head).await.map_err(lost)?;
        let [high, low, stream_id, extension] = head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let content_length = length.checked_sub(1).filter(|_| [stream_id, extension] == STREAM);
        let invalid = || RegisterError::Unknown("a frame that is not CTRL".to_owned());
        let mut content = Zeroizing::new(vec![0; content_length.ok_or_else(invalid)?]);
        stream.read_exact(&mut content).await.map_err(lost)?;
        let another = || RegisterError::Unknown("CTRL answered another request".to_owned());
        return match read_answer(&content).ok_or_else(another)? {
            CtrlAnswer::Trap => continue,
            CtrlAnswer::Reply { id: found, variable: of, value } if found == id && of == variable => {
                Ok(Reply::Value(Zeroizing::new(value.to_owned())))
            }
            CtrlAnswer::Error { id: Some(found), text } if found == id => Ok(Reply::Error(text.to_owned())),
            CtrlAnswer::Reply { .. } | CtrlAnswer::Error { .. } => Err(another()),
        };
    }
    Err(RegisterError::Unknown("CTRL answers with notifications only".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As OsmoHLR 1.5 says them.
    #[test]
    fn answers_as_they_come() {
        let reply = CtrlAnswer::Reply { id: 1, variable: "subscriber.create", value: "1" };
        assert_eq!(read_answer(b"SET_REPLY 1 subscriber.create 1"), Some(reply));
        let error = CtrlAnswer::Error { id: Some(2), text: "Subscriber already exists." };
        assert_eq!(read_answer(b"ERROR 2 Subscriber already exists."), Some(error));
        let info =
            b"GET_REPLY 18 subscriber.by-imsi-001010000000001.info \nid\t1\nimsi\t001010000000001\nnam_cs\t1";
        let Some(CtrlAnswer::Reply { value, .. }) = read_answer(info) else { panic!("no reply") };
        assert_eq!((line(value, "nam_cs"), line(value, "vlr_number")), (Some("1"), None));
        for wrong in [&b""[..], b"SET_REPLY", b"SET_REPLY x y z", b"HELLO 1 2", b"\xff\xfe 1 2"] {
            assert_eq!(read_answer(wrong), None);
        }
        assert_eq!(
            read_answer(b"ERROR err Command parser error."),
            Some(CtrlAnswer::Error { id: None, text: "Command parser error." })
        );
    }
}
