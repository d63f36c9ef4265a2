//! The class byte A0 of GSM devices (3GPP TS 51.011): the commands that they need, on the same files.

use crate::card::Card;
use crate::channel::Channel;
use crate::files::{File, MF};
use crate::pins::PinReference;
use simtide_protocol::apdu::{Command, Response, StatusWord};
use simtide_protocol::profile::{Authority, FilePath, Structure};

/// Status words of TS 51.011, 9.4.
mod status {
    use simtide_protocol::apdu::StatusWord;

    pub(super) const NO_EF_SELECTED: StatusWord = StatusWord(0x9400);
    pub(super) const OUT_OF_RANGE: StatusWord = StatusWord(0x9402);
    pub(super) const NOT_FOUND: StatusWord = StatusWord(0x9404);
    pub(super) const INCONSISTENT: StatusWord = StatusWord(0x9408);
    pub(super) const CHV_NOT_INITIALISED: StatusWord = StatusWord(0x9802);
    pub(super) const ACCESS: StatusWord = StatusWord(0x9804);
    pub(super) const CHV_CONTRADICTION: StatusWord = StatusWord(0x9808);
    pub(super) const BLOCKED: StatusWord = StatusWord(0x9840);
    pub(super) const P1_P2: StatusWord = StatusWord(0x6B00);
    pub(super) const LENGTH: StatusWord = StatusWord(0x6700);
}

impl Card {
    /// A command of class A0. What has an answer to data keeps it for GET RESPONSE (`9F xx`).
    pub(crate) fn gsm_command(
        &mut self,
        channel: &mut Channel,
        authority: Authority,
        command: &Command<'_>,
    ) -> Response {
        match command.ins {
            0xC0 => channel.get_response(command),
            0xA4 => {
                channel.kept.clear();
                match self.gsm_select(channel, command.data) {
                    Ok(answer) => keep(channel, answer),
                    Err(status) => status.into(),
                }
            }
            0xF2 => match self.file(channel.selection.directory) {
                Some(directory) => limited(self.gsm_answer(&directory), command),
                None => status::NOT_FOUND.into(),
            },
            0x88 => match <&[u8; 16]>::try_from(command.data) {
                Ok(_) if !authority.includes(Authority::PIN1) => status::ACCESS.into(),
                Ok(rand) => match self.gsm_algorithm(rand) {
                    Ok((sres, kc)) => keep(channel, [&sres[..], &kc].concat()),
                    Err(status) => status.into(),
                },
                Err(_) => status::LENGTH.into(),
            },
            0xB0 | 0xB2 | 0xD6 | 0xDC | 0xA2 | 0x32 | 0x20 | 0x24 | 0x26 | 0x28 | 0x2C => {
                self.as_uicc_command(channel, authority, command)
            }
            _ => StatusWord::INSTRUCTION.into(),
        }
    }

    /// Commands that differ in class byte, PIN references and status words only.
    fn as_uicc_command(
        &mut self,
        channel: &mut Channel,
        authority: Authority,
        command: &Command<'_>,
    ) -> Response {
        let mut same = Command { cla: if command.ins == 0x32 { 0x80 } else { 0x00 }, ..*command };
        if matches!(command.ins, 0x20 | 0x24 | 0x26 | 0x28 | 0x2C) {
            // TS 51.011, 9.2.9 to 9.2.13: CHV 1 and 2; UNBLOCK calls CHV 1 "00".
            same.p2 = match command.p2 {
                0x00 if command.ins == 0x2C => PinReference::Pin1.key_reference(),
                0x01 => PinReference::Pin1.key_reference(),
                0x02 => PinReference::Pin2.key_reference(),
                _ => return status::P1_P2.into(),
            };
        }
        let response = match self.file_command(&mut channel.selection, authority, &same) {
            Some(response) => Some(response),
            None => self.pin_command(&same),
        };
        let mut response = response.unwrap_or_else(|| StatusWord::INSTRUCTION.into());
        response.status = translated(response.status);
        let has_data = !command.data.is_empty() && !response.data.is_empty();
        if has_data && response.status == StatusWord::OK { keep(channel, response.data) } else { response }
    }

