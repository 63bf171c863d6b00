//! [`MountRecord`]: what a worker needs to take a mount up again, one JSON file a mount.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use larder_cachefiles::BootId;
use larder_mount::Identity;
use serde::{Deserialize, Serialize};

use crate::api::path_text;
use crate::tree::TreeOptions;

/// Version of the file's layout; a file of another one is left alone.
pub const RECORD_VERSION: u32 = 1;

/// What a worker needs to take a mount up again. The image itself lies beside, by its digests.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct MountRecord {
    version: u32,
    /// Names the mount in the API and among the keeper's descriptors.
    pub id: String,
    /// Where it is mounted.
    #[serde(with = "path_text")]
    pub target: PathBuf,
    /// The image's reference, or the tree's address, as it was given.
    pub image: String,
    /// Whether its registry is spoken to without TLS.
    pub insecure: bool,
    /// `fanotify`, `fuse-blob`, `cachefiles` or `fuse`.
    pub frontend: String,
    /// Digest of the manifest; empty for a tree.
    pub manifest: String,
    /// How a tree is mounted; absent for an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<TreeOptions>,
    /// Bytes fetched for it by all workers so far; the last seconds of a killed one are missing.
    #[serde(default)]
    pub fetched_bytes: u64,
    /// Requests that fetched them.
    #[serde(default)]
    pub requests: u64,
    /// What tells the mount from others; absent until it is made, and in a record of an older release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made: Option<Made>,
}

/// A mount that was made, or taken up.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Made {
    /// While the machine ran as this: numbers of mounts begin again with each start.
    boot: String,
    #[serde(flatten)]
    identity: Identity,
    /// It was taken away since, to be made anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    taken_away: bool,
}

/// The file of a mount's record: written again with newer figures, but never once it was removed.
#[derive(Debug, Default)]
pub struct RecordFile {
    /// Held over the I/O, which waits for nobody but another writer of this very file.
    is_removed: Mutex<bool>,
}

impl RecordFile {
    /// Writes `record`, unless it was removed.
    ///
    /// # Errors
    ///
    /// Those of [`MountRecord::save`].
    pub fn update(&self, record: &MountRecord, dir: &Path) -> anyhow::Result<()> {
        let is_removed = self.lock();
        if *is_removed { Ok(()) } else { record.save(dir) }
    }

