//! What `mkfs.erofs` is asked for: its options, read or refused by name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use larder_erofs::writer::{Compressor, Fragments, ImageOptions, InodeForm, Times};

use super::super::getopt::{Options, Parsed, Takes};
use super::super::{Say, number};

/// The options that are followed.
pub(super) const OPTIONS: Options = Options(&[
    ("V", Takes::Nothing),
    ("version", Takes::Nothing),
    ("h", Takes::Nothing),
    ("help", Takes::Nothing),
    ("b", Takes::Value),
    ("d", Takes::Value),
    ("x", Takes::Value),
    ("z", Takes::Value),
    ("C", Takes::Value),
    ("E", Takes::Value),
    ("L", Takes::Value),
    ("m", Takes::Value),
    ("T", Takes::Value),
    ("U", Takes::Value),
    ("all-time", Takes::Nothing),
    ("mkfs-time", Takes::Nothing),
    ("all-root", Takes::Nothing),
    ("async-queue-limit", Takes::Value),
    ("chunksize", Takes::Value),
    ("clean", Takes::Value),
    ("exclude-path", Takes::Value),
    ("force-uid", Takes::Value),
    ("force-gid", Takes::Value),
    ("uid-offset", Takes::Value),
    ("gid-offset", Takes::Value),
    ("ignore-mtime", Takes::Nothing),
    ("preserve-mtime", Takes::Nothing),
    ("max-extent-bytes", Takes::Value),
    ("quiet", Takes::Nothing),
    ("workers", Takes::Value),
    // Known to erofs-utils, and refused here by name.
    ("zD", Takes::Maybe),
    ("MZ", Takes::Maybe),
    ("aufs", Takes::Nothing),
    ("blobdev", Takes::Value),
    ("compress-hints", Takes::Value),
    ("dsunit", Takes::Value),
    ("exclude-regex", Takes::Value),
    ("file-contexts", Takes::Value),
    ("fsalignblks", Takes::Value),
    ("gzinfo", Takes::Maybe),
    ("hard-dereference", Takes::Nothing),
    ("incremental", Takes::Value),
    ("mount-point", Takes::Value),
    ("oci", Takes::Maybe),
    ("offset", Takes::Value),
    ("ovlfs-strip", Takes::Maybe),
    ("root-xattr-isize", Takes::Value),
    ("s3", Takes::Value),
    ("sort", Takes::Value),
    ("tar", Takes::Maybe),
    ("ungzip", Takes::Maybe),
    ("unxz", Takes::Maybe),
    ("vmdk-desc", Takes::Value),
    ("xattr-inode-digest", Takes::Maybe),
    ("xattr-prefix", Takes::Value),
    ("zfeature-bits", Takes::Value),
]);

/// What was asked for.
pub(super) struct Asked {
    pub say: Say,
    pub quiet: bool,
    pub image: PathBuf,
    pub source: PathBuf,
    pub options: ImageOptions<'static>,
    /// `None` leaves extended attributes out.
    pub xattrs: bool,
    pub owner: Owner,
    pub excluded: Vec<Vec<u8>>,
    /// `-T`: a time, and whether files get it too.
    timestamp: Option<i64>,
    all_times: bool,
    ignore_mtime: bool,
}

/// Whose files they become.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Owner {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub uid_offset: u32,
    pub gid_offset: u32,
}

/// Reads a command line; `epoch` is `SOURCE_DATE_EPOCH`.
pub(super) fn asked(parsed: Vec<Parsed>, epoch: Option<&OsStr>) -> Result<Asked, String> {
    let mut asked = Asked {
        say: Say::default(),
        quiet: false,
        image: PathBuf::new(),
        source: PathBuf::new(),
        options: ImageOptions {
            jobs: std::thread::available_parallelism().unwrap_or(std::num::NonZero::<usize>::MIN),
            ..ImageOptions::default()
        },
        xattrs: true,
        owner: Owner::default(),
        excluded: Vec::new(),
        timestamp: None,
        all_times: true,
        ignore_mtime: false,
    };
    let mut operands = Vec::new();
    for item in parsed {
        match item {
            Parsed::Operand(operand) => operands.push(operand),
            Parsed::Option(name, value) => asked.take(name, &value.unwrap_or_default())?,
        }
    }
    let mut operands = operands.into_iter();
    asked.image = operands.next().ok_or("missing argument: FILE")?.into();
    asked.source = operands.next().ok_or("missing argument: SOURCE(s)")?.into();
    if let Some(extra) = operands.next() {
        return Err(format!("more than one source is not supported by larder: {}", extra.display()));
    }
    asked.finish(epoch)?;
    Ok(asked)
}

