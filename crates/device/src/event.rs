//! What reaches a device and what it asks its shell to do.

use simtide_protocol::ids::{Imsi, Msisdn};

/// Names one opened channel for as long as the device runs. It is never used again, so that the late bytes of a closed
/// connection cannot enter the next one; the card's own channel numbers (1 to 7) are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// Something that happened outside of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Someone switches the device on.
    PowerOn,
    /// Someone switches the device off, or takes its battery out.
    PowerOff,
    /// The card answered to [`Command::Reset`] with these bytes (ATR).
    CardReset(Vec<u8>),
    /// The card's answer to the last [`Command::Transmit`]: data, then SW1 and SW2.
    CardAnswer(Vec<u8>),
    /// The card does not answer any more: taken out, or its port failed.
    CardLost,
    /// The card is to answer a challenge; [`Command::Authenticated`] with the same `id` follows.
    Authenticate {
        /// Chosen by who asks, given back.
        id: u64,
        /// RAND.
        rand: [u8; 16],
        /// AUTN.
        autn: [u8; 16],
    },
    /// The network accepted the attach.
    Attached,
    /// The network refused the attach, or has taken the registration away.
    AttachRefused {
        /// Why: 3GPP TS 24.008, 10.5.3.6.
        cause: u8,
    },
    /// The network of the card's identity is in reach, or not.
    Coverage(bool),
    /// The network hands over a short message. It waits for one [`Command::ReportSms`] with the same `id`.
    Sms {
        /// Chosen by the network, given back in the report.
        id: u64,
        /// Address of the service centre as its digits; a leading `+` means international.
        service_center: String,
        /// The SMS-DELIVER.
        tpdu: Vec<u8>,
    },
    /// What became of a message that left by [`Command::SubmitSms`]. The shell sends exactly one for each.
    SubmitOutcome {
        /// The number given in the command.
        reference: u32,
        /// Whether the service centre took it.
        accepted: bool,
    },
    /// The connection asked for by [`Command::OpenChannel`] stands.
    ChannelConnected(LinkId),
    /// The connection could not be made. The shell sends this or `ChannelConnected`, within a time of its own.
    ChannelFailed(LinkId),
    /// Bytes from the other side, at most as many as [`Command::Receive`] allowed.
    ChannelData(LinkId, Vec<u8>),
    /// So many bytes of [`Command::Send`] have left.
    ChannelSent(LinkId, usize),
    /// The other side closed the connection, or it broke.
    ChannelClosed(LinkId),
    /// The person in front of the device did something.
    User(UserAction),
    /// The time of [`crate::Device::next_deadline`] has come.
    Deadline,
}

/// What a person does at a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserAction {
    /// Wants to see to which operators the card can change ([`Command::Show`] with a list follows).
    Operators,
    /// Chose this entry of the card's menu ([`Command::MenuChanged`]).
    Menu(u8),
    /// Reads on, or says yes.
    Confirm,
    /// Says no to a yes/no question.
    Deny,
    /// Chose this entry of the list shown.
    Choose(u8),
    /// Typed this text.
    Enter(String),
    /// Goes one step back.
    Back,
    /// Ends the dialogue.
    Cancel,
}

/// What the shell has to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Reset the card and answer with [`Event::CardReset`].
    Reset,
    /// Hand this command APDU to the card and answer with [`Event::CardAnswer`].
    Transmit(Vec<u8>),
    /// The challenge with this id has its answer: [`crate::Device::take_authentication`].
    Authenticated {
        /// The id of [`Event::Authenticate`].
        id: u64,
    },
    /// Tell the network who is here.
    Attach {
        /// The identity on the card.
        imsi: Imsi,
        /// The number on the card, where it knows it.
        msisdn: Option<Msisdn>,
        /// How many digits of the identity are the network's code, where the card knows it.
        mnc_digits: Option<u8>,
    },
    /// Tell the network that this subscriber leaves.
    Detach {
        /// The identity that was attached.
        imsi: Imsi,
    },
    /// Connect to this place by TCP.
    OpenChannel {
        /// Names the connection from here on.
        link: LinkId,
        /// Address and TCP port.
        remote: std::net::SocketAddr,
    },
    /// Read at most so many bytes from the connection and hand them over as one [`Event::ChannelData`]. One such
    /// permission is open at a time.
    Receive {
        /// The connection.
        link: LinkId,
        /// Most bytes to hand over.
        bytes_max: usize,
    },
    /// Write these bytes to the connection; what has left is told by [`Event::ChannelSent`].
    Send {
        /// The connection.
        link: LinkId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Close the connection after what was sent before.
    CloseChannel {
        /// The connection.
        link: LinkId,
    },
    /// Hand this SMS-SUBMIT to the service centre and answer with [`Event::SubmitOutcome`].
    SubmitSms {
        /// Given back in the outcome.
        reference: u32,
        /// The SMS-SUBMIT, its TP-MR set.
        tpdu: Vec<u8>,
    },
    /// Answer the short message with this id.
    ReportSms {
        /// The id of [`Event::Sms`].
        id: u64,
        /// What the delivery report says.
        report: SmsReport,
    },
    /// A message that is not for the card: for the person, or for an application of the device.
    SmsReceived {
        /// The SMS-DELIVER.
        tpdu: Vec<u8>,
    },
    /// The card's menu is now this; `None` takes it away.
    MenuChanged(Option<Menu>),
    /// Show this and answer by [`Event::User`] where it asks for something.
    Show(Prompt),
    /// What was shown is over: answered, taken away by the card, or out of time.
    Clear,
    /// The text of the idle screen.
    IdleText(String),
    /// Something that the operator of the device should know.
    Notice(Notice),
}

/// What a delivery report says (3GPP TS 23.040, 9.2.2.1a).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SmsReport {
    /// RP-ACK, with the card's answer as TP user data where there is one.
    Accepted(Vec<u8>),
    /// RP-ERROR with this TP failure cause, and the card's answer where there is one.
    Refused {
        /// TP-FCS, for example D4: toolkit busy.
        cause: u8,
        /// TP user data.
        data: Vec<u8>,
    },
}

/// A menu or a list to choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Menu {
    /// What stands above the entries.
    pub title: String,
    /// Identifier and text of each entry.
    pub items: Vec<(u8, String)>,
}

/// What a person is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A text.
    Text {
        /// The text.
        text: String,
        /// Whether it stays until [`UserAction::Confirm`] comes.
        wait: bool,
    },
    /// A question that is answered by one key.
    Key {
        /// The question.
        text: String,
        /// Whether the answer is yes or no.
        yes_no: bool,
    },
    /// A question that is answered by a text.
    Input {
        /// The question.
        text: String,
        /// Fewest characters.
        length_min: u8,
        /// Most characters; FF means no limit.
        length_max: u8,
        /// Only digits, `*`, `#` and `+`.
        digits_only: bool,
        /// What is typed is not to be shown.
        hidden: bool,
        /// What stands there already.
        default: String,
    },
    /// A list to choose from.
    List(Menu),
    /// Something is being done (alpha identifier of a command); nothing is asked.
    Note(String),
}

/// Something that the operator of a device should know; logged by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The card could not be started: no ATR, or its files cannot be read.
    CardUnusable,
    /// The card had more to say than the session allows ([`crate::FETCHES_PER_SESSION_MAX`]).
    FetchLimit,
    /// The card sent a proactive command that cannot be read.
    CommandUnreadable,
    /// A message was refused because the queue is full.
    QueueFull,
    /// The card did not take a message after all attempts.
    SmsUndeliverable,
}
