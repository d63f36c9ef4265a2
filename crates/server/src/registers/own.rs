//! Our own authentication centre: the pool is its data base, network elements ask it by GSUP.

use std::hint::black_box;
use std::sync::Arc;

use simtide_protocol::aka::{self, Sqn, Vector};
use simtide_protocol::gsup::Domain;
use simtide_protocol::ids::Imsi;
use simtide_protocol::milenage::Milenage;

use super::algorithm::Functions;
use super::front::{Backend, Pooled};
use super::pool::{Entry, Pool};
use super::sequence::Sequence;
use super::{Answer, RegisterError, Seen, VECTORS_MAX, VectorsWanted};

/// IND of vectors that the platform itself asks for.
pub const IND_PLATFORM: u8 = 31;
/// First IND of network elements.
pub const IND_FIRST: u8 = 1;
/// Last IND of network elements; later ones share it.
pub const IND_LAST: u8 = 30;
/// AMF of AKA' and of EPS: the separation bit (3GPP TS 33.401, 6.1.2).
const AMF_SEPARATED: [u8; 2] = [0x80, 0x00];

/// Where an attached identity is told that it has lost its access.
pub trait NetworkElements: Send + Sync {
    /// Tells a network element by its name to forget an identity; one that is not connected is passed over.
    fn cancel(&self, element: &str, imsi: Imsi, domain: Domain);
}

/// No network element is connected.
pub struct NoElements;

impl NetworkElements for NoElements {
    fn cancel(&self, _element: &str, _imsi: Imsi, _domain: Domain) {}
}

/// The authentication centre.
pub struct Centre {
    pool: Arc<Pool>,
    sequence: Sequence,
    /// For identities that are not here.
    of_nobody: Sequence,
    elements: Arc<dyn NetworkElements>,
}

impl Centre {
    /// A centre over a pool.
    pub fn new(pool: Arc<Pool>, elements: Arc<dyn NetworkElements>) -> Arc<Centre> {
        let of_nobody = Sequence::of_nobody(pool.clone());
        Arc::new(Centre { sequence: Sequence::new(pool.clone()), of_nobody, pool, elements })
    }

    /// The centre as a register.
    pub fn register(self: &Arc<Centre>) -> Pooled {
        Pooled::new(self.pool.clone(), self.clone())
    }

    /// The pool that the centre is over.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Vectors for a user with this IND. An AUTS is opened first; where its MAC-S is wrong nothing moves.
    ///
    /// # Errors
    /// [`RegisterError::NotFound`], or [`RegisterError::Refused`] without access or with a wrong MAC-S.
    pub async fn make_vectors(
        &self,
        imsi: Imsi,
        wanted: VectorsWanted,
        ind: u8,
    ) -> Result<Vec<Vector>, RegisterError> {
        let entry = self.pool.entry(imsi)?.ok_or(RegisterError::NotFound)?;
        if !entry.access {
            return Err(RegisterError::Refused("the identity has no access".to_owned()));
        }
        let (k, opc) = entry.keys.as_ref().ok_or(RegisterError::NotFound)?;
        let functions = Functions::new(entry.algorithm, k, opc)?;
        let above = match &wanted.resynchronisation {
            Some((rand, auts)) => {
                let highest = aka::open_auts(&functions, rand, auts);
                let wrong = "MAC-S of the AUTS is wrong, nothing moved".to_owned();
                Some(highest.ok_or(RegisterError::Refused(wrong))?.seq())
            }
            None => None,
        };
        let count = wanted.count.clamp(1, VECTORS_MAX);
        let numbers = self.sequence.draw(imsi, count, above).await?;
        vectors_with(&functions, numbers, wanted.aka_prime, ind)
    }

    /// The same work for an identity that is not here, with keys that are nobody's: whoever asks in another's name over
    /// the entitlement server must not learn from the time who is a subscriber.
    async fn work_for_nobody(&self, imsi: Imsi, wanted: VectorsWanted) -> Result<(), RegisterError> {
        let functions = Functions::Milenage(Milenage::new(&[0; 16], &[0; 16]));
        if let Some((rand, auts)) = &wanted.resynchronisation {
            black_box(aka::open_auts(&functions, rand, auts));
            return Ok(());
        }
        let numbers = self.of_nobody.draw(imsi, wanted.count.clamp(1, VECTORS_MAX), None).await?;
        black_box(vectors_with(&functions, numbers, wanted.aka_prime, IND_PLATFORM)?);
        Ok(())
    }
}

fn vectors_with(
    functions: &Functions,
    numbers: Vec<u64>,
    aka_prime: bool,
    ind: u8,
) -> Result<Vec<Vector>, RegisterError> {
    let amf = if aka_prime { AMF_SEPARATED } else { [0x00, 0x00] };
    let vectors = numbers.into_iter().map(|seq| {
        let mut rand = [0; 16];
        getrandom::fill(&mut rand)
            .map_err(|_| RegisterError::Refused("the operating system gives no random numbers".to_owned()))?;
        Ok(Vector::new(functions, rand, Sqn::from_parts(seq, ind), amf))
    });
    vectors.collect()
}

