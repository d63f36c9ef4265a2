//! A local line in place of a network: a Unix socket, or a serial line as Bluetooth, infrared and cables give one. On its
//! other end a helper passes requests on by HTTPS. The helper carries what TLS would carry, so it sees EAP packets, the
//! token and the second layer, and nothing of what is sealed inside.
//!
//! Frame: `7E 53`, length (four bytes, big-endian), CRC-32 of what follows, and as many bytes of JSON. Bytes between
//! frames are passed over, and so is a frame whose checksum is wrong: the request has no answer then, and comes again.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use serde::{Deserialize, Serialize};
use simtide_device::client::http::{HttpRequest, HttpResponse, Method};
use tokio::sync::oneshot;

use super::transport::{REQUEST_TIMEOUT_S, Transport};

/// Most bytes of one frame: a document in base64 and what stands around it.
pub const FRAME_BYTES_MAX: usize = 2 << 20;
/// Most requests that wait for answers on one line.
pub const REQUESTS_MAX: usize = 64;
const MAGIC: [u8; 2] = [0x7E, 0x53];
const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// Where a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineAddress {
    /// A Unix socket.
    Unix(PathBuf),
    /// A serial line or a pseudo-terminal; its speed stays as it is set (`stty`).
    Serial(PathBuf),
}

/// A text that names no line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no line: use unix:PATH or serial:DEVICE")]
pub struct BadLineAddress(String);

impl FromStr for LineAddress {
    type Err = BadLineAddress;

    fn from_str(text: &str) -> Result<Self, BadLineAddress> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("serial", path)) if !path.is_empty() => Ok(Self::Serial(path.into())),
            _ => Err(BadLineAddress(text.to_owned())),
        }
    }
}

type Reader = Box<dyn Read + Send>;
type Writer = Box<dyn Write + Send>;

/// What travels.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    /// Names the request and its answer.
    n: u32,
    #[serde(flatten)]
    content: Content,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Content {
    Request(LineRequest),
    Response(LineResponse),
    /// There is no answer.
    Failed(bool),
}

#[derive(Debug, Serialize, Deserialize)]
struct LineRequest {
    post: bool,
    query: String,
    json: u8,
    cookie: Option<String>,
    body: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct LineResponse {
    status: u16,
    content_type: String,
    set_cookie: Vec<String>,
    retry_after_s: Option<u32>,
    body: String,
}

/// The content types of requests, by their number on the line: the helper sends nothing else.
const CONTENT_TYPES: [&str; 3] =
    ["", simtide_protocol::entitlement::JSON_CONTENT_TYPE, simtide_protocol::entitlement::RELAY_CONTENT_TYPE];

impl LineRequest {
    fn of(request: &HttpRequest) -> Self {
        let json = CONTENT_TYPES.iter().position(|kind| *kind == request.content_type).unwrap_or_default();
        Self {
            post: request.method == Method::Post,
            query: request.query.clone(),
            json: json as u8,
            cookie: request.cookie.clone(),
            body: STANDARD.encode(&request.body),
        }
    }

    fn into_request(self) -> Option<HttpRequest> {
        Some(HttpRequest {
            id: 0,
            method: if self.post { Method::Post } else { Method::Get },
            query: self.query,
            accept: simtide_protocol::entitlement::ACCEPT,
            content_type: CONTENT_TYPES.get(usize::from(self.json))?,
            cookie: self.cookie.filter(|cookie| !cookie.contains(['\r', '\n'])),
            body: STANDARD.decode(self.body).ok()?,
        })
    }
}

impl LineResponse {
    fn of(response: &HttpResponse) -> Self {
        Self {
            status: response.status,
            content_type: response.content_type.clone(),
            set_cookie: response.set_cookie.clone(),
            retry_after_s: response.retry_after_s,
            body: STANDARD.encode(&response.body),
        }
    }

    fn into_response(self) -> Option<HttpResponse> {
        Some(HttpResponse {
            status: self.status,
            content_type: self.content_type,
            set_cookie: self.set_cookie,
            retry_after_s: self.retry_after_s,
            body: STANDARD.decode(self.body).ok()?,
        })
    }
}

/// The device's end of a line. It opens the line when it is needed, and again after it broke.
pub struct LineClient {
    address: LineAddress,
    last: AtomicU32,
    open: Mutex<Option<Writer>>,
    waiting: Arc<Mutex<HashMap<u32, oneshot::Sender<Option<HttpResponse>>>>>,
}

impl LineClient {
    /// A line at this address.
    pub fn new(address: LineAddress) -> Self {
        Self { address, last: AtomicU32::new(0), open: Mutex::new(None), waiting: Arc::default() }
    }

