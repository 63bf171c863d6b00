//! Checks an image without devices, as `larder erofs fsck` does: `check IMAGE [THREADS]`.

use std::fs::File;
use std::num::NonZero;
use std::process::ExitCode;

use larder_erofs::check::{Options, check};
use larder_erofs::{DeviceMode, Image};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let image = arguments.next().ok_or("usage: check IMAGE [THREADS]")?;
    let jobs = match arguments.next() {
        Some(jobs) => jobs.to_string_lossy().parse()?,
        None => std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
    };
    let (image, checksum) = Image::open_unverified(File::open(image)?, DeviceMode::Flat)?;
    let report = check(&image, &[], checksum, &Options { jobs, ..Options::default() });
    for fault in &report.faults {
        println!("{fault}");
    }
    println!("{} inodes, {} bytes in files", report.inodes, report.file_bytes);
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