    /// Removes it for good.
    ///
    /// # Errors
    ///
    /// Those of [`MountRecord::remove`]; it is still there then.
    pub fn remove(&self, record: &MountRecord, dir: &Path) -> anyhow::Result<()> {
        let mut is_removed = self.lock();
        MountRecord::remove(dir, &record.id)?;
        *is_removed = true;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_removed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MountRecord {
    /// A record of the present version, with a new id.
    pub fn new(target: PathBuf, image: String, insecure: bool, frontend: String, manifest: String) -> Self {
        let id = new_id();
        Self {
            version: RECORD_VERSION,
            id,
            target,
            image,
            insecure,
            frontend,
            manifest,
            tree: None,
            fetched_bytes: 0,
            requests: 0,
            made: None,
        }
    }

    /// What tells the mount from others; nothing where that is not known.
    pub fn identity(&self) -> Identity {
        self.made.as_ref().map(|made| made.identity.clone()).unwrap_or_default()
    }

    /// Whether the mount ended with an earlier run of the machine.
    pub fn is_of_earlier_boot(&self) -> bool {
        self.made.as_ref().is_some_and(|made| this_boot().is_some_and(|boot| boot != made.boot))
    }

    /// Writes down in `dir` what tells the mount from others, unless that is known as exactly: of one that was made anew all of it.
    /// Without it one that nobody serves stays mounted when it is to be detached and does not look like ours: no reason to
    /// give up one that works.
    pub fn note_made(&mut self, identity: Identity, dir: &Path) {
        match (&mut self.made, this_boot()) {
            (Some(made), _) if made.taken_away => {
                *made = Made { identity, taken_away: false, boot: made.boot.clone() }
            }
            (Some(made), _) if made.identity.is_followed_by(&identity) => made.identity = identity,
            (Some(made), _) if made.identity.is_narrowed_by(&identity) => {
                made.identity.backing = identity.backing
            }
            (None, Some(boot)) => self.made = Some(Made { boot, identity, taken_away: false }),
            _ => return,
        }
        self.save_if_possible(dir);
    }

    /// Writes down in `dir` that the mount was taken away to be made anew: when it is gone then, nobody has unmounted it.
    pub fn note_taken_away(&mut self, dir: &Path) {
        let nothing = || Some(Made { boot: this_boot()?, identity: Identity::default(), taken_away: true });
        self.made = self.made.take().map(|made| Made { taken_away: true, ..made }).or_else(nothing);
        self.save_if_possible(dir);
    }

    /// Whether the mount was taken away to be made anew, and has not been.
    pub fn is_taken_away(&self) -> bool {
        self.made.as_ref().is_some_and(|made| made.taken_away)
    }

    fn save_if_possible(&self, dir: &Path) {
        if let Err(error) = self.save(dir) {
            tracing::warn!(target = %self.target.display(), "mount_record: {error:#}");
        }
    }

    /// Writes the record; it survives a power cut once this returns.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn save(&self, dir: &Path) -> anyhow::Result<()> {
        let path = file(dir, &self.id);
        write_durably(&path, &serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("{}: cannot be written", path.display()))
    }

    /// Removes the record of the mount `id`; none is fine.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn remove(dir: &Path, id: &str) -> anyhow::Result<()> {
        let path = file(dir, id);
        match fs::remove_file(&path) {
            Ok(()) => sync_dir(dir).with_context(|| format!("{}: cannot be synced", dir.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(|| format!("{}: cannot be removed", path.display())),
        }
    }

    /// Reads every record; what is no record of the present version is passed over with a warning. One that cannot be read
    /// is not: whoever takes it for none gives up a mount that is there.
    ///
    /// # Errors
    ///
    /// When the directory, or a file in it, cannot be read.
    pub fn load_all(dir: &Path) -> anyhow::Result<Vec<Self>> {
        let (records, unreadable) = Self::load_readable(dir)?;
        unreadable.map_or(Ok(records), Err)
    }

    /// All records that can be read now, by their targets, and why another one cannot.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn load_readable(dir: &Path) -> anyhow::Result<(Vec<Self>, Option<anyhow::Error>)> {
        let (mut records, mut unreadable) = (Vec::new(), None);
        for text in texts(dir)? {
            let (path, text) = match text {
                Ok(text) => text,
                Err(error) => {
                    unreadable = unreadable.or(Some(error));
                    continue;
                }
            };
            match parse(&path, &text) {
                Ok(record) => records.push(record),
                Err(error) => tracing::warn!(path = %path.display(), "mount_record_unreadable: {error:#}"),
            }
        }
        records.sort_by(|a, b| a.target.cmp(&b.target));
        Ok((records, unreadable))
    }

    /// The version of every record, whether this release understands it or not; what names none is passed over.
    ///
    /// # Errors
    ///
    /// When the directory, or a file in it, cannot be read.
    pub fn versions(dir: &Path) -> anyhow::Result<Vec<(PathBuf, u32)>> {
        let version = |(path, text): (PathBuf, Vec<u8>)| {
            let Versioned { version } = serde_json::from_slice(&text).ok()?;
            Some((path, version))
        };
        let texts: Vec<_> = texts(dir)?.into_iter().collect::<anyhow::Result<_>>()?;
        Ok(texts.into_iter().filter_map(version).collect())
    }
}

/// The one field that a record of any version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// What is in a file that may be a record, or why it cannot be read.
type Text = anyhow::Result<(PathBuf, Vec<u8>)>;

/// Every one of them.
fn texts(dir: &Path) -> anyhow::Result<Vec<Text>> {
    let unreadable = |path: &Path| format!("{}: cannot be read", path.display());
    let mut texts = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| unreadable(dir))? {
        let path = entry.with_context(|| unreadable(dir))?.path();
        if path.extension().is_none_or(|end| end != "json") {
            continue;
        }
        match fs::read(&path) {
            Ok(text) => texts.push(Ok((path, text))),
            // Unmounted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => texts.push(Err(error).with_context(|| unreadable(&path))),
        }
    }
    Ok(texts)
}

