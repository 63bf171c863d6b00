//! Filling from a file of the same file system, digests included, against `cp`.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use serde_json::Value;

use super::super::stats::{Row, Target};
use crate::build;

/// Runs the example `fill_speed` of larder-ondemand, which takes turns with `cp` and prints medians.
pub fn run(dir: &Path) -> anyhow::Result<Vec<Row>> {
    let output = build::cargo()
        .args([
            "run",
            "--release",
            "--quiet",
            "--package",
            "larder-ondemand",
            "--example",
            "fill_speed",
            "--",
        ])
        .arg(dir)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo could not be started")?;
    anyhow::ensure!(output.status.success(), "fill_speed failed with {}", output.status);
    String::from_utf8(output.stdout)?.lines().map(|line| row(&serde_json::from_str(line)?)).collect()
}

fn row(told: &Value) -> anyhow::Result<Row> {
    let number = |name: &str| told[name].as_f64().with_context(|| format!("fill_speed tells no {name}"));
    let word = |name: &str| told[name].as_str().unwrap_or("?");
    let (encoding, hash, way) = (word("encoding"), word("hash"), word("way"));
    Ok(Row {
        name: format!("filling {} MiB, {encoding}, {hash}, {way}, against cp", number("mib")?),
        larder: format!("{:.3} s", number("fill_seconds")?),
        peer: format!("{:.3} s", number("cp_seconds")?),
        figure: number("ratio")?,
        // A codec is no part of the target: the default image has one all the same.
        target: if encoding == "raw" { Target::AtLeast(0.8) } else { Target::None },
    })
}
