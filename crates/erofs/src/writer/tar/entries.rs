//! [`Entries`]: the entries of an archive, one after the other.

use std::io::{self, Read};

use super::header::{BLOCK_BYTES, Header};
use super::pax::Records;
use super::sparse;
use crate::error::path_of;
use crate::{Error, FileType, Rdev, Timestamp, Xattr};

/// Bytes of a name, at most; of the PAX records of an entry; and of those that are for all entries.
const EXTRA_BYTES_MAX: u64 = 1 << 20;

/// One entry of an archive.
#[derive(Debug)]
pub(in crate::writer) struct Entry {
    pub path: Vec<u8>,
    pub kind: EntryKind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    pub xattrs: Vec<Xattr>,
}

/// What an entry is.
#[derive(Debug)]
pub(in crate::writer) enum EntryKind {
    /// A regular file. Its contents come next, from byte `at` of the archive: all of them, or those pieces of a sparse
    /// file that `map` lists.
    File {
        size: u64,
        at: u64,
        map: Option<Vec<(u64, u64)>>,
    },
    Directory,
    Symlink(Vec<u8>),
    /// Another name for what has this one.
    HardLink(Vec<u8>),
    Special(FileType, Rdev),
}

/// What is wrong with an archive.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each message is the documentation of its variant and fields")]
pub enum TarFault {
    #[error("it is no header: the checksum does not fit")]
    Checksum,
    #[error("{field} is no number, or too large")]
    Number { field: &'static str },
    #[error("its extra records are damaged")]
    Records,
    #[error("its name or extra records are longer than {bytes_max} bytes")]
    RecordsTooLong { bytes_max: u64 },
    #[error("its map of a sparse file is wrong")]
    Sparse,
    #[error("entries of kind {kind:#04x} are unknown")]
    Kind { kind: u8 },
    #[error("the archive ends in the middle of it")]
    Short,
}

/// Reads an archive from front to back.
#[derive(Debug)]
pub(in crate::writer) struct Entries<R> {
    pub(super) reader: R,
    /// Bytes read so far.
    at: u64,
    /// Where the header of the entry at hand began.
    entry_at: u64,
    /// Bytes of the contents at hand still to be read.
    left: u64,
    global: Records,
    /// Bytes of records that are for all entries, so far: what they say is kept.
    global_bytes: u64,
    /// The archive has ended: what lies behind is no part of it.
    has_ended: bool,
}

impl<R: Read> Entries<R> {
    pub(in crate::writer) fn new(reader: R) -> Self {
        Self {
            reader,
            at: 0,
            entry_at: 0,
            left: 0,
            global: Records::default(),
            global_bytes: 0,
            has_ended: false,
        }
    }

    /// Bytes read so far.
    pub(in crate::writer) fn position(&self) -> u64 {
        self.at
    }

    /// Goes to the next entry, passing by what is left of the contents at hand.
    pub(in crate::writer) fn next(&mut self) -> Result<Option<Entry>, Error> {
        if self.has_ended {
            return Ok(None);
        }
        self.skip_contents()?;
        let (mut records, mut record_bytes) = (self.global.clone(), 0);
        let (mut long_name, mut long_link) = (None, None);
        self.entry_at = self.at;
        loop {
            let Some(block) = self.header()? else {
                self.has_ended = true;
                return Ok(None);
            };
            let header = Header(&block);
            let size = header.size();
            match header.kind() {
                b'x' | b'X' => {
                    let body = self.extra(size, &mut record_bytes)?;
                    records.parse(&body).ok_or(self.fault(TarFault::Records))?;
                }
                b'g' => {
                    let mut bytes = self.global_bytes;
                    let body = self.extra(size, &mut bytes)?;
                    self.global_bytes = bytes;
                    self.global.parse(&body).ok_or(self.fault(TarFault::Records))?;
                    (records, record_bytes) = (self.global.clone(), 0);
                }
                b'L' => long_name = Some(until_nul(self.extra(size, &mut 0)?)),
                b'K' => long_link = Some(until_nul(self.extra(size, &mut 0)?)),
                // A name for the whole volume.
                b'V' => drop(self.extra(size, &mut 0)?),
                _ => return self.entry(&header, &records, long_name, long_link).map(Some),
            }
        }
    }

