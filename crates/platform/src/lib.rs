//! The operator's decisions.
