//! The card's own messages: sealed with its OTA keys and a counter of their own, sent as short messages.

use super::token;
use crate::card::Card;
use crate::ota::Keyring;
use crate::toolkit::{Owner, Proactive};
use simtide_protocol::apdu::StatusWord;
use simtide_protocol::personalization::{Consent, ConsentWay, Request, Uplink, Wish};
use simtide_protocol::profile::ApplicationKind;
use simtide_protocol::sms::{Address, PacketKind, Reference, Submit, UserData, segment};
use std::num::NonZeroU8;

impl Card {
    /// Seals and sends; the terminal response to the last part comes back with `token`. Whether there was a way.
    pub(super) fn send_uplink(&mut self, uplink: &Uplink, last_token: u16) -> bool {
        let Some(parts) = self.uplink_parts(uplink) else { return false };
        let count = parts.len();
        for (place, submit) in parts.into_iter().enumerate() {
            let token = if place + 1 == count { last_token } else { token::PART };
            let send = Proactive::SendShortMessage { text: String::new(), tpdu: submit.to_bytes() };
            self.applet_enqueue(Owner::Personalization, token, send);
        }
        count > 0
    }

    /// SEAL REQUEST: the wish of the device's user as a packet that the device sends.
    pub(super) fn seal_wish(&mut self, wish: &[u8]) -> Result<Vec<u8>, StatusWord> {
        let wish = Wish::parse(wish).ok_or(StatusWord::WRONG_DATA)?;
        if self.has_open_change() {
            return Err(StatusWord::CONDITIONS);
        }
        let consent = Consent { way: ConsentWay::Application, at: wish.at };
        let card = self.id().ok_or(StatusWord::CONDITIONS)?;
        let request = Uplink::Request(Request { card, operator: wish.operator, consent });
        self.sealed_uplink(&request).map(|(packet, _)| packet).ok_or(StatusWord::CONDITIONS)
    }

    fn uplink_parts(&mut self, uplink: &Uplink) -> Option<Vec<Submit>> {
        let destination = Address::number(&self.service_number()?).ok()?;
        let (packet, reference) = self.sealed_uplink(uplink)?;
        let parts = segment(&packet, PacketKind::Command, reference).ok()?;
        let submits = parts.into_iter().filter_map(|part| UserData::from_octets(part).ok());
        Some(submits.map(|user_data| Submit::with_header(0, destination.clone(), user_data)).collect())
    }

    /// The packet, and the reference for its parts.
    fn sealed_uplink(&mut self, uplink: &Uplink) -> Option<(Vec<u8>, Reference)> {
        let profile = self.profile.clone();
        let index = *profile.application(ApplicationKind::Personalization)?.key_sets.first()?;
        let definition = profile.key_set(index)?;
        let keyring = self.keyring();
        let keys = Keyring::key_set(&keyring, index)?;
        // Stored with this command, before anything leaves: no counter is used twice.
        let (counter, reference) = self.next_uplink()?;
        let tar = profile.personalization.uplink_tar;
        let packet = uplink.seal(tar, definition.kic, definition.kid, counter, keys).ok()?;
        Some((packet, Reference::Narrow(NonZeroU8::new(reference).unwrap_or(NonZeroU8::MIN))))
    }
}
