//! A register in memory: it behaves, and it misbehaves on request.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use simtide_protocol::aka::{self, Sqn, Vector};
use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
use simtide_protocol::ids::{CardId, ChangeId, Imsi, Msisdn};
use simtide_protocol::milenage::Milenage;

use super::{
    Answer, NewIdentity, PoolState, Register, RegisterError, Seen, Subscriber, VECTORS_MAX, VectorsWanted,
};

/// How the next answers go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nothing is done, and the caller does not know.
    TimeoutBefore,
    /// It is done, and the caller does not know.
    TimeoutAfter,
    /// The request arrives twice; the answer is the second one's.
    Duplicate,
    /// "Exists", whether it does or not; nothing is done.
    Exists,
    /// "Unknown subscriber", whether there is one or not; nothing is done.
    UnknownSubscriber,
    /// It is done, and the answer is the one of another request.
    AnotherAnswer,
    /// The identity handed out is not the operator's. Other verbs: as without a fault.
    ImsiOutOfRange,
    /// The key handed out has 15 bytes. Other verbs: as without a fault.
    ShortKey,
    /// The key handed out is all zero. Other verbs: as without a fault.
    ZeroKey,
    /// It is done, and a body that tells of an error comes with status 200.
    ErrorBody,
    /// Surely not done.
    Unreachable,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 11] = [
        Fault::TimeoutBefore,
        Fault::TimeoutAfter,
        Fault::Duplicate,
        Fault::Exists,
        Fault::UnknownSubscriber,
        Fault::AnotherAnswer,
        Fault::ImsiOutOfRange,
        Fault::ShortKey,
        Fault::ZeroKey,
        Fault::ErrorBody,
        Fault::Unreachable,
    ];
}

/// The verbs, for choosing which ones go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// [`Register::reserve`].
    Reserve,
    /// [`Register::arm`].
    Arm,
    /// [`Register::vectors`].
    Vectors,
    /// [`Register::watch`].
    Watch,
    /// [`Register::withdraw`].
    Withdraw,
    /// [`Register::retire`].
    Retire,
    /// [`Register::release`].
    Release,
    /// [`Register::provision`].
    Provision,
}

impl Verb {
    /// All of them.
    pub const ALL: [Verb; 8] = [
        Verb::Reserve,
        Verb::Arm,
        Verb::Vectors,
        Verb::Watch,
        Verb::Withdraw,
        Verb::Retire,
        Verb::Release,
        Verb::Provision,
    ];
}

/// A register in memory. Cheap to clone; all clones are the same register.
#[derive(Clone)]
pub struct MemoryRegister {
    shared: Arc<Mutex<Memory>>,
}

/// What the register holds of one identity, for assertions. Keys are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The card that it was written for.
    pub card: CardId,
    /// The change that it was reserved for; none for a first personalization.
    pub change: Option<ChangeId>,
    /// Whether the identity is let in.
    pub access: bool,
    /// Whether it is attached.
    pub attached: bool,
}

struct Memory {
    name: String,
    prefix: String,
    free: VecDeque<Imsi>,
    next: u64,
    subscribers: BTreeMap<Imsi, Record>,
    /// What every change has got; none: it was released.
    changes: BTreeMap<ChangeId, Option<Imsi>>,
    retired: u64,
    faults: VecDeque<(Verb, Fault)>,
    calls: Vec<(Verb, Option<ChangeId>)>,
}

struct Record {
    held: Held,
    k: Secret,
    opc: Secret,
    msisdn: Option<Msisdn>,
    seq: u64,
}

/// Numbers of a pool in memory.
const IDENTITIES_MAX: u64 = 100_000_000;
/// IND of the vectors that the register gives out.
const IND: u8 = 1;

