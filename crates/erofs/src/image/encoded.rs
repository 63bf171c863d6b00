//! Reading encoded pclusters: fetch, skip the zeros in front, decode, remember.

use std::cell::Cell;
use std::sync::Arc;

use super::clusters::{Found, Turn};
use super::{Encoded, Image, Place};
use crate::addr::MetaAddr;
use crate::codec::decode;
use crate::{CodecFault, DeviceId, Error, Inode, ReadDevice};

/// Larger rooms are given back: few images have such pclusters.
const ROOM_BYTES_MAX: usize = 256 << 10;

thread_local! {
    /// Room for encoded bytes, which each pcluster needs for a moment. Memory that is new each time has to be zeroed each
    /// time, by the kernel.
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Image {
    /// Fills `piece` with decoded bytes of `encoded`, from `encoded.skip` on, unless another reader is decoding it just now and
    /// this one does not `wait`; tells whether it did.
    ///
    /// `inode` is whose bytes they are, for the error. A pcluster that `piece` takes whole is decoded in place and
    /// not remembered: whoever reads a file through does not come back.
    pub(super) fn read_encoded(
        &self,
        inode: &Inode,
        encoded: &Encoded,
        piece: &mut [u8],
        read_device: &mut ReadDevice<'_>,
        wait: bool,
    ) -> Result<bool, Error> {
        let (Ok(skip), Ok(decoded)) = (usize::try_from(encoded.skip), usize::try_from(encoded.decoded))
        else {
            return Err(self.decode_error(inode, encoded, CodecFault::Damaged));
        };
        let bytes = if piece.len() == decoded && skip == 0 {
            match self.clusters.get(encoded) {
                Some(bytes) => bytes,
                None => return self.fetch_and_decode(inode, encoded, piece, read_device).map(|()| true),
            }
        } else if wait {
            match self.clusters.await_turn(encoded) {
                Ok(bytes) => bytes,
                Err(turn) => self.decode_for_all(inode, encoded, turn, read_device)?,
            }
        } else {
            match self.clusters.find(encoded) {
                Found::Here(bytes) => bytes,
                Found::Turn(turn) => self.decode_for_all(inode, encoded, Some(turn), read_device)?,
                Found::UnderWay => return Ok(false),
            }
        };
        copy(&bytes, skip, piece).ok_or_else(|| self.short(inode, encoded, bytes.len()))?;
        Ok(true)
    }

    /// Decodes all of a pcluster and remembers it.
    fn decode_for_all(
        &self,
        inode: &Inode,
        encoded: &Encoded,
        turn: Option<Turn<'_>>,
        read_device: &mut ReadDevice<'_>,
    ) -> Result<Arc<Vec<u8>>, Error> {
        let mut bytes = self.clusters.room(usize::try_from(encoded.decoded).unwrap_or(0));
        self.fetch_and_decode(inode, encoded, &mut bytes, read_device)?;
        let bytes = Arc::new(bytes);
        match turn {
            Some(turn) => turn.put(Arc::clone(&bytes)),
            None => self.clusters.keep(encoded, Arc::clone(&bytes)),
        }
        Ok(bytes)
    }

    /// Fills `out` with the beginning of what a pcluster has in it.
    fn fetch_and_decode(
        &self,
        inode: &Inode,
        encoded: &Encoded,
        out: &mut [u8],
        read_device: &mut ReadDevice<'_>,
    ) -> Result<(), Error> {
        // Taken out and not borrowed: fetching may lead to another pcluster, of the metabox.
        let mut room = ROOM.take();
        let stream = self.fetch(inode, encoded, &mut room, read_device)?;
        self.decode(inode, encoded, stream, out)?;
        if room.capacity() <= ROOM_BYTES_MAX {
            ROOM.set(room);
        }
        Ok(())
    }

    /// Reads the encoded bytes: 1 MiB at most. `room` may hold others.
    fn fetch<'r>(
        &self,
        inode: &Inode,
        encoded: &Encoded,
        room: &'r mut Vec<u8>,
        read_device: &mut ReadDevice<'_>,
    ) -> Result<&'r [u8], Error> {
        let len = usize::try_from(encoded.len).unwrap_or(0);
        // Ask before allocating: the length comes from the image. Extra devices are their reader's business.
        if let Place::Device { device: DeviceId::PRIMARY, pa } = encoded.place
            && pa.checked_add(u64::from(encoded.len)).is_none_or(|end| end.get() > self.source_len)
        {
            return Err(self.decode_error(inode, encoded, CodecFault::Outside));
        }
        if room.len() < len {
            *room = vec![0; len];
        }
        let stream = &mut room[..len];
        make_dirty(stream);
        match encoded.place {
            Place::Device { device: DeviceId::PRIMARY, pa } => {
                self.read_meta(MetaAddr::Primary(pa.get()), stream)?;
            }
            Place::Device { device, pa } => {
                read_device(device, pa, stream).map_err(|error| error.of_device(device, pa, len))?;
            }
            Place::Metabox { at } => self.read_meta(MetaAddr::Metabox(at), stream)?,
        }
        Ok(stream)
    }

    /// Decodes a fetched pcluster. Encoded bytes stand at its end: the zeros before them fill its first block at
    /// most, and no codec's stream begins with one.
    ///
    /// Source of truth: `z_erofs_fixup_insize()`, fs/erofs/decompressor.c (v7.3).
    fn decode(&self, inode: &Inode, encoded: &Encoded, stream: &[u8], out: &mut [u8]) -> Result<(), Error> {
        if !encoded.codec.is_built() {
            return Err(Error::CodecNotBuilt { nid: inode.nid, codec: encoded.codec });
        }
        let block = self.superblock.block_size;
        let first = block.bytes() - block.offset(encoded.place.at());
        let first = usize::try_from(first).map_or(stream.len(), |first| first.min(stream.len()));
        let zeros = stream[..first].iter().position(|&byte| byte != 0);
        let stream = zeros.map(|zeros| &stream[zeros..]);
        let result = stream.ok_or(CodecFault::Empty);
        let result = result.and_then(|stream| decode(encoded.codec, &self.superblock.codecs, stream, out));
        result.map_err(|fault| self.decode_error(inode, encoded, fault))
    }

    fn short(&self, inode: &Inode, encoded: &Encoded, found: usize) -> Error {
        let wanted = usize::try_from(encoded.decoded).unwrap_or(usize::MAX);
        self.decode_error(inode, encoded, CodecFault::Short { found, wanted })
    }

    fn decode_error(&self, inode: &Inode, encoded: &Encoded, fault: CodecFault) -> Error {
        Error::Decode {
            nid: inode.nid,
            at: encoded.place.at(),
            len: encoded.len.into(),
            codec: encoded.codec,
            fault,
        }
    }
}

impl Place {
    /// The address in its space.
    fn at(self) -> u64 {
        match self {
            Self::Device { pa, .. } => pa.get(),
            Self::Metabox { at } => at,
        }
    }
}

/// Makes what a room has in it from before something that no image has there: tests then find whoever leaves a part of it.
pub(super) fn make_dirty(room: &mut [u8]) {
    if cfg!(debug_assertions) {
        room.fill(0xdb);
    }
}

fn copy(bytes: &[u8], skip: usize, piece: &mut [u8]) -> Option<()> {
    piece.copy_from_slice(bytes.get(skip..skip.checked_add(piece.len())?)?);
    Some(())
}
