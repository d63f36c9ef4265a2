//! The examples, what is no trigger, and round trips.

use super::*;
use proptest::prelude::*;

const SEMI: RetryTimerCoding = RetryTimerCoding::SemiOctets;

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text.replace(' ', "")).unwrap()
}

#[test]
fn short_form() {
    assert_eq!(Trigger::Stored.encode(SEMI).unwrap(), [0x81, 0x00]);
    assert_eq!(Trigger::decode(&[0x81, 0x00], SEMI), Ok(Trigger::Stored));
}

#[test]
fn whole_example() {
    let bytes = hex("811F 831D 8404 02028182 8504 00020101 8607 B000 2503 010203 8906 8A00 8B00 8C00");
    let parameters = |delay_s| SessionParameters {
        connection: Some(Connection { device_identities: Some([0x81, 0x82]), ..Connection::default() }),
        security: Some(Security { psk_identity: vec![], key: Some((1, 1)) }),
        retry: Some(Retry { counter: 0xB000, delay_s: Some(delay_s), failure_report: None }),
        http: Some(Http::default()),
        ..SessionParameters::default()
    };
    // Swapped semi-octets: 10 h 20 min 30 s; binary: 1 h 2 min 3 s.
    for (coding, delay_s) in [(SEMI, 37_230), (RetryTimerCoding::Binary, 3_723)] {
        let trigger = Trigger::With(Box::new(parameters(delay_s)));
        assert_eq!(Trigger::decode(&bytes, coding), Ok(trigger.clone()));
        assert_eq!(trigger.encode(coding).unwrap(), bytes);
    }
}

#[test]
fn connection_security_and_request_of_the_examples() {
    let connection = Connection {
        bearer: Some(vec![3]),
        buffer_bytes: Some(1400),
        access_point: Some(b"\x03ota".to_vec()),
        transport: Some((2, 8443)),
        address: Some("192.0.2.1".parse().unwrap()),
        ..Connection::default()
    };
    let coded = hex("350103 39020578 4704036F7461 3C030220FB 3E0521C0000201");
    assert_eq!(connection.encode(), coded);
    assert_eq!(Connection::decode(&coded), Ok(connection.clone()));
    let required: Vec<u8> = hex("B50103 B9020578 C704036F7461 BC030220FB BE0521C0000201");
    assert_eq!(Connection::decode(&required), Ok(connection.clone()));
    let six = Connection { address: Some("2001:db8::1".parse().unwrap()), ..connection };
    assert!(six.encode().ends_with(&hex("3E115720010DB8000000000000000000000001")));
    assert_eq!(Connection::decode(&six.encode()), Ok(six));

    let security = Security { psk_identity: hex("DEADBEEF"), key: Some((0x00, 0x40)) };
    assert_eq!(security.encode().unwrap(), hex("04deadbeef020040"));
    assert_eq!(Security::decode(&hex("04deadbeef020040")), Ok(security));
    assert_eq!(Security::decode(&hex("00")), Ok(Security { psk_identity: vec![], key: None }));

    let http = Http { host: "admin.host".into(), agent: String::new(), uri: "https://admin.host/uri".into() };
    let coded = http.encode();
    assert!(coded.starts_with(b"\x8A\x0Aadmin.host\x8B\x00\x8C\x16https://admin.host/uri"));
    assert_eq!(Http::decode(&coded), Ok(http));
}

#[test]
fn extended_security_and_dns_are_kept() {
    let bytes = hex("810A 8308 A502 AABB B302 CCDD");
    let Ok(Trigger::With(parameters)) = Trigger::decode(&bytes, SEMI) else { panic!() };
    assert_eq!(parameters.extended_security, Some(hex("AABB")));
    assert_eq!(parameters.dns, Some(hex("CCDD")));
    assert_eq!(Trigger::With(parameters).encode(SEMI).unwrap(), bytes);
    let retry = Retry::decode(&hex("0003 A1020304"), SEMI).unwrap();
    assert_eq!(retry, Retry { counter: 3, delay_s: None, failure_report: Some(hex("A1020304")) });
    assert_eq!(Retry::decode(&retry.encode(SEMI), SEMI), Ok(retry));
}

#[test]
fn what_is_no_trigger() {
    for wrong in [
        "",
        "81",
        "8200",
        "810100",
        "81028300 00 8100",
        "8104 8302 8401",
        "8106 8304 8402 3C00",
        "8106 8304 8502 0500",
        "8105 8303 8601 00",
        "8109 8307 8605 0000 2502 00",
        "810A 8308 8606 0000 2503 0A00",
        "8106 8304 8902 8A05",
    ] {
        assert!(Trigger::decode(&hex(wrong), SEMI).is_err(), "{wrong}");
    }
    assert_eq!(Trigger::decode(&[0; TRIGGER_BYTES_MAX + 1], SEMI), Err(TriggerError::TooLong));
    let long = Security { psk_identity: vec![b'x'; 256], key: None };
    let parameters = SessionParameters { security: Some(long), ..SessionParameters::default() };
    assert_eq!(parameters.encode(SEMI), Err(TriggerError::TooLong));
}

#[test]
fn parameters_are_stored_and_read() {
    let http = Http { host: "h".repeat(200), agent: "a".repeat(100), uri: "/".into() };
    let parameters = SessionParameters { http: Some(http), ..SessionParameters::default() };
    let commands = stored_parameters_commands(&parameters, SEMI).unwrap();
    assert_eq!(commands.len(), 2);
    assert!(commands[0].starts_with(&hex("80E2 1000 FF 85")));
    assert!(commands[1].starts_with(&hex("80E2 9001")));
    let object: Vec<u8> = commands.iter().flat_map(|command| command[5..].to_vec()).collect();
    assert_eq!(decode_stored_parameters(&object, SEMI), Ok(parameters));
    assert_eq!(read_stored_parameters(), hex("80CA008500"));
    let short = stored_parameters_commands(&SessionParameters::default(), SEMI).unwrap();
    assert_eq!(short, [hex("80E29000 02 8500")]);
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..most)
}

prop_compose! {
    fn parameters()(
        device_identities: Option<[u8; 2]>,
        bearer in proptest::option::of(bytes(9)),
        buffer_bytes: Option<u16>,
        access_point in proptest::option::of(bytes(40)),
        transport: Option<(u8, u16)>,
        address: Option<IpAddr>,
        identity in bytes(130),
        key: Option<(u8, u8)>,
        extended_security in proptest::option::of(bytes(20)),
        retry in proptest::option::of((any::<u16>(), proptest::option::of(0_u32..86_400))),
        texts in proptest::option::of(("[a-z.]{0,30}", "[ -~]{0,140}", "/[a-z]{0,30}")),
        dns in proptest::option::of(bytes(20)),
    ) -> SessionParameters {
        let connection =
            Connection { device_identities, bearer, buffer_bytes, access_point, transport, address, others: vec![] };
        SessionParameters {
            connection: Some(connection),
            security: Some(Security { psk_identity: identity, key }),
            extended_security,
            retry: retry.map(|(counter, delay_s)| Retry { counter, delay_s, failure_report: None }),
            http: texts.map(|(host, agent, uri)| Http { host, agent, uri }),
            dns,
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back(parameters in parameters(), binary: bool) {
        let coding = if binary { RetryTimerCoding::Binary } else { SEMI };
        let trigger = Trigger::With(Box::new(parameters));
        prop_assert_eq!(Trigger::decode(&trigger.encode(coding).unwrap(), coding), Ok(trigger));
    }
}
