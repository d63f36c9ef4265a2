//! Whole card sessions, event by event: what the card answers stands beside what the device must have sent.
#![allow(clippy::unwrap_used)]

use simtide_device::{
    BUSY_ATTEMPTS_MAX, Command, Device, Event, INBOX_MAX, Kind, LinkId, Menu, Notice, Prompt, Settings,
    SmsReport, UserAction,
};
use simtide_protocol::ids::EpochMs;

/// 2026-11-21T09:45:07Z.
const START: EpochMs = EpochMs(1_795_254_307_000);

struct Bench {
    device: Device,
    now: EpochMs,
}

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text.replace(' ', "")).unwrap()
}

impl Bench {
    fn new(kind: Kind) -> Self {
        Self { device: Device::new(Settings::of(kind)), now: START }
    }

    /// A device with a display that has started, its card having answered `profile_answer` to TERMINAL PROFILE.
    fn started(kind: Kind, profile_answer: &str) -> Self {
        let mut bench = Self::new(kind);
        bench.event(Event::PowerOn);
        bench.start_up();
        let profile = match kind.has_display() {
            true => "8010000011 3BE1FF63110C001FA90000 1F8208100001",
            false => "8010000011 3301E842110C0007A80000 1F8260000001",
        };
        bench.card(profile, profile_answer);
        let attach = Command::Attach {
            imsi: "001010123456789".parse().unwrap(),
            msisdn: "436601234".parse().ok(),
            mnc_digits: Some(2),
        };
        // With something to fetch the FETCH comes behind the attach.
        assert_eq!(bench.device.next_command(), Some(attach));
        bench
    }

    /// From the reset to the last file.
    fn start_up(&mut self) {
        assert_eq!(self.device.next_command(), Some(Command::Reset));
        self.event(Event::CardReset(vec![0x3B, 0x00]));
        self.card("00A4000C023F00", "9000");
        self.card("00A4000C022FE2", "9000");
        self.card("00B0000000", "6C0A");
        self.card("00B000000A", "988812010000000010F1 9000");
        self.card("00A4040C07A0000000871002", "9000");
        self.card("00A4000C026F07", "9000");
        self.card("00B0000000", "080910101032547698 9000");
        self.card("00A4000C026FAD", "9000");
        self.card("00B0000000", "00000002 9000");
        self.card("00A4000C026F42", "6A82");
        self.card("00A4000C026F40", "9000");
        self.card("00B2010400", "6C14");
        self.card("00B2010414", "FFFFFFFFFFFF 06 91 34661032F4 FFFFFFFFFF FFFF 9000");
    }

    fn event(&mut self, event: Event) {
        self.device.handle(self.now, event);
    }

    /// The next thing must be this command to the card, which answers so.
    fn card(&mut self, command: &str, answer: &str) {
        match self.device.next_command() {
            Some(Command::Transmit(sent)) => {
                assert_eq!(hex::encode_upper(sent), command.replace(' ', "").to_uppercase());
            }
            other => panic!("{command} should have been sent, not {other:?}"),
        }
        self.event(Event::CardAnswer(bytes(answer)));
    }

    /// The card hands over one proactive command (its body without D0 and length).
    fn fetch(&mut self, body: &str) {
        let body = bytes(body);
        let mut command = vec![0xD0];
        simtide_protocol::tlv::push_length(&mut command, body.len());
        command.extend(body);
        let fetch = format!("80120000{:02X}", command.len());
        self.card(&fetch, &format!("{} 9000", hex::encode(command)));
    }

    fn says(&mut self, command: Command) {
        assert_eq!(self.device.next_command(), Some(command));
    }

    fn quiet(&mut self) {
        assert_eq!(self.device.next_command(), None);
    }

    fn later(&mut self, seconds: i64) {
        self.now = self.now.plus_s(seconds);
        self.event(Event::Deadline);
    }
}

fn announce(body: &str) -> String {
    format!("91{:02X}", bytes(body).len() + 2)
}

/// A card that has one proactive command after the start.
fn with_proactive(kind: Kind, body: &str) -> Bench {
    let mut bench = Bench::started(kind, &announce(body));
    bench.fetch(body);
    bench
}

const OPEN: &str = "8103014001 82028182 350103 390205DC 3C03021F91 3E05217F000001";

