//! A thread for a port that blocks, so that a slow card holds up nobody but its own device.

use tokio::sync::mpsc;

use super::{CardPort, PortError};

/// What the device asks of its card; one at a time.
#[derive(Debug)]
pub enum Request {
    /// Power the card anew.
    Reset,
    /// Hand over a command APDU.
    Transmit(Vec<u8>),
}

/// The ATR or the answer to an APDU.
pub type Answer = Result<Vec<u8>, PortError>;

/// The other end of a port's thread. The thread ends when this is dropped.
#[derive(Debug)]
pub struct PortThread {
    requests: std::sync::mpsc::Sender<Request>,
    answers: mpsc::Receiver<Answer>,
}

impl PortThread {
    /// Gives this port a thread.
    pub fn start(mut port: Box<dyn CardPort>) -> std::io::Result<Self> {
        let (requests, inbox) = std::sync::mpsc::channel();
        let (outbox, answers) = mpsc::channel(1);
        std::thread::Builder::new().name("card-port".to_owned()).spawn(move || {
            for request in inbox {
                let answer = match request {
                    Request::Reset => port.reset(),
                    Request::Transmit(command) => {
                        let mut response = Vec::new();
                        port.transmit(&command, &mut response).map(|()| response)
                    }
                };
                if outbox.blocking_send(answer).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { requests, answers })
    }

    /// Asks for one thing. Its answer comes by [`Self::answer`]; ask again only after that.
    pub fn ask(&self, request: Request) {
        // A thread that is gone shows itself in `answer`.
        let _ = self.requests.send(request);
    }

    /// The answer to what was asked. May be given up and called again without losing an answer.
    pub async fn answer(&mut self) -> Answer {
        self.answers
            .recv()
            .await
            .unwrap_or_else(|| Err(std::io::Error::other("the port's thread has ended").into()))
    }
}
