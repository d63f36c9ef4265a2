//! Our own authentication centre towards network elements: GSUP, as OsmoHLR serves it.
//!
//! | request | what is done | answer |
//! |---|---|---|
//! | SEND AUTH INFO | vectors with the element's own IND; an AUTS is opened first | vectors, or a cause |
//! | UPDATE LOCATION | INSERT DATA; once it is confirmed the attach is durable; the element before is told | result, or a cause |
//! | PURGE | detached, where it was attached there | result |
//!
//! When an identity loses its access, the element where it is attached gets LOCATION CANCEL.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use simtide_protocol::gsup::ipa::Frame;
use simtide_protocol::gsup::{Body, CancelType, Domain, Message, Procedure, cause};
use simtide_protocol::ids::Imsi;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use super::own::{Centre, IND_FIRST, IND_LAST, NetworkElements};
use super::{RegisterError, VectorsWanted};

/// Network elements connected at once.
const ELEMENTS_MAX: usize = 256;
/// Requests of one element that are answered at once.
const REQUESTS_MAX: usize = 128;
/// Messages that wait for an element to read them.
const OUT_MAX: usize = 1_024;
/// Vectors of one answer.
const VECTORS: u8 = 5;
/// How long an element may take to say who it is.
const GREETING_WITHIN: Duration = Duration::from_secs(10);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The domain of a message that names none: data, as OsmoHLR reads it.
const UNNAMED: Domain = Domain::PacketSwitched;
/// Longest name of an element, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// The network elements that are connected, by name.
#[derive(Default)]
pub struct Elements {
    connected: Mutex<HashMap<String, mpsc::Sender<Frame>>>,
}

impl NetworkElements for Elements {
    fn cancel(&self, element: &str, imsi: Imsi, domain: Domain) {
        self.tell(element, imsi, CancelType::Withdrawn, domain);
    }
}

impl Elements {
    fn tell(&self, element: &str, imsi: Imsi, cancel: CancelType, domain: Domain) {
        let body = Body::LocationCancel { cancel, domain: Some(domain) };
        let connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        let frame = Frame::Gsup(Message { imsi, body }.encode());
        if connected.get(element).is_none_or(|out| out.try_send(frame).is_err()) {
            tracing::warn!(
                element,
                "a network element is not connected: it hears of a lost access when it next asks"
            );
        }
    }

    fn enter(&self, name: &str, out: mpsc::Sender<Frame>) {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        connected.insert(name.to_owned(), out);
    }

    fn leave(&self, name: &str, out: &mpsc::Sender<Frame>) {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        // It may be connected again already.
        if connected.get(name).is_some_and(|known| known.same_channel(out)) {
            connected.remove(name);
        }
    }
}

/// Serves network elements until the future is dropped.
pub async fn serve(listener: TcpListener, centre: Arc<Centre>, elements: Arc<Elements>) {
    let places = Arc::new(Semaphore::new(ELEMENTS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let (centre, elements) = (centre.clone(), elements.clone());
        connections.spawn(async move {
            let _place = place;
            if let Err(error) = element(stream, centre, elements).await {
                tracing::info!(%peer, %error, "a network element has gone");
            }
        });
    }
}

/// One connection, from its greeting to its end.
async fn element(stream: TcpStream, centre: Arc<Centre>, elements: Arc<Elements>) -> io::Result<()> {
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let mut reader = Reader { reader, received: Vec::new() };
    let (out, frames) = mpsc::channel(OUT_MAX);
    let writing = tokio::spawn(write_all(writer, frames));
    let _ = out.send(Frame::who_is_there()).await;
    let greeting = tokio::time::timeout(GREETING_WITHIN, reader.name()).await;
    let name = greeting.map_err(|_| io::Error::other("it does not say who it is"))??;
    let _ = out.send(Frame::IdAck).await;
    let ind = centre.pool().vector_user(name.clone(), IND_FIRST, IND_LAST).await;
    let ind = ind.map_err(io::Error::other)?;
    elements.enter(&name, out.clone());
    let element = Arc::new(Element { name, ind, centre, elements, out, pending: Mutex::default() });
    let ended = serve_element(&mut reader, &element).await;
    element.elements.leave(&element.name, &element.out);
    writing.abort();
    ended
}

async fn serve_element(reader: &mut Reader, element: &Arc<Element>) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(REQUESTS_MAX));
    while let Some(frame) = reader.frame().await? {
        match frame {
            Frame::Ping => {
                let _ = element.out.send(Frame::Pong).await;
            }
            Frame::Gsup(content) => {
                let Ok(message) = Message::decode(&content) else { continue };
                let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
                let element = element.clone();
                tokio::spawn(async move {
                    let _place = place;
                    element.message(message).await;
                });
            }
            _ => {}
        }
    }
    Ok(())
}