/// A session with an open channel and a card that wants to know of data and drops.
fn with_channel() -> (Bench, LinkId) {
    let events = "8103010500 82028182 99 02 09 0A";
    let mut bench = with_proactive(Kind::Meter, events);
    bench.card("801400000C 810301050082028281830100", &announce(OPEN));
    bench.fetch(OPEN);
    let link = LinkId(1);
    bench.says(Command::OpenChannel { link, remote: "127.0.0.1:8081".parse().unwrap() });
    bench.quiet();
    bench.event(Event::ChannelConnected(link));
    bench.says(Command::Receive { link, bytes_max: 4096 });
    bench.card("8014000017 810301400182028281830100 B8028100 B50103 B90205DC", "9000");
    (bench, link)
}

#[test]
fn start_up_reads_the_card_and_attaches() {
    let mut bench = Bench::started(Kind::Phone, "9000");
    bench.quiet();
    assert_eq!(bench.device.files().iccid.unwrap().to_string(), "8988211000000000011");
    assert!(bench.device.is_idle());
    assert_eq!(bench.device.next_deadline(), None);
}

#[test]
fn a_card_without_usim_still_gets_its_profile() {
    let mut bench = Bench::new(Kind::Phone);
    bench.event(Event::PowerOn);
    bench.says(Command::Reset);
    bench.event(Event::CardReset(vec![0x3B]));
    bench.card("00A4000C023F00", "9000");
    bench.card("00A4000C022FE2", "6A82");
    bench.card("00A4040C07A0000000871002", "6A82");
    bench.card("8010000011 3BE1FF63110C001FA90000 1F8208100001", "6D00");
    bench.quiet();
    assert!(bench.device.is_idle());
}

#[test]
fn a_card_that_does_not_answer_can_be_started_again() {
    let mut bench = Bench::new(Kind::Phone);
    bench.event(Event::PowerOn);
    bench.says(Command::Reset);
    bench.event(Event::CardReset(Vec::new()));
    bench.says(Command::Notice(Notice::CardUnusable));
    bench.event(Event::PowerOn);
    bench.says(Command::Reset);
    bench.event(Event::CardReset(vec![0x3B]));
    let Some(Command::Transmit(_)) = bench.device.next_command() else { panic!("nothing sent") };
    bench.event(Event::CardLost);
    bench.says(Command::Notice(Notice::CardUnusable));
    // The answer of the lost card comes late.
    bench.event(Event::CardAnswer(vec![0x90, 0x00]));
    bench.quiet();
}

#[test]
fn an_endless_61_ends() {
    let mut bench = Bench::new(Kind::Phone);
    bench.event(Event::PowerOn);
    bench.says(Command::Reset);
    bench.event(Event::CardReset(vec![0x3B]));
    bench.card("00A4000C023F00", "6110");
    for _ in 0..simtide_device::FOLLOW_UPS_MAX {
        bench.card("00C0000010", "6110");
    }
    bench.card("00A4000C022FE2", "6A82");
    bench.card("00A4040C07A0000000871002", "6A82");
}

#[test]
fn a_channel_carries_data_both_ways_and_drops() {
    let (mut bench, link) = with_channel();
    // Data come into the empty buffer: the card is told, reads a part, then the rest.
    bench.event(Event::ChannelData(link, vec![0xAA; 3]));
    bench.says(Command::Receive { link, bytes_max: 4093 });
    let receive = "8103014200 82028121 B70102";
    bench.card("80C2000010 D60E 990109 82028281 B8028100 B70103", &announce(receive));
    bench.fetch(receive);
    bench.card("8014000013 810301420082028281830100 B602AAAA B70101", &announce(receive));
    bench.fetch(receive);
    bench.card("8014000012 810301420082028281830102 B601AA B70100", "9000");
    bench.quiet();
    // The answer of the server draws SEND DATA, at once and stored.
    bench.event(Event::ChannelData(link, vec![0xBB]));
    bench.says(Command::Receive { link, bytes_max: 4095 });
    let stored = "8103014300 82028121 36020102";
    bench.card("80C2000010 D60E 990109 82028281 B8028100 B70101", &announce(stored));
    bench.fetch(stored);
    let sent = "8103014301 82028121 360103";
    bench.card("801400000F 810301430082028281830100 B701FF", &announce(sent));
    bench.fetch(sent);
    bench.says(Command::Send { link, bytes: vec![1, 2, 3] });
    bench.card("801400000F 810301430182028281830100 B701FF", "9000");
    // The server hangs up; what it said before is still there.
    bench.event(Event::ChannelClosed(link));
    let close = "8103014100 82028121";
    bench.card("80C200000D D60B 99010A 82028281 B8020105", &announce(receive));
    bench.fetch(receive);
    bench.card("8014000012 810301420082028281830102 B601BB B70100", &announce(receive));
    bench.fetch(receive);
    bench.card("801400000D 81030142008202828183023A02", &announce(close));
    bench.fetch(close);
    bench.says(Command::CloseChannel { link });
    bench.card("801400000C 810301410082028281830100", "9000");
    assert!(!bench.device.has_channel());
    // Late bytes of a closed connection are for nobody.
    bench.event(Event::ChannelData(link, vec![1]));
    bench.quiet();
}

