//! An image whose every byte is known, behind a registry that misbehaves on request.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;
use larder_testkit::Registry;
use sha2::{Digest as _, Sha256};

use super::super::truth;
use super::program;

/// Files of an image.
pub const FILES: u64 = 32;

/// An image.
pub struct Image {
    number: u64,
    sums: Vec<String>,
    /// The registry that serves it.
    pub registry: Registry,
}

impl Image {
    /// Builds image `number` with the program itself, and serves it.
    pub fn build(binary: &Path, dir: &Path, number: u64) -> anyhow::Result<Self> {
        let (source, layout) = (dir.join(format!("source-{number}")), dir.join(format!("layout-{number}")));
        std::fs::create_dir(&source)?;
        std::fs::copy(Path::new("/usr/bin").join(program::NAME), source.join(program::NAME))?;
        let mut sums = Vec::new();
        for file in 0..FILES {
            let mut bytes = vec![0; usize::try_from(size(file))?];
            truth::fill(truth_of(number, file), 0, &mut bytes);
            sums.push(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect());
            File::create(source.join(name(file)))?.write_all(&bytes)?;
        }
        let mut build = Command::new(binary);
        build.arg("build").arg(format!("dir:{}", source.display())).arg(format!("oci:{}", layout.display()));
        let output = build.output()?;
        ensure!(output.status.success(), "larder build: {}", String::from_utf8_lossy(&output.stderr));
        std::fs::remove_dir_all(source)?;
        Ok(Self { number, sums, registry: Registry::layout_from_dir(&layout) })
    }

    /// What the registry calls it.
    pub fn reference(&self) -> String {
        format!("{}/torture", self.registry.host())
    }

    /// The SHA-256 of a file, in hexadecimal.
    pub fn sum_of(&self, file: u64) -> String {
        usize::try_from(file).ok().and_then(|file| self.sums.get(file)).cloned().unwrap_or_default()
    }

    /// The number under which the truth knows a file.
    pub fn truth_of(&self, file: u64) -> u64 {
        truth_of(self.number, file)
    }
}

/// The name of a file.
pub fn name(file: u64) -> String {
    format!("file-{file}")
}

/// The size of a file in bytes: none of them is a whole number of blocks or chunks.
pub fn size(file: u64) -> u64 {
    match file % 4 {
        0 => 3_000_017 + file,
        1 => 70_001 + file,
        2 => 900_003 + file,
        _ => 5_003 + file,
    }
}

fn truth_of(image: u64, file: u64) -> u64 {
    image * 1000 + file
}