async fn write_all(mut writer: OwnedWriteHalf, mut frames: mpsc::Receiver<Frame>) {
    while let Some(frame) = frames.recv().await {
        if writer.write_all(&frame.encode()).await.is_err() {
            return;
        }
    }
}

struct Reader {
    reader: OwnedReadHalf,
    received: Vec<u8>,
}

impl Reader {
    /// The next frame; `None` at the end.
    async fn frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some((frame, length)) = Frame::split(&self.received).map_err(io::Error::other)? {
                self.received.drain(..length);
                return Ok(Some(frame));
            }
            let mut chunk = [0; 4096];
            match self.reader.read(&mut chunk).await? {
                0 => return Ok(None),
                read => self.received.extend_from_slice(&chunk[..read]),
            }
        }
    }

    async fn name(&mut self) -> io::Result<String> {
        while let Some(frame) = self.frame().await? {
            if let Some(name) = frame.name().filter(|name| name.len() <= NAME_BYTES_MAX) {
                return Ok(name.to_owned());
            }
        }
        Err(io::Error::other("it has gone without a name"))
    }
}

/// A network element that is connected.
struct Element {
    name: String,
    ind: u8,
    centre: Arc<Centre>,
    elements: Arc<Elements>,
    out: mpsc::Sender<Frame>,
    /// Location updates whose INSERT DATA is not confirmed yet, with their domain; one per identity.
    pending: Mutex<HashMap<Imsi, Domain>>,
}

/// Location updates of one element that wait for a confirmation.
const PENDING_MAX: usize = 4_096;

impl Element {
    async fn message(&self, message: Message) {
        let Message { imsi, body } = message;
        match body {
            Body::SendAuthInfo { resynchronisation, .. } => {
                let answer = self.vectors(imsi, resynchronisation).await;
                self.answer(imsi, Procedure::SendAuthInfo, answer).await;
            }
            Body::UpdateLocation { domain } => match self.begin_update(imsi, domain) {
                Ok(data) => self.send(Message { imsi, body: data }).await,
                Err(error) => self.answer(imsi, Procedure::UpdateLocation, Err(error)).await,
            },
            Body::Done(Procedure::InsertData) => {
                let Some(domain) = self.take_pending(imsi) else { return };
                let answer = self.end_update(imsi, domain).await;
                self.answer(imsi, Procedure::UpdateLocation, answer).await;
            }
            Body::Failed { procedure: Procedure::InsertData, .. } if self.take_pending(imsi).is_some() => {
                let failed = Message::failed(imsi, Procedure::UpdateLocation, cause::NETWORK_FAILURE);
                self.send(failed).await;
            }
            Body::Purge { domain } => {
                let answer = self.purge(imsi, domain.unwrap_or(UNNAMED)).await;
                self.answer(imsi, Procedure::Purge, answer).await;
            }
            _ => {}
        }
    }

    async fn vectors(
        &self,
        imsi: Imsi,
        resynchronisation: Option<([u8; 16], [u8; 14])>,
    ) -> Result<Body, RegisterError> {
        let wanted = VectorsWanted { count: VECTORS, resynchronisation, aka_prime: false };
        self.centre.make_vectors(imsi, wanted, self.ind).await.map(Body::AuthInfo)
    }

