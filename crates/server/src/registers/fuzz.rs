//! Fuzz targets of the border to registers: any bytes, no panic, and what must always hold (fuzz/README.md).

use simtide_protocol::ids::ChangeId;

use super::checked::check_keys;
use super::gateway::message::{Reply, Request, Told, read_reply};
use super::gateway::transport::{Direction, Purpose, TransportKey};
use super::osmo_hlr::ctrl::{CtrlAnswer, line, read_answer};
use super::pool::Stock;
use super::pyhss::answers::{AucRow, SubscriberRow, read_row, read_vectors};

/// Bodies of the register gateway, both ways: what is read is written and read again the same; an answer to another
/// request is never taken; a record that nobody sealed opens nowhere.
pub fn register_gateway(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let text = serde_json::to_vec(&request).unwrap_or_default();
        assert_eq!(serde_json::from_slice::<Request>(&text).ok(), Some(request));
    }
    let Ok(reply) = serde_json::from_slice::<Reply>(data) else {
        assert!(read_reply(ChangeId(1), data).is_err());
        return;
    };
    assert!(read_reply(ChangeId(!reply.request.0), data).is_err());
    if let Told::Identity { change, imsi, keys, .. } = &reply.answer {
        let key = change.to_bytes();
        let purpose = Purpose { direction: Direction::ToPlatform, key: &key, imsi: *imsi };
        assert!(TransportKey::new(&[0x5A; 32]).open(purpose, keys).is_err());
    }
    let text = serde_json::to_vec(&reply).unwrap_or_default();
    assert_eq!(serde_json::from_slice::<Reply>(&text).ok(), Some(reply));
}

/// Answers of OsmoHLR's CTRL: what they name is a part of what came.
pub fn register_ctrl(data: &[u8]) {
    match read_answer(data) {
        Some(CtrlAnswer::Reply { variable, value, .. }) => {
            assert!(variable.len() + value.len() < data.len());
            for name in ["imsi", "vlr_number", "sgsn_number"] {
                assert!(line(value, name).is_none_or(|found| value.contains(found)));
            }
        }
        Some(CtrlAnswer::Error { text, .. }) => assert!(text.len() < data.len()),
        Some(CtrlAnswer::Trap) | None => {}
    }
}

/// Answers of PyHSS: rows, vectors.
pub fn register_rest(data: &[u8]) {
    let auc = read_row::<AucRow>(data);
    let subscriber = read_row::<SubscriberRow>(data);
    if let Ok(Some(row)) = subscriber {
        let _ = row.is_attached();
    }
    if let Ok(vectors) = read_vectors(data) {
        assert!(!vectors.is_empty() && auc.is_err(), "a list is no row");
    }
}

/// Files with identities for a pool: what is taken has keys that can be keys, and no error shows one.
pub fn register_pool_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for one in Stock::read(text).unwrap_or_default() {
        if let Some((k, opc)) = &one.keys {
            assert!(check_keys(one.algorithm, k, opc).is_ok());
        }
    }
}
