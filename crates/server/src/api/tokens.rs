//! Tokens of the API: shown once, hashed at rest, scoped to a tenant and a role.
//!
//! They lie in `api-tokens.toml` in the data folder, as SHA-256 of 32 random bytes: a stolen file opens nothing. The
//! first start makes one for an administrator and writes it to `admin.token`, readable by its owner only.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use simtide_protocol::ids::EpochMs;
use subtle::ConstantTimeEq;

use crate::store::{OperatorId, TenantId};

/// Most tokens of a platform.
pub const TOKENS_MAX: usize = 1_000;
/// Every token begins like this, so that scanners of leaked secrets know it.
const PREFIX: &str = "simtide_";
const FILE: &str = "api-tokens.toml";
/// File of the first token, in the data folder.
pub const FIRST_TOKEN_FILE: &str = "admin.token";

/// What a token may do; each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Read.
    Viewer,
    /// Import cards, run campaigns, send commands.
    Operator,
    /// Make and revoke tokens, change profiles.
    Admin,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Name of the token, for the audit trail.
    pub name: String,
    /// Whose cards it sees.
    pub tenant: TenantId,
    /// What it may do.
    pub role: Role,
    /// The operator that it acts for: it sees that operator's cards and its side of changes. `None`: the whole service.
    pub operator: Option<OperatorId>,
}

/// A token as kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    name: String,
    tenant: u32,
    role: Role,
    /// Row of the operator that it acts for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operator: Option<u32>,
    /// SHA-256 of the token, hex.
    sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<EpochMs>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    tokens: Vec<Kept>,
}

/// A token as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenEntry {
    /// Name, unique within the platform.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Row number of the operator that it acts for; none: the whole service.
    pub operator: Option<u32>,
    /// Without it the token does not expire.
    pub expires_at: Option<EpochMs>,
}

/// All tokens of a platform.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    kept: RwLock<Vec<Kept>>,
}

/// Why tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read or written.
    #[error("the token file {path} cannot be used: {source}; make it readable and writable for the platform")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what this version writes.
    #[error("the token file {path} is damaged: {reason}; restore it, or remove it to get a new first token")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The name is in use.
    #[error("a token named {0} is there already; choose another name or revoke it first")]
    Name(String),
    /// There is no such token.
    #[error("there is no token named {0}")]
    Unknown(String),
    /// Too many.
    #[error("there are {TOKENS_MAX} tokens already; revoke some")]
    TooMany,
}

/// Why a caller was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No token, or one that nobody knows.
    #[error("send a valid token: Authorization: Bearer <token>")]
    Unknown,
    /// Known once.
    #[error("the token has expired; ask an administrator for a new one")]
    Expired,
}

