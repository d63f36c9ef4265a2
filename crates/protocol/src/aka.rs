//! Authentication and key agreement: AUTN, AUTS and sequence numbers (3GPP TS 33.102, 6.3 and annex C).
//!
//! Both sides are here: the network makes a [`Vector`] and opens an AUTS, the card calls [`authenticate`].

use crate::card_file::AuthenticationAlgorithm;
use crate::milenage::Milenage;
use crate::tuak::Tuak;
use subtle::ConstantTimeEq;
use zeroize::ZeroizeOnDrop;

/// What RES, CK, IK and AK come to.
#[derive(ZeroizeOnDrop)]
pub struct Answer {
    /// f2: the response.
    pub res: [u8; 8],
    /// f3: the cipher key.
    pub ck: [u8; 16],
    /// f4: the integrity key.
    pub ik: [u8; 16],
    /// f5: the anonymity key that hides SQN.
    pub ak: [u8; 6],
}

/// The functions f1 to f5* of a subscriber's algorithm (3GPP TS 33.102, 6.3.2).
pub trait AkaFunctions {
    /// f1: MAC-A.
    fn f1(&self, rand: &[u8; 16], sqn: Sqn, amf: [u8; 2]) -> [u8; 8];
    /// f1*: MAC-S.
    fn f1_star(&self, rand: &[u8; 16], sqn: Sqn, amf: [u8; 2]) -> [u8; 8];
    /// f2 to f5.
    fn f2345(&self, rand: &[u8; 16]) -> Answer;
    /// f5*: the anonymity key of an AUTS.
    fn f5_star(&self, rand: &[u8; 16]) -> [u8; 6];
}

/// The functions of one subscriber, whichever algorithm it has.
pub enum Functions {
    /// 3GPP TS 35.206.
    Milenage(Milenage),
    /// 3GPP TS 35.231.
    Tuak(Tuak),
}

/// Keys that do not fit an algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{algorithm} takes {expected}; K of {k} and OPc of {opc} bytes are given")]
pub struct FunctionsError {
    algorithm: &'static str,
    expected: &'static str,
    k: usize,
    opc: usize,
}

impl Functions {
    /// From K and OPc (Milenage: 16 and 16 bytes) or TOPc (TUAK: K of 16 or 32, TOPc of 32 bytes). `iterations` of Keccak,
    /// usually 1, is for TUAK.
    ///
    /// # Errors
    /// Keys of other sizes.
    pub fn new(
        algorithm: AuthenticationAlgorithm,
        k: &[u8],
        opc: &[u8],
        iterations: u8,
    ) -> Result<Self, FunctionsError> {
        let expected = match algorithm {
            AuthenticationAlgorithm::Milenage => "K and OPc of 16 bytes",
            AuthenticationAlgorithm::Tuak => "K of 16 or 32 bytes, TOPc of 32, 1 to 16 iterations",
        };
        let wrong = FunctionsError { algorithm: algorithm.name(), expected, k: k.len(), opc: opc.len() };
        match algorithm {
            AuthenticationAlgorithm::Milenage => match (k.try_into(), opc.try_into()) {
                (Ok(k), Ok(opc)) if iterations == 1 => Ok(Self::Milenage(Milenage::new(k, opc))),
                _ => Err(wrong),
            },
            AuthenticationAlgorithm::Tuak => {
                Tuak::with_iterations(k, opc, iterations).map(Self::Tuak).map_err(|_| wrong)
            }
        }
    }
}

impl AkaFunctions for Functions {
    fn f1(&self, rand: &[u8; 16], sqn: Sqn, amf: [u8; 2]) -> [u8; 8] {
        match self {
            Self::Milenage(functions) => functions.f1(rand, sqn, amf),
            Self::Tuak(functions) => functions.f1(rand, sqn, amf),
        }
    }

    fn f1_star(&self, rand: &[u8; 16], sqn: Sqn, amf: [u8; 2]) -> [u8; 8] {
        match self {
            Self::Milenage(functions) => functions.f1_star(rand, sqn, amf),
            Self::Tuak(functions) => functions.f1_star(rand, sqn, amf),
        }
    }

    fn f2345(&self, rand: &[u8; 16]) -> Answer {
        match self {
            Self::Milenage(functions) => functions.f2345(rand),
            Self::Tuak(functions) => functions.f2345(rand),
        }
    }

    fn f5_star(&self, rand: &[u8; 16]) -> [u8; 6] {
        match self {
            Self::Milenage(functions) => functions.f5_star(rand),
            Self::Tuak(functions) => functions.f5_star(rand),
        }
    }
}

/// A sequence number of 48 bits: SEQ (43 bits), then IND (5 bits), the place in the card's array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sqn(u64);

/// TS 33.102, annex C.3.2: bits of IND.
const IND_BITS: u32 = 5;
/// Places in the card's array.
const INDICES: usize = 1 << IND_BITS;
/// TS 33.102, annex C.2.1 and C.3: a SEQ more than this ahead is refused, so that nobody drives a card to the end.
const DELTA: u64 = 1 << 28;
/// 48 bits.
const SQN_MAX: u64 = (1 << 48) - 1;

