//! Power cuts: a guest that fills images is killed at a random moment, and its disk is what the next boot finds.
//!
//! Each boot recovers, reads every file of an image through a front end in random order, compares every byte with the
//! truth, and fills what is missing; then once more from the disk, or with an empty cache; until it is cut.
//! What the guest had not written back is lost, what it had is on the disk: the host's page cache is the disk's platter,
//! so that a cut is one of the guest's memory, not of a disk's own cache.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};

use super::guest::{Boot, Guest, make_disk, trouble};
use super::initramfs::Initramfs;
use super::kernel::{Kernel, Version};
use super::suite::Programs;

/// Files of the image, and the bytes of each: whole blocks and odd ends.
const FILES: u64 = 48;
const FILE_BYTES: u64 = 700 << 10;
/// How long a guest may take until it reads.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// After a guest reads, the power is cut within this: what is filled becomes durable every five seconds.
const CUT_WITHIN: Duration = Duration::from_secs(8);
/// The guest's words.
const READING: &str = "cuts: reading";
const ROUND: &str = "cuts: round";
const RECOVERED: &str = "cuts: recovered ";
const WRONG: &str = "cuts: WRONG";

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    cuts: u32,
    files: usize,
    rounds: usize,
    /// Boots that found bytes in the cache, and how many MiB.
    recovered: u32,
    recovered_mib: u64,
    wrong: Vec<String>,
}

/// Cuts the power `cuts` times in all; tells whether every byte was right.
pub fn run(
    kernels: &[Kernel],
    initramfs: &Initramfs,
    programs: &Programs,
    (cuts, seed): (u32, Option<u64>),
    out: &Path,
) -> anyhow::Result<bool> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = seed.unwrap_or(now.as_secs());
    println!("{cuts} power cuts, seed {seed}");
    let mut dice = Dice(seed | 1);
    let image = Image::make(out, programs, seed)?;
    let mut good = true;
    let runs: Vec<(&Kernel, &str)> = kernels
        .iter()
        .flat_map(|kernel| front_ends(kernel.version).iter().map(move |front_end| (kernel, *front_end)))
        .collect();
    let shares = u32::try_from(runs.len())?;
    println!(
        "{:6}  {:10} {:>5} {:>6} {:>6} {:>9} {:>13} {:>5}",
        "KERNEL", "FRONT END", "CUTS", "FILES", "ROUNDS", "RECOVERED", "RECOVERED MiB", "WRONG"
    );
    for (n, (kernel, front_end)) in (0..).zip(runs) {
        let share = cuts / shares + u32::from(n < cuts % shares);
        let seen = cut(kernel, front_end, share, initramfs, programs, (&image, &mut dice), out)?;
        println!(
            "{:6}  {front_end:10} {:5} {:6} {:6} {:9} {:13} {:5}",
            kernel.version.as_str(),
            seen.cuts,
            seen.files,
            seen.rounds,
            seen.recovered,
            seen.recovered_mib,
            seen.wrong.len(),
        );
        for wrong in &seen.wrong {
            println!("    {wrong}");
        }
        good &= seen.wrong.is_empty();
    }
    Ok(good)
}

fn front_ends(version: Version) -> &'static [&'static str] {
    match version {
        Version::V6_1 => &["cachefiles"],
        Version::V6_12 => &["fuse-blob", "cachefiles", "fuse"],
        Version::V7_3 => &["fanotify"],
    }
}

fn cut(
    kernel: &Kernel,
    front_end: &str,
    cuts: u32,
    initramfs: &Initramfs,
    programs: &Programs,
    (image, dice): (&Image, &mut Dice),
    out: &Path,
) -> anyhow::Result<Seen> {
    let dir = out.join(format!("cuts-{}-{front_end}", kernel.version));
    fs::create_dir_all(&dir)?;
    let disk = dir.join("disk");
    make_disk(&disk, 256, true)?;
    let mut seen = Seen::default();
    for n in 0..cuts {
        // Another order in every boot.
        let script = script(programs, image, front_end, dice.next());
        let shown = [image.truth.as_path(), image.layout.as_path()];
        let boot = Boot {
            kernel,
            initramfs,
            script: &script,
            disk: &disk,
            out: &dir,
            shown: &shown,
            memory: "400M",
        };
        let after = CUT_WITHIN.mul_f64(dice.fraction());
        let console = power_cut(Guest::boot(&boot)?, after)
            .with_context(|| format!("{} {front_end}, cut {n}", kernel.version))?;
        seen.take(n, &console);
        if !seen.wrong.is_empty() {
            break;
        }
    }
    Ok(seen)
}

