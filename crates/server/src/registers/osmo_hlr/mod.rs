//! OsmoHLR: subscribers by CTRL, vectors by GSUP, and one order by its terminal.
//!
//! | verb | what OsmoHLR is told |
//! |---|---|
//! | write | `create`, no access, `msisdn`, `aud3g`; "exists" is ours where the keys are |
//! | grant | `cs-enabled` and `ps-enabled` 1 |
//! | withdraw | `network-access-mode none` on the terminal, which tells the VLR; CTRL where there is no terminal |
//! | delete | `delete`; "doesn't exist" is done |
//! | seen | `info`: `vlr_number` or `sgsn_number` |
//! | vectors | SEND-AUTH-INFO |

pub mod ctrl;
mod vty;

use std::net::SocketAddr;

use simtide_protocol::aka::{Sqn, Vector};
use simtide_protocol::card_file::{AuthenticationAlgorithm, Secret};
use simtide_protocol::ids::Imsi;
use zeroize::Zeroizing;

use self::ctrl::{Ctrl, Reply, line};
use super::front::Backend;
use super::gsup_client::GsupClient;
use super::loopback::loopback;
use super::pool::Entry;
use super::{Answer, RegisterError, Seen, VectorsWanted};

/// Port of the terminal; OsmoHLR does not let one choose.
const TERMINAL_PORT: u16 = 4258;
/// Port of GSUP; OsmoHLR does not let one choose.
const GSUP_PORT: u16 = 4222;
/// The name that we give as a user of vectors: OsmoHLR keeps an IND for each.
const UNIT_NAME: &str = "simtide";

/// Addresses of one OsmoHLR; all of them loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsmoHlrAddresses {
    /// CTRL.
    pub ctrl: SocketAddr,
    /// GSUP.
    pub gsup: SocketAddr,
    /// The terminal (VTY).
    pub terminal: SocketAddr,
}

impl OsmoHlrAddresses {
    /// From texts; GSUP and terminal are beside CTRL unless given.
    ///
    /// # Errors
    /// [`RegisterError::Refused`] for an address that is not loopback.
    pub fn read(
        ctrl: &str,
        gsup: Option<&str>,
        terminal: Option<&str>,
    ) -> Result<OsmoHlrAddresses, RegisterError> {
        let ctrl = loopback("ctrl", ctrl)?;
        let beside = |port| Ok(SocketAddr::new(ctrl.ip(), port));
        Ok(OsmoHlrAddresses {
            ctrl,
            gsup: gsup.map_or_else(|| beside(GSUP_PORT), |text| loopback("gsup", text))?,
            terminal: terminal.map_or_else(|| beside(TERMINAL_PORT), |text| loopback("vty", text))?,
        })
    }
}

/// The connector.
pub struct OsmoHlr {
    addresses: OsmoHlrAddresses,
    ctrl: Ctrl,
    gsup: GsupClient,
}

impl OsmoHlr {
    /// Connects when it is first asked.
    pub fn new(addresses: OsmoHlrAddresses) -> OsmoHlr {
        let ctrl = Ctrl::new(addresses.ctrl);
        let gsup = GsupClient::new(addresses.gsup, UNIT_NAME);
        OsmoHlr { addresses, ctrl, gsup }
    }

    async fn write_all(&self, entry: &Entry) -> Result<(), RegisterError> {
        let imsi = entry.imsi;
        let (k, opc) = entry
            .keys
            .as_ref()
            .ok_or_else(|| RegisterError::Invalid("the pool has no keys for the identity".to_owned()))?;
        let keys = keys_text(entry.algorithm, k, opc);
        let has_keys = match self.ctrl.set("subscriber.create", &imsi.to_string()).await? {
            Reply::Value(_) => false,
            Reply::Error(text) if text.contains("already exists") => self.has_our_keys(imsi, &keys).await?,
            Reply::Error(text) => return Err(refused(&text)),
        };
        // OsmoHLR creates with access. What has its keys has been through here, and may have been let in since.
        if !has_keys {
            self.access(imsi, false).await?;
        }
        let number = entry.msisdn.map_or_else(|| "none".to_owned(), |number| number.to_string());
        self.set(imsi, "msisdn", &number).await?;
        self.set(imsi, "aud3g", &keys).await
    }