#[test]
fn channels_that_cannot_be_had() {
    let mut bench = with_proactive(Kind::Meter, OPEN);
    bench.says(Command::OpenChannel { link: LinkId(1), remote: "127.0.0.1:8081".parse().unwrap() });
    bench.event(Event::ChannelFailed(LinkId(1)));
    bench.card("8014000014 81030140018202828183022100 B50103 B90205DC", &announce(OPEN));
    for number in 2..6 {
        bench.fetch(OPEN);
        bench.says(Command::OpenChannel { link: LinkId(number), remote: "127.0.0.1:8081".parse().unwrap() });
        bench.event(Event::ChannelConnected(LinkId(number)));
        bench.says(Command::Receive { link: LinkId(number), bytes_max: 4096 });
        let status =
            format!("8014000017 810301400182028281830100 B802{:02X}00 B50103 B90205DC", 0x80 + number - 1);
        bench.card(&status, &announce(OPEN));
    }
    bench.fetch(OPEN);
    bench.card("801400000D 81030140018202828183023A01", "9000");
}

#[test]
fn a_full_send_buffer_holds_the_card_until_there_is_room() {
    let (mut bench, link) = with_channel();
    bench.event(Event::ChannelData(link, vec![0]));
    bench.says(Command::Receive { link, bytes_max: 4095 });
    let send = format!("8103014301 82028121 3681C8 {}", "55".repeat(200));
    bench.card("80C2000010 D60E 990109 82028281 B8028100 B70101", "91D7");
    let mut left = 0;
    while left <= simtide_device::SEND_BUFFER_BYTES_MAX {
        bench.fetch(&send);
        bench.says(Command::Send { link, bytes: vec![0x55; 200] });
        left += 200;
        if left <= simtide_device::SEND_BUFFER_BYTES_MAX {
            bench.card("801400000F 810301430182028281830100 B701FF", "91D7");
        }
    }
    bench.quiet();
    bench.event(Event::ChannelSent(link, 200));
    bench.card("801400000F 810301430182028281830100 B701FF", "9000");
}

#[test]
fn timers_run_stop_and_expire() {
    let start = "8103012700 82028182 A40101 A503000003";
    let mut bench = with_proactive(Kind::Tracker, start);
    bench.card("801400000F 810301270082028281830100 A40101", "9000");
    assert_eq!(bench.device.next_deadline(), Some(START.plus_s(30)));
    bench.later(29);
    bench.quiet();
    bench.later(1);
    let ask = "8103012702 82028182 A40101";
    bench.card("80C200000E D70C 82028281 A40101 A503000003", &announce(ask));
    bench.fetch(ask);
    bench.card("801400000F 810301270282028281830124 A40101", &announce(start));
    bench.fetch(start);
    bench.card("801400000F 810301270082028281830100 A40101", &announce(ask));
    bench.fetch(ask);
    bench.card("8014000014 810301270282028281830100 A40101 A503000003", "9000");
}

#[test]
fn local_information_and_polling() {
    let date = "8103012603 82028182";
    let mut bench = with_proactive(Kind::Vehicle, date);
    bench.card("8014000015 810301260382028281830100 A60762111290547000", &announce("8103012601 82028182"));
    bench.fetch("8103012601 82028182");
    bench.card("8014000016 810301260182028281830100 94084A09512430325781", &announce("8103012600 82028182"));
    bench.fetch("8103012600 82028182");
    bench.card(
        "8014000015 810301260082028281830100 930700F11000010001",
        &announce("8103010300 82028182 84020101"),
    );
    bench.fetch("8103010300 82028182 8402011E");
    bench.card("8014000010 810301030082028281830100 8402011E", "9000");
    bench.later(30);
    bench.card("80F2000C", &announce("8103010400 82028182"));
    bench.fetch("8103010400 82028182");
    bench.card("801400000C 810301040082028281830100", "9000");
    assert_eq!(bench.device.next_deadline(), None);
}

const TRIGGER: &str = "4405812143F57FF6 62111290547000 03 027000";

fn sms(id: u64) -> Event {
    Event::Sms { id, service_center: "+43660123".to_owned(), tpdu: bytes(TRIGGER) }
}

const ENVELOPE: &str =
    "80C2000022 D120 82028381 8605913466 1032 8B13 4405812143F57FF662111290547000 03 027000";

