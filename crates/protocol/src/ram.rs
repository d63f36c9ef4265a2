//! Remote application management: the C-APDUs by which a script manages the content of a card
//! (GlobalPlatform Card Specification 2.3, 11; ETSI TS 102 226, 7).
//!
//! Every function gives whole C-APDUs, ready for [`crate::script`].

use crate::apdu::Command;
use crate::ids::Aid;
use crate::poll_date::MarkFile;
use crate::tlv;

/// Data bytes of one LOAD block: leaves room for a secure messaging header in a single short C-APDU.
pub const LOAD_BLOCK_BYTES: usize = 239;

/// Most LOAD blocks: P2 is the number of the block.
pub const LOAD_BLOCKS_MAX: usize = 256;

/// Largest load file in bytes, its tag and length included.
pub const LOAD_FILE_BYTES_MAX: usize = LOAD_BLOCK_BYTES * LOAD_BLOCKS_MAX;

/// The data object in which STORE DATA carries the mark of a campaign step; ours, see `docs/card-profile.md`.
pub const MARK_TAG: u32 = 0xDF51;

/// Why there is no such command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContentCommandError {
    /// The load file is empty or does not fit the blocks.
    #[error(
        "the load file has {0} bytes: give at least 1, and with its tag and length at most {LOAD_FILE_BYTES_MAX}"
    )]
    LoadFile(usize),
    /// The fields together do not fit one command.
    #[error("the command would have {0} bytes of data, 255 are the most: shorten its parameters")]
    TooLong(usize),
    /// Bytes that cannot be a key as PUT KEY carries it.
    #[error("key {0} of PUT KEY is malformed: give 1 to 64 encrypted bytes")]
    Key(usize),
}

fn command(ins: u8, p1: u8, p2: u8, data: &[u8]) -> Result<Vec<u8>, ContentCommandError> {
    if data.len() > 255 {
        return Err(ContentCommandError::TooLong(data.len()));
    }
    Ok(Command::new(0x80, ins, p1, p2).with_data(data).with_le(256).encode())
}

/// Appends a field of INSTALL: a length of one byte and the value.
fn push_field(data: &mut Vec<u8>, value: &[u8]) -> Result<(), ContentCommandError> {
    data.push(u8::try_from(value.len()).map_err(|_| ContentCommandError::TooLong(value.len()))?);
    data.extend_from_slice(value);
    Ok(())
}

/// INSTALL [for load] (11.5.2.3.1): announces a load file. Without `security_domain` it goes to the addressed one;
/// no hash, no token.
///
/// # Errors
/// The parameters do not fit one command.
pub fn install_for_load(
    load_file: &Aid,
    security_domain: Option<&Aid>,
    parameters: &[u8],
) -> Result<Vec<u8>, ContentCommandError> {
    let mut data = Vec::new();
    push_field(&mut data, load_file.as_bytes())?;
    push_field(&mut data, security_domain.map_or(&[], Aid::as_bytes))?;
    push_field(&mut data, &[])?;
    push_field(&mut data, parameters)?;
    push_field(&mut data, &[])?;
    command(0xE6, 0x02, 0x00, &data)
}

/// LOAD (11.6): the load file data block (tag `C4`) in numbered blocks, the last one marked.
///
/// # Errors
/// The load file is empty or larger than the blocks can carry.
pub fn load(load_file: &[u8]) -> Result<Vec<Vec<u8>>, ContentCommandError> {
    let mut data = Vec::with_capacity(load_file.len() + 5);
    tlv::push(&mut data, 0xC4, load_file);
    if load_file.is_empty() || data.len() > LOAD_FILE_BYTES_MAX {
        return Err(ContentCommandError::LoadFile(load_file.len()));
    }
    let last = data.len().div_ceil(LOAD_BLOCK_BYTES) - 1;
    data.chunks(LOAD_BLOCK_BYTES)
        .enumerate()
        // At most 256 blocks, checked above.
        .map(|(number, block)| command(0xE8, if number == last { 0x80 } else { 0x00 }, number as u8, block))
        .collect()
}

