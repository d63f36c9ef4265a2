//! SCP80 once more, written from the description of the format alone: nothing of the codec is used, the ciphers are
//! OpenSSL's, MACs and CRCs are worked out here. Random packets sealed on one side open on the other.

#![allow(clippy::unwrap_used)]

use openssl::symm::{Cipher, Crypter, Mode};
use proptest::prelude::*;
use simtide_protocol::ids::Tar;
use simtide_protocol::scp80::{
    CmacLength, CommandHeader, Counter, Key, KeySet, Kic, Kid, PaddingOctets, ResponseHeader, ResponseStatus,
    Security, Spi, open, open_response, seal, seal_response,
};

/// Everything that shapes a packet, in the terms of the wire.
#[derive(Debug, Clone)]
struct Shape {
    spi: [u8; 2],
    kic: u8,
    kid: u8,
    tar: [u8; 3],
    cntr: u64,
    kic_key: Vec<u8>,
    kid_key: Vec<u8>,
    cmac: usize,
}

/// Runs whole blocks through a cipher of OpenSSL with a zero IV and no padding of its own.
fn run(cipher: Cipher, mode: Mode, key: &[u8], input: &[u8]) -> Vec<u8> {
    let iv = [0; 16];
    let iv = cipher.iv_len().map(|length| &iv[..length]);
    let mut crypter = Crypter::new(cipher, mode, key, iv).unwrap();
    crypter.pad(false);
    let mut output = vec![0; input.len() + cipher.block_size()];
    let mut count = crypter.update(input, &mut output).unwrap();
    count += crypter.finalize(&mut output[count..]).unwrap();
    output.truncate(count);
    output
}

/// Triple DES takes every DES key: one, two or three of them repeated to three.
fn three_keys(key: &[u8]) -> Vec<u8> {
    match key.len() {
        8 => key.repeat(3),
        16 => [key, &key[..8]].concat(),
        _ => key.to_vec(),
    }
}

/// Cipher and key that a low nibble names.
fn cipher_of(nibble: u8, key: &[u8]) -> (Cipher, Vec<u8>) {
    match (nibble, key.len()) {
        (0x2, 16) => (Cipher::aes_128_cbc(), key.to_vec()),
        (0x2, 24) => (Cipher::aes_192_cbc(), key.to_vec()),
        (0x2, 32) => (Cipher::aes_256_cbc(), key.to_vec()),
        (0xD, 8) => (Cipher::des_ede3(), three_keys(key)),
        (0x1, 8) | (0x5, 16) | (0x9, 24) => (Cipher::des_ede3_cbc(), three_keys(key)),
        other => panic!("{other:?}"),
    }
}

fn des_mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut padded = message.to_vec();
    while !padded.len().is_multiple_of(8) {
        padded.push(0);
    }
    let out = run(Cipher::des_ede3_cbc(), Mode::Encrypt, &three_keys(key), &padded);
    out[out.len() - 8..].to_vec()
}

/// NIST SP 800-38B.
fn cmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let cipher = match key.len() {
        16 => Cipher::aes_128_cbc(),
        24 => Cipher::aes_192_cbc(),
        _ => Cipher::aes_256_cbc(),
    };
    let double = |block: &[u8]| {
        let wide = u128::from_be_bytes(block.try_into().unwrap());
        let reduced = (wide << 1) ^ if wide >> 127 == 1 { 0x87 } else { 0 };
        reduced.to_be_bytes()
    };
    let subkey_1 = double(&run(cipher, Mode::Encrypt, key, &[0; 16]));
    let subkey_2 = double(&subkey_1);
    let mut padded = message.to_vec();
    let subkey = if !message.is_empty() && message.len().is_multiple_of(16) {
        subkey_1
    } else {
        padded.push(0x80);
        while !padded.len().is_multiple_of(16) {
            padded.push(0);
        }
        subkey_2
    };
    let last = padded.len() - 16;
    padded[last..].iter_mut().zip(subkey).for_each(|(byte, key)| *byte ^= key);
    run(cipher, Mode::Encrypt, key, &padded)[last..].to_vec()
}

/// Both CRCs are reflected, begin with all ones and end inverted.
fn crc(message: &[u8], polynomial: u32, width: u32) -> Vec<u8> {
    let ones = u32::MAX >> (32 - width);
    let mut register = ones;
    for byte in message {
        register ^= u32::from(*byte);
        for _ in 0..8 {
            register = if register & 1 == 1 { (register >> 1) ^ polynomial } else { register >> 1 };
        }
    }
    let value = (register ^ ones).to_be_bytes();
    value[4 - width as usize / 8..].to_vec()
}

