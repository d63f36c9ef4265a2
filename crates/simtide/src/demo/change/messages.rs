//! Every message of the demo as it was on the air, from the records of the SMSCs: what anybody in the network sees.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use simtide_protocol::sms::{Element, UserDataHeader};
use simtide_simulation::smsc::{Entry, Happened};

/// Reads a record as it grows.
pub struct Follower {
    name: &'static str,
    record: BufReader<File>,
    /// What has come of the line that is being written.
    line: String,
}

impl Follower {
    /// From the beginning of the record.
    pub fn open(name: &'static str, record: &Path) -> std::io::Result<Self> {
        Ok(Self { name, record: BufReader::new(File::open(record)?), line: String::new() })
    }

    /// What has been written since the last call.
    pub fn entries(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        while self.record.read_line(&mut self.line).is_ok_and(|count| count > 0) && self.line.ends_with('\n')
        {
            entries.extend(serde_json::from_str::<Entry>(&self.line));
            self.line.clear();
        }
        entries
    }

    /// An entry as a line for a person; nothing for what only repeats another one.
    pub fn describe(&self, entry: &Entry) -> Option<String> {
        let Entry { source, destination, .. } = entry;
        let what = match entry.event {
            Happened::Delivered => format!("SMS to {destination}: {}", packet(&entry.user_data.0)),
            Happened::Originated => format!("SMS from {source}: {}", packet(&entry.user_data.0)),
            Happened::Failed => format!("SMS to {destination} refused by the device"),
            Happened::Expired => format!("SMS to {destination} expired"),
            Happened::Challenged => format!("{source} asks for access: RAND and AUTN to the card"),
            Happened::Attached => format!("{source} proved itself with RES ****: attached as {destination}"),
            Happened::Rejected => format!("{source} refused, cause {destination}"),
            Happened::Withdrawn => format!("{source} has lost its access: {destination} detached"),
            Happened::Submitted
            | Happened::Throttled
            | Happened::Refused
            | Happened::Dropped
            | Happened::Acknowledged
            | Happened::Receipt
            | Happened::Taken => return None,
        };
        Some(format!("network {:4} {what}", self.name))
    }
}

/// What can be seen of a packet from outside.
fn packet(user_data: &[u8]) -> String {
    let Ok((header, body)) = UserDataHeader::split(user_data) else {
        return format!("{} bytes", user_data.len());
    };
    let part = match header.concatenation() {
        Ok(Some(part)) => format!(", part {} of {}", part.number, part.total),
        _ => String::new(),
    };
    let is_first = header.concatenation().ok().flatten().is_none_or(|part| part.number == 1);
    let kind = match (header.contains(Element::COMMAND_PACKET), header.contains(Element::RESPONSE_PACKET)) {
        (true, _) => "command packet",
        (_, true) => "response packet",
        _ => "packet",
    };
    // ETSI TS 102 225, 5.1: CPL, CHL, SPI, KIc, KID, TAR; then everything is encrypted.
    let clear = match (header.contains(Element::COMMAND_PACKET) && is_first, body) {
        (true, [_, _, _, spi, second, kic, kid, tar_0, tar_1, tar_2, ..]) => format!(
            ", SPI {spi:02X}{second:02X} KIc {kic:02X} KID {kid:02X} TAR {tar_0:02X}{tar_1:02X}{tar_2:02X}"
        ),
        _ => String::new(),
    };
    format!("{kind}{part}{clear}, {} bytes sealed", body.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_shown_from_outside_only() {
        let first = "0770000003070201 0078 15 1639 15 15 bfff20 aabbccdd".replace(' ', "");
        assert_eq!(
            packet(&hex::decode(first).unwrap()),
            "command packet, part 1 of 2, SPI 1639 KIc 15 KID 15 TAR BFFF20, 14 bytes sealed"
        );
        let second = hex::decode("050003070202aabbcc").unwrap();
        assert_eq!(packet(&second), "packet, part 2 of 2, 3 bytes sealed");
        assert_eq!(packet(&hex::decode("027100aabb").unwrap()), "response packet, 2 bytes sealed");
        assert_eq!(packet(&[]), "0 bytes");
    }
}
