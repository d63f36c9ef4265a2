//! The host of a secure element.