/// What two bits ask for over a message: nothing, RC or CC.
fn check(bits: u8, shape: &Shape, message: &[u8]) -> Vec<u8> {
    match (bits & 3, shape.kid & 0x0F) {
        (0, _) => Vec::new(),
        (1, 0x1) => crc(message, 0x8408, 16),
        (1, 0x5) => crc(message, 0xEDB8_8320, 32),
        (2, 0x2) => cmac(&shape.kid_key, message)[..shape.cmac].to_vec(),
        (2, 0x1 | 0x5 | 0x9) => des_mac(&shape.kid_key, message),
        other => panic!("{other:?}"),
    }
}

fn check_size(bits: u8, shape: &Shape) -> usize {
    check(bits, shape, &[0]).len()
}

/// `length, header length, clear, ciphered from here: secret header, check, data, padding`. The clear part does not hold
/// its two lengths yet; PCNTR is the sixth byte of the secret header.
fn build(
    prefix: &[u8],
    clear: &[u8],
    secret: &[u8],
    bits: u8,
    ciphered: bool,
    shape: &Shape,
    data: &[u8],
) -> Vec<u8> {
    let check_length = check_size(bits, shape);
    let mut secret = secret.to_vec();
    let (cipher, key) = cipher_of(shape.kic & 0x0F, &shape.kic_key);
    let block = if shape.kic & 0x0F == 2 { 16 } else { 8 };
    let mut data = data.to_vec();
    if ciphered {
        let over = (secret.len() + check_length + data.len()) % block;
        let padding = if over == 0 { 0 } else { block - over };
        secret[5] = padding as u8;
        data.resize(data.len() + padding, 0);
    }
    let header_length = clear.len() + secret.len() + check_length;
    let total = 1 + header_length + data.len();
    let head = [&(total as u16).to_be_bytes()[..], &[header_length as u8], clear].concat();
    let value = check(bits, shape, &[prefix, &head, &secret, &data].concat());
    let body = [secret, value, data].concat();
    let body = if ciphered { run(cipher, Mode::Encrypt, &key, &body) } else { body };
    [head, body].concat()
}

fn seal_command(shape: &Shape, data: &[u8]) -> Vec<u8> {
    let clear = [&shape.spi[..], &[shape.kic, shape.kid], &shape.tar].concat();
    let secret = [&shape.cntr.to_be_bytes()[3..], &[0]].concat();
    build(&[], &clear, &secret, shape.spi[0], shape.spi[0] & 0x04 != 0, shape, data)
}

fn seal_answer(shape: &Shape, status: u8, data: &[u8]) -> Vec<u8> {
    let secret = [&shape.cntr.to_be_bytes()[3..], &[0, status]].concat();
    let second = shape.spi[1];
    build(&[0x02, 0x71, 0x00], &shape.tar, &secret, second >> 2, second & 0x10 != 0, shape, data)
}

/// Takes apart what [`build`] makes: the secret header and the data, or nothing where the check is wrong.
fn take_apart(
    packet: &[u8],
    prefix: &[u8],
    clear: usize,
    secret: usize,
    bits: u8,
    ciphered: bool,
    shape: &Shape,
) -> Option<(Vec<u8>, Vec<u8>)> {
    let (head, body) = packet.split_at(3 + clear);
    assert_eq!(usize::from(u16::from_be_bytes([head[0], head[1]])), packet.len() - 2);
    let check_length = usize::from(head[2]) - clear - secret;
    assert_eq!(check_length, check_size(bits, shape));
    let body = if ciphered {
        let (cipher, key) = cipher_of(shape.kic & 0x0F, &shape.kic_key);
        run(cipher, Mode::Decrypt, &key, body)
    } else {
        body.to_vec()
    };
    let (secret, rest) = body.split_at(secret);
    let (value, data) = rest.split_at(check_length);
    if check(bits, shape, &[prefix, head, secret, data].concat()) != value {
        return None;
    }
    let padding = usize::from(secret[5]);
    Some((secret.to_vec(), data[..data.len() - padding].to_vec()))
}

fn keys(shape: &Shape) -> KeySet {
    let mut keys = KeySet::new(Key::new(&shape.kic_key).ok(), Key::new(&shape.kid_key).ok());
    keys.cmac_length = if shape.cmac == 4 { CmacLength::Four } else { CmacLength::Eight };
    keys
}

fn security(shape: &Shape) -> Security {
    Security { spi: Spi::from(shape.spi), kic: Kic(shape.kic), kid: Kid(shape.kid) }
}

fn header(shape: &Shape) -> CommandHeader {
    CommandHeader {
        security: security(shape),
        tar: Tar(shape.tar),
        counter: Counter::new(shape.cntr).unwrap(),
    }
}

