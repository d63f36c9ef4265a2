//! What a service centre is told at its start, and how it is made to misbehave.

use serde::Deserialize;
use simtide_protocol::ids::Plmn;

use super::register::RegisterAddress;

/// Settings of a service centre.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Its own address, as devices see it (RP-OA): international digits with a plus.
    pub address: String,
    /// Who may bind.
    pub accounts: Vec<Account>,
    /// Form of the message ids.
    pub message_ids: IdStyle,
    /// Whether receipts carry receipted_message_id (001E) and message_state (0427) besides their text.
    pub receipt_parameters: bool,
    /// How long a message is kept whose sender says nothing, in seconds of the service centre's clock.
    pub validity_s: u32,
    /// Pause before a message is tried again that the device could not take now, in seconds of that clock.
    pub retry_s: u32,
    /// How long a device or a platform may take to answer, in real seconds.
    pub answer_timeout_s: u32,
    /// deliver_sm without an answer per bind.
    pub window: usize,
    /// Messages that may be stored; one more is refused with ESME_RMSGQFUL.
    pub messages_max: usize,
    /// The operator's register: with it every attach is authenticated, and numbers come from there.
    pub register: Option<RegisterAddress>,
    /// The network's code: only identities of it are let in.
    pub plmn: Option<Plmn>,
    /// The name by which the register knows this network; without one it is made of the code.
    pub element_name: Option<String>,
    /// Faults from the start on.
    pub faults: Faults,
}

impl Settings {
    /// The name by which the register knows this network.
    pub fn element_name(&self) -> String {
        self.element_name.clone().unwrap_or_else(|| match self.plmn {
            Some(plmn) => format!("simtide-smsc-{plmn}"),
            None => "simtide-smsc".to_owned(),
        })
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            address: "+436640000000".to_owned(),
            accounts: vec![Account::default()],
            message_ids: IdStyle::Decimal,
            receipt_parameters: true,
            validity_s: 86_400,
            retry_s: 60,
            answer_timeout_s: 30,
            window: 10,
            messages_max: 1_000_000,
            register: None,
            plmn: None,
            element_name: None,
            faults: Faults::default(),
        }
    }
}

/// One platform that may bind.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Account {
    /// system_id of the bind.
    pub system_id: String,
    /// password of the bind. Only for simulations: it is kept in clear.
    pub password: String,
    /// Its short codes: what devices send there goes to it. Empty: it gets all that is for no device.
    pub addresses: Vec<String>,
    /// Binds at the same time; one more is refused with ESME_RBINDFAIL.
    pub binds_max: usize,
}

impl Default for Account {
    fn default() -> Self {
        Account {
            system_id: "simtide".to_owned(),
            password: "simtide".to_owned(),
            addresses: Vec::new(),
            binds_max: 16,
        }
    }
}

/// How message ids look in the answer to a submit, and in its receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdStyle {
    /// Decimal in both.
    #[default]
    Decimal,
    /// Hexadecimal, upper case, eight digits, in both.
    Hex,
    /// Hexadecimal in the answer, decimal in the receipt.
    HexThenDecimal,
    /// A UUID in both.
    Uuid,
    /// The same text for every message, none in the receipt: only the low 8 bits of user_message_reference return.
    NotImplemented,
}

/// How a service centre misbehaves. Chances are per thousand messages.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// More submits than this within one second of real time are answered with `throttle_status`.
    pub throttle_above_per_s: Option<u32>,
    /// ESME_RTHROTTLED (0x58) or ESME_RMSGQFUL (0x14); 0 is 0x58.
    pub throttle_status: u32,
    /// Whether throttling comes as generic_nack instead of submit_sm_resp.
    pub throttle_by_nack: bool,
    /// The connection of the n-th submit (counted from 1) is dropped without an answer to it and to the
    /// `drop_window - 1` before it.
    pub drop_at_submit: Option<u64>,
    /// See `drop_at_submit`; 0 is 1.
    pub drop_window: u64,
    /// Whether the messages whose answer was dropped are delivered all the same.
    pub drop_delivers: bool,
    /// Chance that a message reaches the device twice.
    pub duplicate_permille: u32,
    /// Chance that a message is overtaken by those behind it.
    pub reorder_permille: u32,
    /// Every message waits so long before it is tried, in real milliseconds.
    pub delay_ms: u32,
    /// Chance that a message is accepted and never heard of again.
    pub lose_permille: u32,
    /// Chance that a receipt is never sent.
    pub lose_receipts_permille: u32,
    /// Receipts leave before the answer to the submit.
    pub receipt_before_answer: bool,
    /// Seed of all chances.
    pub seed: u64,
}
