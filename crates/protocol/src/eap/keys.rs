//! Keys of a run (RFC 4187, 7; RFC 9048, 3.3) and the MAC of packets (RFC 4187, 10.15; RFC 9048, 3.4.3).

use hmac::{Hmac, KeyInit, Mac};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::Method;
use super::packet::{MAC_BYTES, mac_place};

/// Everything that one run yields. Wiped when dropped, never shown.
#[derive(ZeroizeOnDrop)]
pub struct SessionKeys {
    /// Encrypts AT_ENCR_DATA.
    pub encr: [u8; 16],
    /// Signs packets.
    pub aut: MacKey,
    /// Master session key.
    pub msk: [u8; 64],
    /// Extended master session key: what the second layer is made of.
    pub emsk: [u8; 64],
    /// What fast re-authentications go on from.
    pub next: ReauthSecret,
}

/// K_aut: 16 bytes with SHA-1 (AKA) or 32 with SHA-256 (AKA').
#[derive(Clone, ZeroizeOnDrop)]
pub struct MacKey {
    bytes: [u8; 32],
    #[zeroize(skip)]
    method: Method,
}

/// MK (AKA, 20 bytes) or K_re (AKA', 32 bytes).
#[derive(Clone, ZeroizeOnDrop)]
pub struct ReauthSecret([u8; 32]);

/// What both ends keep for a fast re-authentication (RFC 4187, 5). Wiped when dropped, never shown.
#[derive(Clone, ZeroizeOnDrop)]
pub struct ReauthKeys {
    /// Encrypts AT_ENCR_DATA, the same since the full authentication.
    pub encr: [u8; 16],
    /// Signs packets, the same since the full authentication.
    pub aut: MacKey,
    /// Goes into the keys of the next run.
    pub secret: ReauthSecret,
    /// Counter of the last run: 0 after the full authentication.
    #[zeroize(skip)]
    pub counter: u16,
}

impl SessionKeys {
    /// RFC 4187, 7: MK = SHA1(identity | IK | CK), then the generator of FIPS 186-2.
    pub fn aka(identity: &str, ck: &[u8; 16], ik: &[u8; 16]) -> SessionKeys {
        let mut mk: [u8; 20] =
            Sha1::new().chain_update(identity.as_bytes()).chain_update(ik).chain_update(ck).finalize().into();
        let mut stream = Zeroizing::new([0; 160]);
        fips_186_2(&mk, &mut *stream);
        let mut next = [0; 32];
        next[..20].copy_from_slice(&mk);
        mk.zeroize();
        let mut aut = [0; 32];
        aut[..16].copy_from_slice(&stream[16..32]);
        SessionKeys {
            encr: part(&*stream, 0),
            aut: MacKey { bytes: aut, method: Method::Aka },
            msk: part(&*stream, 32),
            emsk: part(&*stream, 96),
            next: ReauthSecret(next),
        }
    }

    /// RFC 9048, 3.3: from CK' and IK'.
    pub fn aka_prime(identity: &str, ck_prime: &[u8; 16], ik_prime: &[u8; 16]) -> SessionKeys {
        let mut key = Zeroizing::new([0; 32]);
        key[..16].copy_from_slice(ik_prime);
        key[16..].copy_from_slice(ck_prime);
        let mut stream = Zeroizing::new([0; 208]);
        prf_prime(&*key, &[b"EAP-AKA'", identity.as_bytes()], &mut *stream);
        SessionKeys {
            encr: part(&*stream, 0),
            aut: MacKey { bytes: part(&*stream, 16), method: Method::AkaPrime },
            next: ReauthSecret(part(&*stream, 48)),
            msk: part(&*stream, 80),
            emsk: part(&*stream, 144),
        }
    }

    /// Keys of a run of either method. `autn` and the name of the network go into those of AKA'.
    pub fn full(
        method: Method,
        identity: &str,
        ck: &[u8; 16],
        ik: &[u8; 16],
        autn: &[u8; 16],
        network: &[u8],
    ) -> SessionKeys {
        match method {
            Method::Aka => SessionKeys::aka(identity, ck, ik),
            Method::AkaPrime => {
                let (mut ck, mut ik) = prime_keys(ck, ik, autn, network);
                let keys = SessionKeys::aka_prime(identity, &ck, &ik);
                ck.zeroize();
                ik.zeroize();
                keys
            }
        }
    }

