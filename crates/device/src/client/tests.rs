use super::http::Method;
use super::*;
use simtide_protocol::sms::{Address, Submit, UserData};

const NOW: EpochMs = EpochMs(1_800_000_000_000);

struct Bench {
    client: Client,
    now: EpochMs,
}

impl Bench {
    /// A client module whose card has been started.
    fn new() -> Self {
        let settings = Arc::new(ClientSettings::of("aes.example", b"490154203237518"));
        let client = Client::new(settings, Queues::default());
        let mut bench = Self { client, now: NOW };
        bench.tell(Event::CardStarted(files("001010000000001")));
        bench
    }

    fn tell(&mut self, event: Event) {
        self.client.handle(self.now, &mut |buffer| buffer.fill(9), event);
    }

    /// Everything that is to be done, changes stored on the way.
    fn commands(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        loop {
            if self.client.take_changes().is_some() {
                assert_eq!(self.client.next_command(), None, "nothing leaves before it is stored");
                self.client.stored(self.now, &mut |buffer| buffer.fill(9));
            }
            match self.client.next_command() {
                Some(command) => commands.push(command),
                None => return commands,
            }
        }
    }

    fn request(&mut self) -> HttpRequest {
        let requests: Vec<HttpRequest> = self
            .commands()
            .into_iter()
            .filter_map(|command| match command {
                Command::Request(request) => Some(request),
                _ => None,
            })
            .collect();
        assert_eq!(requests.len(), 1, "one request at a time");
        requests.into_iter().next().unwrap()
    }

    fn asks(&mut self) -> bool {
        self.commands().iter().any(|command| matches!(command, Command::Request(_)))
    }
}

fn files(imsi: &str) -> CardFiles {
    CardFiles {
        iccid: "8988211000000000011".parse().ok(),
        imsi: imsi.parse().ok(),
        mnc_digits: Some(2),
        ..CardFiles::default()
    }
}

fn submit(number: &str) -> Vec<u8> {
    let data = UserData::from_octets(vec![0]).unwrap();
    Submit::with_header(1, Address::number(number).unwrap(), data).to_bytes()
}

#[test]
fn the_first_request_names_the_card_and_no_other_follows() {
    let mut bench = Bench::new();
    let request = bench.request();
    assert_eq!(request.method, Method::Get);
    let identity = "EAP_ID=0001010000000001%40nai.epc.mnc001.mcc001.3gppnetwork.org";
    assert!(request.query.contains(identity), "{}", request.query);
    assert!(request.query.contains("app=ap5901") && request.query.contains("terminal_id=490154203237518"));
    bench.tell(Event::Query(Reason::Asked));
    bench.tell(Event::Deadline);
    assert!(!bench.asks());
    // The answer to another request is nobody's.
    bench.tell(Event::Failed { id: request.id + 1 });
    assert!(!bench.asks());
}

#[test]
fn a_failure_is_followed_by_a_pause_and_another_identity_by_a_new_start() {
    let mut bench = Bench::new();
    let request = bench.request();
    bench.tell(Event::Failed { id: request.id });
    let notices = bench.commands();
    assert!(matches!(notices[..], [Command::Notice(ClientNotice::QueryFailed(_))]), "{notices:?}");
    bench.tell(Event::Query(Reason::Asked));
    assert!(!bench.asks());
    let deadline = bench.client.next_deadline().unwrap();
    assert!(deadline.ms_since(NOW) >= i64::from(RETRY_S_MIN) * 1000);
    // A change of operator, with its reset: the card has another subscriber.
    bench.tell(Event::CardStarted(files("001020000000002")));
    assert!(bench.request().query.contains("EAP_ID=0001020000000002%40nai.epc.mnc002.mcc001"));
    // The same card read anew changes nothing.
    bench.tell(Event::CardStarted(files("001020000000002")));
    assert!(!bench.asks());
    bench.tell(Event::CardGone);
    assert_eq!(bench.client.next_deadline(), None);
}

#[test]
fn messages_of_the_card_go_over_ip_where_the_network_is_not() {
    let mut bench = Bench::new();
    assert!(bench.client.claims(&submit("1234"), false));
    assert!(!bench.client.claims(&submit("1234"), true));
    bench.tell(Event::CardSends { reference: 7, tpdu: submit("1234") });
    // The card hears of it when it is on the disk.
    assert_eq!(bench.client.next_command(), None);
    let commands = bench.commands();
    assert!(commands.contains(&Command::SubmitOutcome { reference: 7, accepted: true }));
    assert_eq!(bench.client.queues().outbound().len(), 1);
    bench.tell(Event::CardGone);
    assert!(!bench.client.claims(&submit("1234"), false));
    bench.tell(Event::CardSends { reference: 8, tpdu: submit("1234") });
    assert!(bench.commands().contains(&Command::SubmitOutcome { reference: 8, accepted: false }));
}

#[test]
fn a_full_queue_refuses_the_card_its_message() {
    let mut bench = Bench::new();
    for reference in 0..crate::outbound::OUTBOUND_MAX as u32 {
        bench.tell(Event::CardSends { reference, tpdu: submit("1234") });
        bench.commands();
    }
    bench.tell(Event::CardSends { reference: 9999, tpdu: submit("1234") });
    assert!(bench.commands().contains(&Command::SubmitOutcome { reference: 9999, accepted: false }));
}

