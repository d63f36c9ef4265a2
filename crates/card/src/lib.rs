//! The secure element.
