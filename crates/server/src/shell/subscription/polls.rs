//! Sessions of cards whose change is open: when a poll has nothing else to carry, it carries the personalization message,
//! or the question where the change stands.

use simtide_platform::poll::Script;
use simtide_platform::subscription::{CardSays, Change, Event, PacketKind, PollWork};
use simtide_protocol::apdu::StatusWord;
use simtide_protocol::ids::{CardId, ChangeId};
use simtide_protocol::personalization as card_says;
use simtide_protocol::profile::ApplicationKind;
use simtide_protocol::scp81::{ContentType, ScriptStatus, TargetedApplication};
use simtide_protocol::script::expanded::{LengthForm, Response, ScriptWriter};
use zeroize::Zeroizing;

use super::personalization::Carried;
use super::{Changes, read};
use crate::store::{Card, CaseKind, CaseRow, StoreError};

/// Bytes of user data that every short message of a packet carries at least, beside its header.
const PART_BYTES: usize = 130;

/// What a session carries for a change, from the commit that says so until the answer.
#[derive(Debug, Clone, Copy)]
pub struct Carries {
    change: ChangeId,
    work: PollWork,
}

impl Changes {
    /// A session of the card has come to its end: what it is still to carry for the card's change. Durable.
    ///
    /// # Errors
    /// Nothing was stored; the session carries nothing.
    pub async fn poll_carries(&self, card: CardId) -> Result<Option<(Carries, Script)>, StoreError> {
        let Some(id) = self.watch.change_of(&card) else { return Ok(None) };
        let Some(change) = self.handle((card, id), Event::PollOpened).await? else { return Ok(None) };
        let Some(work) = change.poll_work() else { return Ok(None) };
        let script = self.card_and_case(card, id).await?;
        let script = script.and_then(|(card, row)| self.script(&change, work, &card, &row));
        let carries = Carries { change: id, work };
        let Some(script) = script else {
            // It has not left; a fence will find that out.
            self.poll_said(card, carries, None).await?;
            return Ok(None);
        };
        Ok(Some((carries, script)))
    }

    /// What the card has answered to the script; `None`: the session is over without an answer.
    ///
    /// # Errors
    /// Nothing was stored; the next session of the card tells.
    pub async fn poll_said(
        &self,
        card: CardId,
        carries: Carries,
        answer: Option<(ScriptStatus, Vec<u8>)>,
    ) -> Result<(), StoreError> {
        let Carries { change: id, work } = carries;
        let kept = if answer.is_some() { self.card_and_case(card, id).await? } else { None };
        let says = match (answer, kept) {
            (Some((status, body)), Some((card, row))) => {
                let change = read(&row)?;
                let second = self.digest_of_second(&change, &card, &row.sealed);
                Some(says(&change, work, status, &body, second))
            }
            _ => None,
        };
        self.handle((card, id), Event::PollEnded { says }).await?;
        Ok(())
    }

    async fn card_and_case(&self, card: CardId, id: ChangeId) -> Result<Option<(Card, CaseRow)>, StoreError> {
        let row = self.core.store.case_of(card, CaseKind::Change, id.0).await?;
        Ok(self.core.store.card(card).await?.zip(row))
    }

    fn script(&self, change: &Change, work: PollWork, card: &Card, row: &CaseRow) -> Option<Script> {
        let catalogue = self.core.catalogue();
        let profile = catalogue.profile(card.hot.profile)?;
        let application = profile.application(ApplicationKind::Personalization)?.aid;
        let commands = match work {
            PollWork::Status => vec![Zeroizing::new(card_says::read_status())],
            PollWork::Personalization => {
                let opened = self.core.keyring.open_change(change.id, &card.record, &row.sealed);
                let opened = opened.inspect_err(|error| {
                    tracing::error!(change = %change.id, %error, "the sealed record of a change cannot be opened");
                });
                let carried = Carried::from_plain(&opened.ok()?).ok()?;
                card_says::commands(&carried.message).into_iter().map(Zeroizing::new).collect()
            }
        };
        let mut script = ScriptWriter::new(LengthForm::Definite);
        commands.iter().for_each(|command| script.command_bytes(command));
        let (application, content_type) = (TargetedApplication(application), ContentType::CommandData);
        Some(Script { application, content_type, body: script.finish().ok()? })
    }

    /// Whether the message of a change is too long for short messages and the card is one that polls.
    pub(super) fn is_for_a_poll(&self, card: &Card, row: &CaseRow) -> bool {
        let parts = row.sealed.len().div_ceil(PART_BYTES);
        card.hot.last_update.is_some() && parts > usize::from(self.core.config.delivery.sms_parts_max)
    }
}

/// What the answer to a script says of the change.
fn says(
    change: &Change,
    work: PollWork,
    status: ScriptStatus,
    body: &[u8],
    identity_2: Option<[u8; card_says::DIGEST_BYTES]>,
) -> CardSays {
    let response = Response::decode(body).ok().filter(|_| status == ScriptStatus::Ok);
    let last = response.filter(|response| response.failed().is_none());
    let last = last.and_then(|response| response.responses.into_iter().last());
    let Some(last) = last.filter(|last| last.status == StatusWord::OK) else { return CardSays::Silent };
    let kind = match work {
        PollWork::Personalization => PacketKind::Personalization,
        PollWork::Status => PacketKind::Fence,
    };
    CardSays::of_answer(change, kind, &last.data, identity_2)
}
