//! One operator of the demo: its register behind a gateway, its SMSC, each a process of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::super::process::Role;
use super::super::stage::owned;

type Failure = Box<dyn std::error::Error>;

/// Account of the platform at every SMSC of the demo.
pub const ACCOUNT: &str = "simtide";
/// Its password.
pub const PASSWORD: &str = "demo";

/// Who an operator is.
pub struct Identity {
    /// Its name at the platform and its folder.
    pub name: &'static str,
    /// The code that users enter.
    pub id_mno: &'static str,
    /// As users see it.
    pub display_name: &'static str,
    /// Mobile country and network code.
    pub mcc: &'static str,
    /// Mobile network code.
    pub mnc: &'static str,
    /// First number of its pool.
    pub msisdn_first: &'static str,
    /// The platform's number in its network.
    pub service_number: &'static str,
}

/// The operators of the demo: cards begin with the first.
pub const OPERATORS: [Identity; 2] = [
    Identity {
        name: "one",
        id_mno: "11111",
        display_name: "Operator One",
        mcc: "001",
        mnc: "01",
        msisdn_first: "467100000001",
        service_number: "46710999",
    },
    Identity {
        name: "two",
        id_mno: "22222",
        display_name: "Operator Two",
        mcc: "001",
        mnc: "02",
        msisdn_first: "467200000001",
        service_number: "46720999",
    },
];

impl Identity {
    /// The code as files and flags have it.
    pub fn plmn(&self) -> String {
        format!("{}-{}", self.mcc, self.mnc)
    }

    /// First identity of the pool: far behind those of the vendor's file.
    fn pool_first(&self) -> String {
        format!("{}{}5000000001", self.mcc, self.mnc)
    }
}

/// A running operator.
pub struct Operator {
    /// Who it is.
    pub identity: &'static Identity,
    /// Its folder.
    folder: PathBuf,
    // In this order: the SMSC ends before the register that it asks.
    smsc: Role,
    gateway: Role,
}

impl Operator {
    /// Starts register and SMSC; the pool holds so many identities.
    pub fn start(identity: &'static Identity, folder: &Path, pool: u64) -> Result<Self, Failure> {
        let folder = folder.join(identity.name);
        fs::create_dir_all(&folder)?;
        let text = |path: PathBuf| path.display().to_string();
        let (link, database) = (text(folder.join("link")), text(folder.join("pool.db")));
        run(&["register-gateway", "certificates", "--folder", &link, "--name", "127.0.0.1"])?;
        let stock = [
            ["--database", &database],
            ["--first", &identity.pool_first()],
            ["--count", &pool.to_string()],
            ["--msisdn-first", identity.msisdn_first],
        ];
        run(&[&["register-gateway", "pool"], stock.concat().as_slice()].concat())?;
        let gateway = [
            ["--listen", "127.0.0.1:0"],
            ["--backend", "own"],
            ["--gsup", "127.0.0.1:0"],
            ["--database", &database],
            ["--link", &link],
        ];
        let gateway = Role::start("register-gateway", &owned(&gateway), &folder)?;
        let smsc = [
            ["--smpp", "127.0.0.1:0"],
            ["--air", "127.0.0.1:0"],
            ["--system-id", ACCOUNT],
            ["--password", PASSWORD],
            ["--register", &format!("gsup:{}", gateway.address("gsup"))],
            ["--plmn", &identity.plmn()],
            ["--record", &text(folder.join("smsc.jsonl"))],
        ];
        let smsc = Role::start("smsc", &owned(&smsc), &folder)?;
        Ok(Self { identity, folder, smsc, gateway })
    }

    /// The `[[smpp.links]]` of the platform's configuration.
    pub fn link(&self) -> Result<String, Failure> {
        let smpp: std::net::SocketAddr = self.smsc.address("smpp").parse()?;
        Ok(format!(
            "[[smpp.links]]\nname = \"{}\"\nhost = \"{}\"\nport = {}\nsystem_id = \"{ACCOUNT}\"\npassword = \"{PASSWORD}\"\n",
            self.identity.name,
            smpp.ip(),
            smpp.port()
        ))
    }

    /// What the platform is told.
    pub fn settings(&self) -> Result<Value, Failure> {
        let link = |name: &str| fs::canonicalize(self.folder.join("link").join(name));
        let path = |name: &str| link(name).map(|path| path.display().to_string());
        let transport = fs::read_to_string(self.folder.join("link").join("transport.key"))?;
        Ok(json!({
            "id_mno": self.identity.id_mno,
            "display_name": self.identity.display_name,
            "mcc": self.identity.mcc,
            "mnc": self.identity.mnc,
            "register": {
                "kind": "gateway",
                "addresses": { "gateway": self.gateway.address("gateway") },
                "ca": path("authority.pem")?,
                "certificate": path("platform.pem")?,
                "key": path("platform.key")?,
            },
            "smpp_links": [self.identity.name],
            "service_number": self.identity.service_number,
            "consent": "inform-after",
            "transport_key": transport.trim(),
        }))
    }

    /// Where devices of this network connect, as `simtide fleet` takes it.
    pub fn network(&self) -> String {
        format!("{}={}", self.identity.plmn(), self.smsc.address("air"))
    }

    /// Where its register answers network elements.
    pub fn gsup(&self) -> Result<std::net::SocketAddr, Failure> {
        Ok(self.gateway.address("gsup").parse()?)
    }

    /// The record of its SMSC.
    pub fn record(&self) -> PathBuf {
        self.folder.join("smsc.jsonl")
    }
}

/// Runs a command of this binary to its end.
pub fn run(arguments: &[&str]) -> Result<(), Failure> {
    let outcome = Command::new(std::env::current_exe()?).args(arguments).output()?;
    if outcome.status.success() {
        return Ok(());
    }
    let problem = [outcome.stdout, outcome.stderr].concat();
    let command = arguments.iter().take(2).copied().collect::<Vec<_>>().join(" ");
    Err(format!("simtide {command} failed: {}", String::from_utf8_lossy(&problem)).into())
}
