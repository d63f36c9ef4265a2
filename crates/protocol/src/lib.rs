//! What two parties must agree on.
