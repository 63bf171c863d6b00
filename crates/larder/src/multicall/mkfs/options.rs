//! What `mkfs.erofs` is asked for: its options, read or refused by name.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use larder_erofs::writer::{ArchiveCodec, Compressor, Fragments, Hint, ImageOptions, InodeForm, Times};

use super::super::Say;
use super::super::getopt::{Options, Takes};
use super::super::line::{Line, no_number, number_of, shown, unsupported};

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
    ("aufs", Takes::Nothing),
    ("blobdev", Takes::Value),
    ("ovlfs-strip", Takes::Maybe),
    ("sort", Takes::Value),
    ("tar", Takes::Maybe),
    ("ungzip", Takes::Maybe),
    ("unxz", Takes::Maybe),
    // Known to erofs-utils, and refused here by name.
    ("zD", Takes::Maybe),
    ("MZ", Takes::Maybe),
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
    ("root-xattr-isize", Takes::Value),
    ("s3", Takes::Value),
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
    pub source: Source,
    pub options: ImageOptions<'static>,
    /// Whether extended attributes are stored.
    pub xattrs: bool,
    pub owner: Owner,
    pub excluded: Vec<Vec<u8>>,
    /// Whether whiteouts of AUFS become those of overlayfs.
    pub aufs: bool,
    /// Whether whiteouts and the like are left out.
    pub strip_overlay: bool,
    /// Where data go that are stored apart.
    pub blob: Option<PathBuf>,
    /// `--clean=data`: data of images are copied, not pointed at.
    pub copy_data: bool,
    /// `--tar`, with the mode and what else is said of the archive.
    archive: Option<Archive>,
    decode: Option<ArchiveCodec>,
    raw: Option<PathBuf>,
    block_size_asked: bool,
    /// `-m`: how the metabox is stored.
    metabox: Option<String>,
    /// `-T`: a time, and whether files get it too.
    timestamp: Option<i64>,
    all_times: bool,
    ignore_mtime: bool,
    /// Options that do nothing without one that is not there.
    idle: Vec<&'static str>,
}

/// What the image is made from.
#[derive(Debug)]
pub(super) enum Source {
    /// All that is in a directory.
    Directory(PathBuf),
    /// What an archive holds.
    Tar(Archive),
    /// What a stack of images shows, the lowest first.
    Images(Vec<PathBuf>),
}

/// A tar archive, and what becomes of it.
#[derive(Debug, Default)]
pub(super) struct Archive {
    /// `None`: standard input.
    pub file: Option<PathBuf>,
    /// Only metadata are written; data stay in the archive.
    pub index: bool,
    /// What it must be compressed with; `None` takes it as it comes.
    pub decode: Option<ArchiveCodec>,
    /// Where it goes once it is decoded.
    pub raw: Option<PathBuf>,
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
pub(super) fn asked(line: Line, epoch: Option<&OsStr>) -> Result<Asked, String> {
    let mut asked = Asked {
        say: Say::default(),
        quiet: false,
        image: PathBuf::new(),
        source: Source::Directory(PathBuf::new()),
        options: ImageOptions {
            jobs: std::thread::available_parallelism().unwrap_or(std::num::NonZero::<usize>::MIN),
            ..ImageOptions::default()
        },
        xattrs: true,
        owner: Owner::default(),
        excluded: Vec::new(),
        aufs: false,
        strip_overlay: false,
        blob: None,
        copy_data: false,
        archive: None,
        decode: None,
        raw: None,
        block_size_asked: false,
        metabox: None,
        timestamp: None,
        all_times: true,
        ignore_mtime: false,
        idle: Vec::new(),
    };
    for (name, value) in line.options {
        asked.take(name, &value.unwrap_or_default())?;
    }
    let mut operands = line.operands.into_iter();
    asked.image = operands.next().ok_or("missing argument: FILE")?.into();
    asked.source = asked.source(operands.map(PathBuf::from).collect())?;
    asked.set_idle_aside();
    asked.finish(epoch)?;
    Ok(asked)
}

impl Asked {
    /// Says which options do nothing. Silent with `--quiet`.
    pub(super) fn warn(&self) {
        for name in self.idle.iter().filter(|_| !self.quiet) {
            self.say.warning(format_args!("{name} does nothing without -z"));
        }
    }

