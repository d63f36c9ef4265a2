//! TUAK, the algorithm set on Keccak (3GPP TS 35.231), for operators that want a second one beside Milenage.
//!
//! [`AkaFunctions`] takes it with the lengths that a USIM uses: MAC 64, RES 64, CK and IK 128 bits. The other lengths of
//! the specification are there for its test vectors ([`Lengths`]).

use crate::aka::{AkaFunctions, Answer, Sqn};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// TS 35.231, 6.1: "TUAK1.0", the same in every call.
const ALGORITHM_NAME: [u8; 7] = *b"TUAK1.0";
/// TS 35.231, 6.1: the state of Keccak in 64-bit lanes.
const LANES: usize = 25;
/// Most rounds of the permutation that anybody may ask a card for.
pub const ITERATIONS_MAX: u8 = 16;

/// What a key, a TOPc or a number of iterations should have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TuakError {
    /// K has neither of its two sizes.
    #[error("a TUAK key has {0} bytes: give 16 or 32")]
    Key(usize),
    /// TOPc has one size only.
    #[error("a TOPc has {0} bytes: give 32")]
    Topc(usize),
    /// The permutation has to run at least once.
    #[error("{0} iterations of Keccak are asked for: give 1 to {ITERATIONS_MAX}")]
    Iterations(u8),
}

/// Lengths in bits (TS 35.231, 6.2 to 6.4); whoever has the key decides on them once for all subscribers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// MAC-A and MAC-S: 64, 128 or 256.
    pub mac: u16,
    /// RES: 32, 64, 128 or 256.
    pub res: u16,
    /// CK: 128 or 256.
    pub ck: u16,
    /// IK: 128 or 256.
    pub ik: u16,
}

impl Lengths {
    /// What AUTN and a USIM's AUTHENTICATE carry.
    pub const USIM: Self = Self { mac: 64, res: 64, ck: 128, ik: 128 };
}

/// One subscriber's algorithm: K and TOPc. Holds secrets: no `Debug`, wiped when dropped.
#[derive(ZeroizeOnDrop)]
pub struct Tuak {
    k: [u8; 32],
    k_bytes: u8,
    topc: [u8; 32],
    iterations: u8,
}

/// The permuted state; what a function gives stands at fixed places in it, reversed (TS 35.231, 6).
#[derive(ZeroizeOnDrop)]
struct State([u64; LANES]);

impl State {
    fn part<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|place| {
            let place = at + N - 1 - place;
            self.0[place / 8].to_le_bytes()[place % 8]
        })
    }

    fn long(&self, at: usize, bytes: usize) -> Vec<u8> {
        (0..bytes).rev().map(|place| self.0[(at + place) / 8].to_le_bytes()[(at + place) % 8]).collect()
    }
}

impl Tuak {
    /// From K (16 or 32 bytes) and TOPc (32 bytes), with one iteration of Keccak.
    ///
    /// # Errors
    /// Keys of another size.
    pub fn new(k: &[u8], topc: &[u8]) -> Result<Self, TuakError> {
        Self::with_iterations(k, topc, 1)
    }

    /// The same for an operator that lets Keccak run more than once (TS 35.231, 5: an operator's option).
    ///
    /// # Errors
    /// Keys of another size, no iteration or more than [`ITERATIONS_MAX`].
    pub fn with_iterations(k: &[u8], topc: &[u8], iterations: u8) -> Result<Self, TuakError> {
        if !matches!(k.len(), 16 | 32) {
            return Err(TuakError::Key(k.len()));
        }
        if !(1..=ITERATIONS_MAX).contains(&iterations) {
            return Err(TuakError::Iterations(iterations));
        }
        let topc = topc.try_into().map_err(|_| TuakError::Topc(topc.len()))?;
        let mut tuak = Self { k: [0; 32], k_bytes: k.len() as u8, topc, iterations };
        tuak.k[..k.len()].copy_from_slice(k);
        Ok(tuak)
    }

    /// TOPc from the operator's TOP (TS 35.231, 6.1): what a card holds.
    ///
    /// # Errors
    /// As in [`Tuak::with_iterations`].
    pub fn topc(k: &[u8], top: &[u8; 32], iterations: u8) -> Result<[u8; 32], TuakError> {
        let tuak = Self::with_iterations(k, top, iterations)?;
        Ok(tuak.run(0, &[0; 16], Sqn::default(), [0; 2]).part(0))
    }

