//! The files that change with an operator (3GPP TS 31.102, 4.2 and 4.4.11; TS 31.103, 4.2).

use crate::ids::{Imsi, Msisdn};
use crate::profile::{FilePath, Profile, Structure};
use crate::sms::Address;
use crate::tlv::{Reader, find, push, push_with};

/// Most files that one message may carry.
pub(super) const FILES_MAX: usize = 32;
/// A file by its path.
const OTHER_TAG: u32 = 0xA0;
const PATH_TAG: u32 = 0x80;
const CONTENT_TAG: u32 = 0x81;

/// A file that belongs to the operator. Those that a message does not carry are cleared: nothing of the old operator
/// stays.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OperatorFile {
    /// EF.AD: administrative data, with the length of the MNC in its fourth byte. Kept where it is not carried.
    AdministrativeData,
    /// EF.ACC: access control class. Follows from the IMSI where it is not carried.
    AccessClass,
    /// EF.SMSP, the last 28 bytes of the first record: service centre. All other records are cleared.
    ShortMessageParameters,
    /// EF.SPN: service provider name.
    ServiceProviderName,
    /// EF.EHPLMN: equivalent home networks.
    EquivalentHomeNetworks,
    /// EF.HPLMNwAcT: home network selector.
    HomeNetworkSelector,
    /// EF.OPLMNwAcT: operator's network selector.
    OperatorNetworkSelector,
    /// EF.MSISDN, the last 14 bytes of the first record.
    Msisdn,
    /// EF.SUCI_Calc_Info: how the subscriber's identity is concealed in 5G.
    SuciCalculation,
    /// EF.Routing_Indicator.
    RoutingIndicator,
    /// EF.IMPI of the ISIM: private user identity.
    PrivateIdentity,
    /// EF.IMPU of the ISIM: public user identities, one per record; may come several times.
    PublicIdentity,
    /// EF.DOMAIN of the ISIM: home network domain name.
    HomeDomain,
    /// Any other transparent file or first record, by its path.
    Other(FilePath),
}

