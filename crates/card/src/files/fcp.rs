//! File control parameters: what SELECT says about a file (ETSI TS 102 221, 11.1.1.3 and 11.1.1.4).

use super::{File, MF};
use crate::card::Card;
use crate::pins::PinReference;
use simtide_protocol::profile::Structure;
use simtide_protocol::tlv;

/// The file id of EF.ARR below the MF, to which all rules refer.
pub(super) const EF_ARR: u16 = 0x2F06;
/// What the card says about free memory: it has no other end than the host's.
const FREE_BYTES: u32 = 0x0001_0000;

/// File descriptor byte (clause 11.1.1.4.3), shareable.
pub(super) mod descriptor {
    pub(in crate::files) const DIRECTORY: u8 = 0x78;
    pub(in crate::files) const TRANSPARENT: u8 = 0x41;
    pub(in crate::files) const LINEAR_FIXED: u8 = 0x42;
    pub(in crate::files) const CYCLIC: u8 = 0x46;
    /// Data coding byte: ETSI TS 102 221 allows 21 only.
    pub(in crate::files) const CODING: u8 = 0x21;
}

impl Card {
    /// The template 62 of a file.
    pub(super) fn fcp(&self, file: &File) -> Vec<u8> {
        let mut template = Vec::new();
        tlv::push_with(&mut template, 0x62, |fcp| {
            tlv::push(fcp, 0x82, &file_descriptor(&file.structure));
            // An application's directory is known by its name; its file id is nobody's business.
            match file.structure {
                Structure::Application { aid } => tlv::push(fcp, 0x84, aid.as_bytes()),
                _ => tlv::push(fcp, 0x83, &file.fid.to_be_bytes()),
            }
            if file.structure.is_directory() {
                tlv::push_with(fcp, 0xA5, |proprietary| push_proprietary(proprietary, file));
            }
            // Clause 11.1.1.4.9: operational, activated or deactivated.
            tlv::push(fcp, 0x8A, &[if file.activated { 0x05 } else { 0x04 }]);
            let [high, low] = EF_ARR.to_be_bytes();
            tlv::push(fcp, 0x8B, &[high, low, file.rule]);
            if file.structure.is_directory() {
                tlv::push_with(fcp, 0xC6, |status| self.push_pin_status(status));
            } else {
                tlv::push(fcp, 0x80, &(file.structure.size() as u16).to_be_bytes());
                // Clause 11.1.1.4.6: the short identifier in bits 4 to 8; empty: it has none.
                match file.sfi {
                    Some(sfi) => tlv::push(fcp, 0x88, &[sfi << 3]),
                    None => tlv::push(fcp, 0x88, &[]),
                }
            }
        });
        template
    }

    /// Clause 11.1.1.4.10: which PINs are enabled, and their references.
    fn push_pin_status(&self, status: &mut Vec<u8>) {
        let pins: Vec<_> =
            PinReference::ALL.into_iter().filter_map(|pin| Some((pin, self.pin(pin)?.enabled))).collect();
        let enabled = pins.iter().enumerate().filter(|(_, (_, enabled))| *enabled);
        let bits = enabled.fold(0_u8, |bits, (place, _)| bits | 0x80 >> place);
        tlv::push(status, 0x90, &[bits]);
        for (pin, _) in &pins {
            tlv::push(status, 0x83, &[pin.key_reference()]);
        }
    }
}

fn file_descriptor(structure: &Structure) -> Vec<u8> {
    let with_records =
        |byte: u8, record_size: u8, records: u8| vec![byte, descriptor::CODING, 0, record_size, records];
    match *structure {
        Structure::Directory | Structure::Application { .. } => {
            vec![descriptor::DIRECTORY, descriptor::CODING]
        }
        Structure::Transparent { .. } => vec![descriptor::TRANSPARENT, descriptor::CODING],
        Structure::LinearFixed { record_size, records } => {
            with_records(descriptor::LINEAR_FIXED, record_size, records)
        }
        Structure::Cyclic { record_size, records } => with_records(descriptor::CYCLIC, record_size, records),
    }
}

fn push_proprietary(proprietary: &mut Vec<u8>, file: &File) {
    if file.id == MF {
        // Clause 11.1.1.4.6.1: clock stop allowed, all supply voltages.
        tlv::push(proprietary, 0x80, &[0x71]);
    }
    tlv::push(proprietary, 0x83, &FREE_BYTES.to_be_bytes());
}
