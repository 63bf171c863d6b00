//! [`LiveMap`]: the presence map in shared memory, which outlives the worker.
//!
//! As long as it says only what the durable map says, it is plain memory: a successor has as much from the disk. It is
//! shared before the first bit is set, and before anybody can mount the file.
//!
//! A memory file of one header page and the words of the map, allocated whole and sealed against shrinking
//! and growing, so that no access can end in SIGBUS. The header names the object *and* the very file whose
//! blocks the bits describe: a map is resumed only together with that file's descriptor, in the same boot,
//! and with nothing about it in doubt.
//!
//! The last word of the header says that a sync is under way. The kernel reports a failed writeback once, to
//! the sync that meets it. A worker killed in its sync may have taken that report to the grave, so its
//! successor trusts no bit that the durable map does not have.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use larder_faults::{Site, check};
use larder_fscache::{BlockSize, Presence};
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create,
};
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::BootId;
use crate::coherency::InstanceId;
use crate::durable::Owner;
use crate::storage::Stat;
use crate::sys::Mapping;

const MAGIC: [u8; 8] = *b"LarderLM";
const VERSION: u32 = 2;
/// Bytes and words of the header page.
const HEADER_BYTES: u64 = 4096;
const HEADER_WORDS: usize = 512;
/// The word of the header that says whether a sync is under way.
const SYNCING_WORD: usize = HEADER_WORDS - 1;
const NAME_BYTES: usize = 408;

/// What a live map must belong to.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub boot_id: BootId,
    /// Volume and key.
    pub name: String,
    pub size: u64,
    pub block: BlockSize,
    /// The data file's own number.
    pub instance: InstanceId,
    /// Device and inode of the data file.
    pub file: (u64, u64),
}

impl Identity {
    /// The identity of the object `name` whose data file is the one that `stat` saw.
    pub fn new(boot_id: BootId, name: String, owner: &Owner, stat: &Stat) -> Self {
        let Owner { instance, size, block } = *owner;
        Self { boot_id, name, size, block, instance, file: (stat.dev, stat.ino) }
    }

    fn words(&self) -> u64 {
        Presence::words_for(self.size, self.block)
    }

    fn len(&self) -> u64 {
        HEADER_BYTES + self.words() * 8
    }
}

/// The header page, as far as it is used.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    block_bits: U32,
    size: U64,
    dev: U64,
    ino: U64,
    boot_id: [u8; 16],
    instance: [u8; 16],
    name_len: U32,
    reserved: U32,
    name: [u8; NAME_BYTES],
}

impl Header {
    fn of(identity: &Identity) -> Option<Self> {
        let mut name = [0; NAME_BYTES];
        name.get_mut(..identity.name.len())?.copy_from_slice(identity.name.as_bytes());
        Some(Self {
            magic: MAGIC,
            version: U32::new(VERSION),
            block_bits: U32::new(u32::from(identity.block.bits())),
            size: U64::new(identity.size),
            dev: U64::new(identity.file.0),
            ino: U64::new(identity.file.1),
            boot_id: *identity.boot_id.as_bytes(),
            instance: identity.instance.0,
            name_len: U32::new(u32::try_from(identity.name.len()).ok()?),
            reserved: U32::new(0),
            name,
        })
    }

    /// Says which field differs from what it must be.
    fn mismatch(&self, expected: &Self) -> Option<&'static str> {
        [
            (self.magic == expected.magic, "magic"),
            (self.version == expected.version, "version"),
            (self.boot_id == expected.boot_id, "boot id"),
            (self.size == expected.size, "size"),
            (self.block_bits == expected.block_bits, "block size"),
            (self.instance == expected.instance, "instance"),
            ((self.dev, self.ino) == (expected.dev, expected.ino), "data file"),
            (self.name_len == expected.name_len && self.name == expected.name, "name"),
        ]
        .into_iter()
        .find_map(|(same, field)| (!same).then_some(field))
    }
}