impl Asked {
    fn take(&mut self, name: &'static str, value: &OsStr) -> Result<(), String> {
        let text = || value.to_str().ok_or_else(|| format!("-{name}: no text: {}", value.display()));
        let wide = || number(value).ok_or_else(|| format!("invalid number for {name}: {}", value.display()));
        let narrow = || {
            let number = wide()?;
            u32::try_from(number).map_err(|_| format!("invalid number for {name}: {}", value.display()))
        };
        match name {
            "b" => self.options.block_bits = power_of_two(wide()?).ok_or("invalid block size")?,
            "d" => self.say = Say::at(wide()?),
            "x" => self.tolerance(text()?)?,
            "z" => {
                for compressor in text()?.split(':') {
                    let compressor: Compressor =
                        compressor.parse().map_err(|error| format!("-z{compressor}: {error}"))?;
                    self.options.compressors.push(compressor);
                }
            }
            "C" => self.options.pcluster_bytes = narrow()?,
            "E" => text()?.split(',').try_for_each(|word| self.extended(word))?,
            "L" => self.label(value.as_bytes())?,
            "T" => {
                let seconds =
                    text()?.parse().map_err(|_| format!("invalid UNIX timestamp {}", value.display()))?;
                self.timestamp = Some(seconds);
            }
            "U" => self.options.uuid = uuid(text()?)?,
            "all-time" => self.all_times = true,
            "mkfs-time" => self.all_times = false,
            "all-root" => (self.owner.uid, self.owner.gid) = (Some(0), Some(0)),
            "force-uid" => self.owner.uid = Some(narrow()?),
            "force-gid" => self.owner.gid = Some(narrow()?),
            "uid-offset" => self.owner.uid_offset = narrow()?,
            "gid-offset" => self.owner.gid_offset = narrow()?,
            "chunksize" => {
                self.options.chunk_bits = power_of_two(wide()?).ok_or("the chunk size is no power of two")?;
            }
            "exclude-path" => self.excluded.push(value.as_bytes().to_vec()),
            "ignore-mtime" => self.ignore_mtime = true,
            "preserve-mtime" => self.ignore_mtime = false,
            "max-extent-bytes" => self.options.extent_bytes_max = narrow()?,
            "quiet" => self.quiet = true,
            "workers" => {
                let workers = usize::try_from(wide()?).ok().and_then(std::num::NonZero::new);
                self.options.jobs = workers.ok_or("--workers must be at least 1")?;
            }
            // How the work is queued there; nothing that shows.
            "async-queue-limit" => {
                wide()?;
            }
            "clean" if value == "data" => {}
            other if other.len() == 1 => return Err(format!("option -{other} is not supported by larder")),
            other => return Err(format!("option --{other} is not supported by larder")),
        }
        Ok(())
    }

    /// `-x`: how many inodes must have an attribute until it is stored once for all; below 0, none is stored.
    fn tolerance(&mut self, text: &str) -> Result<(), String> {
        let tolerance: i64 = text.parse().map_err(|_| format!("invalid xattr tolerance {text}"))?;
        self.xattrs = tolerance >= 0;
        self.options.shared_xattr_uses = u32::try_from(tolerance.max(0)).unwrap_or(u32::MAX);
        Ok(())
    }

    /// One word of `-E`.
    fn extended(&mut self, word: &str) -> Result<(), String> {
        let options = &mut self.options;
        match word {
            "noinline_data" | "^inline_data" => options.inline_data = false,
            "inline_data" => options.inline_data = true,
            "nosbcrc" => options.checksum = false,
            "legacy-compress" => options.legacy_indexes = true,
            "force-inode-compact" => options.inode_form = InodeForm::Compact,
            "force-inode-extended" => options.inode_form = InodeForm::Extended,
            "ztailpacking" => options.tail_packing = true,
            "fragments" => options.fragments = Fragments::Tails,
            "all-fragments" => options.fragments = Fragments::All,
            "dedupe" => options.dedupe = true,
            "48bit" => options.wide = true,
            // What is done anyhow: the name filter is always there.
            "xattr-name-filter" => {}
            _ => return Err(format!("extended option {word} is not supported by larder")),
        }
        Ok(())
    }

    fn label(&mut self, label: &[u8]) -> Result<(), String> {
        if label.is_empty() || label.len() > 15 {
            return Err("invalid volume label: 1 to 15 bytes".to_owned());
        }
        self.options.volume_name = [0; 16];
        self.options.volume_name[..label.len()].copy_from_slice(label);
        Ok(())
    }