/// What INSTALL [for install] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installation<'a> {
    /// The load file that holds the module.
    pub load_file: &'a Aid,
    /// The module (class) to instantiate.
    pub module: &'a Aid,
    /// Under which identifier the instance is selected.
    pub instance: &'a Aid,
    /// Privileges, 1 or 3 bytes; `00` for an ordinary application.
    pub privileges: &'a [u8],
    /// Application and system parameters as TLVs (`C9`, `EF`, `EA`); empty stands for `C9 00`.
    pub parameters: &'a [u8],
}

/// INSTALL [for install and make selectable] (11.5.2.3.2), without a token.
///
/// # Errors
/// The parameters do not fit one command.
pub fn install(installation: &Installation<'_>) -> Result<Vec<u8>, ContentCommandError> {
    let Installation { load_file, module, instance, privileges, parameters } = installation;
    let mut data = Vec::new();
    for aid in [load_file, module, instance] {
        push_field(&mut data, aid.as_bytes())?;
    }
    push_field(&mut data, privileges)?;
    push_field(&mut data, if parameters.is_empty() { &[0xC9, 0x00] } else { parameters })?;
    push_field(&mut data, &[])?;
    command(0xE6, 0x0C, 0x00, &data)
}

/// DELETE of an application or load file (11.2); with `related`, a load file and all its instances.
pub fn delete(aid: &Aid, related: bool) -> Vec<u8> {
    let mut data = Vec::new();
    tlv::push(&mut data, 0x4F, aid.as_bytes());
    Command::new(0x80, 0xE4, 0x00, if related { 0x80 } else { 0x00 }).with_data(&data).with_le(256).encode()
}

/// What GET STATUS lists (11.4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusScope {
    /// The issuer security domain.
    IssuerSecurityDomain,
    /// Applications and supplementary security domains.
    Applications,
    /// Load files.
    LoadFiles,
    /// Load files with their modules.
    LoadFilesAndModules,
}

/// GET STATUS (11.4) of everything in the scope, answered as TLVs; `next` asks for what did not fit before.
pub fn get_status(scope: StatusScope, next: bool) -> Vec<u8> {
    let p1 = match scope {
        StatusScope::IssuerSecurityDomain => 0x80,
        StatusScope::Applications => 0x40,
        StatusScope::LoadFiles => 0x20,
        StatusScope::LoadFilesAndModules => 0x10,
    };
    Command::new(0x80, 0xF2, p1, if next { 0x03 } else { 0x02 })
        .with_data(&[0x4F, 0x00])
        .with_le(256)
        .encode()
}

/// GET DATA (11.3) of the data object with this tag.
pub fn get_data(tag: u16) -> Vec<u8> {
    let [p1, p2] = tag.to_be_bytes();
    Command::new(0x80, 0xCA, p1, p2).with_le(256).encode()
}

/// One key as PUT KEY carries it: encrypted by the sender, with its check value.
pub struct KeyBlock<'a> {
    /// Key type (11.1.8): `80` 3DES, `88` AES, `85` TLS-PSK.
    pub key_type: u8,
    /// The key, encrypted under the key-encryption key of its set.
    pub encrypted: &'a [u8],
    /// First bytes of a known block encrypted by the key.
    pub check_value: [u8; 3],
}

