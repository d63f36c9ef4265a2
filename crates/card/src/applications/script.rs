//! Execution of scripts, compact and expanded (ETSI TS 102 226, 5).

use super::ApplicationSession;
use crate::card::Card;
use crate::toolkit::{Owner, Proactive, RefreshMode};
use simtide_protocol::apdu::{Command, Response, StatusWord};
use simtide_protocol::profile::Application;
use simtide_protocol::script::{compact, expanded};
use simtide_protocol::tlv::find_comprehension;

impl Card {
    /// Runs a script until its end or its first error.
    pub(crate) fn run_script(
        &mut self,
        application: &Application,
        script: &[u8],
        capacity: usize,
    ) -> Vec<u8> {
        self.session().changed_files.clear();
        match script.first() {
            // Clause 5.2: the templates of the expanded format.
            Some(0xAA | 0xAE) => self.run_expanded(application, script, capacity),
            _ => self.run_compact(application, script, capacity),
        }
    }

    /// Tells the device which files a script has changed, if the profile or the script says so (ETSI TS 102 223, 6.4.7:
    /// file change notification), or makes it start anew where the script wants that.
    pub(crate) fn refresh_changed_files(&mut self) {
        match self.session().refresh_wanted.take() {
            // It waits until every proof has left and no session is under way.
            Some(RefreshMode::UiccReset) => return self.session().applet.want_reset(),
            Some(RefreshMode::InitAndFullFileChange) => {
                let mode = RefreshMode::InitAndFullFileChange;
                let _ = self.enqueue(Owner::Card, 0, Proactive::Refresh { mode, files: Vec::new() });
                return;
            }
            Some(RefreshMode::FileChange) => {}
            None if !self.profile.scp80.refresh_after_update => return,
            None => {}
        }
        let changed = std::mem::take(&mut self.session().changed_files);
        let files: Vec<Vec<u8>> = changed
            .into_iter()
            .take(REFRESHED_FILES_MAX)
            .map(|id| self.fids(id).into_iter().flat_map(u16::to_be_bytes).collect())
            .collect();
        if !files.is_empty() {
            // Where the toolkit has no room, the device learns of the change with its next start.
            let _ = self.enqueue(Owner::Card, 0, Proactive::Refresh { mode: RefreshMode::FileChange, files });
        }
    }

    fn run_compact(&mut self, application: &Application, script: &[u8], capacity: usize) -> Vec<u8> {
        let mut session = ApplicationSession::new(self, application);
        let mut answer = compact::Response { executed: 0, status: StatusWord::OK, data: Vec::new() };
        for command in compact::Commands::new(script) {
            let response = match command {
                Ok(command) => self.application_command(application, &mut session, &command),
                Err(_) => StatusWord::WRONG_LENGTH.into(),
            };
            answer.executed = answer.executed.saturating_add(1);
            answer.status = response.status;
            answer.data = response.data;
            if ends_script(response.status) {
                break;
            }
        }
        // Number of commands and status word take three bytes.
        if answer.data.len() + 3 > capacity {
            answer.data.truncate(capacity.saturating_sub(3));
            answer.status = StatusWord::ANSWER_TRUNCATED;
        }
        answer.encode()
    }

