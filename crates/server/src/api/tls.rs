//! TLS of the API: certificate files, handshakes beside the accept loop.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use axum::serve::Listener;
use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslAcceptor, SslFiletype, SslMethod};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_openssl::SslStream;

/// Longest handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Connections whose handshake is done and that wait to be served.
const READY_MAX: usize = 128;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listener whose connections have completed their handshake.
pub struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<(SslStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    /// Serves TLS 1.2 and 1.3 with a certificate chain and its key, both PEM.
    pub fn new(listener: TcpListener, certificate: &Path, key: &Path) -> Result<TlsListener, ErrorStack> {
        let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
        builder.set_certificate_chain_file(certificate)?;
        builder.set_private_key_file(key, SslFiletype::PEM)?;
        builder.check_private_key()?;
        Ok(TlsListener::with_acceptor(listener, builder.build()))
    }

    /// Serves TLS as the acceptor says.
    pub fn with_acceptor(listener: TcpListener, acceptor: SslAcceptor) -> TlsListener {
        let address = listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
        let (done, ready) = mpsc::channel(READY_MAX);
        tokio::spawn(async move {
            while !done.is_closed() {
                let Ok((stream, peer)) = listener.accept().await else {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let Ok(ssl) = Ssl::new(acceptor.context()) else { continue };
                let done = done.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = SslStream::new(ssl, stream) else { return };
                    let handshake = Pin::new(&mut stream).accept();
                    if matches!(tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await, Ok(Ok(()))) {
                        // The receiver goes with the server.
                        let _ = done.send((stream, peer)).await;
                    }
                });
            }
        });
        TlsListener { address, ready }
    }
}

impl Listener for TlsListener {
    type Io = SslStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The accept loop ends with the server only.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
