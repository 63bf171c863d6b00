//! Many objects: looking one up cold, listing all, culling, and the memory that they take.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_cachefiles::{BootId, Cachefiles, Config, NoHolder};
use larder_fscache::{AuxData, Backend as _, CookieKey, ObjectSpec, VolumeKey};

use super::super::stats::{Row, Target, median};

const LOOKUPS: u64 = 300;
const CULLED: u64 = 10_000;
const OBJECT_BYTES: u64 = 1 << 20;

/// Opens a cache that nobody keeps descriptors for.
pub fn open(root: &Path) -> anyhow::Result<Cachefiles> {
    Ok(Cachefiles::open(Config::new(root.to_owned(), BootId::of_this_machine()?, Arc::new(NoHolder)))?)
}

/// Runs the benchmark with so many objects.
pub fn run(dir: &Path, objects: u64) -> anyhow::Result<Vec<Row>> {
    let root = dir.join("many");
    let volume = VolumeKey::new("bench")?;
    let began = Instant::now();
    make(&root, &volume, objects)?;
    eprintln!("bench: {objects} objects made in {:.0} s", began.elapsed().as_secs_f64());
    let before = resident_bytes()?;
    let cache = open(&root)?;
    let listed = list(&cache, objects)?;
    let memory = resident_bytes()?.saturating_sub(before) as f64 / objects as f64;
    let du = Instant::now();
    anyhow::ensure!(cache.usage().objects == objects, "{:?}", cache.usage());
    let du = du.elapsed();
    let cold = look_up_cold(&cache, &volume, objects)?;
    let start = Instant::now();
    let culled = cache.cull(0, CULLED.min(objects));
    let culling = start.elapsed();
    anyhow::ensure!(culled.objects >= CULLED.min(objects), "{culled:?}");
    let row = |name: String, figure: f64, unit: &str, limit: f64| Row {
        name,
        larder: format!("{figure:.2} {unit}"),
        peer: "-".into(),
        figure,
        target: Target::AtMost(limit),
    };
    Ok(vec![
        row(format!("look-up, cold, of {objects} objects (µs)"), cold, "µs", 100.0),
        row(format!("listing {objects} objects (s)"), listed.as_secs_f64(), "s", 2.0),
        row("adding up what they take (s)".into(), du.as_secs_f64(), "s", 2.0),
        row(format!("culling {CULLED} objects (s)"), culling.as_secs_f64(), "s", 5.0),
        row("memory of an idle object (bytes)".into(), memory, "B", 200.0),
    ])
}

/// Objects without bytes, each with its file and its row in the index.
fn make(root: &Path, volume: &VolumeKey, objects: u64) -> anyhow::Result<()> {
    let cache = open(root)?;
    cache.acquire_volume(volume, &AuxData::default())?;
    let spec = ObjectSpec::of_size(OBJECT_BYTES);
    for number in 0..objects {
        let key = key(number)?;
        drop(cache.acquire(volume, &key, &spec)?);
        cache.relinquish(volume, &key)?;
    }
    Ok(())
}

/// Like a digest: keys of one cache share no beginning.
fn key(number: u64) -> anyhow::Result<CookieKey> {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
    Ok(CookieKey::new(&format!("{mixed:016x}{number:016x}"))?)
}

fn list(cache: &Cachefiles, objects: u64) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut found = 0;
    cache.objects(|_| {
        found += 1;
        ControlFlow::Continue(())
    });
    let took = start.elapsed();
    anyhow::ensure!(found == objects, "{found} of {objects} objects were listed");
    Ok(took)
}

/// The median time of a first look-up, in microseconds, with nothing of the disk in memory.
fn look_up_cold(cache: &Cachefiles, volume: &VolumeKey, objects: u64) -> anyhow::Result<f64> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3")?;
    let spec = ObjectSpec::of_size(OBJECT_BYTES);
    let mut samples = Vec::new();
    for number in 0..LOOKUPS {
        let key = key(number * (objects / LOOKUPS).max(1) % objects)?;
        let start = Instant::now();
        let object = cache.acquire(volume, &key, &spec)?;
        samples.push(start.elapsed().as_secs_f64() * 1e6);
        drop(object);
        cache.relinquish(volume, &key)?;
    }
    Ok(median(samples))
}

fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
