//! Targets for what everything else is made of: TLV, APDUs, the contents of files.

use crate::apdu::{Command, Response};
use crate::ids::{CardId, Iccid, Imsi, tbcd};
use crate::poll_date::{MarkFile, PollFile};
use crate::tlv::{self, ComprehensionReader, Reader};

/// Both kinds of TLV, and APDUs: what is read is written and reads again the same.
pub fn tlv(data: &[u8]) {
    let objects: Vec<_> = Reader::new(data).map_while(Result::ok).collect();
    let mut written = Vec::new();
    objects.iter().for_each(|object| tlv::push(&mut written, object.tag, object.value));
    assert!(Reader::new(&written).eq(objects.into_iter().map(Ok)), "what was written reads the same");

    let objects: Vec<_> = ComprehensionReader::new(data).map_while(Result::ok).collect();
    let mut written = Vec::new();
    for object in &objects {
        tlv::push_comprehension(&mut written, object.tag, object.comprehension_required, object.value);
    }
    assert!(
        ComprehensionReader::new(&written).eq(objects.into_iter().map(Ok)),
        "what was written reads the same"
    );

    if let Ok(command) = Command::parse(data) {
        assert_eq!(Command::parse(&command.encode()), Ok(command), "a command codes back");
    }
    if let Some(response) = Response::parse(data) {
        assert_eq!(response.encode(), data, "a response is its bytes");
    }
}

/// Contents of files that this project reads: what is read codes back.
pub fn card_file_contents(data: &[u8]) {
    if let Ok(file) = PollFile::decode(data) {
        assert_eq!(PollFile::decode(&file.encode()), Ok(file));
    }
    if let Ok(file) = MarkFile::decode(data) {
        assert_eq!(MarkFile::decode(&file.encode()), Ok(file));
    }
    if let Ok(iccid) = Iccid::from_file(data) {
        assert_eq!(iccid.to_file(), data);
        assert_eq!(iccid.to_string().parse(), Ok(iccid));
    }
    if let Ok(imsi) = Imsi::from_file(data) {
        assert_eq!(Imsi::from_file(&imsi.to_file()), Ok(imsi));
    }
    if let Ok(card) = CardId::try_from(data) {
        assert_eq!(card.as_bytes(), data);
        assert_eq!(card.to_string().parse(), Ok(card));
    }
    let _ = tbcd::decode(data);
}
