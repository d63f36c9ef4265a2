//! From an operator's settings to its register.
//!
//! | kind | addresses | files |
//! |---|---|---|
//! | gateway | `gateway` host:port | `ca`, `certificate`, `key`; the transport key is the operator's |
//! | osmo-hlr | `ctrl`; `gsup` and `vty` beside it unless given; loopback only | `database`: the pool |
//! | pyhss | `rest` URL, loopback unless https; `apn` id of the APN for new subscribers | `database`; `key`: the provisioning key |
//! | own | `gsup` where network elements connect, loopback only; none: nobody does | `database` |

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use simtide_platform::subscription::{OperatorSettings, RegisterKind, RegisterSettings};
use tokio::net::TcpListener;
use zeroize::Zeroizing;

use super::checked::Checked;
use super::front::Pooled;
use super::gateway::Gateway;
use super::gateway::transport::open_at_rest;
use super::gsup_server::{self, Elements};
use super::loopback::loopback;
use super::osmo_hlr::{OsmoHlr, OsmoHlrAddresses};
use super::own::Centre;
use super::pool::Pool;
use super::pyhss::PyHss;
use super::{Register, RegisterError, Registers};
use crate::store::OperatorId;
use crate::vault::Vault;

/// A register in this process, as far as it is here: what a gateway keeps to fill the pool and to report from it.
pub struct Local {
    /// The register.
    pub register: Arc<Pooled>,
    /// Its pool.
    pub pool: Arc<Pool>,
    /// Where network elements connect, for our own centre.
    pub gsup: Option<SocketAddr>,
    serving: Option<Serving>,
}

/// Network elements are served as long as this is there.
struct Serving(tokio::task::AbortHandle);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Local {
    /// Opens the pool and the connector of a register that is no gateway. Call it from a Tokio runtime.
    ///
    /// # Errors
    /// [`RegisterError::Refused`] with the setting that cannot be used.
    pub fn open(settings: &RegisterSettings, database: &Path) -> Result<Local, RegisterError> {
        let address = |name: &str| settings.addresses.get(name).map(String::as_str);
        let missing = |name: &str| RegisterError::Refused(format!("addresses.{name} is missing"));
        let new = |backend: Arc<dyn super::front::Backend>| -> Result<Local, RegisterError> {
            let pool = Arc::new(Pool::open(database)?);
            let register = Arc::new(Pooled::new(pool.clone(), backend));
            Ok(Local { register, pool, gsup: None, serving: None })
        };
        match settings.kind {
            RegisterKind::OsmoHlr => {
                let ctrl = address("ctrl").ok_or_else(|| missing("ctrl"))?;
                let addresses = OsmoHlrAddresses::read(ctrl, address("gsup"), address("vty"))?;
                new(Arc::new(OsmoHlr::new(addresses)))
            }
            RegisterKind::Pyhss => {
                let rest = address("rest").ok_or_else(|| missing("rest"))?;
                let apn = address("apn").map(str::parse).transpose();
                let apn =
                    apn.map_err(|_| RegisterError::Refused("addresses.apn must be a number".to_owned()))?;
                new(Arc::new(PyHss::new(rest, secret_of(&settings.key)?, apn)?))
            }
            RegisterKind::Own => own(address("gsup"), database),
            RegisterKind::Gateway => Err(RegisterError::Refused(
                "a gateway is no back end: give osmo-hlr, pyhss or own".to_owned(),
            )),
        }
    }
}

fn own(gsup: Option<&str>, database: &Path) -> Result<Local, RegisterError> {
    let listener = gsup.map(|text| loopback("gsup", text).and_then(listen)).transpose()?;
    let elements = Arc::new(Elements::default());
    let pool = Arc::new(Pool::open(database)?);
    let centre = Centre::new(pool.clone(), elements.clone());
    let register = Arc::new(centre.register());
    let gsup = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let serving = listener
        .map(|listener| Serving(tokio::spawn(gsup_server::serve(listener, centre, elements)).abort_handle()));
    Ok(Local { register, pool, gsup, serving })
}

fn listen(address: SocketAddr) -> Result<TcpListener, RegisterError> {
    let failed = |error: std::io::Error| {
        RegisterError::Refused(format!(
            "gsup: {address} cannot be listened on: {error}; give another address"
        ))
    };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    TcpListener::from_std(listener).map_err(failed)
}

/// The content of a file with a secret; none for no file.
///
/// # Errors
/// [`RegisterError::Refused`] with the file that cannot be read.
pub fn secret_of(path: &str) -> Result<Option<Zeroizing<String>>, RegisterError> {
    if path.is_empty() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|error| RegisterError::Refused(format!("{path}: {error}")))?;
    Ok(Some(Zeroizing::new(text.trim().to_owned())))
}

