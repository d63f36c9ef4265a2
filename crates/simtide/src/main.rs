//! The one binary of Simtide: every role of the platform and of the world around it is a subcommand.
//!
//! A role lives in the module of its name with `Args` and `run(Args) -> Outcome`. Results go to standard output,
//! logs and progress to standard error, so that the output of every role can be piped.

mod agent;
mod audit;
mod campaign;
mod card;
mod cards;
mod client;
mod delivery;
mod demo;
mod entitlement;
mod fleet;
mod import;
mod logging;
mod operators;
mod packet;
mod profiles;
mod register_gateway;
mod serve;
mod simulate;
mod smsc;
mod subscription;
mod tokens;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What every role ends with: an exit status, or an error that is printed as it is.
pub type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

/// Keeps the SIM cards and other secure elements of an operator up to date over the air.
#[derive(Debug, Parser)]
#[command(name = "simtide", version, about, propagate_version = true)]
struct Simtide {
    #[command(flatten)]
    logging: logging::Args,
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Show the whole system on this machine: platform, SMSC and a fleet of cards
    Demo(demo::Args),
    /// Run the platform: card port, SMPP links, campaigns, API
    Serve(serve::Args),
    /// Make, start, follow and end campaigns
    Campaign(campaign::Args),
    /// Deliver content to a single card, by whichever bearer reaches it
    Delivery(delivery::Args),
    /// Run the entitlement server as a process of its own: devices ask it over IP, it asks the platform
    Entitlement(entitlement::Args),
    /// Import cards from a vendor file
    Import(import::Args),
    /// List and show cards, send them single commands
    Cards(cards::Args),
    /// Make, show and connect operators, and what they have agreed on
    Operators(operators::Args),
    /// Ask for, follow, resolve and cancel changes of operator
    Subscription(subscription::Args),
    /// List and add kinds of cards
    Profiles(profiles::Args),
    /// Make, list and end tokens of the API
    Tokens(tokens::Args),
    /// Show who did what, and check that the trail is whole
    Audit(audit::Args),
    /// Seal and open SCP80 packets by hand
    Packet(packet::Args),
    /// Run the gateway to an operator's register: mutual TLS to the platform, the register's own protocol behind it
    RegisterGateway(register_gateway::Args),
    /// Run a short-message service centre for simulations: SMPP to platforms, an air interface to devices
    Smsc(smsc::Args),
    /// Run one card in software at a virtual reader (vpcd)
    Card(card::Args),
    /// Run one device with whatever card is in its port, in a terminal
    Agent(agent::Args),
    /// Run many devices with a card each, on real sockets
    Fleet(fleet::Args),
    /// Run the planner against a model of millions of cards on a virtual clock
    Simulate(simulate::Args),
}

fn main() -> ExitCode {
    let Simtide { logging, role } = Simtide::parse();
    logging::start(
        &logging,
        matches!(role, Role::Serve(_) | Role::Entitlement(_) | Role::RegisterGateway(_)),
    );
    match run(role) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("simtide: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// One line per role.
fn run(role: Role) -> Outcome {
    match role {
        Role::Demo(args) => demo::run(args),
        Role::Serve(args) => serve::run(args),
        Role::Campaign(args) => campaign::run(args),
        Role::Delivery(args) => delivery::run(args),
        Role::Entitlement(args) => entitlement::run(args),
        Role::Import(args) => import::run(args),
        Role::Cards(args) => cards::run(args),
        Role::Operators(args) => operators::run(args),
        Role::Subscription(args) => subscription::run(args),
        Role::Profiles(args) => profiles::run(args),
        Role::Tokens(args) => tokens::run(args),
        Role::Audit(args) => audit::run(args),
        Role::Packet(args) => packet::run(args),
        Role::RegisterGateway(args) => register_gateway::run(args),
        Role::Smsc(args) => smsc::run(args),
        Role::Card(args) => card::run(args),
        Role::Agent(args) => agent::run(args),
        Role::Fleet(args) => fleet::run(args),
        Role::Simulate(args) => simulate::run(args),
    }
}
