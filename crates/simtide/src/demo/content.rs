//! What the demo's campaign does on every card, and how to see on a card that it was done once.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use simtide_protocol::apdu::Command;
use simtide_protocol::patch;
use simtide_protocol::tlv;
use simtide_simulation::reader::{Reader, ReaderError};

/// The file that the campaign updates: EF.CONFIGURATION.
pub const CONFIGURATION: [u16; 2] = [0x7F90, 0x6F04];
const CONFIGURATION_DATA: &[u8] = b"simtide demo, configuration 2";
/// The cyclic counter that one of the steps increases: it shows how often the campaign ran.
const COUNTER: [u16; 2] = [0x7F90, 0x6F03];
/// The applet that is replaced.
const LOAD_FILE: &str = "F0534D54440101";
const MODULE: &str = "F0534D5444010101";
const INSTANCE: &str = "F0534D5444010102";
/// The operating system after the patch.
const OS_VERSION: u32 = 257;
/// Issuer security domain, and its data object with the number of completed loads (docs/card-profile.md).
const SECURITY_DOMAIN: [u8; 8] = [0xA0, 0x00, 0x00, 0x01, 0x51, 0x00, 0x00, 0x00];
const LOADS_TAG: u32 = 0xDF53;

/// What a card shows of the campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// All steps, once.
    Once,
    /// Not at all, or not whole.
    Never,
    /// A step more than once.
    Twice,
}

/// The content of the campaign, as it is sent to the API: a file update, a counter that must run once, an applet
/// replaced by INSTALL and LOAD blocks, an operating-system patch by the vendor's script.
pub fn campaign() -> Result<Value, patch::ImageError> {
    let image: Vec<u8> = (0..700_u32).map(|place| (place * 31 % 253) as u8).collect();
    let patch = patch::commands(OS_VERSION, &image, &Sha256::digest(&image).into())?;
    let patch: Vec<String> = patch.iter().map(hex::encode_upper).collect();
    Ok(json!({
        "repeatable": false,
        "variants": { "*": [
            { "do": { "file_update": {
                "path": "3F00/7F90/6F04", "offset": 0, "data": hex::encode_upper(CONFIGURATION_DATA) } } },
            { "do": { "script": { "commands": ["00A4080C047F906F03", "8032000003000001"] } }, "tar": "B00000" },
            { "do": { "applet_replace": {
                "load_file": LOAD_FILE, "module": MODULE, "instance": INSTANCE,
                "code": hex::encode_upper(load_file()) } } },
            { "do": { "os_patch": { "commands": patch } } },
        ] }
    }))
}

/// A load file of three blocks; the card records and checks it, bytecode is not run.
fn load_file() -> Vec<u8> {
    let code: Vec<u8> = (0..600_u32).map(|place| (place * 7 % 251) as u8).collect();
    let mut file = Vec::new();
    tlv::push(&mut file, 0xC4, &code);
    file
}

/// Reads what happened on a card, through its own port.
pub fn effect(card: &mut Reader) -> Result<Effect, ReaderError> {
    let configuration = card.read_binary(&CONFIGURATION, CONFIGURATION_DATA.len() as u8)?;
    let counter = number(&card.read_record(&COUNTER, 1, 4)?);
    card.select_application(&SECURITY_DOMAIN)?;
    let system = data_object(card, patch::VERSION_TAG)?;
    let (version, patches) = system.split_at(system.len().min(4));
    let loads = number(&data_object(card, LOADS_TAG)?);
    // Lists of content are for secured sessions; whether an instance is there, SELECT tells everybody.
    let has_applet = hex::decode(INSTANCE).is_ok_and(|instance| card.select_application(&instance).is_ok());

    let times = [counter, number(patches), loads];
    let whole = configuration == CONFIGURATION_DATA && number(version) == OS_VERSION && has_applet;
    Ok(match times {
        [1, 1, 1] if whole => Effect::Once,
        _ if times.iter().any(|times| *times > 1) => Effect::Twice,
        _ => Effect::Never,
    })
}

/// Changes one byte of EF.CONFIGURATION under the card's administrative code, as a check of the check.
pub fn spoil(card: &mut Reader, administrative_code: &[u8]) -> Result<(), ReaderError> {
    card.transmit(Command::new(0x00, 0x20, 0x00, 0x0A).with_data(administrative_code))?;
    card.select(&CONFIGURATION)?;
    card.transmit(Command::new(0x00, 0xD6, 0x00, 0x03).with_data(&[0x21])).map(drop)
}

fn data_object(card: &mut Reader, tag: u32) -> Result<Vec<u8>, ReaderError> {
    let [.., p1, p2] = tag.to_be_bytes();
    let answer = card.transmit(Command::new(0x80, 0xCA, p1, p2).with_le(256))?;
    Ok(tlv::find(&answer, tag).unwrap_or_default().to_vec())
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}