/// Where a file lies, whatever the card calls the directory of its application.
enum Home {
    Usim(&'static [u16]),
    Isim(&'static [u16]),
}

impl OperatorFile {
    /// Those with a tag of their own.
    pub const ALL: [Self; 13] = [
        Self::AdministrativeData,
        Self::AccessClass,
        Self::ShortMessageParameters,
        Self::ServiceProviderName,
        Self::EquivalentHomeNetworks,
        Self::HomeNetworkSelector,
        Self::OperatorNetworkSelector,
        Self::Msisdn,
        Self::SuciCalculation,
        Self::RoutingIndicator,
        Self::PrivateIdentity,
        Self::PublicIdentity,
        Self::HomeDomain,
    ];

    /// The tag in the message: 80 to 8C in the order of [`OperatorFile::ALL`].
    fn tag(&self) -> u32 {
        let place = Self::ALL.iter().position(|file| file == self);
        place.map_or(OTHER_TAG, |place| 0x80 + place as u32)
    }

    fn home(&self) -> Option<Home> {
        Some(match self {
            Self::AdministrativeData => Home::Usim(&[0x6FAD]),
            Self::AccessClass => Home::Usim(&[0x6F78]),
            Self::ShortMessageParameters => Home::Usim(&[0x6F42]),
            Self::ServiceProviderName => Home::Usim(&[0x6F46]),
            Self::EquivalentHomeNetworks => Home::Usim(&[0x6FD9]),
            Self::HomeNetworkSelector => Home::Usim(&[0x6F62]),
            Self::OperatorNetworkSelector => Home::Usim(&[0x6F61]),
            Self::Msisdn => Home::Usim(&[0x6F40]),
            Self::SuciCalculation => Home::Usim(&[0x5FC0, 0x4F07]),
            Self::RoutingIndicator => Home::Usim(&[0x5FC0, 0x4F0A]),
            Self::PrivateIdentity => Home::Isim(&[0x6F02]),
            Self::PublicIdentity => Home::Isim(&[0x6F04]),
            Self::HomeDomain => Home::Isim(&[0x6F03]),
            Self::Other(_) => return None,
        })
    }

    /// Whether the content stands at the end of its record, behind an alpha identifier of any length.
    pub const fn is_behind_a_name(&self) -> bool {
        matches!(self, Self::ShortMessageParameters | Self::Msisdn)
    }

    /// Where the file lies on cards of a profile; `None` where they do not have it.
    pub fn path(&self, profile: &Profile) -> Option<FilePath> {
        let (application, fids) = match (self, self.home()) {
            (Self::Other(path), _) => return profile.file(path).map(|file| file.path.clone()),
            (_, Some(Home::Usim(fids))) => (Profile::USIM_AID, fids),
            (_, Some(Home::Isim(fids))) => (Profile::ISIM_AID, fids),
            (_, None) => return None,
        };
        profile.path_in_application(&application, fids)
    }
}

impl Profile {
    /// What the AID of every USIM begins with (ETSI TS 101 220, annex E).
    pub const USIM_AID: [u8; 7] = [0xA0, 0x00, 0x00, 0x00, 0x87, 0x10, 0x02];
    /// What the AID of every ISIM begins with.
    pub const ISIM_AID: [u8; 7] = [0xA0, 0x00, 0x00, 0x00, 0x87, 0x10, 0x04];

    /// The path of a file below the first application whose AID begins so, if the profile defines it.
    pub fn path_in_application(&self, aid: &[u8], fids: &[u16]) -> Option<FilePath> {
        let home = self.files.iter().find(
            |file| matches!(&file.structure, Structure::Application { aid: found } if found.starts_with(aid)),
        )?;
        let path = fids.iter().try_fold(home.path.clone(), |path, fid| path.child(*fid))?;
        self.file(&path).map(|file| file.path.clone())
    }
}

/// A file with its new content; what is missing at its end is filled with FF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    /// Which file.
    pub file: OperatorFile,
    /// Its content, or that of its first record; of EF.IMPU the next record's.
    pub content: Vec<u8>,
}

/// Builds the contents of an operator's files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OperatorFiles(Vec<FileContent>);

impl OperatorFiles {
    /// What follows from the subscription itself: EF.AD with the length of the MNC, EF.ACC, EF.MSISDN, and an ISIM as
    /// 3GPP TS 23.003, 13.2 to 13.4 derives it from the IMSI.
    pub fn of_subscription(imsi: &Imsi, mnc_digits: u8, msisdn: Option<&Msisdn>) -> Self {
        let mut files = Self::default();
        files.push(OperatorFile::AdministrativeData, vec![0, 0, 0, mnc_digits]);
        files.push(OperatorFile::AccessClass, access_class(imsi).to_vec());
        if let Some(record) = msisdn.and_then(msisdn_record) {
            files.push(OperatorFile::Msisdn, record);
        }
        let domain = format!("ims.mnc{:0>3}.mcc{}.3gppnetwork.org", imsi.mnc(mnc_digits), imsi.mcc());
        files.push(OperatorFile::PrivateIdentity, text_object(&format!("{imsi}@{domain}")));
        files.push(OperatorFile::PublicIdentity, text_object(&format!("sip:{imsi}@{domain}")));
        files.push(OperatorFile::HomeDomain, text_object(&domain));
        files.push(OperatorFile::RoutingIndicator, vec![0xF0, 0xFF, 0x00, 0x00]);
        files
    }

    /// EF.SPN with this name (3GPP TS 31.102, 4.2.12), its first 16 bytes; shown beside the network's name.
    #[must_use]
    pub fn with_service_provider_name(mut self, name: &str) -> Self {
        let shown = name.chars().filter(char::is_ascii_graphic_or_blank).take(16);
        let content = std::iter::once(0x01).chain(shown.map(|character| character as u8)).collect();
        self.push(OperatorFile::ServiceProviderName, content);
        self
    }