    fn run_expanded(&mut self, application: &Application, script: &[u8], capacity: usize) -> Vec<u8> {
        let Ok(items) = expanded::Items::new(script) else {
            let mut answer = expanded::ResponseWriter::new(expanded::LengthForm::Definite);
            answer.bad_format(expanded::BadFormat::WrongLength);
            return answer.finish();
        };
        let mut answer = expanded::ResponseWriter::new(items.form());
        let mut chain = Chain::Alone;
        let mut session = ApplicationSession::new(self, application);
        let mut error_action: &[u8] = &[];
        for (place, item) in items.enumerate() {
            let bytes = match item {
                Ok(expanded::Item::Command(bytes)) => bytes,
                Ok(expanded::Item::ErrorAction(action)) => {
                    error_action = action;
                    continue;
                }
                Ok(expanded::Item::ImmediateAction(action)) => match self.script_action(action) {
                    Ok(()) => continue,
                    Err(result) => {
                        answer.immediate_action(&result);
                        break;
                    }
                },
                Ok(expanded::Item::Chaining(value)) => match self.chained(application, place, value) {
                    Ok((found, before)) => {
                        chain = found;
                        session = before.unwrap_or(session);
                        continue;
                    }
                    Err(result) => {
                        answer.chaining(&[result]);
                        break;
                    }
                },
                Err(format) => {
                    answer.bad_format(format);
                    break;
                }
            };
            // Whatever cannot be answered is not run either.
            if answer.size() + RESPONSE_OVERHEAD > capacity {
                break;
            }
            let mut response = match Command::parse(bytes) {
                Ok(command) => self.application_command(application, &mut session, &command),
                Err(_) => StatusWord::WRONG_LENGTH.into(),
            };
            let room = capacity.saturating_sub(answer.size() + RESPONSE_OVERHEAD);
            if response.data.len() > room {
                response.data.truncate(room);
                answer.response(&Response { status: StatusWord::ANSWER_TRUNCATED, ..response });
                break;
            }
            answer.response(&response);
            if ends_script(response.status) {
                // What cannot be done then is not worth another error.
                let _ = self.script_action(error_action);
                chain = Chain::Alone;
                break;
            }
        }
        if chain == Chain::GoesOn {
            self.session().chained = Some((application.tar, session));
        }
        answer.finish()
    }

    /// Script chaining (clause 5.2.1.4): what the script before has selected, where this one goes on; otherwise why not.
    fn chained(
        &mut self,
        application: &Application,
        place: usize,
        value: &[u8],
    ) -> Result<(Chain, Option<ApplicationSession>), u8> {
        let before = self.session().chained.take().filter(|(tar, _)| *tar == application.tar);
        match (value, before) {
            // It stands before everything else.
            _ if place != 0 => Err(chaining::NOT_SUPPORTED),
            ([chaining::FIRST], _) => Ok((Chain::GoesOn, None)),
            ([chaining::NEXT | chaining::LAST], None) => Err(chaining::NO_PREVIOUS_SCRIPT),
            ([chaining::NEXT], Some((_, session))) => Ok((Chain::GoesOn, Some(session))),
            ([chaining::LAST], Some((_, session))) => Ok((Chain::Alone, Some(session))),
            // Among them chaining that a reset does not end.
            _ => Err(chaining::NOT_SUPPORTED),
        }
    }

    /// An immediate or error action (clauses 5.2.1.2 and 5.2.1.3): none, the indication of a proactive session, which is
    /// none to us, or REFRESH. Anything else is answered with a general result (ETSI TS 102 223, 8.12).
    fn script_action(&mut self, action: &[u8]) -> Result<(), [u8; 3]> {
        if matches!(action, [] | [PROACTIVE_SESSION]) {
            return Ok(());
        }
        let mode = match find_comprehension(action, 0x01) {
            Some([_, 0x01, 0x00]) => RefreshMode::InitAndFullFileChange,
            Some([_, 0x01, 0x01]) => RefreshMode::FileChange,
            Some([_, 0x01, 0x04]) => RefreshMode::UiccReset,
            _ => return Err([0x83, 0x01, BEYOND_CAPABILITIES]),
        };
        self.session().refresh_wanted = Some(mode);
        Ok(())
    }
}

/// Whether a script is followed by one that goes on where it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chain {
    Alone,
    GoesOn,
}

/// Clause 5.2.1.4: values of script chaining, and of its result.
mod chaining {
    pub(super) const FIRST: u8 = 0x01;
    pub(super) const NEXT: u8 = 0x02;
    pub(super) const LAST: u8 = 0x03;
    pub(super) const NO_PREVIOUS_SCRIPT: u8 = 0x01;
    pub(super) const NOT_SUPPORTED: u8 = 0x02;
}

/// Clause 5.2.1.2: proactive session indication.
const PROACTIVE_SESSION: u8 = 0x81;
/// ETSI TS 102 223, 8.12: command beyond the capabilities.
const BEYOND_CAPABILITIES: u8 = 0x30;

/// Most files that one REFRESH names.
const REFRESHED_FILES_MAX: usize = 16;
/// Tag and length of one answer, and its status word.
const RESPONSE_OVERHEAD: usize = 7;

/// Errors end a script; warnings without consequences do not.
fn ends_script(status: StatusWord) -> bool {
    !status.is_success() && status.sw1() != 0x62
}
