//! [`Sources`]: whoever has a blob's bytes, the one to ask first in front.

use std::sync::{Arc, Mutex, PoisonError};

use larder_remote::RangeSource;

/// So many are kept; the one that would be asked last goes first.
const SOURCES_MAX: usize = 8;

/// The places that have the same stored bytes: images that share a blob may come from different registries, and one that is
/// gone must not fail the readers of the others.
pub(crate) struct Sources(Mutex<Vec<Arc<dyn RangeSource>>>);

impl Sources {
    /// Only this one.
    pub fn new(source: Arc<dyn RangeSource>) -> Self {
        Self(Mutex::new(vec![source]))
    }

    /// Asks `source` before all others from now on. It takes the place of one that describes itself as the same: whoever
    /// comes later has the newer credentials.
    pub fn add(&self, source: Arc<dyn RangeSource>) {
        let place = source.describe();
        let mut all = self.lock();
        all.retain(|other| other.describe() != place);
        all.insert(0, source);
        all.truncate(SOURCES_MAX);
    }

    /// The one to ask first.
    pub fn first(&self) -> Arc<dyn RangeSource> {
        // There is always one: only `add` takes any away.
        Arc::clone(&self.lock()[0])
    }

    /// All, in the order in which to ask them.
    pub fn all(&self) -> Vec<Arc<dyn RangeSource>> {
        self.lock().clone()
    }

    /// Whether there is only this one.
    pub fn has_one(&self) -> bool {
        self.lock().len() == 1
    }

    /// `failed` could not give what it was asked for: from now on it is asked last.
    pub fn pass_over(&self, failed: &Arc<dyn RangeSource>) {
        let mut all = self.lock();
        if let Some(at) = all.iter().position(|source| Arc::ptr_eq(source, failed)) {
            all[at..].rotate_left(1);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<dyn RangeSource>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;
    use larder_remote::{BlobRange, Error};

    use super::*;

    struct Named(String);

    #[async_trait]
    impl RangeSource for Named {
        fn len(&self) -> u64 {
            0
        }

        fn describe(&self) -> String {
            self.0.clone()
        }

        async fn read_range(&self, _: BlobRange) -> Result<Bytes, Error> {
            Ok(Bytes::new())
        }
    }

    fn named(name: impl ToString) -> Arc<dyn RangeSource> {
        Arc::new(Named(name.to_string()))
    }

    fn names(sources: &Sources) -> String {
        sources.all().iter().map(|source| source.describe()).collect()
    }

    #[test]
    fn the_newest_is_asked_first_and_one_that_failed_last() {
        let sources = Sources::new(named("a"));
        assert!(sources.has_one());
        sources.add(named("b"));
        sources.add(named("c"));
        assert_eq!(names(&sources), "cba");
        sources.pass_over(&sources.first());
        assert_eq!((names(&sources).as_str(), sources.first().describe().as_str()), ("bac", "b"));
        let gone = named("b");
        sources.pass_over(&gone);
        assert_eq!(names(&sources), "bac", "a source that is none of them changes nothing");
    }

    #[test]
    fn a_place_is_kept_once_and_there_is_an_end() {
        let sources = Sources::new(named("a"));
        sources.add(named("b"));
        let again = named("a");
        sources.add(Arc::clone(&again));
        assert_eq!(names(&sources), "ab");
        assert!(Arc::ptr_eq(&sources.first(), &again), "the newer one stays");
        (0..20).for_each(|name| sources.add(named(name)));
        assert_eq!(sources.all().len(), SOURCES_MAX);
        assert_eq!(sources.first().describe(), "19");
    }
}
