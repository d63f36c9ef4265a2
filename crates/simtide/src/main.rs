//! The one binary of Simtide.
fn main() {}