    /// What depends on several options: times.
    fn finish(&mut self, epoch: Option<&OsStr>) -> Result<(), String> {
        let epoch = match epoch {
            None => None,
            Some(text) => {
                let seconds = text.to_str().and_then(|text| text.parse().ok());
                Some(seconds.ok_or_else(|| {
                    format!("environment SOURCE_DATE_EPOCH is no number: {}", text.display())
                })?)
            }
        };
        let now = || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.ok().and_then(|now| i64::try_from(now.as_secs()).ok()).unwrap_or(0)
        };
        let built = self.timestamp.or(epoch).unwrap_or_else(now);
        self.options.build_time = Some(built);
        self.options.times = match (self.timestamp, epoch) {
            _ if self.ignore_mtime => Times::All(built),
            (Some(seconds), _) if self.all_times => Times::All(seconds),
            (None, Some(seconds)) => Times::Latest(seconds),
            _ => Times::Keep,
        };
        Ok(())
    }
}

fn power_of_two(number: u64) -> Option<u8> {
    number.is_power_of_two().then(|| u8::try_from(number.ilog2()).ok()).flatten()
}

/// Reads `-U`: a UUID, `clear` for zeros, `random` for a new one.
fn uuid(text: &str) -> Result<Option<[u8; 16]>, String> {
    match text {
        "clear" => return Ok(Some([0; 16])),
        "random" => {
            let mut bytes = fastrand::u128(..).to_le_bytes();
            // Version 4 in the variant of RFC 9562.
            bytes[6] = bytes[6] & 0x0f | 0x40;
            bytes[8] = bytes[8] & 0x3f | 0x80;
            return Ok(Some(bytes));
        }
        _ => {}
    }
    let wrong = || format!("invalid UUID {text}");
    let dashes: Vec<usize> = text.bytes().enumerate().filter(|(_, b)| *b == b'-').map(|row| row.0).collect();
    let digits: String = text.chars().filter(|&c| c != '-').collect();
    let shape =
        dashes == [8, 13, 18, 23] && digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if !shape {
        return Err(wrong());
    }
    u128::from_str_radix(&digits, 16).map(|number| Some(number.to_be_bytes())).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn of(args: &[&str], epoch: Option<&str>) -> Result<Asked, String> {
        let args = args.iter().chain(&["image", "dir"]).map(OsString::from).collect();
        let parsed = super::super::super::getopt::parse(&OPTIONS, args).map_err(|error| error.to_string())?;
        asked(parsed, epoch.map(OsStr::new))
    }

    #[test]
    fn the_options_that_container_engines_use_are_understood() {
        let uuid = "c1b9d5a2-f162-11cf-9ece-0020afc76f16";
        let asked =
            of(&["--quiet", "-Enoinline_data,force-inode-extended", "-U", uuid, "-T0", "--all-root"], None)
                .expect("good");
        assert!(asked.quiet && !asked.options.inline_data && asked.xattrs);
        assert_eq!(asked.options.uuid.map(|uuid| uuid[0]), Some(0xc1));
        assert_eq!((asked.options.times, asked.options.build_time), (Times::All(0), Some(0)));
        assert_eq!((asked.owner.uid, asked.owner.gid), (Some(0), Some(0)));
        let asked =
            of(&["-zlz4hc,12:zstd,level=9", "-C65536", "-b", "1024", "-x-1", "-Lname"], None).expect("good");
        assert_eq!((asked.options.compressors.len(), asked.options.pcluster_bytes), (2, 65536));
        assert!(asked.options.block_bits == 10 && !asked.xattrs);
        assert!(asked.options.volume_name.starts_with(b"name\0"));
    }

    #[test]
    fn times_come_from_the_option_then_from_the_environment() {
        let times = |args: &[&str], epoch| of(args, epoch).map(|asked| asked.options.times);
        assert_eq!(times(&["-T5"], Some("9")), Ok(Times::All(5)));
        assert_eq!(times(&["-T5", "--mkfs-time"], None), Ok(Times::Keep));
        assert_eq!(times(&[], Some("9")), Ok(Times::Latest(9)));
        assert_eq!(times(&[], None), Ok(Times::Keep));
        assert!(times(&[], Some("tomorrow")).is_err());
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (args, word) in [
            (&["-Efoo"][..], "foo"),
            (&["--s3=x"], "--s3"),
            (&["-m4096"], "-m "),
            (&["-zbrotli"], "brotli"),
            (&["-Ushort"], "UUID short"),
            (&["--chunksize=5000"], "power of two"),
            (&["more"], "more than one source"),
            (&["-Lmuch-too-long-a-name"], "15 bytes"),
        ] {
            let wrong = of(args, None).err().expect("refused");
            assert!(wrong.contains(word), "{args:?}: {wrong}");
        }
    }
}