    /// Reads contents of the file at hand.
    pub(in crate::writer) fn read_contents(&mut self, buf: &mut [u8]) -> Result<(), Error> {
        let len = buf.len() as u64;
        assert!(len <= self.left, "not beyond the contents");
        self.fill(buf)?;
        self.left -= len;
        Ok(())
    }

    /// Reads on to the end of the stream, past what stands behind the archive.
    pub(in crate::writer) fn finish(&mut self) -> Result<(), Error> {
        let mut rest = [0; 16384];
        loop {
            match self.reader.read(&mut rest) {
                Ok(0) => return Ok(()),
                Ok(len) => self.at += len as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::ReadTar { at: self.at, source }),
            }
        }
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        records: &Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, Error> {
        let number = |field| move || TarFault::Number { field };
        let path = records.sparse_name.clone().or_else(|| records.path.clone()).or(long_name);
        let path = path.unwrap_or_else(|| header.name());
        let is_dir_name = path.ends_with(b"/");
        let link = records.link.clone().or(long_link).unwrap_or_else(|| header.link().to_vec());
        let narrow = |own: Option<u64>, said: Option<u64>, field| {
            let wide = said.or(own).and_then(|id| u32::try_from(id).ok());
            wide.ok_or(self.fault(TarFault::Number { field }))
        };
        let uid = narrow(header.uid(), records.uid, "the owner")?;
        let gid = narrow(header.gid(), records.gid, "the group")?;
        let mode = header.mode().ok_or_else(|| self.fault(number("the mode")()))? & 0o7777;
        let mtime = match records.mtime {
            Some(mtime) => mtime,
            None => Timestamp::new(header.mtime().ok_or_else(|| self.fault(number("the time")()))?, 0),
        };
        let kind = match header.kind() {
            b'0' | 0 | b'7' | b'S' if !is_dir_name => self.file(header, records)?,
            b'0' | 0 | b'7' | b'5' | b'D' => {
                // Directories have no contents, but some writers give them a size of what lies below.
                EntryKind::Directory
            }
            b'1' => EntryKind::HardLink(link),
            b'2' => EntryKind::Symlink(link),
            b'3' | b'4' => {
                let kind = if header.kind() == b'3' { FileType::CharDevice } else { FileType::BlockDevice };
                let device = header.device().and_then(|(major, minor)| {
                    Rdev::new(u32::try_from(major).ok()?, u32::try_from(minor).ok()?)
                });
                EntryKind::Special(kind, device.ok_or_else(|| self.fault(number("the device number")()))?)
            }
            b'6' => EntryKind::Special(FileType::Fifo, Rdev::default()),
            kind => return Err(self.fault(TarFault::Kind { kind })),
        };
        let mode = u16::try_from(mode).expect("twelve bits");
        Ok(Entry { path, kind, mode, uid, gid, mtime, xattrs: records.xattrs.clone() })
    }

    fn file(&mut self, header: &Header<'_>, records: &Records) -> Result<EntryKind, Error> {
        let size = records.size.or_else(|| header.size());
        let mut stored = size.ok_or_else(|| self.fault(TarFault::Number { field: "the size" }))?;
        let (mut real, mut map) = (stored, None);
        if header.kind() == b'S' {
            let mut pieces = Vec::new();
            let wrong = || TarFault::Sparse;
            let mut more = sparse::in_header(header.0, &mut pieces).ok_or_else(|| self.fault(wrong()))?;
            while more {
                let block = self.block()?;
                more = sparse::in_extension(&block, &mut pieces).ok_or_else(|| self.fault(wrong()))?;
            }
            real = sparse::real_size(header.0).ok_or_else(|| self.fault(wrong()))?;
            map = Some(pieces);
            self.left = stored;
        } else if records.sparse_major == Some(1) {
            self.left = stored;
            let before = self.at;
            let fault = self.fault_maker(TarFault::Sparse);
            let pieces = sparse::in_contents(|| self.contents_block(), fault)?;
            stored -= self.at - before;
            real = records.sparse_size.ok_or_else(|| self.fault(TarFault::Sparse))?;
            map = Some(pieces);
        } else if !records.sparse_map.is_empty() {
            real = records.sparse_size.ok_or_else(|| self.fault(TarFault::Sparse))?;
            map = Some(records.sparse_map.clone());
        }
        self.left = stored;
        if let Some(map) = &mut map {
            sparse::check(map, real, stored).ok_or_else(|| self.fault(TarFault::Sparse))?;
        }
        if i64::try_from(real).is_err() || stored.checked_add(self.at).is_none() {
            return Err(self.fault(TarFault::Number { field: "the size" }));
        }
        Ok(EntryKind::File { size: real, at: self.at, map })
    }