    /// One request and its answer; `None` where the line or the helper gives none in time.
    pub async fn exchange(&self, request: HttpRequest) -> Option<HttpResponse> {
        let n = self.last.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.len() >= REQUESTS_MAX {
                return None;
            }
            waiting.insert(n, answer);
        }
        let message = Message { n, content: Content::Request(LineRequest::of(&request)) };
        let sent = tokio::task::block_in_place(|| self.say(&message));
        if let Err(error) = sent {
            tracing::info!(%error, "the line to the helper cannot be used");
            lock(&self.waiting).remove(&n);
            return None;
        }
        let outcome = tokio::time::timeout(Duration::from_secs(REQUEST_TIMEOUT_S), answered).await;
        lock(&self.waiting).remove(&n);
        outcome.ok()?.ok()?
    }

    fn say(&self, message: &Message) -> io::Result<()> {
        let mut open = lock(&self.open);
        let mut writer = match open.take() {
            Some(writer) => writer,
            None => self.start()?,
        };
        write_frame(&mut writer, message)?;
        *open = Some(writer);
        Ok(())
    }

    /// Opens the line; a thread of its own reads it until it breaks.
    fn start(&self) -> io::Result<Writer> {
        let (reader, writer) = open(&self.address)?;
        let waiting = self.waiting.clone();
        std::thread::Builder::new().name("line".to_owned()).spawn(move || {
            let mut frames = Frames::new(reader);
            while let Ok(message) = frames.next() {
                let Some(answer) = lock(&waiting).remove(&message.n) else { continue };
                let _ = answer.send(match message.content {
                    Content::Response(response) => response.into_response(),
                    Content::Request(_) | Content::Failed(_) => None,
                });
            }
            // Nobody answers on this line any more.
            lock(&waiting).clear();
        })?;
        Ok(writer)
    }
}

/// The helper's end: requests of the devices on this line go to the server by `transport`. A socket is listened on until
/// the process ends; a serial line ends with its device.
pub fn relay(
    address: &LineAddress,
    transport: &Transport,
    runtime: &tokio::runtime::Handle,
) -> io::Result<()> {
    match address {
        LineAddress::Serial(_) => {
            let (reader, writer) = open(address)?;
            serve(reader, writer, transport, runtime)
        }
        LineAddress::Unix(path) => {
            // What an earlier run left behind.
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(path)?;
            for stream in listener.incoming() {
                let reader = stream?;
                let writer = reader.try_clone()?;
                let (transport, runtime) = (transport.clone(), runtime.clone());
                std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
                    let _ = serve(Box::new(reader), Box::new(writer), &transport, &runtime);
                })?;
            }
            Ok(())
        }
    }
}

/// One line, until it breaks.
pub fn serve(
    reader: Box<dyn Read + Send>,
    writer: Box<dyn Write + Send>,
    transport: &Transport,
    runtime: &tokio::runtime::Handle,
) -> io::Result<()> {
    let mut frames = Frames::new(reader);
    let writer = Arc::new(Mutex::new(writer));
    let open = Arc::new(tokio::sync::Semaphore::new(REQUESTS_MAX));
    loop {
        let Message { n, content } = frames.next()?;
        let Content::Request(request) = content else { continue };
        let Some(request) = request.into_request() else { continue };
        // Beyond the limit a request has no answer, and the device comes again.
        let Ok(permit) = open.clone().try_acquire_owned() else { continue };
        let (transport, writer) = (transport.clone(), writer.clone());
        runtime.spawn(async move {
            let content = match transport.exchange(request).await {
                Some(response) => Content::Response(LineResponse::of(&response)),
                None => Content::Failed(true),
            };
            let _ = tokio::task::spawn_blocking(move || {
                write_frame(&mut *lock(&writer), &Message { n, content })
            })
            .await;
            drop(permit);
        });
    }
}

fn open(address: &LineAddress) -> io::Result<(Reader, Writer)> {
    match address {
        LineAddress::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            Ok((Box::new(stream.try_clone()?), Box::new(stream)))
        }
        LineAddress::Serial(path) => {
            let line = raw(path)?;
            Ok((Box::new(line.try_clone()?), Box::new(line)))
        }
    }
}

/// A terminal device that changes no bytes.
fn raw(path: &Path) -> io::Result<std::fs::File> {
    let line = OpenOptions::new().read(true).write(true).open(path)?;
    if let Ok(mut settings) = tcgetattr(&line) {
        settings.make_raw();
        tcsetattr(&line, OptionalActions::Now, &settings).map_err(io::Error::from)?;
    }
    Ok(line)
}

