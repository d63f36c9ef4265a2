//! Calls to registers, with the fault that is to be played.

use simtide_platform::subscription::{Event, Identity, RegisterFault, SeenBy, Verb};
use simtide_protocol::ids::{CardId, ChangeId, Iccid, Imsi};

use crate::register::Behaviour;
use crate::world::{CHANGE, DAY_MS, HOUR_MS, Happening, World, card_id, foreign_imsi, imsi_1, imsi_2};

impl World {
    fn behaviour(&mut self, verb: Option<Verb>) -> Option<Behaviour> {
        let fault = self.fault.filter(|fault| fault.verb == verb && (fault.always || !self.fault_used))?;
        self.fault_used = true;
        Some(fault.behaviour)
    }

    pub(super) fn watch(&mut self, imsi: Imsi) {
        let entry = self.second.entries.get(&imsi);
        let (known, attached) = (entry.is_some(), entry.is_some_and(|entry| entry.attached));
        let attached = attached && !self.scenario.blind;
        let seen = |imsi, known, attached| Event::Seen { imsi, known, attached, by: SeenBy::Register };
        match self.behaviour(None) {
            None | Some(Behaviour::Twice) => self.results.push_back(seen(imsi, known, attached)),
            Some(Behaviour::Absent) => self.results.push_back(seen(imsi, false, false)),
            Some(Behaviour::AnotherAnswer) => self.results.push_back(seen(imsi_1(), true, true)),
            // The shell has nothing to say: the pause ends by itself.
            Some(_) => {}
        }
    }

    /// A verb at its register, with the fault that is to be played.
    pub(super) fn ask(&mut self, verb: Verb, imsi: Imsi) {
        use Behaviour as B;
        use RegisterFault as F;
        if verb == Verb::Release {
            self.check_release();
        }
        let behaviour = self.behaviour(Some(verb));
        let fail = |fault| Event::DidNot { verb, fault };
        let event = match behaviour {
            None => self.carry_out(verb, imsi),
            Some(B::Unreachable) => fail(F::Unreachable),
            Some(B::TimeoutBefore) => fail(F::Unknown),
            Some(B::Exists) => fail(F::Conflict),
            Some(B::Absent) => fail(F::NotFound),
            Some(B::Refused) => fail(F::Refused),
            Some(B::Exhausted) => fail(F::Exhausted),
            Some(B::ErrorBody) => fail(F::Invalid),
            Some(B::TimeoutLate) => {
                self.later(HOUR_MS, Happening::Late(verb, imsi));
                fail(F::Unknown)
            }
            Some(B::Twice) => {
                self.carry_out(verb, imsi);
                self.carry_out(verb, imsi)
            }
            Some(B::TwiceLate) => {
                self.later(HOUR_MS, Happening::Late(verb, imsi));
                self.later(3 * DAY_MS, Happening::Late(verb, imsi));
                self.carry_out(verb, imsi)
            }
            Some(B::TimeoutAfter) => {
                self.carry_out(verb, imsi);
                fail(F::Unknown)
            }
            Some(B::ExistsDone) => {
                self.carry_out(verb, imsi);
                fail(F::Conflict)
            }
            Some(B::BadKey) => {
                self.carry_out(verb, imsi);
                fail(F::Invalid)
            }
            Some(other) => self.ask_wrongly(verb, imsi, other),
        };
        self.results.push_back(event);
    }

    fn ask_wrongly(&mut self, verb: Verb, imsi: Imsi, behaviour: Behaviour) -> Event {
        let event = match behaviour {
            Behaviour::Foreign => self.second.reserve(CHANGE, foreign_imsi()).map(|imsi| Event::Reserved {
                change: CHANGE,
                card: None,
                identity: Identity { imsi, msisdn: None },
                owned: imsi == imsi_2(),
                taken_by: None,
            }),
            _ => Ok(self.carry_out(verb, imsi)),
        };
        match (behaviour, event) {
            (Behaviour::AnotherAnswer, Ok(Event::Reserved { card, identity, owned, taken_by, .. })) => {
                Event::Reserved { change: ChangeId(9), card, identity, owned, taken_by }
            }
            (Behaviour::AnotherAnswer, Ok(_)) => Event::Did { verb, imsi: foreign_imsi() },
            (Behaviour::Taken, Ok(Event::Reserved { change, card, identity, owned, .. })) => {
                let other = CardId::from("8988211000000000029".parse::<Iccid>().unwrap());
                // It is the other card's: what this change believes to hold is not there.
                self.second.entries.remove(&imsi_2());
                Event::Reserved { change, card, identity, owned, taken_by: Some(other) }
            }
            (_, Ok(event)) => event,
            (_, Err(fault)) => Event::DidNot { verb, fault },
        }
    }

    pub(super) fn carry_out(&mut self, verb: Verb, imsi: Imsi) -> Event {
        if verb == Verb::Reserve {
            return match self.second.reserve(CHANGE, imsi_2()) {
                Ok(imsi) => {
                    // The shell seals the keys in the commit that takes the identity in.
                    self.sealed = Some(imsi);
                    let identity = Identity { imsi, msisdn: Some("43670000001".parse().unwrap()) };
                    let owned = imsi == imsi_2();
                    Event::Reserved { change: CHANGE, card: Some(card_id()), identity, owned, taken_by: None }
                }
                Err(fault) => Event::DidNot { verb, fault },
            };
        }
        let register = match verb {
            Verb::Withdraw | Verb::Retire => &mut self.first,
            _ => &mut self.second,
        };
        let done = register.carry_out(verb, CHANGE, imsi);
        self.check();
        match done {
            Ok(()) => Event::Did { verb, imsi },
            Err(fault) => Event::DidNot { verb, fault },
        }
    }
}