    /// "Exists" is the answer to a repeated request, which may have ended before the keys, or somebody else's
    /// subscriber.
    async fn has_our_keys(&self, imsi: Imsi, keys: &str) -> Result<bool, RegisterError> {
        let found = match self.ctrl.read(&variable(imsi, "aud3g")).await? {
            Reply::Value(found) => found,
            Reply::Error(text) => return Err(refused(&text)),
        };
        if *found == "none" {
            return Ok(false);
        }
        if same_keys(&found, keys) {
            return Ok(true);
        }
        let other =
            "the register has the identity with other keys: take it out of the pool, or out of the register";
        Err(RegisterError::Conflict(other.to_owned()))
    }

    async fn set(&self, imsi: Imsi, what: &str, value: &str) -> Result<(), RegisterError> {
        match self.ctrl.set(&variable(imsi, what), value).await? {
            Reply::Value(_) => Ok(()),
            Reply::Error(text) => Err(refused(&text)),
        }
    }

    async fn access(&self, imsi: Imsi, access: bool) -> Result<(), RegisterError> {
        // These two say nothing useful of a subscriber that is not there.
        self.info(imsi).await?;
        let value = if access { "1" } else { "0" };
        self.set(imsi, "cs-enabled", value).await?;
        self.set(imsi, "ps-enabled", value).await
    }

    async fn info(&self, imsi: Imsi) -> Result<Zeroizing<String>, RegisterError> {
        match self.ctrl.read(&variable(imsi, "info")).await? {
            Reply::Value(info) if line(&info, "imsi") == Some(&imsi.to_string()) => Ok(info),
            Reply::Value(_) => Err(RegisterError::Invalid("CTRL tells of another subscriber".to_owned())),
            Reply::Error(text) => Err(refused(&text)),
        }
    }
}

fn variable(imsi: Imsi, what: &str) -> String {
    format!("subscriber.by-imsi-{imsi}.{what}")
}

fn refused(text: &str) -> RegisterError {
    if text.contains("No such subscriber") || text.contains("doesn't exist") {
        RegisterError::NotFound
    } else {
        RegisterError::Refused(text.to_owned())
    }
}

fn keys_text(algorithm: AuthenticationAlgorithm, k: &Secret, opc: &Secret) -> Zeroizing<String> {
    let (k, opc) = (Zeroizing::new(hex::encode(k.as_bytes())), Zeroizing::new(hex::encode(opc.as_bytes())));
    Zeroizing::new(format!("{},{},opc,{}", algorithm.name(), *k, *opc))
}

/// The register adds the length of IND, and writes names in capitals.
fn same_keys(found: &str, ours: &str) -> bool {
    use subtle::ConstantTimeEq;
    let found = Zeroizing::new(found.to_ascii_lowercase());
    found.as_bytes().get(..ours.len()).is_some_and(|found| found.ct_eq(ours.as_bytes()).into())
}

impl Backend for OsmoHlr {
    fn name(&self) -> String {
        format!("OsmoHLR at {}", self.addresses.ctrl)
    }

    fn write<'a>(&'a self, entry: &'a Entry) -> Answer<'a, ()> {
        Box::pin(self.write_all(entry))
    }

    fn grant<'a>(&'a self, entry: &'a Entry) -> Answer<'a, ()> {
        Box::pin(self.access(entry.imsi, true))
    }

    fn vectors(&self, imsi: Imsi, wanted: VectorsWanted, _highest: Option<Sqn>) -> Answer<'_, Vec<Vector>> {
        Box::pin(self.gsup.vectors(imsi, wanted))
    }

    fn seen(&self, imsi: Imsi) -> Answer<'_, Seen> {
        Box::pin(async move {
            let info = match self.info(imsi).await {
                Ok(info) => info,
                Err(RegisterError::NotFound) => return Ok(Seen::default()),
                Err(error) => return Err(error),
            };
            let attached = ["vlr_number", "sgsn_number"]
                .iter()
                .any(|name| line(&info, name).is_some_and(|of| !of.is_empty()));
            Ok(Seen { known: true, attached })
        })
    }

    fn withdraw(&self, imsi: Imsi) -> Answer<'_, ()> {
        Box::pin(async move {
            self.info(imsi).await?;
            match vty::withdraw(self.addresses.terminal, imsi).await {
                Err(RegisterError::Unreachable(why)) => {
                    tracing::warn!(%why, "OsmoHLR's terminal is not there: the VLR hears of the withdrawal when it next asks");
                    self.access(imsi, false).await
                }
                other => other,
            }
        })
    }

    fn delete(&self, imsi: Imsi) -> Answer<'_, ()> {
        Box::pin(async move {
            match self.ctrl.set("subscriber.delete", &imsi.to_string()).await? {
                Reply::Value(_) => Ok(()),
                Reply::Error(text) => Err(refused(&text)),
            }
        })
    }
}
