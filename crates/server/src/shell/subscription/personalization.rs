//! The personalization message of a change, from the identity that register 2 gave to the data of its packets.
//!
//! The message is made once, when the identity is there, and sealed beside the change with the identity: whatever becomes
//! of settings afterwards, every copy of its packets has the same bytes.

use std::collections::BTreeMap;

use simtide_platform::content::HexBytes;
use simtide_platform::subscription::{Change, OperatorSettings};
use simtide_protocol::apdu::Command as Apdu;
use simtide_protocol::card_file::Secret;
use simtide_protocol::ids::{Imsi, Msisdn};
use simtide_protocol::personalization::{
    self as card, Identity, IdentityError, Message, MessageError, OperatorFile, OperatorFiles, Options,
    Protection,
};
use simtide_protocol::profile::{ApplicationKind, Profile};
use simtide_protocol::script::ScriptError;
use simtide_protocol::script::compact::Script;
use zeroize::Zeroizing;

use crate::registers::NewIdentity;
use crate::vault::SEAL_BYTES;

/// Bytes of a change's sealed record at most.
const SEALED_BYTES_MAX: usize = 1_024;
/// Bytes of identity and message together at most.
const RECORD_BYTES_MAX: usize = SEALED_BYTES_MAX - SEAL_BYTES - 2;
/// Second octet of the SPI of every packet of a change: proof by SMS-SUBMIT with CC, ciphered (ETSI TS 102 225, 5.1.1).
const PROOF_SPI: u16 = 0x0039;

/// Why there is no message, or none that can be read.
#[derive(Debug, thiserror::Error)]
pub enum PersonalizationError {
    /// The identity is not usable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The message cannot be made.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// Too much for one record.
    #[error(
        "identity and message have {0} bytes, {RECORD_BYTES_MAX} are kept: leave out some files of the operator"
    )]
    TooLong(usize),
    /// A file that the operator's settings name.
    #[error("there is no file named {0}: see docs/card-profile.md for the names")]
    File(String),
    /// The record is not what was sealed.
    #[error("the sealed record of the change is damaged")]
    Damaged,
    /// The commands make no script.
    #[error(transparent)]
    Script(#[from] ScriptError),
}

/// Where packets of changes go on cards of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receiver {
    /// The application.
    pub tar: simtide_protocol::ids::Tar,
    /// The key set of all packets of changes.
    pub key_set: u8,
    /// How they are protected and answered.
    pub spi: u16,
}

impl Receiver {
    /// The personalization application of a profile; `None` where its cards have none.
    pub fn of(profile: &Profile) -> Option<Receiver> {
        let application = profile.application(ApplicationKind::Personalization)?;
        let key_set = *application.key_sets.first()?;
        let spi = u16::from_be_bytes(profile.key_set(key_set)?.spi.to_bytes());
        Some(Receiver { tar: application.tar, key_set, spi: spi & 0xFF00 | PROOF_SPI })
    }
}

/// What a change carries, opened. Holds keys.
pub struct Carried {
    /// Identity 2.
    pub identity: Identity,
    /// The message, protected by the admin code as the profile says.
    pub message: Zeroizing<Vec<u8>>,
}

impl Carried {
    /// Makes the message of a change for its card, which sends to `service_number` from then on; `None`: as before.
    ///
    /// # Errors
    /// Identity, files or admin code are not usable; nothing of a key is said.
    pub fn new(
        change: &Change,
        given: &NewIdentity,
        settings: &OperatorSettings,
        service_number: Option<Msisdn>,
        protection: Protection,
        admin_code: &Secret,
    ) -> Result<Carried, PersonalizationError> {
        let identity = Identity::new(given.imsi, given.algorithm, given.k.clone(), given.opc.clone())?;
        let name = shortened(&settings.display_name, card::NAME_BYTES_MAX);
        let options = Options {
            ask_user: change.terms.ask_user,
            // The user's agreement is kept with every change.
            agreed: true,
            guard_s: change.terms.guard_s,
            wait_for_service: false,
        };
        let message = Message {
            change: change.id,
            options,
            operator_name: name.to_owned(),
            service_number,
            identity: identity.clone(),
            files: files(settings, &given.imsi, given.msisdn.as_ref())?,
        };
        let message = message.seal(protection, &change.card, admin_code)?;
        Ok(Carried { identity, message })
    }

