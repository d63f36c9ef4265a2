//! The guarded swap: identity 2 is on trial until its network has authenticated it, and the outcome is told.

use super::memory::index;
use super::{TIMER, token};
use crate::card::Card;
use crate::toolkit::{Owner, Proactive, TimerAction};
use simtide_protocol::ids::ChangeId;
use simtide_protocol::personalization::{Answer, Notice, State, Uplink};

/// Resets during a trial after which identity 1 comes back: a device that starts again and again never lets the timer
/// end.
const RESETS_MAX: u8 = 10;
/// How often the outcome is sent until the network has taken it.
const NOTICE_TRIES_MAX: u8 = 40;
/// Pause before the outcome is sent again, in seconds.
const NOTICE_PAUSE_S: u32 = 60;
/// How often a device without timers is asked to send STATUS, in seconds.
const STATUS_S: u16 = 30;

/// Flags of the stored trial.
const AUTHENTICATED: u8 = 0x01;
const WAITS_FOR_SERVICE: u8 = 0x02;
const REVERTING: u8 = 0x04;

/// Identity 2 on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trial {
    change: ChangeId,
    guard_s: u32,
    resets: u8,
    authenticated: bool,
    waits_for_service: bool,
    /// The time is over: the next reset brings identity 1 back.
    pub(super) reverting: bool,
}

impl Trial {
    fn encode(&self) -> [u8; 14] {
        let mut entry = [0; 14];
        entry[..8].copy_from_slice(&self.change.to_bytes());
        entry[8..12].copy_from_slice(&self.guard_s.to_be_bytes());
        entry[12] = self.resets;
        let flag = |set: bool, bit| if set { bit } else { 0 };
        entry[13] = flag(self.authenticated, AUTHENTICATED)
            | flag(self.waits_for_service, WAITS_FOR_SERVICE)
            | flag(self.reverting, REVERTING);
        entry
    }

    fn decode(entry: &[u8]) -> Option<Self> {
        let (change, rest) = entry.split_first_chunk()?;
        let (guard_s, rest) = rest.split_first_chunk()?;
        let &[resets, flags] = rest else { return None };
        Some(Self {
            change: ChangeId::from_bytes(*change),
            guard_s: u32::from_be_bytes(*guard_s),
            resets,
            authenticated: flags & AUTHENTICATED != 0,
            waits_for_service: flags & WAITS_FOR_SERVICE != 0,
            reverting: flags & REVERTING != 0,
        })
    }
}

impl Card {
    pub(super) fn trial(&self) -> Option<Trial> {
        Trial::decode(self.own(index::TRIAL)?)
    }

    fn set_trial(&mut self, trial: &Trial) {
        self.put_own(index::TRIAL, &trial.encode());
    }

    pub(super) fn begin_trial(&mut self, change: ChangeId, guard_s: u32, waits_for_service: bool) {
        self.set_trial(&Trial {
            change,
            guard_s,
            resets: 0,
            authenticated: false,
            waits_for_service,
            reverting: false,
        });
    }

    /// TERMINAL PROFILE during a trial: the guard time begins, or begins again.
    pub(super) fn start_guard(&mut self) {
        let Some(trial) = self.trial() else { return };
        // ETSI TS 102 223, 5.2: byte 8, bit 1: TIMER MANAGEMENT; byte 3, bit 6: POLL INTERVAL.
        if self.session().toolkit.device_can(8, 1) {
            self.start_applet_timer(trial.guard_s);
        } else if self.session().toolkit.device_can(3, 6) {
            let poll = Proactive::PollInterval { interval_s: STATUS_S };
            self.applet_enqueue(Owner::Personalization, token::TIMER, poll);
        }
    }

    /// STATUS: on a device without timers, so much time has gone.
    pub(crate) fn count_status(&mut self) {
        if self.trial().is_none() || self.session().toolkit.device_can(8, 1) {
            return;
        }
        let applet = &mut self.session().applet;
        applet.statuses = applet.statuses.saturating_add(1);
        let gone_s = applet.statuses.saturating_mul(u32::from(STATUS_S));
        if self.trial().is_some_and(|trial| gone_s >= trial.guard_s) {
            self.guard_expired();
        }
    }

    /// The guard time is over: identity 1 comes back with a reset, which the device is asked for.
    pub(super) fn guard_expired(&mut self) {
        if let Some(trial) = self.trial() {
            self.set_trial(&Trial { reverting: true, ..trial });
        }
    }