#[test]
fn messages_are_handed_over_and_reported() {
    let mut bench = Bench::started(Kind::Meter, "9000");
    bench.event(sms(1));
    bench.event(sms(2));
    bench.card(ENVELOPE, "6103");
    bench.card("00C0000003", "027100 9000");
    bench.says(Command::ReportSms { id: 1, report: SmsReport::Accepted(vec![0x02, 0x71, 0x00]) });
    bench.card(ENVELOPE, "6200");
    bench.says(Command::ReportSms { id: 2, report: SmsReport::Refused { cause: 0xD5, data: Vec::new() } });
    bench.quiet();
    // A message that is none for the card.
    let text = bytes("0405812143F50000 62111290547000 00");
    bench.event(Event::Sms { id: 3, service_center: String::new(), tpdu: text.clone() });
    bench.says(Command::SmsReceived { tpdu: text });
    bench.says(Command::ReportSms { id: 3, report: SmsReport::Accepted(Vec::new()) });
}

#[test]
fn a_busy_card_gets_its_message_later() {
    let mut bench = Bench::started(Kind::Meter, "9000");
    bench.event(sms(1));
    for _ in 1..BUSY_ATTEMPTS_MAX {
        bench.card(ENVELOPE, "9300");
        bench.quiet();
        assert!(bench.device.next_deadline().is_some());
        bench.later(2);
    }
    bench.card(ENVELOPE, "9300");
    bench.says(Command::Notice(Notice::SmsUndeliverable));
    bench.says(Command::ReportSms { id: 1, report: SmsReport::Refused { cause: 0xD4, data: Vec::new() } });
    bench.quiet();
    bench.later(2);
    assert_eq!(bench.device.next_deadline(), None);
}

#[test]
fn the_queue_of_messages_has_its_maximum() {
    let mut bench = Bench::new(Kind::Meter);
    bench.event(Event::PowerOn);
    bench.says(Command::Reset);
    for id in 0..INBOX_MAX as u64 {
        bench.event(sms(id));
    }
    bench.quiet();
    bench.event(sms(99));
    bench.says(Command::Notice(Notice::QueueFull));
    bench.says(Command::ReportSms { id: 99, report: SmsReport::Refused { cause: 0xD3, data: Vec::new() } });
    // Switched off, everything goes back to the network.
    bench.event(Event::PowerOff);
    for id in 0..INBOX_MAX as u64 {
        bench.says(Command::ReportSms { id, report: SmsReport::Refused { cause: 0xD4, data: Vec::new() } });
    }
    bench.quiet();
}

#[test]
fn a_proof_leaves_before_the_reset_that_follows_it() {
    let send = "8103011300 82028183 8500 8606913466103 2F4 8B04 41000581".replace(' ', "");
    let mut bench = Bench::started(Kind::Meter, "9000");
    bench.event(sms(1));
    bench.card(ENVELOPE, &announce(&send));
    bench.says(Command::ReportSms { id: 1, report: SmsReport::Accepted(Vec::new()) });
    bench.fetch(&send);
    bench.says(Command::SubmitSms { reference: 1, tpdu: bytes("41010581") });
    bench.quiet();
    bench.event(Event::SubmitOutcome { reference: 7, accepted: true });
    bench.quiet();
    bench.event(Event::SubmitOutcome { reference: 1, accepted: true });
    let refresh = "8103010104 82028182";
    bench.card("801400000C 810301130082028281830100", &announce(refresh));
    bench.fetch(refresh);
    // The reset is the answer: no terminal response.
    bench.says(Command::Detach { imsi: "001010123456789".parse().unwrap() });
    bench.start_up();
}

#[test]
fn a_message_that_the_network_refuses() {
    let send = "8103011300 82028183 8B0441000581";
    let mut bench = with_proactive(Kind::Meter, send);
    bench.says(Command::SubmitSms { reference: 1, tpdu: bytes("41010581") });
    bench.event(Event::SubmitOutcome { reference: 1, accepted: false });
    bench.card("801400000D 81030113008202828183023500", "9000");
}

#[test]
fn a_refresh_that_changes_the_identity() {
    let refresh = "8103010101 82028182 9203013F00";
    let mut bench = with_proactive(Kind::Meter, refresh);
    bench.card("00A4000C023F00", "9000");
    bench.card("00A4000C022FE2", "6A82");
    bench.card("00A4040C07A0000000871002", "9000");
    bench.card("00A4000C026F07", "9000");
    bench.card("00B0000000", "080910101032547699 9000");
    bench.card("00A4000C026FAD", "6A82");
    bench.card("00A4000C026F42", "6A82");
    bench.card("00A4000C026F40", "6A82");
    bench.says(Command::Detach { imsi: "001010123456789".parse().unwrap() });
    bench.says(Command::Attach {
        imsi: "001010123456799".parse().unwrap(),
        msisdn: "436601234".parse().ok(),
        mnc_digits: Some(2),
    });
    bench.card("801400000C 810301010182028281830100", "9000");
}

