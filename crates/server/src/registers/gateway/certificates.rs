//! Certificates of a link: one authority for it, one certificate for each side. For trials and small set-ups; an operator
//! with an authority of its own signs with that.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name};

use super::super::RegisterError;

/// How long the authority and its certificates hold, in days.
pub const VALID_DAYS: u32 = 825;
/// Bits of a serial number (CA/Browser forum: at least 64).
const SERIAL_BITS: i32 = 127;

/// The files of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// Its certificate.
    pub certificate: PathBuf,
    /// Its key, PKCS#8, readable by its owner only.
    pub key: PathBuf,
}

/// All files of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The authority's certificate, for both sides. Its key is thrown away: a new link needs new files.
    pub authority: PathBuf,
    /// The gateway's side.
    pub gateway: Side,
    /// The platform's side.
    pub platform: Side,
    /// The transport key, 64 hex digits, for both sides.
    pub transport_key: PathBuf,
}

/// Makes the files of a link in a folder; `names` are the addresses or host names under which the platform reaches the
/// gateway. Files that are there are not touched.
///
/// # Errors
/// [`RegisterError::Refused`] with what cannot be made.
pub fn make_link(folder: &Path, names: &[String]) -> Result<Link, RegisterError> {
    let at = |name: &str| folder.join(name);
    let link = Link {
        authority: at("authority.pem"),
        gateway: Side { certificate: at("gateway.pem"), key: at("gateway.key") },
        platform: Side { certificate: at("platform.pem"), key: at("platform.key") },
        transport_key: at("transport.key"),
    };
    if names.is_empty() {
        return Err(RegisterError::Refused("give the names or addresses of the gateway".to_owned()));
    }
    let failed = |error: ErrorStack| RegisterError::Refused(format!("certificates: {error}"));
    std::fs::create_dir_all(folder)
        .map_err(|error| RegisterError::Refused(format!("{}: {error}", folder.display())))?;
    let authority_key = new_key().map_err(failed)?;
    let authority = authority(&authority_key).map_err(failed)?;
    let sign = |name: &str, names: &[String]| -> Result<(X509, PKey<Private>), ErrorStack> {
        let key = new_key()?;
        Ok((side(name, names, &key, &authority, &authority_key)?, key))
    };
    let (gateway, gateway_key) = sign("register gateway", names).map_err(failed)?;
    let (platform, platform_key) = sign("platform", &[]).map_err(failed)?;
    let mut transport = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut transport[..])
        .map_err(|_| RegisterError::Refused("the operating system gives no random numbers".to_owned()))?;
    write(&link.authority, &authority.to_pem().map_err(failed)?)?;
    write(&link.gateway.certificate, &gateway.to_pem().map_err(failed)?)?;
    write(&link.gateway.key, &gateway_key.private_key_to_pem_pkcs8().map_err(failed)?)?;
    write(&link.platform.certificate, &platform.to_pem().map_err(failed)?)?;
    write(&link.platform.key, &platform_key.private_key_to_pem_pkcs8().map_err(failed)?)?;
    write(&link.transport_key, zeroize::Zeroizing::new(hex::encode(&transport[..])).as_bytes())?;
    Ok(link)
}

/// Makes a file that only its owner reads; one that is there stays.
fn write(path: &Path, content: &[u8]) -> Result<(), RegisterError> {
    let failed = |error: std::io::Error| RegisterError::Refused(format!("{}: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)
}

fn new_key() -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    PKey::from_ec_key(EcKey::generate(&group)?)
}

fn begin(name: &str, key: &PKey<Private>) -> Result<X509Builder, ErrorStack> {
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    let mut serial = BigNum::new()?;
    serial.rand(SERIAL_BITS, MsbOption::ONE, false)?;
    let serial = serial.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    let mut subject = X509Name::builder()?;
    subject.append_entry_by_text("CN", &format!("Simtide {name}"))?;
    builder.set_subject_name(&subject.build())?;
    let (from, until) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(VALID_DAYS)?);
    builder.set_not_before(&from)?;
    builder.set_not_after(&until)?;
    builder.set_pubkey(key)?;
    Ok(builder)
}

fn authority(key: &PKey<Private>) -> Result<X509, ErrorStack> {
    let mut builder = begin("link authority", key)?;
    let mut name = X509Name::builder()?;
    name.append_entry_by_text("CN", "Simtide link authority")?;
    builder.set_issuer_name(&name.build())?;
    builder.append_extension(BasicConstraints::new().critical().ca().pathlen(0).build()?)?;
    builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
    builder.sign(key, MessageDigest::sha256())?;
    Ok(builder.build())
}

fn side(
    name: &str,
    names: &[String],
    key: &PKey<Private>,
    authority: &X509,
    authority_key: &PKey<Private>,
) -> Result<X509, ErrorStack> {
    let mut builder = begin(name, key)?;
    builder.set_issuer_name(authority.subject_name())?;
    builder.append_extension(BasicConstraints::new().critical().build()?)?;
    builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
    let mut usage = ExtendedKeyUsage::new();
    let usage = if names.is_empty() { usage.client_auth() } else { usage.server_auth() };
    builder.append_extension(usage.build()?)?;
    if !names.is_empty() {
        let mut alternatives = SubjectAlternativeName::new();
        for name in names {
            match name.parse::<IpAddr>() {
                Ok(_) => alternatives.ip(name),
                Err(_) => alternatives.dns(name),
            };
        }
        let extension = alternatives.build(&builder.x509v3_context(Some(authority), None))?;
        builder.append_extension(extension)?;
    }
    builder.sign(authority_key, MessageDigest::sha256())?;
    Ok(builder.build())
}
