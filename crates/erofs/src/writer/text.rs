//! [`Text`]: all names and link targets of a tree in one buffer, since an allocation for each costs more.

use crate::Error;

/// A piece of [`Text`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    at: u32,
    len: u32,
}

/// All names and link targets in one buffer.
#[derive(Debug, Default)]
pub(super) struct Text(Vec<u8>);

impl Text {
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<Span, Error> {
        const TOO_LARGE: Error = Error::TooLarge { what: "more than 4 GiB of names" };
        let at = u32::try_from(self.0.len()).map_err(|_| TOO_LARGE)?;
        let len = u32::try_from(bytes.len()).map_err(|_| TOO_LARGE)?;
        at.checked_add(len).ok_or(TOO_LARGE)?;
        self.0.extend_from_slice(bytes);
        Ok(Span { at, len })
    }

    pub(super) fn get(&self, span: Span) -> &[u8] {
        let at = index(span.at);
        &self.0[at..at + index(span.len)]
    }
}

/// Widens an index of 32 bits, which every machine with a file system to build can hold.
pub(super) fn index(index: u32) -> usize {
    usize::try_from(index).expect("32 bits fit into usize")
}