    fn begin_update(&self, imsi: Imsi, domain: Option<Domain>) -> Result<Body, RegisterError> {
        let entry = self.centre.pool().entry(imsi)?.ok_or(RegisterError::NotFound)?;
        if !entry.access {
            return Err(RegisterError::Conflict("the identity has no access".to_owned()));
        }
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.len() >= PENDING_MAX {
            return Err(RegisterError::Refused("too many location updates wait".to_owned()));
        }
        pending.insert(imsi, domain.unwrap_or(UNNAMED));
        Ok(Body::InsertData { msisdn: entry.msisdn, domain })
    }

    fn take_pending(&self, imsi: Imsi) -> Option<Domain> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&imsi)
    }

    async fn end_update(&self, imsi: Imsi, domain: Domain) -> Result<Body, RegisterError> {
        let pool = self.centre.pool();
        let entry = pool.entry(imsi)?.ok_or(RegisterError::NotFound)?;
        pool.attached(imsi, domain, self.name.clone()).await?;
        let before = entry.attached.at(domain);
        if !before.is_empty() && before != self.name {
            self.elements.tell(before, imsi, CancelType::Update, domain);
        }
        Ok(Body::Done(Procedure::UpdateLocation))
    }

    async fn purge(&self, imsi: Imsi, domain: Domain) -> Result<Body, RegisterError> {
        let pool = self.centre.pool();
        let entry = pool.entry(imsi)?.ok_or(RegisterError::NotFound)?;
        if entry.attached.at(domain) == self.name {
            pool.attached(imsi, domain, String::new()).await?;
        }
        Ok(Body::Done(Procedure::Purge))
    }

    async fn answer(&self, imsi: Imsi, procedure: Procedure, answer: Result<Body, RegisterError>) {
        let body = answer.unwrap_or_else(|error| {
            let cause = match error {
                RegisterError::NotFound => cause::IMSI_UNKNOWN,
                RegisterError::Refused(_) | RegisterError::Conflict(_) => cause::NOT_ALLOWED,
                _ => cause::NETWORK_FAILURE,
            };
            Body::Failed { procedure, cause }
        });
        self.send(Message { imsi, body }).await;
    }

    async fn send(&self, message: Message) {
        // An element that does not read any more is about to be found gone.
        let _ = self.out.send(Frame::Gsup(message.encode())).await;
    }
}

#[cfg(test)]
mod tests {
    use simtide_protocol::aka::{Outcome, Sqn, SqnArray, authenticate};
    use simtide_protocol::card_file::AuthenticationAlgorithm;
    use simtide_protocol::ids::{CardId, ChangeId};

    use super::super::algorithm::Functions;
    use super::super::gsup_client::GsupClient;
    use super::super::pool::{Pool, Stock};
    use super::super::{Register, Seen};
    use super::*;

    /// A network element by hand.
    struct Vlr {
        stream: TcpStream,
        received: Vec<u8>,
    }

    impl Vlr {
        async fn connect(address: std::net::SocketAddr, name: &str) -> Vlr {
            let mut vlr = Vlr { stream: TcpStream::connect(address).await.unwrap(), received: Vec::new() };
            let Frame::IdGet(asked) = vlr.frame().await else { panic!("no greeting") };
            vlr.stream.write_all(&Frame::here_is(name, &asked).encode()).await.unwrap();
            assert_eq!(vlr.frame().await, Frame::IdAck);
            vlr
        }

        async fn frame(&mut self) -> Frame {
            loop {
                if let Some((frame, length)) = Frame::split(&self.received).unwrap() {
                    self.received.drain(..length);
                    return frame;
                }
                let mut chunk = [0; 512];
                let read = self.stream.read(&mut chunk).await.unwrap();
                assert_ne!(read, 0, "closed");
                self.received.extend_from_slice(&chunk[..read]);
            }
        }

        async fn message(&mut self) -> Message {
            let Frame::Gsup(content) = self.frame().await else { panic!("another frame") };
            Message::decode(&content).unwrap()
        }

        async fn ask(&mut self, imsi: Imsi, body: Body) -> Body {
            self.say(imsi, body).await;
            let message = self.message().await;
            assert_eq!(message.imsi, imsi);
            message.body
        }

        async fn say(&mut self, imsi: Imsi, body: Body) {
            let frame = Frame::Gsup(Message { imsi, body }.encode());
            self.stream.write_all(&frame.encode()).await.unwrap();
        }