    fn take(&mut self, name: &'static str, value: &OsStr) -> Result<(), String> {
        let text = || value.to_str().ok_or_else(|| format!("{}: no text: {}", shown(name), value.display()));
        let wide = || number_of(name, Some(value));
        let narrow = || u32::try_from(wide()?).map_err(|_| no_number(name, value));
        match name {
            "b" => {
                self.options.block_bits = power_of_two(wide()?).ok_or_else(|| {
                    format!("invalid block size {}: it must be a power of two", value.display())
                })?;
                self.block_size_asked = true;
            }
            "d" => self.say = Say::at(wide()?)?,
            "x" => self.tolerance(text()?)?,
            "z" => {
                for compressor in text()?.split(':') {
                    let compressor: Compressor =
                        compressor.parse().map_err(|error| format!("-z{compressor}: {error}"))?;
                    self.options.compressors.push(compressor);
                }
            }
            "C" => self.options.pcluster_bytes = narrow()?,
            "m" => self.metabox = Some(text()?.to_owned()),
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
            "clean" if value == "data" => self.copy_data = true,
            "clean" => return Err(format!("--clean={} is not supported by larder", value.display())),
            "aufs" => self.aufs = true,
            "blobdev" => self.blob = Some(value.into()),
            "ovlfs-strip" => {
                self.strip_overlay = match value.as_bytes() {
                    b"" | b"1" => true,
                    b"0" => false,
                    _ => return Err(format!("invalid argument for --ovlfs-strip: {}", value.display())),
                };
            }
            "sort" if value == "none" => {}
            "sort" => return Err(format!("--sort={} is not supported by larder", value.display())),
            "tar" => {
                let index = match value.as_bytes() {
                    b"" | b"f" => false,
                    b"i" => true,
                    _ => return Err(format!("--tar={} is not supported by larder", value.display())),
                };
                self.archive = Some(Archive { index, ..Archive::default() });
            }
            "ungzip" => self.filter(ArchiveCodec::Gzip, value),
            "unxz" => self.filter(ArchiveCodec::Xz, value),
            other => return Err(unsupported(other)),
        }
        Ok(())
    }

    /// An archive is to be decoded, and perhaps kept.
    fn filter(&mut self, codec: ArchiveCodec, raw: &OsStr) {
        self.decode = Some(codec);
        self.raw = (!raw.is_empty()).then(|| raw.into());
    }

    /// What the image is made from, once all options are known; refuses what does not go together.
    fn source(&mut self, mut operands: Vec<PathBuf>) -> Result<Source, String> {
        // As there: what is no directory is an image.
        let images = self.archive.is_none() && operands.first().is_some_and(|first| first.is_file());
        if let Some(extra) = operands.get(1).filter(|_| !images) {
            return Err(format!("more than one source is not supported by larder: {}", extra.display()));
        }
        if images {
            return self.images(operands);
        }
        let operand = operands.pop();
        if self.blob.is_some() && self.options.chunk_bits == 0 {
            return Err("--blobdev must be used together with --chunksize".to_owned());
        }
        let name = self.encoding().or(self.metabox.is_some().then_some("-m"));
        if let (true, Some(name)) = (self.blob.is_some(), name) {
            return Err(format!("{name} does not go with --blobdev"));
        }
        let Some(archive) = self.archive.take() else {
            let alone = [
                (self.aufs, "--aufs"),
                (self.strip_overlay, "--ovlfs-strip"),
                (self.decode.is_some(), "--ungzip and --unxz"),
            ];
            if let Some((_, name)) = alone.iter().find(|(asked, _)| *asked) {
                return Err(format!("larder supports {name} with --tar or images only"));
            }
            return Ok(Source::Directory(operand.ok_or("missing argument: SOURCE(s)")?));
        };
        let apart = [
            (self.blob.is_some(), "--blobdev"),
            (!self.excluded.is_empty(), "--exclude-path"),
            (archive.index && !self.options.compressors.is_empty(), "-z"),
            (archive.index && self.options.chunk_bits > 0, "--chunksize"),
            (archive.index && self.metabox.is_some(), "-m"),
            (archive.index && self.block_size_asked && self.options.block_bits != 9, "-b"),
        ];
        if let Some((_, name)) = apart.iter().find(|(asked, _)| *asked) {
            return Err(format!("{name} does not go with --tar={}", if archive.index { "i" } else { "f" }));
        }
        if archive.index {
            // Archives keep contents at multiples of 512 bytes.
            self.options.block_bits = 9;
        }
        Ok(Source::Tar(Archive { file: operand, decode: self.decode, raw: self.raw.take(), ..archive }))
    }