    /// As it is sealed: length of the identity, identity, message.
    ///
    /// # Errors
    /// It is too long for the record.
    pub fn to_plain(&self) -> Result<Zeroizing<Vec<u8>>, PersonalizationError> {
        let mut identity = Zeroizing::new(Vec::with_capacity(128));
        self.identity.push(&mut identity);
        let mut plain = Zeroizing::new(Vec::with_capacity(SEALED_BYTES_MAX));
        // Identities have at most 128 bytes.
        plain.push(identity.len() as u8);
        plain.extend_from_slice(&identity);
        plain.extend_from_slice(&self.message);
        if plain.len() > RECORD_BYTES_MAX {
            return Err(PersonalizationError::TooLong(plain.len()));
        }
        Ok(plain)
    }

    /// Reads [`Carried::to_plain`].
    ///
    /// # Errors
    /// It is something else.
    pub fn from_plain(plain: &[u8]) -> Result<Carried, PersonalizationError> {
        let (length, rest) = plain.split_first().ok_or(PersonalizationError::Damaged)?;
        let (identity, message) =
            rest.split_at_checked(usize::from(*length)).ok_or(PersonalizationError::Damaged)?;
        Ok(Carried { identity: Identity::parse(identity)?, message: Zeroizing::new(message.to_vec()) })
    }

    /// The data of the packet that carries the message.
    ///
    /// # Errors
    /// The message makes no script.
    pub fn script(&self) -> Result<Vec<u8>, PersonalizationError> {
        let commands: Vec<Zeroizing<Vec<u8>>> =
            card::commands(&self.message).into_iter().map(Zeroizing::new).collect();
        script(commands.iter().map(|command| command.as_slice()))
    }
}

/// The data of a fence.
///
/// # Errors
/// Never: the command is a script.
pub fn fence() -> Result<Vec<u8>, PersonalizationError> {
    script(std::iter::once(card::read_status().as_slice()))
}

/// The data of a packet that shows the user a text.
///
/// # Errors
/// The text is empty.
pub fn show_text(text: &str) -> Result<Vec<u8>, PersonalizationError> {
    script(std::iter::once(card::show_text(text).as_slice()))
}

/// Whether a packet's data is a text for the user: harmless, and given up at the end of its validity.
pub fn is_text(data: &[u8]) -> bool {
    data.starts_with(&[0x80, 0x54, 0x00, 0x00])
}

fn script<'a>(commands: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, PersonalizationError> {
    let mut script = Script::new();
    let mut waiting: Option<Apdu<'a>> = None;
    for bytes in commands {
        let command = Apdu::parse(bytes).map_err(|_| PersonalizationError::Damaged)?;
        if let Some(before) = waiting.replace(command) {
            script.push(&before);
        }
    }
    let last = waiting.ok_or(PersonalizationError::Damaged)?;
    Ok(script.finish_with(&last)?)
}

/// What changes on the card with the operator: what follows from the subscription, then what the settings say.
fn files(
    settings: &OperatorSettings,
    imsi: &Imsi,
    msisdn: Option<&Msisdn>,
) -> Result<OperatorFiles, PersonalizationError> {
    let mnc_digits = settings.mnc.len() as u8;
    let mut files = OperatorFiles::of_subscription(imsi, mnc_digits, msisdn)
        .with_home_network(&settings.mcc, &settings.mnc)
        .with_service_provider_name(&settings.display_name);
    for (name, content) in &settings.files {
        files.push(file_named(name)?, content.0.clone());
    }
    Ok(files)
}

/// Names of files in an operator's settings.
const FILES: [(&str, OperatorFile); 13] = [
    ("ad", OperatorFile::AdministrativeData),
    ("acc", OperatorFile::AccessClass),
    ("smsp", OperatorFile::ShortMessageParameters),
    ("spn", OperatorFile::ServiceProviderName),
    ("ehplmn", OperatorFile::EquivalentHomeNetworks),
    ("hplmnwact", OperatorFile::HomeNetworkSelector),
    ("oplmnwact", OperatorFile::OperatorNetworkSelector),
    ("msisdn", OperatorFile::Msisdn),
    ("suci-calc-info", OperatorFile::SuciCalculation),
    ("routing-indicator", OperatorFile::RoutingIndicator),
    ("impi", OperatorFile::PrivateIdentity),
    ("impu", OperatorFile::PublicIdentity),
    ("domain", OperatorFile::HomeDomain),
];

fn file_named(name: &str) -> Result<OperatorFile, PersonalizationError> {
    if let Some((_, file)) = FILES.iter().find(|(known, _)| *known == name) {
        return Ok(file.clone());
    }
    name.parse().map(OperatorFile::Other).map_err(|_| PersonalizationError::File(name.to_owned()))
}

/// Refuses files that no card has a name for.
///
/// # Errors
/// The first such name.
pub fn check_files(files: &BTreeMap<String, HexBytes>) -> Result<(), PersonalizationError> {
    files.keys().try_for_each(|name| file_named(name).map(drop))
}

fn shortened(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
