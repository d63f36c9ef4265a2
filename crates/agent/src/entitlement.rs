//! Around the client module: what carries its requests, where its queues lie, the card's own way to it.
//!
//! | module | holds |
//! |---|---|
//! | [`transport`] | HTTPS, and HTTP on loopback |
//! | [`line`](mod@line) | the same over a local line, to the machine that has a network |
//! | [`queue_file`] | the journal of both queues on disk |
//! | [`notified`] | where a cloud push wakes it |
//! | [`bearer`] | the client module with all of it, in its device's host |

pub mod bearer;
pub mod line;
pub mod notified;
pub mod queue_file;
pub mod transport;

pub use bearer::IpBearer;
pub use queue_file::{QueueFile, QueueFileError};
pub use transport::{Transport, TransportError};
