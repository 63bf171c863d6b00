//! Warm reads through a fanotify mount whose blobs are complete, against a plain mount of copies of the same files.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::larder::{Larder, text};
use super::native::NativeMount;
use super::stats::{Row, Target, median, megabytes_a_second};

/// Large enough to last some tens of milliseconds, small enough to stay in the page cache.
const FILE_BYTES: u64 = 256 << 20;
const RANDOM_READS: u64 = 100_000;

/// Two mounts of the same image: through Larder, complete, and plain.
pub struct Pair {
    _larder: Larder,
    _native: NativeMount,
    ours: PathBuf,
    theirs: PathBuf,
}

/// Fills a file with bytes that no codec shrinks.
pub fn random_file(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let mut random = File::open("/dev/urandom")?.take(bytes);
    std::io::copy(&mut random, &mut File::create(path)?)?;
    Ok(())
}

/// Runs the benchmark.
pub fn run(binary: &Path, dir: &Path, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let pair = pair(binary, dir)?;
    let sequential = compare(&pair, rounds, &read_through)?;
    let random = compare(&pair, rounds, &read_at_random)?;
    Ok(vec![
        row("warm sequential read, complete", FILE_BYTES, sequential),
        row("warm random 4 KiB reads, complete", RANDOM_READS * 4096, random),
    ])
}

fn pair(binary: &Path, dir: &Path) -> anyhow::Result<Pair> {
    let tree = dir.join("tree");
    std::fs::create_dir(&tree)?;
    random_file(&tree.join("file"), FILE_BYTES)?;
    let larder = Larder::new(binary, dir);
    let image = format!("oci:{}", text(&dir.join("layout"))?);
    larder.run(&["build", &format!("dir:{}", text(&tree)?), &image])?;
    let ours = dir.join("larder");
    larder.mount(&image, &ours)?;
    read_through(&ours.join("file"))?;
    larder.wait_until_complete()?;
    let copies = copy_backing_files(&larder, dir)?;
    let theirs = dir.join("native");
    let native = NativeMount::new(&copies[1], &copies[..1], &theirs)?;
    Ok(Pair { _larder: larder, _native: native, ours: ours.join("file"), theirs: theirs.join("file") })
}

/// Copies data blob and metadata out of the cache of a complete mount, so that not even the page cache is shared.
///
/// Of an incomplete one it must not: whoever reads a marked backing file has its holes filled.
pub fn copy_backing_files(larder: &Larder, dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut copies = Vec::new();
    for (number, file) in larder.backing_files()?.iter().take(2).enumerate() {
        let copy = dir.join(format!("copy-{number}"));
        std::fs::copy(file, &copy)?;
        copies.push(copy);
    }
    anyhow::ensure!(copies.len() == 2, "the cache holds {} objects instead of 2", copies.len());
    Ok(copies)
}

/// Takes turns; returns the medians of both.
fn compare(
    pair: &Pair,
    rounds: usize,
    measure: &dyn Fn(&Path) -> anyhow::Result<Duration>,
) -> anyhow::Result<(f64, f64)> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // Both page caches are filled the same way: by one pass over present bytes, in turns, so that neither gets the
    // better memory.
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "1")?;
    fill_in_turns(&pair.ours, &pair.theirs)?;
    for round in 0..rounds.max(1) * 3 {
        // Whoever comes second may find warmer caches: swap.
        if round % 2 == 0 {
            ours.push(measure(&pair.ours)?.as_secs_f64());
            theirs.push(measure(&pair.theirs)?.as_secs_f64());
        } else {
            theirs.push(measure(&pair.theirs)?.as_secs_f64());
            ours.push(measure(&pair.ours)?.as_secs_f64());
        }
    }
    Ok((median(ours), median(theirs)))
}

fn row(name: &str, bytes: u64, (ours, theirs): (f64, f64)) -> Row {
    let speed =
        |seconds: f64| format!("{:.0} MB/s", megabytes_a_second(bytes, Duration::from_secs_f64(seconds)));
    Row {
        name: name.to_owned(),
        larder: speed(ours),
        peer: speed(theirs),
        figure: theirs / ours,
        target: Target::AtLeast(0.97),
    }
}

/// Reads both files from beginning to end, a piece of one, then the same piece of the other.
pub fn fill_in_turns(ours: &Path, theirs: &Path) -> anyhow::Result<()> {
    let mut files = [File::open(ours)?, File::open(theirs)?];
    let mut buffer = vec![0; 8 << 20];
    let mut at_end = 0;
    while at_end < files.len() {
        at_end = 0;
        for file in &mut files {
            at_end += usize::from(file.read(&mut buffer)? == 0);
        }
        // Who goes first changes with every piece.
        files.reverse();
    }
    Ok(())
}

/// Reads a file from beginning to end.
pub fn read_through(path: &Path) -> anyhow::Result<Duration> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let start = Instant::now();
    while file.read(&mut buffer)? > 0 {}
    Ok(start.elapsed())
}

fn read_at_random(path: &Path) -> anyhow::Result<Duration> {
    let file = File::open(path)?;
    let mut buffer = [0; 4096];
    let mut place = Places::new(FILE_BYTES);
    let start = Instant::now();
    for _ in 0..RANDOM_READS {
        file.read_exact_at(&mut buffer, place.next())?;
    }
    Ok(start.elapsed())
}

/// The same scattered page offsets on every run.
pub struct Places {
    state: u64,
    pages: u64,
}

impl Places {
    /// Places within `bytes`.
    pub fn new(bytes: u64) -> Self {
        Self { state: 0x9e37_79b9_7f4a_7c15, pages: bytes / 4096 }
    }

    /// The next offset.
    pub fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % self.pages * 4096
    }
}
