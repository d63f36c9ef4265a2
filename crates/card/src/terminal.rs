//! What a terminal can do on a logical channel, and how a card becomes one of its own.

use crate::applications::ApplicationSession;
use crate::card::Card;
use crate::channel::Selection;
use crate::personalization::{Personalization, pin};
use crate::pins::{Pin, PinReference};
use crate::storage::Kind;
use simtide_protocol::apdu::{Command, Response, StatusWord};
use simtide_protocol::ids::{Imsi, Msisdn, tbcd};
use simtide_protocol::profile::{ApplicationKind, Authority, Content};

impl Card {
    /// Any command that is not the toolkit's nor MANAGE CHANNEL.
    pub(crate) fn terminal_command(
        &mut self,
        selection: &mut Selection,
        authority: Authority,
        command: &Command<'_>,
    ) -> Response {
        if selection.is_application()
            && let Some(response) = self.application_over_terminal(selection, command)
        {
            return response;
        }
        if let Some(response) = self.file_command(selection, authority, command) {
            return response;
        }
        if let Some(response) = self.pin_command(command) {
            return response;
        }
        match (command.cla & 0xF0, command.ins) {
            (0x00, 0x88 | 0x89) => match self.authenticate(selection, authority, command) {
                Ok(data) => Response::ok(data),
                Err(status) => status.into(),
            },
            // TERMINAL CAPABILITY (ETSI TS 102 221, 11.1.19): noted by nobody.
            (0x80, 0xAA) => Response::ok(Vec::new()),
            (0x00 | 0x80, _) => StatusWord::INSTRUCTION.into(),
            _ => StatusWord::CLASS.into(),
        }
    }

    /// Data objects of an application may be read by everybody; whatever changes it needs a secured packet or
    /// session.
    fn application_over_terminal(
        &mut self,
        selection: &Selection,
        command: &Command<'_>,
    ) -> Option<Response> {
        let is_status = command.ins == 0xF2 && command.p1 <= 0x02;
        if command.cla & 0xF0 != 0x80 || is_status {
            return None;
        }
        let application = self.profile.application_by_aid(selection.application.as_ref()?)?.clone();
        // The device's own application may have its user's wish sealed; whoever receives it asks the user's operator.
        let is_wish = command.ins == 0x5E && application.kind == ApplicationKind::Personalization;
        if command.ins != 0xCA && !is_wish {
            return Some(StatusWord::SECURITY_STATUS.into());
        }
        let mut session = ApplicationSession::new(self, &application);
        Some(self.application_command(&application, &mut session, command))
    }

    /// Writes what makes this card one of its own.
    pub(crate) fn write_personalization(&mut self, personalization: &Personalization) {
        let profile = self.profile.clone();
        self.storage.put(Kind::Profile, 0, profile.name.as_str().as_bytes());
        self.storage.put(Kind::Identity, 0, &personalization.iccid.to_file());
        if let Some(eid) = personalization.eid {
            self.storage.put(Kind::Identity, 1, eid.as_bytes());
        }
        for (id, definition) in (0..).zip(&profile.files) {
            let own = match definition.from {
                Some(Content::Iccid) => personalization.iccid.to_file().to_vec(),
                Some(Content::Imsi) => personalization.identity.imsi.to_file().to_vec(),
                Some(Content::AccessClass) => access_class(&personalization.identity.imsi).to_vec(),
                Some(Content::Msisdn) => match personalization.msisdn {
                    Some(msisdn) => msisdn_record(&msisdn, definition.structure.size()),
                    None => continue,
                },
                Some(Content::Poll | Content::Mark | Content::Directory | Content::AccessRules) | None => {
                    continue;
                }
            };
            let mut content = own;
            content.resize(definition.structure.size(), 0xFF);
            self.storage.put(Kind::Content, id, &content);
        }
        for (path, content) in &personalization.files {
            self.write_file(path, content);
        }
        self.write_codes(personalization);
        self.set_subscriber(&personalization.identity);
        for set in &personalization.key_sets {
            self.set_key_set(set);
        }
        if let Some(psk) = &personalization.psk {
            self.set_psk(&psk.identity, &psk.key);
        }
        self.set_os_version(profile.os_version, 0);
    }

    fn write_codes(&mut self, personalization: &Personalization) {
        let settings = self.profile.pins;
        let default = |digits: &str| pin(digits).map_or([0xFF; 8], |pin| *pin.expose());
        let given = |secret: &Option<crate::personalization::Secret<8>>, otherwise: &str| {
            secret.as_ref().map_or_else(|| default(otherwise), |secret| *secret.expose())
        };
        let pin1 = given(&personalization.pin1, "0000");
        let puk1 = given(&personalization.puk1, "00000000");
        let (attempts, unblock) = (settings.attempts, settings.unblock_attempts);
        self.set_pin(PinReference::Pin1, &Pin::new(pin1, puk1, attempts, unblock, settings.pin1_enabled));
        self.set_pin(PinReference::Pin2, &Pin::new(default("0000"), puk1, attempts, unblock, true));
        let adm1 = *personalization.adm1.expose();
        let administrative = settings.administrative_attempts;
        self.set_pin(PinReference::Adm1, &Pin::new(adm1, [0xFF; 8], administrative, 0, true));
        if self.profile.application(ApplicationKind::Personalization).is_some() {
            self.set_admin_code(&adm1, self.profile.personalization.attempts);
        }
    }
}

/// EF.ACC: the bit of the IMSI's last digit (3GPP TS 31.102, 4.2.15).
pub(crate) fn access_class(imsi: &Imsi) -> [u8; 2] {
    let last = imsi.to_string().bytes().last().unwrap_or(b'0') - b'0';
    (1_u16 << last).to_be_bytes()
}

/// EF.MSISDN: alpha identifier, length, type of number, number, capability, extension (3GPP TS 31.102, 4.2.26).
pub(crate) fn msisdn_record(msisdn: &Msisdn, size: usize) -> Vec<u8> {
    let mut record = vec![0xFF; size];
    // Invariant: a number is digits only.
    let digits = tbcd::encode(&msisdn.to_string()).unwrap_or_default();
    let Some(start) = size.checked_sub(14) else { return record };
    record[start] = digits.len() as u8 + 1;
    record[start + 1] = 0x91;
    record[start + 2..start + 2 + digits.len()].copy_from_slice(&digits);
    record
}