/// Lets the guest read for `after`, and takes its power away. Returns its console.
fn power_cut(mut guest: Guest, after: Duration) -> anyhow::Result<String> {
    let begun = Instant::now();
    loop {
        let console = guest.console()?;
        if console.contains(READING) {
            break;
        }
        if guest.has_ended()? || begun.elapsed() > BOOT_LIMIT {
            bail!("it never came to reading:\n{console}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(after);
    ensure!(!guest.has_ended()?, "it ended by itself:\n{}", guest.console()?);
    guest.cut_power()
}

impl Seen {
    fn take(&mut self, cut: u32, console: &str) {
        self.cuts += 1;
        self.files += console.matches("cuts: same").count();
        self.rounds += console.matches(ROUND).count();
        let recovered =
            console.lines().find_map(|line| line.strip_prefix(RECOVERED)?.trim().parse::<u64>().ok());
        self.recovered += u32::from(recovered.is_some_and(|mib| mib > 0));
        self.recovered_mib += recovered.unwrap_or(0);
        let bad = console.lines().filter(|line| line.contains(WRONG));
        self.wrong.extend(bad.map(|line| format!("cut {cut}: {line}")));
        self.wrong.extend(trouble(console).map(|line| format!("cut {cut}: {line}")));
    }
}

/// What the guest's shell does until it is cut.
fn script(programs: &Programs, image: &Image, front_end: &str, seed: u64) -> String {
    let larder = format!("{} --root /cache/larder", programs.larder.display());
    let (truth, layout) = (image.truth.display(), image.layout.display());
    format!(
        "mount -t ext4 /dev/ubda /cache || {{ echo '{WRONG}: the disk cannot be mounted'; exit 1; }}\n\
         mkdir -p /mnt/image\n\
         begin() {{ {larder} mount --frontend {front_end} oci:{layout} /mnt/image 2>&1; }}\n\
         begin || {{ echo '{WRONG}: not mounted'; tail -n 30 /cache/larder/state/daemon.log; exit 1; }}\n\
         echo \"{RECOVERED}$({larder} status --json 2>/dev/null | tr ',{{}}' '\\n' | \
         awk -F: '/present_bytes/ {{ n += $2 }} END {{ print int(n / 1048576) }}')\"\n\
         echo '{READING}'\n\
         n={seed}\n\
         while :; do\n\
         \tfor file in $(ls {truth} | awk -v seed=$n 'BEGIN {{ srand(seed) }} {{ print rand(), $1 }}' | sort | cut -d' ' -f2); do\n\
         \t\tif cmp -s /mnt/image/$file {truth}/$file; then echo 'cuts: same'; else\n\
         \t\t\techo \"{WRONG}: $file\"; cmp /mnt/image/$file {truth}/$file; tail -n 30 /cache/larder/state/daemon.log; exit 1\n\
         \t\tfi\n\
         \tdone\n\
         \techo '{ROUND}'\n\
         \tif [ $((n % 3)) = 0 ]; then\n\
         \t\t{larder} umount /mnt/image && {larder} cache prune --all >/dev/null 2>&1\n\
         \t\tbegin || {{ echo '{WRONG}: not mounted again'; exit 1; }}\n\
         \telse\n\
         \t\tsync; echo 3 >/proc/sys/vm/drop_caches\n\
         \tfi\n\
         \tn=$((n + 1))\n\
         done\n"
    )
}

/// What is filled, and what it must be.
struct Image {
    truth: std::path::PathBuf,
    layout: std::path::PathBuf,
}

impl Image {
    fn make(out: &Path, programs: &Programs, seed: u64) -> anyhow::Result<Self> {
        let out = std::path::absolute(out)?;
        let (truth, layout) = (out.join("truth"), out.join("layout"));
        fs::create_dir_all(&truth)?;
        let mut dice = Dice(seed | 1);
        for n in 0..FILES {
            let len = FILE_BYTES + n * 4096 + n * 13;
            let mut data = Vec::with_capacity(usize::try_from(len)?);
            while u64::try_from(data.len())? < len {
                data.extend(dice.next().to_le_bytes());
            }
            data.truncate(usize::try_from(len)?);
            fs::write(truth.join(format!("file-{n}")), data)?;
        }
        let mut from = String::new();
        write!(from, "dir:{}", truth.display())?;
        let status = Command::new(&programs.larder)
            .args(["build", &from, &format!("oci:{}", layout.display())])
            .status()
            .context("larder build")?;
        ensure!(status.success(), "larder build failed with {status}");
        Ok(Self { truth, layout })
    }
}

/// xorshift64: the same throws for the same seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From 0 up to 1.
    fn fraction(&mut self) -> f64 {
        let thousandths = u32::try_from(self.next() % 1000).unwrap_or(0);
        f64::from(thousandths) / 1000.0
    }
}
