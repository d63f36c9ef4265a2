//! `/v1/operators` and `/v1/agreements`: who takes part in changes of operator, and on which terms. What is secret is
//! sealed when it comes and never shown again.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use simtide_platform::content::HexBytes;
use simtide_platform::subscription::{
    AgreementTerms, Bearer, Callback, ConsentRule, ImsiRange, OperatorSettings, RegisterSettings,
};
use simtide_protocol::ids::{IdMno, Msisdn};

use super::problem::Problem;
use super::request::Body;
use super::tokens::{Caller, Role};
use super::{Api, Shared};
use crate::registers::PoolState;
use crate::registers::gateway::transport::seal_at_rest;
use crate::shell::core::{Catalogue, Operator};
use crate::shell::keyring::OperatorSecret;
use crate::shell::subscription::personalization::check_files;
use crate::store::{DirectoryRow, Group, Op, OperatorId, TenantId};

/// Operators of a platform at most.
const OPERATORS_MAX: usize = 1_000;
/// Longest name in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Bytes of the key that signs callbacks.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// An operator as it is to be.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOperator {
    /// IdMNO: the code of the operator's leaflet. Letters and digits, at most 16.
    id_mno: String,
    /// As users see it, at most 32 characters.
    display_name: String,
    /// Mobile country code.
    mcc: String,
    /// Mobile network code, two or three digits.
    mnc: String,
    /// Identities that are this operator's: `{first, last}`; empty: all that begin with MCC and MNC.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    imsi_ranges: Vec<ImsiRange>,
    /// Where its subscribers are: `{kind: osmo-hlr | pyhss | own | gateway, addresses: {..}, ca, certificate, key, database}`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    register: Option<RegisterSettings>,
    /// Names of the SMPP links that reach its subscribers; empty: all links.
    #[serde(default)]
    smpp_links: Vec<String>,
    /// ask, inform-before or inform-after: what it wants to hear before one of its cards leaves.
    #[serde(default)]
    #[schema(value_type = String)]
    consent: ConsentRule,
    /// Where it is told.
    #[serde(default)]
    callback: Option<NewCallback>,
    /// The user is asked on the device before the card takes this operator's identity.
    #[serde(default)]
    confirm_by_user: bool,
    /// The card keeps its old identity until this operator's identity has authenticated.
    #[serde(default)]
    guarded_swap: bool,
    /// A successful EAP-AKA against this operator's register counts as its attach.
    #[serde(default)]
    eap_aka_counts_as_seen: bool,
    /// sms (at once) or poll (with the card's next poll): by which bearer its new subscribers get their identity.
    #[serde(default)]
    #[schema(value_type = String)]
    bearer: Bearer,
    /// International number under which the platform is reached in this operator's network, digits: where its cards
    /// send; left out: as the vendor set it.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    service_number: Option<Msisdn>,
    /// Key under which identities from its register travel, 64 hex digits; left out: as before; empty: none. Never shown.
    #[serde(default)]
    transport_key: Option<Hidden>,
    /// New content of files that change with the operator, in hex, by name.
    #[serde(default)]
    #[schema(value_type = Object)]
    files: BTreeMap<String, HexBytes>,
}

/// Where an operator is told.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCallback {
    /// `https://...`, or `http://` to loopback.
    url: String,
    /// Key of the signature, 16 to 64 bytes in hex; left out: as before. Never shown.
    #[serde(default)]
    secret: Option<Hidden>,
}

