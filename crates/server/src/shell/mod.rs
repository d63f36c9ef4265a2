//! The shell of the platform: the loops that carry out what `simtide_platform` decides.
//!
//! | module | does |
//! |---|---|
//! | [`core`] | store and leases, small rows, clock, the end |
//! | [`planning`] | the planner's loop: ticks, pages, triggers |
//! | [`triggering`] | counters for what the planner has chosen, in one commit per group |
//! | [`campaigns`] | rows of campaigns and what users want of them |
//! | [`sessions`] | a card's session, from its key to the last commit |
//! | [`sending`], [`sealing`], [`flight`] | packets to the SMSC, and what becomes of them |
//! | [`proofs`] | messages from phones, matched to open commands |
//! | [`delivery`] | the secure element manager: what waits for a card, by which bearer it goes, until it is proven |
//! | [`commands`] | a single command to a single card |
//! | [`subscription`] | changes of operator |
//! | [`addressing`] | number and links by which a card is reached |
//! | [`keyring`] | the boundary to the vault |
//! | [`upkeep`] | rows that nobody needs any more |
//! | [`tide`] | expected polls, and the date that a card is given |
//!
//! Every effect follows a durable commit, and what came of an effect comes back as an event. A store that fails ends
//! the platform.

pub mod addressing;
pub mod campaigns;
pub mod commands;
pub mod core;
pub mod delivery;
pub mod flight;
pub mod keyring;
mod lookup;
pub mod planning;
pub mod proofs;
pub mod sealing;
pub mod sending;
pub mod sessions;
pub mod subscription;
pub mod tide;
pub mod triggering;
pub mod upkeep;

use std::sync::{Arc, Mutex};

use simtide_platform::delivery::Evidence;
use simtide_protocol::ids::Bucket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use self::campaigns::Campaigns;
use self::core::Core;
use self::delivery::Deliveries;
use self::flight::Flight;
use self::keyring::Keyring;
use self::planning::{Planning, Results, Trace, WISHES_MAX};
use self::proofs::{Answers, INCOMING_MAX, Proofs};
use self::sending::{Outbox, Outgoing};
use self::sessions::{Inner, Sessions};
use self::subscription::Changes;
use self::subscription::bulk::Bulks;
use self::tide::Tide;
use crate::card_port::CardPort;
use crate::config::Config;
use crate::registers::{RegisterError, Registers};
use crate::store::{OperatorId, Origin, PAGE_ROWS_MAX, PacketState, Store, StoreError};
use crate::vault::Vault;

/// A running platform.
pub struct Platform {
    /// Shared by all loops.
    pub core: Arc<Core>,
    /// Campaigns.
    pub campaigns: Arc<Campaigns>,
    /// Packets under way.
    pub flight: Arc<Flight>,
    /// Where packets are sent.
    pub outbox: Outbox,
    /// Expected polls.
    pub tide: Arc<Tide>,
    /// Latest answers of cards to commands.
    pub answers: Arc<Answers>,
    /// Where everything ends that cards say outside of sessions.
    pub proofs: Arc<Proofs>,
    /// Changes of operator.
    pub changes: Arc<Changes>,
    /// Campaigns of changes of operator.
    pub bulks: Arc<Bulks>,
    /// Deliveries to single cards.
    pub deliveries: Arc<Deliveries>,
    /// Where cards connect.
    pub port: Arc<CardPort>,
    stop: watch::Sender<bool>,
    planning: Mutex<Option<JoinHandle<()>>>,
}

/// How long links may take to take in the last answers.
const LINKS_LIMIT: std::time::Duration = std::time::Duration::from_secs(3);

