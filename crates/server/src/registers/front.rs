//! What stands in front of a register that hands out no identities: the pool decides, the back end carries out.
//!
//! Every verb is first a durable commit of the pool, then its effect at the back end; a verb that is repeated after a
//! crash finds the commit and makes the effect again. Effects of one identity never overlap.

use std::sync::Arc;

use simtide_protocol::aka::{self, Sqn, Vector};
use simtide_protocol::gsup::Domain;
use simtide_protocol::ids::{CardId, ChangeId, Imsi};
use tokio::sync::{Mutex, MutexGuard};

use super::algorithm::Functions;
use super::pool::{Entry, Pool, State};
use super::{
    Answer, NewIdentity, PoolState, Register, RegisterError, Seen, Subscriber, VECTORS_MAX, VectorsWanted,
};

/// Locks that identities and changes are spread over.
const LOCKS: usize = 64;
/// What stands in the pool for an attach that a back end has told of without naming the network element.
const ELSEWHERE: &str = "seen";

/// A register as it is: it writes and deletes what it is told. All verbs may be repeated.
pub trait Backend: Send + Sync {
    /// Kind and address, never a secret.
    fn name(&self) -> String;
    /// Writes the subscriber with its keys and number, without access where it is new.
    fn write<'a>(&'a self, entry: &'a Entry) -> Answer<'a, ()>;
    /// Gives access. [`RegisterError::NotFound`] where it has not been written.
    fn grant<'a>(&'a self, entry: &'a Entry) -> Answer<'a, ()>;
    /// Makes vectors. `highest` is the card's own number from an AUTS, where the pool has the keys to check its MAC-S.
    fn vectors(&self, imsi: Imsi, wanted: VectorsWanted, highest: Option<Sqn>) -> Answer<'_, Vec<Vector>>;
    /// An identity that is passed over before it is asked: whoever watches the time must not know.
    fn pass_over(&self, _imsi: Imsi, _wanted: VectorsWanted) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }
    /// Whether it checks the MAC-S of an AUTS itself before the number moves.
    fn checks_auts(&self) -> bool {
        true
    }
    /// Whether the subscriber is there, and attached.
    fn seen(&self, imsi: Imsi) -> Answer<'_, Seen>;
    /// Takes access away and tells the network element. [`RegisterError::NotFound`] where it is not there.
    fn withdraw(&self, imsi: Imsi) -> Answer<'_, ()>;
    /// Deletes. [`RegisterError::NotFound`] where it is not there.
    fn delete(&self, imsi: Imsi) -> Answer<'_, ()>;
}

/// A pool and the register behind it.
pub struct Pooled {
    pool: Arc<Pool>,
    backend: Arc<dyn Backend>,
    identities: [Mutex<()>; LOCKS],
    changes: [Mutex<()>; LOCKS],
}

impl Pooled {
    /// Puts a pool in front of a back end.
    pub fn new(pool: Arc<Pool>, backend: Arc<dyn Backend>) -> Pooled {
        Pooled { pool, backend, identities: locks(), changes: locks() }
    }

    /// The pool, to fill it and to report from it.
    pub fn pool_of(&self) -> &Arc<Pool> {
        &self.pool
    }

    async fn hold(&self, imsi: Imsi) -> MutexGuard<'_, ()> {
        let digits = imsi.to_string().bytes().fold(0_usize, |sum, digit| sum * 7 + usize::from(digit));
        self.identities[digits % LOCKS].lock().await
    }

    /// Taken before [`Self::hold`], never after it.
    async fn hold_change(&self, change: ChangeId) -> MutexGuard<'_, ()> {
        let [.., last] = change.to_bytes();
        self.changes[usize::from(last) % LOCKS].lock().await
    }

    async fn reserve_one(&self, change: ChangeId, card: CardId) -> Result<NewIdentity, RegisterError> {
        let _change = self.hold_change(change).await;
        let entry = self.pool.reserve(change, card).await?.entry;
        let _identity = self.hold(entry.imsi).await;
        self.backend.write(&entry).await?;
        let Entry { imsi, algorithm, msisdn, keys, .. } = entry;
        let (k, opc) = keys.ok_or_else(|| RegisterError::Invalid("an identity without keys".to_owned()))?;
        Ok(NewIdentity { change, imsi, algorithm, k, opc, msisdn })
    }

    async fn release_one(&self, change: ChangeId) -> Result<(), RegisterError> {
        let _change = self.hold_change(change).await;
        let Some(imsi) = self.pool.begin_release(change).await? else { return Ok(()) };
        let _identity = self.hold(imsi).await;
        done_if_missing(self.backend.withdraw(imsi).await)?;
        done_if_missing(self.backend.delete(imsi).await)?;
        self.pool.end_release(change, imsi).await
    }

    async fn vectors_of(&self, imsi: Imsi, wanted: VectorsWanted) -> Result<Vec<Vector>, RegisterError> {
        if !(1..=VECTORS_MAX).contains(&wanted.count) {
            return Err(RegisterError::Refused(format!("ask for 1 to {VECTORS_MAX} vectors")));
        }
        let entry = self.pool.entry(imsi)?;
        match entry.as_ref().filter(|entry| !entry.access).map(|entry| entry.state) {
            None => {}
            Some(State::Free | State::Retired) => {
                self.backend.pass_over(imsi, wanted).await?;
                return Err(RegisterError::NotFound);
            }
            Some(State::Reserved | State::Assigned) => {
                self.backend.pass_over(imsi, wanted).await?;
                return Err(RegisterError::Refused("the identity has no access".to_owned()));
            }
        }
        let mut highest = None;
        if let Some((rand, auts)) = &wanted.resynchronisation {
            let known = entry.as_ref().and_then(|entry| Some((entry.algorithm, entry.keys.as_ref()?)));
            if let Some((algorithm, (k, opc))) = known {
                highest = aka::open_auts(&Functions::new(algorithm, k, opc)?, rand, auts);
            }
            if highest.is_none() && (known.is_some() || !self.backend.checks_auts()) {
                return Err(RegisterError::Refused("MAC-S of the AUTS is wrong, nothing moved".to_owned()));
            }
        }
        self.backend.vectors(imsi, wanted, highest).await
    }
}

