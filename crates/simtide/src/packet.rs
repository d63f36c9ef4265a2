//! `simtide packet`: seal and open SCP80 packets by hand.
//!
//! A tool for people and scripts: it seals what it is asked to, also what the platform itself refuses to send.
//! Results go to standard output, packets as hex and everything read as one JSON object. Hex comes out in lower case
//! and goes in in either. A check that fails ends with exit status 1 and `{"error", "check"}` on standard output.

use std::num::{NonZeroU8, NonZeroU16};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use simtide_protocol::ids::{EpochMs, Tar};
use simtide_protocol::scp80::{
    CmacLength, CommandHeader, Counter, Crc, Key, KeySet, Kic, Kid, OpenError, RESPONSE_UDH, Response,
    SealError, Security, Spi, open, open_response, seal,
};
use simtide_protocol::script::{compact, expanded};
use simtide_protocol::sms::{
    Arrival, Assembled, Element, Limits, PacketKind, Reassembly, Reference, segment,
};

use crate::Outcome;

/// Options of `simtide packet`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Seal data into a command packet and print it, from CPL to the end
    Seal(SealArgs),
    /// Open a command packet and print what it says
    Open(OpenArgs),
    /// Open a proof of receipt and print what it says
    Receipt(ReceiptArgs),
}

#[derive(Debug, clap::Args)]
struct SealArgs {
    #[command(flatten)]
    security: SecurityArgs,
    /// Toolkit application reference: what the data is for
    #[arg(long, value_name = "HEX6")]
    tar: Tar,
    /// Replay counter, decimal or 0x..
    #[arg(long, value_name = "N", value_parser = counter)]
    cntr: Counter,
    #[command(flatten)]
    keys: KeyArgs,
    /// The secured data
    #[arg(long, value_name = "HEX", value_parser = bytes)]
    data: Bytes,
    /// Print the user data of each short message instead, one per line
    #[arg(long)]
    segments: bool,
    /// Reference of concatenated messages, from 1; above 255 the 16-bit form is used, which not every card reads
    #[arg(long = "ref", value_name = "N", default_value = "1", value_parser = reference, requires = "segments")]
    reference: NonZeroU16,
}

#[derive(Debug, clap::Args)]
struct OpenArgs {
    #[command(flatten)]
    keys: KeyArgs,
    /// The packet from CPL on, or the user data of each short message that carries it
    #[arg(value_name = "PACKET", required = true, value_parser = bytes)]
    packet: Vec<Bytes>,
}

#[derive(Debug, clap::Args)]
struct ReceiptArgs {
    #[command(flatten)]
    security: SecurityArgs,
    #[command(flatten)]
    keys: KeyArgs,
    /// The user data of each short message that carries the proof, in any order; or the packet from RPL on
    #[arg(value_name = "TPUD", required = true, value_parser = bytes)]
    user_data: Vec<Bytes>,
}

/// How the command is or was protected.
#[derive(Debug, clap::Args)]
struct SecurityArgs {
    /// Security parameters, both octets
    #[arg(long, value_name = "HEX4", value_parser = octets::<2>)]
    spi: [u8; 2],
    /// Key index and algorithm for ciphering
    #[arg(long, value_name = "HEX2", value_parser = octets::<1>)]
    kic: [u8; 1],
    /// Key index and algorithm for RC or CC
    #[arg(long, value_name = "HEX2", value_parser = octets::<1>)]
    kid: [u8; 1],
}

