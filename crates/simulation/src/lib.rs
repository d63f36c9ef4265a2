//! The world around the platform.