/// A secret in a request: wiped when dropped, never shown.
#[derive(Clone, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct Hidden(String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden(..)")
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// An operator as shown. To other operators: its name and codes, and nothing said of the rest.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OperatorView {
    /// By which it is addressed.
    pub name: String,
    /// Row number.
    pub number: u32,
    /// Whether it takes part in changes of operator.
    pub takes_part: bool,
    /// IdMNO.
    pub id_mno: String,
    /// As users see it.
    pub display_name: String,
    /// Mobile country code.
    pub mcc: String,
    /// Mobile network code.
    pub mnc: String,
    /// Its identities; empty: all that begin with MCC and MNC.
    #[schema(value_type = Vec<Object>)]
    pub imsi_ranges: Vec<ImsiRange>,
    /// Its register.
    #[schema(value_type = Option<Object>)]
    pub register: Option<RegisterSettings>,
    /// State of the register's pool, where it answers.
    pub pool: Option<PoolState>,
    /// Links that reach its subscribers; empty: all.
    pub smpp_links: Vec<String>,
    /// ask, inform-before or inform-after.
    #[schema(value_type = String)]
    pub consent: ConsentRule,
    /// Where it is told.
    pub callback_url: Option<String>,
    /// Whether the callback's secret is set.
    pub callback_secret_set: bool,
    /// The user is asked on the device.
    pub confirm_by_user: bool,
    /// Guarded swaps.
    pub guarded_swap: bool,
    /// EAP-AKA counts as the attach.
    pub eap_aka_counts_as_seen: bool,
    /// sms or poll.
    #[schema(value_type = String)]
    pub bearer: Bearer,
    /// Where its cards send.
    #[schema(value_type = Option<String>)]
    pub service_number: Option<Msisdn>,
    /// Whether a transport key is set.
    pub transport_key_set: bool,
    /// Files that change with the operator.
    #[schema(value_type = Object)]
    pub files: BTreeMap<String, HexBytes>,
}

/// Operators.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct OperatorList {
    /// In the order of their numbers.
    pub operators: Vec<OperatorView>,
}

/// What two operators have agreed on.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AgreementView {
    /// Where cards leave.
    pub from: String,
    /// Where they go.
    pub to: String,
    /// What holds instead of the operators' own settings.
    #[schema(value_type = Object)]
    pub terms: AgreementTerms,
}

/// Agreements.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AgreementList {
    /// All that the caller may see.
    pub agreements: Vec<AgreementView>,
}

/// Lists operators. A token of one operator sees itself in full, and name and code of the others.
#[utoipa::path(get, path = "/v1/operators", security(("token" = [])),
    responses((status = 200, body = OperatorList), (status = "4XX", body = Problem)))]
pub async fn list(State(api): Shared, caller: Caller) -> Result<Json<OperatorList>, Problem> {
    let catalogue = api.platform.core.catalogue();
    let of_tenant = catalogue.all_operators().filter(|one| one.tenant == caller.tenant);
    let operators = of_tenant.map(|one| view(one, caller.acts_for(one.id))).collect();
    Ok(Json(OperatorList { operators }))
}

/// Shows an operator, with the state of its register's pool.
#[utoipa::path(get, path = "/v1/operators/{name}", security(("token" = [])),
    params(("name" = String, Path, description = "name of the operator")),
    responses((status = 200, body = OperatorView), (status = "4XX", body = Problem)))]
pub async fn show(
    State(api): Shared,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<OperatorView>, Problem> {
    let catalogue = api.platform.core.catalogue();
    let operator = named(&catalogue, caller.tenant, &name)?;
    let own = caller.acts_for(operator.id);
    let mut shown = view(operator, own);
    if let Some(register) = api.platform.changes.registers.of(operator.id).filter(|_| own) {
        shown.pool = register.pool().await.ok();
    }
    Ok(Json(shown))
}

/// Makes an operator, or replaces its settings. Secrets that are left out stay as they are.
#[utoipa::path(put, path = "/v1/operators/{name}", request_body = NewOperator, security(("token" = [])),
    params(("name" = String, Path, description = "name of the operator")),
    responses((status = 200, body = OperatorView), (status = 201, body = OperatorView), (status = "4XX", body = Problem)))]
