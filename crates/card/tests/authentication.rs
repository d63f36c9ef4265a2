//! AUTHENTICATE against vectors and against the network's side of the same algorithm.

#![allow(clippy::unwrap_used)]

mod bench;

use bench::{Bench, K, OPC, bytes};
use simtide_protocol::aka::{AkaFunctions, Sqn, Vector, gsm_key, gsm_response, open_auts};
use simtide_protocol::milenage::Milenage;

fn network() -> Milenage {
    Milenage::new(&bytes(K), &bytes(OPC))
}

fn challenge(bench: &mut Bench, vector: &Vector) -> Vec<u8> {
    let rand = hex::encode(vector.rand);
    bench.transmit(&format!("008800812210{rand}10{}00", hex::encode(vector.autn)))
}

fn select_usim(bench: &mut Bench) {
    assert!(bench.transmit("00A4040C07A0000000871002").ends_with(&[0x90, 0x00]));
}

#[test]
fn a_challenge_is_answered_once() {
    let mut bench = Bench::new();
    let network = network();
    let vector = Vector::new(&network, [0x23; 16], Sqn::from_parts(1, 0), [0x80, 0]);
    // No USIM is selected.
    assert_eq!(challenge(&mut bench, &vector), [0x69, 0x85]);
    select_usim(&mut bench);
    let mut expected = vec![0xDB, 8];
    expected.extend(vector.xres);
    expected.push(16);
    expected.extend(vector.ck);
    expected.push(16);
    expected.extend(vector.ik);
    expected.push(8);
    expected.extend(gsm_key(&vector.ck, &vector.ik));
    expected.extend([0x90, 0x00]);
    assert_eq!(challenge(&mut bench, &vector), expected);

    // The same again is out of step; the card says where it stands, also after power loss.
    bench.restore();
    select_usim(&mut bench);
    let answer = challenge(&mut bench, &vector);
    assert_eq!((answer[0], answer[1], answer.len()), (0xDC, 14, 18));
    assert_eq!(
        open_auts(&network, &vector.rand, &answer[2..16].try_into().unwrap()),
        Some(Sqn::from_parts(1, 0))
    );
}

#[test]
fn a_wrong_network_is_told_so() {
    let mut bench = Bench::new();
    select_usim(&mut bench);
    let mut vector = Vector::new(&network(), [0x23; 16], Sqn::from_parts(1, 0), [0x80, 0]);
    vector.autn[15] ^= 1;
    assert_eq!(challenge(&mut bench, &vector), [0x98, 0x62]);
    assert_eq!(bench.transmit("0088008110232323232323232323232323232323"), [0x67, 0x00]);
    assert_eq!(bench.transmit("0088008211102323232323232323232323232323232300"), [0x6A, 0x86]);
}

#[test]
fn the_gsm_context_and_the_isim() {
    let mut bench = Bench::new();
    select_usim(&mut bench);
    let answer = bench.transmit(&format!("008800801110{}00", "23".repeat(16)));
    let expected = network().f2345(&[0x23; 16]);
    assert_eq!(answer[..5], [&[4][..], &gsm_response(&expected.res)].concat());
    assert_eq!(answer[5..14], [&[8][..], &gsm_key(&expected.ck, &expected.ik)].concat());

    assert!(bench.transmit("00A4040C07A0000000871004").ends_with(&[0x90, 0x00]));
    let vector = Vector::new(&network(), [0x24; 16], Sqn::from_parts(2, 1), [0x80, 0]);
    // Without Kc: 1 + 9 + 17 + 17 + 2 bytes.
    assert_eq!(challenge(&mut bench, &vector).len(), 46);
    assert_eq!(bench.transmit(&format!("008800801110{}00", "23".repeat(16))), [0x98, 0x64]);
}

#[test]
fn with_pin_1_enabled_it_has_to_be_presented() {
    let mut bench = Bench::new();
    bench.transmit("002800010831323334FFFFFFFF");
    bench.reset();
    select_usim(&mut bench);
    let vector = Vector::new(&network(), [0x23; 16], Sqn::from_parts(1, 0), [0x80, 0]);
    assert_eq!(challenge(&mut bench, &vector), [0x69, 0x82]);
    bench.transmit("002000010831323334FFFFFFFF");
    assert_eq!(challenge(&mut bench, &vector)[0], 0xDB);
}
