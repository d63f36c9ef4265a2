//! The radio of a real network: the air interface towards a fleet of devices, an MME towards the switch. Cards prove
//! themselves against the register before they reach the switch, as in an MME.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use simtide_agent::air::lines::{FromDevice, Hex, ToDevice};
use simtide_protocol::ids::Imsi;
use simtide_protocol::sms::Address;
use simtide_server::registers::VectorsWanted;
use simtide_server::registers::gsup_client::GsupClient;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::sgs::{Event, Mme, Sms};

/// GSUP; OsmoHLR does not let one choose.
const GSUP: u16 = 4222;
/// Cause of 3GPP TS 24.008, 10.5.3.6: the register does not know the identity.
const IMSI_UNKNOWN: u8 = 0x02;
/// The card's answer is wrong.
const ILLEGAL_SUBSCRIBER: u8 = 0x03;

/// A running radio; it ends when this is dropped.
pub struct Radio {
    /// Where a fleet connects, with one line.
    pub air: SocketAddr,
    task: JoinHandle<()>,
}

impl Radio {
    /// A radio for the network whose register listens on `register`.
    pub async fn start(mme: Mme, register: Ipv4Addr) -> Radio {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let air = listener.local_addr().unwrap();
        let register = GsupClient::new(SocketAddr::from((register, GSUP)), "mme-1");
        let task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream, mme, register).await;
        });
        Radio { air, task }
    }
}

impl Drop for Radio {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Cell {
    mme: Mme,
    register: GsupClient,
    devices: OwnedWriteHalf,
    /// RAND and RES that the card has to find.
    challenges: HashMap<Imsi, ([u8; 16], [u8; 8])>,
    on_air: HashMap<u64, Sms>,
    messages: u64,
}

async fn serve(stream: TcpStream, mme: Mme, register: GsupClient) {
    let (reader, devices) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let (challenges, on_air) = (HashMap::new(), HashMap::new());
    let mut cell = Cell { mme, register, devices, challenges, on_air, messages: 0 };
    loop {
        while let Some(event) = cell.mme.next() {
            cell.network(event).await;
        }
        tokio::select! {
            line = lines.next_line() => match line {
                Ok(Some(line)) => cell.device(serde_json::from_str(&line).unwrap()).await,
                _ => return,
            },
            () = cell.mme.readable() => cell.mme.take_in().await,
        }
    }
}

impl Cell {
    async fn say(&mut self, line: ToDevice) {
        let mut text = serde_json::to_vec(&line).unwrap();
        text.push(b'\n');
        // The fleet may have ended.
        let _ = self.devices.write_all(&text).await;
    }

    async fn device(&mut self, line: FromDevice) {
        match line {
            FromDevice::Attach { imsi, .. } => self.challenge(imsi, None).await,
            FromDevice::Response { imsi, res, auts, .. } => {
                let Some((rand, xres)) = self.challenges.remove(&imsi) else { return };
                match (res, auts.and_then(|auts| auts.0.try_into().ok())) {
                    (Some(res), _) if res.0 == xres => {
                        self.mme.attach(imsi).await;
                        self.say(ToDevice::Attached { imsi }).await;
                    }
                    (None, Some(auts)) => self.challenge(imsi, Some((rand, auts))).await,
                    _ => self.say(ToDevice::Rejected { imsi, cause: ILLEGAL_SUBSCRIBER }).await,
                }
            }
            FromDevice::Detach { imsi } => {
                self.challenges.remove(&imsi);
            }
            FromDevice::Submit { imsi, reference, tpdu } => {
                let ok = self.mme.submit(imsi, &tpdu.0).await.is_ok();
                self.say(ToDevice::Submitted { imsi, reference, ok }).await;
            }
            FromDevice::Report { id, ok, .. } => {
                assert!(ok, "the device refuses a message");
                if let Some(sms) = self.on_air.remove(&id) {
                    self.mme.acknowledge(&sms, None).await;
                }
            }
        }
    }

    async fn challenge(&mut self, imsi: Imsi, resynchronisation: Option<([u8; 16], [u8; 14])>) {
        let wanted = VectorsWanted { count: 1, resynchronisation, aka_prime: false };
        match self.register.vectors(imsi, wanted).await {
            Ok(vectors) => {
                let vector = &vectors[0];
                self.challenges.insert(imsi, (vector.rand, vector.xres));
                let (rand, autn) = (Hex(vector.rand.to_vec()), Hex(vector.autn.to_vec()));
                self.say(ToDevice::Challenge { imsi, rand, autn }).await;
            }
            Err(_) => self.say(ToDevice::Rejected { imsi, cause: IMSI_UNKNOWN }).await,
        }
    }

    async fn network(&mut self, event: Event) {
        let Event::Sms(sms) = event else { return };
        self.messages += 1;
        let centre = Address::from_data_object(&sms.service_centre);
        let deliver = ToDevice::Deliver {
            imsi: sms.imsi,
            id: self.messages,
            sc: format!("+{}", centre.number),
            tpdu: Hex(sms.tpdu.clone()),
        };
        self.on_air.insert(self.messages, sms);
        self.say(deliver).await;
    }
}