    /// Images to be merged; refuses what does not go with them.
    fn images(&self, images: Vec<PathBuf>) -> Result<Source, String> {
        let apart = [
            (self.blob.is_some(), "--blobdev"),
            (self.decode.is_some(), "--ungzip and --unxz"),
            (!self.excluded.is_empty(), "--exclude-path"),
            (!self.xattrs, "-x below 0"),
            (self.block_size_asked && !self.copy_data, "-b without --clean=data"),
            (self.options.chunk_bits > 0 && !self.copy_data, "--chunksize without --clean=data"),
            (self.metabox.is_some() && !self.copy_data, "-m without --clean=data"),
        ];
        if let (false, Some(name)) = (self.copy_data, self.encoding()) {
            return Err(format!("{name} without --clean=data does not go with images as sources"));
        }
        match apart.iter().find(|(asked, _)| *asked) {
            Some((_, name)) => Err(format!("{name} does not go with images as sources")),
            None => Ok(Source::Images(images)),
        }
    }

    /// The first option that says how contents are encoded, if any does: chunks, and what lies in other images, are not.
    fn encoding(&self) -> Option<&'static str> {
        self.encodings().next()
    }

    /// All options that say how contents are encoded.
    fn encodings(&self) -> impl Iterator<Item = &'static str> + use<> {
        let (asked, usual) = (&self.options, ImageOptions::default());
        let options = [
            (!asked.compressors.is_empty(), "-z"),
            (asked.pcluster_bytes != usual.pcluster_bytes, "-C"),
            (asked.extent_bytes_max != usual.extent_bytes_max, "--max-extent-bytes"),
            (asked.legacy_indexes, "-Elegacy-compress"),
            (asked.tail_packing, "-Eztailpacking"),
            (asked.fragments != usual.fragments, "-Efragments"),
            (asked.dedupe, "-Ededupe"),
        ];
        options.into_iter().filter(|(asked, _)| *asked).map(|(_, name)| name)
    }

    /// Sets aside what says how contents are encoded where `-z` does not ask for that: as there, but not in silence.
    ///
    /// Source of truth: `erofs_write_file()` stores plain data without a compressor, whatever else was asked for; main.c
    /// only checks the sizes (erofs-utils 1.9).
    fn set_idle_aside(&mut self) {
        if self.options.compressors.is_empty() {
            self.idle = self.encodings().collect();
            (self.options.tail_packing, self.options.fragments) = (false, Fragments::None);
        }
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

    /// `-m`: bytes of a pcluster of the metabox, and perhaps which compressor it has; else it is the first.
    fn metabox(&self, text: &str) -> Result<Hint, String> {
        let (bytes, name) = text.split_once(':').map_or((text, None), |(bytes, name)| (bytes, Some(name)));
        let pcluster_bytes =
            bytes.parse().map_err(|_| format!("invalid pcluster size of metadata -m{text}"))?;
        let compressors = &self.options.compressors;
        let Some(name) = name else { return Ok(Hint { compressor: Some(0), pcluster_bytes }) };
        let index = compressors.iter().position(|compressor| compressor.name() == name);
        let index = index.ok_or_else(|| format!("-m{text}: with a compressor of -z only, in larder"))?;
        Ok(Hint { compressor: Some(index), pcluster_bytes })
    }

    /// What depends on several options: metadata, times.
    fn finish(&mut self, epoch: Option<&OsStr>) -> Result<(), String> {
        self.options.metabox = self.metabox.as_deref().map(|text| self.metabox(text)).transpose()?;
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
        of_operands(args, &["image", "dir"], epoch)
    }

    fn of_operands(args: &[&str], operands: &[&str], epoch: Option<&str>) -> Result<Asked, String> {
        let args = args.iter().chain(operands).map(OsString::from).collect();
        let parsed = super::super::super::getopt::parse(&OPTIONS, args).map_err(|error| error.to_string())?;
        asked(Line::of(parsed), epoch.map(OsStr::new))
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
    fn an_archive_comes_from_a_file_or_from_standard_input() {
        let archive = |args: &[&str], operands: &[&str]| match of_operands(args, operands, None)?.source {
            Source::Tar(archive) => Ok((archive.index, archive.file.is_some(), archive.decode)),
            Source::Directory(dir) => Err(dir.display().to_string()),
            Source::Images(images) => Err(format!("{} images", images.len())),
        };
        assert_eq!(archive(&["--tar=f", "--aufs"], &["image"]), Ok((false, false, None)));
        assert_eq!(
            archive(&["--tar=i", "--ungzip=x"], &["image", "a"]),
            Ok((true, true, Some(ArchiveCodec::Gzip)))
        );
        assert_eq!(archive(&["--tar"], &["image", "a"]), Ok((false, true, None)));
        assert_eq!(archive(&[], &["image", "dir"]), Err("dir".to_owned()));
        assert_eq!(archive(&[], &["image"]), Err("missing argument: SOURCE(s)".to_owned()));
        assert_eq!(of(&["--tar=i"], None).map(|asked| asked.options.block_bits), Ok(9));
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
    fn what_needs_a_compressor_is_set_aside_without_one() {
        let words = "-Elegacy-compress,ztailpacking,fragments,dedupe";
        let args = ["-C65536", "--max-extent-bytes=65536", words];
        let idle = of(&args, None).expect("accepted, as there");
        assert_eq!(
            idle.idle,
            ["-C", "--max-extent-bytes", "-Elegacy-compress", "-Eztailpacking", "-Efragments", "-Ededupe"]
        );
        assert!(!idle.options.tail_packing && idle.options.fragments == Fragments::None);
        let busy = of(&[&["-zlz4"][..], &args].concat(), None).expect("good");
        assert!(busy.idle.is_empty() && busy.options.tail_packing && busy.options.dedupe);
        assert!(of(&[], None).expect("good").idle.is_empty());
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (args, word) in [
            (&["-Efoo"][..], "foo"),
            (&["--s3=x"], "--s3"),
            (&["--tar=headerball"], "--tar=headerball"),
            (&["--tar=i", "-zlz4"], "-z does not go with --tar=i"),
            (&["--tar=i", "-b4096"], "-b does not go with --tar=i"),
            (&["--tar=f", "--chunksize=4096", "--blobdev=x"], "--blobdev does not go"),
            (&["--blobdev=x"], "--chunksize"),
            (&["--aufs"], "--aufs with --tar or images only"),
            (&["--sort=path"], "--sort=path"),
            (&["--clean=rvsp"], "--clean=rvsp is not supported"),
            (&["--ovlfs-strip=2"], "--ovlfs-strip"),
            (&["-mx"], "-mx"),
            (&["-m4096:zstd", "-zlz4"], "-m4096:zstd: with a compressor of -z"),
            (&["-m4096", "--tar=i"], "-m does not go with --tar=i"),
            (&["-m4096", "--chunksize=4096", "--blobdev=x"], "-m does not go with --blobdev"),
            (&["-zbrotli"], "brotli"),
            (&["-Ushort"], "UUID short"),
            (&["--chunksize=5000"], "power of two"),
            (&["-b", "5000"], "invalid block size 5000: it must be a power of two"),
            (&["-dx"], "invalid number for -d: x"),
            (&["-d10"], "invalid debug level 10"),
            (&["--workers=x"], "invalid number for --workers: x"),
            (&["-C99999999999"], "invalid number for -C: 99999999999"),
            (&["more"], "more than one source"),
            (&["-Lmuch-too-long-a-name"], "15 bytes"),
        ] {
            let wrong = of(args, None).err().expect("refused");
            assert!(wrong.contains(word), "{args:?}: {wrong}");
        }
    }
}
