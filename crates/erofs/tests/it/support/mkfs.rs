//! Debian's `mkfs.erofs` as a judge: which one is here, and images of a tree made by it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A `mkfs.erofs`, by its path and version.
#[derive(Clone, Debug)]
pub struct Mkfs {
    program: PathBuf,
    pub version: String,
}

/// An image made by `mkfs.erofs`.
#[derive(Debug)]
pub struct Made {
    pub image: PathBuf,
    pub blob: Option<PathBuf>,
}

impl Mkfs {
    /// Finds the newest that was put at hand: in `$EROFS_UTILS`, a folder with a newer one, or on the path.
    pub fn find() -> Option<Self> {
        let at_hand = std::env::var_os("EROFS_UTILS").map(|dir| PathBuf::from(dir).join("mkfs.erofs"));
        let programs = at_hand.into_iter().chain([PathBuf::from("mkfs.erofs")]);
        let found = programs.filter_map(Self::ask).next();
        if found.is_none() {
            eprintln!(
                "SKIPPED: mkfs.erofs cannot run here; install erofs-utils, or name a folder with one in EROFS_UTILS"
            );
        }
        found
    }

    /// Version 1.5 has no `--version`, but says it on its first line of output.
    fn ask(program: PathBuf) -> Option<Self> {
        let output = Command::new(&program).arg("-V").output().ok()?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let word = text.split_whitespace().find(|word| word.starts_with("1.") || word.starts_with("2."));
        let version = word.unwrap_or("unknown").trim_end_matches(['-', '1']).to_owned();
        Some(Self { program, version })
    }

    /// Makes an image of `tree` with these options, in `out`; the reason when it cannot.
    ///
    /// The word `--blobdev` stands for one with a file of its own, `-Ededupe` and others for themselves.
    pub fn make(&self, out: &Path, tree: &Path, options: &str) -> Result<Made, String> {
        let image = out.join("image");
        let blob = out.join("blob");
        for path in [&image, &blob] {
            let _ = fs::remove_file(path);
        }
        let mut made = Made { image, blob: None };
        let mut words: Vec<OsString> = Vec::new();
        for word in options.split_whitespace() {
            if word == "--blobdev" {
                fs::write(&blob, b"").map_err(|error| error.to_string())?;
                let mut word = OsString::from("--blobdev=");
                word.push(&blob);
                words.push(word);
                made.blob = Some(blob.clone());
            } else {
                words.push(word.into());
            }
        }
        let output = Command::new(&self.program)
            .args(&words)
            .args([made.image.as_os_str(), tree.as_os_str()])
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(made);
        }
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(text
            .lines()
            .find(|line| line.contains("rror") || line.contains("nvalid"))
            .unwrap_or(&text)
            .to_owned())
    }
}

/// The feature bits of an image: mkfs.erofs 1.5 ignores what it does not know, so look at what it made.
pub fn incompat(image: &[u8]) -> u32 {
    u32::from_le_bytes(image[1104..1108].try_into().expect("four bytes"))
}
