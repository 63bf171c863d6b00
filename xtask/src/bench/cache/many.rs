//! Many objects: looking one up cold, listing all, culling, and the memory that they take.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use larder_cachefiles::{BootId, Cachefiles, Config, NoHolder};
use larder_fscache::{AuxData, Backend as _, CookieKey, ObjectSpec, VolumeKey};

use super::super::erofs::peer::forget_caches;
use super::super::stats::{Row, Target, median};

const LOOKUPS: u64 = 10_000;
const CULLED: u64 = 10_000;
/// Runs of each command.
const COMMANDS: usize = 3;
const OBJECT_BYTES: u64 = 1 << 20;

/// Opens a cache that nobody keeps descriptors for.
pub fn open(root: &Path) -> anyhow::Result<Cachefiles> {
    Ok(Cachefiles::open(Config::new(root.to_owned(), BootId::of_this_machine()?, Arc::new(NoHolder)))?)
}

/// Runs the benchmark with so many objects.
pub fn run(binary: &Path, dir: &Path, objects: u64) -> anyhow::Result<Vec<Row>> {
    let home = dir.join("many");
    let root = home.join("cache");
    let volume = VolumeKey::new("bench")?;
    let began = Instant::now();
    let memory = make(&root, &volume, objects)? as f64 / objects as f64;
    eprintln!("bench: {objects} objects made in {:.0} s", began.elapsed().as_secs_f64());
    let ls = command(binary, &home, "ls", |told| told.lines().count() as u64 == objects + 1)?;
    let all = format!("{objects} objects take ");
    let du = command(binary, &home, "du", |told| told.lines().any(|line| line.starts_with(&all)))?;
    let cache = open(&root)?;
    list(&cache, objects)?;
    drop(cache);
    let plain = open_cold(&root)?;
    forget_caches();
    let cache = open(&root)?;
    let cold = look_up_cold(&cache, &volume, objects)?;
    let start = Instant::now();
    let culled = cache.cull(0, CULLED.min(objects));
    let culling = start.elapsed();
    anyhow::ensure!(culled.objects >= CULLED.min(objects), "{culled:?}");
    let row = |name: String, figure: f64, unit: &str, peer: String, limit: f64| Row {
        name,
        larder: format!("{figure:.2} {unit}"),
        peer,
        figure,
        target: Target::AtMost(limit),
    };
    Ok(vec![
        // The peer is the disk: what it takes to open as many of the files, and to read their attribute.
        row(format!("look-up, cold, of {objects} objects (µs)"), cold, "µs", format!("{plain:.2} µs"), 100.0),
        row(format!("`larder cache ls`, {objects} objects (s)"), ls, "s", "-".into(), 2.0),
        row(format!("`larder cache du`, {objects} objects (s)"), du, "s", "-".into(), 2.0),
        row(format!("culling {CULLED} objects (s)"), culling.as_secs_f64(), "s", "-".into(), 5.0),
        row("memory of an idle object (bytes)".into(), memory, "B", "-".into(), 200.0),
    ])
}

/// Objects without bytes, each with its file and its row in the index. Returns the bytes of memory that a cache has taken
/// which knows them all and of which nobody uses any.
fn make(root: &Path, volume: &VolumeKey, objects: u64) -> anyhow::Result<u64> {
    let before = resident_bytes()?;
    let cache = open(root)?;
    cache.acquire_volume(volume, &AuxData::default())?;
    let spec = ObjectSpec::of_size(OBJECT_BYTES);
    for number in 0..objects {
        let key = key(number)?;
        drop(cache.acquire(volume, &key, &spec)?);
        cache.relinquish(volume, &key)?;
    }
    Ok(resident_bytes()?.saturating_sub(before))
}

/// Like a digest: keys of one cache share no beginning.
fn key(number: u64) -> anyhow::Result<CookieKey> {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
    Ok(CookieKey::new(&format!("{mixed:016x}{number:016x}"))?)
}

/// The median time of a command that prints a table, from its start to its end, once the files are in memory.
fn command(binary: &Path, home: &Path, name: &str, is_whole: impl Fn(&str) -> bool) -> anyhow::Result<f64> {
    let mut samples = Vec::new();
    for _ in 0..COMMANDS {
        let start = Instant::now();
        let output = Command::new(binary).arg("--root").arg(home).args(["cache", name]).output()?;
        samples.push(start.elapsed().as_secs_f64());
        anyhow::ensure!(output.status.success(), "larder cache {name} failed with {}", output.status);
        anyhow::ensure!(
            is_whole(std::str::from_utf8(&output.stdout)?),
            "larder cache {name} left something out"
        );
    }
    Ok(median(samples))
}

fn list(cache: &Cachefiles, objects: u64) -> anyhow::Result<()> {
    let mut found = 0;
    cache.objects(|_| {
        found += 1;
        ControlFlow::Continue(())
    });
    anyhow::ensure!(found == objects, "{found} of {objects} objects were listed");
    Ok(())
}

/// The mean time of a look-up, from acquiring an object to letting go of it, in microseconds. Nothing of the disk is in
/// memory at first, and no object is looked up twice, but by chance.
fn look_up_cold(cache: &Cachefiles, volume: &VolumeKey, objects: u64) -> anyhow::Result<f64> {
    let spec = ObjectSpec::of_size(OBJECT_BYTES);
    let mut random = 1_u64;
    let start = Instant::now();
    for _ in 0..LOOKUPS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        drop(cache.acquire(volume, &key((random >> 20) % objects)?, &spec)?);
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / LOOKUPS as f64)
}

/// The mean time of opening a file of the cache and reading its attribute, in microseconds: as many as are looked up, and
/// as cold.
fn open_cold(root: &Path) -> anyhow::Result<f64> {
    let mut files = Vec::new();
    for folder in root.join("cache/bench").read_dir()? {
        for file in folder?.path().read_dir()? {
            files.push(file?.path());
        }
    }
    fastrand::Rng::with_seed(1).shuffle(&mut files);
    files.truncate(usize::try_from(LOOKUPS)?);
    forget_caches();
    let mut attribute = [0; 4096];
    let start = Instant::now();
    for file in &files {
        rustix::fs::fgetxattr(std::fs::File::open(file)?, "user.larder.object", &mut attribute)
            .with_context(|| file.display().to_string())?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / files.len() as f64)
}

fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
