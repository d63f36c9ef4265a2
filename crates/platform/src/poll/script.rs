//! Scripts as a poll sends them: the content's commands, the marks at both ends, the date of the next poll.

use super::record::{FailureCause, Script};
use crate::content::PreparedStep;
use simtide_protocol::ids::{Aid, EpochMs};
use simtide_protocol::poll_date::{MARK_FILE_SIZE, MarkFile, MarkPhase, PollFile};
use simtide_protocol::profile::{ApplicationKind, FilePath, Profile};
use simtide_protocol::scp81::{ContentType, ScriptStatus, TargetedApplication};
use simtide_protocol::script::expanded::{LengthForm, Response, ScriptWriter};
use simtide_protocol::{ram, rfm};

/// Where the date stands in EF.POLL.
const DATE_OFFSET: u16 = 1;

/// What the commands of a script are for, in their order: so many of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// Mark "begun".
    begun: usize,
    /// The content.
    content: usize,
    /// Mark "done".
    done: usize,
    /// Date of the next poll.
    date: usize,
}

/// What the answer to a script says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Whether the content ran to its end.
    pub(super) content: Result<(), FailureCause>,
    /// Whether the card has the date of the next poll from this script.
    pub(super) dated: bool,
}

/// What is wrapped around the commands of a script.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wrapping {
    /// Written before the content.
    pub(super) begun: Option<MarkFile>,
    /// Written after it.
    pub(super) done: Option<MarkFile>,
    /// Written at the end, where the application can.
    pub(super) date: Option<EpochMs>,
}

/// The application that reads and writes EF.POLL and EF.MARK outside of a campaign's scripts.
pub(super) fn files_application(profile: &Profile) -> Option<(Aid, Option<FilePath>)> {
    let application = profile
        .application(ApplicationKind::RfmUicc)
        .or_else(|| profile.application(ApplicationKind::RfmUsim))?;
    Some((application.aid, adf(application.root.as_ref())))
}

fn adf(root: Option<&FilePath>) -> Option<FilePath> {
    root.filter(|root| root.fids().len() > 1).cloned()
}

fn content_type(kind: ApplicationKind) -> ContentType {
    match kind {
        ApplicationKind::Isd => ContentType::CardContentManagement,
        _ => ContentType::CommandData,
    }
}

fn manages_files(kind: ApplicationKind) -> bool {
    matches!(kind, ApplicationKind::RfmUicc | ApplicationKind::RfmUsim)
}

/// The commands that write a mark, for this kind of application: into EF.MARK where it manages files, by STORE DATA
/// otherwise.
fn mark_commands(
    profile: &Profile,
    kind: ApplicationKind,
    root: Option<&FilePath>,
    mark: &MarkFile,
) -> Vec<Vec<u8>> {
    if manages_files(kind) {
        file_commands(&profile.poll.mark, root, 0, &mark.encode())
    } else {
        vec![ram::store_mark(mark)]
    }
}

/// The commands that write the mark of a step of this kind into the card, as a packet of a delivery carries them.
pub(crate) fn mark_script(
    profile: &Profile,
    step: &PreparedStep,
    number: u32,
    at: u8,
    phase: MarkPhase,
) -> Vec<Vec<u8>> {
    mark_commands(profile, step.kind, step.root.as_ref(), &mark(number, at, phase))
}

fn date_commands(profile: &Profile, root: Option<&FilePath>, date: EpochMs) -> Vec<Vec<u8>> {
    let file = PollFile { next_s: 0, period_s: 0, retry_delay_s: 0, retries: 0 }.with_next(date).encode();
    let date = &file[usize::from(DATE_OFFSET)..usize::from(DATE_OFFSET) + 4];
    file_commands(&profile.poll.file, root, DATE_OFFSET, date)
}

fn file_commands(path: &FilePath, root: Option<&FilePath>, offset: u16, data: &[u8]) -> Vec<Vec<u8>> {
    let mut commands = vec![rfm::select(path, root)];
    // A few bytes at the start of a file are always one possible command.
    commands.extend(rfm::update_binary(offset, data).unwrap_or_default());
    commands
}

