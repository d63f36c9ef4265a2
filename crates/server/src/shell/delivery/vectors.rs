//! Authentication vectors for the second server: from the register of the operator whose identity it is.

use std::sync::Arc;

use simtide_protocol::aka::Vector;
use simtide_protocol::ids::Imsi;

use crate::entitlement::vectors::VectorSource;
use crate::registers::{Answer, RegisterError, VectorsWanted};
use crate::shell::Platform;
use crate::store::Alias;

/// The registers of all operators of a platform.
pub struct OfOperators(pub Arc<Platform>);

impl VectorSource for OfOperators {
    fn vectors(&self, imsi: Imsi, wanted: VectorsWanted) -> Answer<'_, Vec<Vector>> {
        Box::pin(async move {
            let store = &self.0.core.store;
            let failed = |error: crate::store::StoreError| RegisterError::Unreachable(error.to_string());
            let card = store.find(Alias::Imsi(imsi)).await.map_err(failed)?.ok_or(RegisterError::NotFound)?;
            let card = store.card(card).await.map_err(failed)?.ok_or(RegisterError::NotFound)?;
            let registers = &self.0.changes.registers;
            // A card in a change of operator proves an identity that the other operator's register has.
            let catalogue = self.0.core.catalogue();
            let owner = catalogue
                .all_operators()
                .filter(|one| one.settings.as_ref().is_some_and(|settings| settings.owns(imsi)))
                .find_map(|one| registers.of(one.id));
            // Without a register nobody of an operator can prove anything.
            let register =
                owner.or_else(|| registers.of(card.hot.operator)).ok_or(RegisterError::NotFound)?;
            register.vectors(imsi, wanted).await
        })
    }
}
