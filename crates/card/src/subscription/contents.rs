//! The files of an identity: what an operator brings, and what must not stay of the one before.

use crate::card::Card;
use simtide_protocol::ids::Imsi;
use simtide_protocol::personalization::{Message, OperatorFile, Refusal};
use simtide_protocol::profile::{FilePath, Profile};
use std::collections::BTreeMap;

/// Where a volatile file lies.
enum Place {
    /// Below the USIM.
    Usim(&'static [u16]),
    /// Below the ISIM.
    Isim(&'static [u16]),
    /// From the MF on.
    Mf(&'static [u16]),
}

/// What a device has stored about the old network, and what it is to find instead: as if it had never been there
/// (3GPP TS 31.102, 4.2; TS 51.011, 10.3). What is missing at the end is FF.
const CLEARED: [(Place, &str); 22] = [
    // EF.LOCI, EF.PSLOCI, EF.EPSLOCI: no temporary identity, no location, "not updated".
    (Place::Usim(&[0x6F7E]), "FFFFFFFFFFFFFF0000FF01"),
    (Place::Usim(&[0x6F73]), "FFFFFFFFFFFFFFFFFFFF0000FF01"),
    (Place::Usim(&[0x6FE3]), "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFF000001"),
    // EF.Keys, EF.KeysPS: key set identifier 7, no key.
    (Place::Usim(&[0x6F08]), "07"),
    (Place::Usim(&[0x6F09]), "07"),
    // EF.EPSNSC, EF.FPLMN, EF.NETPAR.
    (Place::Usim(&[0x6FE4]), ""),
    (Place::Usim(&[0x6F7B]), ""),
    (Place::Usim(&[0x6FC4]), ""),
    // EF.START-HFN.
    (Place::Usim(&[0x6F5B]), "F00000F00000"),
    // EF.5GS3GPPLOCI, EF.5GSN3GPPLOCI, EF.5GS3GPPNSC, EF.5GSN3GPPNSC, EF.5GAUTHKEYS.
    (Place::Usim(&[0x5FC0, 0x4F01]), "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000001"),
    (Place::Usim(&[0x5FC0, 0x4F02]), "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000001"),
    (Place::Usim(&[0x5FC0, 0x4F03]), ""),
    (Place::Usim(&[0x5FC0, 0x4F04]), ""),
    (Place::Usim(&[0x5FC0, 0x4F05]), ""),
    // EF.Kc, EF.KcGPRS: below DF.GSM-ACCESS of the USIM, and in DF.GSM.
    (Place::Usim(&[0x5F3B, 0x4F20]), "FFFFFFFFFFFFFFFF07"),
    (Place::Usim(&[0x5F3B, 0x4F52]), "FFFFFFFFFFFFFFFF07"),
    (Place::Mf(&[0x3F00, 0x7F20, 0x6F20]), "FFFFFFFFFFFFFFFF07"),
    (Place::Mf(&[0x3F00, 0x7F20, 0x6F52]), "FFFFFFFFFFFFFFFF07"),
    // EF.LOCI and EF.FPLMN of DF.GSM where they are files of their own.
    (Place::Mf(&[0x3F00, 0x7F20, 0x6F7E]), "FFFFFFFFFFFFFF0000FF01"),
    (Place::Mf(&[0x3F00, 0x7F20, 0x6F7B]), ""),
    // EF.PNN and EF.P-CSCF name the old network; a message may carry others by their paths.
    (Place::Usim(&[0x6FC5]), ""),
    (Place::Isim(&[0x6F09]), ""),
];

/// Further files that belong to the old operator: EF.OPL, EF.GID1, EF.GID2.
const CLEARED_NAMES: [u16; 3] = [0x6FC6, 0x6F3E, 0x6F3F];

/// Files of the old operator that a message without them clears; EF.AD is kept and EF.ACC follows from the IMSI.
const REPLACED: [(OperatorFile, &str); 11] = [
    (OperatorFile::ShortMessageParameters, ""),
    (OperatorFile::ServiceProviderName, ""),
    (OperatorFile::EquivalentHomeNetworks, ""),
    (OperatorFile::HomeNetworkSelector, ""),
    (OperatorFile::OperatorNetworkSelector, ""),
    (OperatorFile::Msisdn, ""),
    (OperatorFile::SuciCalculation, ""),
    (OperatorFile::RoutingIndicator, "F0FF0000"),
    (OperatorFile::PrivateIdentity, ""),
    (OperatorFile::PublicIdentity, ""),
    (OperatorFile::HomeDomain, ""),
];

impl Place {
    fn path(&self, profile: &Profile) -> Option<FilePath> {
        match self {
            Self::Usim(fids) => profile.path_in_application(&Profile::USIM_AID, fids),
            Self::Isim(fids) => profile.path_in_application(&Profile::ISIM_AID, fids),
            Self::Mf(fids) => {
                profile.files.iter().find(|file| file.path.fids() == *fids).map(|file| file.path.clone())
            }
        }
    }
}

impl Card {
    /// Whether this card can become what a message says: the files exist and are large enough.
    pub(super) fn fits(&self, message: &Message) -> Result<(), Refusal> {
        let mut records: BTreeMap<FilePath, usize> = BTreeMap::new();
        for content in message.files.as_slice() {
            let path = content.file.path(&self.profile).and_then(|path| self.content_path(&path));
            let file = path.as_ref().and_then(|path| self.file_at(path.fids()));
            let (Some(path), Some(file)) = (path, file.filter(|file| !file.structure.is_directory())) else {
                // A card without ISIM or 5G has no use for their files; one that is named by its path is wanted.
                if matches!(content.file, OperatorFile::Other(_)) {
                    return Err(Refusal::Unsupported);
                }
                continue;
            };
            // The identity itself has one way onto the card.
            if super::memory::imsi_path(&self.profile).as_ref() == Some(&path) {
                return Err(Refusal::Malformed);
            }
            let (size, count) = match file.structure.records() {
                Some((record_size, count)) => (usize::from(record_size), usize::from(count)),
                None => (file.structure.size(), 1),
            };
            let used = records.entry(path).or_default();
            *used += 1;
            if content.content.len() > size || *used > count {
                return Err(Refusal::Malformed);
            }
        }
        Ok(())
    }

    /// The files of identity 2 as they will be, by path.
    pub(super) fn contents(&self, message: &Message) -> BTreeMap<FilePath, Vec<u8>> {
        let profile = self.profile.clone();
        let mut contents = BTreeMap::new();
        let mut set = |path: Option<FilePath>, content: &[u8]| {
            if let Some(path) = path.and_then(|path| self.content_path(&path))
                && let Some(file) = self.file_at(path.fids())
            {
                let mut bytes = content.to_vec();
                bytes.resize(file.structure.size(), 0xFF);
                contents.insert(path, bytes);
            }
        };
        let hex = |text: &str| hex::decode(text).unwrap_or_default();
        for (place, content) in &CLEARED {
            set(place.path(&profile), &hex(content));
        }
        for fid in CLEARED_NAMES {
            set(profile.path_in_application(&Profile::USIM_AID, &[fid]), &[]);
        }
        for (file, content) in &REPLACED {
            set(file.path(&profile), &hex(content));
        }
        set(OperatorFile::AccessClass.path(&profile), &access_class(&message.identity.imsi));
        set(super::memory::imsi_path(&profile), &message.identity.imsi.to_file());
        self.overwrite(message, &mut contents);
        contents
    }

    /// What the message carries, over what would be there without it.
    fn overwrite(&self, message: &Message, contents: &mut BTreeMap<FilePath, Vec<u8>>) {
        let mut records: BTreeMap<FilePath, usize> = BTreeMap::new();
        for carried in message.files.as_slice() {
            let path = carried.file.path(&self.profile).and_then(|path| self.content_path(&path));
            let Some((path, file)) = path.and_then(|path| Some((path.clone(), self.file_at(path.fids())?)))
            else {
                continue;
            };
            let size = file.structure.size();
            let record = file.structure.records().map_or(size, |(record_size, _)| usize::from(record_size));
            let place = records.entry(path.clone()).or_default();
            // The first record of a file replaces all that was there; EF.AD keeps what is not carried.
            let keeps = *place > 0 || carried.file == OperatorFile::AdministrativeData;
            let before = if keeps { self.content(&file) } else { vec![0xFF; size] };
            let entry = contents.entry(path).or_insert_with(|| before.clone());
            if !keeps {
                *entry = before;
            }
            let at = *place * record;
            *place += 1;
            let start = if carried.file.is_behind_a_name() {
                record.saturating_sub(carried.content.len())
            } else {
                0
            };
            if let Some(bytes) = entry.get_mut(at + start..at + start + carried.content.len()) {
                bytes.copy_from_slice(&carried.content);
            }
        }
    }
}

/// EF.ACC: the bit of the IMSI's last digit (3GPP TS 31.102, 4.2.15).
fn access_class(imsi: &Imsi) -> [u8; 2] {
    crate::terminal::access_class(imsi)
}