    fn gsm_select(&mut self, channel: &mut Channel, data: &[u8]) -> Result<Vec<u8>, StatusWord> {
        let Ok(fid) = <[u8; 2]>::try_from(data) else { return Err(status::LENGTH) };
        let select = Command::new(0x00, 0xA4, 0x00, 0x0C).with_data(&fid);
        let mut selection = channel.selection.clone();
        let done = self.file_command(&mut selection, Authority::NONE, &select);
        let found = done
            .is_some_and(|response| matches!(response.status, StatusWord::OK | StatusWord::FILE_INVALIDATED));
        let id = selection.file.unwrap_or(selection.directory);
        match self.file(id).filter(|_| found) {
            // A GSM device knows nothing of applications.
            Some(file) if !matches!(file.structure, Structure::Application { .. }) => {
                channel.selection = selection;
                Ok(self.gsm_answer(&file))
            }
            _ => Err(status::NOT_FOUND),
        }
    }

    /// TS 51.011, 9.2.1: what SELECT and STATUS say.
    fn gsm_answer(&self, file: &File) -> Vec<u8> {
        let [fid_high, fid_low] = file.fid.to_be_bytes();
        if file.structure.is_directory() {
            let children = self.children(file.id);
            let directories = children.iter().filter(|child| child.structure.is_directory()).count() as u8;
            let files = children.len() as u8 - directories;
            let kind = if file.id == MF || file.fid == FilePath::MF { 0x01 } else { 0x02 };
            let mut answer = vec![0, 0, 0x10, 0, fid_high, fid_low, kind, 0, 0, 0, 0, 0, 9];
            // Bit 8 of the characteristics: CHV 1 is disabled. Then the counters of CHV 1 and 2.
            let characteristics = if self.pin1_is_disabled() { 0x93 } else { 0x13 };
            answer.extend([characteristics, directories, files, 4, 0]);
            for reference in [PinReference::Pin1, PinReference::Pin2] {
                let left = self.pin(reference).map_or((0, 0), |pin| pin.attempts_left());
                answer.extend([0x80 | left.0, 0x80 | left.1]);
            }
            return answer;
        }
        let [size_high, size_low] = (file.structure.size() as u16).to_be_bytes();
        let (structure, record_size) = match file.structure {
            Structure::LinearFixed { record_size, .. } => (0x01, record_size),
            Structure::Cyclic { record_size, .. } => (0x03, record_size),
            _ => (0x00, 0),
        };
        let increase = if structure == 0x03 { 0x40 } else { 0x00 };
        let state = u8::from(file.activated);
        // Access conditions in the old coding: CHV 1 to read, administrative for the rest; the rules decide.
        vec![
            0,
            0,
            size_high,
            size_low,
            fid_high,
            fid_low,
            0x04,
            increase,
            0x14,
            0x44,
            0x44,
            state,
            2,
            structure,
            record_size,
        ]
    }
}

/// `9F xx`: so many bytes wait.
fn keep(channel: &mut Channel, answer: Vec<u8>) -> Response {
    let status = StatusWord(0x9F00 | answer.len() as u16 & 0xFF);
    channel.kept = answer;
    status.into()
}

fn limited(mut answer: Vec<u8>, command: &Command<'_>) -> Response {
    answer.truncate(command.le.unwrap_or(256) as usize);
    Response::ok(answer)
}

/// The status word that TS 51.011 has for what a UICC says.
fn translated(status: StatusWord) -> StatusWord {
    match status {
        StatusWord::NO_FILE_SELECTED => status::NO_EF_SELECTED,
        StatusWord::OUT_OF_RANGE | StatusWord::RECORD_NOT_FOUND => status::OUT_OF_RANGE,
        StatusWord::NOT_FOUND | StatusWord::END_OF_FILE => status::NOT_FOUND,
        StatusWord::INCOMPATIBLE_STRUCTURE => status::INCONSISTENT,
        StatusWord::SECURITY_STATUS => status::ACCESS,
        StatusWord::BLOCKED => status::BLOCKED,
        StatusWord::REFERENCE_NOT_FOUND => status::CHV_NOT_INITIALISED,
        StatusWord::REFERENCE_INVALIDATED => status::CHV_CONTRADICTION,
        StatusWord::WRONG_P1_P2 => status::P1_P2,
        // A wrong code: access refused, the counter is in the answer to STATUS.
        other if other.sw1() == 0x63 => status::ACCESS,
        other if other.sw1() == 0x6C => StatusWord(0x6700 | u16::from(other.sw2())),
        other => other,
    }
}
