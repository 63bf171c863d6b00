//! Whether what is present is still what the digests vouch for: `larder cache verify`.
//!
//! Chunk tables are those of the known images. The digest of a chunk covers its stored bytes: where the decoded ones alone
//! cannot prove that they are right, the stored ones are fetched again from where the image came from. What is damaged
//! is given up when nobody uses the object, and written anew in place when a mount does: never a hole under a reader.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use anyhow::Context as _;
use larder_cachefiles::IdleObject;
use larder_fscache::{CacheResources, CookieKey, Error as CacheError, ObjectRange, OnHole, Run, VolumeKey};
use larder_image::{Chunk, Layer, Reference};
use larder_remote::HttpClient;
use tokio::runtime::Handle;

use super::{Inventory, KnownImage, from_disk};
use crate::api::cache_types::{VerifiedObject, VerifyLine, VerifyRequest, VerifyState};
use crate::store::connect_patiently;

/// Bytes between two lines of progress.
const PROGRESS_BYTES: u64 = 8 << 20;

/// What a verification needs besides the inventory.
pub struct Verifier<'a> {
    /// Fetches stored chunks.
    pub handle: Handle,
    /// The same.
    pub http: HttpClient,
    /// An operation on the cookie of this key, if somebody uses it.
    pub in_use: &'a dyn Fn(&VolumeKey, &CookieKey) -> Option<CacheResources>,
}

/// Where a verification tells of its steps; it ends early on [`ControlFlow::Break`].
pub type Verify<'a> = &'a mut dyn FnMut(VerifyLine) -> ControlFlow<()>;

/// A layer with the image it belongs to.
struct Known {
    image: String,
    layer: Layer,
}

impl Inventory<'_> {
    /// Reads what is present again. Blocks: for I/O, and for what has to be fetched.
    ///
    /// # Errors
    ///
    /// When a name stands for nothing in the cache, or the known images cannot be read. What is wrong with an object is no
    /// error of this.
    pub fn verify(
        &self,
        request: &VerifyRequest,
        verifier: &Verifier<'_>,
        tell: Verify<'_>,
    ) -> anyhow::Result<()> {
        let known = self.known_layers(verifier)?;
        let wanted = self.wanted(request)?;
        let mut todo = Vec::new();
        let mut total_bytes = 0_u64;
        let mut strangers = ControlFlow::Continue(());
        self.cachefiles.objects(|info| {
            let name = (info.volume, info.cookie);
            if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&name)) {
                return ControlFlow::Continue(());
            }
            if known.contains_key(&name) {
                total_bytes = total_bytes.saturating_add(info.stored_bytes.min(info.size));
                todo.push(name);
                return ControlFlow::Continue(());
            }
            strangers = tell(VerifyLine::Object(object(&name)));
            strangers
        });
        let mut pass = Pass {
            inventory: self,
            verifier,
            repair: !request.no_repair,
            done: 0,
            told: 0,
            total_bytes,
            tell,
        };
        if strangers.is_break() {
            return Ok(());
        }
        for name in todo {
            let Some(known) = known.get(&name) else { continue };
            let verified = pass.object(&name, known);
            if (pass.tell)(VerifyLine::Object(verified)).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn wanted(&self, request: &VerifyRequest) -> anyhow::Result<Option<BTreeSet<(VolumeKey, CookieKey)>>> {
        if request.names.is_empty() {
            return Ok(None);
        }
        let named = request.names.iter().map(|name| self.named(name, crate::store::VOLUME));
        Ok(Some(named.collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect()))
    }

    /// The layers of every image whose manifest and indexes are here and undamaged.
    fn known_layers(
        &self,
        verifier: &Verifier<'_>,
    ) -> anyhow::Result<BTreeMap<(VolumeKey, CookieKey), Known>> {
        let mut layers = BTreeMap::new();
        for image in self.catalogue.all()? {
            match self.restore(&image, verifier) {
                Ok(found) => layers.extend(found),
                Err(error) => tracing::warn!(image = image.reference(), "not verified: {error:#}"),
            }
        }
        Ok(layers)
    }

    fn restore(
        &self,
        image: &KnownImage,
        verifier: &Verifier<'_>,
    ) -> anyhow::Result<Vec<((VolumeKey, CookieKey), Known)>> {
        let reference: Reference = image.reference().parse()?;
        let place = connect_patiently(&reference, image.insecure, &verifier.http);
        let volume = VolumeKey::new(&image.volume)?;
        let manifest = image.manifest.parse()?;
        let restored = larder_image::restore(self.catalogue.images(), &manifest, &*place.repository);
        let loaded = verifier.handle.block_on(restored)?;
        let known = |layer: &Layer| Known { image: image.reference().to_owned(), layer: layer.clone() };
        let name = |layer: &Layer| (volume.clone(), layer.table.identity().clone());
        Ok(loaded.layers().map(|layer| (name(layer), known(layer))).collect())
    }
}

