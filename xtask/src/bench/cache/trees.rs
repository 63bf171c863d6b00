//! A large remote file read through a mounted tree, against `curl` from the same server, and against the local file
//! system once the cache has it.
//!
//! Over a link, as remote files are. Without one, memory is the limit and the server has one of the two processors: there whoever
//! hands the bytes to another program cannot be as fast as `curl`, which throws them away. What handing them on
//! through a pipe takes, and nothing else, is measured beside it.

use std::fs::{File, FileTimes};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use larder_testkit::{Listing, Nginx};
use serde_json::Value;

use super::super::larder::Larder;
use super::super::stats::{Row, Target, median, megabytes_a_second};
use super::super::warm::{random_file, read_through};
use super::link::Link;

const FILE_BYTES: u64 = 1 << 30;
/// Each has 1 GiB fetched, written and read several times.
const ROUNDS_MAX: usize = 5;
/// After which the cache must have everything.
const SEALED_WITHIN: Duration = Duration::from_secs(60);

/// 1 Gbit/s.
const LINK_BYTES_A_SECOND: f64 = 125e6;
/// Over the link one round takes as long as the link wants, whoever reads.
const LINK_ROUNDS: usize = 3;

/// Seconds of every run.
#[derive(Default)]
struct Samples {
    curl_link: Vec<f64>,
    first_link: Vec<f64>,
    curl: Vec<f64>,
    curl_piped: Vec<f64>,
    first: Vec<f64>,
    disk: Vec<f64>,
    again_disk: Vec<f64>,
    memory: Vec<f64>,
    again_memory: Vec<f64>,
}

/// Runs the benchmark.
pub fn run(binary: &Path, dir: &Path, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let dir = dir.join("trees");
    let source = dir.join("source");
    std::fs::create_dir_all(&source)?;
    let local = source.join("file");
    random_file(&local, FILE_BYTES)?;
    let nginx = Nginx::start(&source, Listing::Index).map_err(anyhow::Error::msg)?;
    let server = nginx.url().trim_start_matches("http://").trim_end_matches('/').parse()?;
    let link = Link::start(server, LINK_BYTES_A_SECOND)?;
    let bench = Bench { binary, dir: &dir, local: &local };
    let mut samples = Samples::default();
    for round in 0..LINK_ROUNDS {
        let url = format!("http://{}/", link.address());
        bench.first(&mut samples.first_link, &mut samples.curl_link, round, &url)?;
    }
    for round in LINK_ROUNDS..LINK_ROUNDS + rounds.clamp(1, ROUNDS_MAX) {
        let mounted = bench.first(&mut samples.first, &mut samples.curl, round, &nginx.url())?;
        rustix::fs::sync();
        samples.curl_piped.push(download_through_pipe(&format!("{}file", nginx.url()))?.as_secs_f64());
        bench.again(&mut samples, round, &mounted)?;
    }
    Ok(rows(samples))
}

/// What all rounds share.
struct Bench<'a> {
    binary: &'a Path,
    dir: &'a Path,
    /// What the server serves, as a local file.
    local: &'a Path,
}

/// A daemon that has the server's tree mounted, with the directory that goes with it.
struct Mounted {
    larder: Larder,
    remote: PathBuf,
    _home: tempfile::TempDir,
}

impl Bench<'_> {
    /// Reads the file for the first time through a mount of its own, and downloads it, in turns.
    fn first(
        &self,
        ours: &mut Vec<f64>,
        theirs: &mut Vec<f64>,
        round: usize,
        tree: &str,
    ) -> anyhow::Result<Mounted> {
        // Another version of the file each time: nothing of it is cached.
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + round as u64);
        File::options().write(true).open(self.local)?.set_times(FileTimes::new().set_modified(modified))?;
        let home = tempfile::tempdir_in(self.dir)?;
        let target = home.path().join("mounted");
        let larder = Larder::new(self.binary, home.path());
        larder.mount_tree(tree, &target)?;
        let mounted = Mounted { larder, remote: target.join("file"), _home: home };
        // The server reads from memory, whoever asks.
        read_through(self.local)?;
        let url = format!("{tree}file");
        in_turns(round, (ours, &|| timed(&mounted.remote)), (theirs, &|| download(&url)), &|| {
            rustix::fs::sync();
            Ok(())
        })?;
        Ok(mounted)
    }

    /// Reads it again when the cache has it for good, from the disk and from memory, beside the local file.
    fn again(&self, samples: &mut Samples, round: usize, mounted: &Mounted) -> anyhow::Result<()> {
        let (ours, theirs) = (|| timed(&mounted.remote), || timed(self.local));
        cache_all(&mounted.larder, &mounted.remote)?;
        in_turns(round, (&mut samples.again_disk, &ours), (&mut samples.disk, &theirs), &drop_caches)?;
        in_turns(round, (&mut samples.again_memory, &ours), (&mut samples.memory, &theirs), &|| Ok(()))
    }
}

