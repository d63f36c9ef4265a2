//! Vectors from a register that speaks GSUP, such as OsmoHLR.

use std::net::SocketAddr;
use std::time::Duration;

use simtide_protocol::aka::Vector;
use simtide_protocol::gsup::ipa::Frame;
use simtide_protocol::gsup::{Body, Domain, Message, Procedure, cause};
use simtide_protocol::ids::Imsi;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::{RegisterError, VectorsWanted};

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Frames about something else before the answer comes.
const FRAMES_MAX: u32 = 256;
/// Bytes that may come while nobody asks: pings.
const RECEIVED_BYTES_MAX: usize = 16_384;
/// Separation bit of AMF (3GPP TS 33.401, 6.1.2), in the seventh byte of AUTN.
const SEPARATION: u8 = 0x80;

/// A user of vectors: one connection, one request at a time, connected again when it is lost.
pub struct GsupClient {
    address: SocketAddr,
    name: String,
    line: Mutex<Option<Line>>,
}

struct Line {
    stream: TcpStream,
    received: Vec<u8>,
}

impl GsupClient {
    /// Connects when it is first asked; `name` is what the register knows us by.
    pub fn new(address: SocketAddr, name: &str) -> GsupClient {
        GsupClient { address, name: name.to_owned(), line: Mutex::new(None) }
    }

    /// SEND AUTH INFO. The register makes five at once; the first ones are answered.
    ///
    /// # Errors
    /// [`RegisterError::NotFound`] for an unknown IMSI, [`RegisterError::Refused`] with the cause otherwise.
    pub async fn vectors(&self, imsi: Imsi, wanted: VectorsWanted) -> Result<Vec<Vector>, RegisterError> {
        let body = Body::SendAuthInfo {
            domain: Some(Domain::CircuitSwitched),
            resynchronisation: wanted.resynchronisation,
        };
        let answer = self.ask(Message { imsi, body }).await?;
        match answer.body {
            Body::AuthInfo(mut vectors) => {
                vectors.truncate(usize::from(wanted.count));
                if wanted.aka_prime && vectors.iter().any(|vector| vector.autn[6] & SEPARATION == 0) {
                    let why = "the register makes no vectors for AKA' (separation bit 0): use AKA";
                    return Err(RegisterError::Refused(why.to_owned()));
                }
                Ok(vectors)
            }
            Body::Failed { cause: cause::IMSI_UNKNOWN, .. } => Err(RegisterError::NotFound),
            Body::Failed { cause, .. } => Err(RegisterError::Refused(format!("GSUP cause {cause:#04x}"))),
            _ => Err(RegisterError::Invalid("GSUP answers with something else".to_owned())),
        }
    }

    async fn ask(&self, request: Message) -> Result<Message, RegisterError> {
        let mut kept = self.line.lock().await;
        let mut line = match kept.take().and_then(Line::still_open) {
            Some(line) => line,
            None => Line::connect(self.address, &self.name).await?,
        };
        let answer = tokio::time::timeout(ANSWER_WITHIN, line.ask(&self.name, &request)).await;
        let answer =
            answer.unwrap_or_else(|_| Err(RegisterError::Unknown("no answer by GSUP in time".to_owned())));
        // After anything unexpected a late answer could be taken for the next one's: another connection.
        if answer.is_ok() {
            *kept = Some(line);
        }
        answer
    }
}

impl Line {
    async fn connect(address: SocketAddr, name: &str) -> Result<Line, RegisterError> {
        let unreachable = |why: String| RegisterError::Unreachable(format!("{address}: {why}"));
        let connecting = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(address)).await;
        let stream = connecting.map_err(|_| unreachable("no connection in time".to_owned()))?;
        let stream = stream.map_err(|error| unreachable(error.to_string()))?;
        let _ = stream.set_nodelay(true);
        let mut line = Line { stream, received: Vec::new() };
        let greeting = async {
            for _ in 0..FRAMES_MAX {
                if let Frame::IdGet(asked) = line.frame().await? {
                    return line.send(&Frame::here_is(name, &asked)).await;
                }
            }
            Err(RegisterError::Invalid("the register never asks who is there".to_owned()))
        };
        let greeted = tokio::time::timeout(CONNECT_WITHIN, greeting).await;
        greeted.map_err(|_| unreachable("no greeting in time".to_owned()))?.map_err(|error| match error {
            // Nothing was asked yet.
            RegisterError::Unknown(why) => unreachable(why),
            other => other,
        })?;
        Ok(line)
    }

    /// The line, unless the other side has closed it. What came meanwhile is kept.
    fn still_open(mut self) -> Option<Line> {
        let mut chunk = [0; 2048];
        loop {
            match self.stream.try_read(&mut chunk) {
                Ok(0) => return None,
                Ok(read) if self.received.len() < RECEIVED_BYTES_MAX => {
                    self.received.extend_from_slice(&chunk[..read]);
                }
                Ok(_) => return None,
                Err(error) => return (error.kind() == std::io::ErrorKind::WouldBlock).then_some(self),
            }
        }
    }

    async fn ask(&mut self, name: &str, request: &Message) -> Result<Message, RegisterError> {
        self.send(&Frame::Gsup(request.encode())).await?;
        for _ in 0..FRAMES_MAX {
            match self.frame().await? {
                Frame::Ping => self.send(&Frame::Pong).await?,
                Frame::IdGet(asked) => self.send(&Frame::here_is(name, &asked)).await?,
                Frame::Gsup(content) => {
                    let Ok(message) = Message::decode(&content) else { continue };
                    let is_request = matches!(message.body, Body::SendAuthInfo { .. });
                    if message.procedure() == Procedure::SendAuthInfo && !is_request {
                        if message.imsi != request.imsi {
                            let why = "the answer is for another identity".to_owned();
                            return Err(RegisterError::Invalid(why));
                        }
                        return Ok(message);
                    }
                }
                Frame::Pong | Frame::IdAck | Frame::IdResponse(_) | Frame::Ctrl(_) | Frame::Other(..) => {}
            }
        }
        Err(RegisterError::Unknown("GSUP speaks of other things only".to_owned()))
    }

    async fn send(&mut self, frame: &Frame) -> Result<(), RegisterError> {
        let lost = |error: std::io::Error| RegisterError::Unknown(format!("GSUP broke: {error}"));
        self.stream.write_all(&frame.encode()).await.map_err(lost)
    }

    async fn frame(&mut self) -> Result<Frame, RegisterError> {
        let lost = |why: String| RegisterError::Unknown(format!("GSUP broke: {why}"));
        loop {
            match Frame::split(&self.received).map_err(|error| lost(error.to_string()))? {
                Some((frame, length)) => {
                    self.received.drain(..length);
                    return Ok(frame);
                }
                None => {
                    let mut chunk = [0; 2048];
                    let read = self.stream.read(&mut chunk).await.map_err(|error| lost(error.to_string()))?;
                    if read == 0 {
                        return Err(lost("closed".to_owned()));
                    }
                    self.received.extend_from_slice(&chunk[..read]);
                }
            }
        }
    }
}
