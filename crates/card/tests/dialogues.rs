//! Golden dialogues: command and answer, line by line, against a card of the standard profile.
//!
//! A line `> 00A4.. ` is a command, the line `< ..9000` behind it the answer, `..` standing for any bytes. `reset`
//! resets, `restore` turns power off and restores the card from its journal. Lines that start with # are comments.

#![allow(clippy::unwrap_used)]

mod bench;

use bench::Bench;

fn play(text: &str) {
    let mut bench = Bench::new();
    let mut answer = String::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let place = number + 1;
        if line == "reset" {
            bench.reset();
        } else if line == "restore" {
            bench.restore();
        } else if let Some(command) = line.strip_prefix('>') {
            answer = hex::encode_upper(bench.transmit(&command.replace(' ', "")));
        } else if let Some(expected) = line.strip_prefix('<') {
            let expected = expected.replace(' ', "").to_uppercase();
            assert!(matches(&expected, &answer), "line {place}: expected {expected}, found {answer}");
        } else {
            assert!(line.is_empty(), "line {place}: unknown {line}");
        }
    }
}

/// `..` stands for any bytes, also none.
fn matches(expected: &str, found: &str) -> bool {
    match expected.split_once("..") {
        Some((start, end)) => {
            found.len() >= start.len() + end.len() && found.starts_with(start) && found.ends_with(end)
        }
        None => expected == found,
    }
}

macro_rules! dialogues {
    ($($name:ident),+) => {$(
        #[test]
        fn $name() {
            play(include_str!(concat!("dialogues/", stringify!($name), ".txt")));
        }
    )+};
}

dialogues!(selecting, reading_and_writing, records, codes, life_cycle, channels, toolkit, content, gsm);