impl Backend for Centre {
    fn name(&self) -> String {
        "own authentication centre".to_owned()
    }

    /// The pool has it already.
    fn write<'a>(&'a self, _entry: &'a Entry) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    /// The pool has it already.
    fn grant<'a>(&'a self, _entry: &'a Entry) -> Answer<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    fn vectors(&self, imsi: Imsi, wanted: VectorsWanted, _highest: Option<Sqn>) -> Answer<'_, Vec<Vector>> {
        Box::pin(async move {
            let made = self.make_vectors(imsi, wanted, IND_PLATFORM).await;
            if matches!(made, Err(RegisterError::NotFound)) {
                self.work_for_nobody(imsi, wanted).await?;
            }
            made
        })
    }

    fn pass_over(&self, imsi: Imsi, wanted: VectorsWanted) -> Answer<'_, ()> {
        Box::pin(self.work_for_nobody(imsi, wanted))
    }

    fn seen(&self, imsi: Imsi) -> Answer<'_, Seen> {
        Box::pin(async move {
            let entry = self.pool.entry(imsi)?.filter(|entry| entry.keys.is_some());
            Ok(entry.map_or_else(Seen::default, |entry| Seen {
                known: entry.access,
                attached: entry.access && entry.attached.is_anywhere(),
            }))
        })
    }

    fn withdraw(&self, imsi: Imsi) -> Answer<'_, ()> {
        Box::pin(async move {
            let entry = self.pool.entry(imsi)?.ok_or(RegisterError::NotFound)?;
            for domain in [Domain::CircuitSwitched, Domain::PacketSwitched] {
                let element = entry.attached.at(domain);
                if !element.is_empty() {
                    self.elements.cancel(element, imsi, domain);
                    self.pool.attached(imsi, domain, String::new()).await?;
                }
            }
            Ok(())
        })
    }

    /// The pool has forgotten it already.
    fn delete(&self, _imsi: Imsi) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

#[cfg(test)]
mod tests {
    use simtide_protocol::aka::{Outcome, SqnArray, authenticate};
    use simtide_protocol::card_file::AuthenticationAlgorithm;
    use simtide_protocol::ids::{CardId, ChangeId};

    use super::super::Register;
    use super::super::pool::Stock;
    use super::*;

    fn card() -> CardId {
        "8988211000000000011".parse().unwrap()
    }

    async fn centre(directory: &tempfile::TempDir, algorithm: AuthenticationAlgorithm) -> Arc<Centre> {
        let pool = Arc::new(Pool::open(&directory.path().join("own.db")).unwrap());
        let first = "001020000000001".parse().unwrap();
        pool.add(Stock::range(first, 3, None, algorithm).unwrap()).await.unwrap();
        Centre::new(pool, Arc::new(NoElements))
    }

    async fn armed(register: &Pooled) -> (Imsi, Functions) {
        let identity = register.reserve(ChangeId(1), card()).await.ok().unwrap();
        register.arm(ChangeId(1), identity.imsi).await.unwrap();
        let functions = Functions::new(identity.algorithm, &identity.k, &identity.opc).unwrap();
        (identity.imsi, functions)
    }

