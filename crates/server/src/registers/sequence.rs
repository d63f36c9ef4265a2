//! Sequence numbers of the authentication centre: drawn in durable blocks, an IND for each user of vectors.
//!
//! SEQ rises with every vector of a subscriber, whoever asks, so that no number is ever used twice; IND keeps the users
//! of vectors out of each other's way in the card's array (3GPP TS 33.102, C.1 and C.3.4). A block is made durable
//! before the first number of it leaves; after a crash the rest of it is passed over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use simtide_protocol::ids::Imsi;

use super::RegisterError;
use super::pool::Pool;

/// Numbers made durable at once.
pub const BLOCK: u64 = 32;
/// Subscribers whose block is kept in memory; of another one a new block is drawn.
const SUBSCRIBERS_KEPT_MAX: usize = 200_000;
/// SEQ has 43 bits (TS 33.102, C.3.2).
const SEQ_MAX: u64 = (1 << 43) - 1;

/// Numbers that are durable and not used: from `next` up to and with `last`.
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    next: u64,
    last: u64,
}

/// Whom numbers are drawn for.
#[derive(Debug, Clone, Copy)]
enum Whose {
    Subscribers,
    Nobody,
}

/// The numbers of all subscribers of a pool.
pub struct Sequence {
    pool: Arc<Pool>,
    whose: Whose,
    blocks: Mutex<HashMap<Imsi, Block>>,
}

impl Sequence {
    /// Numbers that are kept in this pool.
    pub fn new(pool: Arc<Pool>) -> Sequence {
        Sequence { pool, whose: Whose::Subscribers, blocks: Mutex::default() }
    }

    /// Numbers in the name of nobody, for identities that are not in the pool: drawn as others are, and of no use.
    pub fn of_nobody(pool: Arc<Pool>) -> Sequence {
        Sequence { whose: Whose::Nobody, ..Sequence::new(pool) }
    }

    /// Draws `count` numbers that were never used, all above `above` (the card's own, after an AUTS).
    ///
    /// # Errors
    /// Where the pool fails, or the numbers of the subscriber have come to an end.
    pub async fn draw(&self, imsi: Imsi, count: u8, above: Option<u64>) -> Result<Vec<u64>, RegisterError> {
        let mut drawn = Vec::with_capacity(usize::from(count));
        let mut above = above.unwrap_or(0);
        while drawn.len() < usize::from(count) {
            if let Some(seq) = self.take(imsi, above) {
                if seq > SEQ_MAX {
                    return Err(RegisterError::Refused(
                        "the sequence numbers have come to an end".to_owned(),
                    ));
                }
                drawn.push(seq);
                above = seq;
                continue;
            }
            let start = match self.whose {
                Whose::Subscribers => self.pool.raise_seq(imsi, above, BLOCK).await?,
                Whose::Nobody => self.pool.raise_nobody(BLOCK).await?,
            };
            self.put(imsi, Block { next: start + 1, last: start + BLOCK });
        }
        Ok(drawn)
    }

    /// The next durable number above another one.
    fn take(&self, imsi: Imsi, above: u64) -> Option<u64> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let block = blocks.get_mut(&imsi)?;
        let seq = block.next.max(above.saturating_add(1));
        if seq > block.last {
            return None;
        }
        block.next = seq + 1;
        Some(seq)
    }

    fn put(&self, imsi: Imsi, block: Block) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.len() >= SUBSCRIBERS_KEPT_MAX {
            blocks.clear();
        }
        // Two that raised at once have different blocks: the higher one stays, the rest of the other is passed over.
        let known = blocks.entry(imsi).or_default();
        if block.last > known.last {
            *known = block;
        }
    }
}