#[test]
fn menus_lists_and_questions() {
    let menu = "8103012500 82028182 8504 4D656E75 8F020141 8F03024243";
    let mut bench = with_proactive(Kind::Phone, menu);
    let items = vec![(1, "A".to_owned()), (2, "BC".to_owned())];
    let expected = Menu { title: "Menu".to_owned(), items };
    bench.says(Command::MenuChanged(Some(expected.clone())));
    bench.card("801400000C 810301250082028281830100", "9000");
    // An entry that is not there is passed over.
    bench.event(Event::User(UserAction::Menu(9)));
    bench.quiet();
    bench.event(Event::User(UserAction::Menu(2)));
    let select = "8103012400 82028182 8504 4D656E75 8F020141 8F03024243";
    bench.card("80C2000009 D307 82020181 900102", &announce(select));
    bench.fetch(select);
    bench.says(Command::Show(Prompt::List(expected)));
    bench.event(Event::User(UserAction::Choose(7)));
    bench.quiet();
    bench.event(Event::User(UserAction::Choose(1)));
    bench.says(Command::Clear);
    let input = "8103012300 82028182 8D02043F 91020204";
    bench.card("801400000F 810301240082028281830100 900101", &announce(input));
    bench.fetch(input);
    bench.says(Command::Show(Prompt::Input {
        text: "?".to_owned(),
        length_min: 2,
        length_max: 4,
        digits_only: true,
        hidden: false,
        default: String::new(),
    }));
    for refused in ["1", "12345", "ab"] {
        bench.event(Event::User(UserAction::Enter(refused.to_owned())));
        bench.quiet();
    }
    bench.event(Event::User(UserAction::Enter("4711".to_owned())));
    bench.says(Command::Clear);
    let yes_no = "8103012204 82028182 8D02043F";
    bench.card("8014000013 810301230082028281830100 8D050434373131", &announce(yes_no));
    bench.fetch(yes_no);
    bench.says(Command::Show(Prompt::Key { text: "?".to_owned(), yes_no: true }));
    bench.event(Event::User(UserAction::Deny));
    bench.says(Command::Clear);
    let text = "8103012180 82028182 8D02043F";
    bench.card("8014000010 810301220482028281830100 8D020400", &announce(text));
    bench.fetch(text);
    bench.says(Command::Show(Prompt::Text { text: "?".to_owned(), wait: true }));
    bench.later(59);
    bench.quiet();
    bench.later(1);
    bench.says(Command::Clear);
    bench.card("801400000C 810301218082028281830112", "9000");
}

#[test]
fn a_device_without_display_says_so() {
    for body in ["8103012180 82028182 8D02043F", "8103012500 82028182 8504 4D656E75 8F020141"] {
        let mut bench = with_proactive(Kind::Meter, body);
        let details = &body[..10];
        bench.card(&format!("801400000C {details} 82028281830130"), "9000");
    }
}

#[test]
fn commands_that_cannot_be_read_are_answered() {
    let mut bench = Bench::started(Kind::Meter, "9105");
    bench.card("8012000005", "D003810100 9000");
    bench.says(Command::Notice(Notice::CommandUnreadable));
    bench.card("801400000C 810300000082028281830132", "910B");
    bench.fetch("8103019900 82028182");
    bench.card("801400000C 810301990082028281830131", "910B");
    // A card that takes its announcement back.
    bench.card("801200000B", "6F00");
    bench.quiet();
}

#[test]
fn a_card_that_never_ends_is_left_for_a_while() {
    let more_time = "8103010200 82028182";
    let mut bench = Bench::started(Kind::Meter, &announce(more_time));
    for _ in 0..simtide_device::FETCHES_PER_SESSION_MAX {
        bench.fetch(more_time);
        bench.card("801400000C 810301020082028281830100", &announce(more_time));
    }
    bench.says(Command::Notice(Notice::FetchLimit));
    bench.quiet();
    bench.event(sms(1));
    bench.card(ENVELOPE, &announce(more_time));
    bench.says(Command::ReportSms { id: 1, report: SmsReport::Accepted(Vec::new()) });
    bench.fetch(more_time);
}