type Measured<'a> = (&'a mut Vec<f64>, &'a dyn Fn() -> anyhow::Result<Duration>);

/// Whoever comes second may find warmer caches: swap.
fn in_turns(
    round: usize,
    ours: Measured<'_>,
    theirs: Measured<'_>,
    before: &dyn Fn() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let order = if round.is_multiple_of(2) { [ours, theirs] } else { [theirs, ours] };
    for (samples, measure) in order {
        before()?;
        samples.push(measure()?.as_secs_f64());
    }
    Ok(())
}

/// Reads until the cache has all of it, durable. What finds the copier's queue full is left out on the first pass.
fn cache_all(larder: &Larder, remote: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + SEALED_WITHIN;
    while Instant::now() < deadline {
        let listed = larder.run(&["cache", "ls", "--json"])?;
        let object: Value = serde_json::from_str(listed.lines().next().context("the cache is empty")?)?;
        if object["complete"] == true {
            return Ok(());
        }
        drop_caches()?;
        read_through(remote)?;
        std::thread::sleep(Duration::from_secs(1));
    }
    anyhow::bail!("the cache does not have the file after {} s", SEALED_WITHIN.as_secs())
}

fn drop_caches() -> anyhow::Result<()> {
    rustix::fs::sync();
    Ok(std::fs::write("/proc/sys/vm/drop_caches", "1")?)
}

/// The time from before the open: a tree asks its server then.
fn timed(path: &Path) -> anyhow::Result<Duration> {
    let start = Instant::now();
    read_through(path)?;
    Ok(start.elapsed())
}

fn download(url: &str) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let status = Command::new("curl").args(["--silent", "--fail", "--output", "/dev/null", url]).status();
    let took = start.elapsed();
    let status = status.context("curl could not be started")?;
    anyhow::ensure!(status.success(), "curl failed with {status}");
    Ok(took)
}

/// The same with another program, this one, that reads it.
fn download_through_pipe(url: &str) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut curl = Command::new("curl")
        .args(["--silent", "--fail", url])
        .stdout(Stdio::piped())
        .spawn()
        .context("curl could not be started")?;
    let mut pipe = curl.stdout.take().context("curl has no output")?;
    let mut buffer = vec![0; 128 << 10];
    while pipe.read(&mut buffer)? > 0 {}
    let took = start.elapsed();
    let status = curl.wait()?;
    anyhow::ensure!(status.success(), "curl failed with {status}");
    Ok(took)
}

fn rows(samples: Samples) -> Vec<Row> {
    let row = |name: &str, ours: Vec<f64>, theirs: Vec<f64>, target: Target| {
        let (ours, theirs) = (median(ours), median(theirs));
        let speed = |seconds: f64| {
            format!("{:.0} MB/s", megabytes_a_second(FILE_BYTES, Duration::from_secs_f64(seconds)))
        };
        Row { name: name.to_owned(), larder: speed(ours), peer: speed(theirs), figure: theirs / ours, target }
    };
    let at_least = Target::AtLeast;
    vec![
        row("tree, 1 GiB over 1 Gbit/s, against curl", samples.first_link, samples.curl_link, at_least(0.95)),
        row("tree, first read, no link, against curl", samples.first, samples.curl.clone(), Target::None),
        row("curl and a pipe, no link, against curl", samples.curl_piped, samples.curl, Target::None),
        row("tree, again, from disk, against local", samples.again_disk, samples.disk, at_least(0.9)),
        row("tree, again, from memory, against local", samples.again_memory, samples.memory, at_least(0.9)),
    ]
}
