//! Writes a directory as an image of one piece, and says what it took: `image DIR IMAGE [CODEC [PCLUSTER [JOBS]]]`.

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

use larder_erofs::writer::{DirectoryOptions, ImageOptions, write_image_from_dir};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, image, rest @ ..] = args.as_slice() else {
        return Err("usage: image DIR IMAGE [CODEC [PCLUSTER [JOBS]]]".into());
    };
    let mut options = ImageOptions::default();
    if let Some(codec) = rest.first().filter(|codec| *codec != "none") {
        options.compressors = vec![codec.parse()?];
    }
    if let Some(bytes) = rest.get(1) {
        options.pcluster_bytes = bytes.parse()?;
    }
    options.jobs = match rest.get(2) {
        Some(jobs) => jobs.parse()?,
        None => std::thread::available_parallelism()?,
    };
    for word in rest.iter().skip(3) {
        match word.as_str() {
            "tails" => options.tail_packing = true,
            "fragments" => options.fragments = larder_erofs::writer::Fragments::Tails,
            "dedupe" => options.dedupe = true,
            block => options.block_bits = u8::try_from(block.parse::<u32>()?.ilog2())?,
        }
    }
    let start = Instant::now();
    let from = DirectoryOptions::default();
    let summary = write_image_from_dir(Path::new(dir), &from, &options, &mut File::create(image)?)?;
    println!("{summary:?}");
    println!("{:.3} s, {}", start.elapsed().as_secs_f64(), peak_memory());
    Ok(())
}

/// The most memory this process has had, as the kernel tells it.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "memory unknown".into(), |value| format!("peak {}", value.trim()))
}
