//! Secured packets in short messages: from the ENVELOPE to the application and back.

use crate::card::Card;
use crate::ota::{Delivery, Keyring, Receiver, Reception};
use crate::secure_channel::Environment;
use crate::subscription::LateProof;
use crate::toolkit::{Owner, Proactive};
use simtide_protocol::apdu::{Response, StatusWord};
use simtide_protocol::profile::Profile;
use simtide_protocol::sms::{Address, Deliver};
use zeroize::Zeroizing;

impl Card {
    /// SMS-PP download: a secured packet, a part of one, or something that nobody here wants.
    pub(crate) fn download(&mut self, environment: &mut Environment<'_>, tpdu: &[u8]) -> Response {
        let Ok(deliver) = Deliver::from_bytes(tpdu) else { return StatusWord::WRONG_DATA.into() };
        let mut receiver = std::mem::take(&mut self.session().ota);
        let response = self.receive(environment, &mut receiver, |receiver, profile, keys| {
            receiver.receive(profile, keys, &deliver)
        });
        self.session().ota = receiver;
        response
    }

    /// A whole secured packet that came another way than by short messages; its proof is addressed to `originator`.
    pub(crate) fn download_packet(
        &mut self,
        environment: &mut Environment<'_>,
        originator: &Address,
        packet: &[u8],
    ) -> Response {
        let mut receiver = std::mem::take(&mut self.session().ota);
        let response = self.receive(environment, &mut receiver, |receiver, profile, keys| {
            receiver.receive_packet(profile, keys, originator, packet)
        });
        self.session().ota = receiver;
        response
    }

    fn receive(
        &mut self,
        environment: &mut Environment<'_>,
        receiver: &mut Receiver,
        take: impl FnOnce(&mut Receiver, &Profile, &dyn Keyring) -> Reception,
    ) -> Response {
        let keys = self.keyring();
        for (index, counter) in self.counters() {
            receiver.set_counter(index, counter);
        }
        let profile = self.profile.clone();
        self.session().changed_files.clear();
        let reception = take(receiver, &profile, &keys);
        // Stored before the application sees anything: a packet is executed once.
        for (index, _) in &keys {
            self.set_counter(*index, receiver.counter(*index));
        }
        let delivery = match reception {
            Reception::NotSecured | Reception::Incomplete => Delivery::silent(StatusWord::OK),
            Reception::Unreadable(status) => Delivery::silent(status),
            Reception::Refused { delivery, .. } => delivery,
            Reception::Command(command) => {
                let capacity = command.reply.capacity(&keys);
                let Some(application) = profile.application_by_tar(command.tar) else {
                    return StatusWord::WARNING.into();
                };
                let was_asking = self.is_asking();
                let answer = self.run(environment, application, &command.data, capacity);
                if self.is_asking() && !was_asking {
                    // The proof says what the user will have decided.
                    let delivery = command.reply.postpone(&keys);
                    self.answer_later(LateProof {
                        application: application.clone(),
                        script: Zeroizing::new(command.data),
                        capacity,
                        reply: command.reply,
                    });
                    return self.deliver(delivery);
                }
                // The answer is protected by the keys that the command was protected by, also after PUT KEY.
                command.reply.answer(receiver, &keys, &answer)
            }
        };
        let response = self.deliver(delivery);
        // The proof leaves first: a device may be busy with its files for long.
        self.refresh_changed_files();
        response
    }

    /// Response data for the delivery report, messages for SEND SHORT MESSAGE.
    fn deliver(&mut self, delivery: Delivery) -> Response {
        for submit in &delivery.submits {
            let send = Proactive::SendShortMessage { text: String::new(), tpdu: submit.to_bytes() };
            // ENVELOPE has made sure of the room. Without it a part would be lost, and the proof with it.
            let queued = self.enqueue(Owner::Ota, 0, send);
            debug_assert!(queued.is_ok(), "a proof of receipt found no room");
        }
        Response { data: delivery.report, status: delivery.status }
    }
}
