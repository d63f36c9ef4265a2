//! `/v1/profiles`: what kinds of cards there are.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use simtide_protocol::profile::Profile;

use super::Shared;
use super::problem::Problem;
use super::tokens::{Caller, Role};
use crate::store::{DirectoryRow, Group, Op, ProfileId};

/// Most profiles of a platform.
pub const PROFILES_MAX: u16 = 1_000;

/// A card profile.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProfileView {
    /// The name by which files and campaigns refer to it.
    pub name: String,
    /// One line for people.
    pub description: String,
}

/// All profiles.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProfileList {
    /// The profiles.
    pub profiles: Vec<ProfileView>,
}

/// Lists card profiles.
#[utoipa::path(get, path = "/v1/profiles", security(("token" = [])),
    responses((status = 200, body = ProfileList), (status = "4XX", body = Problem)))]
pub async fn list(State(api): Shared, _caller: Caller) -> Json<ProfileList> {
    let catalogue = api.platform.core.catalogue();
    let mut profiles: Vec<_> = catalogue.profiles().map(|(_, profile)| view(profile)).collect();
    profiles.sort_by(|one, other| one.name.cmp(&other.name));
    Json(ProfileList { profiles })
}

/// Adds a card profile, or replaces the one of the same name. The body is TOML, see docs/card-profile.md.
#[utoipa::path(post, path = "/v1/profiles", security(("token" = [])),
    request_body(content = String, content_type = "application/toml"),
    responses((status = 201, body = ProfileView), (status = "4XX", body = Problem)))]
pub async fn create(
    State(api): Shared,
    caller: Caller,
    body: Bytes,
) -> Result<(StatusCode, Json<ProfileView>), Problem> {
    caller.must_be(Role::Admin)?;
    let text =
        String::from_utf8(body.into()).map_err(|_| Problem::bad_request("the profile must be UTF-8 text"))?;
    let profile = Profile::parse(&text).map_err(|error| Problem::unprocessable(error.to_string()))?;
    let core = &api.platform.core;
    let catalogue = core.catalogue();
    let same = catalogue.profiles().find(|(_, known)| known.name == profile.name).map(|(id, _)| id);
    let next = catalogue.profiles().map(|(id, _)| id.0).max().unwrap_or(0) + 1;
    if same.is_none() && next > PROFILES_MAX {
        return Err(Problem::conflict(format!("{PROFILES_MAX} profiles are kept: that is the limit")));
    }
    let name = profile.name.as_str().to_owned();
    let row = DirectoryRow::Profile { id: same.unwrap_or(ProfileId(next)), name: name.clone(), text };
    api.audit(&caller, "profile.put", &name, "").await?;
    core.commit(Group::Platform, vec![Op::PutDirectory(row)]).await?;
    api.platform.cards_added().await?;
    Ok((StatusCode::CREATED, Json(view(&profile))))
}

fn view(profile: &Profile) -> ProfileView {
    ProfileView { name: profile.name.as_str().to_owned(), description: profile.description.clone() }
}
