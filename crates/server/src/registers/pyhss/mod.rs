//! PyHSS: subscribers and vectors by REST.
//!
//! | verb | what PyHSS is told |
//! |---|---|
//! | write | `PUT /auc/`: keys without a subscriber; what is there is ours where its mark says so |
//! | grant | `PUT /subscriber/` enabled; `PATCH /subscriber/{id}` where it is there |
//! | withdraw | `PATCH /subscriber/{id}` not enabled, which tells the MME; `DELETE /subscriber/{id}` |
//! | delete | the same, `DELETE /auc/{id}` |
//! | seen | `GET /subscriber/imsi/X`: a serving MSC, VLR, SGSN or MME |
//! | vectors | `GET /auc/aka/vector_count/1/imsi/X`, after an AUTS `PATCH /auc/{id}` with the number that follows |
//!
//! Its manners: what is not there is `null` with status 200; network elements that ask by GSUP are not refused because a
//! subscriber is not enabled, so access is the subscriber's row itself; its own resynchronisation does not look at
//! MAC-S, and fails in release 2.0; several vectors at once are the same one several times; vectors are made without a
//! subscriber all the same. So every answer is read for what it must say, MAC-S and access are checked before it is
//! asked, and vectors are asked for one by one.

pub mod answers;

use reqwest::{Method, StatusCode, Url};
use serde_json::json;
use simtide_protocol::aka::{Sqn, Vector};
use simtide_protocol::card_file::AuthenticationAlgorithm;
use simtide_protocol::ids::Imsi;
use zeroize::Zeroizing;

use self::answers::{AucRow, SubscriberRow, read_row, read_vectors};
use super::front::Backend;
use super::http;
use super::loopback::loopback;
use super::pool::Entry;
use super::{Answer, RegisterError, Seen, VectorsWanted};

/// Largest answer, in bytes.
const BODY_BYTES_MAX: usize = 262_144;
/// AMF of new subscribers: the separation bit, which AKA' wants and AKA does not mind.
const AMF: &str = "8000";
/// How far PyHSS itself goes on with every vector.
const SQN_STEP: u64 = 100;
/// The APN of new subscribers unless told otherwise.
const APN: u32 = 1;

/// The connector.
pub struct PyHss {
    base: Url,
    provisioning_key: Option<Zeroizing<String>>,
    apn: u32,
    http: reqwest::Client,
}

