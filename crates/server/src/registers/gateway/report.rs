//! Pushed attach reports: from the gateway to the platform, again and again until they are acknowledged.

use std::sync::Arc;
use std::time::Duration;

use simtide_protocol::ids::{CardId, Imsi};
use zeroize::Zeroizing;

use super::super::http;
use super::super::pool::Pool;
use super::super::{AttachReport, Register, RegisterError};

/// Identities looked at in one go.
const ROWS_MAX: u32 = 256;
/// Bytes of an acknowledgement that are read.
const BODY_BYTES_MAX: usize = 16_384;

/// Where the platform is, and who reports.
pub struct Reporter {
    /// `https://platform:port/v1/registers/{operator}/attached`.
    url: String,
    token: Zeroizing<String>,
    http: reqwest::Client,
    pool: Arc<Pool>,
    register: Arc<dyn Register>,
}

impl Reporter {
    /// Reports to `platform` (URL of its API) as `operator`, with a token of that operator.
    ///
    /// # Errors
    /// [`RegisterError::Refused`] for a platform that would be told in clear over a network.
    pub fn new(
        platform: &str,
        operator: &str,
        token: Zeroizing<String>,
        http: reqwest::Client,
        pool: Arc<Pool>,
        register: Arc<dyn Register>,
    ) -> Result<Reporter, RegisterError> {
        let url: reqwest::Url = platform
            .parse()
            .map_err(|_| RegisterError::Refused(format!("{platform:?} is no URL of a platform")))?;
        let is_loopback = url.host_str().is_some_and(|host| {
            let host = host.trim_matches(['[', ']']);
            host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        });
        if url.scheme() != "https" && !is_loopback {
            return Err(RegisterError::Refused(format!(
                "{platform} is not protected: give an https address"
            )));
        }
        let base = platform.trim_end_matches('/');
        let url = format!("{base}/v1/registers/{operator}/attached");
        Ok(Reporter { url, token, http, pool, register })
    }

    /// Looks at all identities with access that nobody has acknowledged, for ever, with a pause between; an attach that
    /// the pool itself hears of is reported at once.
    pub async fn run(&self, pause: Duration) {
        loop {
            if let Err(error) = self.once().await {
                tracing::warn!(%error, "an attach could not be reported; it is tried again");
            }
            tokio::select! {
                () = self.pool.attach_noted() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One look. Answers how many reports were acknowledged.
    ///
    /// # Errors
    /// The first error. One identity's error does not keep the others back.
    pub async fn once(&self) -> Result<u64, RegisterError> {
        let (mut after, mut acknowledged, mut error) = (None, 0, None);
        loop {
            let rows = self.pool.unreported(after, ROWS_MAX)?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(*last);
            for (imsi, card) in rows {
                match self.look(imsi, card).await {
                    Ok(true) => acknowledged += 1,
                    Ok(false) => {}
                    // Nobody is there: the rest would wait as long, one by one.
                    Err(gone @ RegisterError::Unreachable(_)) => return Err(gone),
                    Err(other) => error = error.or(Some(other)),
                }
            }
        }
        error.map_or(Ok(acknowledged), Err)
    }

    /// Answers whether the identity has attached and the platform knows it now.
    async fn look(&self, imsi: Imsi, card: Option<CardId>) -> Result<bool, RegisterError> {
        if !self.register.watch(imsi).await?.attached {
            return Ok(false);
        }
        self.report(imsi, card).await?;
        self.pool.reported(imsi).await?;
        Ok(true)
    }

    async fn report(&self, imsi: Imsi, card: Option<CardId>) -> Result<(), RegisterError> {
        let request = self.http.post(&self.url).bearer_auth(&*self.token).json(&AttachReport { imsi, card });
        let (status, _) = http::exchange(request, BODY_BYTES_MAX).await?;
        if status.is_success() {
            return Ok(());
        }
        Err(RegisterError::Refused(format!("the platform answers {status} to an attach report")))
    }
}
