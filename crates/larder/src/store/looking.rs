//! [`Looking`]: leave to look for places that may hang, for each place and each file system apart.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use larder_image::Reference;
use larder_mount::mount_of;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Threads that look for places in one file system at once.
const FILE_SYSTEM_MAX: usize = 2;

/// Threads that look for places at once, but for those that are known to hang.
const AT_ONCE_MAX: usize = 4 * FILE_SYSTEM_MAX;

/// A thread that has looked for so long hangs, and makes room for another.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Threads that hang and have made room, at most: those of sixteen file systems. What hangs beyond that keeps others from looking.
const HANGING_MAX: usize = 16 * FILE_SYSTEM_MAX;

/// Threads that look for places, in all.
pub const LOOKING_MAX: usize = AT_ONCE_MAX + HANGING_MAX;

/// Who looks for places in this process.
static LOOKING: LazyLock<Looking> = LazyLock::new(Looking::new);

/// Who may look for places: a file system that hangs keeps the few permits that are its own, and leaves others theirs.
struct Looking {
    all: Arc<Semaphore>,
    hanging: Arc<Semaphore>,
    shares: Mutex<BTreeMap<Share, Arc<Semaphore>>>,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Share {
    Place(String),
    FileSystem(String),
}

/// Leave to look for one place, on one thread.
pub struct Permit {
    _leave: Arc<Leave>,
}

struct Leave {
    _of_place: OwnedSemaphorePermit,
    _of_file_system: OwnedSemaphorePermit,
    /// What all share, or what those have who hang.
    of_all: Mutex<OwnedSemaphorePermit>,
}

/// Waits for leave to look for where `reference` points. Touches no layout.
///
/// # Errors
///
/// None: no semaphore is ever closed.
pub async fn permit(reference: &Reference) -> Result<Permit, AcquireError> {
    match reference {
        Reference::Layout { dir, .. } => {
            LOOKING.permit(dir.display().to_string(), || file_system_of(dir)).await
        }
        Reference::Registry { host, .. } => LOOKING.permit(host.clone(), || host.clone()).await,
    }
}

/// The device number of the file system that a path lies in; the path itself where the kernel's table does not tell. A link is taken to
/// lead nowhere else: following it might hang.
fn file_system_of(dir: &Path) -> String {
    let mount = mount_of(dir).ok().flatten();
    mount.map_or_else(|| dir.display().to_string(), |mount| mount.device)
}

impl Looking {
    fn new() -> Self {
        let permits = |permits| Arc::new(Semaphore::new(permits));
        Self { all: permits(AT_ONCE_MAX), hanging: permits(HANGING_MAX), shares: Mutex::default() }
    }

    /// Waits for leave to look for `place`. Its own permit comes first, and what all share last: whoever waits for what hangs has
    /// nothing that others need.
    async fn permit(
        &self,
        place: String,
        file_system: impl FnOnce() -> String,
    ) -> Result<Permit, AcquireError> {
        let of_place = self.share(Share::Place(place), 1).acquire_owned().await?;
        let file_system = self.share(Share::FileSystem(file_system()), FILE_SYSTEM_MAX);
        let of_file_system = file_system.acquire_owned().await?;
        let of_all = Mutex::new(Arc::clone(&self.all).acquire_owned().await?);
        let leave = Arc::new(Leave { _of_place: of_place, _of_file_system: of_file_system, of_all });
        tokio::spawn(make_room_in_time(Arc::downgrade(&leave), Arc::clone(&self.hanging)));
        Ok(Permit { _leave: leave })
    }

    fn share(&self, share: Share, permits: usize) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        // Only the table has it: nobody looks there and nobody waits.
        shares.retain(|_, permits| Arc::strong_count(permits) > 1);
        Arc::clone(shares.entry(share).or_insert_with(|| Arc::new(Semaphore::new(permits))))
    }
}

/// Gives back what all share when whoever has it hangs, as soon as he may.
async fn make_room_in_time(leave: Weak<Leave>, hanging: Arc<Semaphore>) {
    tokio::time::sleep(ANSWER_MAX).await;
    if leave.strong_count() > 0
        && let Ok(permit) = hanging.acquire_owned().await
        && let Some(leave) = leave.upgrade()
    {
        *leave.of_all.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }
}