impl MemoryRegister {
    /// A register whose pool has `identities` IMSIs that begin with `prefix` (MCC and MNC). Keys are drawn from the
    /// IMSI, so that every run is the same.
    pub fn new(name: &str, prefix: &str, identities: u32) -> MemoryRegister {
        let mut memory = Memory {
            name: name.to_owned(),
            prefix: prefix.to_owned(),
            free: VecDeque::new(),
            next: 1,
            subscribers: BTreeMap::new(),
            changes: BTreeMap::new(),
            retired: 0,
            faults: VecDeque::new(),
            calls: Vec::new(),
        };
        memory.grow(identities);
        MemoryRegister { shared: Arc::new(Mutex::new(memory)) }
    }

    /// The next call of this verb goes wrong in this way; several faults of one verb are used up in order.
    pub fn fail_next(&self, verb: Verb, fault: Fault) {
        self.lock().faults.push_back((verb, fault));
    }

    /// What was asked, in order.
    pub fn calls(&self) -> Vec<(Verb, Option<ChangeId>)> {
        self.lock().calls.clone()
    }

    /// What the register holds of an identity.
    pub fn held(&self, imsi: Imsi) -> Option<Held> {
        self.lock().subscribers.get(&imsi).map(|record| record.held)
    }

    /// The identities that the register holds for a card.
    pub fn identities_of(&self, card: CardId) -> Vec<(Imsi, Held)> {
        let memory = self.lock();
        let of_card = memory.subscribers.iter().filter(|(_, record)| record.held.card == card);
        of_card.map(|(imsi, record)| (*imsi, record.held)).collect()
    }

    /// K and OPc of an identity, for a card that is to authenticate against this register.
    pub fn keys(&self, imsi: Imsi) -> Option<(Secret, Secret)> {
        self.lock().subscribers.get(&imsi).map(|record| (record.k.clone(), record.opc.clone()))
    }