fn locks() -> [Mutex<()>; LOCKS] {
    std::array::from_fn(|_| Mutex::new(()))
}

/// What is not there needs no leaving.
fn done_if_missing(result: Result<(), RegisterError>) -> Result<(), RegisterError> {
    match result {
        Err(RegisterError::NotFound) => Ok(()),
        other => other,
    }
}

impl Register for Pooled {
    fn name(&self) -> String {
        self.backend.name()
    }

    fn reserve(&self, change: ChangeId, card: CardId) -> Answer<'_, NewIdentity> {
        Box::pin(self.reserve_one(change, card))
    }

    fn arm(&self, change: ChangeId, imsi: Imsi) -> Answer<'_, ()> {
        Box::pin(async move {
            let _identity = self.hold(imsi).await;
            let entry = self.pool.arm(change, imsi).await?;
            match self.backend.grant(&entry).await {
                // Somebody has deleted it behind the pool's back, or a crash came between: write it again.
                Err(RegisterError::NotFound) => {
                    self.backend.write(&entry).await?;
                    self.backend.grant(&entry).await
                }
                other => other,
            }
        })
    }

    fn vectors(&self, imsi: Imsi, wanted: VectorsWanted) -> Answer<'_, Vec<Vector>> {
        Box::pin(self.vectors_of(imsi, wanted))
    }

    fn watch(&self, imsi: Imsi) -> Answer<'_, Seen> {
        Box::pin(async move {
            let seen = self.backend.seen(imsi).await?;
            if seen.attached && self.pool.entry(imsi)?.is_some_and(|entry| !entry.attached.is_anywhere()) {
                // A back end that forgets must not free an identity that a card has.
                match self.pool.attached(imsi, Domain::CircuitSwitched, ELSEWHERE.to_owned()).await {
                    Ok(()) | Err(RegisterError::Refused(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(seen)
        })
    }

    fn withdraw(&self, _change: ChangeId, imsi: Imsi) -> Answer<'_, ()> {
        Box::pin(async move {
            let _identity = self.hold(imsi).await;
            self.pool.withdraw(imsi).await?;
            done_if_missing(self.backend.withdraw(imsi).await)
        })
    }

    fn retire(&self, _change: ChangeId, imsi: Imsi) -> Answer<'_, ()> {
        Box::pin(async move {
            let _identity = self.hold(imsi).await;
            // Withdrawn first and in any case: a bare deletion tells no network element.
            self.pool.withdraw(imsi).await?;
            done_if_missing(self.backend.withdraw(imsi).await)?;
            self.pool.retire(imsi).await?;
            done_if_missing(self.backend.delete(imsi).await)
        })
    }

    fn release(&self, change: ChangeId, _imsi: Imsi) -> Answer<'_, ()> {
        Box::pin(self.release_one(change))
    }

    fn provision(&self, subscriber: Subscriber) -> Answer<'_, ()> {
        Box::pin(async move {
            let imsi = subscriber.imsi;
            let _identity = self.hold(imsi).await;
            self.pool.provision(subscriber).await?;
            let entry = self.pool.entry(imsi)?.ok_or(RegisterError::NotFound)?;
            self.backend.write(&entry).await?;
            self.backend.grant(&entry).await
        })
    }

    fn pool(&self) -> Answer<'_, PoolState> {
        Box::pin(async move { self.pool.state() })
    }
}