fn write_frame(writer: &mut impl Write, message: &Message) -> io::Result<()> {
    let content = serde_json::to_vec(message).map_err(io::Error::other)?;
    if content.len() > FRAME_BYTES_MAX {
        return Err(io::Error::other("a frame is too long"));
    }
    let mut frame = MAGIC.to_vec();
    frame.extend_from_slice(&(content.len() as u32).to_be_bytes());
    frame.extend_from_slice(&CRC.checksum(&content).to_be_bytes());
    frame.extend_from_slice(&content);
    writer.write_all(&frame)?;
    writer.flush()
}

/// The frames of a line.
struct Frames<R> {
    reader: R,
    buffer: Vec<u8>,
}

impl<R: Read> Frames<R> {
    fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new() }
    }

    /// The next message; an error is the end of the line.
    fn next(&mut self) -> io::Result<Message> {
        loop {
            if let Some(message) = self.take() {
                return Ok(message);
            }
            let mut piece = [0; 4096];
            match self.reader.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.buffer.extend_from_slice(&piece[..count]),
            }
        }
    }

    /// A message out of what has been read. What only looks like the beginning of a long frame holds up no whole one that
    /// follows it.
    fn take(&mut self) -> Option<Message> {
        // What is before this place is of no use any more.
        let mut kept = None;
        let mut place = 0;
        while let Some(mark) = self.buffer[place..].windows(2).position(|window| window == MAGIC) {
            let start = place + mark;
            place = start + 1;
            match frame_at(&self.buffer[start..]) {
                Found::Frame(length) => {
                    let message =
                        serde_json::from_slice(&self.buffer[start + HEAD_BYTES..start + length]).ok();
                    self.buffer.drain(..start + length);
                    if message.is_some() {
                        return message;
                    }
                    (kept, place) = (None, 0);
                }
                Found::Beginning => kept = kept.or(Some(start)),
                Found::Noise => {}
            }
        }
        // The first byte of a mark may be the last one there is.
        let end = self.buffer.len().saturating_sub(1);
        self.buffer.drain(..kept.unwrap_or(end));
        None
    }
}

/// Mark, length, checksum.
const HEAD_BYTES: usize = 10;

/// What stands behind a mark.
enum Found {
    /// A whole frame of so many bytes.
    Frame(usize),
    /// Perhaps one that is not whole yet.
    Beginning,
    /// No frame.
    Noise,
}

fn frame_at(bytes: &[u8]) -> Found {
    let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else { return Found::Beginning };
    let length = u32::from_be_bytes([head[2], head[3], head[4], head[5]]) as usize;
    let checksum = u32::from_be_bytes([head[6], head[7], head[8], head[9]]);
    if length > FRAME_BYTES_MAX {
        return Found::Noise;
    }
    match bytes.get(HEAD_BYTES..HEAD_BYTES + length) {
        None => Found::Beginning,
        Some(content) if CRC.checksum(content) == checksum => Found::Frame(HEAD_BYTES + length),
        Some(_) => Found::Noise,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads frames out of any bytes, for the fuzz target: the number of messages.
pub(crate) fn messages_in(bytes: &[u8]) -> usize {
    let mut frames = Frames::new(bytes);
    let mut count = 0;
    while frames.next().is_ok() {
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(n: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &Message { n, content: Content::Failed(true) }).unwrap();
        bytes
    }

    #[test]
    fn frames_are_found_among_noise() {
        let noise = b"\x00~\x7eSSS~S\x00\x00".to_vec();
        let mut damaged = frame(2);
        damaged[14] ^= 1;
        let line =
            [noise.clone(), frame(1), noise.clone(), damaged, frame(3), b"~S".to_vec(), frame(4)].concat();
        let mut frames = Frames::new(&line[..]);
        let found: Vec<u32> = std::iter::from_fn(|| frames.next().ok()).map(|message| message.n).collect();
        assert_eq!(found, [1, 3, 4]);
    }

    #[test]
    fn requests_survive_the_line() {
        let request = HttpRequest {
            id: 0,
            method: Method::Post,
            query: "a=b".into(),
            accept: simtide_protocol::entitlement::ACCEPT,
            content_type: simtide_protocol::entitlement::JSON_CONTENT_TYPE,
            cookie: Some("a=b".into()),
            body: vec![0, 1, 255],
        };
        assert_eq!(LineRequest::of(&request).into_request(), Some(request));
    }

    #[test]
    fn addresses() {
        assert_eq!("unix:/run/x".parse(), Ok(LineAddress::Unix("/run/x".into())));
        assert_eq!("serial:/dev/rfcomm0".parse(), Ok(LineAddress::Serial("/dev/rfcomm0".into())));
        for bad in ["", "unix:", "tcp:1", "/dev/x"] {
            assert!(bad.parse::<LineAddress>().is_err(), "{bad}");
        }
    }
}