/// Why a map that was held cannot be resumed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("its {0} is another")]
    Differs(&'static str),
    #[error("it is not sealed")]
    Unsealed,
    #[error("it has bits past the end of the object")]
    StrayBits,
    #[error("it cannot be read")]
    Io(#[from] io::Error),
}

/// The presence map of one object.
#[derive(Debug)]
pub(crate) struct LiveMap {
    identity: Identity,
    /// What is durable, as long as there is nothing more to say.
    durable: Vec<AtomicU64>,
    shared: OnceLock<Shared>,
    /// Held while the map is shared: it is done once.
    sharing: Mutex<()>,
}

/// Memory that outlives the worker.
#[derive(Debug)]
struct Shared {
    memfd: OwnedFd,
    mapping: Mapping,
}

impl LiveMap {
    /// A map with the bits `words` set, which are durable; missing words are all holes. It is not shared yet.
    pub fn of_durable(identity: Identity, words: &[u64]) -> io::Result<Self> {
        let len = usize::try_from(identity.words()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let words = words.iter().copied().chain(std::iter::repeat(0));
        let durable = words.take(len).map(AtomicU64::new).collect();
        Ok(Self { identity, durable, shared: OnceLock::new(), sharing: Mutex::new(()) })
    }

    /// Moves the map to shared memory, unless it is there, and calls `keep` with the memory file when it has come there.
    pub fn share(&self, keep: impl FnOnce(BorrowedFd<'_>)) -> io::Result<()> {
        if self.shared.get().is_some() {
            return Ok(());
        }
        let _once = self.sharing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.shared.get().is_some() {
            return Ok(());
        }
        let shared = Shared::create(&self.identity, &self.durable)?;
        keep(shared.memfd.as_fd());
        // Whoever sets a bit shares the map first: none is set between the copy and this.
        self.shared.get_or_init(|| shared);
        Ok(())
    }

    /// Takes up a map that an earlier worker left, if it is this object's without a doubt.
    pub fn resume(memfd: OwnedFd, identity: &Identity) -> Result<Self, Unusable> {
        let seals = fcntl_get_seals(&memfd).map_err(io::Error::from)?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(Unusable::Unsealed);
        }
        let len = fstat(&memfd).map_err(io::Error::from)?.st_size;
        if u64::try_from(len) != Ok(identity.len()) {
            return Err(Unusable::Differs("length"));
        }
        let file = File::from(memfd);
        let mut bytes = [0; size_of::<Header>()];
        file.read_exact_at(&mut bytes, 0)?;
        let expected = Header::of(identity).ok_or(Unusable::Differs("name"))?;
        let found: Header = zerocopy::transmute!(bytes);
        if let Some(field) = found.mismatch(&expected) {
            return Err(Unusable::Differs(field));
        }
        let shared = OnceLock::from(Shared::mapped(file.into(), identity)?);
        let (identity, durable, sharing) = (identity.clone(), Vec::new(), Mutex::new(()));
        let map = Self { identity, durable, shared, sharing };
        let presence = map.presence();
        let stray = (0..)
            .zip(map.map_words())
            .any(|(n, word)| word.load(Ordering::Acquire) & !presence.valid_mask(n) != 0);
        if stray { Err(Unusable::StrayBits) } else { Ok(map) }
    }

    /// The bits. Those of a map that is shared meanwhile stay what they were: to be asked for anew each time.
    pub fn presence(&self) -> Presence<'_> {
        Presence::new(self.map_words(), self.identity.size, self.identity.block)
            .expect("made with as many words as the size needs")
    }

    /// Says, also to a successor, whether the data is being synced. One that finds no shared map trusts only what is
    /// durable anyway.
    pub fn set_syncing(&self, syncing: bool) {
        if let Some(shared) = self.shared.get() {
            shared.mapping.words()[SYNCING_WORD].store(u64::from(syncing), Ordering::SeqCst);
        }
    }

    /// Whether the last worker died in a sync.
    pub fn is_syncing(&self) -> bool {
        let word = |shared: &Shared| shared.mapping.words()[SYNCING_WORD].load(Ordering::SeqCst);
        self.shared.get().is_some_and(|shared| word(shared) != 0)
    }

    /// The memory file, for the holder, if the map is shared.
    pub fn memfd(&self) -> Option<BorrowedFd<'_>> {
        self.shared.get().map(|shared| shared.memfd.as_fd())
    }

    fn map_words(&self) -> &[AtomicU64] {
        self.shared.get().map_or(&self.durable, |shared| &shared.mapping.words()[HEADER_WORDS..])
    }
}