    /// A reset during a trial: identity 1 comes back where its time is over, or where there were too many.
    pub(super) fn count_reset(&mut self) {
        let Some(mut trial) = self.trial() else { return };
        trial.resets = trial.resets.saturating_add(1);
        if !trial.reverting && trial.resets <= RESETS_MAX {
            return self.set_trial(&trial);
        }
        self.bring_back();
        self.end_trial(trial.change, State::Reverted);
    }

    /// Network 2 has authenticated itself with identity 2's keys, and thereby has them.
    pub(crate) fn authenticated(&mut self) {
        let Some(trial) = self.trial().filter(|trial| !trial.reverting) else { return };
        if trial.waits_for_service {
            return self.set_trial(&Trial { authenticated: true, ..trial });
        }
        self.commit(trial.change);
    }

    /// The device is in normal service.
    pub(super) fn in_service(&mut self) {
        match self.trial() {
            Some(trial) if trial.authenticated && !trial.reverting => self.commit(trial.change),
            Some(_) => {}
            None => self.send_notice(),
        }
    }

    fn commit(&mut self, change: ChangeId) {
        self.remove_own(index::KEPT);
        self.end_trial(change, State::Active);
        // ETSI TS 102 223, 5.2: byte 8, bit 1.
        if self.session().toolkit.device_can(8, 1) {
            let stop = Proactive::Timer { timer: TIMER, action: TimerAction::Deactivate };
            self.applet_enqueue(Owner::Personalization, token::TIMER, stop);
        }
        self.send_notice();
    }

    fn end_trial(&mut self, change: ChangeId, state: State) {
        self.remove_own(index::TRIAL);
        let agreed = self.remembered_agreement(change);
        self.remember(Answer { change, state, agreed });
        self.announce(change);
    }

    pub(super) fn remembered_agreement(&self, change: ChangeId) -> bool {
        let changes = self.change_status().changes;
        changes.iter().any(|answer| answer.change == change && answer.agreed)
    }

    /// From now on the outcome of a change is sent until the network has taken it.
    pub(super) fn announce(&mut self, change: ChangeId) {
        let mut entry = change.to_bytes().to_vec();
        entry.push(0);
        self.put_own(index::NOTICE, &entry);
    }

    /// Whether the outcome of this change is still to be told.
    pub(super) fn is_announced(&self, change: ChangeId) -> bool {
        self.service_number().is_some() && self.pending_notice().is_some_and(|(told, _)| told == change)
    }

    /// After power loss over a proof: a notice says what the proof would have said.
    pub(super) fn prove_again(&mut self) {
        let proof_waits = self.session().toolkit.waits(Owner::Ota) || !self.session().applet.held.is_empty();
        if let Some(change) = self.unproven().filter(|_| !proof_waits)
            && !self.is_announced(change)
        {
            self.announce(change);
        }
    }

    /// Whether the device should tell when it is in service.
    pub(crate) fn wants_service_events(&self) -> bool {
        self.own(index::NOTICE).is_some() || self.trial().is_some()
    }

    /// Sends the outcome that is still to be told, if the device is ready and it is not on its way.
    pub(super) fn send_notice(&mut self) {
        let Some((change, tries)) = self.pending_notice() else { return };
        if tries >= NOTICE_TRIES_MAX {
            return self.remove_own(index::NOTICE);
        }
        if !self.session().toolkit.is_active() || self.session().applet.notice_sent {
            return;
        }
        let Some(card) = self.id() else { return };
        let state = self.change_status().state(change);
        let notice = Notice { card, change, state, digest: self.digest() };
        let mut entry = change.to_bytes().to_vec();
        entry.push(tries + 1);
        self.put_own(index::NOTICE, &entry);
        self.session().applet.notice_sent = self.send_uplink(&Uplink::Notice(notice), token::NOTICE);
    }

    fn pending_notice(&self) -> Option<(ChangeId, u8)> {
        let (change, tries) = self.own(index::NOTICE)?.split_first_chunk()?;
        Some((ChangeId::from_bytes(*change), *tries.first()?))
    }

    /// The device has answered the last part of the notice.
    pub(super) fn notice_answered(&mut self, done: bool) {
        self.session().applet.notice_sent = false;
        if done {
            self.remove_own(index::NOTICE);
        } else {
            self.start_applet_timer(NOTICE_PAUSE_S);
        }
    }
}
