//! Warm: what programs do with a complete image, through each front end and through its peer.
//!
//! The kernel's own EROFS is measured against a plain mount of copies of the same files. So are reads of the file system in
//! user space; all of it against Debian's erofsfuse, each time once and with nothing in the kernel's caches
//! but the backing files: what they hold comes from neither program.
//!
//! For the file system in user space the large file and the program have blobs of their own, so that the kernel reads them itself
//! (passthrough). The rows that say so are of an image without, as all others are, where the worker answers.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::erofs::spent::timed;
use super::super::larder::{Larder, text};
use super::super::pinned::Pinned;
use super::super::stats::{Row, Target, median};
use super::super::warm::{copy_backing_files, fill_in_turns, random_file};
use super::FRONT_ENDS;
use super::deeds::{DEEDS, Deed, FILE, FILE_BYTES, FILES, MANY, PROGRAM};
use super::peer::{Peer, PeerKind};

/// How many times as many rounds there are of what is done once.
const ROUNDS_OF_ONE: usize = 2;
/// How often for each round the kernel's caches are filled anew where both sides are served from them. Which memory they get
/// makes some per cent for as long as they have it: no number of rounds with the same memory shows that.
const FILLINGS: usize = 4;
/// Rounds with the same memory: each side is first once.
const ROUNDS_OF_FILLING: usize = 2;

/// Measures each front end that works here.
pub fn run(binary: &Path, dir: &Path, rounds: usize) -> anyhow::Result<Vec<Row>> {
    let images = images(binary, dir)?;
    let mut rows = Vec::new();
    for front_end in FRONT_ENDS {
        let dir = dir.join(front_end);
        std::fs::create_dir(&dir)?;
        let larder = Larder::new(binary, &dir);
        let ours = dir.join("larder");
        if let Err(error) = larder.mount_through(front_end, &images.shared, &ours) {
            eprintln!("bench: without {front_end}: {error:#}");
            continue;
        }
        read_everything(&ours)?;
        larder.wait_until_complete()?;
        let copies = copy_backing_files(&larder, &dir)?;
        let passing = dir.join("passing");
        if front_end == "fuse" {
            larder.mount_through(front_end, &images.own, &passing)?;
            read_everything(&passing)?;
            larder.wait_until_complete()?;
        }
        let reads = &DEEDS[..2];
        let comparisons: &[(&Path, &str, PeerKind, &[Deed], Target)] = match front_end {
            "fuse" => &[
                (&passing, "", PeerKind::Native, reads, Target::AtLeast(0.9)),
                (&passing, "", PeerKind::Erofsfuse, &DEEDS, Target::AtLeast(2.0)),
                (&ours, " without passthrough", PeerKind::Native, reads, Target::None),
            ],
            _ => &[(&ours, "", PeerKind::Native, &DEEDS, Target::AtLeast(0.97))],
        };
        for (ours, without, kind, deeds, target) in comparisons {
            let peer = match Peer::mount(*kind, &copies, &dir.join(kind.name())) {
                Ok(peer) => peer,
                Err(error) => {
                    eprintln!("bench: {front_end} has no peer: {error:#}");
                    continue;
                }
            };
            let backing = [larder.backing_files()?, copies.clone()].concat();
            for deed in *deeds {
                let (front_end, theirs) = (format!("{front_end}{without}"), peer.target());
                let pair = Pair { front_end, kind: *kind, ours, theirs, backing: &backing, program: binary };
                rows.push(pair.compare(deed, rounds, *target)?);
            }
        }
    }
    Ok(rows)
}

/// A large file, a large program, and many files in one directory.
struct Images {
    /// All in one blob.
    shared: String,
    /// The large ones in blobs of their own.
    own: String,
}