impl PyHss {
    /// A PyHSS at `base`: `http://` and a loopback address, or `https://`. The provisioning key is that of its
    /// configuration, where `lock_provisioning` is on; `apn` is the id of the APN that new subscribers get.
    ///
    /// # Errors
    /// [`RegisterError::Refused`] with what to do instead.
    pub fn new(
        base: &str,
        provisioning_key: Option<Zeroizing<String>>,
        apn: Option<u32>,
    ) -> Result<PyHss, RegisterError> {
        let wrong =
            || RegisterError::Refused(format!("rest: {base:?} is no URL: write http://127.0.0.1:8080"));
        let url: Url = format!("{}/", base.trim_end_matches('/')).parse().map_err(|_| wrong())?;
        match url.scheme() {
            "https" => {}
            "http" => {
                let host = url.host_str().ok_or_else(wrong)?;
                loopback("rest", &format!("{host}:{}", url.port_or_known_default().unwrap_or(80)))?;
            }
            _ => return Err(wrong()),
        }
        let client = http::plain().build();
        let client = client.map_err(|error| RegisterError::Refused(format!("HTTP: {error}")))?;
        Ok(PyHss { base: url, provisioning_key, apn: apn.unwrap_or(APN), http: client })
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Zeroizing<Vec<u8>>, RegisterError> {
        let url = self.base.join(path).map_err(|_| RegisterError::Refused(format!("{path} is no path")))?;
        let mut request = self.http.request(method, url);
        if let Some(key) = &self.provisioning_key {
            request = request.header("Provisioning-Key", key.as_str());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let (status, body) = http::exchange(request, BODY_BYTES_MAX).await?;
        match status {
            StatusCode::OK => Ok(body),
            StatusCode::UNAUTHORIZED => Err(RegisterError::Refused(
                "PyHSS wants its provisioning key: give it as key file".to_owned(),
            )),
            status if status.is_server_error() => {
                Err(RegisterError::Unknown(format!("PyHSS answers {status}")))
            }
            // Its reasons repeat what was sent, keys too.
            status => Err(RegisterError::Refused(format!("PyHSS answers {status}"))),
        }
    }

    async fn auc(&self, imsi: Imsi) -> Result<Option<AucRow>, RegisterError> {
        let body = self.ask(Method::GET, &format!("auc/imsi/{imsi}"), None).await?;
        must_be(imsi, read_row::<AucRow>(&body)?, |row| &row.imsi)
    }

    async fn subscriber(&self, imsi: Imsi) -> Result<Option<SubscriberRow>, RegisterError> {
        let body = self.ask(Method::GET, &format!("subscriber/imsi/{imsi}"), None).await?;
        must_be(imsi, read_row::<SubscriberRow>(&body)?, |row| &row.imsi)
    }

    async fn write_all(&self, entry: &Entry) -> Result<(), RegisterError> {
        if entry.algorithm != AuthenticationAlgorithm::Milenage {
            return Err(RegisterError::Refused(
                "PyHSS speaks Milenage only: fill the pool for it".to_owned(),
            ));
        }
        let auc = self.write_auc(entry).await?;
        match self.subscriber(entry.imsi).await? {
            Some(row) if row.auc_id != auc => Err(foreign()),
            _ => Ok(()),
        }
    }

    async fn let_in(&self, entry: &Entry) -> Result<(), RegisterError> {
        let imsi = entry.imsi;
        let auc = self.auc(imsi).await?.ok_or(RegisterError::NotFound)?;
        let msisdn = entry.msisdn.map(|number| number.to_string()).unwrap_or_default();
        let body = match self.subscriber(imsi).await? {
            Some(row) if row.auc_id != auc.auc_id => return Err(foreign()),
            Some(row) => {
                let path = format!("subscriber/{}", row.subscriber_id);
                self.ask(Method::PATCH, &path, Some(&json!({ "enabled": true, "msisdn": msisdn }))).await?
            }
            None => {
                let row = json!({
                    "imsi": imsi.to_string(), "enabled": true, "auc_id": auc.auc_id, "msisdn": msisdn,
                    "default_apn": self.apn, "apn_list": self.apn.to_string(),
                });
                self.ask(Method::PUT, "subscriber/", Some(&row)).await?
            }
        };
        let row = self.same::<SubscriberRow>(imsi, &body, |row| &row.imsi)?;
        if row.enabled == Some(true) {
            return Ok(());
        }
        Err(RegisterError::Unknown("PyHSS answers with the access as it was".to_owned()))
    }

    /// Disabled first: a bare deletion tells no MME.
    async fn shut_out(&self, imsi: Imsi) -> Result<(), RegisterError> {
        let Some(row) = self.subscriber(imsi).await? else { return Ok(()) };
        let path = format!("subscriber/{}", row.subscriber_id);
        self.ask(Method::PATCH, &path, Some(&json!({ "enabled": false }))).await?;
        self.ask(Method::DELETE, &path, None).await?;
        // Its "OK" is believed when it is gone.
        match self.subscriber(imsi).await? {
            Some(_) => Err(RegisterError::Unknown("PyHSS still has the subscriber".to_owned())),
            None => Ok(()),
        }
    }

    /// Answers the id of the row of the authentication centre.
    async fn write_auc(&self, entry: &Entry) -> Result<u64, RegisterError> {
        let (k, opc) = entry
            .keys
            .as_ref()
            .ok_or_else(|| RegisterError::Invalid("the pool has no keys for the identity".to_owned()))?;
        let mark = mark(entry);
        match self.auc(entry.imsi).await? {
            Some(row) if row.misc1.as_deref() == Some(&mark) => Ok(row.auc_id),
            Some(_) => Err(foreign()),
            None => {
                let row = json!({
                    "imsi": entry.imsi.to_string(), "ki": hex::encode(k.as_bytes()),
                    "opc": hex::encode(opc.as_bytes()), "amf": AMF, "sqn": 0, "misc1": mark,
                });
                let body = self.ask(Method::PUT, "auc/", Some(&row)).await?;
                Ok(self.same::<AucRow>(entry.imsi, &body, |row| &row.imsi)?.auc_id)
            }
        }
    }

    fn same<T: serde::de::DeserializeOwned>(
        &self,
        imsi: Imsi,
        body: &[u8],
        of: impl Fn(&T) -> &String,
    ) -> Result<T, RegisterError> {
        must_be(imsi, read_row::<T>(body)?, of)?
            .ok_or_else(|| RegisterError::Unknown("PyHSS says nothing of what it has written".to_owned()))
    }

    async fn delete_all(&self, imsi: Imsi) -> Result<(), RegisterError> {
        self.shut_out(imsi).await?;
        let Some(row) = self.auc(imsi).await? else { return Ok(()) };
        self.ask(Method::DELETE, &format!("auc/{}", row.auc_id), None).await?;
        match self.auc(imsi).await? {
            Some(_) => Err(RegisterError::Unknown("PyHSS still has the keys".to_owned())),
            None => Ok(()),
        }
    }

    async fn vectors_of(
        &self,
        imsi: Imsi,
        wanted: VectorsWanted,
        highest: Option<Sqn>,
    ) -> Result<Vec<Vector>, RegisterError> {
        let row = self.auc(imsi).await?.ok_or(RegisterError::NotFound)?;
        let separated = row.amf.as_deref().and_then(|amf| u16::from_str_radix(amf, 16).ok());
        if wanted.aka_prime && separated.is_none_or(|amf| amf & 0x8000 == 0) {
            let why = "the subscriber's AMF has no separation bit: set it to 8000 in PyHSS, or use AKA";
            return Err(RegisterError::Refused(why.to_owned()));
        }
        if let Some(highest) = highest {
            let next = Sqn::new(highest.value() + SQN_STEP).value();
            let path = format!("auc/{}", row.auc_id);
            let body = self.ask(Method::PATCH, &path, Some(&json!({ "sqn": next }))).await?;
            self.same::<AucRow>(imsi, &body, |row| &row.imsi)?;
        }
        let mut vectors = Vec::with_capacity(usize::from(wanted.count));
        for _ in 0..wanted.count {
            let body = self.ask(Method::GET, &format!("auc/aka/vector_count/1/imsi/{imsi}"), None).await?;
            vectors.extend(read_vectors(&body)?.into_iter().take(1));
        }
        Ok(vectors)
    }
}

/// What is told apart from a foreign subscriber under the same IMSI, because keys do not come back.
fn mark(entry: &Entry) -> String {
    match (entry.change, entry.card) {
        (Some(change), _) => format!("simtide change {change}"),
        (None, Some(card)) => format!("simtide card {card}"),
        (None, None) => "simtide".to_owned(),
    }
}

fn foreign() -> RegisterError {
    let other =
        "the register has the identity from somebody else: take it out of the pool, or out of the register";
    RegisterError::Conflict(other.to_owned())
}

fn must_be<T>(imsi: Imsi, row: Option<T>, of: impl Fn(&T) -> &String) -> Result<Option<T>, RegisterError> {
    match row {
        Some(row) if *of(&row) != imsi.to_string() => {
            Err(RegisterError::Invalid("PyHSS tells of another subscriber".to_owned()))
        }
        row => Ok(row),
    }
}

impl Backend for PyHss {
    fn name(&self) -> String {
        format!("PyHSS at {}", self.base)
    }

    fn write<'a>(&'a self, entry: &'a Entry) -> Answer<'a, ()> {
        Box::pin(self.write_all(entry))
    }

    fn grant<'a>(&'a self, entry: &'a Entry) -> Answer<'a, ()> {
        Box::pin(self.let_in(entry))
    }

    fn vectors(&self, imsi: Imsi, wanted: VectorsWanted, highest: Option<Sqn>) -> Answer<'_, Vec<Vector>> {
        Box::pin(self.vectors_of(imsi, wanted, highest))
    }

    fn checks_auts(&self) -> bool {
        false
    }

    fn seen(&self, imsi: Imsi) -> Answer<'_, Seen> {
        Box::pin(async move {
            Ok(match self.subscriber(imsi).await? {
                Some(row) => Seen { known: true, attached: row.is_attached() },
                None => Seen { known: self.auc(imsi).await?.is_some(), attached: false },
            })
        })
    }

    fn withdraw(&self, imsi: Imsi) -> Answer<'_, ()> {
        Box::pin(self.shut_out(imsi))
    }

    fn delete(&self, imsi: Imsi) -> Answer<'_, ()> {
        Box::pin(self.delete_all(imsi))
    }
}