    /// EF.SMSP with this service centre (3GPP TS 31.102, 4.2.27): only that parameter is present.
    #[must_use]
    pub fn with_service_centre(mut self, number: &Msisdn) -> Self {
        if let Ok(address) = Address::number(&format!("+{number}")) {
            // Indicators FD: the service centre address is there and nothing else.
            let mut record = vec![0xFD];
            record.extend([0xFF; 12]);
            record.extend(length_and_number(&address));
            record.resize(28, 0xFF);
            self.push(OperatorFile::ShortMessageParameters, record);
        }
        self
    }

    /// EF.HPLMNwAcT with the home network in all access technologies (3GPP TS 31.102, 4.2.54), and EF.EHPLMN with it.
    #[must_use]
    pub fn with_home_network(mut self, mcc: &str, mnc: &str) -> Self {
        if let Some(plmn) = plmn(mcc, mnc) {
            let selector = [&plmn[..], &[0xFF, 0xFF]].concat();
            self.push(OperatorFile::HomeNetworkSelector, selector);
            self.push(OperatorFile::EquivalentHomeNetworks, plmn.to_vec());
        }
        self
    }

    /// A file with this content. A file that is there already is replaced, but EF.IMPU gets a further record.
    pub fn push(&mut self, file: OperatorFile, content: Vec<u8>) {
        if file != OperatorFile::PublicIdentity {
            self.0.retain(|other| other.file != file);
        }
        self.0.push(FileContent { file, content });
    }

    /// The files in the order in which they are written.
    pub fn as_slice(&self) -> &[FileContent] {
        &self.0
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for FileContent { file, content } in &self.0 {
            match file {
                OperatorFile::Other(path) => push_with(out, OTHER_TAG, |object| {
                    let fids: Vec<u8> = path.fids().iter().flat_map(|fid| fid.to_be_bytes()).collect();
                    push(object, PATH_TAG, &fids);
                    push(object, CONTENT_TAG, content);
                }),
                _ => push(out, file.tag(), content),
            }
        }
    }

    /// Reads what [`OperatorFiles::encode`] wrote; `None` where an object is malformed, unknown or there are too many.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut files = Self::default();
        for object in Reader::new(bytes) {
            let object = object.ok()?;
            let known = OperatorFile::ALL.into_iter().find(|file| file.tag() == object.tag);
            let content = match known {
                Some(file) => FileContent { file, content: object.value.to_vec() },
                None if object.tag == OTHER_TAG => FileContent {
                    file: OperatorFile::Other(path(find(object.value, PATH_TAG)?)?),
                    content: find(object.value, CONTENT_TAG)?.to_vec(),
                },
                None => return None,
            };
            if files.0.len() == FILES_MAX {
                return None;
            }
            files.0.push(content);
        }
        Some(files)
    }
}

/// A character of ASCII that can be shown.
trait Shown {
    fn is_ascii_graphic_or_blank(&self) -> bool;
}

impl Shown for char {
    fn is_ascii_graphic_or_blank(&self) -> bool {
        self.is_ascii_graphic() || *self == ' '
    }
}

fn path(fids: &[u8]) -> Option<FilePath> {
    let (fids, rest) = fids.as_chunks::<2>();
    let text: Vec<String> = fids.iter().map(hex::encode_upper).collect();
    if rest.is_empty() { text.join("/").parse().ok() } else { None }
}

/// EF.ACC: the class that the last digit of the IMSI says (3GPP TS 22.011, 4.2).
pub fn access_class(imsi: &Imsi) -> [u8; 2] {
    let last = imsi.to_string().bytes().last().unwrap_or(b'0') - b'0';
    (1_u16 << last).to_be_bytes()
}

