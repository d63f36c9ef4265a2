//! AT_IV and AT_ENCR_DATA (RFC 4187, 10.12): attributes in AES-128-CBC, filled with AT_PADDING to whole blocks.

use aes::{Aes128Dec, Aes128Enc};
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use cipher::block_padding::NoPadding;

use super::packet::{Attribute, Packet, PacketError, decode_attributes, encode_attributes};

/// The two attributes that carry `inner`. `iv` is fresh random bytes.
pub fn seal(key: &[u8; 16], iv: [u8; 16], inner: &[Attribute]) -> [Attribute; 2] {
    let mut bytes = Vec::new();
    encode_attributes(inner, &mut bytes);
    // Attributes are whole words, so 4, 8 or 12 bytes are missing, or none.
    let missing = (16 - bytes.len() % 16) % 16;
    if missing > 0 {
        encode_attributes(&[Attribute::Padding(missing as u8)], &mut bytes);
    }
    let length = bytes.len();
    let cipher = cbc::Encryptor::<Aes128Enc>::new(&(*key).into(), &iv.into());
    if cipher.encrypt_padded::<NoPadding>(&mut bytes, length).is_err() {
        bytes.clear();
    }
    [Attribute::Iv(iv), Attribute::EncrData(bytes)]
}

/// The attributes inside AT_ENCR_DATA; none where there is none.
pub fn open(key: &[u8; 16], packet: &Packet) -> Result<Vec<Attribute>, PacketError> {
    let data = packet.find(|attribute| match attribute {
        Attribute::EncrData(data) => Some(data),
        _ => None,
    });
    let iv = packet.find(|attribute| match attribute {
        Attribute::Iv(iv) => Some(*iv),
        _ => None,
    });
    let Some(data) = data else { return Ok(Vec::new()) };
    let iv = iv.ok_or(PacketError::AttributeValue(130))?;
    let mut bytes = data.clone();
    let cipher = cbc::Decryptor::<Aes128Dec>::new(&(*key).into(), &iv.into());
    cipher.decrypt_padded::<NoPadding>(&mut bytes).map_err(|_| PacketError::AttributeLength(130))?;
    decode_attributes(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eap::Method;
    use crate::eap::packet::{Code, Subtype};

    fn packet(attributes: Vec<Attribute>) -> Packet {
        Packet {
            code: Code::Request,
            identifier: 1,
            method: Method::Aka,
            subtype: Subtype::Challenge,
            attributes,
        }
    }

    #[test]
    fn attributes_of_every_length_survive() {
        for length in 0..40 {
            let inner = [Attribute::NextPseudonym(vec![b'2'; length]), Attribute::Counter(7)];
            let sealed = packet(seal(&[1; 16], [2; 16], &inner).to_vec());
            let sealed = Packet::decode(&sealed.encode()).unwrap();
            let opened = open(&[1; 16], &sealed).unwrap();
            assert_eq!(opened[..2], inner);
            assert_ne!(open(&[3; 16], &sealed).ok(), Some(opened));
        }
    }

    #[test]
    fn damaged_data_is_refused() {
        assert_eq!(open(&[1; 16], &packet(Vec::new())), Ok(Vec::new()));
        let whole = packet(vec![Attribute::EncrData(vec![0; 16])]);
        assert_eq!(open(&[1; 16], &whole), Err(PacketError::AttributeValue(130)));
        let cut = packet(vec![Attribute::Iv([0; 16]), Attribute::EncrData(vec![0; 12])]);
        assert_eq!(open(&[1; 16], &cut), Err(PacketError::AttributeLength(130)));
    }
}
