use simtide_protocol::ids::EpochMs;

use super::*;
use crate::smsc::air::FromDevice;
use crate::smsc::settings::Settings;

const NOW: Moment = Moment { real: Duration::from_secs(1), clock: EpochMs(1_000_000) };
const RAND: [u8; 16] = [0x11; 16];
const XRES: [u8; 8] = [0xA5; 8];
const DOMAIN: Option<Domain> = Some(Domain::CircuitSwitched);

fn imsi() -> Imsi {
    "001020000000001".parse().unwrap()
}

fn number(text: &str) -> Option<Msisdn> {
    text.parse().ok()
}

fn vector() -> Vector {
    Vector { rand: RAND, autn: [0x22; 16], xres: XRES, ck: [0x33; 16], ik: [0x44; 16] }
}

struct Bench(Core);

impl Bench {
    fn new() -> Self {
        let settings = Settings {
            register: "gsup:127.0.0.1:4222".parse().ok(),
            plmn: "001-02".parse().ok(),
            ..Settings::default()
        };
        let mut core = Core::new(settings);
        core.register_stands(NOW, true);
        Self(core)
    }

    fn device(&mut self, line: FromDevice) -> Vec<Command> {
        self.0.device_said(NOW, 7, line);
        self.commands()
    }

    fn register(&mut self, body: Body) -> Vec<Command> {
        self.0.register_said(NOW, Message { imsi: imsi(), body });
        self.commands()
    }

    /// Without the record.
    fn commands(&mut self) -> Vec<Command> {
        let all = std::iter::from_fn(|| self.0.next_command());
        all.filter(|command| !matches!(command, Command::Record(_))).collect()
    }

    fn attach(&mut self) {
        let said = self.device(FromDevice::Attach { imsi: imsi(), msisdn: number("4366000001") });
        assert_eq!(said, vec![asks(Body::SendAuthInfo { domain: DOMAIN, resynchronisation: None })]);
        self.vectors();
    }

    fn vectors(&mut self) {
        let (rand, autn) = (Hex(RAND.to_vec()), Hex(vec![0x22; 16]));
        let challenge = ToDevice::Challenge { imsi: imsi(), rand, autn };
        assert_eq!(self.register(Body::AuthInfo(vec![vector(), vector()])), vec![tells(challenge)]);
    }

    fn proves(&mut self) {
        let said = self.device(response(Some(&XRES), None, None));
        assert_eq!(said, vec![asks(Body::UpdateLocation { domain: DOMAIN })]);
    }

    fn attached(&self) -> usize {
        self.0.figures().attached
    }
}

fn response(res: Option<&[u8]>, auts: Option<&[u8]>, refused: Option<&[u8]>) -> FromDevice {
    let hex = |octets: Option<&[u8]>| octets.map(|octets| Hex(octets.to_vec()));
    FromDevice::Response { imsi: imsi(), res: hex(res), auts: hex(auts), refused: hex(refused) }
}

fn asks(body: Body) -> Command {
    Command::ToRegister(Message { imsi: imsi(), body }.encode())
}

fn tells(line: ToDevice) -> Command {
    Command::ToDevice(7, line)
}

fn rejected(cause: u8) -> Vec<Command> {
    vec![tells(ToDevice::Rejected { imsi: imsi(), cause })]
}

#[test]
fn a_card_that_proves_itself_is_let_in_under_its_registers_number() {
    let mut bench = Bench::new();
    bench.attach();
    bench.proves();
    assert_eq!(bench.attached(), 0);
    let data = Body::InsertData { msisdn: number("4366000099"), domain: DOMAIN };
    assert_eq!(bench.register(data), vec![asks(Body::Done(Procedure::InsertData))]);
    let done = bench.register(Body::Done(Procedure::UpdateLocation));
    assert_eq!(done, vec![tells(ToDevice::Attached { imsi: imsi() })]);
    assert_eq!(bench.0.numbers.get(&imsi()), number("4366000099").as_ref());

    // Another number, while attached.
    let data = Body::InsertData { msisdn: number("4366000098"), domain: DOMAIN };
    bench.register(data);
    assert_eq!(bench.0.numbers.get(&imsi()), number("4366000098").as_ref());

    // The subscription ends.
    let gone = bench.register(Body::LocationCancel { cancel: CancelType::Withdrawn, domain: DOMAIN });
    let detached = ToDevice::Detached { imsi: imsi(), cause: cause::NETWORK_NOT_ALLOWED };
    assert_eq!(gone, vec![asks(Body::Done(Procedure::LocationCancel)), tells(detached)]);
    assert_eq!(bench.attached(), 0);
}

