//! What users are told on their devices: texts that are reserved by the commit with which they become true, and that wait
//! for a while where the card has other packets open.

use std::sync::Arc;

use simtide_protocol::ids::CardId;
use tokio::sync::Semaphore;

use super::personalization::{self, Receiver};
use super::{Changes, commit};
use crate::shell::sending::Outgoing;
use crate::store::{Card, Command as PacketCommand, Op, Origin, Outcome, StoreError};

/// How long a text for the user is tried, in seconds: later it would be about something forgotten.
const TEXT_VALIDITY_S: i64 = 3_600;
/// Seconds that a text has the card for itself: a change that comes later takes its place.
pub(super) const TEXT_FIRST_S: i64 = 60;
/// Seconds until a text that found no place is tried again.
const TEXT_AGAIN_S: i64 = 60;
/// Texts that wait for a place at most.
const TEXTS_MAX: usize = 1_024;

/// Room for texts that wait.
pub(super) struct Texts(Arc<Semaphore>);

impl Default for Texts {
    fn default() -> Texts {
        Texts(Arc::new(Semaphore::new(TEXTS_MAX)))
    }
}

impl Changes {
    /// The packet that shows a text; `None` for cards that cannot.
    pub(super) fn text_packet(&self, card: &Card, text: &str) -> Option<PacketCommand> {
        let catalogue = self.core.catalogue();
        let receiver = catalogue.profile(card.hot.profile).and_then(|profile| Receiver::of(profile))?;
        let now = self.core.now();
        Some(PacketCommand {
            card: card.record.id,
            key_set: receiver.key_set,
            origin: Origin::Request,
            tar: receiver.tar,
            spi: receiver.spi,
            data: personalization::show_text(text).ok()?,
            at: now,
            deadline: now.plus_s(TEXT_VALIDITY_S),
        })
    }

    /// Shows the user of a card a text, reserved by the commit that does `ops`. It waits where the card has other packets
    /// open.
    ///
    /// # Errors
    /// Nothing was stored.
    pub(super) async fn show(
        &self,
        card: &Card,
        text: &'static str,
        mut ops: Vec<Op>,
    ) -> Result<(), StoreError> {
        let place = ops.len();
        let packet = self.text_packet(card, text);
        ops.extend(packet.clone().map(|packet| Op::Command(Box::new(packet))));
        let outcomes = self.core.commit_card(&card.record.id, ops).await?.outcomes;
        if let Some(packet) = packet {
            self.text_reserved(card.record.id, text, packet, outcomes.get(place)).await;
        }
        Ok(())
    }

    /// What has come of the reservation of a text.
    pub(super) async fn text_reserved(
        &self,
        card: CardId,
        text: &'static str,
        packet: PacketCommand,
        outcome: Option<&Outcome>,
    ) {
        if !self.text_leaves(packet, None, outcome).await {
            self.show_later(card, text);
        }
    }

    /// Lets a text leave that was given a counter; answers whether it was.
    async fn text_leaves(
        &self,
        packet: PacketCommand,
        card: Option<Box<Card>>,
        outcome: Option<&Outcome>,
    ) -> bool {
        let Some(Outcome::Counter(counter)) = outcome else { return false };
        let packet = commit::queued(packet, *counter);
        self.outbox.send(vec![Outgoing { packet, card }]).await;
        true
    }

    fn show_later(&self, card: CardId, text: &'static str) {
        let Ok(room) = self.texts.0.clone().try_acquire_owned() else {
            tracing::warn!(texts = TEXTS_MAX, "a text for a user is given up: too many wait");
            return;
        };
        let (weak, clock) = (self.me.clone(), self.core.clock);
        let until = self.core.now().plus_s(TEXT_VALIDITY_S);
        tokio::spawn(async move {
            let _room = room;
            while clock.now() < until {
                tokio::time::sleep(clock.until(clock.now().plus_s(TEXT_AGAIN_S))).await;
                let Some(changes) = weak.upgrade() else { return };
                match changes.try_text(card, text).await {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(%error, "a text for a user was not stored; it is tried again")
                    }
                }
            }
            tracing::info!("a text for a user is given up: its card had other packets open");
        });
    }

    /// Whether nothing is left to be done for a text that waits.
    async fn try_text(&self, card: CardId, text: &str) -> Result<bool, StoreError> {
        let Some(row) = self.core.store.card(card).await? else { return Ok(true) };
        let Some(packet) = self.text_packet(&row, text) else { return Ok(true) };
        let op = Op::Command(Box::new(packet.clone()));
        let outcomes = self.core.commit_card(&card, vec![op]).await?.outcomes;
        Ok(self.text_leaves(packet, Some(Box::new(row)), outcomes.first()).await)
    }
}
