//! [`Site`]: every place where a fault can strike.

/// What can happen at a site, besides death and a pause.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Power {
    /// Nothing else: a step between two calls.
    Step,
    /// It can fail.
    Call,
    /// It can fail, and it can move fewer bytes than it was asked to.
    Transfer,
}

macro_rules! sites {
    ($($(#[$meta:meta])* $variant:ident = $name:literal, $power:ident;)*) => {
        /// A place where a fault can strike, named `layer.step`.
        ///
        /// To add one, add a line here and a call of [`point`](crate::point), [`check`](crate::check) or
        /// [`length`](crate::length) beside the thing itself.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Site {
            $($(#[$meta])* $variant,)*
        }

        impl Site {
            /// Every site, in the order of declaration, which is the order of a byte's way up.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name, `layer.step`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What can happen here.
            pub const fn power(self) -> Power {
                match self { $(Self::$variant => Power::$power),* }
            }
        }
    };
}

sites! {
    /// `mkdirat`
    CachefilesMkdir = "cachefiles.mkdir", Call;
    /// `openat` that makes a file
    CachefilesCreate = "cachefiles.create", Call;
    /// `openat` of what exists
    CachefilesOpen = "cachefiles.open", Call;
    /// `name_to_handle_at`, `open_by_handle_at`
    CachefilesHandle = "cachefiles.handle", Call;
    /// `renameat`
    CachefilesRename = "cachefiles.rename", Call;
    /// `unlinkat`
    CachefilesUnlink = "cachefiles.unlink", Call;
    /// `getdents64`
    CachefilesList = "cachefiles.list", Call;
    /// `fstatat`, `fstat`
    CachefilesStat = "cachefiles.stat", Call;
    /// `fstatfs`
    CachefilesStatfs = "cachefiles.statfs", Call;
    /// `pread`
    CachefilesPread = "cachefiles.pread", Transfer;
    /// `pwrite`
    CachefilesPwrite = "cachefiles.pwrite", Transfer;
    /// `ftruncate`
    CachefilesTruncate = "cachefiles.truncate", Call;
    /// `fallocate` that takes space
    CachefilesAllocate = "cachefiles.allocate", Call;
    /// `fallocate` that punches a hole
    CachefilesPunch = "cachefiles.punch", Call;
    /// `fdatasync`
    CachefilesFdatasync = "cachefiles.fdatasync", Call;
    /// `fsync` of a file
    CachefilesFsync = "cachefiles.fsync", Call;
    /// `fsync` of a directory
    CachefilesFsyncDir = "cachefiles.fsync_dir", Call;
    /// `fchmod`
    CachefilesChmod = "cachefiles.chmod", Call;
    /// `fgetxattr`
    CachefilesGetxattr = "cachefiles.getxattr", Call;
    /// `fsetxattr`, `fremovexattr`
    CachefilesSetxattr = "cachefiles.setxattr", Call;
    /// `FS_IOC_ENABLE_VERITY`
    CachefilesVerity = "cachefiles.verity", Call;
    /// `memfd_create` of a live map
    CachefilesMemfd = "cachefiles.memfd", Call;
    /// `mmap` of a live map
    CachefilesMmap = "cachefiles.mmap", Call;
    /// `flock` of the cache
    CachefilesLock = "cachefiles.lock", Call;
    /// data is in the backing file, its presence bits are not set yet
    CachefilesWritten = "cachefiles.written", Step;
    /// presence bits are set in the live map
    CachefilesMarked = "cachefiles.marked", Step;
    /// the data of a commit is synced, its durable map is not replaced yet
    CachefilesSynced = "cachefiles.synced", Step;
    /// a durable map is replaced
    CachefilesCommitted = "cachefiles.committed", Step;
    /// presence bits are cleared, the range is not punched yet
    CachefilesUnmarked = "cachefiles.unmarked", Step;
    /// the object to cull is chosen, nothing is removed yet
    CachefilesCulling = "cachefiles.culling", Step;
    /// the data of a removed object is gone, its durable map is not
    CachefilesBuried = "cachefiles.buried", Step;
    /// a complete object is about to be sealed
    CachefilesSealing = "cachefiles.sealing", Step;

    /// a request is about to be sent
    RemoteConnect = "remote.connect", Call;
    /// a request's headers have come
    RemoteHeaders = "remote.headers", Call;
    /// the first piece of a body has come; short: the connection ends within it
    RemoteBody = "remote.body", Transfer;

    /// a hole is booked: others may wait for it now
    OndemandBooked = "ondemand.booked", Step;
    /// a fill is admitted to the network
    OndemandAdmitted = "ondemand.admitted", Step;
    /// the bytes of a chunk have come
    OndemandArrived = "ondemand.arrived", Call;
    /// the stored digest of a chunk was right
    OndemandVerified = "ondemand.verified", Call;
    /// a chunk is decoded, nothing is written yet
    OndemandDecoded = "ondemand.decoded", Call;
    /// a chunk is in the cache, its waiters not told yet
    OndemandWritten = "ondemand.written", Step;
    /// the waiters of a chunk are told
    OndemandLanded = "ondemand.landed", Step;

    /// a request of a network file system is cut into subrequests
    NetfsIssue = "netfs.issue", Step;
    /// a subrequest is downloaded
    NetfsDownload = "netfs.download", Transfer;
    /// a subrequest is read from the cache
    NetfsReadCache = "netfs.read_cache", Transfer;
    /// downloaded bytes are about to be copied to the cache
    NetfsCopyToCache = "netfs.copy_to_cache", Call;
    /// the request is assessed
    NetfsAssess = "netfs.assess", Step;

    /// an event of the fanotify group is read, in no journal yet
    MountFanotifyRead = "mount.fanotify_read", Step;
    /// an event is in the journal
    MountFanotifyJournal = "mount.fanotify_journal", Step;
    /// the bytes are there, the event is not answered yet
    MountFanotifyAnswer = "mount.fanotify_answer", Step;
    /// the event is answered, the journal still names it
    MountFanotifyAnswered = "mount.fanotify_answered", Step;
    /// a mark is set or taken off
    MountFanotifyMark = "mount.fanotify_mark", Call;
    /// a request of the kernel is read from /dev/fuse
    MountFuseRead = "mount.fuse_read", Step;
    /// the reply to a request is not written yet
    MountFuseReply = "mount.fuse_reply", Step;

    /// the keeper has received a message, nothing is done yet
    KeeperReceive = "keeper.receive", Step;
    /// the keeper has stored a descriptor, the worker does not know yet
    KeeperStored = "keeper.stored", Step;
    /// the worker is gone, the keeper has not started another yet
    KeeperRespawn = "keeper.respawn", Step;

    /// the record of a mount is written, nothing is mounted yet
    LarderRecord = "larder.record", Step;
    /// a mount is made, the caller not told yet
    LarderMounted = "larder.mounted", Step;
    /// a new worker has taken over the descriptors, no mount is resumed yet
    LarderResume = "larder.resume", Step;
    /// a mount is taken down, its record still stands
    LarderUnmounted = "larder.unmounted", Step;
}

impl Site {
    /// Finds a site by its name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|site| site.name() == name)
    }

    /// The place in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
        self as usize
    }

    /// What stands before the dot.
    pub fn layer(self) -> &'static str {
        self.name().split_once('.').map_or(self.name(), |(layer, _)| layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_site_has_a_name_of_its_own_of_the_form_layer_dot_step() {
        for (index, site) in Site::ALL.iter().enumerate() {
            assert_eq!(site.index(), index);
            assert_eq!(Site::from_name(site.name()), Some(*site), "{}", site.name());
            let (layer, step) = site.name().split_once('.').expect("a dot");
            let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(plain(layer) && plain(step) && !step.is_empty(), "{}", site.name());
            assert_eq!(site.layer(), layer);
        }
    }
}
