//! The suite: which tests run in which kernel, and what its doctor has to say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use super::guest::{Boot, End, Guest, make_disk};
use super::initramfs::Initramfs;
use super::kernel::{Kernel, Version};
use super::report::{Outcome, Row, Tally, print};
use crate::build;

/// Disk of a guest in MiB: caches, images, layouts.
const DISK_MIB: u64 = 1536;
/// Memory of a guest.
const MEMORY: &str = "900M";

/// What most packages call the program with their integration tests, each file of which is a module.
const INTEGRATION: &str = "it";

/// Tests of the workspace that run together.
struct Part {
    package: &'static str,
    tests: Tests,
    /// Only names that contain one of these; all without any.
    only: &'static [&'static str],
}

/// Where tests are.
#[derive(Clone, Copy)]
enum Tests {
    /// Beside the code.
    Unit,
    /// In this file of the integration tests.
    Module(&'static str),
    /// In a program of their own.
    Program(&'static str),
}

const fn module(package: &'static str, name: &'static str) -> Part {
    Part { package, tests: Tests::Module(name), only: &[] }
}

const fn program(package: &'static str, name: &'static str) -> Part {
    Part { package, tests: Tests::Program(name), only: &[] }
}

/// What runs in every kernel. Tests of front ends that a kernel does not have say that they are skipped, and why.
const PARTS: &[Part] = &[
    Part {
        package: "larder-mount",
        tests: Tests::Unit,
        only: &["cachefiles::", "fuse_blob::", "probe::", "erofs::"],
    },
    program("larder-cachefiles", "fs_verity"),
    module("larder-mount", "kernel_mount"),
    module("larder-mount", "mount_identity"),
    module("larder-mount", "never_begun"),
    module("larder-mount", "cachefiles_mount"),
    program("larder-mount", "worker_killed"),
    module("larder", "status_and_doctor"),
    module("larder", "lying_registry"),
    module("larder", "one_fetch"),
    Part { package: "larder", tests: Tests::Module("worker_killed"), only: &["p1_", "p4_"] },
    module("larder", "crash_loop"),
    module("larder", "not_resumed"),
    module("larder", "clock"),
];

/// The parts to run. What has a `main` of its own knows no filter.
fn parts(filter: Option<&str>) -> impl Iterator<Item = &'static Part> {
    let has_main = |part: &Part| part.name() == "larder-mount.worker_killed";
    PARTS.iter().filter(move |part| filter.is_none() || !has_main(part))
}

/// The front ends that work in a kernel: what `larder doctor` has to say there.
fn front_ends(version: Version) -> &'static [&'static str] {
    match version {
        Version::V6_1 => &["cachefiles", "fuse"],
        Version::V6_12 => &["fuse-blob", "cachefiles", "fuse"],
        Version::V7_3 => &["fanotify", "fuse-blob", "fuse"],
    }
}

/// The programs that cargo has built.
pub struct Programs {
    pub larder: PathBuf,
    /// By package and target; unit tests have the package's library for a target.
    tests: BTreeMap<(String, Option<String>), PathBuf>,
}

/// Builds the program and the tests, those of the suite alone.
pub fn build() -> anyhow::Result<Programs> {
    let targets: BTreeSet<&str> = PARTS.iter().filter_map(Part::target).collect();
    let targets = targets.into_iter().flat_map(|target| ["--test", target]);
    let output = build::cargo()
        .args(["test", "--no-run", "--locked", "--message-format=json-render-diagnostics"])
        .args(["--package", "larder", "--package", "larder-mount", "--package", "larder-cachefiles", "--lib"])
        .args(targets)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo could not be started")?;
    if !output.status.success() {
        bail!("the tests could not be built");
    }
    let (mut larder, mut tests) = (None, BTreeMap::new());
    for line in String::from_utf8(output.stdout)?.lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
        let Some(executable) = message["executable"].as_str().map(PathBuf::from) else { continue };
        let package = message["package_id"].as_str().and_then(package_of).unwrap_or_default();
        let kind = message["target"]["kind"][0].as_str().unwrap_or_default();
        let name = message["target"]["name"].as_str().unwrap_or_default().to_owned();
        let is_test = message["profile"]["test"] == true;
        match (kind, is_test) {
            ("bin", false) if name == "larder" => larder = Some(executable),
            ("test", _) => drop(tests.insert((package.to_owned(), Some(name)), executable)),
            ("lib", true) => drop(tests.insert((package.to_owned(), None), executable)),
            _ => {}
        }
    }
    Ok(Programs { larder: larder.context("cargo built no larder")?, tests })
}

