//! `/v1/cards/{card}/commands`: a single command to a single card by SMS, and its proof.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use simtide_platform::content::HexBytes;
use simtide_protocol::ids::{CardId, EpochMs, Tar};

use super::idempotency::once;
use super::problem::Problem;
use super::request::{Body, named};
use super::tokens::{Caller, Role};
use super::{Api, Shared};
use crate::shell::commands::{self, CommandRefused, NotAbandoned, VALIDITY_S, Wanted};
use crate::store::{Origin, Packet, PacketKey, PacketState};

/// A command to be sent.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCommand {
    /// Receiver on the card, 6 hex digits.
    #[schema(value_type = String)]
    tar: Tar,
    /// Plain secured data in hex, or `apdus`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    data: Option<HexBytes>,
    /// C-APDUs in hex, sent one after the other as a compact script; or `data`.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    apdus: Vec<HexBytes>,
    /// Security parameter indicator, 4 hex digits; as the profile says unless given. `1639` asks for a ciphered proof
    /// by SMS.
    #[serde(default)]
    spi: Option<String>,
    /// Key set; the receiver's first unless given.
    #[serde(default)]
    key_set: Option<u8>,
    /// How long the network may try, in seconds; an hour unless given.
    #[serde(default)]
    validity_s: Option<u32>,
}

/// A packet under way, or what became of it.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PacketView {
    /// Key set and counter: the name of the packet on its card.
    pub id: String,
    /// Key set.
    pub key_set: u8,
    /// Counter.
    pub counter: u64,
    /// trigger, command or request.
    pub origin: String,
    /// Campaign that it belongs to.
    pub campaign: Option<u32>,
    /// Receiver.
    pub tar: String,
    /// Security parameter indicator.
    pub spi: String,
    /// queued, submitted, accepted, delivered, unknown, proven, refused, expired or abandoned.
    pub state: String,
    /// Status of the proof or of the refusal.
    pub status: Option<u32>,
    /// When it was reserved.
    #[schema(value_type = String)]
    pub at: EpochMs,
    /// End of its validity.
    #[schema(value_type = String)]
    pub deadline: EpochMs,
    /// What the card answered, while the platform remembers it.
    pub answer: Option<AnswerView>,
}

/// What a card answered.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AnswerView {
    /// Response status code.
    pub status: u8,
    /// In words.
    pub status_text: String,
    /// Answer of the application in hex.
    pub data: String,
    /// Whether its checksum was asked for and is right.
    pub authenticated: bool,
}

/// Sends a command to a card.
#[utoipa::path(post, path = "/v1/cards/{card}/commands", request_body = NewCommand,
    params(("card" = String, Path, description = "ICCID or EID")), security(("token" = [])),
    responses((status = 202, body = PacketView), (status = "4XX", body = Problem)))]
pub async fn send(
    State(api): Shared,
    caller: Caller,
    Path(card): Path<String>,
    headers: HeaderMap,
    Body { value, bytes }: Body<NewCommand>,
) -> Result<Response, Problem> {
    caller.must_be(Role::Operator)?;
    let id: CardId = named("card", &card)?;
    let row = api.platform.core.store.card(id).await?;
    if !row.is_some_and(|row| row.record.tenant == caller.tenant && caller.acts_for(row.hot.operator)) {
        return Err(Problem::not_found("the card"));
    }
    once(&api, &caller, &headers, &[b"command", card.as_bytes(), &bytes], async {
        let wanted = wanted(id, value)?;
        api.audit(&caller, "card.command", id, &format!("TAR {}", wanted.tar)).await?;
        let packet = commands::send(&api.platform, caller.tenant, wanted).await?;
        Ok((StatusCode::ACCEPTED, packet_view(&packet)))
    })
    .await
}

/// Shows what became of a command.
#[utoipa::path(get, path = "/v1/cards/{card}/commands/{command}",
    params(("card" = String, Path, description = "ICCID or EID"),
        ("command" = String, Path, description = "key set and counter: 1-42")),
    security(("token" = [])), responses((status = 200, body = PacketView), (status = "4XX", body = Problem)))]
pub async fn show(
    State(api): Shared,
    caller: Caller,
    Path(path): Path<(String, String)>,
) -> Result<Json<PacketView>, Problem> {
    let packet = packet_of(&api, &caller, &path).await?;
    let mut view = packet_view(&packet);
    view.answer = api.platform.answers.find(packet.key).map(|answer| AnswerView {
        status: answer.status.code(),
        status_text: answer.status.text().to_owned(),
        data: hex::encode_upper(&answer.data),
        authenticated: answer.authenticated,
    });
    Ok(Json(view))
}

/// Gives up a command whose proof does not come: the next one may leave. It may have had its effect.
#[utoipa::path(post, path = "/v1/cards/{card}/commands/{command}/abandon",
    params(("card" = String, Path, description = "ICCID or EID"),
        ("command" = String, Path, description = "key set and counter: 1-42")),
    security(("token" = [])), responses((status = 200, body = PacketView), (status = "4XX", body = Problem)))]
