//! HTTP as a client of registers and of the platform: answers are bounded, and what is not known to be undone is unknown.

use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, Identity, RequestBuilder, StatusCode, tls};
use zeroize::Zeroizing;

use super::RegisterError;

/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long an exchange may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Idle connections kept per register.
const IDLE_MAX: usize = 16;

/// A client without redirections and proxies: a register is where it is said to be.
pub fn plain() -> ClientBuilder {
    Client::builder()
        .connect_timeout(CONNECT_WITHIN)
        .timeout(ANSWER_WITHIN)
        .pool_max_idle_per_host(IDLE_MAX)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
}

/// A client with mutual TLS 1.3: the authority that signed the other side's certificate, our certificate and its key, all
/// PEM files.
///
/// # Errors
/// [`RegisterError::Refused`] with the file that cannot be used.
pub fn mutual(authority: &Path, certificate: &Path, key: &Path) -> Result<Client, RegisterError> {
    let file = |path: &Path| {
        let read = std::fs::read(path);
        read.map_err(|error| RegisterError::Refused(format!("{}: {error}", path.display())))
    };
    let wrong = |path: &Path| {
        RegisterError::Refused(format!(
            "{}: it is no PEM file of this kind (keys in PKCS#8); docs/registers.md shows how to make them",
            path.display()
        ))
    };
    let authorities = Certificate::from_pem_bundle(&file(authority)?).map_err(|_| wrong(authority))?;
    let private = Zeroizing::new(file(key)?);
    let identity = Identity::from_pkcs8_pem(&file(certificate)?, &private).map_err(|_| wrong(key))?;
    plain()
        .https_only(true)
        .tls_certs_only(authorities)
        .identity(identity)
        .tls_version_min(tls::Version::TLS_1_3)
        .build()
        .map_err(|error| RegisterError::Refused(format!("TLS cannot be set up: {error}")))
}

/// Sends a request and reads its answer, at most `bytes_max` of it.
///
/// # Errors
/// [`RegisterError::Unreachable`] where no connection came up, [`RegisterError::Unknown`] for everything later.
pub async fn exchange(
    request: RequestBuilder,
    bytes_max: usize,
) -> Result<(StatusCode, Zeroizing<Vec<u8>>), RegisterError> {
    let mut answer = request.send().await.map_err(failed)?;
    let status = answer.status();
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > bytes_max {
            return Err(RegisterError::Unknown(format!("an answer of more than {bytes_max} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((status, body))
}

fn failed(error: reqwest::Error) -> RegisterError {
    // The innermost cause says most: refused, certificate, timeout.
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let why = cause.to_string();
    if error.is_connect() {
        RegisterError::Unreachable(why)
    } else if error.is_builder() {
        RegisterError::Refused(why)
    } else {
        RegisterError::Unknown(why)
    }
}
