//! Fuzz targets: any bytes, no panic, and what must always hold (fuzz/README.md).

use std::collections::HashMap;
use std::time::Duration;

use simtide_platform::content::Content;
use simtide_platform::delivery::{PORTIONS_MAX, is_strong, pack};
use simtide_protocol::profile::Profile;

use crate::smpp::link::{Command, Input, Machine};
use crate::smpp::{Connection, LinkConfig, LinkEvent, Submit};

/// Submits of one run; more show nothing new.
const SUBMITS_MAX: u64 = 200;
/// Seconds after which an SMSC without faults must have settled everything: the longest pause, then the slowest rate.
const ROUNDS_MAX: u32 = 1_000;
const WINDOW: u16 = 3;
const BINDS: u8 = 2;

/// An SMPP link in the hands of a hostile SMSC and a hasty caller. The input is a list of operations; see
/// `Run::step`. Every message gets exactly one outcome, the window is kept, and what is written are whole PDUs.
pub fn smpp_link(data: &[u8]) {
    let config = LinkConfig { window: WINDOW, binds: BINDS, queue_max: 50, ..LinkConfig::default() };
    let mut run = Run {
        machine: Machine::new(config),
        now: Duration::ZERO,
        connections: vec![Connection { bind: 0, attempt: 0 }; usize::from(BINDS)],
        outcomes: HashMap::new(),
        submits: 0,
        stopped: false,
        written: Vec::new(),
    };
    run.machine.handle_deadline(run.now);
    run.collect();
    let mut rest = data;
    while let Some((&operation, after)) = rest.split_first() {
        rest = run.step(operation, after);
        run.collect();
    }
    run.finish();
}

/// The content of a delivery, as JSON. What can be packed for a card is packets of a size that is allowed, protected as
/// a delivery must be, each step with the marks that polls look for unless it may run twice.
pub fn delivery_content(data: &[u8]) {
    let Ok(content) = serde_json::from_slice::<Content>(data) else { return };
    let profile = Profile::standard();
    for limit in [256, 1_024, 4_000] {
        let Ok(portions) = pack(&content, &profile, 0x8000_0001, limit) else { continue };
        assert!((1..=PORTIONS_MAX).contains(&portions.len()));
        for portion in &portions {
            assert!(is_strong(portion.spi.to_be_bytes().into()) && portion.commands > 0);
            assert!(!portion.data.0.is_empty() && portion.handed.is_none());
        }
        assert!(portions.is_sorted_by_key(|portion| portion.step), "in the order of the steps");
    }
}

struct Run {
    machine: Machine,
    now: Duration,
    /// The latest connection of each bind.
    connections: Vec<Connection>,
    /// By token: how many outcomes.
    outcomes: HashMap<u64, u32>,
    submits: u64,
    stopped: bool,
    /// Requests written since the last look: connection, command_id, sequence_number.
    written: Vec<(Connection, u32, u32)>,
}