        async fn attach(&mut self, imsi: Imsi) -> Body {
            self.attach_in(imsi, Some(Domain::CircuitSwitched)).await
        }

        async fn attach_in(&mut self, imsi: Imsi, domain: Option<Domain>) -> Body {
            match self.ask(imsi, Body::UpdateLocation { domain }).await {
                Body::InsertData { .. } => self.ask(imsi, Body::Done(Procedure::InsertData)).await,
                other => other,
            }
        }
    }

    async fn stage(directory: &tempfile::TempDir) -> (Arc<Centre>, std::net::SocketAddr) {
        let pool = Arc::new(Pool::open(&directory.path().join("own.db")).unwrap());
        let first = "001020000000001".parse().unwrap();
        let stock =
            Stock::range(first, 3, Some("43660000001".parse().unwrap()), AuthenticationAlgorithm::Tuak);
        pool.add(stock.unwrap()).await.unwrap();
        let elements = Arc::new(Elements::default());
        let centre = Centre::new(pool, elements.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, centre.clone(), elements));
        (centre, address)
    }

    #[tokio::test]
    async fn a_phone_attaches_moves_and_is_cancelled_when_it_leaves() {
        let directory = tempfile::tempdir().unwrap();
        let (centre, address) = stage(&directory).await;
        let register = centre.register();
        let card: CardId = "8988211000000000011".parse().unwrap();
        let identity = register.reserve(ChangeId(1), card).await.ok().unwrap();
        let imsi = identity.imsi;
        let mut vlr = Vlr::connect(address, "vlr-1").await;
        let refused = vlr.attach(imsi).await;
        assert!(matches!(refused, Body::Failed { cause: cause::NOT_ALLOWED, .. }), "{refused:?}");
        register.arm(ChangeId(1), imsi).await.unwrap();
        let functions = Functions::new(identity.algorithm, &identity.k, &identity.opc).unwrap();
        let mut array = SqnArray::default();
        // The number space of a card that has been used before: resynchronised, then taken.
        assert!(array.accept(Sqn::from_parts(1 << 20, 1)) && array.accept(Sqn::from_parts(1 << 20, 2)));
        let mut resynchronisation = None;
        let mut taken = 0;
        for _ in 0..2 {
            let request = Body::SendAuthInfo { domain: None, resynchronisation };
            let Body::AuthInfo(vectors) = vlr.ask(imsi, request).await else { panic!("no vectors") };
            match authenticate(&functions, &mut array, &vectors[0].rand, &vectors[0].autn) {
                Outcome::Success(answer) => {
                    assert_eq!(answer.res, vectors[0].xres);
                    taken += 1;
                }
                Outcome::SynchronisationFailure { auts } => resynchronisation = Some((vectors[0].rand, auts)),
                Outcome::MacFailure => panic!("another key"),
            }
        }
        assert_eq!(taken, 1);
        let wrong = Body::SendAuthInfo { domain: None, resynchronisation: Some(([1; 16], [2; 14])) };
        assert!(matches!(vlr.ask(imsi, wrong).await, Body::Failed { cause: cause::NOT_ALLOWED, .. }));

        assert!(matches!(vlr.attach(imsi).await, Body::Done(Procedure::UpdateLocation)));
        assert_eq!(register.watch(imsi).await, Ok(Seen { known: true, attached: true }));
        let released = register.release(ChangeId(1), imsi).await;
        assert!(matches!(released, Err(RegisterError::Conflict(_))), "a card has it");
        let mut other = Vlr::connect(address, "vlr-2").await;
        assert!(matches!(other.attach(imsi).await, Body::Done(Procedure::UpdateLocation)));
        let told = vlr.message().await.body;
        assert!(matches!(told, Body::LocationCancel { cancel: CancelType::Update, .. }), "{told:?}");
        // The first one purges late: the phone is elsewhere.
        let purge = Body::Purge { domain: Some(Domain::CircuitSwitched) };
        assert!(matches!(vlr.ask(imsi, purge).await, Body::Done(Procedure::Purge)));
        assert_eq!(register.watch(imsi).await, Ok(Seen { known: true, attached: true }));

        register.withdraw(ChangeId(2), imsi).await.unwrap();
        let told = other.message().await.body;
        assert!(matches!(told, Body::LocationCancel { cancel: CancelType::Withdrawn, .. }), "{told:?}");
        let request = Body::SendAuthInfo { domain: None, resynchronisation: None };
        assert!(matches!(other.ask(imsi, request).await, Body::Failed { cause: cause::NOT_ALLOWED, .. }));
        register.retire(ChangeId(2), imsi).await.unwrap();
        assert!(matches!(other.attach(imsi).await, Body::Failed { .. }));
        let unknown = "001029999999999".parse().unwrap();
        assert!(matches!(other.attach(unknown).await, Body::Failed { cause: cause::IMSI_UNKNOWN, .. }));
    }

    #[tokio::test]
    async fn a_phone_is_at_an_msc_and_at_an_sgsn_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let (centre, address) = stage(&directory).await;
        let register = centre.register();
        let card: CardId = "8988211000000000011".parse().unwrap();
        let imsi = register.reserve(ChangeId(1), card).await.ok().unwrap().imsi;
        register.arm(ChangeId(1), imsi).await.unwrap();
        let mut msc = Vlr::connect(address, "msc-1").await;
        let mut sgsn = Vlr::connect(address, "sgsn-1").await;
        assert!(matches!(msc.attach(imsi).await, Body::Done(Procedure::UpdateLocation)));
        assert!(matches!(sgsn.attach_in(imsi, None).await, Body::Done(Procedure::UpdateLocation)));
        let attached = |circuit: &str, packet: &str| {
            let entry = centre.pool().entry(imsi).unwrap().unwrap();
            (entry.attached.circuit, entry.attached.packet) == (circuit.to_owned(), packet.to_owned())
        };
        assert!(attached("msc-1", "sgsn-1"));
        assert!(matches!(sgsn.ask(imsi, Body::Purge { domain: None }).await, Body::Done(Procedure::Purge)));
        assert!(attached("msc-1", ""));
        assert_eq!(register.watch(imsi).await, Ok(Seen { known: true, attached: true }));
        assert!(matches!(sgsn.attach_in(imsi, None).await, Body::Done(Procedure::UpdateLocation)));
        register.withdraw(ChangeId(2), imsi).await.unwrap();
        for (element, of) in [(&mut msc, Domain::CircuitSwitched), (&mut sgsn, Domain::PacketSwitched)] {
            let told = element.message().await.body;
            let Body::LocationCancel { cancel: CancelType::Withdrawn, domain } = told else {
                panic!("{told:?}")
            };
            assert_eq!(domain, Some(of), "the first that it hears");
        }
        assert!(attached("", ""));
    }

    #[tokio::test]
    async fn our_client_gets_vectors_from_our_server_with_an_index_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let (centre, address) = stage(&directory).await;
        let register = centre.register();
        let card: CardId = "8988211000000000011".parse().unwrap();
        let identity = register.reserve(ChangeId(1), card).await.ok().unwrap();
        register.arm(ChangeId(1), identity.imsi).await.unwrap();
        let functions = Functions::new(identity.algorithm, &identity.k, &identity.opc).unwrap();
        let mut array = SqnArray::default();
        for name in ["vlr-1", "sgsn-1"] {
            let client = GsupClient::new(address, name);
            for count in 1..=5 {
                let vectors = client.vectors(identity.imsi, VectorsWanted::plain(count)).await.ok().unwrap();
                assert_eq!(vectors.len(), usize::from(count));
                let outcome = authenticate(&functions, &mut array, &vectors[0].rand, &vectors[0].autn);
                assert!(matches!(outcome, Outcome::Success(_)));
            }
            let prime = VectorsWanted { aka_prime: true, ..VectorsWanted::plain(1) };
            assert!(matches!(client.vectors(identity.imsi, prime).await, Err(RegisterError::Refused(_))));
            let unknown = client.vectors("001029999999999".parse().unwrap(), VectorsWanted::plain(1)).await;
            assert_eq!(unknown.err(), Some(RegisterError::NotFound));
        }
        let again = centre.pool().vector_user("sgsn-1".to_owned(), IND_FIRST, IND_LAST).await;
        assert_eq!(again, Ok(2));
    }
}