    /// Reads the next header; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, Error> {
        let mut block = [0; BLOCK_BYTES];
        let start = self.at;
        let mut have = 0;
        while have < BLOCK_BYTES {
            match self.reader.read(&mut block[have..]) {
                // Some writers leave out the blocks of zeros at the end.
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(self.fault(TarFault::Short)),
                Ok(len) => have += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::ReadTar { at: start, source }),
            }
        }
        self.at += BLOCK_BYTES as u64;
        let header = Header(&block);
        if header.is_end() {
            return Ok(None);
        }
        if !header.is_sound() {
            return Err(self.fault(TarFault::Checksum));
        }
        Ok(Some(block))
    }

    /// Reads a body of `size` bytes that comes after `before` others of its kind, and counts it.
    fn extra(&mut self, size: Option<u64>, before: &mut u64) -> Result<Vec<u8>, Error> {
        let size = size.ok_or_else(|| self.fault(TarFault::Number { field: "the size" }))?;
        let sum = before.checked_add(size).filter(|&sum| sum <= EXTRA_BYTES_MAX);
        *before = sum.ok_or_else(|| self.fault(TarFault::RecordsTooLong { bytes_max: EXTRA_BYTES_MAX }))?;
        self.body(size)
    }

    /// Reads a short body with its padding.
    fn body(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        let len = usize::try_from(size).map_err(|_| self.fault(TarFault::Records))?;
        let mut body = vec![0; len.next_multiple_of(BLOCK_BYTES)];
        self.fill(&mut body)?;
        body.truncate(len);
        Ok(body)
    }

    fn block(&mut self) -> Result<[u8; BLOCK_BYTES], Error> {
        let mut block = [0; BLOCK_BYTES];
        self.fill(&mut block)?;
        Ok(block)
    }

    /// A block of the contents at hand.
    fn contents_block(&mut self) -> Result<[u8; BLOCK_BYTES], Error> {
        let left = self.left.checked_sub(BLOCK_BYTES as u64);
        self.left = left.ok_or_else(|| self.fault(TarFault::Sparse))?;
        self.block()
    }

    /// Reads past the contents at hand and their padding.
    pub(super) fn skip_contents(&mut self) -> Result<(), Error> {
        let pad =
            self.at.checked_add(self.left).and_then(|end| end.checked_next_multiple_of(BLOCK_BYTES as u64));
        let end = pad.ok_or_else(|| self.fault(TarFault::Number { field: "the size" }))?;
        self.left = 0;
        let mut buffer = [0; 16384];
        while self.at < end {
            let len = usize::try_from(end - self.at).map_or(buffer.len(), |len| len.min(buffer.len()));
            self.fill(&mut buffer[..len])?;
        }
        Ok(())
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<(), Error> {
        self.reader.read_exact(buf).map_err(|source| {
            if source.kind() == io::ErrorKind::UnexpectedEof {
                self.fault(TarFault::Short)
            } else {
                Error::ReadTar { at: self.at, source }
            }
        })?;
        self.at += buf.len() as u64;
        Ok(())
    }

    fn fault(&self, fault: TarFault) -> Error {
        Error::Tar { at: self.entry_at, fault }
    }

    fn fault_maker(&self, fault: TarFault) -> impl Fn() -> Error + use<R> {
        let at = self.entry_at;
        move || Error::Tar { at, fault }
    }
}

fn until_nul(mut body: Vec<u8>) -> Vec<u8> {
    let len = body.iter().position(|&byte| byte == 0).unwrap_or(body.len());
    body.truncate(len);
    body
}

impl Entry {
    /// The path inside the image: without what stands for the root.
    pub(in crate::writer) fn image_path(&self) -> Result<Vec<u8>, Error> {
        clean(&self.path)
    }
}

/// Takes `/`, `./` and doubled slashes out of a path; one that leads upwards is refused.
pub(super) fn clean(path: &[u8]) -> Result<Vec<u8>, Error> {
    let names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let names: Vec<&[u8]> = names.collect();
    if names.contains(&b"..".as_slice()) {
        return Err(Error::BadPath { path: path_of(path) });
    }
    Ok(names.join(&b'/'))
}