/// PUT KEY (11.8): replaces the keys of version `replaces` (0: adds new ones) from key `first_key_id` on.
///
/// # Errors
/// A key is malformed, or the keys do not fit one command.
pub fn put_key(
    replaces: u8,
    version: u8,
    first_key_id: u8,
    keys: &[KeyBlock<'_>],
) -> Result<Vec<u8>, ContentCommandError> {
    let mut data = vec![version];
    for (place, key) in keys.iter().enumerate() {
        if !(1..=64).contains(&key.encrypted.len()) {
            return Err(ContentCommandError::Key(place + 1));
        }
        data.push(key.key_type);
        push_field(&mut data, key.encrypted)?;
        push_field(&mut data, &key.check_value)?;
    }
    let several = if keys.len() > 1 { 0x80 } else { 0x00 };
    command(0xD8, replaces, first_key_id | several, &data)
}

/// STORE DATA of one whole BER-TLV (11.11; `80 E2 90 00`).
///
/// # Errors
/// The data do not fit one command.
pub fn store_data(data: &[u8]) -> Result<Vec<u8>, ContentCommandError> {
    if data.len() > 255 {
        return Err(ContentCommandError::TooLong(data.len()));
    }
    Ok(Command::new(0x80, 0xE2, 0x90, 0x00).with_data(data).encode())
}

/// STORE DATA of the mark of a campaign step.
pub fn store_mark(mark: &MarkFile) -> Vec<u8> {
    let mut data = Vec::new();
    tlv::push(&mut data, MARK_TAG, &mark.encode());
    Command::new(0x80, 0xE2, 0x90, 0x00).with_data(&data).encode()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll_date::MarkPhase;

    fn aid(text: &str) -> Aid {
        text.parse().unwrap()
    }

    #[test]
    fn life_cycle_of_an_applet() {
        let (package, module, instance) =
            (aid("A0000000010203"), aid("A000000001020301"), aid("A000000001020302"));
        assert_eq!(
            hex::encode(install_for_load(&package, None, &[]).unwrap()),
            "80e602000c07a0000000010203000000 0000".replace(' ', "")
        );
        assert_eq!(
            hex::encode(
                install(&Installation {
                    load_file: &package,
                    module: &module,
                    instance: &instance,
                    privileges: &[0],
                    parameters: &[],
                })
                .unwrap()
            ),
            "80e60c002007a000000001020308a00000000102030108a000000001020302010002c9000000"
        );
        assert_eq!(hex::encode(delete(&package, true)), "80e40080094f07a000000001020300");
        assert_eq!(hex::encode(get_status(StatusScope::Applications, false)), "80f24002024f0000");
        assert_eq!(hex::encode(get_data(0xFF21)), "80caff2100");
    }

    #[test]
    fn load_files_are_cut_into_numbered_blocks() {
        let load_file: Vec<u8> = (0..500).map(|at| at as u8).collect();
        let blocks = load(&load_file).unwrap();
        assert_eq!(blocks.len(), 3);
        assert!(blocks[0].starts_with(&[0x80, 0xE8, 0x00, 0x00, 239, 0xC4, 0x82, 0x01, 0xF4, 0x00]));
        assert!(blocks[2].starts_with(&[0x80, 0xE8, 0x80, 0x02, 26]));
        let joined: Vec<u8> = blocks.iter().flat_map(|block| block[5..block.len() - 1].to_vec()).collect();
        assert_eq!(joined[4..], load_file);
        assert_eq!(load(&[]), Err(ContentCommandError::LoadFile(0)));
        assert_eq!(load(&vec![0; LOAD_FILE_BYTES_MAX - 4]).map(|blocks| blocks.len()), Ok(LOAD_BLOCKS_MAX));
        assert!(load(&vec![0; LOAD_FILE_BYTES_MAX - 3]).is_err());
    }

    #[test]
    fn keys_and_data() {
        let key = |byte: u8| KeyBlock { key_type: 0x88, encrypted: &[0xEE; 16], check_value: [byte; 3] };
        let coded = put_key(0x01, 0x02, 0x01, &[key(1), key(2)]).unwrap();
        assert!(coded.starts_with(&[0x80, 0xD8, 0x01, 0x81, 45, 0x02, 0x88, 16, 0xEE]));
        assert!(coded.ends_with(&[0x03, 2, 2, 2, 0]));
        let empty = KeyBlock { encrypted: &[], ..key(1) };
        assert_eq!(put_key(1, 2, 1, &[empty]), Err(ContentCommandError::Key(1)));
        let mark = MarkFile { campaign: 7, step: 1, phase: MarkPhase::Begun };
        assert_eq!(hex::encode(store_mark(&mark)), "80e290000bdf51080000000701010000");
        assert_eq!(store_data(&[0; 256]), Err(ContentCommandError::TooLong(256)));
    }
}
