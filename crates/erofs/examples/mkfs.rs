//! Writes a directory as a metadata image and a blob, and says what it took: `mkfs DIR META BLOB [JOBS]`.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::num::NonZero;
use std::path::Path;
use std::time::Instant;

use larder_erofs::DeviceTag;
use larder_erofs::writer::{Options, ScanOptions, Tree, WriteSink, write_data};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = std::env::args_os().collect();
    let [_, dir, meta, blob, rest @ ..] = args.as_slice() else {
        return Err("usage: mkfs DIR META BLOB [JOBS]".into());
    };
    let jobs = match rest.first() {
        Some(jobs) => jobs.to_string_lossy().parse()?,
        None => std::thread::available_parallelism()?,
    };
    run(Path::new(dir), Path::new(meta), Path::new(blob), jobs)
}

fn run(dir: &Path, meta: &Path, blob: &Path, jobs: NonZero<usize>) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let mut tree = Tree::new();
    let report = tree.add_root_from(dir, b"", &ScanOptions::default(), &mut |_| true)?;
    let (scanned, after_scan) = (start.elapsed(), peak_memory());
    let mut sink = WriteSink(File::create(blob)?);
    let data = write_data(tree, &Options { jobs, ..Options::default() }, &mut sink)?;
    let (read, after_data) = (start.elapsed(), peak_memory());
    let mut out = BufWriter::new(File::create(meta)?);
    let tags = vec![DeviceTag::EMPTY; data.devices().len()];
    let summary = data.write_metadata(&tags, &mut out)?;
    println!("{report:?}\n{summary:?}");
    println!("scan  {:>8.3} s, peak {after_scan}", scanned.as_secs_f64());
    println!("data  {:>8.3} s, peak {after_data}", (read - scanned).as_secs_f64());
    println!("meta  {:>8.3} s, peak {}", (start.elapsed() - read).as_secs_f64(), peak_memory());
    println!("total {:>8.3} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// The most memory this process has had, as the kernel tells it.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "unknown".into(), |value| value.trim().into())
}
