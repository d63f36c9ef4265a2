//! A gate between a device and a server: so many requests get through, then the line is down.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Listens at an address of its own, and passes on what comes over HTTP without TLS.
pub struct Gate {
    pub address: SocketAddr,
    left: Arc<AtomicI64>,
}

impl Gate {
    /// An open gate.
    pub fn to(server: SocketAddr) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let left = Arc::new(AtomicI64::new(i64::MAX / 2));
        let gate = Gate { address, left: left.clone() };
        std::thread::spawn(move || {
            for device in listener.incoming().map_while(Result::ok) {
                let Ok(upstream) = TcpStream::connect(server) else { continue };
                let answers = (upstream.try_clone().unwrap(), device.try_clone().unwrap());
                let left = left.clone();
                std::thread::spawn(move || {
                    let (mut from, mut to) = answers;
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
                std::thread::spawn(move || requests(device, upstream, &left));
            }
        });
        gate
    }

    /// So many more requests.
    pub fn lets_through(&self, requests: i64) {
        self.left.store(requests, Ordering::SeqCst);
    }

    /// Every request.
    pub fn lets_all_through(&self) {
        self.lets_through(i64::MAX / 2);
    }
}

/// A request begins where its method does; a body is JSON.
fn requests(mut device: TcpStream, mut server: TcpStream, left: &AtomicI64) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = device.read(&mut bytes) {
        let begins = bytes.starts_with(b"GET ") || bytes.starts_with(b"POST ");
        if begins && left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            break;
        }
        if server.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    let _ = device.shutdown(Shutdown::Both);
}
