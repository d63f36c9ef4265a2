//! The platform's side: a register gateway as a register.

use std::path::Path;
use std::sync::Arc;

use simtide_protocol::aka::Vector;
use simtide_protocol::ids::{CardId, ChangeId, Imsi};

use super::super::http;
use super::super::{
    Answer, NewIdentity, PoolState, Register, RegisterError, Seen, Subscriber, VectorsWanted,
};
use super::message::{
    Ask, BODY_BYTES_MAX, Request, Told, algorithm_of, error_of, open_keys, open_vectors, read_reply,
    seal_keys,
};
use super::transport::{Direction, Purpose, TransportKey};

/// A register behind a gateway in the operator's network.
pub struct Gateway {
    url: String,
    http: reqwest::Client,
    transport: Arc<TransportKey>,
}

impl Gateway {
    /// A gateway at `address` (host and port), with the PEM files of the link and the agreed transport key.
    ///
    /// # Errors
    /// [`RegisterError::Refused`] with the file that cannot be used.
    pub fn new(
        address: &str,
        authority: &Path,
        certificate: &Path,
        key: &Path,
        transport: Arc<TransportKey>,
    ) -> Result<Gateway, RegisterError> {
        let host = address.strip_prefix("https://").unwrap_or(address).trim_end_matches('/');
        let is_address = host.contains(':') && !host.contains(['/', '?', '#', '@', ' ']);
        if !is_address || address.starts_with("http://") {
            let how = format!("{address:?} is no address of a register gateway: write host:port");
            return Err(RegisterError::Refused(how));
        }
        let http = http::mutual(authority, certificate, key)?;
        Ok(Gateway { url: format!("https://{host}/v1/register"), http, transport })
    }

    async fn ask(&self, ask: Ask) -> Result<(ChangeId, Told), RegisterError> {
        let mut id = [0; 8];
        getrandom::fill(&mut id)
            .map_err(|_| RegisterError::Refused("the operating system gives no random numbers".to_owned()))?;
        let request = Request { request: ChangeId::from_bytes(id), ask };
        let sent = self.http.post(&self.url).json(&request);
        let (status, body) = http::exchange(sent, BODY_BYTES_MAX).await?;
        match read_reply(request.request, &body) {
            Ok(Told::Error { error, reason }) => Err(error_of(&error, reason)),
            Ok(told) if status.is_success() => Ok((request.request, told)),
            Ok(_) => Err(RegisterError::Invalid(format!("an answer with status {status}"))),
            // Somebody else answers at this address, or the gateway is in trouble.
            Err(_) if status.is_server_error() => Err(RegisterError::Unknown(format!("status {status}"))),
            Err(_) if !status.is_success() => {
                Err(RegisterError::Refused(format!("status {status} without a reason")))
            }
            Err(error) => Err(error),
        }
    }

    async fn done(&self, ask: Ask) -> Result<(), RegisterError> {
        match self.ask(ask).await?.1 {
            Told::Done {} => Ok(()),
            other => Err(unfit(&other)),
        }
    }

    async fn reserve_one(&self, change: ChangeId, card: CardId) -> Result<NewIdentity, RegisterError> {
        match self.ask(Ask::Reserve { change, card }).await?.1 {
            Told::Identity { change: told, imsi, algorithm, keys, msisdn } => {
                if told != change {
                    return Err(RegisterError::Invalid("the answer to another change".to_owned()));
                }
                let key = change.to_bytes();
                let purpose = Purpose { direction: Direction::ToPlatform, key: &key, imsi };
                let (k, opc) = open_keys(&self.transport, purpose, &keys)?;
                Ok(NewIdentity { change, imsi, algorithm: algorithm_of(&algorithm)?, k, opc, msisdn })
            }
            other => Err(unfit(&other)),
        }
    }

    async fn vectors_of(&self, imsi: Imsi, wanted: VectorsWanted) -> Result<Vec<Vector>, RegisterError> {
        let (rand, auts) = match wanted.resynchronisation {
            Some((rand, auts)) => (Some(hex::encode(rand)), Some(hex::encode(auts))),
            None => (None, None),
        };
        let ask = Ask::Vectors { imsi, count: wanted.count, rand, auts, aka_prime: wanted.aka_prime };
        match self.ask(ask).await? {
            (request, Told::Vectors { imsi: told, vectors }) if told == imsi => {
                let key = request.to_bytes();
                let purpose = Purpose { direction: Direction::ToPlatform, key: &key, imsi };
                open_vectors(&self.transport, purpose, &vectors)
            }
            (_, other) => Err(unfit(&other)),
        }
    }

    async fn provision_one(&self, subscriber: Subscriber) -> Result<(), RegisterError> {
        let Subscriber { card, imsi, algorithm, k, opc, msisdn } = subscriber;
        let purpose = Purpose { direction: Direction::ToRegister, key: card.as_bytes(), imsi };
        let keys = seal_keys(&self.transport, purpose, &k, &opc)?;
        let algorithm = algorithm.name().to_owned();
        self.done(Ask::Provision { card, imsi, algorithm, keys, msisdn }).await
    }
}

fn unfit(told: &Told) -> RegisterError {
    let kind = match told {
        Told::Identity { .. } => "an identity",
        Told::Vectors { .. } => "vectors",
        Told::Seen { .. } => "a look at an identity",
        Told::Pool { .. } => "the state of the pool",
        Told::Done {} => "nothing but done",
        Told::Error { .. } => "an error",
    };
    RegisterError::Invalid(format!("{kind} where something else was asked for"))
}

impl Register for Gateway {
    fn name(&self) -> String {
        format!("register gateway at {}", self.url)
    }

    fn reserve(&self, change: ChangeId, card: CardId) -> Answer<'_, NewIdentity> {
        Box::pin(self.reserve_one(change, card))
    }

    fn arm(&self, change: ChangeId, imsi: Imsi) -> Answer<'_, ()> {
        Box::pin(self.done(Ask::Arm { change, imsi }))
    }

    fn vectors(&self, imsi: Imsi, wanted: VectorsWanted) -> Answer<'_, Vec<Vector>> {
        Box::pin(self.vectors_of(imsi, wanted))
    }

    fn watch(&self, imsi: Imsi) -> Answer<'_, Seen> {
        Box::pin(async move {
            match self.ask(Ask::Watch { imsi }).await?.1 {
                Told::Seen { imsi: told, seen } if told == imsi => {
                    Ok(Seen { known: seen.known, attached: seen.attached })
                }
                other => Err(unfit(&other)),
            }
        })
    }

    fn withdraw(&self, change: ChangeId, imsi: Imsi) -> Answer<'_, ()> {
        Box::pin(self.done(Ask::Withdraw { change, imsi }))
    }

    fn retire(&self, change: ChangeId, imsi: Imsi) -> Answer<'_, ()> {
        Box::pin(self.done(Ask::Retire { change, imsi }))
    }

    fn release(&self, change: ChangeId, imsi: Imsi) -> Answer<'_, ()> {
        Box::pin(self.done(Ask::Release { change, imsi }))
    }

    fn provision(&self, subscriber: Subscriber) -> Answer<'_, ()> {
        Box::pin(self.provision_one(subscriber))
    }

    fn pool(&self) -> Answer<'_, PoolState> {
        Box::pin(async move {
            match self.ask(Ask::Pool {}).await?.1 {
                Told::Pool { pool } => Ok(pool),
                other => Err(unfit(&other)),
            }
        })
    }
}