fn images(binary: &Path, dir: &Path) -> anyhow::Result<Images> {
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join(MANY))?;
    random_file(&tree.join(FILE), FILE_BYTES)?;
    std::fs::copy(binary, tree.join(PROGRAM))?;
    for number in 0..FILES {
        std::fs::write(tree.join(MANY).join(number.to_string()), number.to_string().repeat(100))?;
    }
    let build = |tag: &str, options: &[&str]| {
        let image = format!("oci:{}:{tag}", text(&dir.join("layout"))?);
        timed(
            Command::new(binary).arg("build").args(options).args([&format!("dir:{}", text(&tree)?), &image]),
        )?;
        anyhow::Ok(image)
    };
    Ok(Images { shared: build("shared", &[])?, own: build("own", &["--own-blob", "1M"])? })
}

fn read_everything(root: &Path) -> anyhow::Result<()> {
    for name in [FILE, PROGRAM] {
        std::fs::read(root.join(name))?;
    }
    for number in 0..FILES {
        std::fs::read(root.join(MANY).join(number.to_string()))?;
    }
    Ok(())
}

/// A front end and its peer.
struct Pair<'a> {
    front_end: String,
    kind: PeerKind,
    ours: &'a Path,
    theirs: &'a Path,
    /// What both of them read.
    backing: &'a [PathBuf],
    /// The program that is in the image, elsewhere.
    program: &'a Path,
}

impl Pair<'_> {
    /// Takes turns.
    fn compare(&self, deed: &Deed, rounds: usize, target: Target) -> anyhow::Result<Row> {
        let (mut of_ours, mut of_theirs) = (Vec::new(), Vec::new());
        let (fillings, rounds) = match self.kind {
            PeerKind::Native => (rounds.max(1) * FILLINGS, ROUNDS_OF_FILLING),
            PeerKind::Erofsfuse => (1, rounds * ROUNDS_OF_ONE),
        };
        for filling in 0..fillings {
            self.fill_caches(deed, filling)?;
            // What the kernel alone answers is not to change processors in between.
            let _pinned = matches!(self.kind, PeerKind::Native).then(Pinned::here).transpose()?;
            for round in 0..rounds.max(1) {
                // Whoever comes second may find warmer caches: swap. Whoever is first after a filling, too.
                if (filling + round) % 2 == 0 {
                    of_ours.push(self.measure(deed, self.ours)?);
                    of_theirs.push(self.measure(deed, self.theirs)?);
                } else {
                    of_theirs.push(self.measure(deed, self.theirs)?);
                    of_ours.push(self.measure(deed, self.ours)?);
                }
            }
        }
        let (of_ours, of_theirs) = (median(of_ours), median(of_theirs));
        Ok(Row {
            name: format!("{}, warm: {}, against {}", self.front_end, deed.name, self.kind.name()),
            larder: format!("{:.2} ms", of_ours * 1e3),
            peer: format!("{:.2} ms", of_theirs * 1e3),
            figure: of_theirs / of_ours,
            target,
        })
    }

    /// Fills both page caches the same way. Who is filled first changes with every second filling, since who is measured first changes
    /// with each: neither goes with the other.
    fn fill_caches(&self, deed: &Deed, filling: usize) -> anyhow::Result<()> {
        drop_caches()?;
        let mut roots = [self.ours, self.theirs];
        if filling % 4 >= 2 {
            roots.reverse();
        }
        fill_in_turns(&roots[0].join(FILE), &roots[1].join(FILE))?;
        roots.iter().try_for_each(|root| (deed.run)(root, deed.times).map(drop))
    }

    fn measure(&self, deed: &Deed, root: &Path) -> anyhow::Result<f64> {
        let times = match self.kind {
            PeerKind::Native => deed.times,
            PeerKind::Erofsfuse => {
                drop_caches()?;
                for file in self.backing {
                    io::copy(&mut std::fs::File::open(file)?, &mut io::sink())?;
                }
                // Its libraries are this machine's.
                timed(Command::new(self.program).arg("--version"))?;
                1
            }
        };
        Ok((deed.run)(root, times)?.as_secs_f64())
    }
}

/// Empties the kernel's caches: of pages, names and inodes.
fn drop_caches() -> anyhow::Result<()> {
    rustix::fs::sync();
    Ok(std::fs::write("/proc/sys/vm/drop_caches", "3")?)
}
