//! The seal of an index: what says that its file is, to the bit, as its last owner closed it.
//!
//! The database has checksums of its own, but looks at them only when it repairs: bytes that it never wrote lead it to a
//! wrong row, into a panic or round in circles. So none is opened before all of it has been compared, which takes a
//! tenth of a second for a million objects. What fails later, while it is open, ends a worker; its successor finds no seal.
//!
//! A file of one line beside the index: `larder index`, version, length in bytes, CRC-32C in hexadecimal. It is there
//! only while no process has the index open.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Version of the index's rows; another one is rebuilt.
const VERSION: u32 = 3;
/// That of the release before, whose rows say nothing of handles: as ours may.
const VERSION_BEFORE: u32 = 2;
/// Bytes that are read at once.
const PIECE_BYTES: usize = 1 << 20;

/// Seals the index at `path`, which is closed. A seal that a power loss takes back, or tears, is none.
pub(super) fn seal(path: &Path) -> io::Result<()> {
    fs::write(place(path), Sum::of(path)?.line(VERSION))
}

/// Says whether the index at `path` is just as it was sealed, and breaks the seal, durably: nothing can be changed before.
pub(super) fn unseal(path: &Path) -> io::Result<bool> {
    let place = place(path);
    let sealed = match fs::read(&place) {
        Ok(sealed) => sealed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    break_seal(path)?;
    if !path.try_exists()? {
        return Ok(false);
    }
    let sum = Sum::of(path)?;
    Ok([VERSION, VERSION_BEFORE].iter().any(|version| sum.line(*version).as_bytes() == sealed))
}

/// Removes the seal, durably: nothing can be changed before.
pub(super) fn break_seal(path: &Path) -> io::Result<()> {
    let place = place(path);
    match fs::remove_file(&place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    place.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn place(path: &Path) -> PathBuf {
    path.with_extension("seal")
}

/// What a seal says of a file.
struct Sum {
    len: usize,
    crc: u32,
}

impl Sum {
    fn of(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let (mut piece, mut len, mut crc) = (vec![0; PIECE_BYTES], 0, 0);
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(Self { len, crc }),
                read => {
                    len += read;
                    crc = crc32c::crc32c_append(crc, &piece[..read]);
                }
            }
        }
    }

    fn line(&self, version: u32) -> String {
        let Self { len, crc } = self;
        format!("larder index {version} {len} {crc:08x}\n")
    }
}
