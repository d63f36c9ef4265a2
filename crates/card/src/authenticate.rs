//! AUTHENTICATE with Milenage or TUAK (3GPP TS 31.102, 7.1.2; ETSI TS 102 221, 11.1.16).

use crate::card::Card;
use crate::channel::Selection;
use crate::storage::Kind;
use simtide_protocol::aka::{
    AkaFunctions, Functions, Outcome, SqnArray, authenticate, gsm_key, gsm_response,
};
use simtide_protocol::apdu::{Command, StatusWord};
use simtide_protocol::card_file::AuthenticationAlgorithm;
use simtide_protocol::ids::Imsi;
use simtide_protocol::personalization::{DIGEST_BYTES, Identity, identity_digest};
use simtide_protocol::profile::Authority;

/// Algorithm byte of the stored subscriber: K (16), OPc (16).
const MILENAGE: u8 = 0x01;
/// Algorithm byte of the stored subscriber: iterations (1), TOPc (32), K (16 or 32).
const TUAK: u8 = 0x02;

/// The first bytes of an ADF USIM's AID (ETSI TS 101 220, annex E).
const USIM: [u8; 7] = [0xA0, 0x00, 0x00, 0x00, 0x87, 0x10, 0x02];
/// The first bytes of an ADF ISIM's AID.
const ISIM: [u8; 7] = [0xA0, 0x00, 0x00, 0x00, 0x87, 0x10, 0x04];

/// Clause 7.1.2.1: tags of the answer.
const SUCCESS: u8 = 0xDB;
const SYNCHRONISATION_FAILURE: u8 = 0xDC;

impl Card {
    pub(crate) fn authenticate(
        &mut self,
        selection: &Selection,
        authority: Authority,
        command: &Command<'_>,
    ) -> Result<Vec<u8>, StatusWord> {
        let aid = selection.adf.and_then(|adf| self.adf_aid(adf)).ok_or(StatusWord::CONDITIONS)?;
        let is_usim = aid.starts_with(&USIM);
        if !is_usim && !aid.starts_with(&ISIM) {
            return Err(StatusWord::CONDITIONS);
        }
        if !authority.includes(Authority::PIN1) {
            return Err(StatusWord::SECURITY_STATUS);
        }
        if command.p1 != 0 {
            return Err(StatusWord::WRONG_P1_P2);
        }
        match command.p2 {
            0x81 => self.authenticate_3g(command.data, is_usim),
            0x80 if is_usim => self.authenticate_gsm(command.data),
            0x80 => Err(StatusWord::SECURITY_CONTEXT),
            _ => Err(StatusWord::WRONG_P1_P2),
        }
    }

    /// 3G security context: RAND and AUTN in, RES, CK, IK (and Kc of a USIM) or AUTS out.
    fn authenticate_3g(&mut self, data: &[u8], with_kc: bool) -> Result<Vec<u8>, StatusWord> {
        let (rand, rest) = field(data)?;
        let (autn, rest) = field(rest)?;
        if !rest.is_empty() {
            return Err(StatusWord::WRONG_LENGTH);
        }
        let functions = self.subscriber_functions()?;
        let mut array = SqnArray::decode(self.storage.get(Kind::SequenceNumbers, 0).unwrap_or_default());
        match authenticate(&functions, &mut array, &rand, &autn) {
            Outcome::Success(answer) => {
                self.storage.put(Kind::SequenceNumbers, 0, &array.encode());
                self.authenticated();
                let mut out = vec![SUCCESS];
                for part in [&answer.res[..], &answer.ck, &answer.ik] {
                    push_field(&mut out, part);
                }
                if with_kc {
                    push_field(&mut out, &gsm_key(&answer.ck, &answer.ik));
                }
                Ok(out)
            }
            Outcome::SynchronisationFailure { auts } => {
                let mut out = vec![SYNCHRONISATION_FAILURE];
                push_field(&mut out, &auts);
                Ok(out)
            }
            Outcome::MacFailure => Err(StatusWord::AUTHENTICATION_FAILED),
        }
    }

    /// GSM security context: RAND in, SRES and Kc out.
    fn authenticate_gsm(&mut self, data: &[u8]) -> Result<Vec<u8>, StatusWord> {
        let (rand, rest) = field(data)?;
        if !rest.is_empty() {
            return Err(StatusWord::WRONG_LENGTH);
        }
        let mut out = Vec::with_capacity(14);
        let (sres, kc) = self.gsm_algorithm(&rand)?;
        push_field(&mut out, &sres);
        push_field(&mut out, &kc);
        Ok(out)
    }

    /// SRES and Kc of a challenge (3GPP TS 33.102, 6.8.1.2).
    pub(crate) fn gsm_algorithm(&self, rand: &[u8; 16]) -> Result<([u8; 4], [u8; 8]), StatusWord> {
        let answer = self.subscriber_functions()?.f2345(rand);
        Ok((gsm_response(&answer.res), gsm_key(&answer.ck, &answer.ik)))
    }

    pub(crate) fn set_subscriber(&mut self, identity: &Identity) {
        let (k, opc) = (identity.k.as_bytes(), identity.opc.as_bytes());
        let mut entry = zeroize::Zeroizing::new(Vec::with_capacity(2 + 64));
        match identity.algorithm {
            AuthenticationAlgorithm::Milenage => {
                entry.push(MILENAGE);
                entry.extend_from_slice(k);
                entry.extend_from_slice(opc);
            }
            AuthenticationAlgorithm::Tuak => {
                entry.extend_from_slice(&[TUAK, identity.iterations]);
                entry.extend_from_slice(opc);
                entry.extend_from_slice(k);
            }
        }
        self.storage.put(Kind::Subscriber, 0, &entry);
    }

    /// Algorithm, K, OPc or TOPc, iterations.
    fn subscriber(&self) -> Option<(AuthenticationAlgorithm, &[u8], &[u8], u8)> {
        match self.storage.get(Kind::Subscriber, 0)? {
            [MILENAGE, keys @ ..] => {
                let (k, opc) = keys.split_at_checked(16)?;
                Some((AuthenticationAlgorithm::Milenage, k, opc, 1))
            }
            [TUAK, iterations, keys @ ..] => {
                let (opc, k) = keys.split_at_checked(32)?;
                Some((AuthenticationAlgorithm::Tuak, k, opc, *iterations))
            }
            _ => None,
        }
    }

    fn subscriber_functions(&self) -> Result<Functions, StatusWord> {
        let (algorithm, k, opc, iterations) = self.subscriber().ok_or(StatusWord::REFERENCE_NOT_FOUND)?;
        Functions::new(algorithm, k, opc, iterations).map_err(|_| StatusWord::TECHNICAL)
    }

    /// The digest of the identity with this IMSI and the card's own keys.
    pub(crate) fn subscriber_digest(&self, imsi: &Imsi) -> Option<[u8; DIGEST_BYTES]> {
        let (_, k, opc, _) = self.subscriber()?;
        Some(identity_digest(imsi, k, opc))
    }
}

/// A length byte of 16 and its bytes.
fn field(data: &[u8]) -> Result<([u8; 16], &[u8]), StatusWord> {
    match data.split_first() {
        Some((16, rest)) => {
            rest.split_first_chunk().map(|(value, rest)| (*value, rest)).ok_or(StatusWord::WRONG_LENGTH)
        }
        _ => Err(StatusWord::WRONG_LENGTH),
    }
}

fn push_field(out: &mut Vec<u8>, value: &[u8]) {
    out.push(value.len() as u8);
    out.extend_from_slice(value);
}