    /// What a fast re-authentication later goes on from.
    pub fn reauth_keys(&self, counter: u16) -> ReauthKeys {
        ReauthKeys { encr: self.encr, aut: self.aut.clone(), secret: self.next.clone(), counter }
    }
}

impl ReauthKeys {
    /// Keys of a fast re-authentication (RFC 4187, 7, XKEY'; RFC 9048, 3.3): new MSK and EMSK, the rest stays.
    pub fn session(&self, identity: &str, counter: u16, nonce_s: &[u8; 16]) -> SessionKeys {
        let counter = counter.to_be_bytes();
        let mut stream = Zeroizing::new([0; 128]);
        match self.aut.method {
            Method::Aka => {
                let mut xkey: [u8; 20] = Sha1::new()
                    .chain_update(identity.as_bytes())
                    .chain_update(counter)
                    .chain_update(nonce_s)
                    .chain_update(&self.secret.0[..20])
                    .finalize()
                    .into();
                fips_186_2(&xkey, &mut *stream);
                xkey.zeroize();
            }
            Method::AkaPrime => {
                let seed: [&[u8]; 4] = [b"EAP-AKA' re-auth", identity.as_bytes(), &counter, nonce_s];
                prf_prime(&self.secret.0, &seed, &mut *stream);
            }
        }
        SessionKeys {
            encr: self.encr,
            aut: self.aut.clone(),
            msk: part(&*stream, 0),
            emsk: part(&*stream, 64),
            next: self.secret.clone(),
        }
    }

    /// The method that the keys belong to.
    pub fn method(&self) -> Method {
        self.aut.method
    }
}

impl MacKey {
    /// The MAC of a packet whose own MAC is zero; `extra` is hashed behind it.
    fn of(&self, packet: &[u8], extra: &[u8]) -> [u8; MAC_BYTES] {
        match self.method {
            Method::Aka => {
                let mut mac = sha1_mac(&self.bytes[..16]);
                mac.update(packet);
                mac.update(extra);
                part(&mac.finalize().into_bytes(), 0)
            }
            Method::AkaPrime => {
                let mut mac = sha256_mac(&self.bytes);
                mac.update(packet);
                mac.update(extra);
                part(&mac.finalize().into_bytes(), 0)
            }
        }
    }
}

/// Fills the MAC of an encoded packet. `extra`: NONCE_S in the response of a re-authentication, else nothing.
pub fn sign(packet: &mut [u8], key: &MacKey, extra: &[u8]) {
    let Some(place) = mac_place(packet) else { return };
    packet[place..place + MAC_BYTES].fill(0);
    let mac = key.of(packet, extra);
    packet[place..place + MAC_BYTES].copy_from_slice(&mac);
}

/// Whether the MAC of a packet is right; false where it has none. Constant time.
pub fn verify(packet: &[u8], key: &MacKey, extra: &[u8]) -> bool {
    let Some(place) = mac_place(packet) else { return false };
    let mut copy = packet.to_vec();
    copy[place..place + MAC_BYTES].fill(0);
    bool::from(key.of(&copy, extra).ct_eq(&packet[place..place + MAC_BYTES]))
}

/// RFC 9048, 3.3 (3GPP TS 33.402, A.2): CK' and IK' from CK, IK, SQN xor AK, and the name of the network.
pub fn prime_keys(ck: &[u8; 16], ik: &[u8; 16], autn: &[u8; 16], network: &[u8]) -> ([u8; 16], [u8; 16]) {
    let mut key = Zeroizing::new([0; 32]);
    key[..16].copy_from_slice(ck);
    key[16..].copy_from_slice(ik);
    let mut mac = sha256_mac(&*key);
    mac.update(&[0x20]);
    mac.update(network);
    mac.update(&(network.len() as u16).to_be_bytes());
    mac.update(&autn[..6]);
    mac.update(&6_u16.to_be_bytes());
    let both: Zeroizing<[u8; 32]> = Zeroizing::new(mac.finalize().into_bytes().into());
    (part(&*both, 0), part(&*both, 16))
}