    /// A network element reports the identity: it attaches where it is let in. Answers whether it was.
    pub fn attach(&self, imsi: Imsi) -> bool {
        match self.lock().subscribers.get_mut(&imsi) {
            Some(record) if record.held.access => {
                record.held.attached = true;
                true
            }
            Some(_) | None => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a verb with the fault that is next for it.
    fn verb<T>(
        &self,
        verb: Verb,
        change: Option<ChangeId>,
        mut work: impl FnMut(&mut Memory) -> Result<T, RegisterError>,
        other: impl FnOnce(T) -> Result<T, RegisterError>,
    ) -> Result<T, RegisterError> {
        let mut memory = self.lock();
        memory.calls.push((verb, change));
        let at = memory.faults.iter().position(|(of, _)| *of == verb);
        let fault = at.and_then(|at| memory.faults.remove(at)).map(|(_, fault)| fault);
        let timeout = || RegisterError::Unknown("no answer in time".to_owned());
        match fault {
            Some(Fault::TimeoutBefore) => Err(timeout()),
            Some(Fault::TimeoutAfter) => work(&mut memory).and(Err(timeout())),
            Some(Fault::Duplicate) => {
                let _ = work(&mut memory);
                work(&mut memory)
            }
            Some(Fault::Exists) => Err(RegisterError::Conflict("subscriber exists".to_owned())),
            Some(Fault::UnknownSubscriber) => Err(RegisterError::NotFound),
            Some(Fault::AnotherAnswer) => work(&mut memory).and_then(other),
            Some(Fault::ErrorBody) => {
                let body = "status 200 with an error in the body";
                work(&mut memory).and(Err(RegisterError::Invalid(body.to_owned())))
            }
            Some(Fault::Unreachable) => Err(RegisterError::Unreachable("connection refused".to_owned())),
            Some(Fault::ImsiOutOfRange | Fault::ShortKey | Fault::ZeroKey) if verb == Verb::Reserve => {
                memory.faults.push_front((verb, fault.unwrap_or(Fault::ZeroKey)));
                let answer = work(&mut memory);
                memory.faults.pop_front();
                answer
            }
            Some(Fault::ImsiOutOfRange | Fault::ShortKey | Fault::ZeroKey) | None => work(&mut memory),
        }
    }
}

/// What a caller makes of the answer to somebody else's request.
fn mixed_up<T>(_: T) -> Result<T, RegisterError> {
    Err(RegisterError::Invalid("the answer to another request".to_owned()))
}

impl Memory {
    fn grow(&mut self, identities: u32) {
        for _ in 0..identities {
            let width = 15_usize.saturating_sub(self.prefix.len());
            let text = format!("{}{:0width$}", self.prefix, self.next % IDENTITIES_MAX);
            self.next += 1;
            self.free.extend(text.parse::<Imsi>());
        }
    }

    fn reserve(&mut self, change: ChangeId, card: CardId) -> Result<NewIdentity, RegisterError> {
        let imsi = match self.changes.get(&change) {
            Some(Some(imsi)) => *imsi,
            Some(None) => return Err(RegisterError::Conflict("the change was released".to_owned())),
            None => {
                let imsi = self.free.pop_front().ok_or(RegisterError::Exhausted)?;
                self.changes.insert(change, Some(imsi));
                let (k, opc) = keys_of(imsi);
                let held = Held { card, change: Some(change), access: false, attached: false };
                self.subscribers.insert(imsi, Record { held, k, opc, msisdn: number_of(imsi), seq: 0 });
                imsi
            }
        };
        let record = self.subscribers.get(&imsi).ok_or(RegisterError::NotFound)?;
        if record.held.card != card {
            return Err(RegisterError::Conflict("the change is another card's".to_owned()));
        }
        let mut identity = NewIdentity {
            change,
            imsi,
            algorithm: AuthenticationAlgorithm::Milenage,
            k: record.k.clone(),
            opc: record.opc.clone(),
            msisdn: record.msisdn,
        };
        let secret = |bytes: &[u8]| Secret::new(bytes).ok_or(RegisterError::Exhausted);
        match self.faults.front() {
            Some((Verb::Reserve, Fault::ImsiOutOfRange)) => {
                identity.imsi = "999990000000001".parse().unwrap_or(identity.imsi);
            }
            Some((Verb::Reserve, Fault::ShortKey)) => identity.k = secret(&[0x5A; 15])?,
            Some((Verb::Reserve, Fault::ZeroKey)) => identity.k = secret(&[0; 16])?,
            _ => {}
        }
        Ok(identity)
    }

    fn arm(&mut self, change: ChangeId, imsi: Imsi) -> Result<(), RegisterError> {
        let record = self.subscribers.get_mut(&imsi).ok_or(RegisterError::NotFound)?;
        if record.held.change != Some(change) {
            return Err(RegisterError::Conflict("the identity is another change's".to_owned()));
        }
        record.held.access = true;
        Ok(())
    }

    fn vectors(&mut self, imsi: Imsi, wanted: &VectorsWanted) -> Result<Vec<Vector>, RegisterError> {
        let record = self.subscribers.get_mut(&imsi).ok_or(RegisterError::NotFound)?;
        if !record.held.access {
            return Err(RegisterError::Refused("the identity has no access".to_owned()));
        }
        let key = |secret: &Secret| <[u8; 16]>::try_from(secret.as_bytes()).ok();
        let (Some(k), Some(opc)) = (key(&record.k), key(&record.opc)) else {
            return Err(RegisterError::Refused("the register speaks Milenage only".to_owned()));
        };
        let milenage = Milenage::new(&k, &opc);
        if let Some((rand, auts)) = &wanted.resynchronisation {
            let highest = aka::open_auts(&milenage, rand, auts);
            let highest = highest.ok_or_else(|| RegisterError::Refused("MAC-S is wrong".to_owned()))?;
            record.seq = record.seq.max(highest.seq());
        }
        let amf = if wanted.aka_prime { [0x80, 0x00] } else { [0x00, 0x00] };
        let vectors = (0..wanted.count.clamp(1, VECTORS_MAX)).map(|_| {
            record.seq += 1;
            let mut rand = [0xA5; 16];
            rand[8..].copy_from_slice(&record.seq.to_be_bytes());
            Vector::new(&milenage, rand, Sqn::from_parts(record.seq, IND), amf)
        });
        Ok(vectors.collect())
    }

    fn watch(&self, imsi: Imsi) -> Seen {
        match self.subscribers.get(&imsi) {
            Some(record) => Seen { known: true, attached: record.held.attached },
            None => Seen::default(),
        }
    }

    fn withdraw(&mut self, imsi: Imsi) {
        if let Some(record) = self.subscribers.get_mut(&imsi) {
            record.held.access = false;
            record.held.attached = false;
        }
    }

    fn retire(&mut self, imsi: Imsi) {
        if self.subscribers.remove(&imsi).is_some() {
            self.retired += 1;
        }
    }

    fn release(&mut self, change: ChangeId) {
        if let Some(imsi) = self.changes.insert(change, None).flatten()
            && self.subscribers.get(&imsi).is_some_and(|record| record.held.change == Some(change))
        {
            self.subscribers.remove(&imsi);
            self.free.push_back(imsi);
        }
    }

    fn provision(&mut self, subscriber: &Subscriber) -> Result<(), RegisterError> {
        if let Some(record) = self.subscribers.get(&subscriber.imsi) {
            let is_same = record.held.card == subscriber.card
                && record.k == subscriber.k
                && record.opc == subscriber.opc
                && record.msisdn == subscriber.msisdn;
            let other = || RegisterError::Conflict("the identity is there with other values".to_owned());
            return if is_same { Ok(()) } else { Err(other()) };
        }
        self.free.retain(|free| *free != subscriber.imsi);
        let Subscriber { card, imsi, k, opc, msisdn, .. } = subscriber.clone();
        let held = Held { card, change: None, access: true, attached: false };
        self.subscribers.insert(imsi, Record { held, k, opc, msisdn, seq: 0 });
        Ok(())
    }

    fn pool(&self) -> PoolState {
        let assigned = self.subscribers.values().filter(|record| record.held.access).count() as u64;
        PoolState {
            free: self.free.len() as u64,
            reserved: self.subscribers.len() as u64 - assigned,
            assigned,
            retired: self.retired,
        }
    }
}

impl Register for MemoryRegister {
    fn name(&self) -> String {
        self.lock().name.clone()
    }

    fn reserve(&self, change: ChangeId, card: CardId) -> Answer<'_, NewIdentity> {
        let other = |identity| Ok(NewIdentity { change: ChangeId(!change.0), ..identity });
        let answer = self.verb(Verb::Reserve, Some(change), |memory| memory.reserve(change, card), other);
        Box::pin(async move { answer })
    }

    fn arm(&self, change: ChangeId, imsi: Imsi) -> Answer<'_, ()> {
        let answer = self.verb(Verb::Arm, Some(change), |memory| memory.arm(change, imsi), mixed_up);
        Box::pin(async move { answer })
    }