pub async fn put(
    State(api): Shared,
    caller: Caller,
    Path(name): Path<String>,
    Body { value, .. }: Body<NewOperator>,
) -> Result<(StatusCode, Json<OperatorView>), Problem> {
    caller.must_be(Role::Admin)?;
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(Problem::unprocessable(format!("the name must have 1 to {NAME_BYTES_MAX} bytes")));
    }
    let catalogue = api.platform.core.catalogue();
    let known = catalogue.operator_named(caller.tenant, &name);
    let id = match known {
        Some(known) => known.id,
        None => {
            caller.must_act_for_all()?;
            let numbers = catalogue.all_operators().map(|one| one.id.0);
            OperatorId(numbers.max().unwrap_or(0) + 1)
        }
    };
    caller.must_act_for(id)?;
    if known.is_none() && catalogue.all_operators().count() >= OPERATORS_MAX {
        return Err(Problem::conflict(format!("there are {OPERATORS_MAX} operators already")));
    }
    let before = known.and_then(|known| known.settings.as_deref());
    let settings = settings(&api, id, value, before)?;
    if caller.operator.is_some() {
        must_be_its_own(&settings, &before.cloned().unwrap_or_default())?;
    }
    let same_code = catalogue.operator_by_code(caller.tenant, &settings.id_mno);
    if let Some(other) = same_code.filter(|other| other.id != id) {
        let detail = format!("operator {} has the code {} already", other.name, settings.id_mno);
        return Err(Problem::conflict(detail));
    }
    api.audit(&caller, "operator.put", &name, &settings.id_mno).await?;
    keep(&api, caller.tenant, id, &name, Some(&settings)).await?;
    api.platform.connect_register(id, &api.vault).map_err(|error| {
        Problem::unprocessable(format!("the settings are kept, but the register cannot be used: {error}"))
    })?;
    let status = if known.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    let catalogue = api.platform.core.catalogue();
    Ok((status, Json(view(named(&catalogue, caller.tenant, &name)?, true))))
}

/// Ends an operator's part in changes of operator: its settings and secrets are gone, its cards stay.
#[utoipa::path(delete, path = "/v1/operators/{name}", security(("token" = [])),
    params(("name" = String, Path, description = "name of the operator")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub async fn remove(
    State(api): Shared,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    caller.must_be(Role::Admin)?;
    caller.must_act_for_all()?;
    let catalogue = api.platform.core.catalogue();
    let operator = named(&catalogue, caller.tenant, &name)?;
    if let Some(open) = api.platform.changes.open_with(operator.id).await? {
        return Err(Problem::conflict(format!("change {open} with this operator is open: wait for its end")));
    }
    api.audit(&caller, "operator.remove", &name, "").await?;
    keep(&api, caller.tenant, operator.id, &name, None).await?;
    api.platform.changes.registers.remove(operator.id);
    Ok(StatusCode::NO_CONTENT)
}

/// Lists agreements.
#[utoipa::path(get, path = "/v1/agreements", security(("token" = [])),
    responses((status = 200, body = AgreementList), (status = "4XX", body = Problem)))]
pub async fn agreements(State(api): Shared, caller: Caller) -> Result<Json<AgreementList>, Problem> {
    let catalogue = api.platform.core.catalogue();
    let of_tenant = |id| catalogue.operator(id).is_some_and(|one| one.tenant == caller.tenant);
    let mut agreements: Vec<_> = catalogue
        .agreements()
        .filter(|(from, to, _)| of_tenant(*from) && of_tenant(*to))
        .filter(|(from, to, _)| caller.acts_for(*from) || caller.acts_for(*to))
        .map(|(from, to, terms)| AgreementView {
            from: catalogue.operator_name(from).to_owned(),
            to: catalogue.operator_name(to).to_owned(),
            terms: terms.clone(),
        })
        .collect();
    agreements.sort_by(|one, other| (&one.from, &one.to).cmp(&(&other.from, &other.to)));
    Ok(Json(AgreementList { agreements }))
}

/// Makes or replaces an agreement for cards that go from one operator to the other.
#[utoipa::path(put, path = "/v1/agreements/{from}/{to}", security(("token" = [])),
    request_body(content = Object, description = "consent, confirm_by_user, guarded_swap, suspended, consent_within_s"),
    params(("from" = String, Path, description = "where cards leave"), ("to" = String, Path, description = "where they go")),
    responses((status = 200, body = AgreementView), (status = "4XX", body = Problem)))]
