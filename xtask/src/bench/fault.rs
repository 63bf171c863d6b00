//! A fault whose bytes are present while the mark is still on, against a read of the same bytes without a mark.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{Advice, fadvise};

use super::larder::{Larder, text};
use super::native::NativeMount;
use super::stats::{Row, Target, median};
use super::warm::{Places, copy_backing_files, random_file, read_through};

const FILE_BYTES: u64 = 64 << 20;
const READS: usize = 2_000;

/// Runs the benchmark: two files, of which one is read whole, so that the blob stays incomplete and marked.
pub fn run(binary: &Path, dir: &Path, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let tree = dir.join("tree");
    std::fs::create_dir(&tree)?;
    random_file(&tree.join("a"), FILE_BYTES)?;
    random_file(&tree.join("z"), FILE_BYTES)?;
    let (ours, theirs) = (dir.join("larder"), dir.join("native"));
    let image = format!("oci:{}", text(&dir.join("layout"))?);
    let copies = complete_copies(binary, dir, &tree, &image)?;
    let larder = Larder::new(binary, dir);
    larder.mount(&image, &ours)?;
    read_through(&ours.join("a"))?;
    anyhow::ensure!(
        larder.status()?["mounts"][0]["state"] == "on_demand",
        "the blob is complete: no mark is left"
    );
    let _native = NativeMount::new(&copies[1], &copies[..1], &theirs)?;
    // Reads through the copies' page cache, so that both sides differ by the event alone.
    read_through(&theirs.join("a"))?;

    let (mut marked, mut plain) = (Vec::new(), Vec::new());
    for round in 0..rounds.max(1) {
        let sides = [(ours.join("a"), true), (theirs.join("a"), false)];
        for turn in 0..2 {
            let (path, is_marked) = &sides[(round + turn) % 2];
            let samples = if *is_marked { &mut marked } else { &mut plain };
            samples.push(microseconds_a_read(path)?);
        }
    }
    let (marked, plain) = (median(marked), median(plain));
    Ok(vec![Row {
        name: "fault with its bytes present, mark on (µs more)".into(),
        larder: format!("{marked:.1} µs"),
        peer: format!("{plain:.1} µs"),
        figure: marked - plain,
        target: Target::AtMost(15.0),
    }])
}

/// The image's files, complete, from a daemon of their own.
fn complete_copies(binary: &Path, dir: &Path, tree: &Path, image: &str) -> anyhow::Result<Vec<PathBuf>> {
    let dir = dir.join("complete");
    std::fs::create_dir(&dir)?;
    let larder = Larder::new(binary, &dir);
    larder.run(&["build", &format!("dir:{}", text(tree)?), image])?;
    let target = dir.join("larder");
    larder.mount(image, &target)?;
    for file in ["a", "z"] {
        read_through(&target.join(file))?;
    }
    larder.wait_until_complete()?;
    copy_backing_files(&larder, &dir)
}

/// Random single pages, none of them in EROFS's page cache, all of them in the backing file's.
fn microseconds_a_read(path: &Path) -> anyhow::Result<f64> {
    let file = File::open(path)?;
    fadvise(&file, 0, None, Advice::Random)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut places = Places::new(FILE_BYTES);
    let mut buffer = [0; 4096];
    let mut samples = Vec::with_capacity(READS);
    for _ in 0..READS {
        let at = places.next();
        let start = Instant::now();
        file.read_exact_at(&mut buffer, at)?;
        samples.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(samples))
}
