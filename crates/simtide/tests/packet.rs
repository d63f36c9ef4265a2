//! The packet tool as a process: what it prints, and how it fails.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use serde_json::{Value, json};

/// Arguments in one line; what the tool prints, and whether it succeeded.
fn packet(line: &str) -> (String, bool) {
    let output = Command::new(env!("CARGO_BIN_EXE_simtide"))
        .arg("packet")
        .args(line.split_whitespace())
        .output()
        .unwrap();
    assert_ne!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8(output.stdout).unwrap(), output.status.success())
}

fn packet_json(line: &str) -> (Value, bool) {
    let (text, success) = packet(line);
    (serde_json::from_str(&text).unwrap(), success)
}

/// Exit status 2 and a message on standard error.
fn misuse(line: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_simtide"))
        .arg("packet")
        .args(line.split_whitespace())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{line}");
    String::from_utf8(output.stderr).unwrap()
}

const S3: &str = "--kic-key 300102030405060708090a0b0c0d0e0f --kid-key 301102030405060708090A0B0C0D0E0F";
const A2: &str = "--kic-key 200102030405060708090a0b0c0d0e0f --kid-key 201102030405060708090a0b0c0d0e0f";
const G3: &str = "--kic-key C21DD66ACAC13CB3BC8B331B24AFB57B --kid-key 12110C78E678C25408233076AA033615";

#[test]
fn seal_prints_the_packet_and_open_reads_it() {
    let (sealed, success) = packet(&format!(
        "seal --spi 0619 --kic 35 --kid 35 --tar B00011 --cntr 0 {S3} --data 00A40004023F00"
    ));
    assert!(success);
    assert_eq!(sealed, "00201506193535b00011ae733256918d050b87c94fbfe12e4dc402f262c41cf67f2f\n");
    let (opened, success) = packet_json(&format!("open {S3} {sealed}"));
    assert!(success);
    let expected = json!({
        "spi": "0619", "kic": "35", "kid": "35", "tar": "b00011", "cntr": 0, "data": "00a40004023f00"
    });
    assert_eq!(opened, expected);
}

#[test]
fn counters_come_in_decimal_and_hex_and_crcs_by_flag() {
    let kic = "--kic-key 938ED71B96CC424B7255E700AF27D4AA128BAA5F27D25559";
    let data = "A0A40000023F00A0A40000027F10A0A40000026f3CA0B2010405";
    let expected = "0030110d010900b0001049eb43424d46a4f8a99eeacb486531044452448f305a40c0e4c87aa122aed0a9bfe2808f1b7ab739\n";
    let seal = format!("seal --spi 0D01 --kic 09 --kid 00 --tar B00010 --cntr 0x1 {kic} --data {data}");
    assert_eq!(packet(&seal), (expected.into(), true));
    assert_eq!(packet(&format!("{seal} --rc crc32")), (expected.into(), true));
    let (crc16, _) = packet(&format!("{seal} --rc crc16"));
    assert!(crc16.starts_with("00300f0d0109"), "{crc16}");
    let (opened, _) = packet_json(&format!("open {kic} --rc crc16 {crc16}"));
    assert_eq!(opened["cntr"], 1);

    let seal = format!("seal --spi 0C01 --kic 09 --kid 01 --tar B00010 --cntr 4813 {kic} --data {data}");
    let (sealed, _) = packet(&seal);
    assert_eq!(
        sealed,
        "00280d0c010901b000105dc0a237455346727f48a6958f03140e2ae751200a4d958781dd5ec97b2d1ac2\n"
    );
    let seal = format!("seal --spi 0D01 --kic 09 --kid 05 --rc crc16 --tar B00010 --cntr 1 {kic} --data 00");
    assert_eq!(packet_json(&seal).0["check"], "rc");
}

