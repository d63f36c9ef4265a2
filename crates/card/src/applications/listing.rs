//! GET STATUS and GET DATA (GlobalPlatform Card Specification 2.3, 11.3 and 11.4).

use crate::card::Card;
use crate::storage::Kind;
use simtide_protocol::apdu::{Command, Response, StatusWord};
use simtide_protocol::ids::Aid;
use simtide_protocol::patch;
use simtide_protocol::profile::ApplicationKind;
use simtide_protocol::ram::MARK_TAG;
use simtide_protocol::tlv;

/// Most bytes of one answer to GET STATUS; then the next occurrence has to be asked for.
const STATUS_BYTES_MAX: usize = 240;
/// 11.4.3.2: more data available.
const MORE: StatusWord = StatusWord(0x6310);
/// Number of load files completed in the card's life; ours.
const LOADS_TAG: u32 = 0xDF53;

impl Card {
    /// GET STATUS: templates E3 of the security domain, instances, or load files.
    pub(super) fn get_status(&mut self, command: &Command<'_>) -> Response {
        if command.p2 & 0x02 == 0 {
            return StatusWord::WRONG_P1_P2.into();
        }
        let filter = tlv::find(command.data, 0x4F).unwrap_or_default().to_vec();
        let templates = match command.p1 {
            0x80 => self.security_domains(),
            0x40 => self.instance_templates(),
            0x20 => self.load_file_templates(false),
            0x10 => self.load_file_templates(true),
            _ => return StatusWord::WRONG_P1_P2.into(),
        };
        let listed = &mut self.session().loading.listed;
        if command.p2 & 0x01 == 0 {
            *listed = 0;
        }
        let mut data = Vec::new();
        let matching: Vec<_> = templates.into_iter().filter(|(aid, _)| aid.starts_with(&filter)).collect();
        for (_, template) in matching.iter().skip(*listed) {
            if data.len() + template.len() > STATUS_BYTES_MAX {
                return Response { data, status: MORE };
            }
            data.extend_from_slice(template);
            *listed += 1;
        }
        if data.is_empty() { StatusWord::REFERENCE_NOT_FOUND.into() } else { Response::ok(data) }
    }

    fn security_domains(&self) -> Vec<(Aid, Vec<u8>)> {
        let domains =
            self.profile.applications.iter().filter(|application| application.kind == ApplicationKind::Isd);
        // 0F: secured; privileges of a security domain with card management.
        domains
            .map(|isd| (isd.aid, template(&isd.aid, 0x0F, |e3| tlv::push(e3, 0xC5, &[0x9E, 0xFE, 0x80]))))
            .collect()
    }

    fn instance_templates(&self) -> Vec<(Aid, Vec<u8>)> {
        let instances = self.instances().map(|(_, instance)| {
            let built = template(&instance.aid, 0x07, |e3| {
                tlv::push(e3, 0xC5, &instance.privileges);
                tlv::push(e3, 0xC4, instance.load_file.as_bytes());
            });
            (instance.aid, built)
        });
        instances.collect()
    }

    /// With what tells two load files of one AID apart: version (CE) and, ours, SHA-256 (DF54).
    fn load_file_templates(&self, with_modules: bool) -> Vec<(Aid, Vec<u8>)> {
        let files = self.load_files().map(|(_, file)| {
            let built = template(&file.aid, 0x01, |e3| {
                tlv::push(e3, 0xCE, &file.version);
                tlv::push(e3, 0xDF54, &file.digest);
                tlv::push(e3, 0xDF55, &file.size.to_be_bytes());
                if with_modules {
                    let mut modules: Vec<Aid> = self
                        .instances()
                        .filter(|(_, instance)| instance.load_file == file.aid)
                        .map(|(_, instance)| instance.module)
                        .collect();
                    modules.sort();
                    modules.dedup();
                    modules.iter().for_each(|module| tlv::push(e3, 0x84, module.as_bytes()));
                }
            });
            (file.aid, built)
        });
        files.collect()
    }

    /// GET DATA.
    pub(super) fn get_data(&self, tag: u16) -> Result<Vec<u8>, StatusWord> {
        let mut data = Vec::new();
        match u32::from(tag) {
            // Extended card resources (ETSI TS 102 226, 8.2.1.7.2): applications, free memory.
            0xFF21 => tlv::push_with(&mut data, 0xFF21, |resources| {
                tlv::push(resources, 0x81, &[self.instances().count() as u8]);
                tlv::push(resources, 0x82, &0x0001_0000_u32.to_be_bytes());
                tlv::push(resources, 0x83, &0x1000_u16.to_be_bytes());
            }),
            // Key information template.
            0xE0 => tlv::push_with(&mut data, 0xE0, |keys| self.push_key_information(keys)),
            // Card image number: the ICCID.
            0x45 => tlv::push(&mut data, 0x45, self.storage.get(Kind::Identity, 0).unwrap_or_default()),
            MARK_TAG => tlv::push(&mut data, MARK_TAG, &self.mark()),
            LOADS_TAG => tlv::push(&mut data, LOADS_TAG, &self.completed_loads().to_be_bytes()),
            patch::VERSION_TAG => {
                let (version, patches) = self.os_version();
                let value = [&version.to_be_bytes()[..], &patches.to_be_bytes()].concat();
                tlv::push(&mut data, patch::VERSION_TAG, &value);
            }
            tag => {
                let stored = u16::try_from(tag).ok().and_then(|tag| self.stored_data(tag));
                tlv::push(&mut data, tag, stored.ok_or(StatusWord::REFERENCE_NOT_FOUND)?);
            }
        }
        Ok(data)
    }

    /// C0 { key id, version, type, length } of each key: AES (88) or 3DES (80).
    fn push_key_information(&self, keys: &mut Vec<u8>) {
        for (index, _) in self.counters() {
            for (key_id, size) in self.key_sizes(index) {
                let key_type = if self.is_aes(index) { 0x88 } else { 0x80 };
                tlv::push(keys, 0xC0, &[key_id, index, key_type, size]);
            }
        }
    }
}

/// E3 { 4F AID, 9F70 life cycle state, more }.
fn template(aid: &Aid, state: u8, more: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut template = Vec::new();
    tlv::push_with(&mut template, 0xE3, |e3| {
        tlv::push(e3, 0x4F, aid.as_bytes());
        tlv::push(e3, 0x9F70, &[state]);
        more(e3);
    });
    template
}