/// Every cipher with every check that goes with it, in the command and in the answer.
fn shape() -> impl Strategy<Value = Shape> {
    let kic =
        prop::sample::select(vec![(0x1, 8), (0xD, 8), (0x5, 16), (0x9, 24), (0x2, 16), (0x2, 24), (0x2, 32)]);
    let mac = prop::sample::select(vec![(0x1, 8), (0x5, 16), (0x9, 24), (0x2, 16), (0x2, 24), (0x2, 32)]);
    let crc = prop::sample::select(vec![0x1_u8, 0x5]);
    let bits = (0_u8..3, any::<bool>(), 0_u8..4, 0_u8..3, any::<bool>(), any::<u8>());
    let material = proptest::collection::vec(any::<u8>(), 64);
    let rest = (any::<[u8; 3]>(), 0_u64..1 << 40, prop::sample::select(vec![4_usize, 8]), 0_u8..16);
    (kic, mac, crc, bits, material, rest).prop_map(
        |((kic, kic_size), (mac, kid_size), crc, bits, material, (tar, cntr, cmac, index))| {
            let (integrity, ciphered, mode, por_integrity, por_ciphered, por) = bits;
            // One KID serves command and answer: RC on one side and CC on the other need an algorithm that is both.
            let with_rc = integrity == 1 || por_integrity == 1;
            let with_cc = integrity == 2 || por_integrity == 2;
            let (kid, kid_size) = match (with_rc, with_cc) {
                (true, true) if crc == 1 => (1, 8),
                (true, true) => (5, 16),
                (true, false) => (crc, 8),
                _ => (mac, kid_size),
            };
            let first = integrity | if ciphered { 0x04 } else { 0 } | mode << 3;
            let second = por & 0x23 | por_integrity << 2 | if por_ciphered { 0x10 } else { 0 };
            Shape {
                spi: [first, second],
                kic: index << 4 | kic,
                kid: index << 4 | kid,
                tar,
                cntr,
                kic_key: material[..kic_size].to_vec(),
                kid_key: material[32..32 + kid_size].to_vec(),
                cmac,
            }
        },
    )
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..300)
}

#[test]
fn it_makes_a_packet_that_others_made() {
    let shape = Shape {
        spi: [0x06, 0x19],
        kic: 0x22,
        kid: 0x22,
        tar: [0xB0, 0x00, 0x11],
        cntr: 0,
        kic_key: hex::decode("200102030405060708090a0b0c0d0e0f").unwrap(),
        kid_key: hex::decode("201102030405060708090a0b0c0d0e0f").unwrap(),
        cmac: 8,
    };
    let packet = seal_command(&shape, &hex::decode("00a40004023f00").unwrap());
    let expected = "00281506192222b00011e87cceebb2d93083011ce294f93fc4d8de80da1abae8c37ca3e72ec4432e5058";
    assert_eq!(hex::encode(packet), expected);
    assert_eq!(hex::encode(crc(&[1, 2, 3, 4, 5], 0x8408, 16)), "22ec");
    assert_eq!(hex::encode(crc(&[1, 2, 3, 4, 5], 0xEDB8_8320, 32)), "470b99f4");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn commands_of_either_side_open_on_the_other(shape in shape(), data in data()) {
        let ours = seal(&header(&shape), &keys(&shape), &data).unwrap();
        prop_assert_eq!(hex::encode(&ours), hex::encode(seal_command(&shape, &data)));
        let (secret, opened) =
            take_apart(&ours, &[], 7, 6, shape.spi[0], shape.spi[0] & 0x04 != 0, &shape).unwrap();
        prop_assert_eq!((&secret[..5], &opened), (&shape.cntr.to_be_bytes()[3..], &data));

        let opened = open(&seal_command(&shape, &data), &keys(&shape)).unwrap();
        prop_assert_eq!((opened.header, opened.data), (header(&shape), data));
    }

    #[test]
    fn answers_of_either_side_open_on_the_other(shape in shape(), status in 0_u8..=0x0C, data in data()) {
        let status = ResponseStatus::try_from(status).unwrap();
        let answer = ResponseHeader { tar: Tar(shape.tar), counter: header(&shape).counter, status };
        for padding in [PaddingOctets::Zeros, PaddingOctets::EightyThenZeros] {
            let ours = seal_response(&answer, &security(&shape), &keys(&shape), &data, padding).unwrap();
            let (bits, ciphered) = (shape.spi[1] >> 2, shape.spi[1] & 0x10 != 0);
            let (secret, opened) =
                take_apart(&ours, &[0x02, 0x71, 0x00], 3, 7, bits, ciphered, &shape).unwrap();
            prop_assert_eq!((secret[6], &opened), (status.code(), &data));
        }
        let theirs = seal_answer(&shape, status.code(), &data);
        let opened = open_response(&theirs, &security(&shape), &keys(&shape)).unwrap();
        prop_assert_eq!((opened.header, opened.data), (answer, data));
        prop_assert_eq!(opened.authenticated, shape.spi[1] & 0x0C == 0x08);
    }
}