#[test]
fn segments_are_user_data_line_by_line_and_open_again_in_any_order() {
    let seal = format!("seal --spi 1639 --kic 22 --kid 22 --tar B00011 --cntr 77 {A2} --segments");
    let (one, _) = packet(&format!("{seal} --data {}", "00".repeat(98)));
    assert_eq!(one.lines().count(), 1);
    assert!(one.starts_with("0270000") && one.len() <= 281);
    for (parts, size) in [(2, 99), (2, 242), (3, 243), (3, 370), (4, 371)] {
        let (text, _) = packet(&format!("{seal} --ref 9 --data {}", "5a".repeat(size)));
        assert_eq!(text.lines().count(), parts, "{size} bytes");
        assert!(text.starts_with(&format!("07000309{parts:02x}01700")), "{text}");
        assert!(text.lines().nth(1).unwrap().starts_with(&format!("05000309{parts:02x}02")));
        let backwards: Vec<_> = text.lines().rev().collect();
        let (opened, success) = packet_json(&format!("open {A2} {}", backwards.join(" ")));
        assert!(success);
        assert_eq!((&opened["cntr"], &opened["data"]), (&json!(77), &json!("5a".repeat(size))));
    }
    let (wide, _) = packet(&format!("{seal} --ref 0x1234 --data {}", "5a".repeat(200)));
    assert!(wide.starts_with("08080412340201700"));
    let (missing, success) = packet_json(&format!("open {A2} {}", wide.lines().next().unwrap()));
    assert!(!success);
    assert_eq!(missing["check"], "parts");
}

#[test]
fn receipts_are_read_with_their_script_result() {
    let receipt = "027100002412b00011ebc6b497e2cad7aedf36ace0e3a29b38853f0fe9ccde81913be5702b73abce1f";
    let (read, success) = packet_json(&format!("receipt --spi 0619 --kic 22 --kid 22 {A2} {receipt}"));
    assert!(success);
    let expected = json!({
        "tar": "b00011", "cntr": 0, "status": 0, "status_text": "PoR OK",
        "executed": 1, "sw": "6132", "data": "", "authenticated": true
    });
    assert_eq!(read, expected);

    let plain = "027100000E0AB0001000000000010000016E00";
    let (read, _) = packet_json(&format!("receipt --spi 0001 --kic 00 --kid 00 {plain}"));
    assert_eq!(
        (&read["sw"], &read["cntr"], &read["authenticated"]),
        (&json!("6e00"), &json!(1), &json!(false))
    );

    let expanded = "001C1200000100000000000000F5AB90FE3AABB6C3AB0780010123029000";
    let keys = "--kid-key 11223344556677889910111213141516";
    let (read, _) = packet_json(&format!("receipt --spi 0009 --kic 22 --kid 22 {keys} 027100{expanded}"));
    assert_eq!(
        (&read["executed"], &read["sw"], &read["authenticated"]),
        (&json!(1), &json!("9000"), &json!(true))
    );
    assert_eq!(read["responses"], json!([{"sw": "9000", "data": ""}]));
    assert_eq!(packet_json(&format!("receipt --spi 0009 --kic 22 --kid 22 {keys} {expanded}")).0, read);

    let crc =
        "027100002C0EC00000888B39C361C66D5F3DC4EFCEF508CC228021DD34E577B147E54EFF18B3922C9176644E2E8AA9A695";
    let kic = "--kic-key 263B48DBCBC1C21C0AA13E4D4516C446";
    let (read, _) = packet_json(&format!("receipt --spi 1535 --kic 15 --kid 15 {kic} {crc}"));
    assert_eq!((&read["executed"], &read["sw"]), (&json!(1), &json!("9000")));
    assert_eq!(read["data"], "e012c00401018210c00402018210c00403018210");
    assert_eq!((&read["cntr"], &read["authenticated"]), (&json!(0x76), &json!(false)));
}