    fn vectors(&self, imsi: Imsi, wanted: VectorsWanted) -> Answer<'_, Vec<Vector>> {
        let answer = self.verb(Verb::Vectors, None, |memory| memory.vectors(imsi, &wanted), mixed_up);
        Box::pin(async move { answer })
    }

    fn watch(&self, imsi: Imsi) -> Answer<'_, Seen> {
        let answer = self.verb(Verb::Watch, None, |memory| Ok(memory.watch(imsi)), mixed_up);
        Box::pin(async move { answer })
    }

    fn withdraw(&self, change: ChangeId, imsi: Imsi) -> Answer<'_, ()> {
        let work = |memory: &mut Memory| {
            memory.withdraw(imsi);
            Ok(())
        };
        let answer = self.verb(Verb::Withdraw, Some(change), work, mixed_up);
        Box::pin(async move { answer })
    }

    fn retire(&self, change: ChangeId, imsi: Imsi) -> Answer<'_, ()> {
        let work = |memory: &mut Memory| {
            memory.retire(imsi);
            Ok(())
        };
        let answer = self.verb(Verb::Retire, Some(change), work, mixed_up);
        Box::pin(async move { answer })
    }

    fn release(&self, change: ChangeId, _imsi: Imsi) -> Answer<'_, ()> {
        let work = |memory: &mut Memory| {
            memory.release(change);
            Ok(())
        };
        let answer = self.verb(Verb::Release, Some(change), work, mixed_up);
        Box::pin(async move { answer })
    }

    fn provision(&self, subscriber: Subscriber) -> Answer<'_, ()> {
        let answer = self.verb(Verb::Provision, None, |memory| memory.provision(&subscriber), mixed_up);
        Box::pin(async move { answer })
    }

    fn pool(&self) -> Answer<'_, PoolState> {
        let state = self.lock().pool();
        Box::pin(async move { Ok(state) })
    }
}

