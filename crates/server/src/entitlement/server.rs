//! Sockets of the entitlement server: permits, TLS 1.3, deadlines.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslAcceptor, SslFiletype, SslMethod, SslVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_openssl::SslStream;

use super::http::{self, Sender};
use super::service::Service;

/// Longest TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// How often authentications whose time is over are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(5);

/// Why an entitlement server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It cannot listen.
    #[error("the entitlement server cannot listen on {address}: {source}; choose another entitlement.listen")]
    Listen {
        /// Where.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Plain HTTP beyond loopback.
    #[error(
        "the entitlement server has no certificate and {0} is not on loopback; give entitlement.tls_certificate and \
         entitlement.tls_key, or listen on 127.0.0.1"
    )]
    Plain(SocketAddr),
    /// The certificate or key.
    #[error("the certificate or key of the entitlement server cannot be used: {0}; check both files")]
    Certificate(#[from] ErrorStack),
}

/// A running entitlement server.
pub struct Server {
    /// What it answers with.
    pub service: Arc<Service>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
}

impl Server {
    /// Listens and serves until it is dropped or stopped.
    pub async fn start(service: Service) -> Result<Server, StartError> {
        let listen = service.config.listen.clone();
        let failed = |source| StartError::Listen { address: listen.clone(), source };
        let listener = TcpListener::bind(&listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let acceptor = if service.config.tls_certificate.as_os_str().is_empty() {
            if !address.ip().is_loopback() {
                return Err(StartError::Plain(address));
            }
            None
        } else {
            Some(acceptor(&service.config.tls_certificate, &service.config.tls_key)?)
        };
        let service = Arc::new(service);
        let (stop, stopped) = watch::channel(false);
        let accepting = accept(listener, acceptor, service.clone(), stopped);
        tokio::spawn(accepting);
        Ok(Server { service, address, stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections; requests under way are answered.
    pub fn stop(&self) {
        let _ = self.stop.send(true);
    }
}

/// TLS 1.3 only: every device that knows TS.43 speaks it.
fn acceptor(certificate: &Path, key: &Path) -> Result<SslAcceptor, ErrorStack> {
    let mut builder = SslAcceptor::mozilla_modern_v5(SslMethod::tls_server())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_certificate_chain_file(certificate)?;
    builder.set_private_key_file(key, SslFiletype::PEM)?;
    builder.check_private_key()?;
    Ok(builder.build())
}

async fn accept(
    listener: TcpListener,
    acceptor: Option<SslAcceptor>,
    service: Arc<Service>,
    mut stopped: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(service.config.connections_max));
    let mut forget = tokio::time::interval(FORGET_EVERY);
    loop {
        // One loop: the end first, then upkeep, then new connections.
        let accepted = tokio::select! {
            biased;
            _ = stopped.wait_for(|stop| *stop) => return,
            _ = forget.tick() => {
                service.sessions.forget(Instant::now());
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Beyond the limit connections are closed at once: waiting ones would cost as much as served ones.
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            service.stats.limited.add(1);
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (service, stopped) = (service.clone(), stopped.clone());
        match &acceptor {
            None => {
                let sender = Sender { address: peer.ip(), is_tls: false };
                tokio::spawn(serve(stream, sender, service, permit, stopped));
            }
            Some(acceptor) => {
                let Ok(ssl) = Ssl::new(acceptor.context()) else { continue };
                tokio::spawn(serve_tls(ssl, stream, peer, service, permit, stopped));
            }
        }
    }
}

async fn serve_tls(
    ssl: Ssl,
    stream: TcpStream,
    peer: SocketAddr,
    service: Arc<Service>,
    permit: OwnedSemaphorePermit,
    stopped: watch::Receiver<bool>,
) {
    let Ok(mut stream) = SslStream::new(ssl, stream) else { return };
    let handshake = Pin::new(&mut stream).accept();
    if matches!(tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await, Ok(Ok(()))) {
        let sender = Sender { address: peer.ip(), is_tls: true };
        serve(stream, sender, service, permit, stopped).await;
    }
}

/// One connection. Silence before a head ends it after the request deadline.
async fn serve<S>(
    stream: S,
    sender: Sender,
    service: Arc<Service>,
    _permit: OwnedSemaphorePermit,
    mut stopped: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let deadline = Duration::from_secs(service.config.request_deadline_s);
    let handler = service_fn(move |request| http::answer(service.clone(), sender, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(deadline)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), handler);
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection of a device has ended");
            }
            return;
        }
        _ = stopped.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(deadline, connection).await;
}
