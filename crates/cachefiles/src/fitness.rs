//! Trying at the start what the cache will need later: better a clear refusal than a strange failure.

use std::io;

use crate::coherency::OBJECT_ATTR;
use crate::layout::{CACHE, GRAVEYARD, TMP};
use crate::storage::{Storage, StorageFile, mkdir_durably, read_exact, write_all};

/// Length of the file that is tried, and where a block is written into it.
const LEN: u64 = 256 << 10;
const AT: u64 = LEN / 2;

/// What was tried and failed.
#[derive(Debug)]
pub(crate) struct Unfit {
    pub step: &'static str,
    pub source: io::Error,
}

/// Tries everything that objects do, and leaves the folders of the cache behind.
pub(crate) fn try_out(storage: &dyn Storage) -> Result<(), Unfit> {
    let step = |step| move |source| Unfit { step, source };
    mkdir_durably(storage, TMP).map_err(step("making a folder"))?;
    mkdir_durably(storage, CACHE).map_err(step("making a folder"))?;
    mkdir_durably(storage, GRAVEYARD).map_err(step("making a folder"))?;
    let (old, new) = (&format!("{TMP}/fitness"), &format!("{TMP}/fitness@renamed"));
    for left in [old, new] {
        storage.unlink(left).map_err(step("removing a file"))?;
    }
    let file = storage.create(old).map_err(step("making a file"))?;
    let result = try_file(&*file).and_then(|()| {
        storage.rename(old, new).map_err(step("renaming a file"))?;
        storage.fsync_dir(TMP).map_err(step("syncing a folder"))
    });
    for left in [old, new] {
        storage.unlink(left).map_err(step("removing a file"))?;
    }
    result
}

fn try_file(file: &dyn StorageFile) -> Result<(), Unfit> {
    let step = |step| move |source| Unfit { step, source };
    let broken = |reason| io::Error::new(io::ErrorKind::Unsupported, reason);
    let block = [0x5a; 4096];
    file.set_len(LEN).map_err(step("making a sparse file"))?;
    let attribute = [0x5a; 40];
    file.set_attr(OBJECT_ATTR, &attribute).map_err(step("setting an extended attribute"))?;
    if file.attr(OBJECT_ATTR).map_err(step("reading an extended attribute"))?.as_deref() != Some(&attribute) {
        return Err(step("reading an extended attribute")(broken("it has another value than was set")));
    }
    write_all(file, &block, AT).map_err(step("writing into a sparse file"))?;
    file.fdatasync().map_err(step("syncing a file"))?;
    let mut back = [0; 4096];
    read_exact(file, &mut back, AT).map_err(step("reading a file"))?;
    if back != block {
        return Err(step("reading a file")(broken("it gave other bytes than were written")));
    }
    let stat = file.stat().map_err(step("looking at a file"))?;
    if stat.len != LEN || stat.stored >= LEN {
        return Err(step("making a sparse file")(broken("holes take space on this file system")));
    }
    file.punch(AT, block.len() as u64).map_err(step("punching a hole"))?;
    read_exact(file, &mut back, AT).map_err(step("reading a file"))?;
    if back != [0; 4096] {
        return Err(step("punching a hole")(broken("the bytes are still there")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::sim::SimDisk;

    #[test]
    fn what_a_file_system_cannot_do_is_named() {
        let disk = SimDisk::new(0);
        disk.fail_syncs(true);
        assert_eq!(try_out(&disk).expect_err("syncs fail").step, "syncing a file");
        disk.fail_syncs(false);
        disk.fill_up(true);
        assert_eq!(try_out(&disk).expect_err("no space").step, "making a file");
        disk.fill_up(false);
        disk.without_holes(true);
        assert_eq!(try_out(&disk).expect_err("holes take space").step, "making a sparse file");
        disk.without_holes(false);
        try_out(&disk).expect("nothing is left in the way");
        assert!(disk.list(TMP).expect("readable").is_empty());
    }
}
