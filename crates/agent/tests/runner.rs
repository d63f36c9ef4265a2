//! A device that loses its card looks for it again.

#![allow(clippy::unwrap_used)]

use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use simtide_agent::clock::Clock;
use simtide_agent::host::Shown;
use simtide_agent::network::Networks;
use simtide_agent::port::{CardPort, PortError};
use simtide_agent::runner::Runner;
use simtide_device::{Device, Kind, Notice, Settings};

/// Answers so many commands, then none until it is reset.
struct Loose {
    left: u32,
    resets: Sender<()>,
}

impl CardPort for Loose {
    fn reset(&mut self) -> Result<Vec<u8>, PortError> {
        self.left = 3;
        let _ = self.resets.send(());
        Ok(vec![0x3B, 0x00])
    }

    fn transmit(&mut self, _command: &[u8], response: &mut Vec<u8>) -> Result<(), PortError> {
        self.left =
            self.left.checked_sub(1).ok_or(std::io::ErrorKind::NotConnected).map_err(std::io::Error::from)?;
        *response = vec![0x90, 0x00];
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_card_is_looked_for_again() {
    let (resets, counted) = channel();
    let (outside, inbox) = tokio::sync::mpsc::unbounded_channel();
    let (display, mut shown) = tokio::sync::mpsc::unbounded_channel();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let runner = Runner {
        device: Device::new(Settings::of(Kind::Phone)),
        ip: None,
        networks: Networks::default(),
        clock: Clock::REAL,
        latency: Duration::ZERO,
        inbox,
        outside,
        display,
    };
    let running = tokio::spawn(runner.run(Box::new(Loose { left: 0, resets }), stopped));
    let twice = move || (0..2).all(|_| counted.recv_timeout(Duration::from_secs(30)).is_ok());
    assert!(tokio::task::spawn_blocking(twice).await.unwrap());
    assert_eq!(shown.recv().await, Some(Shown::Notice(Notice::CardUnusable)));
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}
