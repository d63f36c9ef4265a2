//! Secured packets cut into the user data of short messages.

use std::num::NonZeroU8;

use super::USER_DATA_SIZE_MAX;
use super::udh::{Concatenation, Element, UserDataHeader};

/// Which of the two secured packets is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PacketKind {
    /// 3GPP TS 31.115, 4.2: to the card.
    Command,
    /// 3GPP TS 31.115, 4.3: from the card.
    Response,
}

/// What the parts of one packet have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reference {
    /// One byte; never 0, on which some cards fail.
    Narrow(NonZeroU8),
    /// Two bytes, which not every card reads.
    Wide(u16),
}

/// Why a packet cannot be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// It would take more than 255 messages.
    #[error("{0} bytes take more than 255 short messages: split the script")]
    TooLong(usize),
}

impl Reference {
    /// The narrow reference that follows, 1 after 255.
    pub fn after(previous: u8) -> Self {
        Reference::Narrow(NonZeroU8::new(previous.wrapping_add(1)).unwrap_or(NonZeroU8::MIN))
    }
}

impl PacketKind {
    /// The information element that announces it.
    pub const fn element_id(self) -> u8 {
        match self {
            PacketKind::Command => Element::COMMAND_PACKET,
            PacketKind::Response => Element::RESPONSE_PACKET,
        }
    }
}

/// The TP-UDs that carry a packet, UDHL included: one where it fits, else concatenated parts, of which the first
/// alone announces the packet (3GPP TS 31.115, 4.2 and 4.3). The reference is used only where there are parts.
pub fn segment(packet: &[u8], kind: PacketKind, reference: Reference) -> Result<Vec<Vec<u8>>, SegmentError> {
    let announce = Element { id: kind.element_id(), data: Vec::new() };
    let single = UserDataHeader { elements: vec![announce.clone()] }.to_bytes();
    if single.len() + packet.len() <= USER_DATA_SIZE_MAX {
        return Ok(vec![[single, packet.to_vec()].concat()]);
    }
    let (reference, wide) = match reference {
        Reference::Narrow(reference) => (u16::from(reference.get()), false),
        Reference::Wide(reference) => (reference, true),
    };
    // UDHL and the concatenation element; the first part also announces the packet.
    let next_size = USER_DATA_SIZE_MAX - if wide { 7 } else { 6 };
    let first_size = next_size - 2;
    let total = 1 + packet.len().saturating_sub(first_size).div_ceil(next_size);
    let total = u8::try_from(total).map_err(|_| SegmentError::TooLong(packet.len()))?;
    let (first, rest) = packet.split_at(first_size);
    let parts = std::iter::once(first).chain(rest.chunks(next_size));
    Ok((1..=total)
        .zip(parts)
        .map(|(number, part)| {
            let mut elements = vec![Concatenation { reference, wide, total, number }.to_element()];
            if number == 1 {
                elements.push(announce.clone());
            }
            [UserDataHeader { elements }.to_bytes(), part.to_vec()].concat()
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(size: usize, kind: PacketKind, reference: Reference) -> Vec<(String, usize)> {
        let packet: Vec<u8> = (0..size).map(|at| at as u8).collect();
        let parts = segment(&packet, kind, reference).unwrap();
        let bodies: Vec<u8> =
            parts.iter().flat_map(|part| part[usize::from(part[0]) + 1..].to_vec()).collect();
        assert_eq!(bodies, packet);
        assert!(parts.iter().all(|part| part.len() <= USER_DATA_SIZE_MAX));
        parts
            .iter()
            .map(|part| (hex::encode(&part[..=usize::from(part[0])]), part.len() - usize::from(part[0]) - 1))
            .collect()
    }

    #[test]
    fn parts_as_independent_implementations_cut_them() {
        let one = Reference::after(0);
        assert_eq!(heads(137, PacketKind::Command, one), [("027000".into(), 137)]);
        assert_eq!(
            heads(138, PacketKind::Command, one),
            [("0700030102017000".into(), 132), ("050003010202".into(), 6)]
        );
        assert_eq!(
            heads(132 + 134 + 1, PacketKind::Response, Reference::after(254)),
            [("070003ff03017100".into(), 132), ("050003ff0302".into(), 134), ("050003ff0303".into(), 1)]
        );
        assert_eq!(
            heads(200, PacketKind::Command, Reference::Wide(0x1234)),
            [("080804123402017000".into(), 131), ("06080412340202".into(), 69)]
        );
    }

    #[test]
    fn the_largest_packet_takes_255_messages_and_the_next_none() {
        let most = 132 + 254 * 134;
        assert_eq!(heads(most, PacketKind::Command, Reference::after(255)).len(), 255);
        let error = segment(&vec![0; most + 1], PacketKind::Command, Reference::after(0));
        assert_eq!(error, Err(SegmentError::TooLong(most + 1)));
    }
}