/// What names the present run of the machine.
fn this_boot() -> Option<String> {
    BootId::of_this_machine().ok().map(|boot| boot.to_string())
}

fn parse(path: &Path, text: &[u8]) -> anyhow::Result<MountRecord> {
    let record: MountRecord = serde_json::from_slice(text)?;
    anyhow::ensure!(record.version == RECORD_VERSION, "layout version {} is unknown", record.version);
    anyhow::ensure!(
        is_id(&record.id) && *path == file(path.parent().unwrap_or(path), &record.id),
        "the name is another's"
    );
    Ok(record)
}

fn file(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}.json"))
}

/// Whether `id` is what [`new_id`] makes.
fn is_id(id: &str) -> bool {
    (1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Makes an id: random, so that none is used twice, even over restarts.
fn new_id() -> String {
    format!("{:016x}", fastrand::u64(..))
}

/// Writes a file so that after a power cut there is the old one or the new one.
///
/// # Errors
///
/// What the file system says.
pub fn write_durably(path: &Path, data: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    temporary.write_all(data)?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|failed| failed.error)?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(target: &str) -> MountRecord {
        MountRecord::new(target.into(), "oci:/x".into(), false, "fuse".into(), "sha256:0".into())
    }

    #[test]
    fn records_come_back_in_the_order_of_their_targets() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let (b, a) = (record("/mnt/b"), record("/mnt/a"));
        b.save(temp.path()).expect("it can be written");
        a.save(temp.path()).expect("it can be written");
        assert_eq!(MountRecord::load_all(temp.path()).expect("they can be read"), [a.clone(), b]);
        MountRecord::remove(temp.path(), &a.id).expect("it can be removed");
        MountRecord::remove(temp.path(), &a.id).expect("it may be gone");
        assert_eq!(MountRecord::load_all(temp.path()).expect("it can be read").len(), 1);
    }

    #[test]
    fn a_mount_of_an_earlier_run_of_the_machine_is_told_by_its_record() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let mut record = record("/mnt/a");
        assert!(!record.is_of_earlier_boot(), "nobody knows");
        let identity = Identity { mount_id: Some(7), ..Identity::default() };
        record.note_made(identity.clone(), temp.path());
        record.note_made(Identity::default(), temp.path());
        let mut read =
            MountRecord::load_all(temp.path()).expect("it can be read").pop().expect("it is there");
        assert_eq!((&read, read.identity()), (&record, identity), "what was known stays");
        assert!(!read.is_of_earlier_boot());
        read.made.as_mut().expect("it was noted").boot = "0".repeat(32);
        assert!(read.is_of_earlier_boot());
    }

    #[test]
    fn the_backing_devices_of_a_mount_become_fewer_in_its_record_and_nothing_else_changes() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let mut record = record("/mnt/a");
        let identity = |mount_id, backing: &[&str]| {
            let backing = backing.iter().map(|name| (*name).to_owned()).collect();
            Identity { mount_id, backing, ..Identity::default() }
        };
        record.note_made(identity(Some(7), &["erofs-5", "erofs-6"]), temp.path());
        for (noted, expected) in [
            (&["erofs-8", "erofs-9"][..], &["erofs-5", "erofs-6"][..]),
            (&["erofs-9"], &["erofs-5", "erofs-6"]),
            (&["erofs-5"], &["erofs-5"]),
            (&[], &["erofs-5"]),
            (&["erofs-5", "erofs-6"], &["erofs-5"]),
        ] {
            record.note_made(identity(None, noted), temp.path());
            let read = MountRecord::load_all(temp.path()).expect("it can be read").pop();
            let read = read.expect("it is there").identity();
            assert_eq!(read, identity(Some(7), expected), "{noted:?}");
        }
    }

    #[test]
    fn what_is_noted_of_a_mount_that_has_gone_gives_way_to_another_one() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let of = |mount_id| Identity { mount_id: Some(mount_id), ..Identity::default() };
        if !of(u64::MAX - 1).is_followed_by(&of(8)) {
            return println!("skipped: before Linux 6.8 no mount has a number that is its for good");
        }
        let mut record = record("/mnt/a");
        record.note_made(of(u64::MAX - 1), temp.path());
        record.note_made(of(8), temp.path());
        let read = MountRecord::load_all(temp.path()).expect("it can be read").pop().expect("it is there");
        assert_eq!(read.identity(), of(8));
    }

    #[test]
    fn a_mount_that_was_taken_away_to_be_made_anew_is_so_until_it_is_made_or_the_machine_starts_again() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let of = |mount_id| Identity { mount_id: Some(mount_id), ..Identity::default() };
        let read = || MountRecord::load_all(temp.path()).expect("it can be read").pop().expect("it is there");
        let mut record = record("/mnt/a");
        record.note_made(of(7), temp.path());
        record.note_taken_away(temp.path());
        assert!(read().is_taken_away() && !read().is_of_earlier_boot());
        assert_eq!(read().identity(), of(7), "what is left of it is still known");
        record.made.as_mut().expect("it was noted").boot = "0".repeat(32);
        assert!(record.is_of_earlier_boot());
        let mut record = read();
        record.note_made(of(8), temp.path());
        assert!(!read().is_taken_away());
        assert_eq!(read().identity(), of(8));
    }

    #[test]
    fn a_record_that_was_removed_is_not_written_again() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let (record, file) = (record("/mnt/a"), RecordFile::default());
        file.update(&record, temp.path()).expect("it can be written");
        file.remove(&record, temp.path()).expect("it can be removed");
        file.update(&record, temp.path()).expect("there is nothing to do");
        assert_eq!(MountRecord::load_all(temp.path()).expect("it can be read"), []);
    }

    #[test]
    fn a_damaged_record_does_not_block_the_others() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        record("/mnt/a").save(temp.path()).expect("it can be written");
        fs::write(temp.path().join("ab.json"), b"{\"version\": 1").expect("a file can be written");
        fs::write(temp.path().join(".new-x"), b"half").expect("a file can be written");
        let text = serde_json::to_string(&record("/mnt/b")).expect("it can be written");
        fs::write(temp.path().join("cd.json"), text.replace("\"version\":1", "\"version\":9"))
            .expect("written");
        assert_eq!(MountRecord::load_all(temp.path()).expect("one can be read").len(), 1);
        let versions = MountRecord::versions(temp.path()).expect("they can be read");
        let mut versions: Vec<u32> = versions.into_iter().map(|(_, version)| version).collect();
        versions.sort_unstable();
        assert_eq!(versions, [1, 9], "the one of another version is seen");
    }

    #[test]
    fn p4_a_record_that_cannot_be_read_now_is_not_taken_for_none() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        record("/mnt/a").save(temp.path()).expect("it can be written");
        fs::create_dir(temp.path().join("ab.json")).expect("what cannot be read as a file");
        MountRecord::load_all(temp.path()).expect_err("its mount would be given up");
        let (others, unreadable) =
            MountRecord::load_readable(temp.path()).expect("the directory can be read");
        assert_eq!((others.len(), unreadable.is_some()), (1, true), "a stop detaches the others");
    }
}
