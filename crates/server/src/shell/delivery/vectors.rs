//! Authentication vectors for the second server: from the register of the operator whose identity it is.

use std::sync::Arc;

use simtide_protocol::aka::Vector;
use simtide_protocol::ids::Imsi;

use crate::entitlement::vectors::VectorSource;
use crate::registers::{Answer, RegisterError, VectorsWanted};
use crate::shell::Platform;
use crate::store::{Alias, OperatorId, StoreError, TenantId};

/// The registers of a platform's operators.
pub struct OfOperators {
    /// The platform.
    pub platform: Arc<Platform>,
    /// Those of one tenant; `None`: all.
    pub tenant: Option<TenantId>,
}

impl VectorSource for OfOperators {
    fn vectors(&self, imsi: Imsi, wanted: VectorsWanted) -> Answer<'_, Vec<Vector>> {
        Box::pin(async move {
            let registers = &self.platform.changes.registers;
            // The register that the identity's range belongs to is asked, whether or not there is a card here: a card in a
            // change of operator proves an identity of the other one, and who is nobody's card cannot be told from others.
            let catalogue = self.platform.core.catalogue();
            let owner = catalogue
                .all_operators()
                .filter(|one| self.tenant.is_none_or(|tenant| one.tenant == tenant))
                .filter(|one| one.settings.as_ref().is_some_and(|settings| settings.owns(imsi)))
                .find_map(|one| registers.of(one.id));
            let register = match owner {
                Some(owner) => owner,
                // Without a register nobody of an operator can prove anything.
                None => {
                    let operator = self.operator_of(imsi).await?;
                    registers.of(operator).ok_or(RegisterError::NotFound)?
                }
            };
            register.vectors(imsi, wanted).await
        })
    }
}

impl OfOperators {
    /// The operator that the card with this identity is with.
    async fn operator_of(&self, imsi: Imsi) -> Result<OperatorId, RegisterError> {
        let store = &self.platform.core.store;
        let failed = |error: StoreError| RegisterError::Unreachable(error.to_string());
        let card = store.find(Alias::Imsi(imsi)).await.map_err(failed)?.ok_or(RegisterError::NotFound)?;
        let card = store.card(card).await.map_err(failed)?.ok_or(RegisterError::NotFound)?;
        match self.tenant {
            Some(tenant) if tenant != card.record.tenant => Err(RegisterError::NotFound),
            Some(_) | None => Ok(card.hot.operator),
        }
    }
}