impl Tokens {
    /// Opens the tokens of a data folder; makes the first one if there is none and says where it was written.
    pub fn open(folder: &Path) -> Result<(Tokens, Option<PathBuf>), TokenError> {
        let path = folder.join(FILE);
        let failed = |source| TokenError::File { path: path.clone(), source };
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let file: File = toml::from_str(&text)
                    .map_err(|error| TokenError::Damaged { path: path.clone(), reason: error.to_string() })?;
                Ok((Tokens { path, kept: RwLock::new(file.tokens) }, None))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let tokens = Tokens { path: path.clone(), kept: RwLock::new(Vec::new()) };
                let token = tokens.create("admin", TenantId(1), Role::Admin, None)?;
                let first = folder.join(FIRST_TOKEN_FILE);
                write_private(&first, format!("{token}\n").as_bytes()).map_err(failed)?;
                Ok((tokens, Some(first)))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Who a token belongs to.
    pub fn caller(&self, token: &str, now: EpochMs) -> Result<Caller, Denied> {
        let hash = hash(token);
        let kept = self.kept.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let found = kept.iter().find(|kept| bool::from(kept.sha256.as_bytes().ct_eq(hash.as_bytes())));
        let found = found.ok_or(Denied::Unknown)?;
        if found.expires_at.is_some_and(|at| at <= now) {
            return Err(Denied::Expired);
        }
        Ok(Caller {
            name: found.name.clone(),
            tenant: TenantId(found.tenant),
            role: found.role,
            operator: found.operator.map(OperatorId),
        })
    }

    /// Makes a token. It is answered once and kept as a hash only.
    pub fn create(
        &self,
        name: &str,
        tenant: TenantId,
        role: Role,
        expires_at: Option<EpochMs>,
    ) -> Result<String, TokenError> {
        self.create_for(name, tenant, role, None, expires_at)
    }

    /// Makes a token that acts for one operator only.
    pub fn create_for(
        &self,
        name: &str,
        tenant: TenantId,
        role: Role,
        operator: Option<OperatorId>,
        expires_at: Option<EpochMs>,
    ) -> Result<String, TokenError> {
        let token = format!("{PREFIX}{}", hex::encode(crate::card_port::random::<32>()));
        let mut kept = self.kept.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if kept.iter().any(|kept| kept.name == name) {
            return Err(TokenError::Name(name.to_owned()));
        }
        if kept.len() >= TOKENS_MAX {
            return Err(TokenError::TooMany);
        }
        let mut next = kept.clone();
        next.push(Kept {
            name: name.to_owned(),
            tenant: tenant.0,
            role,
            operator: operator.map(|operator| operator.0),
            sha256: hash(&token),
            expires_at,
        });
        self.write(&next)?;
        *kept = next;
        Ok(token)
    }

    /// Ends a token of a tenant.
    pub fn revoke(&self, name: &str, tenant: TenantId) -> Result<(), TokenError> {
        let mut kept = self.kept.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut next = kept.clone();
        next.retain(|kept| kept.name != name || kept.tenant != tenant.0);
        if next.len() == kept.len() {
            return Err(TokenError::Unknown(name.to_owned()));
        }
        self.write(&next)?;
        *kept = next;
        Ok(())
    }

    /// The tokens of a tenant.
    pub fn list(&self, tenant: TenantId) -> Vec<TokenEntry> {
        let kept = self.kept.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let of_tenant = kept.iter().filter(|kept| kept.tenant == tenant.0);
        let entry = |kept: &Kept| TokenEntry {
            name: kept.name.clone(),
            role: kept.role,
            operator: kept.operator,
            expires_at: kept.expires_at,
        };
        of_tenant.map(entry).collect()
    }

    fn write(&self, kept: &[Kept]) -> Result<(), TokenError> {
        let text = toml::to_string(&File { tokens: kept.to_vec() })
            .map_err(|error| TokenError::Damaged { path: self.path.clone(), reason: error.to_string() })?;
        let next = self.path.with_extension("toml.new");
        write_private(&next, text.as_bytes())
            .and_then(|()| std::fs::rename(&next, &self.path))
            .map_err(|source| TokenError::File { path: self.path.clone(), source })
    }
}

/// Writes a file that only its owner can read.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let _ = std::fs::remove_file(path);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn hash(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NOW: EpochMs = EpochMs(1_700_000_000_000);

    #[test]
    fn the_first_start_makes_a_token_that_only_its_owner_reads() {
        let folder = tempfile::tempdir().unwrap();
        let (tokens, written) = Tokens::open(folder.path()).unwrap();
        let written = written.unwrap();
        assert_eq!(written.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let token = std::fs::read_to_string(written).unwrap();
        let admin = Caller { name: "admin".into(), tenant: TenantId(1), role: Role::Admin, operator: None };
        assert_eq!(tokens.caller(token.trim(), NOW), Ok(admin));
        let kept = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert!(!kept.contains(token.trim()), "hashed at rest");
        let (again, written) = Tokens::open(folder.path()).unwrap();
        assert!(written.is_none() && again.caller(token.trim(), NOW).is_ok());
    }

    #[test]
    fn tokens_expire_and_are_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let (tokens, _) = Tokens::open(folder.path()).unwrap();
        let token = tokens.create("ci", TenantId(2), Role::Viewer, Some(NOW)).unwrap();
        assert!(tokens.caller(&token, EpochMs(NOW.0 - 1)).is_ok());
        assert_eq!(tokens.caller(&token, NOW), Err(Denied::Expired));
        assert_eq!(tokens.caller("simtide_00", NOW), Err(Denied::Unknown));
        assert!(matches!(tokens.create("ci", TenantId(1), Role::Admin, None), Err(TokenError::Name(_))));
        assert!(matches!(tokens.revoke("ci", TenantId(1)), Err(TokenError::Unknown(_))), "another tenant's");
        let bound = tokens.create_for("two", TenantId(2), Role::Viewer, Some(OperatorId(7)), None).unwrap();
        let (again, _) = Tokens::open(folder.path()).unwrap();
        assert_eq!(again.caller(&bound, NOW).unwrap().operator, Some(OperatorId(7)));
        tokens.revoke("ci", TenantId(2)).unwrap();
        assert_eq!(tokens.caller(&token, EpochMs(0)), Err(Denied::Unknown));
        assert_eq!(tokens.list(TenantId(1)).len(), 1);
    }
}