#[test]
fn access_that_is_withdrawn_ends_the_attach() {
    let mut bench = Bench::new();
    bench.attach();
    bench.proves();
    bench.register(Body::InsertData { msisdn: number("4366000099"), domain: DOMAIN });
    bench.register(Body::Done(Procedure::UpdateLocation));
    assert_eq!(bench.attached(), 1);
    let gone = bench.register(Body::DeleteData { domain: DOMAIN });
    let detached = ToDevice::Detached { imsi: imsi(), cause: cause::NETWORK_NOT_ALLOWED };
    assert_eq!(gone, vec![asks(Body::Done(Procedure::DeleteData)), tells(detached)]);
    assert_eq!(bench.attached(), 0);
}

#[test]
fn wrong_answers_are_refused() {
    let mut wrong = XRES;
    wrong[7] ^= 1;
    for (answer, cause) in [
        (response(Some(&wrong), None, None), cause::ILLEGAL_SUBSCRIBER),
        (response(Some(&XRES[..7]), None, None), cause::ILLEGAL_SUBSCRIBER),
        (response(Some(&[]), None, None), cause::ILLEGAL_SUBSCRIBER),
        (response(None, None, Some(&[0x98, 0x62])), cause::MAC_FAILURE),
        (response(None, None, Some(&[0x69, 0x82])), cause::NETWORK_FAILURE),
        (response(None, Some(&[1; 13]), None), cause::NETWORK_FAILURE),
        (response(None, None, None), cause::NETWORK_FAILURE),
        (response(Some(&XRES), None, Some(&[0x98, 0x62])), cause::NETWORK_FAILURE),
    ] {
        let mut bench = Bench::new();
        bench.attach();
        assert_eq!(bench.device(answer), rejected(cause));
        assert!(bench.register(Body::Done(Procedure::UpdateLocation)).is_empty());
        assert_eq!((bench.attached(), bench.0.figures().rejected), (0, 1));
        // The right answer comes too late.
        let late = bench.device(response(Some(&XRES), None, None));
        assert!(matches!(late[..], [Command::ToDevice(7, ToDevice::Error { .. })]));
    }
}

#[test]
fn numbers_are_set_right_once() {
    let mut bench = Bench::new();
    bench.attach();
    let resynchronisation = Some((RAND, [0x55; 14]));
    let asked = bench.device(response(None, Some(&[0x55; 14]), None));
    assert_eq!(asked, vec![asks(Body::SendAuthInfo { domain: DOMAIN, resynchronisation })]);
    bench.vectors();
    let again = bench.device(response(None, Some(&[0x55; 14]), None));
    assert_eq!(again, rejected(cause::SYNCHRONISATION_FAILURE));
}

#[test]
fn what_the_register_refuses() {
    for procedure in [Procedure::SendAuthInfo, Procedure::UpdateLocation] {
        let mut bench = Bench::new();
        bench.attach();
        bench.proves();
        assert_eq!(bench.register(Body::Failed { procedure, cause: 0x02 }), rejected(0x02));
        assert_eq!(bench.attached(), 0);
    }
}

#[test]
fn a_register_that_is_gone_or_silent() {
    let mut bench = Bench::new();
    bench.attach();
    bench.0.register_stands(NOW, false);
    assert_eq!(bench.commands(), rejected(cause::NETWORK_FAILURE));
    let attach = FromDevice::Attach { imsi: imsi(), msisdn: None };
    assert_eq!(bench.device(attach), rejected(cause::NETWORK_FAILURE));

    let mut bench = Bench::new();
    bench.attach();
    let (at, _) = bench.0.next_deadline();
    assert_eq!(at, Some(NOW.real + Duration::from_secs(30)));
    bench.0.handle_deadline(Moment { real: at.unwrap(), ..NOW });
    assert_eq!(bench.commands(), rejected(cause::NETWORK_FAILURE));
}

#[test]
fn others_and_those_who_ask_twice() {
    let mut bench = Bench::new();
    let foreign: Imsi = "001010000000001".parse().unwrap();
    let said = bench.device(FromDevice::Attach { imsi: foreign, msisdn: None });
    assert_eq!(said, vec![tells(ToDevice::Rejected { imsi: foreign, cause: cause::NETWORK_NOT_ALLOWED })]);
    bench.attach();
    assert!(bench.device(FromDevice::Attach { imsi: imsi(), msisdn: None }).is_empty());
    bench.proves();
    // Neither the register nor the card knows a number.
    let mut bench = Bench::new();
    bench.device(FromDevice::Attach { imsi: imsi(), msisdn: None });
    bench.vectors();
    bench.proves();
    assert_eq!(bench.register(Body::Done(Procedure::UpdateLocation)), rejected(cause::NETWORK_FAILURE));
}

#[test]
fn a_device_that_leaves_takes_its_attach_along() {
    let mut bench = Bench::new();
    bench.attach();
    bench.device(FromDevice::Detach { imsi: imsi() });
    bench.device(response(Some(&XRES), None, None));
    assert!(bench.register(Body::Done(Procedure::UpdateLocation)).is_empty());
    assert!(bench.0.visits.is_empty());
    bench.attach();
    bench.0.device_lost(NOW, 7);
    assert!(bench.0.visits.is_empty());
}