    /// f1: MAC-A of 64, 128 or 256 bits.
    pub fn mac_a(&self, lengths: Lengths, rand: &[u8; 16], sqn: Sqn, amf: [u8; 2]) -> Vec<u8> {
        self.run(mac_bits(lengths.mac), rand, sqn, amf).long(0, usize::from(lengths.mac / 8))
    }

    /// f1*: MAC-S of 64, 128 or 256 bits.
    pub fn mac_s(&self, lengths: Lengths, rand: &[u8; 16], sqn: Sqn, amf: [u8; 2]) -> Vec<u8> {
        self.run(0x80 | mac_bits(lengths.mac), rand, sqn, amf).long(0, usize::from(lengths.mac / 8))
    }

    /// f2, f3 and f4: RES, CK and IK of these lengths.
    pub fn res_ck_ik(&self, lengths: Lengths, rand: &[u8; 16]) -> [Vec<u8>; 3] {
        let out = self.answer_state(lengths, rand);
        let bytes = |bits: u16| usize::from(bits / 8);
        [out.long(0, bytes(lengths.res)), out.long(32, bytes(lengths.ck)), out.long(64, bytes(lengths.ik))]
    }

    fn answer_state(&self, lengths: Lengths, rand: &[u8; 16]) -> State {
        // TS 35.231, 6.4: INSTANCE 0 1, three bits for RES, one each for CK and IK.
        let res = match lengths.res {
            64 => 0x08,
            128 => 0x10,
            256 => 0x20,
            _ => 0x00,
        };
        let ck = if lengths.ck == 256 { 0x04 } else { 0 };
        let ik = if lengths.ik == 256 { 0x02 } else { 0 };
        self.run(0x40 | res | ck | ik, rand, Sqn::default(), [0; 2])
    }

    /// Builds the input of TS 35.231, 6, every field from its last byte, and permutes it.
    fn run(&self, instance: u8, rand: &[u8; 16], sqn: Sqn, amf: [u8; 2]) -> State {
        let mut input = [0; LANES * 8];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            for byte in bytes.iter().rev() {
                input[at] = *byte;
                at += 1;
            }
        };
        put(&self.topc);
        put(&[instance | u8::from(self.k_bytes == 32)]);
        put(&ALGORITHM_NAME);
        // The functions without RAND, AMF or SQN have zeros in their places.
        put(rand);
        put(&amf);
        put(&sqn.to_bytes());
        let k = &self.k[..usize::from(self.k_bytes)];
        put(k);
        // 6.1: a pad of five ones behind the 256 bits of the key, and the last bit of the rate.
        input[96] = 0x1F;
        input[135] = 0x80;
        let mut state = State([0; LANES]);
        for (lane, bytes) in state.0.iter_mut().zip(input.as_chunks().0) {
            *lane = u64::from_le_bytes(*bytes);
        }
        input.zeroize();
        for _ in 0..self.iterations {
            keccak::Keccak::new().with_f1600(|permute| permute(&mut state.0));
        }
        state
    }
}

/// TS 35.231, 6.2: INSTANCE 2 to 4.
const fn mac_bits(bits: u16) -> u8 {
    match bits {
        128 => 0x10,
        256 => 0x20,
        _ => 0x08,
    }
}

impl AkaFunctions for Tuak {
    fn f1(&self, rand: &[u8; 16], sqn: Sqn, amf: [u8; 2]) -> [u8; 8] {
        self.run(mac_bits(Lengths::USIM.mac), rand, sqn, amf).part(0)
    }

    fn f1_star(&self, rand: &[u8; 16], sqn: Sqn, amf: [u8; 2]) -> [u8; 8] {
        self.run(0x80 | mac_bits(Lengths::USIM.mac), rand, sqn, amf).part(0)
    }

    fn f2345(&self, rand: &[u8; 16]) -> Answer {
        let out = self.answer_state(Lengths::USIM, rand);
        Answer { res: out.part(0), ck: out.part(32), ik: out.part(64), ak: out.part(96) }
    }

    fn f5_star(&self, rand: &[u8; 16]) -> [u8; 6] {
        self.run(0xC0, rand, Sqn::default(), [0; 2]).part(96)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        hex::decode(hex).unwrap().try_into().unwrap()
    }

    struct Set {
        lengths: Lengths,
        k: &'static str,
        rand: &'static str,
        sqn: &'static str,
        amf: &'static str,
        top: &'static str,
        topc: &'static str,
        f1: &'static str,
        f1_star: &'static str,
        f2: &'static str,
        f3: &'static str,
        f4: &'static str,
        f5: &'static str,
        f5_star: &'static str,
    }

