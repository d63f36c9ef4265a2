use super::*;
use crate::card::{Applied, CardState, Tags};
use proptest::prelude::*;

fn card<'a>(operator: u32, profile: &'a str, tags: &'a [String]) -> CardView<'a> {
    CardView {
        id: "8988211000000000011".parse().unwrap(),
        operator,
        profile,
        kind: "phone",
        tags: Tags { bits: u64::MAX, names: tags },
        iccid: Some("8988211000000000011".parse().unwrap()),
        imsi: Some("001010000000001".parse().unwrap()),
        last_update: Some(EpochMs::from_seconds(1_700_000_000)),
        next_poll: EpochMs::from_seconds(4_000_000_000),
        applied: Applied::default(),
        state: CardState::Active,
    }
}

#[test]
fn text_form_matches_what_it_says() {
    let lab = ["lab".to_owned()];
    for (text, expected) in [
        ("operator=1", true),
        ("operator!=1", false),
        ("operator in (2, 3)", false),
        ("operator=1 and profile=standard and not tag:lab", false),
        ("operator=2 or tag:lab and kind=phone", true),
        ("(operator=2 or tag=lab) and kind=meter", false),
        ("not (operator=2 or kind=meter)", true),
        ("tag in (field, \"lab\")", true),
        ("seen and not tag:other", true),
        ("iccid=8988211", true),
        ("iccid=8988212..8988219", false),
        ("iccid=8988210..8988211", true),
        ("imsi=00101..00102", true),
        ("last_update<2023-11-15", true),
        ("last_update>=2023-11-15T00:00:00Z", false),
        ("next_poll<2030-01-01", false),
        ("everyone", true),
    ] {
        let filter = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(filter.matches(&card(1, "standard", &lab)), expected, "{text}");
        assert_eq!(parse(&filter.to_string()), Ok(filter.clone()), "{filter}");
        let json = serde_json::to_string(&filter).unwrap();
        assert_eq!(serde_json::from_str::<Filter>(&json).unwrap(), filter, "{json}");
        let as_text = serde_json::to_string(text).unwrap();
        assert_eq!(serde_json::from_str::<Filter>(&as_text).unwrap(), filter, "{as_text}");
    }
}

#[test]
fn errors_name_the_position() {
    for (text, position) in [
        ("", 1),
        ("operator", 9),
        ("operator=", 10),
        ("operator=x", 10),
        ("colour=red", 1),
        ("operator=1 profile=standard", 12),
        ("operator=1 and (kind=phone", 27),
        ("tag:\"lab", 5),
        ("iccid=89x", 7),
        ("last_update<yesterday", 13),
        ("kind=phone & kind=meter", 12),
        ("seen=1", 5),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.position, position, "{text}: {error}");
    }
}

#[test]
fn errors_in_json_name_the_position_too() {
    let error = serde_json::from_str::<Filter>("\"operator=x\"").unwrap_err().to_string();
    assert!(error.contains("character 10"), "{error}");
    assert!(
        serde_json::from_str::<Filter>("{\"colour\": \"red\"}").unwrap_err().to_string().contains("colour")
    );
    assert!(serde_json::from_str::<Filter>("17").unwrap_err().to_string().contains("a filter"));
}

#[test]
fn limits_hold() {
    let deep = format!("{}operator=1{}", "(".repeat(40), ")".repeat(40));
    assert!(parse(&deep).unwrap_err().reason.contains("deep"));
    assert!(parse(&vec!["operator=1"; 300].join(" or ")).unwrap_err().reason.contains("conditions"));
    assert!(parse(&"x".repeat(20_000)).is_err());
    let tags: Vec<_> = (0..300).map(|tag| format!("t{tag}")).collect();
    assert!(parse(&format!("tag in ({})", tags.join(","))).is_err());
    // The deepest text that is read makes a tree within its limit.
    let level = "operator=1 or kind=a and (";
    let deepest = (1..20).map(|depth| format!("{}tag in (a, b){}", level.repeat(depth), ")".repeat(depth)));
    let read: Vec<_> = deepest.map_while(|text| parse(&text).ok()).collect();
    assert!(read.len() >= 5);
    assert!(read.into_iter().all(|filter| Audience::Filter(filter).check() == Ok(())));
    let nested = (0..20).fold(Filter::Tag("x".into()), |inner, _| Filter::Not(Box::new(inner)));
    assert_eq!(Audience::Filter(nested).check(), Err(AudienceError::TooDeep));
    assert_eq!(Audience::Cards(BTreeSet::new()).check(), Err(AudienceError::NoCards));
    let wide = Filter::Any(vec![Filter::Tag("x".into()); 300]);
    assert_eq!(Audience::Filter(wide).check(), Err(AudienceError::TooManyConditions(301)));
}

#[test]
fn knows_which_operators_can_match() {
    let operators = |text: &str| Audience::Filter(parse(text).unwrap()).operators();
    assert_eq!(operators("operator in (1, 2) and operator=2"), Some([2].into()));
    assert_eq!(operators("operator=1 or operator=3"), Some([1, 3].into()));
    assert_eq!(operators("operator=1 or tag:lab"), None);
    assert_eq!(operators("not operator=1"), None);
    assert_eq!(Audience::Everyone.operators(), None);
}

#[test]
fn suspended_cards_never_belong() {
    let away = CardView { state: CardState::Suspended, ..card(1, "standard", &[]) };
    assert!(!Audience::Everyone.matches(&away));
    assert!(!Audience::Cards([away.id].into()).matches(&away));
    assert!(Audience::Cards([away.id].into()).matches(&card(1, "standard", &[])));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,80}") {
        let _ = parse(&text);
    }

    #[test]
    fn words_of_the_language_in_any_order(words in proptest::collection::vec(
        proptest::sample::select(vec!["operator", "=", "1", "and", "or", "not", "(", ")", "tag:", "\"a b\"", "in", ",", "iccid", "..", "<"]),
        0..20,
    )) {
        if let Ok(filter) = parse(&words.join(" ")) {
            prop_assert_eq!(parse(&filter.to_string()).unwrap(), filter);
        }
    }
}
