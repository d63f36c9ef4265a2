//! Who may do what with a file (ETSI TS 102 221, 9.2.7).

use crate::tlv;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The PINs and administrative codes that somebody has presented, or that an application is trusted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Authority(u8);

/// Name in the profile, key reference (ETSI TS 102 221, 9.5.1, table 9.3).
const NAMES: [(&str, u8); 7] = [
    ("pin1", 0x01),
    ("pin2", 0x81),
    ("adm1", 0x0A),
    ("adm2", 0x0B),
    ("adm3", 0x0C),
    ("adm4", 0x0D),
    ("adm5", 0x0E),
];

impl Authority {
    /// Nobody.
    pub const NONE: Self = Self(0);
    /// The holder of the application PIN.
    pub const PIN1: Self = Self(1);
    /// The holder of the second application PIN.
    pub const PIN2: Self = Self(2);
    /// The holder of the first administrative code.
    pub const ADM1: Self = Self(4);
    /// Everybody's rights together.
    pub const ALL: Self = Self(0x7F);

    /// The authority that a key reference stands for (P2 of VERIFY PIN).
    pub fn from_key_reference(reference: u8) -> Option<Self> {
        NAMES.iter().position(|(_, known)| *known == reference).map(|place| Self(1 << place))
    }

    /// Both together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This one without the other.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of `other` is included.
    pub const fn includes(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether at least one of `other` is included.
    pub const fn meets_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The key references of what is included.
    pub fn key_references(self) -> impl Iterator<Item = u8> {
        NAMES
            .iter()
            .enumerate()
            .filter(move |(place, _)| self.0 & (1 << place) != 0)
            .map(|(_, (_, key))| *key)
    }
}

/// What an access rule asks for: `always`, `never`, or one of some authorities (`"pin1 or adm1"`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Condition {
    /// Everybody may.
    Always,
    /// Nobody may.
    #[default]
    Never,
    /// Whoever holds at least one of these.
    AnyOf(Authority),
}

impl Condition {
    /// Whether somebody with this authority may.
    pub const fn allows(self, authority: Authority) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::AnyOf(needed) => authority.meets_any(needed),
        }
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            names => {
                let mut needed = Authority::NONE;
                for name in names.split(" or ") {
                    let place = NAMES.iter().position(|(known, _)| *known == name.trim());
                    let place = place.ok_or_else(|| {
                        format!("unknown condition {name:?}: write always, never, or pin1, pin2, adm1 to adm5 joined by \" or \"")
                    })?;
                    needed = needed.with(Authority(1 << place));
                }
                Ok(Self::AnyOf(needed))
            }
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Never => f.write_str("never"),
            Self::AnyOf(Authority(bits)) => {
                let names = NAMES.iter().enumerate().filter(|(place, _)| bits & (1 << place) != 0);
                let names: Vec<_> = names.map(|(_, (name, _))| *name).collect();
                f.write_str(&names.join(" or "))
            }
        }
    }
}

impl Serialize for Condition {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What can be done with a file or a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// READ and SEARCH.
    Read,
    /// UPDATE.
    Update,
    /// INCREASE.
    Increase,
    /// ACTIVATE FILE.
    Activate,
    /// DEACTIVATE FILE.
    Deactivate,
    /// RESIZE FILE.
    Resize,
    /// DELETE FILE (itself).
    Delete,
    /// CREATE FILE in a directory.
    Create,
}

/// One rule, by name; files refer to it. What is not named is never allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessRule {
    /// What files call it.
    pub name: String,
    /// READ BINARY, READ RECORD, SEARCH RECORD.
    #[serde(default)]
    pub read: Condition,
    /// UPDATE BINARY, UPDATE RECORD.
    #[serde(default)]
    pub update: Condition,
    /// INCREASE.
    #[serde(default)]
    pub increase: Condition,
    /// ACTIVATE FILE.
    #[serde(default)]
    pub activate: Condition,
    /// DEACTIVATE FILE.
    #[serde(default)]
    pub deactivate: Condition,
    /// RESIZE FILE.
    #[serde(default)]
    pub resize: Condition,
    /// DELETE FILE.
    #[serde(default)]
    pub delete: Condition,
    /// CREATE FILE below a directory.
    #[serde(default)]
    pub create: Condition,
}