fn object((volume, cookie): &(VolumeKey, CookieKey)) -> VerifiedObject {
    VerifiedObject {
        volume: volume.as_str().to_owned(),
        cookie: cookie.as_str().to_owned(),
        ..VerifiedObject::default()
    }
}

/// An object to be read: used by somebody, or by nobody.
enum Held {
    InUse(CacheResources),
    Idle(IdleObject),
}

impl Held {
    fn is_present(&self, range: ObjectRange) -> bool {
        let run = match self {
            Self::InUse(resources) => resources.object().probe_within(range),
            Self::Idle(idle) => idle.probe(range.start()),
        };
        matches!(run, Run::Present { until } if until >= range.end())
    }

    fn file(&self) -> BorrowedFd<'_> {
        match self {
            Self::InUse(resources) => resources.object().file(),
            Self::Idle(idle) => idle.as_fd(),
        }
    }

    fn read(&self, range: ObjectRange, into: &mut Vec<u8>) -> anyhow::Result<()> {
        into.resize(usize::try_from(range.len())?, 0);
        match self {
            Self::InUse(resources) => {
                let read = resources.read(range.start(), into, OnHole::Fail)?;
                anyhow::ensure!(read == into.len(), "the object ends too early");
            }
            Self::Idle(idle) => idle.read_exact_at(range.start(), into)?,
        }
        Ok(())
    }
}

/// One verification under way.
struct Pass<'a> {
    inventory: &'a Inventory<'a>,
    verifier: &'a Verifier<'a>,
    repair: bool,
    done: u64,
    told: u64,
    total_bytes: u64,
    tell: Verify<'a>,
}