impl Sqn {
    /// A number, cut to 48 bits.
    pub const fn new(value: u64) -> Self {
        Self(value & SQN_MAX)
    }

    /// From SEQ and IND (5 bits).
    pub const fn from_parts(seq: u64, ind: u8) -> Self {
        Self::new(seq << IND_BITS | (ind as u64 & (INDICES as u64 - 1)))
    }

    /// Six bytes, most significant first.
    pub const fn from_bytes([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    /// Six bytes, most significant first.
    pub const fn to_bytes(self) -> [u8; 6] {
        let [_, _, a, b, c, d, e, f] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// The number.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// SEQ: the upper 43 bits.
    pub const fn seq(self) -> u64 {
        self.0 >> IND_BITS
    }

    /// IND: the place in the array.
    pub const fn ind(self) -> usize {
        (self.0 & (INDICES as u64 - 1)) as usize
    }
}

/// What the network sends and expects (3GPP TS 33.102, 6.3.2). Wiped when dropped.
#[derive(ZeroizeOnDrop)]
pub struct Vector {
    /// The challenge.
    pub rand: [u8; 16],
    /// SQN xor AK, AMF, MAC-A.
    pub autn: [u8; 16],
    /// The response that is expected.
    pub xres: [u8; 8],
    /// Cipher key.
    pub ck: [u8; 16],
    /// Integrity key.
    pub ik: [u8; 16],
}

impl Vector {
    /// Makes the vector for a challenge and a sequence number that has never been used.
    pub fn new(functions: &impl AkaFunctions, rand: [u8; 16], sqn: Sqn, amf: [u8; 2]) -> Self {
        let answer = functions.f2345(&rand);
        let mut autn = [0; 16];
        autn[..6].copy_from_slice(&xor(sqn.to_bytes(), answer.ak));
        autn[6..8].copy_from_slice(&amf);
        autn[8..].copy_from_slice(&functions.f1(&rand, sqn, amf));
        Self { rand, autn, xres: answer.res, ck: answer.ck, ik: answer.ik }
    }
}

/// TS 33.102, 6.3.3: AMF is all zero in the MAC-S of an AUTS.
const AUTS_AMF: [u8; 2] = [0, 0];

/// Opens an AUTS: the card's highest SQN, or `None` where MAC-S is wrong. Only then the network moves its own SQN.
pub fn open_auts(functions: &impl AkaFunctions, rand: &[u8; 16], auts: &[u8; 14]) -> Option<Sqn> {
    let (concealed, mac) = auts.split_first_chunk::<6>()?;
    let sqn = Sqn::from_bytes(xor(*concealed, functions.f5_star(rand)));
    let expected = functions.f1_star(rand, sqn, AUTS_AMF);
    bool::from(expected.as_slice().ct_eq(mac)).then_some(sqn)
}

/// What the card says to a challenge.
pub enum Outcome {
    /// The network is genuine and the number fresh; the array has moved.
    Success(Answer),
    /// MAC-A is wrong: `98 62`, nothing has moved.
    MacFailure,
    /// The number is not fresh: AUTS tells the network the card's own.
    SynchronisationFailure {
        /// SQN_MS xor AK*, MAC-S.
        auts: [u8; 14],
    },
}

/// The card's side (3GPP TS 33.102, 6.3.3): checks AUTN and moves the array where it is accepted.
pub fn authenticate(
    functions: &impl AkaFunctions,
    array: &mut SqnArray,
    rand: &[u8; 16],
    autn: &[u8; 16],
) -> Outcome {
    let answer = functions.f2345(rand);
    let mut concealed = [0; 6];
    concealed.copy_from_slice(&autn[..6]);
    let sqn = Sqn::from_bytes(xor(concealed, answer.ak));
    let expected = functions.f1(rand, sqn, [autn[6], autn[7]]);
    if !bool::from(expected.as_slice().ct_eq(&autn[8..])) {
        return Outcome::MacFailure;
    }
    if array.accept(sqn) {
        return Outcome::Success(answer);
    }
    let highest = array.highest();
    let mut auts = [0; 14];
    auts[..6].copy_from_slice(&xor(highest.to_bytes(), functions.f5_star(rand)));
    auts[6..].copy_from_slice(&functions.f1_star(rand, highest, AUTS_AMF));
    Outcome::SynchronisationFailure { auts }
}

fn xor(left: [u8; 6], right: [u8; 6]) -> [u8; 6] {
    std::array::from_fn(|place| left[place] ^ right[place])
}

/// The highest sequence number accepted at each IND (3GPP TS 33.102, annex C.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqnArray([Sqn; INDICES]);

impl Default for SqnArray {
    fn default() -> Self {
        Self([Sqn::default(); INDICES])
    }
}

impl SqnArray {
    /// Size of [`SqnArray::encode`] in bytes.
    pub const SIZE: usize = 6 * INDICES;

    /// Accepts a number that is higher than the last at its place and not too far ahead of all; then it is the last.
    pub fn accept(&mut self, sqn: Sqn) -> bool {
        let fresh = sqn.seq() > self.0[sqn.ind()].seq();
        let near = sqn.seq().saturating_sub(self.highest().seq()) <= DELTA;
        if fresh && near {
            self.0[sqn.ind()] = sqn;
        }
        fresh && near
    }

    /// The highest number accepted so far: SQN_MS.
    pub fn highest(&self) -> Sqn {
        self.0.iter().copied().max().unwrap_or_default()
    }

    /// 32 numbers of six bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|sqn| sqn.to_bytes()).collect()
    }

    /// Reads [`SqnArray::encode`]; anything of another size is an array that has seen nothing.
    pub fn decode(bytes: &[u8]) -> Self {
        let mut array = Self::default();
        if bytes.len() == Self::SIZE {
            let (numbers, _) = bytes.as_chunks::<6>();
            for (place, number) in array.0.iter_mut().zip(numbers) {
                *place = Sqn::from_bytes(*number);
            }
        }
        array
    }
}

/// TS 33.102, 6.8.1.2: Kc from CK and IK (conversion function c3).
pub fn gsm_key(ck: &[u8; 16], ik: &[u8; 16]) -> [u8; 8] {
    std::array::from_fn(|place| ck[place] ^ ck[place + 8] ^ ik[place] ^ ik[place + 8])
}

/// TS 33.102, 6.8.1.2: SRES from RES of eight bytes (conversion function c2).
pub fn gsm_response(res: &[u8; 8]) -> [u8; 4] {
    std::array::from_fn(|place| res[place] ^ res[place + 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        hex::decode(hex).unwrap().try_into().unwrap()
    }

    fn set_1() -> Milenage {
        Milenage::new(&bytes("465b5ce8b199b49faa5f0a2ee238a6bc"), &bytes("cd63cb71954a9f4e48a5994e37a02baf"))
    }

    /// RAND, AUTN and AUTS of a recorded EAP-AKA exchange, and the challenge that followed the AUTS.
    #[test]
    fn a_recorded_resynchronisation() {
        let milenage = set_1();
        let rand = bytes("1cd253d1db4127d7b42d5e1e5608cf92");
        let auts = bytes("13283782be7392d19e1e58bbe389");
        let highest = open_auts(&milenage, &rand, &auts).unwrap();
        let mut wrong = auts;
        wrong[13] ^= 1;
        assert_eq!(open_auts(&milenage, &rand, &wrong), None);

        let mut array = SqnArray::default();
        // The recorded card knew that number at its place already.
        assert!(array.accept(Sqn::new(0x1_00A0)));
        array.0[highest.ind()] = highest;
        match authenticate(&milenage, &mut array, &rand, &bytes("214160e0b9958000a53a44a45d64aa6b")) {
            Outcome::SynchronisationFailure { auts: found } => assert_eq!(found, auts),
            Outcome::Success(_) | Outcome::MacFailure => panic!("another outcome"),
        }
        let rand = bytes("6264fe67e08e7ddba543315b2f7ad06f");
        match authenticate(&milenage, &mut array, &rand, &bytes("d344299beaf48000aa7d285333d21316")) {
            Outcome::Success(answer) => assert_eq!(answer.res, bytes("114c0df9606c4e97")),
            Outcome::SynchronisationFailure { .. } | Outcome::MacFailure => panic!("another outcome"),
        }
    }

    #[test]
    fn both_sides_agree_until_a_bit_flips() {
        let (milenage, mut array) = (set_1(), SqnArray::default());
        for seq in 1..40 {
            let vector =
                Vector::new(&milenage, [seq; 16], Sqn::from_parts(u64::from(seq), seq % 32), [0x80, 0]);
            let mut wrong = vector.autn;
            wrong[usize::from(seq) % 16] ^= 0x10;
            assert!(matches!(authenticate(&milenage, &mut array, &vector.rand, &wrong), Outcome::MacFailure));
            match authenticate(&milenage, &mut array, &vector.rand, &vector.autn) {
                Outcome::Success(answer) => assert_eq!((answer.res, answer.ck), (vector.xres, vector.ck)),
                Outcome::SynchronisationFailure { .. } | Outcome::MacFailure => panic!("refused"),
            }
            // The same again is a replay.
            assert!(matches!(
                authenticate(&milenage, &mut array, &vector.rand, &vector.autn),
                Outcome::SynchronisationFailure { .. }
            ));
        }
        assert_eq!(SqnArray::decode(&array.encode()), array);
    }

    #[test]
    fn numbers_too_far_ahead_are_refused() {
        let mut array = SqnArray::default();
        assert!(!array.accept(Sqn::from_parts(DELTA + 1, 3)));
        assert!(array.accept(Sqn::from_parts(DELTA, 3)));
        assert!(!array.accept(Sqn::from_parts(DELTA, 3)));
        // Another place accepts an older number once: requests of two nodes may overtake each other.
        assert!(array.accept(Sqn::from_parts(5, 4)));
        assert_eq!(array.highest(), Sqn::from_parts(DELTA, 3));
    }
}
