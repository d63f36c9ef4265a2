//! The card door: reading and writing the cards of a fleet from outside, each on its own port.
//!
//! Frames as between a virtual reader and its card, the connecting side being the reader. The first frame names the card
//! by the digits of its ICCID, the answer is its ATR, or an empty frame where the fleet has no such card in the field.
//! The device's session stays its own: power and reset from the door are passed over, and a reader works on a logical
//! channel of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use simtide_agent::vpcd::Order;
use simtide_protocol::ids::Iccid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::Fleet;

/// Most readers at a time.
pub(super) const READERS_MAX: usize = 256;

pub(super) async fn open(fleet: Arc<Fleet>, address: SocketAddr) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(READERS_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let fleet = fleet.clone();
                    tokio::spawn(async move {
                        // A reader that hangs up ends its own task only.
                        let _ = serve(&fleet, stream).await;
                        drop(place);
                    });
                }
                Err(error) => tracing::warn!(%error, "the card door could not take a reader"),
            }
        }
    });
    Ok(address)
}

async fn serve(fleet: &Arc<Fleet>, mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut frame = Vec::new();
    read_frame(&mut stream, &mut frame).await?;
    let index = card(fleet, &frame);
    let Some(index) = index else { return write_frame(&mut stream, &[]).await };
    let mut reader = Reader { fleet, index, channels: Vec::new() };
    let atr = fleet.slot(index).answer_to_reset();
    write_frame(&mut stream, &atr).await?;
    loop {
        read_frame(&mut stream, &mut frame).await?;
        match Order::parse(&frame) {
            Order::Atr => write_frame(&mut stream, &atr).await?,
            Order::Apdu(command) => write_frame(&mut stream, &reader.transmit(command)).await?,
            Order::Off | Order::On | Order::Reset | Order::Unknown => {}
        }
    }
}

/// Someone at the door. The logical channels that were opened for them are closed with them: a card has few.
struct Reader<'a> {
    fleet: &'a Fleet,
    index: u32,
    channels: Vec<u8>,
}

impl Reader<'_> {
    fn transmit(&mut self, command: &[u8]) -> Vec<u8> {
        let response = self.fleet.slot(self.index).transmit(self.fleet, command);
        match (command, &response[..]) {
            // MANAGE CHANNEL (ETSI TS 102 221, 11.1.17): opened, the card chose the number.
            ([_, 0x70, 0x00, 0x00, ..], [channel, 0x90 | 0x91, _]) => self.channels.push(*channel),
            ([_, 0x70, 0x80, closed, ..], [0x90 | 0x91, _]) => self.channels.retain(|open| open != closed),
            _ => {}
        }
        response
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        for channel in &self.channels {
            self.fleet.slot(self.index).transmit(self.fleet, &[0x00, 0x70, 0x80, *channel]);
        }
    }
}

/// The card that the first frame names, if its device is on.
fn card(fleet: &Fleet, name: &[u8]) -> Option<u32> {
    let iccid: Iccid = std::str::from_utf8(name).ok()?.parse().ok()?;
    let index = *fleet.by_iccid.get(&iccid)?;
    fleet.slot(index).is_on().then_some(index)
}

async fn read_frame(stream: &mut TcpStream, frame: &mut Vec<u8>) -> std::io::Result<()> {
    let length = stream.read_u16().await?;
    frame.clear();
    frame.resize(usize::from(length), 0);
    stream.read_exact(frame).await?;
    Ok(())
}

async fn write_frame(stream: &mut TcpStream, body: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(body.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(body);
    stream.write_all(&frame).await
}