impl Pass<'_> {
    fn object(&mut self, name: &(VolumeKey, CookieKey), known: &Known) -> VerifiedObject {
        let mut verified = VerifiedObject { image: Some(known.image.clone()), ..object(name) };
        match self.hold(name) {
            Ok(Some(held)) => {
                // What memory has may be right where the disk is not.
                let forgotten = from_disk::sync(held.file()).and_then(|()| from_disk::forget(held.file()));
                if let Err(error) = forgotten {
                    tracing::warn!(cookie = %name.1, %error, "verify: read from memory, not from the disk");
                }
                let damaged = self.chunks(known, &held, &mut verified);
                // Nothing is taken away from a file that is open, be it here.
                drop(held);
                self.give_up(name, &damaged, &mut verified);
            }
            // It went away meanwhile.
            Ok(None) => {}
            Err(error) => verified.error = Some(format!("{error:#}")),
        }
        verified.state = match &verified {
            VerifiedObject { damaged_bytes: 1.., .. } => VerifyState::Damaged,
            VerifiedObject { unchecked_bytes: 0, error: None, .. } => VerifyState::Good,
            _ => VerifyState::Unchecked,
        };
        verified
    }

    /// Gets hold of an object, whether somebody uses it or begins to at this very moment.
    fn hold(&self, (volume, cookie): &(VolumeKey, CookieKey)) -> anyhow::Result<Option<Held>> {
        if let Some(resources) = (self.verifier.in_use)(volume, cookie) {
            return Ok(Some(Held::InUse(resources)));
        }
        match self.inventory.cachefiles.open_idle(volume, cookie) {
            Ok(idle) => Ok(idle.map(Held::Idle)),
            Err(CacheError::Busy { .. }) => match (self.verifier.in_use)(volume, cookie) {
                Some(resources) => Ok(Some(Held::InUse(resources))),
                None => Err(CacheError::Busy { cookie: cookie.clone() }.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Looks at every chunk that is there. What is damaged is put right where the object is in use; the rest of it is
    /// returned, neighbours as one.
    fn chunks(&mut self, known: &Known, held: &Held, verified: &mut VerifiedObject) -> Vec<ObjectRange> {
        let mut bytes = Vec::new();
        let mut to_give_up: Vec<ObjectRange> = Vec::new();
        for chunk in known.layer.table.chunks() {
            // A chunk that is not wholly there will be fetched, and checked then.
            if !held.is_present(chunk.decoded) {
                continue;
            }
            let len = chunk.decoded.len();
            match self.chunk(known, held, &chunk, &mut bytes) {
                Ok(Verdict::Good) => verified.good_bytes += len,
                Ok(Verdict::Damaged(right)) => {
                    verified.damaged_bytes += len;
                    match held {
                        _ if !self.repair => {}
                        Held::Idle(_) => join(&mut to_give_up, chunk.decoded),
                        Held::InUse(resources) => match self.mend(known, resources, &chunk, right) {
                            Ok(()) => verified.repaired_bytes += len,
                            Err(error) => verified.error = Some(format!("{error:#}")),
                        },
                    }
                }
                Err(error) => {
                    verified.unchecked_bytes += len;
                    verified.error = Some(format!("{error:#}"));
                }
            }
            if self.progress(len).is_break() {
                break;
            }
        }
        to_give_up
    }

    /// Takes what is damaged away from an object that nobody uses, so that it is fetched again.
    fn give_up(
        &self,
        (volume, cookie): &(VolumeKey, CookieKey),
        damaged: &[ObjectRange],
        verified: &mut VerifiedObject,
    ) {
        for range in damaged {
            match self.inventory.cachefiles.invalidate_range(volume, cookie, *range) {
                Ok(_) => verified.repaired_bytes += range.len(),
                Err(CacheError::Busy { .. }) => {
                    verified.error = Some(
                        "not repaired, for it came into use, or a mount that no daemon looks after has it open: \
                         start the daemon, or unmount the image, and verify again"
                            .to_owned(),
                    );
                }
                Err(error) => verified.error = Some(format!("{:#}", anyhow::Error::from(error))),
            }
        }
    }

    fn progress(&mut self, bytes: u64) -> ControlFlow<()> {
        self.done += bytes;
        if self.done - self.told < PROGRESS_BYTES {
            return ControlFlow::Continue(());
        }
        self.told = self.done;
        let total_bytes = self.total_bytes.max(self.done);
        (self.tell)(VerifyLine::Progress { done_bytes: self.done, total_bytes })
    }

    fn chunk(
        &self,
        known: &Known,
        held: &Held,
        chunk: &Chunk<'_>,
        bytes: &mut Vec<u8>,
    ) -> anyhow::Result<Verdict> {
        if let Err(error) = held.read(chunk.decoded, bytes) {
            // What a reader would be told is damage too, unless it went away under us.
            return if held.is_present(chunk.decoded) { unreadable(error) } else { Ok(Verdict::Good) };
        }
        match chunk.vouches_for(bytes) {
            Some(true) => Ok(Verdict::Good),
            Some(false) if !held.is_present(chunk.decoded) => Ok(Verdict::Good),
            Some(false) => Ok(Verdict::Damaged(None)),
            None => {
                let right = self.fetch(known, chunk)?;
                let is_good = *right == **bytes || !held.is_present(chunk.decoded);
                Ok(if is_good { Verdict::Good } else { Verdict::Damaged(Some(right)) })
            }
        }
    }

    /// The decoded bytes of a chunk, from where the image came from.
    fn fetch(&self, known: &Known, chunk: &Chunk<'_>) -> anyhow::Result<bytes::Bytes> {
        let source = Arc::clone(&known.layer.source);
        let stored = self.verifier.handle.block_on(source.read_range(chunk.stored))?;
        Ok(chunk.decode(chunk.verify(stored)?)?)
    }

    /// Puts a damaged chunk of an object right that is in use.
    fn mend(
        &self,
        known: &Known,
        resources: &CacheResources,
        chunk: &Chunk<'_>,
        right: Option<bytes::Bytes>,
    ) -> anyhow::Result<()> {
        let right = right.map_or_else(|| self.fetch(known, chunk), Ok)?;
        rewrite(resources, chunk.decoded.start(), &right)
    }
}

/// Adds a range behind the others, as one with the last where they meet.
fn join(ranges: &mut Vec<ObjectRange>, range: ObjectRange) {
    match ranges.last_mut() {
        Some(last) if last.end() == range.start() => {
            *last = ObjectRange::at(last.start(), last.len() + range.len())
        }
        _ => ranges.push(range),
    }
}

/// Writes over present bytes of an object in use. Not through its cache, which takes a complete object to be right; what
/// is written was vouched for, and a reader meanwhile gets bytes of which each is the old or the new one.
fn rewrite(resources: &CacheResources, at: u64, mut right: &[u8]) -> anyhow::Result<()> {
    let object = resources.object();
    let mut end = at;
    while !right.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(object.file(), right, end))
            .context("it cannot be written in place: unmount the image and verify again")?;
        end += written as u64;
        right = &right[written..];
    }
    from_disk::sync(object.file()).context("what was written in place is not durable")
}

/// What became of one chunk.
enum Verdict {
    Good,
    /// With the right bytes, where they were fetched to tell.
    Damaged(Option<bytes::Bytes>),
}

fn unreadable(error: anyhow::Error) -> anyhow::Result<Verdict> {
    tracing::warn!("verify: {error:#}");
    Ok(Verdict::Damaged(None))
}
