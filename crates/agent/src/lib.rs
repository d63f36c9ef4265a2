//! The shell of device and card.
