//! The description of the API for programs; a snapshot of it is kept in `docs/openapi.json`.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{
    audit, campaigns, cards, changes, commands, deliveries, entitlement, imports, operators, profiles,
    token_routes,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "Simtide", description = "Keeps SIM cards and other secure elements up to date over the air."),
    modifiers(&Bearer),
    paths(
        cards::list,
        cards::show,
        commands::send,
        commands::show,
        commands::abandon,
        campaigns::create,
        campaigns::list,
        campaigns::show,
        campaigns::turn,
        deliveries::create,
        deliveries::list,
        deliveries::show,
        deliveries::cancel,
        entitlement::subscriber,
        entitlement::waiting,
        entitlement::fetched,
        entitlement::uplink,
        entitlement::push,
        entitlement::authenticated,
        entitlement::vectors,
        imports::create,
        imports::list,
        imports::show,
        profiles::list,
        profiles::create,
        operators::list,
        operators::show,
        operators::put,
        operators::remove,
        operators::agreements,
        operators::agree,
        operators::disagree,
        changes::create,
        changes::list,
        changes::show,
        changes::turn,
        changes::consent,
        changes::attached,
        token_routes::list,
        token_routes::create,
        token_routes::revoke,
        audit::list,
    )
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        openapi
            .components
            .get_or_insert_with(Default::default)
            .add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// OpenAPI as JSON.
pub fn description() -> String {
    // A description that cannot be written as JSON does not exist.
    Description::openapi().to_pretty_json().unwrap_or_default()
}
