//! Milenage, the algorithm set of most USIMs (3GPP TS 35.206), on AES-128.

use crate::aka::{AkaFunctions, Answer, Sqn};
use aes::Aes128Enc;
use cipher::{Array, BlockCipherEncrypt, KeyInit};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// One subscriber's algorithm: key schedule of K, and OPc. Holds secrets: no `Debug`, wiped when dropped.
pub struct Milenage {
    cipher: Aes128Enc,
    opc: [u8; 16],
}

/// TS 35.206, 4.1: constants c1 to c5, of which only the last byte is not zero.
const C: [u8; 5] = [0x00, 0x01, 0x02, 0x04, 0x08];
/// TS 35.206, 4.1: rotations r1 to r5, in bytes.
const R: [usize; 5] = [8, 0, 4, 8, 12];

impl Milenage {
    /// From K and OPc.
    pub fn new(k: &[u8; 16], opc: &[u8; 16]) -> Self {
        Self { cipher: Aes128Enc::new(&Array::from(*k)), opc: *opc }
    }

    /// OPc = E_K(OP) xor OP (TS 35.206, 4.1): what a card holds instead of the operator's OP.
    pub fn opc(k: &[u8; 16], op: &[u8; 16]) -> [u8; 16] {
        let mut block = Array::from(*op);
        Aes128Enc::new(&Array::from(*k)).encrypt_block(&mut block);
        xor(&block.into(), op)
    }

    fn encrypt(&self, block: [u8; 16]) -> [u8; 16] {
        let mut block = Array::from(block);
        self.cipher.encrypt_block(&mut block);
        block.into()
    }

    fn temp(&self, rand: &[u8; 16]) -> [u8; 16] {
        self.encrypt(xor(rand, &self.opc))
    }

    /// OUT2 to OUT5: `n` from 2.
    fn out(&self, temp: &[u8; 16], n: usize) -> [u8; 16] {
        let mut block = rotate(&xor(temp, &self.opc), R[n - 1]);
        block[15] ^= C[n - 1];
        xor(&self.encrypt(block), &self.opc)
    }

    /// OUT1: f1 in the first half, f1* in the second.
    fn out1(&self, rand: &[u8; 16], sqn: Sqn, amf: [u8; 2]) -> [u8; 16] {
        let mut in1 = [0; 16];
        for half in in1.chunks_exact_mut(8) {
            half[..6].copy_from_slice(&sqn.to_bytes());
            half[6..].copy_from_slice(&amf);
        }
        let mut block = rotate(&xor(&in1, &self.opc), R[0]);
        block[15] ^= C[0];
        let block = xor(&block, &self.temp(rand));
        xor(&self.encrypt(block), &self.opc)
    }
}

impl AkaFunctions for Milenage {
    fn f1(&self, rand: &[u8; 16], sqn: Sqn, amf: [u8; 2]) -> [u8; 8] {
        first_half(&self.out1(rand, sqn, amf))
    }

    fn f1_star(&self, rand: &[u8; 16], sqn: Sqn, amf: [u8; 2]) -> [u8; 8] {
        second_half(&self.out1(rand, sqn, amf))
    }

    fn f2345(&self, rand: &[u8; 16]) -> Answer {
        let temp = self.temp(rand);
        let out2 = self.out(&temp, 2);
        let mut ak = [0; 6];
        ak.copy_from_slice(&out2[..6]);
        Answer { res: second_half(&out2), ck: self.out(&temp, 3), ik: self.out(&temp, 4), ak }
    }

    fn f5_star(&self, rand: &[u8; 16]) -> [u8; 6] {
        let out5 = self.out(&self.temp(rand), 5);
        let mut ak = [0; 6];
        ak.copy_from_slice(&out5[..6]);
        ak
    }
}

impl Drop for Milenage {
    fn drop(&mut self) {
        self.opc.zeroize();
    }
}

impl ZeroizeOnDrop for Milenage {}

fn xor(left: &[u8; 16], right: &[u8; 16]) -> [u8; 16] {
    std::array::from_fn(|place| left[place] ^ right[place])
}

/// Rotates towards the most significant bit, by whole bytes.
fn rotate(block: &[u8; 16], bytes: usize) -> [u8; 16] {
    std::array::from_fn(|place| block[(place + bytes) % 16])
}