impl AccessRule {
    /// What an operation asks for.
    pub const fn condition(&self, operation: Operation) -> Condition {
        match operation {
            Operation::Read => self.read,
            Operation::Update => self.update,
            Operation::Increase => self.increase,
            Operation::Activate => self.activate,
            Operation::Deactivate => self.deactivate,
            Operation::Resize => self.resize,
            Operation::Delete => self.delete,
            Operation::Create => self.create,
        }
    }

    /// The rule as a record of EF.ARR: access mode and security condition objects (ISO/IEC 7816-4, expanded format).
    pub fn to_record(&self) -> Vec<u8> {
        let mut record = Vec::new();
        // One byte of access mode: bit 7 delete, 5 activate, 4 deactivate, 2 update or create EF, 1 read.
        let modes =
            [(0x40, self.delete), (0x10, self.activate), (0x08, self.deactivate), (0x02, self.update)];
        let mut done = Vec::new();
        for (_, condition) in [(0x01, self.read)].into_iter().chain(modes) {
            if done.contains(&condition) || condition == Condition::Never {
                continue;
            }
            done.push(condition);
            let same = [(0x01, self.read)].into_iter().chain(modes).filter(|(_, other)| *other == condition);
            let mode = same.fold(0, |mode, (bit, _)| mode | bit);
            tlv::push(&mut record, 0x80, &[mode]);
            push_condition(&mut record, condition);
        }
        // TS 102 221, 9.2.7: INCREASE and RESIZE are named by their instruction.
        for (instruction, condition) in [(0x32, self.increase), (0xD4, self.resize)] {
            if condition != Condition::Never {
                tlv::push(&mut record, 0x84, &[instruction]);
                push_condition(&mut record, condition);
            }
        }
        record
    }
}

fn push_condition(record: &mut Vec<u8>, condition: Condition) {
    match condition {
        Condition::Always => tlv::push(record, 0x90, &[]),
        Condition::Never => tlv::push(record, 0x97, &[]),
        Condition::AnyOf(needed) => {
            let templates: Vec<_> = needed.key_references().map(user_authentication).collect();
            match templates.as_slice() {
                [only] => record.extend_from_slice(only),
                several => tlv::push(record, 0xA0, &several.concat()),
            }
        }
    }
}

/// Control reference template for user authentication: key reference, usage qualifier 08 (PIN).
fn user_authentication(key_reference: u8) -> Vec<u8> {
    vec![0xA4, 0x06, 0x83, 0x01, key_reference, 0x95, 0x01, 0x08]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_as_written() {
        let either: Condition = "pin1 or adm1".parse().unwrap();
        assert!(either.allows(Authority::PIN1) && either.allows(Authority::ADM1.with(Authority::PIN2)));
        assert!(!either.allows(Authority::PIN2) && !either.allows(Authority::NONE));
        assert_eq!(either.to_string(), "pin1 or adm1");
        assert!("pin3".parse::<Condition>().unwrap_err().contains("pin3"));
        assert!(Condition::Always.allows(Authority::NONE) && !Condition::Never.allows(Authority::ALL));
        assert_eq!(Authority::from_key_reference(0x0A), Some(Authority::ADM1));
        assert_eq!(Authority::from_key_reference(0x02), None);
    }

    #[test]
    fn a_rule_as_record_of_ef_arr() {
        let rule = AccessRule {
            name: "x".into(),
            read: Condition::Always,
            update: "pin1 or adm1".parse().unwrap(),
            increase: "adm1".parse().unwrap(),
            activate: "adm1".parse().unwrap(),
            deactivate: "adm1".parse().unwrap(),
            resize: Condition::Never,
            delete: Condition::Never,
            create: Condition::Never,
        };
        assert_eq!(
            hex::encode(rule.to_record()),
            "8001019000800118a40683010a9501088001 02a010a406830101950108a40683010a950108840132a40683010a950108"
                .replace(' ', "")
        );
    }
}