#[cfg(test)]
mod tests {
    use std::iter::from_fn;

    use futures_util::FutureExt as _;
    use tokio::task::unconstrained;

    use super::*;

    impl Looking {
        fn permit_at_once(&self, place: &str, file_system: &str) -> Option<Permit> {
            let permit = self.permit(place.to_owned(), || file_system.to_owned());
            let permit = unconstrained(permit).now_or_never()?;
            Some(permit.expect("never closed"))
        }

        /// One permit for each of many layouts there, until none is left.
        fn all_of(&self, file_system: &str) -> Vec<Permit> {
            let mut layouts = 0..;
            from_fn(|| self.permit_at_once(&format!("{file_system}/{}", layouts.next()?), file_system))
                .collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn p3_file_systems_that_hang_leave_room_for_others_however_many_they_are() {
        let looking = Looking::new();
        let hang = |n: usize| looking.all_of(&format!("nfs {n}"));
        let (few, many) = (AT_ONCE_MAX / FILE_SYSTEM_MAX, HANGING_MAX / FILE_SYSTEM_MAX);
        let mut hung: Vec<_> = (0..few).map(hang).collect();
        assert!(looking.permit_at_once("disk/1", "disk").is_none(), "it is not known yet that they hang");
        for n in few..many {
            tokio::time::sleep(2 * ANSWER_MAX).await;
            assert_eq!(looking.all_of("disk").len(), FILE_SYSTEM_MAX);
            hung.push(hang(n));
        }
        tokio::time::sleep(2 * ANSWER_MAX).await;
        let more: Vec<_> = (many..many + few).map(hang).collect();
        tokio::time::sleep(2 * ANSWER_MAX).await;
        assert_eq!(hung.iter().chain(&more).map(Vec::len).sum::<usize>(), LOOKING_MAX);
        assert!(looking.permit_at_once("disk/1", "disk").is_none(), "that is the bound");
        // As they answer again, others make room.
        drop(hung);
        tokio::time::sleep(ANSWER_MAX).await;
        assert_eq!(looking.all.available_permits(), AT_ONCE_MAX);
        drop(more);
        assert_eq!(looking.hanging.available_permits(), HANGING_MAX);
    }

    #[tokio::test]
    async fn p3_layouts_of_a_file_system_that_hangs_leave_those_of_others_their_permits() {
        let looking = Looking::new();
        let hung = looking.all_of("nfs");
        assert_eq!(hung.len(), FILE_SYSTEM_MAX);
        let place = || Box::pin(looking.permit("nfs/more".into(), || "nfs".into()));
        let mut waiting: Vec<_> = (0..2 * AT_ONCE_MAX).map(|_| place()).collect();
        assert!(waiting.iter_mut().all(|waits| waits.now_or_never().is_none()));
        let others: Vec<_> =
            ["disk", "other nfs", "more", "one too many"].map(|name| looking.all_of(name)).into();
        assert_eq!(others[0].len(), FILE_SYSTEM_MAX);
        assert_eq!(hung.len() + others.iter().map(Vec::len).sum::<usize>(), AT_ONCE_MAX);
        drop((hung, others, waiting));
        assert!(looking.permit_at_once("disk/1", "disk").is_some());
        let shares = looking.shares.lock().expect("nobody panics with it");
        assert!(shares.len() <= 2, "{:?} are left of nobody", shares.keys());
    }

    #[tokio::test]
    async fn images_of_one_layout_have_one_permit() {
        let looking = Looking::new();
        let hung = looking.permit_at_once("layout", "disk");
        assert!(hung.is_some() && looking.permit_at_once("layout", "disk").is_none());
        assert!(looking.permit_at_once("another", "disk").is_some());
    }

    #[test]
    fn the_file_system_of_a_layout_is_known_without_touching_it() {
        let of = |dir: &str| file_system_of(Path::new(dir));
        assert_eq!(of("/proc/nothing/there"), of("/proc"));
        assert_ne!(of("/proc/nothing/there"), of("/"));
        assert_eq!(of("not/absolute"), "not/absolute");
    }
}