#[test]
fn a_server_without_end_is_left() {
    let mut bench = Bench::new();
    // A packet that is none: the peer says so once, and a second one ends it.
    for _ in 0..12 {
        let commands = bench.commands();
        let request = commands.iter().find_map(|command| match command {
            Command::Request(request) => Some(request.clone()),
            _ => None,
        });
        let Some(request) = request else { return };
        let response = HttpResponse {
            status: 200,
            content_type: simtide_protocol::entitlement::RELAY_CONTENT_TYPE.to_owned(),
            body: br#"{"eap-relay-packet":"AQEABA=="}"#.to_vec(),
            ..HttpResponse::default()
        };
        bench.tell(Event::Response { id: request.id, response });
    }
    panic!("it goes on without end");
}

#[test]
fn a_channel_of_the_card_is_answered_after_a_query() {
    let mut bench = Bench::new();
    let request = bench.request();
    let link = LinkId(3);
    bench.tell(Event::ChannelOpened(link));
    bench.tell(Event::ChannelData(link, b"GET /waiting HTTP/1.1\r\n\r\n".to_vec()));
    assert!(bench.commands().is_empty());
    bench.tell(Event::Failed { id: request.id });
    let answered = bench.commands().into_iter().any(|command| match command {
        Command::ChannelSend(to, bytes) => {
            to == link && String::from_utf8_lossy(&bytes).contains("X-Waiting: 0\r\n")
        }
        _ => false,
    });
    assert!(answered);
    bench.tell(Event::ChannelData(link, b"PUT / HTTP/1.1\r\n\r\n".to_vec()));
    assert!(bench.commands().contains(&Command::ChannelClose(link)));
}

/// A proof of several short messages: part by part, from the first one again where coverage was lost in between.
#[test]
fn a_long_proof_leaves_in_parts_and_is_taken_as_a_whole() {
    use simtide_protocol::second_layer::Item;
    use simtide_protocol::sms::{Arrival, Limits, Reassembly};
    let mut queues = Queues::default();
    let card = CardKey::Iccid("8988211000000000011".parse().unwrap());
    let (id, originating_address) = ("a1-1".parse().unwrap(), "1234".to_owned());
    let item = Item { id, packet: vec![0x15; 30], originating_address, proof_wanted: true };
    queues.fetch(card, item, NOW).unwrap();
    let client = Client::new(Arc::new(ClientSettings::of("aes.example", b"490154203237518")), queues);
    let mut bench = Bench { client, now: NOW };
    bench.tell(Event::CardStarted(files("001010000000001")));
    bench.tell(Event::Coverage(true));
    let (mut part, mut request) = (0, 0);
    for command in bench.commands() {
        match command {
            Command::Deliver(delivered) => part = delivered.id,
            Command::Request(asked) => request = asked.id,
            _ => {}
        }
    }
    let proof: Vec<u8> = (0..200).collect();
    let answer = [&[0x02, 0x71, 0x00], &proof[..]].concat();
    bench.tell(Event::Reported { id: part, report: SmsReport::Accepted(answer) });
    bench.tell(Event::Failed { id: request });
    let submits = |commands: Vec<Command>| -> Vec<(u32, Vec<u8>)> {
        let submit = |command| match command {
            Command::SubmitSms { reference, tpdu } => Some((reference, tpdu)),
            _ => None,
        };
        commands.into_iter().filter_map(submit).collect()
    };
    assert!(submits(bench.commands()).is_empty());
    bench.now = bench.client.next_message_at().unwrap();
    assert!(bench.now.ms_since(NOW) >= 900_000 && bench.now.ms_since(NOW) <= 1_080_000);
    bench.tell(Event::Deadline);
    let [(lost, _)] = submits(bench.commands())[..] else { panic!("one part at a time") };
    bench.tell(Event::Coverage(false));
    bench.tell(Event::Submitted { reference: lost, accepted: true });
    bench.tell(Event::Coverage(true));
    let limits = Limits { open_max: 4, size_max: 1024, timeout_ms: 1000 };
    let mut reassembly: Reassembly<()> = Reassembly::new(limits);
    let mut parts = 0;
    let whole = loop {
        let [(reference, ref tpdu)] = submits(bench.commands())[..] else { panic!("part {parts}") };
        let submit = Submit::from_bytes(tpdu).unwrap();
        assert_eq!((submit.destination.number.as_str(), submit.reference), ("1234", reference as u8));
        parts += 1;
        let arrival = reassembly.accept(bench.now, (), &submit.user_data.octets).unwrap();
        bench.tell(Event::Submitted { reference, accepted: true });
        if let Arrival::Whole(whole) = arrival {
            break whole;
        }
    };
    assert_eq!((parts, whole.data), (2, proof));
    let taken: Vec<_> = bench.client.queues().outbound().unsent_of(card).collect();
    assert!(taken.is_empty() && bench.client.queues().outbound().len() == 1);
    assert!(submits(bench.commands()).is_empty());
}

/// What a fleet pays for each device that rests.
#[test]
fn a_resting_device_is_small() {
    assert!(size_of::<Client>() <= 768, "{} bytes", size_of::<Client>());
}