impl Run {
    /// One operation: the low three bits say which, the fourth on which bind. Answers what is left of the input.
    fn step<'d>(&mut self, operation: u8, after: &'d [u8]) -> &'d [u8] {
        let connection = self.connections[usize::from(operation >> 3) % self.connections.len()];
        let argument = after.first().copied().unwrap_or_default();
        match operation & 0x07 {
            0 => self.submit(argument),
            // Raw bytes, as many as the argument says.
            1 => {
                let (bytes, rest) = after
                    .get(1..)
                    .unwrap_or_default()
                    .split_at(usize::from(argument).min(after.len().saturating_sub(1)));
                self.machine.handle(self.now, Input::Bytes(connection, bytes));
                return rest;
            }
            // A bind answered well: sequence 1 is the bind.
            2 => {
                self.machine.handle(self.now, Input::Connected(connection));
                self.answer(connection, 0x8000_0009, 0, 1);
            }
            // An answer to a recent submit.
            3 => {
                let status = [0, 0, 0x58, 0x14, 0x0B, 0x08, 0xFF, 0x0D][usize::from(argument >> 5)];
                self.answer(connection, 0x8000_0004, status, u32::from(argument & 0x1F));
            }
            4 => self.machine.handle(self.now, Input::Lost(connection)),
            5 => {
                self.now += Duration::from_millis(u64::from(argument) * 250);
                self.machine.handle_deadline(self.now);
            }
            6 => self.answer(connection, 0x8000_0000, u32::from(argument), u32::from(operation >> 4)),
            _ if argument == 0xFF => self.machine.handle(self.now, Input::Shutdown),
            _ => self.machine.handle(self.now, Input::Connected(connection)),
        }
        after.get(1..).unwrap_or_default()
    }

    fn submit(&mut self, argument: u8) {
        if self.submits >= SUBMITS_MAX {
            return;
        }
        let Ok(destination) = format!("43664{:07}", argument & 0x03).parse() else { return };
        let group = (argument & 0x80 != 0).then_some(u64::from(argument & 0x0F));
        let submit = Submit { group, ..Submit::binary(self.submits, destination, vec![argument]) };
        if self.machine.submit(self.now, submit).is_ok() {
            self.outcomes.insert(self.submits, 0);
        }
        self.submits += 1;
    }

    fn answer(&mut self, connection: Connection, id: u32, status: u32, sequence: u32) {
        let pdu: Vec<u8> =
            [17, id, status, sequence].iter().flat_map(|word| word.to_be_bytes()).chain([0]).collect();
        self.machine.handle(self.now, Input::Bytes(connection, &pdu));
    }

    fn collect(&mut self) {
        while let Some(command) = self.machine.next_command() {
            match command {
                Command::Connect(connection) => self.connections[connection.bind] = connection,
                Command::Write(connection, bytes) => self.write(connection, &bytes),
                Command::Close(_) => {}
                Command::Report(event) => self.report(&event),
            }
        }
        assert!(self.machine.figures().in_flight <= usize::from(WINDOW) * usize::from(BINDS));
    }

    fn write(&mut self, connection: Connection, mut rest: &[u8]) {
        while let Some((header, _)) = rest.split_first_chunk::<16>() {
            let word =
                |at: usize| header[at..at + 4].iter().fold(0, |word, &byte| word << 8 | u32::from(byte));
            let length = word(0) as usize;
            assert!((16..=rest.len()).contains(&length), "a whole PDU");
            self.written.push((connection, word(4), word(12)));
            rest = &rest[length..];
        }
        assert!(rest.is_empty(), "nothing after the last PDU");
    }

    fn report(&mut self, event: &LinkEvent) {
        assert!(!self.stopped, "nothing follows Stopped");
        match event {
            LinkEvent::Accepted { token, .. }
            | LinkEvent::Refused { token, .. }
            | LinkEvent::Unknown { token } => *self.outcomes.entry(*token).or_insert(0) += 1,
            LinkEvent::Stopped { .. } => self.stopped = true,
            _ => {}
        }
    }

    /// An SMSC without faults takes over: every message gets its outcome, also without an end of the link.
    fn recover(&mut self) {
        for connection in self.connections.clone() {
            self.machine.handle(self.now, Input::Lost(connection));
        }
        self.written.clear();
        for _ in 0..ROUNDS_MAX {
            self.collect();
            let settled = self.machine.pending() == 0 && self.machine.figures().in_flight == 0;
            if settled || self.stopped {
                break;
            }
            self.now += Duration::from_secs(1);
            self.machine.handle_deadline(self.now);
            self.collect();
            for connection in self.connections.clone() {
                self.machine.handle(self.now, Input::Connected(connection));
            }
            self.collect();
            for (connection, id, sequence) in std::mem::take(&mut self.written) {
                self.answer(connection, id | 0x8000_0000, 0, sequence);
            }
        }
        assert_eq!((self.machine.pending(), self.machine.figures().in_flight), (0, 0), "the link recovers");
    }

    /// Ends the link: every message has its outcome, and nothing waits.
    fn finish(mut self) {
        self.recover();
        self.machine.handle(self.now, Input::Shutdown);
        self.collect();
        for connection in self.connections.clone() {
            self.machine.handle(self.now, Input::Lost(connection));
            self.collect();
        }
        assert!(self.machine.is_stopped());
        assert_eq!((self.machine.pending(), self.machine.figures().in_flight), (0, 0));
        for (token, outcomes) in &self.outcomes {
            assert_eq!(*outcomes, 1, "outcomes of message {token}");
        }
    }
}