/// K and OPc of a test identity: never zero, different for all.
fn keys_of(imsi: Imsi) -> (Secret, Secret) {
    use sha2::{Digest, Sha256};
    let both: [u8; 32] = Sha256::digest(format!("simulated subscriber {imsi}")).into();
    // Halves of 16 bytes fit a secret.
    let half = |bytes: &[u8]| Secret::new(bytes).unwrap_or_else(|| unreachable!("16 bytes fit"));
    (half(&both[..16]), half(&both[16..]))
}

/// The number of a test identity: 88 and the digits behind its MCC and MNC.
fn number_of(imsi: Imsi) -> Option<Msisdn> {
    format!("88{}", imsi.to_string().get(3..)?).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> CardId {
        "8988211000000000011".parse().unwrap()
    }

    #[tokio::test]
    async fn an_identity_from_the_pool_to_its_end() {
        let register = MemoryRegister::new("two", "00102", 2);
        let identity = register.reserve(ChangeId(1), card()).await.unwrap();
        assert!(identity.imsi.to_string().starts_with("00102"));
        assert_eq!(register.reserve(ChangeId(1), card()).await.unwrap().imsi, identity.imsi);
        assert!(!register.attach(identity.imsi), "it is not armed");
        register.arm(ChangeId(1), identity.imsi).await.unwrap();
        assert_eq!(
            register.vectors(identity.imsi, VectorsWanted::plain(2)).await.unwrap_or_default().len(),
            2
        );
        assert!(register.attach(identity.imsi));
        assert_eq!(register.watch(identity.imsi).await, Ok(Seen { known: true, attached: true }));
        register.withdraw(ChangeId(2), identity.imsi).await.unwrap();
        register.retire(ChangeId(2), identity.imsi).await.unwrap();
        register.retire(ChangeId(2), identity.imsi).await.unwrap();
        let state = PoolState { free: 1, reserved: 0, assigned: 0, retired: 1 };
        assert_eq!(register.pool().await, Ok(state));
    }

    #[tokio::test]
    async fn a_reservation_that_comes_after_its_release_is_refused() {
        let register = MemoryRegister::new("two", "00102", 2);
        let identity = register.reserve(ChangeId(1), card()).await.unwrap();
        register.release(ChangeId(1), identity.imsi).await.unwrap();
        register.release(ChangeId(3), identity.imsi).await.unwrap();
        for change in [1, 3] {
            let late = register.reserve(ChangeId(change), card()).await;
            assert!(matches!(late, Err(RegisterError::Conflict(_))));
        }
        assert_eq!(register.pool().await.unwrap().free, 2);
    }

    #[tokio::test]
    async fn faults_come_once_and_in_order() {
        let register = MemoryRegister::new("two", "00102", 4);
        register.fail_next(Verb::Reserve, Fault::TimeoutAfter);
        register.fail_next(Verb::Reserve, Fault::ShortKey);
        register.fail_next(Verb::Reserve, Fault::AnotherAnswer);
        assert!(matches!(register.reserve(ChangeId(1), card()).await, Err(RegisterError::Unknown(_))));
        assert_eq!(register.pool().await.unwrap().reserved, 1);
        assert_eq!(register.reserve(ChangeId(1), card()).await.unwrap().k.as_bytes().len(), 15);
        assert_ne!(register.reserve(ChangeId(1), card()).await.unwrap().change, ChangeId(1));
        assert_eq!(register.reserve(ChangeId(1), card()).await.unwrap().change, ChangeId(1));
        assert_eq!(register.pool().await.unwrap().reserved, 1);
    }
}