impl Shared {
    fn create(identity: &Identity, words: &[AtomicU64]) -> io::Result<Self> {
        let header = Header::of(identity).ok_or(io::ErrorKind::InvalidInput)?;
        check(Site::CachefilesMemfd)?;
        let memfd = memfd_create("larder-live-map", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        check(Site::CachefilesAllocate)?;
        fallocate(&memfd, FallocateFlags::empty(), 0, identity.len())?;
        fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let file = File::from(memfd);
        file.write_all_at(header.as_bytes(), 0)?;
        let shared = Self::mapped(file.into(), identity)?;
        for (word, bits) in shared.mapping.words()[HEADER_WORDS..].iter().zip(words) {
            word.store(bits.load(Ordering::Acquire), Ordering::Release);
        }
        Ok(shared)
    }

    fn mapped(memfd: OwnedFd, identity: &Identity) -> io::Result<Self> {
        let words = usize::try_from(identity.words()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        check(Site::CachefilesMmap)?;
        let mapping = Mapping::new(memfd.as_fd(), HEADER_WORDS + words)?;
        Ok(Self { memfd, mapping })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_fscache::{ObjectRange, Run};

    fn identity() -> Identity {
        Identity {
            boot_id: BootId::from_bytes([1; 16]),
            name: "v/c".to_owned(),
            size: 100 * 4096 + 5,
            block: BlockSize::FOUR_KIB,
            instance: InstanceId([5; 16]),
            file: (8, 9),
        }
    }

    fn shared(words: &[u64]) -> LiveMap {
        let map = LiveMap::of_durable(identity(), words).expect("memory");
        map.share(|_| ()).expect("memory");
        map
    }

    fn copy(map: &LiveMap) -> OwnedFd {
        map.memfd().expect("shared").try_clone_to_owned().expect("descriptors are left")
    }

    #[test]
    fn what_one_process_marked_the_next_finds() {
        let map = shared(&[0b11]);
        map.presence().set(ObjectRange::at(100 * 4096, 5));
        map.set_syncing(true);
        let memfd = copy(&map);
        drop(map);
        let map = LiveMap::resume(memfd, &identity()).expect("the same object");
        assert!(map.is_syncing());
        assert_eq!(map.presence().probe(ObjectRange::at(0, u64::MAX)), Run::Present { until: 8192 });
        assert_eq!(map.presence().present_bytes(), 8192 + 5);
    }

    #[test]
    fn a_map_is_shared_once_and_says_the_same_before_and_after() {
        let map = LiveMap::of_durable(identity(), &[0b101]).expect("memory");
        let run = |at| map.presence().probe(ObjectRange::at(at, 4096));
        let before = [0, 4096, 8192].map(run);
        assert!(map.memfd().is_none());
        let mut kept = 0;
        for _ in 0..2 {
            map.share(|_| kept += 1).expect("memory");
        }
        assert_eq!((kept, [0, 4096, 8192].map(run)), (1, before));
        map.presence().set(ObjectRange::at(4096, 4096));
        assert_eq!(map.presence().present_bytes(), 3 * 4096);
    }

    #[test]
    fn a_map_of_anything_else_is_not_resumed() {
        let map = shared(&[]);
        let others = [
            ("boot id", Identity { boot_id: BootId::from_bytes([2; 16]), ..identity() }),
            ("name", Identity { name: "v/d".to_owned(), ..identity() }),
            ("name", Identity { name: "v/c2".to_owned(), ..identity() }),
            ("size", Identity { size: identity().size - 1, ..identity() }),
            ("length", Identity { size: identity().size * 2, ..identity() }),
            ("instance", Identity { instance: InstanceId([6; 16]), ..identity() }),
            ("data file", Identity { file: (8, 10), ..identity() }),
            ("data file", Identity { file: (7, 9), ..identity() }),
        ];
        for (field, other) in others {
            let refused = LiveMap::resume(copy(&map), &other);
            assert!(
                matches!(refused, Err(Unusable::Differs(found)) if found == field),
                "{field}: {refused:?}"
            );
        }
    }

    #[test]
    fn a_map_with_a_foreign_magic_or_version_is_not_resumed() {
        for (at, field) in [(0, "magic"), (8, "version")] {
            let map = shared(&[]);
            File::from(copy(&map)).write_all_at(&[0xff], at).expect("writable");
            let refused = LiveMap::resume(copy(&map), &identity());
            assert!(matches!(refused, Err(Unusable::Differs(found)) if found == field), "{refused:?}");
        }
    }

    #[test]
    fn a_map_that_claims_blocks_past_the_end_is_not_resumed() {
        let map = shared(&[0, 1 << 37]);
        assert!(matches!(LiveMap::resume(copy(&map), &identity()), Err(Unusable::StrayBits)));
    }

    #[test]
    fn what_is_no_sealed_memory_file_is_not_resumed() {
        let plain = tempfile::tempfile().expect("a file");
        plain.set_len(identity().len()).expect("space");
        assert!(LiveMap::resume(plain.into(), &identity()).is_err());
        let unsealed = memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memory");
        assert!(matches!(LiveMap::resume(unsealed, &identity()), Err(Unusable::Unsealed)));
    }

    #[test]
    fn an_object_of_no_bytes_has_a_map() {
        let identity = Identity { size: 0, ..identity() };
        let map = LiveMap::of_durable(identity.clone(), &[]).expect("memory");
        assert_eq!(map.presence().present_bytes(), 0);
        map.share(|_| ()).expect("memory");
        LiveMap::resume(copy(&map), &identity).expect("the same object");
    }
}