    /// 3GPP TS 35.232, test sets 1 and 2: keys of 128 and of 256 bits.
    const SETS: [Set; 2] = [
        Set {
            lengths: Lengths { mac: 64, res: 32, ck: 128, ik: 128 },
            k: "abababababababababababababababab",
            rand: "42424242424242424242424242424242",
            sqn: "111111111111",
            amf: "ffff",
            top: "5555555555555555555555555555555555555555555555555555555555555555",
            topc: "bd04d9530e87513c5d837ac2ad954623a8e2330c115305a73eb45d1f40cccbff",
            f1: "f9a54e6aeaa8618d",
            f1_star: "e94b4dc6c7297df3",
            f2: "657acd64",
            f3: "d71a1e5c6caffe986a26f783e5c78be1",
            f4: "be849fa2564f869aecee6f62d4337e72",
            f5: "719f1e9b9054",
            f5_star: "e7af6b3d0e38",
        },
        Set {
            lengths: Lengths { mac: 128, res: 64, ck: 128, ik: 128 },
            k: "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0efeeedecebeae9e8e7e6e5e4e3e2e1e0",
            rand: "0123456789abcdef0123456789abcdef",
            sqn: "0123456789ab",
            amf: "abcd",
            top: "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
            topc: "305425427e18c503c8a4b294ea72c95d0c36c6c6b29d0c65de5974d5977f8524",
            f1: "c0b8c2d4148ec7aa5f1d78a97e4d1d58",
            f1_star: "ef81af7290f7842c6ceafa537fa0745b",
            f2: "e9d749dc4eea0035",
            f3: "a4cb6f6529ab17f8337f27baa8234d47",
            f4: "2274155ccf4199d5e2abcbf621907f90",
            f5: "480a9345cc1e",
            f5_star: "f84eb338848c",
        },
    ];

    #[test]
    fn the_sets_of_ts_35_232() {
        for set in &SETS {
            let k = hex::decode(set.k).unwrap();
            let topc = Tuak::topc(&k, &bytes(set.top), 1).unwrap();
            assert_eq!(hex::encode(topc), set.topc);
            let tuak = Tuak::new(&k, &topc).unwrap();
            let (rand, sqn, amf) = (bytes(set.rand), Sqn::from_bytes(bytes(set.sqn)), bytes(set.amf));
            assert_eq!(hex::encode(tuak.mac_a(set.lengths, &rand, sqn, amf)), set.f1);
            assert_eq!(hex::encode(tuak.mac_s(set.lengths, &rand, sqn, amf)), set.f1_star);
            let [res, ck, ik] = tuak.res_ck_ik(set.lengths, &rand);
            assert_eq!([res, ck, ik].map(hex::encode), [set.f2, set.f3, set.f4]);
            let state = tuak.answer_state(set.lengths, &rand);
            assert_eq!(hex::encode(state.part::<6>(96)), set.f5);
            assert_eq!(hex::encode(tuak.f5_star(&rand)), set.f5_star);
        }
    }

    #[test]
    fn a_usim_gets_what_the_vectors_have_of_its_lengths() {
        let set = &SETS[0];
        let tuak = Tuak::new(&hex::decode(set.k).unwrap(), &bytes::<32>(set.topc)).unwrap();
        let (rand, sqn, amf) = (bytes(set.rand), Sqn::from_bytes(bytes(set.sqn)), bytes(set.amf));
        assert_eq!(hex::encode(tuak.f1(&rand, sqn, amf)), set.f1);
        assert_eq!(hex::encode(tuak.f1_star(&rand, sqn, amf)), set.f1_star);
        let set = &SETS[1];
        let tuak = Tuak::new(&hex::decode(set.k).unwrap(), &bytes::<32>(set.topc)).unwrap();
        let answer = tuak.f2345(&bytes(set.rand));
        assert_eq!((answer.res, answer.ck), (bytes(set.f2), bytes(set.f3)));
        assert_eq!((answer.ik, answer.ak), (bytes(set.f4), bytes(set.f5)));
    }

    #[test]
    fn keys_of_other_sizes_are_refused() {
        assert_eq!(Tuak::new(&[0; 24], &[0; 32]).err(), Some(TuakError::Key(24)));
        assert_eq!(Tuak::new(&[0; 16], &[0; 16]).err(), Some(TuakError::Topc(16)));
        assert_eq!(Tuak::with_iterations(&[0; 16], &[0; 32], 0).err(), Some(TuakError::Iterations(0)));
    }
}