/// `path+file:///x/crates/mount#larder-mount@0.1.0`, or without the name where the folder has the same.
fn package_of(id: &str) -> Option<&str> {
    let (path, rest) = id.rsplit_once('#')?;
    match rest.split_once('@') {
        Some((name, _)) => Some(name),
        None => path.rsplit('/').next(),
    }
}

/// Runs the suite in every kernel, prints a table, and tells whether all is well.
pub fn run(
    kernels: &[Kernel],
    initramfs: &Initramfs,
    programs: &Programs,
    filter: Option<&str>,
    limit: Duration,
    out: &Path,
) -> anyhow::Result<bool> {
    let script = script(programs, filter, limit)?;
    let mut rows = Vec::new();
    for kernel in kernels {
        let out = out.join(kernel.version.as_str());
        // What an earlier run has left would pass for results of this one.
        if out.exists() {
            fs::remove_dir_all(&out)?;
        }
        fs::create_dir_all(&out)?;
        let begun = Instant::now();
        let disk = out.join("disk");
        make_disk(&disk, DISK_MIB, false)?;
        let boot =
            Boot { kernel, initramfs, script: &script, disk: &disk, out: &out, shown: &[], memory: MEMORY };
        let end = Guest::boot(&boot)?.wait(limit)?;
        fs::remove_file(&disk)?;
        rows.extend(rows_of(kernel, &out, filter)?);
        rows.push(Row::new(kernel, "the kernel itself", outcome_of(end), begun.elapsed()));
    }
    Ok(print(&rows))
}

fn outcome_of(end: End) -> Outcome {
    match end {
        End::Status(0) => Outcome::Good,
        End::Status(status) => Outcome::Bad(format!("its script ended with {status}")),
        End::Limit => Outcome::Bad("it took too long".to_owned()),
        End::Trouble(line) => Outcome::Bad(line),
        End::Silent => Outcome::Bad("it ended without a word".to_owned()),
    }
}

/// What the guest's shell does: each program in turn, its log and status to /out.
fn script(programs: &Programs, filter: Option<&str>, limit: Duration) -> anyhow::Result<String> {
    let mut script = String::from(
        "set -e\n\
         mount -t ext4 /dev/ubda /cache\n\
         mkdir /cache/tmp\n\
         export TMPDIR=/cache/tmp LARDER_SCRATCH=/cache/tmp LARDER_UML=1 RUST_BACKTRACE=1\n\
         set +e\n",
    );
    script += &format!(
        "{0} --root /cache/doctor doctor >/out/doctor.txt 2>&1\n\
         {0} --root /cache/doctor doctor --json >/out/doctor.json 2>/dev/null\n",
        programs.larder.display(),
    );
    for part in parts(filter) {
        let key = (part.package.to_owned(), part.target().map(str::to_owned));
        let program = programs.tests.get(&key).with_context(|| format!("cargo built no {}", part.name()))?;
        let program = program.display();
        let names = part.names();
        let wanted = match filter {
            None => names.join(" "),
            // Those that both want, by their whole names; a name of no test keeps an empty list from being all of them.
            Some(filter) => format!(
                "--exact none $({program} --list --format=terse | sed -n 's/: test$//p' \
                 | grep -F -e '{names}' | grep -F -e '{filter}')",
                names = names.join("' -e '"),
            ),
        };
        let seconds = limit.as_secs() / 2;
        script += &format!(
            "begun=$(cut -d' ' -f1 /proc/uptime)\n\
             timeout {seconds} {program} --test-threads=1 {wanted} >/out/{name}.log 2>&1\n\
             echo $? $begun $(cut -d' ' -f1 /proc/uptime) >/out/{name}.status\n",
            name = part.name(),
        );
    }
    script += "exit 0\n";
    Ok(script)
}

