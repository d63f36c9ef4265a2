//! `pcsc:READER`: a card reader of this machine, by PC/SC.

use std::ffi::CString;

use pcsc::{Card, Context, Disposition, Error, MAX_BUFFER_SIZE, Protocols, Scope, ShareMode};

use super::{CardPort, PortError};

/// A reader with a card in it.
pub struct PcscPort {
    context: Context,
    reader: CString,
    card: Option<Card>,
}

impl PcscPort {
    /// Finds the reader whose name contains this text; an empty text takes the first one.
    pub fn open(name: &str) -> Result<Self, PortError> {
        let context = Context::establish(Scope::User).map_err(reader_error)?;
        let readers = context.list_readers_owned().map_err(reader_error)?;
        let reader = readers
            .into_iter()
            .find(|reader| reader.to_string_lossy().contains(name))
            .ok_or_else(|| PortError::Reader(format!("no reader is called `{name}`; see pcsc_scan")))?;
        Ok(Self { context, reader, card: None })
    }

    fn connect(&mut self) -> Result<(), Error> {
        match self.card.as_mut() {
            Some(card) => {
                card.reconnect(ShareMode::Exclusive, Protocols::ANY, Disposition::ResetCard)?;
            }
            None => {
                self.card = Some(self.context.connect(&self.reader, ShareMode::Exclusive, Protocols::ANY)?);
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for PcscPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PcscPort({:?})", self.reader)
    }
}

fn reader_error(error: Error) -> PortError {
    PortError::Reader(error.to_string())
}

impl CardPort for PcscPort {
    fn reset(&mut self) -> Result<Vec<u8>, PortError> {
        if self.connect().is_err() {
            // A card that was taken out leaves a connection that cannot be used again.
            self.card = None;
            self.connect().map_err(reader_error)?;
        }
        let card = self.card.as_ref().ok_or(PortError::NoAnswer { bytes: 0 })?;
        Ok(card.status2_owned().map_err(reader_error)?.atr().to_vec())
    }

    fn transmit(&mut self, command: &[u8], response: &mut Vec<u8>) -> Result<(), PortError> {
        let card =
            self.card.as_ref().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected))?;
        let mut buffer = [0; MAX_BUFFER_SIZE];
        let answer = card.transmit(command, &mut buffer).map_err(reader_error)?;
        if answer.len() < 2 {
            return Err(PortError::NoAnswer { bytes: answer.len() });
        }
        response.clear();
        response.extend_from_slice(answer);
        Ok(())
    }
}
