//! Events and commands of the client module.
