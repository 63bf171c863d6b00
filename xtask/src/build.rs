//! Building programs of this workspace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

/// Programs that were built, by name.
pub struct Executables(BTreeMap<String, PathBuf>);

impl Executables {
    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Where the program `name` lies.
    pub fn named(&self, name: &str) -> anyhow::Result<&Path> {
        self.0.get(name).map(PathBuf::as_path).with_context(|| format!("cargo built no {name}"))
    }
}

/// The cargo that runs this program. What `cargo run` has told this process of its package is kept from it: some build
/// scripts ask for it, and they and all that needs them would be built anew.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let told = |start: &[u8]| name.as_encoded_bytes().starts_with(start);
        if told(b"CARGO_PKG_") || told(b"CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs `cargo build` with these arguments.
pub fn executables(arguments: &[&str]) -> anyhow::Result<Executables> {
    let output = cargo()
        .args(["build", "--message-format=json-render-diagnostics"])
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo could not be started")?;
    if !output.status.success() {
        bail!("cargo build {} failed with {}", arguments.join(" "), output.status);
    }
    let text = String::from_utf8(output.stdout)?;
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let named = messages.filter_map(|message| {
        let name = message["target"]["name"].as_str()?.to_owned();
        Some((name, PathBuf::from(message["executable"].as_str()?)))
    });
    Ok(Executables(named.collect()))
}
