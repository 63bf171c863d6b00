//! The time of day jumps while readers read, images come and go, the cache culls and the registry asks for patience: no wrong
//! byte, no error, and nobody waits for a time that is decades away.
//!
//! The time of day is everybody's: this is only for a kernel of its own (`cargo xtask uml`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder_testkit::{Fault, Target, Times};
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::support::program::User;
use crate::support::{self, Image, Larder, skip, tree};

const IMAGES: usize = 3;
const FILES: usize = 8;
const FILE_BYTES: usize = 1 << 20;
/// What two images take and some: the third has one culled.
const QUOTA: &str = "18MiB";
const ROUNDS: usize = 6;
const READERS: usize = 2;
/// The kernel gives processors up to this: everything else takes a fraction of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the time of day jumps to, in seconds since 1970: 1971, 2000, 2038 and after, 2100, back by an hour.
const JUMPS: [i64; 6] = [31_536_000, 946_684_800, 2_147_483_600, 2_147_490_848, 4_102_444_800, 4_102_441_200];

/// The time of day as it would be without jumps, set again in the end.
struct TimeOfDay {
    began: Instant,
    then: Duration,
}

impl TimeOfDay {
    fn now() -> Self {
        let then = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        Self { began: Instant::now(), then }
    }

    fn jump(seconds: i64) {
        let to = Timespec { tv_sec: seconds, tv_nsec: 0 };
        clock_settime(ClockId::Realtime, to).expect("root may set the time of day");
    }
}

impl Drop for TimeOfDay {
    fn drop(&mut self) {
        let now = (self.then + self.began.elapsed()).as_secs();
        Self::jump(i64::try_from(now).expect("not that far"));
    }
}

fn p1_p3_readers_do_not_notice_that_the_time_of_day_jumps(frontend: &str) {
    let test = format!("p1_p3_readers_do_not_notice_that_the_time_of_day_jumps ({frontend})");
    if std::env::var_os("LARDER_UML").is_none() {
        return skip(
            &test,
            "the time of day is the host's: `cargo xtask uml` has kernels with one of their own",
        );
    }
    let larder = Larder::new(User::Same);
    if let Some(why) = larder.cannot(frontend) {
        return skip(&test, &why);
    }
    let images: Vec<(PathBuf, Image)> = (0..IMAGES).map(|number| image(&larder, number)).collect();
    larder.run(["daemon", "--detach", "--quota", QUOTA]).ok();
    let time = TimeOfDay::now();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for seconds in JUMPS.iter().cycle() {
                if ended.load(Ordering::Acquire) {
                    return;
                }
                TimeOfDay::jump(*seconds);
                thread::sleep(Duration::from_millis(70));
            }
        });
        // However it ends, the clock stands still then.
        let played =
            scope.spawn(|| (0..ROUNDS).for_each(|round| play(&larder, frontend, &images, round))).join();
        ended.store(true, Ordering::Release);
        assert!(played.is_ok(), "{test}");
    });
    drop(time);
}

fn image(larder: &Larder, number: usize) -> (PathBuf, Image) {
    let source = larder.dir(&format!("source-{number}"));
    for n in 0..FILES {
        let seed = u64::try_from(number * FILES + n).expect("small");
        fs::write(source.join(format!("file-{n}")), tree::noise(seed, FILE_BYTES)).expect("a file");
    }
    let image = Image::build(larder, &source, &format!("layout-{number}"));
    image.registry.set_latency(Duration::from_millis(5));
    (source, image)
}

/// An image is mounted, read by all, and unmounted; its registry is busy for a moment.
fn play(larder: &Larder, frontend: &str, images: &[(PathBuf, Image)], round: usize) {
    let (source, image) = &images[round % IMAGES];
    let began = Instant::now();
    let target = larder.mount(&image.reference(), &format!("mnt-{round}"), frontend);
    for fault in [Fault::Status(503), Fault::RetryAfter { status: 429, value: "1".to_owned() }] {
        image.registry.fail_at(Target::Blobs, Times::Next(1), fault);
    }
    thread::scope(|scope| {
        for reader in 0..READERS {
            let target = &target;
            scope.spawn(move || read_all(source, target, reader));
        }
    });
    let mount = larder.mount_status(&target);
    assert!(mount["last_error"].is_null(), "{mount:#}");
    larder.run(["umount".as_ref(), target.as_os_str()]).ok();
    assert!(began.elapsed() < PATIENCE, "round {round} took {:?}", began.elapsed());
}

fn read_all(source: &Path, target: &Path, reader: usize) {
    for n in 0..FILES {
        let name = format!("file-{}", (n + reader * 2) % FILES);
        let found = fs::read(target.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(found == fs::read(source.join(&name)).expect("the source is here"), "{name}: other bytes");
    }
}

#[test]
fn p1_p3_readers_do_not_notice_that_the_time_of_day_jumps_on_any_front_end() {
    support::FRONT_ENDS.into_iter().for_each(p1_p3_readers_do_not_notice_that_the_time_of_day_jumps);
}
