//! Columns and the names that vendors give them.

/// Highest index of an OTA key set.
pub const KEY_SETS_MAX: u8 = 15;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "named as in the files; described in docs/import.md and at `CardRow`")]
pub enum Column {
    Iccid,
    Eid,
    Form,
    Imsi,
    Msisdn,
    Profile,
    Ki,
    Opc,
    Algorithm,
    Kic(u8),
    KicAlgorithm(u8),
    Kid(u8),
    KidAlgorithm(u8),
    Kik(u8),
    Counter(u8),
    PskIdentity,
    Psk,
    AdminCode,
    Pin1,
    Puk1,
    Pin2,
    Puk2,
    DeviceKind,
    Tags,
    NextPoll,
    LastUpdate,
}

/// Columns without an index, by the name that we write, and what else they are called.
const PLAIN: [(Column, &str, &[&str]); 20] = [
    (Column::Iccid, "iccid", &["serialnumber", "sernb", "ccid"]),
    (Column::Eid, "eid", &[]),
    (Column::Form, "form", &["formfactor"]),
    (Column::Imsi, "imsi", &["imsi1"]),
    (Column::Msisdn, "msisdn", &["phonenumber"]),
    (Column::Profile, "profile", &["cardprofile"]),
    (Column::Ki, "ki", &["k", "eki"]),
    (Column::Opc, "opc", &["eopc"]),
    (Column::Algorithm, "algorithm", &["alg", "authenticationalgorithm"]),
    (Column::PskIdentity, "psk_identity", &["pskid"]),
    (Column::Psk, "psk", &["pskkey"]),
    (Column::AdminCode, "admin_code", &["adm", "adm1", "admincode1"]),
    (Column::Pin1, "pin1", &["pin", "chv1"]),
    (Column::Puk1, "puk1", &["puk", "unblockchv1"]),
    (Column::Pin2, "pin2", &["chv2"]),
    (Column::Puk2, "puk2", &["unblockchv2"]),
    (Column::DeviceKind, "device_kind", &["device"]),
    (Column::Tags, "tags", &["tag"]),
    (Column::NextPoll, "next_poll", &[]),
    (Column::LastUpdate, "last_update", &["lastcontact"]),
];

impl Column {
    /// The column of a name: blanks, `_`, `-`, `.` and case do not count.
    pub fn of_name(name: &str) -> Option<Column> {
        let plain: String =
            name.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect();
        let known = PLAIN.iter().find(|(_, own, others)| {
            others.contains(&plain.as_str()) || own.chars().filter(|c| *c != '_').eq(plain.chars())
        });
        known.map(|(column, ..)| *column).or_else(|| indexed(&plain))
    }

    /// The name that we write.
    pub fn name(self) -> String {
        match self {
            Column::Kic(index) => format!("kic{index}"),
            Column::KicAlgorithm(index) => format!("kic{index}_algorithm"),
            Column::Kid(index) => format!("kid{index}"),
            Column::KidAlgorithm(index) => format!("kid{index}_algorithm"),
            Column::Kik(index) => format!("kik{index}"),
            Column::Counter(index) => format!("counter{index}"),
            _ => PLAIN.iter().find(|(column, ..)| *column == self).map_or("", |(_, own, _)| own).to_owned(),
        }
    }

    /// Whether its cells are secrets, which a transport key encrypts.
    pub fn is_secret(self) -> bool {
        matches!(
            self,
            Column::Ki
                | Column::Opc
                | Column::Kic(_)
                | Column::Kid(_)
                | Column::Kik(_)
                | Column::Psk
                | Column::AdminCode
        )
    }
}

/// `kic1`, `kic1algorithm`, `kic1alg`, `dek1`, `counter1`, `cntr1`; without a digit the index is 1.
fn indexed(plain: &str) -> Option<Column> {
    let start = plain.find(|c: char| c.is_ascii_digit()).unwrap_or(plain.len());
    let digits = plain[start..].bytes().take_while(u8::is_ascii_digit).count();
    let (stem, rest) = (&plain[..start], &plain[start + digits..]);
    let index = if digits == 0 { 1 } else { plain[start..start + digits].parse().ok()? };
    if !(1..=KEY_SETS_MAX).contains(&index) {
        return None;
    }
    match (stem, rest) {
        ("kic", "") => Some(Column::Kic(index)),
        ("kid", "") => Some(Column::Kid(index)),
        ("kik" | "dek", "") => Some(Column::Kik(index)),
        ("counter" | "cntr", "") => Some(Column::Counter(index)),
        ("kic", "algorithm" | "alg") => Some(Column::KicAlgorithm(index)),
        ("kid", "algorithm" | "alg") => Some(Column::KidAlgorithm(index)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_vary() {
        for (column, own, _) in PLAIN {
            assert_eq!(Column::of_name(own), Some(column));
            assert_eq!(column.name(), own);
        }
        for index in [1, 9, 15] {
            use Column::*;
            for column in
                [Kic(index), Kid(index), Kik(index), Counter(index), KicAlgorithm(index), KidAlgorithm(index)]
            {
                assert_eq!(Column::of_name(&column.name()), Some(column), "{column:?}");
            }
        }
        for (name, column) in [
            (" Psk ID", Column::PskIdentity),
            ("ADM1", Column::AdminCode),
            ("KIC", Column::Kic(1)),
            ("Kic_2-Alg", Column::KicAlgorithm(2)),
            ("DEK3", Column::Kik(3)),
        ] {
            assert_eq!(Column::of_name(name), Some(column), "{name}");
        }
        for name in ["", "kic0", "kic16", "kic1x", "acc", "kic99999999999", "=ki(1)x"] {
            assert_eq!(Column::of_name(name), None, "{name}");
        }
    }
}
