//! Measures a cache with very many small objects: `million DIRECTORY NUMBER`. The directory should be empty.
//!
//! ```text
//! cargo run --release -p larder-cachefiles --example million -- /var/tmp/million 1000000
//! ```

use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_cachefiles::{BootId, Cachefiles, Config, NoHolder};
use larder_fscache::{Backend, CookieKey, ObjectSpec, VolumeKey};

const SIZE: u64 = 4096;
const LOOKUPS: u64 = 10_000;
const CULL_FILES: u64 = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let (root, number) = (args.next(), args.next());
    let (Some(root), Some(number)) = (root, number) else {
        return Err("usage: million DIRECTORY NUMBER".into());
    };
    let root = PathBuf::from(root);
    let number: u64 = number.to_str().ok_or("a number")?.parse()?;

    let cache = open(&root)?;
    let volume = VolumeKey::new("v")?;
    let before = resident_bytes()?;
    let start = Instant::now();
    for n in 0..number {
        let object = cache.acquire(&volume, &key(n)?, &ObjectSpec::of_size(SIZE))?;
        if n % 64 == 0 {
            object.write(0, &[7; 4096])?;
        }
        drop(object);
        if n % 10_000 == 0 {
            cache.maintain()?;
        }
    }
    report("making an object", per(start.elapsed(), number));
    let grown = resident_bytes()?.saturating_sub(before);
    println!("resident bytes an object: {:.1}", grown as f64 / number as f64);

    let start = Instant::now();
    drop(cache);
    report("closing", start.elapsed());
    cold();
    let start = Instant::now();
    let cache = open(&root)?;
    report("opening after a clean end", start.elapsed());

    for what in ["a look-up, acquired to let go, cold", "the same again, warm"] {
        let mut random = 1u64;
        let start = Instant::now();
        for _ in 0..LOOKUPS {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            drop(cache.acquire(&volume, &key((random >> 20) % number)?, &ObjectSpec::of_size(SIZE))?);
        }
        report(what, per(start.elapsed(), LOOKUPS));
    }

    let start = Instant::now();
    let mut listed = 0u64;
    cache.objects(|_| {
        listed += 1;
        ControlFlow::Continue(())
    });
    report("listing", start.elapsed());
    assert_eq!(listed, number, "all are listed");
    let start = Instant::now();
    let usage = cache.usage();
    report("usage", start.elapsed());
    println!("objects {}, stored bytes {}", usage.objects, usage.stored_bytes);

    let start = Instant::now();
    let culled = cache.cull(0, CULL_FILES.min(number));
    report("culling", start.elapsed());
    println!("culled objects {}", culled.objects);

    drop(cache);
    fs::remove_file(root.join("index.redb"))?;
    let start = Instant::now();
    let cache = open(&root)?;
    while cache.usage().rebuilding {
        std::thread::sleep(Duration::from_millis(10));
    }
    report("rebuilding the index", start.elapsed());
    println!("objects {}, resident bytes {}", cache.usage().objects, resident_bytes()?);
    Ok(())
}

fn open(root: &Path) -> Result<Cachefiles, Box<dyn Error>> {
    let boot_id = BootId::of_this_machine()?;
    Ok(Cachefiles::open(Config::new(root.to_owned(), boot_id, Arc::new(NoHolder)))?)
}

fn key(n: u64) -> Result<CookieKey, larder_fscache::Error> {
    CookieKey::new(&format!("sha256-{n:016x}"))
}

/// Drops the kernel's caches, if that is allowed.
fn cold() {
    rustix::fs::sync();
    match fs::write("/proc/sys/vm/drop_caches", "3") {
        Ok(()) => {}
        Err(error) => println!("the kernel's caches are warm: {error}"),
    }
}

fn resident_bytes() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

fn per(time: Duration, number: u64) -> Duration {
    time / u32::try_from(number).unwrap_or(u32::MAX)
}

fn report(what: &str, time: Duration) {
    println!("{what}: {time:?}");
}