/// RFC 4187, appendix A: the generator of FIPS 186-2, change notice 1, with G made of SHA-1's compression function
/// without its padding. `stream` is a multiple of 20 bytes, or the last block is cut.
fn fips_186_2(seed: &[u8; 20], stream: &mut [u8]) {
    let mut xkey = Zeroizing::new(*seed);
    for block in stream.chunks_mut(20) {
        let mut input = Zeroizing::new([0; 64]);
        input[..20].copy_from_slice(&*xkey);
        let mut state = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0];
        sha1::block_api::compress(&mut state, std::slice::from_ref(&*input));
        let mut w = Zeroizing::new([0; 20]);
        for (bytes, word) in w.chunks_exact_mut(4).zip(state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        state.zeroize();
        block.copy_from_slice(&w[..block.len()]);
        // XKEY = (1 + XKEY + w) mod 2^160.
        let mut carry = 1_u16;
        for (x, w) in xkey.iter_mut().zip(w.iter()).rev() {
            carry += u16::from(*x) + u16::from(*w);
            *x = carry as u8;
            carry >>= 8;
        }
    }
}

/// RFC 9048, 3.4.1: T1 = HMAC-SHA-256(key, S | 01), T2 = HMAC-SHA-256(key, T1 | S | 02), and so on.
fn prf_prime(key: &[u8], seed: &[&[u8]], stream: &mut [u8]) {
    let mut before = Zeroizing::new([0; 32]);
    for (place, block) in stream.chunks_mut(32).enumerate() {
        let mut mac = sha256_mac(key);
        if place > 0 {
            mac.update(&*before);
        }
        seed.iter().for_each(|part| mac.update(part));
        mac.update(&[place as u8 + 1]);
        *before = mac.finalize().into_bytes().into();
        block.copy_from_slice(&before[..block.len()]);
    }
}

/// `N` bytes from a place on; the callers' arrays are long enough.
fn part<const N: usize>(bytes: &[u8], from: usize) -> [u8; N] {
    std::array::from_fn(|place| bytes[from + place])
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
fn sha1_mac(key: &[u8]) -> Hmac<Sha1> {
    Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes keys of every length")
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
fn sha256_mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        hex::decode(hex).unwrap().try_into().unwrap()
    }

    /// RFC 9048, appendix D, case 1.
    #[test]
    fn the_published_case_of_aka_prime() {
        let (ck, ik) = (bytes("5349fbe098649f948f5d2e973a81c00f"), bytes("9744871ad32bf9bbd1dd5ce54e3e2e5a"));
        let autn = bytes("bb52e91c747ac3ab2a5c23d15ee351d5");
        let (ck_prime, ik_prime) = prime_keys(&ck, &ik, &autn, b"WLAN");
        assert_eq!(ck_prime, bytes("0093962d0dd84aa5684b045c9edffa04"));
        assert_eq!(ik_prime, bytes("ccfc230ca74fcc96c0a5d61164f5a76c"));
        let keys = SessionKeys::full(Method::AkaPrime, "0555444333222111", &ck, &ik, &autn, b"WLAN");
        assert_eq!(keys.encr, bytes("766fa0a6c317174b812d52fbcd11a179"));
        assert_eq!(keys.aut.bytes, bytes("0842ea722ff6835bfa2032499fc3ec23c2f0e388b4f07543ffc677f1696d71ea"));
        assert_eq!(keys.next.0, bytes("cf83aa8bc7e0aced892acc98e76a9b2095b558c7795c7094715cb3393aa7d17a"));
        assert_eq!(
            keys.msk,
            bytes(concat!(
                "67c42d9aa56c1b79e295e3459fc3d187d42be0bf818d3070e362c5e967a4d544",
                "e8ecfe19358ab3039aff03b7c930588c055babee58a02650b067ec4e9347c75a"
            ))
        );
        assert_eq!(
            keys.emsk,
            bytes(concat!(
                "f861703cd775590e16c7679ea3874ada866311de290764d760cf76df647ea01c",
                "313f69924bdd7650ca9bac141ea075c4ef9e8029c0e290cdbad5638b63bc23fb"
            ))
        );
    }

    /// 1 + (2^160 - 1) + w is w: the second block is G of the first.
    #[test]
    fn the_generator_adds_with_carry() {
        let mut stream = [0; 40];
        fips_186_2(&[0xFF; 20], &mut stream);
        let (first, second): ([u8; 20], [u8; 20]) = (part(&stream, 0), part(&stream, 20));
        let mut again = [0; 20];
        fips_186_2(&first, &mut again);
        assert_eq!(second, again);
    }
}
