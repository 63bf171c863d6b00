//! [`FrontEnds`]: which front end mounts, and the one instance of each.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use larder_mount::keeper::Holder;
use larder_mount::{FrontEnd, FrontEndKind, Probe, probe};
use larder_ondemand::Engine;

use crate::errors::{Kind, told};

/// Which front end mounts, and the one instance of each.
pub struct FrontEnds {
    cache: PathBuf,
    holder: Arc<dyn Holder>,
    engine: Arc<Engine>,
    made: Mutex<BTreeMap<FrontEndKind, Arc<dyn FrontEnd>>>,
}

impl FrontEnds {
    /// None is made before it is wanted.
    pub fn new(cache: PathBuf, holder: Arc<dyn Holder>, engine: Arc<Engine>) -> Self {
        Self { cache, holder, engine, made: Mutex::default() }
    }

    /// The front end called `wanted`, or the best that works on this host. Blocks: asks the kernel.
    ///
    /// # Errors
    ///
    /// When it does not work here, or none does: with the reasons.
    pub fn choose(&self, wanted: Option<&str>) -> anyhow::Result<Arc<dyn FrontEnd>> {
        let Some(name) = wanted else {
            let probes = probe(&self.cache);
            let works = |probe: &&Probe| probe.outcome.is_ok() || self.made_already(probe.kind).is_some();
            return match probes.iter().find(works) {
                Some(probe) => self.get(probe.kind),
                None => Err(none_works(&probes)),
            };
        };
        let kind: FrontEndKind = name.parse()?;
        if let Some(front_end) = self.made_already(kind) {
            // What it has for itself, like /dev/cachefiles, a probe would find taken.
            return Ok(front_end);
        }
        match probe(&self.cache).iter().find(|probe| probe.kind == kind).map(|probe| &probe.outcome) {
            Some(Err(unavailable)) => Err(told(
                Kind::Failed,
                format!("front end {kind} does not work here: {}", unavailable.reason),
                unavailable.hint.clone(),
            )),
            _ => self.get(kind),
        }
    }

    fn made_already(&self, kind: FrontEndKind) -> Option<Arc<dyn FrontEnd>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).get(&kind).cloned()
    }

    /// The front end `kind`, whether it works or not: it may hold mounts that an earlier worker made.
    ///
    /// # Errors
    ///
    /// When the kernel refuses what it needs.
    pub fn get(&self, kind: FrontEndKind) -> anyhow::Result<Arc<dyn FrontEnd>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(front_end) = made.get(&kind) {
            return Ok(Arc::clone(front_end));
        }
        let front_end =
            larder_mount::open(kind, Arc::clone(&self.holder), Arc::clone(&self.engine), &self.cache)?;
        made.insert(kind, Arc::clone(&front_end));
        Ok(front_end)
    }

    /// The kinds of which an earlier worker left something with the keeper, by the names of what it holds.
    pub fn inherited(names: &[String]) -> impl Iterator<Item = FrontEndKind> {
        let is_of = |kind: FrontEndKind| move |name: &String| name.split('/').next() == Some(kind.as_str());
        FrontEndKind::ALL.into_iter().filter(move |kind| names.iter().any(is_of(*kind)))
    }

    /// Takes off `file`, which nobody reads any more, what an earlier worker may have left on it.
    pub fn let_go(&self, file: BorrowedFd<'_>) {
        for front_end in self.made() {
            front_end.let_go(file);
        }
    }

    /// Whether nobody reads through any of them any more. `fanotify`, whose readers would find holes when its group is closed,
    /// may have some that an earlier worker has left although it could not be opened: it is tried again, and denies what
    /// comes. Blocks.
    pub fn are_idle(&self) -> bool {
        let kind = FrontEndKind::Fanotify;
        let is_left = Self::inherited(&self.holder.names()).any(|left| left == kind);
        if is_left && self.made_already(kind).is_none() {
            match self.get(kind) {
                Ok(front_end) => front_end.give_up(),
                Err(error) => {
                    tracing::debug!(%kind, "not idle: {error:#}");
                    return false;
                }
            }
        }
        self.made().iter().all(|front_end| front_end.is_idle())
    }

    /// Has `front_end` for its kind.
    #[cfg(test)]
    pub(super) fn insert(&self, front_end: Arc<dyn FrontEnd>) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(front_end.kind(), front_end);
    }

    /// Those that were made.
    pub fn made(&self) -> Vec<Arc<dyn FrontEnd>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

fn none_works(probes: &[Probe]) -> anyhow::Error {
    let reasons = probes.iter().filter_map(|probe| {
        let unavailable = probe.outcome.as_ref().err()?;
        Some(format!("{}: {}", probe.kind, unavailable.reason))
    });
    let reasons: Vec<_> = reasons.collect();
    told(
        Kind::Failed,
        format!("no front end works on this host ({})", reasons.join("; ")),
        "`larder doctor` tells what each of them needs",
    )
}