/// One script of a step; nothing where the commands do not fit a script, which a checked content never meets.
pub(super) fn of_step(
    profile: &Profile,
    step: &PreparedStep,
    commands: &[Vec<u8>],
    wrapping: Wrapping,
) -> Option<(Script, Layout)> {
    let root = step.root.as_ref();
    let mark = |mark: Option<MarkFile>| {
        mark.map(|mark| mark_commands(profile, step.kind, root, &mark)).unwrap_or_default()
    };
    let date = wrapping.date.filter(|_| manages_files(step.kind));
    let parts = [
        mark(wrapping.begun),
        commands.to_vec(),
        mark(wrapping.done),
        date.map(|date| date_commands(profile, root, date)).unwrap_or_default(),
    ];
    let [begun, content, done, date] = parts.each_ref().map(Vec::len);
    let script = write(step.application, content_type(step.kind), &parts.concat())?;
    Some((script, Layout { begun, content, done, date }))
}

/// A script that writes the date of the next poll and nothing else.
pub(super) fn of_date(profile: &Profile, date: EpochMs) -> Option<(Script, Layout)> {
    let (application, root) = files_application(profile)?;
    let commands = date_commands(profile, root.as_ref(), date);
    let layout = Layout { date: commands.len(), ..Layout::default() };
    Some((write(application, ContentType::CommandData, &commands)?, layout))
}

/// A script that reads the mark.
pub(super) fn of_mark(profile: &Profile) -> Option<Script> {
    let (application, commands) = mark_reading(profile)?;
    write(application, ContentType::CommandData, &commands)
}

/// The application that can read the mark, and the commands by which it does; the last one answers with the mark.
pub(crate) fn mark_reading(profile: &Profile) -> Option<(Aid, Vec<Vec<u8>>)> {
    let (application, root) = files_application(profile)?;
    let read = rfm::read_binary(0, MARK_FILE_SIZE as u16).ok()?;
    Some((application, vec![rfm::select(&profile.poll.mark, root.as_ref()), read]))
}

fn write(application: Aid, content_type: ContentType, commands: &[Vec<u8>]) -> Option<Script> {
    let mut script = ScriptWriter::new(LengthForm::Definite);
    commands.iter().for_each(|command| script.command_bytes(command));
    let body = script.finish().ok()?;
    Some(Script { application: TargetedApplication(application), content_type, body })
}

/// The mark in the answer to [`of_mark`].
pub(super) fn read_mark(status: ScriptStatus, body: &[u8]) -> Option<MarkFile> {
    if status != ScriptStatus::Ok {
        return None;
    }
    let response = Response::decode(body).ok()?;
    if response.failed().is_some() {
        return None;
    }
    MarkFile::decode(&response.responses.last()?.data).ok()
}

/// Marks of a step.
pub(super) fn mark(campaign: u32, step: u8, phase: MarkPhase) -> MarkFile {
    MarkFile { campaign, step, phase }
}

/// Reads the answer to a script of this layout. `finds_nothing`: that something to be deleted is not there is fine.
pub(super) fn read(layout: Layout, status: ScriptStatus, body: &[u8], finds_nothing: bool) -> Verdict {
    let failed = |cause| Verdict { content: Err(cause), dated: false };
    if status != ScriptStatus::Ok {
        return failed(FailureCause::Refused(status));
    }
    let Ok(response) = Response::decode(body) else { return failed(FailureCause::Unreadable) };
    let needed = layout.begun + layout.content;
    let all = needed + layout.done + layout.date;
    let fits = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
    // Everything before this place ended well.
    let (end, cause) = match (response.failed(), response.bad_format) {
        (Some((place, status)), _) => (place, FailureCause::Status { command: fits(place + 1), status }),
        (None, Some(format)) => (response.responses.len(), FailureCause::BadFormat(format)),
        (None, None) => {
            let answered = response.responses.len();
            (answered, FailureCause::Incomplete { answered: fits(answered), sent: fits(all) })
        }
    };
    let nothing_there =
        |cause| matches!(cause, FailureCause::Status { status, .. } if matches!(status.0, 0x6A88 | 0x6A82));
    if finds_nothing && end + 1 == needed && nothing_there(cause) {
        return Verdict { content: Ok(()), dated: false };
    }
    Verdict { content: if end >= needed { Ok(()) } else { Err(cause) }, dated: layout.date > 0 && end >= all }
}
