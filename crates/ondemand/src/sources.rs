//! [`Sources`]: whoever has a blob's bytes, the one to ask first in front.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use larder_remote::RangeSource;

use crate::Blob;

/// The places that have the same stored bytes: images that share a blob may come from different registries, and one that is
/// gone must not fail the readers of the others.
pub(crate) struct Sources(Mutex<All>);

struct All {
    /// Never empty: the last one stays although its image has gone.
    sources: Vec<(Id, Arc<dyn RangeSource>)>,
    ids: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Id(u64);

/// What a failure says of others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Blame {
    /// Nothing: this place does not have the bytes.
    Place,
    /// Whoever lies where it does is down, too.
    Origin,
}

/// Places that have failed.
#[derive(Debug)]
pub(crate) enum Blamed {
    Place(String),
    Origin(String),
}

impl Blame {
    /// Puts it on `source`.
    pub fn on(self, source: &Arc<dyn RangeSource>) -> Blamed {
        match self {
            Self::Place => Blamed::Place(source.describe()),
            Self::Origin => Blamed::Origin(source.origin()),
        }
    }
}

impl Blamed {
    /// Whether `source` is one of them.
    pub fn is_on(&self, source: &Arc<dyn RangeSource>) -> bool {
        match self {
            Self::Place(place) => source.describe() == *place,
            Self::Origin(origin) => source.origin() == *origin,
        }
    }
}

/// A place is asked as long as this lives: the image that it belongs to is in use.
#[must_use = "the place is not asked any more when this is dropped"]
pub struct SourceLease {
    blob: Weak<Blob>,
    id: Id,
}

impl Sources {
    /// Only this one.
    pub fn new(source: Arc<dyn RangeSource>) -> Self {
        Self(Mutex::new(All { sources: vec![(Id(0), source)], ids: 0 }))
    }

    /// The one to ask first.
    pub fn first(&self) -> Arc<dyn RangeSource> {
        Arc::clone(&self.lock().sources[0].1)
    }

    /// The first that is not to be passed over.
    pub fn find(&self, is_wanted: impl FnMut(&Arc<dyn RangeSource>) -> bool) -> Option<Arc<dyn RangeSource>> {
        let all = self.lock();
        let mut is_wanted = is_wanted;
        all.sources.iter().map(|(_, source)| source).find(|source| is_wanted(source)).cloned()
    }

    /// Whether somewhere else than where `source` lies the bytes are, too.
    pub fn has_other(&self, source: &Arc<dyn RangeSource>) -> bool {
        let all = self.lock();
        all.sources.len() > 1 && {
            let origin = source.origin();
            all.sources.iter().any(|(_, other)| other.origin() != origin)
        }
    }

    /// `failed` could not give what it was asked for, or nobody could where it lies: from now on they are asked last.
    pub fn pass_over(&self, failed: &Arc<dyn RangeSource>, blame: Blame) {
        let mut all = self.lock();
        if all.sources.len() > 1 {
            let blamed = blame.on(failed);
            all.sources.sort_by_key(|(_, source)| blamed.is_on(source));
        }
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blob {
    /// Who is asked first for the bytes.
    pub fn source(&self) -> Arc<dyn RangeSource> {
        self.sources().first()
    }

    /// Another place has the same stored bytes, and is asked first until the lease is dropped; those known before are asked
    /// when it fails.
    pub fn add_source(self: &Arc<Self>, source: Arc<dyn RangeSource>) -> SourceLease {
        let mut all = self.sources().lock();
        all.ids += 1;
        let id = Id(all.ids);
        all.sources.insert(0, (id, source));
        SourceLease { blob: Arc::downgrade(self), id }
    }

    /// The lease of the place that was given to [`Blob::new`]: without one it is asked for the blob's whole life.
    pub fn lease_first_source(self: &Arc<Self>) -> SourceLease {
        SourceLease { blob: Arc::downgrade(self), id: Id(0) }
    }
}

impl Drop for SourceLease {
    fn drop(&mut self) {
        let Some(blob) = self.blob.upgrade() else { return };
        let mut all = blob.sources().lock();
        if all.sources.len() > 1 {
            all.sources.retain(|(id, _)| *id != self.id);
        }
    }
}

impl fmt::Debug for SourceLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SourceLease").field(&self.id).finish()
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;
    use larder_remote::{BlobRange, Error};

    use super::*;

    /// Called by all its letters; it lies where the first one says.
    struct Named(&'static str);

    #[async_trait]
    impl RangeSource for Named {
        fn len(&self) -> u64 {
            0
        }

        fn describe(&self) -> String {
            self.0.to_owned()
        }

        fn origin(&self) -> String {
            self.0[..1].to_owned()
        }

        async fn read_range(&self, _: BlobRange) -> Result<Bytes, Error> {
            Ok(Bytes::new())
        }
    }

    fn sources(names: &[&'static str]) -> Sources {
        let mut named = names.iter().map(|name| Arc::new(Named(name)) as Arc<dyn RangeSource>);
        let sources = Sources::new(named.next().expect("one at least"));
        sources.lock().sources.extend((1..).map(Id).zip(named));
        sources
    }

    fn order(sources: &Sources) -> String {
        let names: Vec<_> = sources.lock().sources.iter().map(|(_, source)| source.describe()).collect();
        names.join(" ")
    }

    #[test]
    fn whoever_failed_is_asked_last_and_so_are_those_who_lie_there_when_it_is_down() {
        let sources = sources(&["a1", "b1", "a2", "c1"]);
        let first = sources.first();
        sources.pass_over(&first, Blame::Place);
        assert_eq!(order(&sources), "b1 a2 c1 a1");
        sources.pass_over(&first, Blame::Origin);
        assert_eq!(order(&sources), "b1 c1 a2 a1");
        let blamed = [Blame::Place.on(&sources.first()), Blame::Origin.on(&first)];
        let left = sources.find(|source| !blamed.iter().any(|blamed| blamed.is_on(source)));
        assert_eq!(left.expect("one is left").describe(), "c1");
    }

    #[test]
    fn another_repository_of_a_registry_is_no_other_place_to_wait_for() {
        let one = sources(&["a1", "a2"]);
        assert!(!one.has_other(&one.first()));
        let two = sources(&["a1", "b1"]);
        assert!(two.has_other(&two.first()));
    }
}
