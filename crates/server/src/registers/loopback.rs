//! Plain protocols stay on this machine.

use std::net::{IpAddr, SocketAddr};

use super::RegisterError;

/// Reads an address of a protocol without protection. Only loopback is taken.
///
/// # Errors
/// [`RegisterError::Refused`] with what to do instead.
pub fn loopback(protocol: &str, address: &str) -> Result<SocketAddr, RegisterError> {
    let parsed: SocketAddr = address.parse().map_err(|_| {
        RegisterError::Refused(format!("{protocol}: {address:?} is no address: write it as 127.0.0.1:4259"))
    })?;
    let is_loopback = match parsed.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
    };
    if is_loopback {
        return Ok(parsed);
    }
    Err(RegisterError::Refused(format!(
        "{protocol} to {address} would carry keys in clear: run `simtide register-gateway` beside the register and \
         give its address as `gateway`, or end a TLS tunnel at a loopback address"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine() {
        for good in ["127.0.0.1:4259", "127.9.9.9:1", "[::1]:4222", "[::ffff:127.0.0.1]:1"] {
            assert!(loopback("ctrl", good).is_ok(), "{good}");
        }
        for wrong in ["10.0.0.1:4259", "0.0.0.0:4259", "[2001:db8::1]:4222", "[::]:1"] {
            let error = loopback("ctrl", wrong).unwrap_err().to_string();
            assert!(error.contains("register-gateway"), "{error}");
        }
        for wrong in ["", "127.0.0.1", "localhost:4259", "hlr.example.org:4259"] {
            assert!(loopback("ctrl", wrong).is_err(), "{wrong}");
        }
    }
}