pub async fn abandon(
    State(api): Shared,
    caller: Caller,
    Path(path): Path<(String, String)>,
) -> Result<Json<PacketView>, Problem> {
    caller.must_be(Role::Operator)?;
    let packet = packet_of(&api, &caller, &path).await?;
    api.audit(&caller, "card.abandon", packet.key.card, &path.1).await?;
    Ok(Json(packet_view(&commands::abandon(&api.platform, packet.key).await?)))
}

/// The packet of a path, where the caller may see it.
async fn packet_of(api: &Api, caller: &Caller, path: &(String, String)) -> Result<Packet, Problem> {
    let (card, command) = path;
    let id: CardId = named("card", card)?;
    let store = &api.platform.core.store;
    let row = store.card(id).await?;
    let owned =
        row.is_some_and(|row| row.record.tenant == caller.tenant && caller.acts_for(row.hot.operator));
    let key = command.split_once('-').and_then(|(key_set, counter)| {
        Some(PacketKey { card: id, key_set: key_set.parse().ok()?, counter: counter.parse().ok()? })
    });
    let key = key.ok_or_else(|| Problem::bad_request("a command is named by key set and counter: 1-42"))?;
    let mut packet = if owned { store.packet(key).await? } else { None };
    if caller.operator.is_some() {
        // What was sent before the card came is the other operators'.
        let latest = store.identities(id, 1).await?.first().and_then(|latest| latest.since);
        packet = packet.filter(|packet| latest.is_none_or(|since| packet.at >= since));
    }
    packet.ok_or_else(|| Problem::not_found("the command"))
}

fn wanted(card: CardId, command: NewCommand) -> Result<Wanted, Problem> {
    let data = match (command.data, command.apdus.is_empty()) {
        (Some(data), true) => data.0,
        (None, false) => command.apdus.into_iter().flat_map(|apdu| apdu.0).collect(),
        _ => return Err(Problem::bad_request("give either data or apdus")),
    };
    let spi = command.spi.as_deref().map(|text| {
        let mut spi = [0; 2];
        hex::decode_to_slice(text, &mut spi)
            .map(|()| u16::from_be_bytes(spi))
            .map_err(|_| Problem::bad_request("spi must be 4 hex digits"))
    });
    Ok(Wanted {
        card,
        tar: command.tar,
        data,
        spi: spi.transpose()?,
        key_set: command.key_set,
        validity_s: command.validity_s.unwrap_or(VALIDITY_S),
    })
}

/// A packet as shown.
pub fn packet_view(packet: &Packet) -> PacketView {
    let (origin, campaign) = match packet.origin {
        Origin::Trigger(campaign) => ("trigger", Some(campaign.0)),
        Origin::Command(campaign) => ("command", Some(campaign.0)),
        Origin::Request => ("request", None),
        Origin::Change(_) => ("change", None),
        Origin::Delivery(_) => ("delivery", None),
    };
    let (state, status) = match packet.state {
        PacketState::Queued => ("queued", None),
        PacketState::Submitted => ("submitted", None),
        PacketState::Accepted => ("accepted", None),
        PacketState::Delivered => ("delivered", None),
        PacketState::Unknown => ("unknown", None),
        PacketState::Proven(status) => ("proven", Some(u32::from(status))),
        PacketState::Refused(status) => ("refused", Some(status)),
        PacketState::Expired => ("expired", None),
        PacketState::Abandoned => ("abandoned", None),
    };
    PacketView {
        id: format!("{}-{}", packet.key.key_set, packet.key.counter),
        key_set: packet.key.key_set,
        counter: packet.key.counter,
        origin: origin.to_owned(),
        campaign,
        tar: packet.tar.to_string(),
        spi: format!("{:04X}", packet.spi),
        state: state.to_owned(),
        status,
        at: packet.at,
        deadline: packet.deadline,
        answer: None,
    }
}

impl From<NotAbandoned> for Problem {
    fn from(refused: NotAbandoned) -> Problem {
        match refused {
            NotAbandoned::Unknown => Problem::not_found("the command"),
            NotAbandoned::Followed => Problem::conflict(refused.to_string()),
            NotAbandoned::Store(error) => error.into(),
        }
    }
}

impl From<CommandRefused> for Problem {
    fn from(refused: CommandRefused) -> Problem {
        match refused {
            CommandRefused::Unknown => Problem::not_found("the card"),
            CommandRefused::Store(error) => error.into(),
            CommandRefused::OpenPacket => Problem::conflict(refused.to_string()),
            CommandRefused::NoLink => Problem::unavailable(refused.to_string()),
            _ => Problem::unprocessable(refused.to_string()),
        }
    }
}