    #[tokio::test]
    async fn a_card_accepts_the_vectors_of_both_algorithms_across_a_restart() {
        for algorithm in [AuthenticationAlgorithm::Milenage, AuthenticationAlgorithm::Tuak] {
            let directory = tempfile::tempdir().unwrap();
            let mut array = SqnArray::default();
            for round in 0..3 {
                let register = centre(&directory, algorithm).await.register();
                let (imsi, functions) = armed(&register).await;
                for _ in 0..15 {
                    let vectors = register.vectors(imsi, VectorsWanted::plain(5)).await.ok().unwrap();
                    assert_eq!(vectors.len(), 5);
                    for vector in vectors {
                        match authenticate(&functions, &mut array, &vector.rand, &vector.autn) {
                            Outcome::Success(answer) => assert_eq!(answer.res, vector.xres),
                            _ => panic!("refused in round {round}"),
                        }
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn an_auts_moves_the_number_only_with_its_mac() {
        let directory = tempfile::tempdir().unwrap();
        let register = centre(&directory, AuthenticationAlgorithm::Milenage).await.register();
        let (imsi, functions) = armed(&register).await;
        let mut array = SqnArray::default();
        // The card has been somewhere else: its numbers are ahead.
        for seq in [1 << 20, 1 << 22] {
            assert!(array.accept(Sqn::from_parts(seq, IND_PLATFORM)));
        }
        let vector = register.vectors(imsi, VectorsWanted::plain(1)).await.ok().unwrap().remove(0);
        let Outcome::SynchronisationFailure { auts } =
            authenticate(&functions, &mut array, &vector.rand, &vector.autn)
        else {
            panic!("accepted")
        };
        for at in 0..auts.len() {
            let mut wrong = auts;
            wrong[at] ^= 1;
            let resynchronisation = Some((vector.rand, wrong));
            let wanted = VectorsWanted { resynchronisation, ..VectorsWanted::plain(1) };
            assert!(matches!(register.vectors(imsi, wanted).await, Err(RegisterError::Refused(_))));
        }
        let still = register.vectors(imsi, VectorsWanted::plain(1)).await.ok().unwrap().remove(0);
        let outcome = authenticate(&functions, &mut array, &still.rand, &still.autn);
        assert!(matches!(outcome, Outcome::SynchronisationFailure { .. }), "nothing moved");
        let wanted =
            VectorsWanted { resynchronisation: Some((vector.rand, auts)), ..VectorsWanted::plain(1) };
        let vector = register.vectors(imsi, wanted).await.ok().unwrap().remove(0);
        let outcome = authenticate(&functions, &mut array, &vector.rand, &vector.autn);
        assert!(matches!(outcome, Outcome::Success(_)));
    }

    #[tokio::test]
    async fn no_number_comes_twice_even_when_all_ask_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let centre = centre(&directory, AuthenticationAlgorithm::Milenage).await;
        let (imsi, _) = armed(&centre.register()).await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let centre = centre.clone();
            tasks.spawn(async move { centre.sequence.draw(imsi, 5, None).await.unwrap() });
        }
        let numbers: Vec<u64> = tasks.join_all().await.into_iter().flatten().collect();
        let different: std::collections::BTreeSet<u64> = numbers.iter().copied().collect();
        assert_eq!((numbers.len(), different.len()), (250, 250));
    }

    /// Who asks for vectors in another's name learns nothing from what it takes: numbers become durable for nobody as often
    /// as for a subscriber, and for an identity without access too.
    #[tokio::test]
    async fn an_identity_that_is_not_here_costs_what_another_does() {
        let directory = tempfile::tempdir().unwrap();
        let centre = centre(&directory, AuthenticationAlgorithm::Milenage).await;
        let register = centre.register();
        let (known, _) = armed(&register).await;
        let unknown = "001029999999999".parse().unwrap();
        let free = "001020000000003".parse().unwrap();
        for _ in 0..40 {
            assert_eq!(register.vectors(known, VectorsWanted::plain(1)).await.ok().unwrap().len(), 1);
            for stranger in [unknown, free] {
                let none = register.vectors(stranger, VectorsWanted::plain(1)).await;
                assert!(matches!(none, Err(RegisterError::NotFound)));
            }
        }
        let written = centre.pool.raise_seq(known, 0, 0).await.unwrap();
        assert_eq!((written, centre.pool.raise_nobody(0).await.unwrap()), (64, 2 * 64));
        // An AUTS that nobody's card has made moves nothing.
        let resynchronisation = Some(([1; 16], [2; 14]));
        for stranger in [known, unknown] {
            let wanted = VectorsWanted { resynchronisation, ..VectorsWanted::plain(1) };
            assert!(register.vectors(stranger, wanted).await.is_err());
        }
        let written = centre.pool.raise_seq(known, 0, 0).await.unwrap();
        assert_eq!((written, centre.pool.raise_nobody(0).await.unwrap()), (64, 2 * 64));
    }

    #[tokio::test]
    async fn the_separation_bit_is_set_for_aka_prime_only_and_access_decides() {
        let directory = tempfile::tempdir().unwrap();
        let register = centre(&directory, AuthenticationAlgorithm::Milenage).await.register();
        let identity = register.reserve(ChangeId(1), card()).await.ok().unwrap();
        let before = register.vectors(identity.imsi, VectorsWanted::plain(1)).await;
        assert!(matches!(before, Err(RegisterError::Refused(_))), "it is not armed");
        register.arm(ChangeId(1), identity.imsi).await.unwrap();
        for aka_prime in [false, true] {
            let wanted = VectorsWanted { aka_prime, ..VectorsWanted::plain(1) };
            let vector = register.vectors(identity.imsi, wanted).await.ok().unwrap().remove(0);
            assert_eq!(vector.autn[6] & 0x80 != 0, aka_prime);
        }
        register.withdraw(ChangeId(9), identity.imsi).await.unwrap();
        let after = register.vectors(identity.imsi, VectorsWanted::plain(1)).await;
        assert!(matches!(after, Err(RegisterError::Refused(_))));
        register.retire(ChangeId(9), identity.imsi).await.unwrap();
        assert_eq!(register.watch(identity.imsi).await, Ok(Seen::default()));
        assert!(register.retire(ChangeId(9), "001029999999999".parse().unwrap()).await.is_ok());
    }
}