/// The register of an operator, its answers checked. Files without a folder lie in `folder`. Call it from a Tokio
/// runtime.
///
/// # Errors
/// [`RegisterError::Refused`] with the setting that cannot be used.
pub fn connect(
    operator: OperatorId,
    settings: &OperatorSettings,
    vault: &Vault,
    folder: &Path,
) -> Result<Arc<dyn Register>, RegisterError> {
    let Some(register) = &settings.register else {
        return Err(RegisterError::Refused("the operator has no register: set one".to_owned()));
    };
    let owner = settings.clone();
    let owns = Box::new(move |imsi| owner.owns(imsi));
    if register.kind == RegisterKind::Gateway {
        let address = register.addresses.get("gateway");
        let missing = || RegisterError::Refused("addresses.gateway is missing: give host:port".to_owned());
        if settings.sealed_transport_key.is_empty() {
            let why = "a register gateway needs the agreed transport key: set transport_key";
            return Err(RegisterError::Refused(why.to_owned()));
        }
        let gateway = Gateway::new(
            address.ok_or_else(missing)?,
            Path::new(&register.ca),
            Path::new(&register.certificate),
            Path::new(&register.key),
            Arc::new(open_at_rest(vault, operator, &settings.sealed_transport_key)?),
        )?;
        return Ok(Arc::new(Checked::new(Arc::new(gateway), owns)));
    }
    let database = database_of(operator, register, folder);
    let Local { register, serving, .. } = Local::open(register, &database)?;
    Ok(Arc::new(Checked::new(register, owns).keeping(Box::new(serving))))
}

fn database_of(operator: OperatorId, register: &RegisterSettings, folder: &Path) -> PathBuf {
    let name = match register.database.as_str() {
        "" => format!("register-{}.db", operator.0),
        name => name.to_owned(),
    };
    // An absolute path stays as it is.
    folder.join(name)
}

impl Registers {
    /// Connects an operator to its register, in the place of the one before; without a register in its settings it has
    /// none. Nothing is sent yet. Call it from a Tokio runtime.
    ///
    /// # Errors
    /// [`RegisterError::Refused`] with the setting that cannot be used; then the operator has no register.
    pub fn connect(
        &self,
        operator: OperatorId,
        settings: &OperatorSettings,
        vault: &Vault,
        folder: &Path,
    ) -> Result<(), RegisterError> {
        // The one before lets go of its file and its address first.
        self.remove(operator);
        if settings.register.is_some() {
            self.put(operator, connect(operator, settings, vault, folder)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use simtide_protocol::ids::ChangeId;

    use super::super::pool::Stock;
    use super::*;

    fn vault(directory: &tempfile::TempDir) -> Vault {
        let key = crate::vault::KeyFile::open_or_make(&directory.path().join("key")).unwrap();
        let keystore = directory.path().join("keystore");
        let limits = crate::vault::AlarmLimits::default();
        Vault::open(&key, &crate::vault::VaultSettings { keystore, limits }).unwrap()
    }

    fn settings(kind: RegisterKind, addresses: &[(&str, &str)]) -> OperatorSettings {
        let addresses = addresses.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let register =
            RegisterSettings { kind, addresses: addresses.collect(), ..RegisterSettings::default() };
        OperatorSettings {
            mcc: "001".into(),
            mnc: "02".into(),
            register: Some(register),
            ..OperatorSettings::default()
        }
    }

    #[tokio::test]
    async fn our_own_centre_from_its_settings_and_connected_again() {
        let directory = tempfile::tempdir().unwrap();
        let vault = vault(&directory);
        let settings = settings(RegisterKind::Own, &[("gsup", "127.0.0.1:0")]);
        let database = directory.path().join("register-7.db");
        let first = "001020000000001".parse().unwrap();
        let milenage = simtide_protocol::card_file::AuthenticationAlgorithm::Milenage;
        let stock = Stock::range(first, 1, None, milenage).unwrap();
        Pool::open(&database).unwrap().add(stock).await.unwrap();
        let registers = Registers::default();
        let card = "8988211000000000011".parse().unwrap();
        let mut found = Vec::new();
        for _ in 0..2 {
            registers.connect(OperatorId(7), &settings, &vault, directory.path()).unwrap();
            let register = registers.of(OperatorId(7)).unwrap();
            found.push(register.reserve(ChangeId(1), card).await.ok().unwrap().imsi);
        }
        assert_eq!(found[0], found[1]);
        let none = OperatorSettings { register: None, ..settings };
        registers.connect(OperatorId(7), &none, &vault, directory.path()).unwrap();
        assert!(registers.of(OperatorId(7)).is_none());
    }

    #[tokio::test]
    async fn settings_that_cannot_be_used_say_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let vault = vault(&directory);
        for (kind, addresses, expected) in [
            (RegisterKind::OsmoHlr, vec![], "ctrl"),
            (RegisterKind::OsmoHlr, vec![("ctrl", "10.1.2.3:4259")], "register-gateway"),
            (
                RegisterKind::OsmoHlr,
                vec![("ctrl", "127.0.0.1:4259"), ("gsup", "10.1.2.3:1")],
                "register-gateway",
            ),
            (RegisterKind::Pyhss, vec![], "rest"),
            (RegisterKind::Pyhss, vec![("rest", "http://10.1.2.3:8080")], "register-gateway"),
            (RegisterKind::Pyhss, vec![("rest", "http://127.0.0.1:1"), ("apn", "x")], "apn"),
            (RegisterKind::Own, vec![("gsup", "0.0.0.0:4222")], "register-gateway"),
            (RegisterKind::Gateway, vec![("gateway", "10.1.2.3:1")], "transport_key"),
        ] {
            let settings = settings(kind, &addresses);
            let error = connect(OperatorId(1), &settings, &vault, directory.path()).err().unwrap();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
