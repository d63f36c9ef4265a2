//! Execution of scripts, compact and expanded (ETSI TS 102 226, 5).

use super::ApplicationSession;
use crate::card::Card;
use crate::toolkit::{Owner, Proactive, RefreshMode};
use simtide_protocol::apdu::{Command, Response, StatusWord};
use simtide_protocol::profile::Application;
use simtide_protocol::script::{compact, expanded};

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

    /// Tells the device which files a script has changed, if the profile says so (ETSI TS 102 223, 6.4.7: file
    /// change notification).
    pub(crate) fn refresh_changed_files(&mut self) {
        if !self.profile.scp80.refresh_after_update {
            return;
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
        let mut session = ApplicationSession::new(self, application);
        let mut answer = expanded::ResponseWriter::new(items.form());
        for item in items {
            let bytes = match item {
                Ok(expanded::Item::Command(bytes)) => bytes,
                // Immediate and error actions, chaining: nothing here needs them, all is done at once.
                Ok(_) => continue,
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
                break;
            }
        }
        answer.finish()
    }
}

/// Most files that one REFRESH names.
const REFRESHED_FILES_MAX: usize = 16;
/// Tag and length of one answer, and its status word.
const RESPONSE_OVERHEAD: usize = 7;

/// Errors end a script; warnings without consequences do not.
fn ends_script(status: StatusWord) -> bool {
    !status.is_success() && status.sw1() != 0x62
}
