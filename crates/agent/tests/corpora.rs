//! The fuzz targets of this crate on their corpora, on damaged seeds, and on random bytes.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../../../fuzz/replay.rs"]
mod replay;

use proptest::prelude::*;
use simtide_agent::fuzz;

const TARGETS: replay::Targets = &[
    ("agent_smpp", fuzz::agent_smpp),
    ("agent_lines", fuzz::agent_lines),
    ("agent_vpcd", fuzz::agent_vpcd),
    ("agent_line", fuzz::agent_line),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_deliver_sm(
        body in prop::collection::vec(any::<u8>(), 0..200),
        address in "[0-9+a-zA-Z ]{0,20}",
        ton in 0_u8..8,
        user_data in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut fields = vec![0, ton, 1];
        fields.extend(address.as_bytes());
        fields.extend([0, 1, 1, b'4', b'3', 0, 0x40, 0x7F, 0, 0, 0, 0, 0, 0xF6, 0, user_data.len() as u8]);
        fields.extend(user_data);
        for body in [fields, body] {
            let mut pdu = (16 + body.len() as u32).to_be_bytes().to_vec();
            pdu.extend([0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1]);
            pdu.extend(body);
            fuzz::agent_smpp(&pdu);
        }
    }
}
