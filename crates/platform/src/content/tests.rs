//! The JSON form, the C-APDUs that come of it, and what is refused.

use super::*;
use simtide_protocol::profile::{ApplicationKind, Profile};

fn content(steps: &str) -> Content {
    serde_json::from_str(&format!(r#"{{"variants": {{"*": [{steps}]}}}}"#)).unwrap()
}

fn prepared(steps: &str) -> Vec<PreparedStep> {
    content(steps).prepare(&Profile::standard()).unwrap().unwrap().steps
}

fn hex(commands: &[Vec<u8>]) -> Vec<String> {
    commands.iter().map(hex::encode).collect()
}

fn refused(steps: &str) -> String {
    match serde_json::from_str::<Content>(&format!(r#"{{"variants": {{"*": [{steps}]}}}}"#)) {
        Ok(content) => content.check(&[&Profile::standard()]).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

const APPLET: &str =
    r#""load_file": "A0000000010203", "module": "A000000001020301", "instance": "A000000001020302""#;

#[test]
fn json_reads_back() {
    let text = r#"{"repeatable":true,"variants":{"*":[{"do":{"file_update":{"path":"3F00/7F90/6F04","offset":3,"data":"0102"}}},{"do":{"applet_delete":{"aid":"A0000000010203","related":true}},"on_failure":"go_on"},{"do":{"script":{"commands":["00A4080C047F906F04"]}},"tar":"B00000","on_failure":{"undo":["00D600000100"]}}],"standard":[]}}"#;
    let content: Content = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&content).unwrap(), text);
    assert!(content.repeatable && content.steps("standard").is_empty());
    assert_eq!(content.steps("other").len(), 3);
    assert!(
        !serde_json::from_str::<Content>(r#"{"variants":{}}"#).unwrap().repeatable,
        "the careful default"
    );
}

#[test]
fn files_go_to_the_application_that_manages_them() {
    let steps = prepared(
        r#"{"do": {"file_update": {"path": "3F00/7F90/6F04", "offset": 2, "data": "AA BB"}}},
           {"do": {"file_update": {"path": "3F00/7FF0/6F46", "data": "01"}}},
           {"do": {"file_update": {"path": "3F00/7FF0/6F46", "data": "01"}}, "tar": "B00000"}"#,
    );
    assert_eq!(steps[0].kind, ApplicationKind::RfmUicc);
    assert_eq!(hex(&steps[0].scripts[0]), ["00a4080c047f906f04", "00d6000202aabb"]);
    assert_eq!(steps[1].kind, ApplicationKind::RfmUsim);
    assert_eq!(hex(&steps[1].scripts[0]), ["00a4080c047fff6f46", "00d600000101"]);
    assert_eq!(hex(&steps[2].scripts[0]), ["00a4080c047ff06f46", "00d600000101"]);
    let record = format!(
        r#"{{"do": {{"file_update": {{"path": "3F00/7F10/6F3A", "record": 2, "data": "{}"}}}}}}"#,
        "FF".repeat(28)
    );
    assert_eq!(hex(&prepared(&record)[0].scripts[0])[1], format!("00dc02041c{}", "ff".repeat(28)));
}

#[test]
fn applets_patches_and_scripts() {
    let steps = prepared(&format!(
        r#"{{"do": {{"applet_replace": {{{APPLET}, "code": "{}"}}}}}},
           {{"do": {{"os_patch": {{"commands": ["80E2000001AA", "80E2800101BB"]}}}}}},
           {{"do": {{"script": {{"commands": ["80F2400C10"]}}}}, "tar": "000000", "on_failure": "go_on"}}"#,
        "5A".repeat(300),
    ));
    assert_eq!((steps[0].kind, steps[0].first_may_find_nothing), (ApplicationKind::Isd, true));
    assert_eq!(hex(&steps[0].scripts[0]), ["80e40080094f07a000000001020300"]);
    let instructions: Vec<_> = steps[0].scripts[1].iter().map(|command| command[1]).collect();
    assert_eq!(instructions, [0xE6, 0xE8, 0xE8, 0xE6]);
    assert_eq!((steps[1].kind, steps[1].scripts.len()), (ApplicationKind::VendorPatch, 1));
    assert!(matches!(steps[2].failing, Failing::GoOn));
}

#[test]
fn long_content_is_cut_into_scripts_that_fit() {
    let mut profile = Profile::standard();
    profile.scp81.script_bytes_max = 1_024;
    let applet = format!(r#"{{"do": {{"applet_install": {{{APPLET}, "code": "{}"}}}}}}"#, "5A".repeat(3_000));
    let steps = content(&applet).prepare(&profile).unwrap().unwrap().steps;
    assert!(steps[0].scripts.len() >= 4);
    let fits = |script: &Vec<Vec<u8>>| {
        script.iter().map(|command| command.len() + 4).sum::<usize>() <= 1_024 - RESERVED_BYTES
    };
    assert!(steps[0].scripts.iter().all(fits));
    let file = format!(
        r#"{{"do": {{"file_update": {{"path": "3F00/7F90/6FFF", "data": "{}"}}}}}}"#,
        "5A".repeat(2_000)
    );
    let steps = content(&file).prepare(&profile).unwrap().unwrap().steps;
    assert!(steps[0].scripts.len() >= 3 && steps[0].scripts.iter().all(fits));
    assert!(steps[0].scripts.iter().all(|script| script[0][1] == 0xA4), "every script selects the file");
    let script = format!(
        r#"{{"do": {{"script": {{"commands": [{}]}}}}, "tar": "B00000"}}"#,
        ["\"00D6000001AA\""; 200].join(",")
    );
    let message = content(&script).check(&[&profile]).unwrap_err().to_string();
    assert!(message.contains("split it into several steps"), "{message}");
}

#[test]
fn refusals_say_what_to_do() {
    for (steps, expected) in [
        (r#"{"do": {"script": {"commands": ["00A"]}}, "tar": "B00000"}"#, "even number"),
        (r#"{"do": {"script": {"commands": ["00A4 0x"]}}, "tar": "B00000"}"#, "character 7 is no hex digit"),
        (r#"{"do": {"script": {"commands": ["00A400"]}}, "tar": "B00000"}"#, "command 1 is no C-APDU"),
        (r#"{"do": {"script": {"commands": []}}, "tar": "B00000"}"#, "at least one"),
        (r#"{"do": {"script": {"commands": ["00A40000"]}}}"#, "six hex digits"),
        (r#"{"do": {"script": {"commands": ["00A40000"]}}, "tar": "B0000"}"#, "TAR has 5 hex digits: give 6"),
        (r#"{"do": {"script": {"commands": ["00A40000"]}}, "tar": "B0FFFF"}"#, "use one of 000000, B00000"),
        (r#"{"do": {"script": {"commands": ["00A40000"]}, "tar": "B00000"}}"#, "expected"),
        (r#"{"do": {"format_card": {}}}"#, "format_card"),
        (r#"{"do": {"file_update": {"path": "7F90/6F04", "data": "01"}}}"#, "from the MF on"),
        (r#"{"do": {"file_update": {"path": "3F00/7F90/6F04", "data": ""}}}"#, "0 bytes of data"),
        (
            r#"{"do": {"file_update": {"path": "3F00/7F90/6F04", "offset": 64, "data": "01"}}}"#,
            "beyond its end",
        ),
        (
            r#"{"do": {"file_update": {"path": "3F00/7F90/6F04", "record": 1, "data": "01"}}}"#,
            "\"offset\" instead",
        ),
        (r#"{"do": {"file_update": {"path": "3F00/7F10/6F3A", "data": "01"}}}"#, "give \"record\""),
        (r#"{"do": {"file_update": {"path": "3F00/7F10/6F3A", "record": 1, "data": "01"}}}"#, "fill them up"),
        (
            r#"{"do": {"file_update": {"path": "3F00/7F10/6F3A", "record": 11, "data": "01"}}}"#,
            "no such record",
        ),
        (
            r#"{"do": {"file_update": {"path": "3F00/7F90/6F04", "record": 1, "offset": 1, "data": "01"}}}"#,
            "either",
        ),
        (r#"{"do": {"file_update": {"path": "3F00/7F90", "data": "01"}}}"#, "name a file in it"),
        ("", "at least one step"),
    ] {
        let message = refused(steps);
        assert!(message.contains(expected), "{expected:?} not in: {message}");
    }
    let applet =
        |fields: &str| refused(&format!(r#"{{"do": {{"applet_install": {{{APPLET}, {fields}}}}}}}"#));
    assert!(applet(r#""code": """#).contains("load file has 0 bytes"));
    assert!(applet(r#""code": "00", "privileges": "0000""#).contains("privileges have 2 bytes"));
    let unknown: Content = serde_json::from_str(
        r#"{"variants": {"metre": [{"do": {"applet_delete": {"aid": "A000000001"}}}]}}"#,
    )
    .unwrap();
    let message = unknown.check(&[&Profile::standard()]).unwrap_err().to_string();
    assert!(message.contains("metre") && message.contains("standard"), "{message}");
}

#[test]
fn limits_hold_at_their_value() {
    let step = r#"{"do": {"applet_delete": {"aid": "A000000001"}}}"#;
    let steps = |count: usize| content(&vec![step; count].join(",")).check(&[&Profile::standard()]);
    assert_eq!(steps(STEPS_MAX), Ok(()));
    assert!(matches!(steps(STEPS_MAX + 1), Err(ContentError::Steps { found: 65, .. })));
    let commands = |count: usize| {
        let step = format!(
            r#"{{"do": {{"os_patch": {{"commands": [{}]}}}}}}"#,
            vec![r#""80E20000""#; count].join(",")
        );
        content(&step).check(&[&Profile::standard()])
    };
    assert_eq!(commands(COMMANDS_MAX), Ok(()));
    assert!(matches!(
        commands(COMMANDS_MAX + 1),
        Err(ContentError::Step { problem: StepError::TooManyCommands(1025), .. })
    ));
    let mut large = content(step);
    let block = vec![HexBytes(vec![0; 250]); 1_000];
    let os_patch = Step {
        action: Action::OsPatch(Commands { commands: block }),
        tar: None,
        on_failure: OnFailure::Stop,
    };
    large.variants.insert("*".into(), vec![os_patch; 5]);
    assert!(matches!(large.check(&[&Profile::standard()]), Err(ContentError::TooLarge(1_250_000))));
}