/// EF.MSISDN behind its alpha identifier (3GPP TS 31.102, 4.2.26): the number, no further parameters.
fn msisdn_record(msisdn: &Msisdn) -> Option<Vec<u8>> {
    let address = Address::number(&format!("+{msisdn}")).ok()?;
    let mut record = length_and_number(&address);
    record.resize(14, 0xFF);
    Some(record)
}

/// 3GPP TS 24.008, 10.5.4.7: number of bytes, type of number, digits.
fn length_and_number(address: &Address) -> Vec<u8> {
    let number = address.to_data_object();
    std::iter::once(number.len() as u8).chain(number).collect()
}

/// 3GPP TS 31.103, 4.2: identities and names stand in an object with tag 80.
fn text_object(text: &str) -> Vec<u8> {
    let mut object = Vec::with_capacity(text.len() + 2);
    push(&mut object, 0x80, text.as_bytes());
    object
}

/// 3GPP TS 24.008, 10.5.1.3: MCC and MNC in three bytes.
pub fn plmn(mcc: &str, mnc: &str) -> Option<[u8; 3]> {
    let digits = |text: &str| -> Option<Vec<u8>> {
        text.bytes().map(|byte| byte.is_ascii_digit().then(|| byte - b'0')).collect()
    };
    let ([m1, m2, m3], mnc) = (<[u8; 3]>::try_from(digits(mcc)?).ok()?, digits(mnc)?);
    let (n1, n2, n3) = match mnc.as_slice() {
        [n1, n2] => (*n1, *n2, 0x0F),
        [n1, n2, n3] => (*n1, *n2, *n3),
        _ => return None,
    };
    Some([m1 | m2 << 4, m3 | n3 << 4, n1 | n2 << 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_files_read_back_and_lie_in_the_standard_profile() {
        let imsi: Imsi = "240991234567893".parse().unwrap();
        let mut files = OperatorFiles::of_subscription(&imsi, 2, Some(&"46701234567".parse().unwrap()))
            .with_service_provider_name("Second operator AB")
            .with_service_centre(&"46700000000".parse().unwrap())
            .with_home_network("240", "99");
        files.push(OperatorFile::Other("3F00/7FF0/6F3E".parse().unwrap()), vec![1, 2]);
        let mut bytes = Vec::new();
        files.encode(&mut bytes);
        assert_eq!(OperatorFiles::decode(&bytes).unwrap(), files);
        let profile = Profile::standard();
        for content in files.as_slice() {
            let path = content.file.path(&profile).unwrap();
            let size = profile.file(&path).unwrap().structure.records().map_or_else(
                || profile.file(&path).unwrap().structure.size(),
                |(record_size, _)| usize::from(record_size),
            );
            assert!(content.content.len() <= size, "{:?}", content.file);
        }
        for file in OperatorFile::ALL {
            assert!(file.path(&profile).is_some(), "{file:?}");
        }
    }

    #[test]
    fn contents_as_the_specifications_write_them() {
        let imsi: Imsi = "240991234567893".parse().unwrap();
        assert_eq!(access_class(&imsi), [0x00, 0x08]);
        assert_eq!(plmn("240", "99"), Some([0x42, 0xF0, 0x99]));
        assert_eq!(plmn("310", "410"), Some([0x13, 0x00, 0x14]));
        assert_eq!((plmn("31", "41"), plmn("3x0", "41"), plmn("310", "4")), (None, None, None));
        let record = msisdn_record(&"46701234567".parse().unwrap()).unwrap();
        assert_eq!(hex::encode(record), "07916407214365f7ffffffffffff");
        let files = OperatorFiles::default().with_service_centre(&"436123456789".parse().unwrap());
        let expected = "fdffffffffffffffffffffffff0791341632547698ffffffffffffff";
        assert_eq!(hex::encode(&files.as_slice()[0].content), expected);
    }
}
