//! What the agent needs of the card that it runs on.

use crate::toolkit::{Proactive, QueueFull};
use simtide_protocol::ids::{Aid, CardId};
use simtide_protocol::poll_date::PollFile;
use simtide_protocol::profile::Profile;
use simtide_protocol::scp81::{ContentType, ScriptStatus};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Identity and key for TLS.
pub(crate) struct Psk {
    /// What the card calls itself.
    pub(crate) identity: Vec<u8>,
    /// Its key.
    pub(crate) key: Zeroizing<Vec<u8>>,
}

/// The card, as the agent sees it.
pub(crate) trait Host {
    /// What kind of card it is.
    fn profile(&self) -> &Arc<Profile>;
    /// What the card is known by, for `X-Admin-From`.
    fn id(&self) -> Option<CardId>;
    /// EF.POLL; none where it is missing or not readable.
    fn poll_file(&self) -> Option<PollFile>;
    /// Writes EF.POLL.
    fn write_poll_file(&mut self, file: &PollFile);
    /// What the agent has to remember across power loss; empty: nothing.
    fn memory(&self) -> Vec<u8>;
    /// Stores what the agent has to remember.
    fn write_memory(&mut self, memory: &[u8]);
    /// The session parameters stored by STORE DATA, the content of tag `85`; empty: none.
    fn stored_parameters(&self) -> Vec<u8>;
    /// Identity and key for TLS; none where the card was personalised without.
    fn psk(&self) -> Option<Psk>;
    /// Runs a script of the expanded format for an application, the issuer security domain where none is named.
    /// What is not [`ScriptStatus::Ok`] has no body.
    fn execute(
        &mut self,
        application: Option<Aid>,
        content_type: ContentType,
        script: &[u8],
    ) -> (ScriptStatus, Vec<u8>);
    /// Whether another application wants to know when the device is in service: there is one list of events.
    fn wants_service_events(&self) -> bool;
    /// Queues a proactive command.
    fn enqueue(&mut self, token: u16, command: Proactive) -> Result<(), QueueFull>;
    /// A random number.
    fn random(&mut self) -> u32;
}
