//! The border to a register: what it hands out is checked before anybody uses it.

use std::any::Any;
use std::sync::Arc;

use simtide_protocol::aka::Vector;
use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
use simtide_protocol::ids::{CardId, ChangeId, Imsi};

use super::{Answer, NewIdentity, PoolState, Register, RegisterError, Seen, Subscriber, VectorsWanted};

/// Which identities an operator may hand out.
pub type Owns = Box<dyn Fn(Imsi) -> bool + Send + Sync>;

/// A register whose answers are checked: the change asked for, an IMSI of the operator, keys that can be keys.
pub struct Checked {
    inner: Arc<dyn Register>,
    owns: Owns,
    _kept: Option<Box<dyn Any + Send + Sync>>,
}

impl Checked {
    /// Checks the answers of `inner`; `owns` knows the operator's IMSI ranges.
    pub fn new(inner: Arc<dyn Register>, owns: Owns) -> Checked {
        Checked { inner, owns, _kept: None }
    }

    /// Keeps something as long as the register is there, such as what serves its network elements.
    pub fn keeping(self, kept: Box<dyn Any + Send + Sync>) -> Checked {
        Checked { _kept: Some(kept), ..self }
    }
}

impl NewIdentity {
    /// Whether the answer can be used: it is the one to this change, and its keys are keys.
    ///
    /// # Errors
    /// [`RegisterError::Invalid`] with what is wrong.
    pub fn check(&self, change: ChangeId) -> Result<(), RegisterError> {
        let invalid = |what: &str| Err(RegisterError::Invalid(what.to_owned()));
        if self.change != change {
            return invalid("it belongs to another change");
        }
        check_keys(self.algorithm, &self.k, &self.opc)
    }
}

/// Lengths of the algorithm, and no constant bytes.
///
/// # Errors
/// [`RegisterError::Invalid`] with what is wrong, without the key.
pub fn check_keys(algorithm: AuthenticationAlgorithm, k: &Secret, opc: &Secret) -> Result<(), RegisterError> {
    let (k_lengths, opc_length): (&[usize], usize) = match algorithm {
        AuthenticationAlgorithm::Milenage => (&[16], 16),
        AuthenticationAlgorithm::Tuak => (&[16, 32], 32),
    };
    let invalid = |what: String| Err(RegisterError::Invalid(what));
    if !k_lengths.contains(&k.as_bytes().len()) {
        return invalid(format!("K has {} bytes", k.as_bytes().len()));
    }
    if opc.as_bytes().len() != opc_length {
        return invalid(format!("OPc has {} bytes", opc.as_bytes().len()));
    }
    // A register that has lost its keys answers zeros, one that was never given any FF.
    let is_constant = |secret: &Secret| {
        let first = secret.as_bytes().first().copied().unwrap_or_default();
        secret.as_bytes().iter().fold(0, |sum, byte| sum | (byte ^ first)) == 0
    };
    if is_constant(k) || opc.as_bytes().iter().all(|byte| *byte == 0) {
        return invalid("its keys are all the same byte".to_owned());
    }
    Ok(())
}

impl Register for Checked {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn reserve(&self, change: ChangeId, card: CardId) -> Answer<'_, NewIdentity> {
        Box::pin(async move {
            let identity = self.inner.reserve(change, card).await?;
            identity.check(change)?;
            if !(self.owns)(identity.imsi) {
                return Err(RegisterError::Invalid("its IMSI is outside the operator's ranges".to_owned()));
            }
            Ok(identity)
        })
    }

    fn arm(&self, change: ChangeId, imsi: Imsi) -> Answer<'_, ()> {
        self.inner.arm(change, imsi)
    }

    fn vectors(&self, imsi: Imsi, wanted: VectorsWanted) -> Answer<'_, Vec<Vector>> {
        Box::pin(async move {
            let vectors = self.inner.vectors(imsi, wanted).await?;
            if vectors.is_empty() {
                return Err(RegisterError::Invalid("no vector".to_owned()));
            }
            Ok(vectors)
        })
    }

    fn watch(&self, imsi: Imsi) -> Answer<'_, Seen> {
        self.inner.watch(imsi)
    }

    fn withdraw(&self, change: ChangeId, imsi: Imsi) -> Answer<'_, ()> {
        self.inner.withdraw(change, imsi)
    }

    fn retire(&self, change: ChangeId, imsi: Imsi) -> Answer<'_, ()> {
        self.inner.retire(change, imsi)
    }

    fn release(&self, change: ChangeId, imsi: Imsi) -> Answer<'_, ()> {
        self.inner.release(change, imsi)
    }

    fn provision(&self, subscriber: Subscriber) -> Answer<'_, ()> {
        if let Err(error) = check_keys(subscriber.algorithm, &subscriber.k, &subscriber.opc) {
            return Box::pin(async move { Err(error) });
        }
        if !(self.owns)(subscriber.imsi) {
            let outside = "its IMSI is outside the operator's ranges".to_owned();
            return Box::pin(async move { Err(RegisterError::Refused(outside)) });
        }
        self.inner.provision(subscriber)
    }

    fn pool(&self) -> Answer<'_, PoolState> {
        self.inner.pool()
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::{Fault, MemoryRegister, Verb};
    use super::*;

    #[tokio::test]
    async fn answers_that_cannot_be_used_are_refused_and_the_next_one_is_taken() {
        let memory = MemoryRegister::new("two", "00102", 4);
        let register =
            Checked::new(Arc::new(memory.clone()), Box::new(|imsi| imsi.to_string().starts_with("00102")));
        let card = "8988211000000000011".parse().unwrap();
        for fault in
            [Fault::ImsiOutOfRange, Fault::ShortKey, Fault::ZeroKey, Fault::AnotherAnswer, Fault::ErrorBody]
        {
            memory.fail_next(Verb::Reserve, fault);
            let error = register.reserve(ChangeId(7), card).await.err();
            assert!(matches!(error, Some(RegisterError::Invalid(_))), "{fault:?}: {error:?}");
        }
        assert!(register.reserve(ChangeId(7), card).await.is_ok());
        assert_eq!(memory.pool().await.unwrap().reserved, 1);
    }
}
