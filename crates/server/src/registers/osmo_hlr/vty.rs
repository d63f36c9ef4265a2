//! The one order that OsmoHLR takes from its terminal only: access taken away with a word to the network element.

use std::net::SocketAddr;
use std::time::Duration;

use simtide_protocol::ids::Imsi;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::RegisterError;
use super::ctrl::connect;

/// How long the whole conversation may take.
const WITHIN: Duration = Duration::from_secs(5);
/// Bytes between two prompts at most.
const OUTPUT_BYTES_MAX: usize = 16_384;

/// Sets the network access mode of a subscriber to none.
pub(super) async fn withdraw(address: SocketAddr, imsi: Imsi) -> Result<(), RegisterError> {
    let mut stream = connect(address).await?;
    let talk = async {
        until(&mut stream, b"> ").await?;
        order(&mut stream, "enable").await?;
        let output =
            order(&mut stream, &format!("subscriber imsi {imsi} update network-access-mode none")).await?;
        if output.contains("% No subscriber") {
            return Err(RegisterError::NotFound);
        }
        match output.lines().find(|line| line.starts_with('%')) {
            Some(complaint) => Err(RegisterError::Refused(complaint.trim().to_owned())),
            None => Ok(()),
        }
    };
    let within = tokio::time::timeout(WITHIN, talk).await;
    within.unwrap_or_else(|_| Err(RegisterError::Unknown("no prompt from the terminal in time".to_owned())))
}

async fn order(stream: &mut TcpStream, text: &str) -> Result<String, RegisterError> {
    let lost = |error: std::io::Error| RegisterError::Unknown(format!("the terminal broke: {error}"));
    stream.write_all(format!("{text}\n").as_bytes()).await.map_err(lost)?;
    until(stream, b"# ").await
}

async fn until(stream: &mut TcpStream, prompt: &[u8]) -> Result<String, RegisterError> {
    let lost = |error: std::io::Error| RegisterError::Unknown(format!("the terminal broke: {error}"));
    let mut output = Vec::new();
    let mut chunk = [0; 1024];
    while !output.ends_with(prompt) {
        let read = stream.read(&mut chunk).await.map_err(lost)?;
        if read == 0 || output.len() + read > OUTPUT_BYTES_MAX {
            return Err(RegisterError::Unknown("the terminal ended without a prompt".to_owned()));
        }
        output.extend_from_slice(&chunk[..read]);
    }
    Ok(String::from_utf8_lossy(&output).into_owned())
}
