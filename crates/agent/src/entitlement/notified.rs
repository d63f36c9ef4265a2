//! Where a cloud push wakes the client module. On a phone the system's push service hands the notification to the
//! application; here a local program does, or the operator's push service itself: a `POST` on loopback with
//! `{"notif_token": .., "data": {"app": [..], ..}}`, as the platform hands it over (`docs/entitlement.md`).
//!
//! A notification is a hint and carries nothing: it leads to one query, which the client module makes no more often than
//! its schedule allows. So it needs no signature here.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use simtide_device::client::{Event, Reason};
use simtide_protocol::entitlement::AppId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Most bytes of one request.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// How long one request may take; they are served one after the other.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Pause before the next connection is asked for where one could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Which notifications are for this device.
#[derive(Debug, Clone)]
pub struct Notified {
    /// The `notif_token` that the device's queries give.
    pub token: String,
    /// The delivery application.
    pub app: AppId,
}

/// What is looked at of a notification.
#[derive(Deserialize)]
struct Notification {
    notif_token: String,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    app: Vec<String>,
}

/// Listens on loopback.
///
/// # Errors
/// The address is another machine's or taken.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_loopback() {
        let why =
            format!("{address} is not on loopback: give 127.0.0.1:PORT, and let a local program pass on");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    TcpListener::bind(address).await
}

/// Takes notifications until the process ends.
pub async fn listen(listener: TcpListener, notified: Notified, tell: impl Fn(Event)) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // No file is left: others will be closed.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(Some(request)) = tokio::time::timeout(REQUEST_LIMIT, read(&mut stream)).await else {
            continue;
        };
        let status = notified.answer(&request);
        if status == TAKEN {
            tell(Event::Query(Reason::Notified));
        }
        let answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n");
        // Whoever does not wait for the answer has been heard all the same.
        let _ = tokio::time::timeout(REQUEST_LIMIT, stream.write_all(answer.as_bytes())).await;
    }
}

const TAKEN: &str = "204 No Content";

impl Notified {
    /// The status for a whole request.
    fn answer(&self, (head, body): &(String, Vec<u8>)) -> &'static str {
        if !head.starts_with("POST ") {
            return "405 Method Not Allowed";
        }
        match serde_json::from_slice::<Notification>(body) {
            Err(_) => "400 Bad Request",
            Ok(one) if one.notif_token != self.token => "404 Not Found",
            Ok(one) if !one.data.app.iter().any(|app| app.parse() == Ok(self.app)) => "404 Not Found",
            Ok(_) => TAKEN,
        }
    }
}

/// Head and body of a request; nothing where it is too long or none.
async fn read(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        if let Some(at) = head {
            let head = std::str::from_utf8(&bytes[..at]).ok()?;
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            let end = at.checked_add(length.unwrap_or_default())?;
            if end <= bytes.len() {
                return Some((head.to_owned(), bytes[at..end].to_vec()));
            }
        }
        if bytes.len() >= REQUEST_BYTES_MAX || stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use simtide_protocol::entitlement::OTA_APP_DEFAULT;
    use tokio::sync::mpsc;

    async fn post(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn a_notification_for_this_device_leads_to_a_query_and_nothing_else_does() {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, mut heard) = mpsc::unbounded_channel();
        let notified = Notified { token: "t1".to_owned(), app: OTA_APP_DEFAULT };
        tokio::spawn(listen(listener, notified, move |event| drop(told.send(event))));
        let of = |token: &str, app: &str| {
            let body = format!(
                r#"{{"notif_token":"{token}","notif_action":2,"data":{{"app":["ap2004","{app}"],"timestamp":"x"}}}}"#
            );
            format!("POST /push HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        };
        for (request, status) in [
            (of("t2", "ap5901"), "HTTP/1.1 404 Not Found"),
            (of("t1", "ap5902"), "HTTP/1.1 404 Not Found"),
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), "HTTP/1.1 405 Method Not Allowed"),
            ("POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}".to_owned(), "HTTP/1.1 400 Bad Request"),
            (format!("POST / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(REQUEST_BYTES_MAX)), ""),
            ("POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n".to_owned(), ""),
        ] {
            assert_eq!(post(address, &request).await, status, "{request}");
        }
        assert!(heard.try_recv().is_err());
        assert_eq!(post(address, &of("t1", "ap5901")).await, "HTTP/1.1 204 No Content");
        assert!(matches!(heard.recv().await, Some(Event::Query(Reason::Notified))));
        assert!(bind("192.0.2.1:80".parse().unwrap()).await.is_err());
    }
}