fn first_half(block: &[u8; 16]) -> [u8; 8] {
    std::array::from_fn(|place| block[place])
}

fn second_half(block: &[u8; 16]) -> [u8; 8] {
    std::array::from_fn(|place| block[place + 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        hex::decode(hex).unwrap().try_into().unwrap()
    }

    /// 3GPP TS 35.208, test sets 1 to 3: K, OPc, RAND, SQN, AMF, f1, f1*, f2, f3, f4, f5, f5*.
    const SETS: [[&str; 12]; 3] = [
        [
            "465b5ce8b199b49faa5f0a2ee238a6bc",
            "cd63cb71954a9f4e48a5994e37a02baf",
            "23553cbe9637a89d218ae64dae47bf35",
            "ff9bb4d0b607",
            "b9b9",
            "4a9ffac354dfafb3",
            "01cfaf9ec4e871e9",
            "a54211d5e3ba50bf",
            "b40ba9a3c58b2a05bbf0d987b21bf8cb",
            "f769bcd751044604127672711c6d3441",
            "aa689c648370",
            "451e8beca43b",
        ],
        [
            "0396eb317b6d1c36f19c1c84cd6ffd16",
            "53c15671c60a4b731c55b4a441c0bde2",
            "c00d603103dcee52c4478119494202e8",
            "fd8eef40df7d",
            "af17",
            "5df5b31807e258b0",
            "a8c016e51ef4a343",
            "d3a628ed988620f0",
            "58c433ff7a7082acd424220f2b67c556",
            "21a8c1f929702adb3e738488b9f5c5da",
            "c47783995f72",
            "30f1197061c1",
        ],
        [
            "fec86ba6eb707ed08905757b1bb44b8f",
            "1006020f0a478bf6b699f15c062e42b3",
            "9f7c8d021accf4db213ccff0c7f71a6a",
            "9d0277595ffc",
            "725c",
            "9cabc3e99baf7281",
            "95814ba2b3044324",
            "8011c48c0c214ed2",
            "5dbdbb2954e8f3cde665b046179a5098",
            "59a92d3b476a0443487055cf88b2307b",
            "33484dc2136b",
            "deacdd848cc6",
        ],
    ];

    #[test]
    fn the_sets_of_ts_35_208() {
        for [k, opc, rand, sqn, amf, f1, f1_star, f2, f3, f4, f5, f5_star] in SETS {
            let milenage = Milenage::new(&bytes(k), &bytes(opc));
            let (rand, sqn, amf) = (bytes(rand), Sqn::from_bytes(bytes(sqn)), bytes(amf));
            assert_eq!(milenage.f1(&rand, sqn, amf), bytes(f1));
            assert_eq!(milenage.f1_star(&rand, sqn, amf), bytes(f1_star));
            let answer = milenage.f2345(&rand);
            assert_eq!((answer.res, answer.ak), (bytes(f2), bytes(f5)));
            assert_eq!((answer.ck, answer.ik), (bytes(f3), bytes(f4)));
            assert_eq!(milenage.f5_star(&rand), bytes(f5_star));
        }
    }

    #[test]
    fn opc_of_set_1() {
        let op = bytes("cdc202d5123e20f62b6d676ac72cb318");
        assert_eq!(Milenage::opc(&bytes(SETS[0][0]), &op), bytes(SETS[0][1]));
    }

    /// RFC 9048, appendix D: the vector behind its AKA' cases.
    #[test]
    fn autn_of_rfc_9048() {
        let milenage = Milenage::new(
            &bytes("5122250214c33e723a5dd523fc145fc0"),
            &bytes("981d464c7c52eb6e5036234984ad0bcf"),
        );
        let rand = bytes("81e92b6c0ee0e12ebceba8d92a99dfa5");
        let vector =
            crate::aka::Vector::new(&milenage, rand, Sqn::from_bytes(bytes("16f3b3f70fc2")), bytes("c3ab"));
        assert_eq!(vector.autn, bytes("bb52e91c747ac3ab2a5c23d15ee351d5"));
        assert_eq!(vector.ik, bytes("9744871ad32bf9bbd1dd5ce54e3e2e5a"));
        assert_eq!(vector.ck, bytes("5349fbe098649f948f5d2e973a81c00f"));
        assert_eq!(vector.xres, bytes("28d7b0f2a2ec3de5"));
    }
}