#[test]
fn a_receipt_in_parts_is_put_together() {
    // A plain response of 300 bytes of data in three parts.
    let data = format!("019000{}", "ab".repeat(297));
    let response = format!("01370ab00010000000000100{}{data}", "00");
    let (first, rest) = response.split_at(132 * 2);
    let (second, third) = rest.split_at(134 * 2);
    let parts = [
        format!("070003050301710 0{first}"),
        format!("050003050302{second}"),
        format!("050003050303{third}"),
    ];
    let parts = parts.map(|part| part.replace(' ', ""));
    let line = format!("receipt --spi 0001 --kic 00 --kid 00 {} {} {}", parts[2], parts[0], parts[1]);
    let (read, success) = packet_json(&line);
    assert!(success, "{read}");
    assert_eq!((&read["executed"], &read["data"]), (&json!(1), &json!("ab".repeat(297))));
    let (read, success) =
        packet_json(&format!("receipt --spi 0001 --kic 00 --kid 00 {} {}", parts[0], parts[2]));
    assert_eq!((success, &read["check"]), (false, &json!("parts")));
}

#[test]
fn checks_that_fail_are_named() {
    let wrong_result = "027100001612b000110000000000000055f47118381175fb02612f";
    let (read, success) = packet_json(&format!("receipt --spi 0609 --kic 35 --kid 35 {G3} {wrong_result}"));
    assert!(!success);
    assert_eq!(read["check"], "cc");
    assert!(read["error"].as_str().unwrap().contains("checksum"));

    let failing = |line: &str| {
        let (read, success) = packet_json(line);
        assert!(!success, "{line}");
        read["check"].as_str().unwrap().to_owned()
    };
    let good = "00201506193535b00011ae733256918d050b87c94fbfe12e4dc402f262c41cf67f2f";
    assert_eq!(failing(&format!("open {G3} {good}")), "cc");
    assert_eq!(failing(&format!("open {good}")), "key");
    assert_eq!(failing(&format!("open {S3} {}", &good[..60])), "udh");
    assert_eq!(failing(&format!("open {S3} {}", good.replacen("15", "0d", 1))), "header");
    assert_eq!(
        failing(&format!(
            "open --cmac-len 4 {A2} 00281506192222b00011e87cceebb2d93083011ce294f93fc4d8de80da1abae8c37ca3e72ec4432e5058"
        )),
        "header"
    );
    assert_eq!(failing(&format!("open {S3} 027100000e0ab0001100000000000000016132")), "udh");
    assert_eq!(
        failing("receipt --spi 0001 --kic 00 --kid 00 027100000E0AB00010000000000100FF016E00"),
        "status"
    );
    assert_eq!(
        failing("receipt --spi 0001 --kic 00 --kid 00 027100000E0AB0001000000000010400016E00"),
        "padding"
    );
    assert_eq!(
        failing("receipt --spi 0001 --kic 00 --kid 00 027100000F0AB0001000000000010000016E00"),
        "length"
    );
    let seal = format!("seal --tar B00011 --cntr 0 {S3} --data 00");
    assert_eq!(failing(&format!("{seal} --spi 0319 --kic 35 --kid 35")), "ds");
    assert_eq!(failing(&format!("{seal} --spi 0619 --kic 39 --kid 35")), "key");
    assert_eq!(failing(&format!("{seal} --spi 0619 --kic 33 --kid 35")), "key");
}

#[test]
fn arguments_that_cannot_be_are_refused_with_what_could() {
    let seal = "seal --spi 0619 --kic 35 --kid 35 --cntr 0 --data 00";
    assert!(misuse(&format!("{seal} --tar B000")).contains("6"));
    assert!(misuse(&format!("{seal} --tar B00011 --kic-key 0011")).contains("8 (DES), 16, 24 or 32"));
    assert!(
        misuse("seal --spi 061 --kic 35 --kid 35 --tar B00011 --cntr 0 --data 00").contains("4 hex digits")
    );
    assert!(misuse("seal --spi 0619 --kic 35 --kid 35 --tar B00011 --cntr 0 --data 000").contains("hex"));
    let counter = "seal --spi 0619 --kic 35 --kid 35 --tar B00011 --data 00 --cntr";
    assert!(misuse(&format!("{counter} 0x10000000000")).contains("40 bits"));
    assert!(misuse(&format!("{seal} --tar B00011 --segments --ref 0")).contains("from 1"));
}
