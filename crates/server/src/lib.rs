//! The shell of the platform.
