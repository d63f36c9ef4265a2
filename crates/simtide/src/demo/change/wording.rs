//! What opened messages say, in words; secrets as ****.

use simtide_protocol::card_file::CardRow;
use simtide_protocol::personalization::{
    Answer, Message, OperatorFile, PersonalizationCommand, Protection, Sealed, State, Status, Uplink,
};
use simtide_protocol::script::compact;
use zeroize::Zeroizing;

/// What stands for a secret.
const MASK: &str = "****";

/// The commands of a packet, line by line.
pub fn script(data: &[u8], row: &CardRow) -> Vec<String> {
    let mut lines = Vec::new();
    let mut message = Zeroizing::new(Vec::with_capacity(data.len()));
    for command in compact::Commands::new(data).map_while(Result::ok) {
        match PersonalizationCommand::parse(&command) {
            Ok(PersonalizationCommand::Store { block, last, bytes }) => {
                message.extend_from_slice(bytes);
                if last {
                    lines.push(format!("STORE in {} blocks:", u32::from(block) + 1));
                    lines.extend(personalization(&message, row));
                }
            }
            Ok(PersonalizationCommand::ReadStatus) => lines.push("GET STATUS".to_owned()),
            Ok(PersonalizationCommand::ReadOffer) => lines.push("GET OFFER".to_owned()),
            Ok(PersonalizationCommand::ReadIdentity { .. }) => {
                lines.push(format!("READ IDENTITY, admin code {MASK}"));
            }
            Ok(PersonalizationCommand::PutOperators { .. }) => lines.push("PUT OPERATORS".to_owned()),
            Ok(PersonalizationCommand::SealWish { .. }) => lines.push("SEAL REQUEST".to_owned()),
            Ok(PersonalizationCommand::ShowText { text }) => lines.push(format!("SHOW TEXT {text:?}")),
            // Of another application: what it says is not known here, so nothing of it is shown.
            Err(_) => lines.push(format!("command {:02X}, {} bytes", command.ins, command.data.len())),
        }
    }
    lines
}

/// A personalization message.
fn personalization(bytes: &[u8], row: &CardRow) -> Vec<String> {
    let code = row.admin_code.as_ref().and_then(|code| code.as_bytes().try_into().ok());
    let sealed = Sealed::parse(bytes);
    let Some((sealed, code)) = sealed.zip(code) else {
        return vec!["  a personalization message that cannot be read".to_owned()];
    };
    let protection = match sealed.protection() {
        Protection::AdminCode => format!("admin code {MASK}"),
        Protection::DerivedKeys => "encrypted under keys of the admin code, which does not travel".to_owned(),
    };
    let message = match sealed.open(&row.card_id(), code) {
        Ok(message) => message,
        Err(error) => return vec![format!("  change {}, {protection}: {error}", sealed.change)],
    };
    let Message { change, operator_name, identity, files, .. } = &message;
    let files: Vec<String> =
        files.as_slice().iter().map(|one| format!("{} {}", file(&one.file), content(&one.content))).collect();
    let mut lines = vec![
        format!("  change {change} to {operator_name:?}, {protection}"),
        format!("  IMSI {}, {}, K {MASK}, OPc {MASK}", identity.imsi, identity.algorithm.name()),
        format!("  {}", options(&message)),
    ];
    lines.extend(files.chunks(FILES_PER_LINE).map(|files| format!("  {}", files.join(", "))));
    lines
}

/// Files that stand in one line.
const FILES_PER_LINE: usize = 2;

fn options(message: &Message) -> String {
    let options = message.options;
    let mut said = vec![match (options.ask_user, options.agreed) {
        (true, _) => "the user is asked first".to_owned(),
        (false, true) => "the user has agreed".to_owned(),
        (false, false) => "the user is not asked".to_owned(),
    }];
    said.extend(options.guard_s.map(|guard_s| format!("the old identity is kept for {guard_s} s")));
    said.extend(message.service_number.map(|number| format!("from then on it sends to {number}")));
    said.join(", ")
}

fn file(file: &OperatorFile) -> String {
    let name = match file {
        OperatorFile::AdministrativeData => "EF.AD",
        OperatorFile::AccessClass => "EF.ACC",
        OperatorFile::ShortMessageParameters => "EF.SMSP",
        OperatorFile::ServiceProviderName => "EF.SPN",
        OperatorFile::EquivalentHomeNetworks => "EF.EHPLMN",
        OperatorFile::HomeNetworkSelector => "EF.HPLMNwAcT",
        OperatorFile::OperatorNetworkSelector => "EF.OPLMNwAcT",
        OperatorFile::Msisdn => "EF.MSISDN",
        OperatorFile::SuciCalculation => "EF.SUCI_Calc_Info",
        OperatorFile::RoutingIndicator => "EF.Routing_Indicator",
        OperatorFile::PrivateIdentity => "EF.IMPI",
        OperatorFile::PublicIdentity => "EF.IMPU",
        OperatorFile::HomeDomain => "EF.DOMAIN",
        OperatorFile::Other(path) => return path.to_string(),
    };
    name.to_owned()
}

/// The text where it is one, behind tag and length or behind EF.SPN's first byte; else hex.
fn content(bytes: &[u8]) -> String {
    let text = match bytes {
        [0x80, length, text @ ..] if usize::from(*length) == text.len() => text,
        [0x01, text @ ..] => text,
        _ => &[],
    };
    let is_text = !text.is_empty() && text.iter().all(|byte| (b' '..=b'~').contains(byte));
    if is_text { String::from_utf8_lossy(text).into_owned() } else { hex::encode(bytes) }
}

/// The data of a proof.
pub fn answer(data: &[u8]) -> Vec<String> {
    let Ok(response) = compact::Response::decode(data) else { return Vec::new() };
    let one = |answer: &Answer| {
        let yes = if answer.agreed { ", the user said yes" } else { "" };
        format!("  change {}: {}{yes}", answer.change, state(answer.state))
    };
    let mut lines = vec![format!("{} commands, status word {}", response.executed, response.status)];
    if let Ok(status) = Status::parse(&response.data) {
        let digest = hex::encode(status.digest);
        lines.push(format!("  identity {digest}, {} attempts at the admin code left", status.attempts_left));
        lines.extend(status.changes.iter().map(one));
    } else if let Ok(answer) = Answer::parse(&response.data) {
        lines.push(one(&answer));
    }
    lines
}

/// What a card says by itself.
pub fn uplink(said: &Uplink) -> String {
    match said {
        Uplink::Request(request) => {
            let at = request.consent.at.map(|at| format!(" at {at}")).unwrap_or_default();
            let (card, operator, way) = (request.card, &request.operator, request.consent.way);
            format!(
                "request: IdSC {card}, IdMNO {operator}, agreed by {}{at}",
                format!("{way:?}").to_lowercase()
            )
        }
        Uplink::Notice(notice) => {
            let digest = hex::encode(notice.digest);
            format!("notice: change {} is {}, identity {digest}", notice.change, state(notice.state))
        }
    }
}

fn state(state: State) -> String {
    match state {
        State::Unknown => "never heard of".to_owned(),
        State::Asking => "the user is being asked".to_owned(),
        State::Staged => "staged".to_owned(),
        State::Trial => "on trial".to_owned(),
        State::Active => "active".to_owned(),
        State::Reverted => "reverted".to_owned(),
        State::Refused(refusal) => format!("refused, {refusal}"),
    }
}