/// Why a platform did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The card port.
    #[error(transparent)]
    CardPort(#[from] crate::card_port::StartError),
    /// A link.
    #[error(transparent)]
    Link(#[from] crate::smpp::StartError),
}

impl Platform {
    /// Takes the store over, goes on where the last process ended, then opens the card port.
    pub async fn start(
        config: Config,
        store: Arc<dyn Store>,
        keyring: Box<dyn Keyring>,
        trace: Option<Trace>,
    ) -> Result<Platform, StartError> {
        let owner = format!("process {}", std::process::id());
        let core = Arc::new(Core::open(config, store, keyring, &owner).await?);
        let flight = Arc::new(Flight::default());
        let tide = Arc::new(Tide::open(&*core.store, core.now()).await?);
        let (wish, wishes) = mpsc::channel(WISHES_MAX);
        let campaigns = Arc::new(Campaigns::open(core.clone(), wish).await?);
        let (arrive, incoming) = mpsc::channel(INCOMING_MAX);
        let answers = Arc::new(Answers::default());
        let proofs = Arc::new(Proofs::new(core.clone(), flight.clone(), answers.clone()));
        let outbox = Outbox::start(core.clone(), flight.clone(), proofs.clone(), arrive)?;
        let changes = Changes::new(core.clone(), flight.clone(), outbox.clone(), Registers::default());
        proofs.follow_changes(changes.clone());
        proofs.take_requests(changes.clone());
        recover(&core, &flight, &outbox).await?;
        let results = Arc::new(Results::default());
        let deliveries = Deliveries::open(delivery::Parts {
            core: core.clone(),
            flight: flight.clone(),
            outbox: outbox.clone(),
            campaigns: campaigns.clone(),
            results: results.clone(),
            proofs: proofs.clone(),
            changes: changes.clone(),
        })
        .await?;
        // Everybody who follows what cards say is there now.
        tokio::spawn(proofs::listen(proofs.clone(), incoming));
        let sessions = Sessions::new(Inner {
            core: core.clone(),
            campaigns: campaigns.clone(),
            flight: flight.clone(),
            tide: tide.clone(),
            results: results.clone(),
            deliveries: deliveries.clone(),
            changes: changes.clone(),
            open: Mutex::default(),
        });
        let port = Arc::new(CardPort::start(core.config.card_port.clone(), sessions).await?);
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(upkeep::run(core.clone(), stopped.clone()));
        tokio::spawn(deliveries.clone().run(stopped.clone()));
        changes.start(stopped.clone()).await?;
        let bulks = Bulks::new(core.clone(), campaigns.clone(), changes.clone());
        tokio::spawn(bulks.clone().run(stopped.clone()));
        let planning = Planning {
            core: core.clone(),
            campaigns: campaigns.clone(),
            flight: flight.clone(),
            outbox: outbox.clone(),
            tide: tide.clone(),
            results,
            port: port.clone(),
            trace,
        };
        let planning = Mutex::new(Some(tokio::spawn(planning.run(wishes, stopped))));
        campaigns.restore().await;
        Ok(Platform {
            core,
            campaigns,
            flight,
            outbox,
            tide,
            answers,
            proofs,
            changes,
            bulks,
            deliveries,
            port,
            stop,
            planning,
        })
    }

    /// Gives an operator the register that its settings name, in the place of the one before.
    ///
    /// # Errors
    /// The setting that cannot be used; changes to this operator wait until it can.
    pub fn connect_register(&self, operator: OperatorId, vault: &Vault) -> Result<(), RegisterError> {
        let catalogue = self.core.catalogue();
        let settings = catalogue.operator(operator).and_then(|one| one.settings.clone());
        let Some(settings) = settings else {
            self.changes.registers.remove(operator);
            return Ok(());
        };
        let folder = &self.core.config.data.folder;
        self.changes.registers.connect(operator, &settings, vault, folder)
    }

    /// Connects the registers of all operators; one that cannot be used is logged, and changes wait for it.
    pub fn connect_registers(&self, vault: &Vault) {
        for operator in self.core.catalogue().all_operators().filter(|one| one.settings.is_some()) {
            if let Err(error) = self.connect_register(operator.id, vault) {
                tracing::error!(operator = operator.name, %error, "the register of an operator cannot be used");
            }
        }
    }

    /// Cards or profiles have been added: looks at everything anew.
    pub async fn cards_added(&self) -> Result<(), StoreError> {
        self.core.refresh_catalogue().await?;
        self.tide.refresh(&*self.core.store, self.core.now()).await?;
        self.campaigns.audience_grew().await;
        Ok(())
    }

    /// Stops triggers, lets sessions end within the limit of the configuration, ends the links.
    pub async fn stop(&self) {
        let _ = self.stop.send(true);
        let planning = self.planning.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(planning) = planning {
            let _ = planning.await;
        }
        self.port.stop(self.core.config.shutdown.limit()).await;
        self.outbox.stop(LINKS_LIMIT).await;
    }
}

/// What was under way when the last process ended: Queued packets leave now; commands of which nobody knows whether
/// they left leave again, the same bytes, while they are valid; the rest waits on.
async fn recover(core: &Core, flight: &Flight, outbox: &Outbox) -> Result<(), StoreError> {
    let mut queued = Vec::new();
    for bucket in 0..core.store.buckets() {
        let mut after = None;
        loop {
            let page = core.store.packets(Bucket(bucket), None, after, PAGE_ROWS_MAX).await?;
            after = page.rows.last().map(|packet| packet.key).or(after);
            for mut packet in page.rows {
                if matches!(packet.origin, Origin::Delivery(_)) {
                    // Its delivery decides by which bearer it goes on; a copy may have left by any.
                    packet.state = PacketState::Unknown;
                    flight.takes_off(&packet, u8::try_from(packet.message_ids.len()).unwrap_or(u8::MAX));
                    continue;
                }
                if packet.state == PacketState::Queued {
                    queued.push(packet);
                    continue;
                }
                let parts = u8::try_from(packet.message_ids.len()).unwrap_or(u8::MAX);
                flight.takes_off(&packet, parts);
                if packet.state == PacketState::Submitted {
                    outbox.evidence(packet.key, Evidence::LinkLost).await;
                    packet.state = PacketState::Unknown;
                }
                if sending::may_leave_again(&packet, core.now()) {
                    queued.push(packet);
                }
            }
            if page.end {
                break;
            }
        }
    }
    queued.sort_by_key(|packet| (packet.at, packet.key));
    let outgoing = queued.into_iter().map(|packet| Outgoing { packet, card: None });
    let outgoing: Vec<_> = outgoing.collect();
    if !outgoing.is_empty() {
        tracing::info!(packets = outgoing.len(), "packets that had not left, or perhaps not, are sent now");
        outbox.send(outgoing).await;
    }
    Ok(())
}