pub async fn agree(
    State(api): Shared,
    caller: Caller,
    Path((from, to)): Path<(String, String)>,
    Body { value, .. }: Body<AgreementTerms>,
) -> Result<Json<AgreementView>, Problem> {
    caller.must_be(Role::Admin)?;
    caller.must_act_for_all()?;
    let catalogue = api.platform.core.catalogue();
    let (first, second) = (named(&catalogue, caller.tenant, &from)?, named(&catalogue, caller.tenant, &to)?);
    if first.id == second.id {
        return Err(Problem::unprocessable("an agreement is between two operators"));
    }
    if let Some(missing) = [first, second].into_iter().find(|one| one.settings.is_none()) {
        let detail = format!("operator {} has no settings yet: put them first", missing.name);
        return Err(Problem::unprocessable(detail));
    }
    let terms = serde_json::to_string(&value).unwrap_or_default();
    let row = DirectoryRow::Agreement { from: first.id, to: second.id, terms };
    api.audit(&caller, "agreement.put", format!("{from} {to}"), "").await?;
    put_row(&api, row).await?;
    Ok(Json(AgreementView { from, to, terms: value }))
}

/// Ends an agreement: no new changes; those that are open go on.
#[utoipa::path(delete, path = "/v1/agreements/{from}/{to}", security(("token" = [])),
    params(("from" = String, Path, description = "where cards leave"), ("to" = String, Path, description = "where they go")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub async fn disagree(
    State(api): Shared,
    caller: Caller,
    Path((from, to)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    caller.must_be(Role::Admin)?;
    caller.must_act_for_all()?;
    let catalogue = api.platform.core.catalogue();
    let (first, second) =
        (named(&catalogue, caller.tenant, &from)?.id, named(&catalogue, caller.tenant, &to)?.id);
    if catalogue.agreement(first, second).is_none() {
        return Err(Problem::not_found("the agreement"));
    }
    api.audit(&caller, "agreement.remove", format!("{from} {to}"), "").await?;
    put_row(&api, DirectoryRow::Agreement { from: first, to: second, terms: String::new() }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An operator of the caller's tenant.
pub(super) fn named<'c>(
    catalogue: &'c Catalogue,
    tenant: TenantId,
    name: &str,
) -> Result<&'c Operator, Problem> {
    catalogue.operator_named(tenant, name).ok_or_else(|| Problem::not_found(&format!("the operator {name}")))
}

/// Refuses what only the service may change: an operator could take another one's identities for its own, or use what
/// the platform holds for another one: files, databases, links.
fn must_be_its_own(new: &OperatorSettings, before: &OperatorSettings) -> Result<(), Problem> {
    let fields = [
        ("id_mno", new.id_mno == before.id_mno),
        ("mcc and mnc", new.plmn() == before.plmn()),
        ("imsi_ranges", new.imsi_ranges == before.imsi_ranges),
        ("register", new.register == before.register),
        ("smpp_links", new.smpp_links == before.smpp_links),
    ];
    let Some((field, _)) = fields.into_iter().find(|(_, is_same)| !is_same) else { return Ok(()) };
    let detail = format!("{field}: only the service changes it; send what it is now");
    Err(Problem::new(StatusCode::FORBIDDEN, "not-allowed", detail))
}

/// Settings as kept, with the secrets sealed.
fn settings(
    api: &Api,
    id: OperatorId,
    new: NewOperator,
    before: Option<&OperatorSettings>,
) -> Result<OperatorSettings, Problem> {
    let code: IdMno =
        new.id_mno.parse().map_err(|error| Problem::unprocessable(format!("id_mno: {error}")))?;
    check_files(&new.files).map_err(|error| Problem::unprocessable(error.to_string()))?;
    let links = &api.platform.core.config.smpp.links;
    let missing = new.smpp_links.iter().find(|name| !links.iter().any(|link| link.name == **name));
    if let Some(name) = missing {
        return Err(Problem::unprocessable(format!("smpp_links: no link is named {name} in [[smpp.links]]")));
    }
    let sealed_transport_key = match &new.transport_key {
        None => before.map(|before| before.sealed_transport_key.clone()).unwrap_or_default(),
        Some(Hidden(none)) if none.is_empty() => String::new(),
        Some(Hidden(key)) => {
            seal_at_rest(&api.vault, id, key).map_err(|error| Problem::unprocessable(error.to_string()))?
        }
    };
    let callback = match &new.callback {
        Some(callback) => Some(sealed_callback(api, id, callback, before)?),
        None => None,
    };
    let settings = OperatorSettings {
        id_mno: code.to_string(),
        display_name: new.display_name.clone(),
        mcc: new.mcc.clone(),
        mnc: new.mnc.clone(),
        imsi_ranges: new.imsi_ranges.clone(),
        register: new.register.clone(),
        smpp_links: new.smpp_links.clone(),
        consent: new.consent,
        callback,
        confirm_by_user: new.confirm_by_user,
        guarded_swap: new.guarded_swap,
        eap_aka_counts_as_seen: new.eap_aka_counts_as_seen,
        bearer: new.bearer,
        service_number: new.service_number,
        sealed_transport_key,
        files: new.files.clone(),
    };
    settings.check().map_err(|error| Problem::unprocessable(error.to_string()))?;
    Ok(settings)
}

fn sealed_callback(
    api: &Api,
    id: OperatorId,
    new: &NewCallback,
    before: Option<&OperatorSettings>,
) -> Result<Callback, Problem> {
    let sealed_secret = match &new.secret {
        None => {
            let known = before.and_then(|before| before.callback.as_ref());
            let known = known.map(|known| known.sealed_secret.clone());
            known.ok_or_else(|| Problem::unprocessable("callback.secret: give 16 to 64 bytes in hex"))?
        }
        Some(Hidden(text)) => {
            let secret = hex::decode(text).map(zeroize::Zeroizing::new).ok();
            let secret = secret.filter(|secret| SECRET_BYTES.contains(&secret.len()));
            let secret = secret
                .ok_or_else(|| Problem::unprocessable("callback.secret: give 16 to 64 bytes in hex"))?;
            let keyring = &api.platform.core.keyring;
            let sealed = keyring.seal_operator(OperatorSecret::Callback(id), &secret);
            hex::encode(sealed.map_err(|error| Problem::unavailable(error.to_string()))?)
        }
    };
    Ok(Callback { url: new.url.clone(), sealed_secret })
}

async fn keep(
    api: &Api,
    tenant: TenantId,
    id: OperatorId,
    name: &str,
    settings: Option<&OperatorSettings>,
) -> Result<(), Problem> {
    let settings = settings.and_then(|settings| serde_json::to_string(settings).ok()).unwrap_or_default();
    put_row(api, DirectoryRow::Operator { id, tenant, name: name.to_owned(), settings }).await
}

async fn put_row(api: &Api, row: DirectoryRow) -> Result<(), Problem> {
    api.platform.core.commit(Group::Platform, vec![Op::PutDirectory(row)]).await?;
    // Campaigns look at the cards of an operator that has joined.
    api.platform.cards_added().await?;
    Ok(())
}

fn view(operator: &Operator, own: bool) -> OperatorView {
    let mut settings = operator.settings.as_deref().cloned().unwrap_or_default();
    if !own {
        let OperatorSettings { id_mno, display_name, mcc, mnc, .. } = settings;
        settings = OperatorSettings { id_mno, display_name, mcc, mnc, ..OperatorSettings::default() };
    }
    let callback = settings.callback;
    OperatorView {
        name: operator.name.clone(),
        number: operator.id.0,
        takes_part: operator.settings.is_some(),
        id_mno: settings.id_mno,
        display_name: settings.display_name,
        mcc: settings.mcc,
        mnc: settings.mnc,
        imsi_ranges: settings.imsi_ranges,
        register: settings.register,
        pool: None,
        smpp_links: settings.smpp_links,
        consent: settings.consent,
        callback_secret_set: callback.as_ref().is_some_and(|callback| !callback.sealed_secret.is_empty()),
        callback_url: callback.map(|callback| callback.url),
        confirm_by_user: settings.confirm_by_user,
        guarded_swap: settings.guarded_swap,
        eap_aka_counts_as_seen: settings.eap_aka_counts_as_seen,
        bearer: settings.bearer,
        service_number: settings.service_number,
        transport_key_set: !settings.sealed_transport_key.is_empty(),
        files: settings.files,
    }
}
