//! HTTP between the client module and the entitlement server, as data: whatever carries it.

/// Most bytes of an answer's body: a document with a message of the second layer.
pub const RESPONSE_BODY_BYTES_MAX: usize = 1 << 20;
/// Most cookies that are kept of one session.
pub const COOKIES_MAX: usize = 8;

/// A request. The address of the server belongs to the transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// Comes back with the answer.
    pub id: u32,
    /// GET or POST.
    pub method: Method,
    /// The query of a GET without its question mark; it may hold a token.
    pub query: String,
    /// Accept.
    pub accept: &'static str,
    /// Content-Type of a POST.
    pub content_type: &'static str,
    /// Cookie, where there is one.
    pub cookie: Option<String>,
    /// Body of a POST.
    pub body: Vec<u8>,
}

/// The two methods in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// POST.
    Post,
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpResponse {
    /// Status code.
    pub status: u16,
    /// Content-Type, empty where there is none.
    pub content_type: String,
    /// Each Set-Cookie as it came.
    pub set_cookie: Vec<String>,
    /// Retry-After in seconds.
    pub retry_after_s: Option<u32>,
    /// The body, unpacked.
    pub body: Vec<u8>,
}

/// The cookies of one session: names and values, attributes left out.
#[derive(Debug, Default)]
pub(super) struct Cookies(Vec<(String, String)>);

impl Cookies {
    /// Takes the Set-Cookies of an answer; a name that comes again has its new value.
    pub fn take(&mut self, set_cookie: &[String]) {
        for line in set_cookie {
            let pair = line.split(';').next().unwrap_or_default();
            let Some((name, value)) = pair.split_once('=') else { continue };
            let (name, value) = (name.trim(), value.trim());
            if let Some((_, known)) = self.0.iter_mut().find(|(known, _)| known == name) {
                value.clone_into(known);
            } else if self.0.len() < COOKIES_MAX {
                self.0.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    /// The Cookie header.
    pub fn header(&self) -> Option<String> {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_come_back_without_their_attributes() {
        let mut cookies = Cookies::default();
        assert_eq!(cookies.header(), None);
        cookies.take(&["session=abc; Path=/; HttpOnly".into(), "b = 2".into(), "nonsense".into()]);
        cookies.take(&["session=def; Secure".into()]);
        assert_eq!(cookies.header().as_deref(), Some("session=def; b=2"));
        for number in 0..COOKIES_MAX {
            cookies.take(&[format!("c{number}=1")]);
        }
        assert_eq!(cookies.header().unwrap().matches('=').count(), COOKIES_MAX);
    }
}