#[derive(Debug, clap::Args)]
struct KeyArgs {
    /// Key for ciphering: 8, 16, 24 or 32 bytes
    #[arg(long, value_name = "HEX", value_parser = key)]
    kic_key: Option<Arc<Key>>,
    /// Key for the cryptographic checksum: 8, 16, 24 or 32 bytes
    #[arg(long, value_name = "HEX", value_parser = key)]
    kid_key: Option<Arc<Key>>,
    /// Bytes of an AES-CMAC that the packet carries
    #[arg(long, value_name = "4|8", default_value = "8", value_parser = cmac_length)]
    cmac_len: CmacLength,
    /// Redundancy check where KID leaves it open (low nibble 0) [default: crc32]
    #[arg(long)]
    rc: Option<Rc>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Rc {
    Crc16,
    Crc32,
}

/// Bytes given as hex.
type Bytes = Arc<[u8]>;

/// What went wrong, with the check that found it.
#[derive(Debug, Serialize)]
struct Failed {
    error: String,
    check: &'static str,
}

/// A command packet that opened.
#[derive(Debug, Serialize)]
struct Command {
    spi: String,
    kic: String,
    kid: String,
    tar: String,
    cntr: u64,
    data: String,
}

/// A proof of receipt that opened.
#[derive(Debug, Serialize)]
struct Receipt {
    tar: String,
    cntr: u64,
    status: u8,
    status_text: &'static str,
    /// How many commands ran.
    executed: Option<u32>,
    /// Status word of the last one.
    sw: Option<String>,
    /// Data of the last one; all there is, where it is no answer to a script.
    data: String,
    authenticated: bool,
    /// Every answer, where the script was in expanded format.
    #[serde(skip_serializing_if = "Option::is_none")]
    responses: Option<Vec<Answer>>,
}

/// The answer to one command of a script.
#[derive(Debug, Serialize)]
struct Answer {
    sw: String,
    data: String,
}

/// Seals or opens.
pub fn run(args: Args) -> Outcome {
    let result = match args.action {
        Action::Seal(args) => args.run(),
        Action::Open(args) => args.run(),
        Action::Receipt(args) => args.run(),
    };
    match result {
        Ok(text) => {
            println!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Err(failed) => {
            println!("{}", json(&failed));
            Ok(ExitCode::FAILURE)
        }
    }
}

impl SealArgs {
    fn run(self) -> Result<String, Failed> {
        let security = self.security.security();
        if let (Some(asked), Ok(Some(named))) = (self.keys.crc(), security.kid.crc())
            && asked != named
        {
            return Err(Failed {
                error: format!(
                    "KID {} names another redundancy check than --rc does",
                    hex::encode(self.security.kid)
                ),
                check: "rc",
            });
        }
        let header = CommandHeader { security, tar: self.tar, counter: self.cntr };
        let packet = seal(&header, &self.keys.into_key_set(), &self.data)?;
        if !self.segments {
            return Ok(hex::encode(packet));
        }
        let reference = match NonZeroU8::try_from(self.reference).ok() {
            Some(narrow) => Reference::Narrow(narrow),
            None => Reference::Wide(self.reference.get()),
        };
        let parts = segment(&packet, PacketKind::Command, reference)
            .map_err(|error| Failed { error: error.to_string(), check: "length" })?;
        Ok(parts.iter().map(hex::encode).collect::<Vec<_>>().join("\n"))
    }
}

impl OpenArgs {
    fn run(self) -> Result<String, Failed> {
        let packet = whole_packet(&self.packet, PacketKind::Command)?;
        let opened = open(&packet, &self.keys.into_key_set())?;
        let Security { spi, kic, kid } = opened.header.security;
        Ok(json(&Command {
            spi: hex::encode(spi.to_bytes()),
            kic: hex::encode([kic.0]),
            kid: hex::encode([kid.0]),
            tar: hex::encode(opened.header.tar.0),
            cntr: opened.header.counter.value(),
            data: hex::encode(opened.data),
        }))
    }
}

impl ReceiptArgs {
    fn run(self) -> Result<String, Failed> {
        let packet = whole_packet(&self.user_data, PacketKind::Response)?;
        let response = open_response(&packet, &self.security.security(), &self.keys.into_key_set())?;
        Ok(json(&Receipt::new(&response)))
    }
}

impl SecurityArgs {
    fn security(&self) -> Security {
        Security { spi: Spi::from(self.spi), kic: Kic(self.kic[0]), kid: Kid(self.kid[0]) }
    }
}

impl KeyArgs {
    fn crc(&self) -> Option<Crc> {
        self.rc.map(|rc| match rc {
            Rc::Crc16 => Crc::Crc16,
            Rc::Crc32 => Crc::Crc32,
        })
    }

    fn into_key_set(self) -> KeySet {
        let crc = self.crc();
        let mut keys =
            KeySet::new(self.kic_key.and_then(Arc::into_inner), self.kid_key.and_then(Arc::into_inner));
        keys.cmac_length = self.cmac_len;
        keys.implicit_crc = crc.unwrap_or(keys.implicit_crc);
        keys
    }
}

impl Receipt {
    fn new(response: &Response) -> Self {
        let mut receipt = Self {
            tar: hex::encode(response.header.tar.0),
            cntr: response.header.counter.value(),
            status: response.header.status.code(),
            status_text: response.header.status.text(),
            executed: None,
            sw: None,
            data: hex::encode(&response.data),
            authenticated: response.authenticated,
            responses: None,
        };
        if let Ok(expanded) = expanded::Response::decode(&response.data) {
            let answers: Vec<Answer> = expanded.responses.iter().map(Answer::new).collect();
            receipt.executed = expanded.executed.or_else(|| u32::try_from(answers.len()).ok());
            receipt.sw = answers.last().map(|answer| answer.sw.clone());
            if let Some(last) = answers.last() {
                receipt.data.clone_from(&last.data);
            }
            receipt.responses = Some(answers);
        } else if let Ok(compact) = compact::Response::decode(&response.data) {
            receipt.executed = Some(compact.executed.into());
            receipt.sw = Some(hex::encode(compact.status.to_bytes()));
            receipt.data = hex::encode(compact.data);
        }
        receipt
    }
}

impl Answer {
    fn new(response: &simtide_protocol::apdu::Response) -> Self {
        Self { sw: hex::encode(response.status.to_bytes()), data: hex::encode(&response.data) }
    }
}

impl From<SealError> for Failed {
    fn from(error: SealError) -> Self {
        let check = match error {
            SealError::Key(_) => "key",
            SealError::DigitalSignature => "ds",
            SealError::TooLong { .. } => "length",
        };
        Self { error: error.to_string(), check }
    }
}

impl From<OpenError> for Failed {
    fn from(error: OpenError) -> Self {
        Self { error: error.to_string(), check: error.check() }
    }
}

/// The packet as it was given, or put together from the user data of short messages.
fn whole_packet(given: &[Bytes], kind: PacketKind) -> Result<Vec<u8>, Failed> {
    if let [packet] = given
        && announces_itself(packet)
    {
        return Ok(packet.to_vec());
    }
    let mut reassembly = Reassembly::new(Limits::PLATFORM);
    for user_data in given {
        let arrival = reassembly
            .accept(EpochMs::EPOCH, (), user_data)
            .map_err(|error| Failed { error: error.to_string(), check: "udh" })?;
        if let Arrival::Whole(assembled) = arrival {
            return of_kind(assembled, kind);
        }
    }
    Err(Failed {
        error: "parts of the message are missing: give the user data of all of them".into(),
        check: "parts",
    })
}

/// Whether this is a bare packet: CPL or RPL is the length of the rest, which no user data header begins like.
fn announces_itself(packet: &[u8]) -> bool {
    matches!(packet, [high, low, rest @ ..]
        if usize::from(u16::from_be_bytes([*high, *low])) == rest.len() && !packet.starts_with(&RESPONSE_UDH))
}

fn of_kind(assembled: Assembled, kind: PacketKind) -> Result<Vec<u8>, Failed> {
    if assembled.contains(kind.element_id()) {
        return Ok(assembled.data);
    }
    let hint = match kind {
        PacketKind::Command if assembled.contains(Element::RESPONSE_PACKET) => "; it is a proof of receipt",
        PacketKind::Response if assembled.contains(Element::COMMAND_PACKET) => "; it is a command",
        _ => "",
    };
    Err(Failed {
        error: format!("the user data header has no information element {:02x}{hint}", kind.element_id()),
        check: "udh",
    })
}

/// What is serialised here has string keys and finite numbers, which always works.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn bytes(text: &str) -> Result<Bytes, String> {
    hex::decode(text).map(Bytes::from).map_err(|error| format!("not hex: {error}"))
}

fn octets<const SIZE: usize>(text: &str) -> Result<[u8; SIZE], String> {
    let mut octets = [0; SIZE];
    hex::decode_to_slice(text, &mut octets).map_err(|_| format!("give {} hex digits", SIZE * 2))?;
    Ok(octets)
}

fn key(text: &str) -> Result<Arc<Key>, String> {
    let bytes = hex::decode(text).map_err(|error| format!("not hex: {error}"))?;
    Key::new(&bytes).map(Arc::new).map_err(|error| error.to_string())
}

fn counter(text: &str) -> Result<Counter, String> {
    number(text)
        .and_then(Counter::new)
        .ok_or_else(|| "give a number of at most 40 bits, decimal or 0x..".into())
}

fn reference(text: &str) -> Result<NonZeroU16, String> {
    number(text)
        .and_then(|number| u16::try_from(number).ok())
        .and_then(NonZeroU16::new)
        .ok_or_else(|| "give a number from 1 to 65535: some cards fail on reference 0".into())
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn cmac_length(text: &str) -> Result<CmacLength, String> {
    match text {
        "4" => Ok(CmacLength::Four),
        "8" => Ok(CmacLength::Eight),
        _ => Err("give 4 or 8".into()),
    }
}
