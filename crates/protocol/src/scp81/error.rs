//! Why a peer's HTTP is refused.

/// Why a message is refused. After it nothing more can be read from that connection.
///
/// Each is the peer's fault; [`HttpError::status`] is what a server answers before it closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The bytes are no HTTP/1.1 head.
    #[error("the message head is not HTTP/1.1: send a request line or status line and header lines")]
    Syntax,
    /// Request line and headers do not end within the limit.
    #[error("the message head is longer than {bytes_max} bytes: send fewer or shorter headers")]
    HeadTooLarge {
        /// The limit that was passed.
        bytes_max: usize,
    },
    /// More header lines than [`super::HEADERS_MAX`].
    #[error("the message has more than {} headers: send fewer", super::HEADERS_MAX)]
    TooManyHeaders,
    /// The body is, or says that it will be, longer than the limit.
    #[error("the body is longer than {bytes_max} bytes: split the script")]
    BodyTooLarge {
        /// The limit that was passed.
        bytes_max: usize,
    },
    /// A method other than POST.
    #[error("only POST is served here: send the administration request as POST")]
    Method,
    /// An HTTP version other than 1.1.
    #[error("only HTTP/1.1 is spoken here: send HTTP/1.1")]
    Version,
    /// A header that may stand once stands twice.
    #[error("header {0} stands more than once: send it once")]
    Repeated(&'static str),
    /// A header has a value that it cannot have.
    #[error("header {0} has a value that the standard does not know: correct it")]
    Value(&'static str),
    /// A header that has to be there is not.
    #[error("header {0} is missing: add it")]
    Missing(&'static str),
    /// Content-Length and Transfer-Encoding in one message.
    #[error("the body is framed twice: send Content-Length or chunks, never both")]
    BothFramings,
    /// A chunk that is no chunk, or a line of it that is too long.
    #[error(
        "the body's chunks are malformed: send the size in hexadecimal, the data and an empty last chunk"
    )]
    Chunk,
    /// A response with a body whose end nothing tells.
    #[error("the response does not say where its body ends: send Content-Length or chunks")]
    Unframed,
}

impl HttpError {
    /// The status code that answers it.
    pub fn status(&self) -> u16 {
        match self {
            Self::HeadTooLarge { .. } | Self::TooManyHeaders => 431,
            Self::BodyTooLarge { .. } => 413,
            Self::Method => 405,
            Self::Version => 505,
            Self::Syntax
            | Self::Repeated(_)
            | Self::Value(_)
            | Self::Missing(_)
            | Self::BothFramings
            | Self::Chunk
            | Self::Unframed => 400,
        }
    }
}