impl Part {
    fn name(&self) -> String {
        let (Tests::Module(name) | Tests::Program(name)) = self.tests else {
            return format!("{}.lib", self.package);
        };
        format!("{}.{name}", self.package)
    }

    /// The test target; none for unit tests.
    fn target(&self) -> Option<&'static str> {
        match self.tests {
            Tests::Unit => None,
            Tests::Module(_) => Some(INTEGRATION),
            Tests::Program(name) => Some(name),
        }
    }

    /// One of these is in the name of every test of this part, and in that of no other test of its program; all are,
    /// where there is none.
    fn names(&self) -> Vec<String> {
        match self.tests {
            Tests::Module(module) if self.only.is_empty() => vec![format!("{module}::")],
            Tests::Module(module) => self.only.iter().map(|only| format!("{module}::{only}")).collect(),
            _ => self.only.iter().map(|only| (*only).to_owned()).collect(),
        }
    }
}

fn rows_of(kernel: &Kernel, out: &Path, filter: Option<&str>) -> anyhow::Result<Vec<Row>> {
    let mut rows = vec![doctor(kernel, out)?];
    for part in parts(filter) {
        let read = |end: &str| fs::read_to_string(out.join(format!("{}{end}", part.name())));
        let log = read(".log").unwrap_or_default();
        let tally = Tally::of(&log);
        let status = read(".status").unwrap_or_default();
        let mut fields = status.split_whitespace();
        let code = fields.next().and_then(|code| code.parse::<i32>().ok());
        let mut seconds = || fields.next().and_then(|text| text.parse::<f64>().ok());
        let took = seconds().zip(seconds()).map_or(0.0, |(from, to)| to - from);
        let outcome = match code {
            Some(0) if tally.failed.is_empty() => Outcome::Good,
            Some(0) => Outcome::Bad("it says that tests failed".to_owned()),
            Some(code) => Outcome::Bad(format!("status {code}: {}", tally.failed.join(", "))),
            None => Outcome::Bad("it never ended".to_owned()),
        };
        if filter.is_some() && tally.passed == 0 && outcome == Outcome::Good {
            continue;
        }
        let took = Duration::try_from_secs_f64(took).unwrap_or_default();
        rows.push(Row::new(kernel, &part.name(), outcome, took).with(tally));
    }
    Ok(rows)
}

/// Prints what the doctor said, and compares it with what is known of the kernel.
fn doctor(kernel: &Kernel, out: &Path) -> anyhow::Result<Row> {
    println!("\nlarder doctor in {}:", kernel.version);
    println!("{}", fs::read_to_string(out.join("doctor.txt")).unwrap_or_default());
    let text = fs::read(out.join("doctor.json")).unwrap_or_default();
    let findings: Value = serde_json::from_slice(&text).unwrap_or_default();
    let works = |finding: &&Value| finding["works"] == true;
    let listed = findings["frontends"].as_array().into_iter().flatten();
    let found: Vec<&str> = listed.filter(works).filter_map(|finding| finding["frontend"].as_str()).collect();
    let expected = front_ends(kernel.version);
    let outcome = if found == expected {
        Outcome::Good
    } else {
        Outcome::Bad(format!("{found:?} work, and {expected:?} should"))
    };
    Ok(Row::new(kernel, "larder doctor", outcome, Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_of_the_suite_has_its_file() {
        for part in PARTS {
            let Tests::Module(name) = part.tests else { continue };
            let folder = part.package.strip_prefix("larder-").unwrap_or(part.package);
            let file = format!("../crates/{folder}/tests/{INTEGRATION}/{name}.rs");
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file).is_file(), "{file}");
        }
    }

    #[test]
    fn a_package_is_known_by_its_id() {
        for (id, name) in [
            ("path+file:///x/crates/mount#larder-mount@0.1.0", Some("larder-mount")),
            ("path+file:///x/crates/larder#0.1.0", Some("larder")),
            ("nonsense", None),
        ] {
            assert_eq!(package_of(id), name, "{id}");
        }
    }
}
