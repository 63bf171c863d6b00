//! `larder erofs merge`: many layers become one image.

use std::ffi::OsString;
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use larder_erofs::writer::{
    Compressor, ImageOptions, ImageSummary, LayerDevice, LayerDevices, MergeOptions, write_image,
    write_merged,
};
use serde_json::json;

use crate::cli::Global;
use crate::erofs::describe;
use crate::erofs::merge::{into_new_file, parts, tree};
use crate::erofs::open::Parts;
use crate::errors::{Kind, told};
use crate::output;
use crate::output::bytes::human;
use crate::output::progress::Progress;
use crate::output::size::Size;

const EXAMPLES: &str = "\
Examples:
  larder erofs merge merged.erofs base.erofs app.erofs      metadata that point into the layers
  larder erofs merge --copy whole.erofs base.erofs app.erofs
                                                            everything in one file
  larder erofs merge --copy --compress zstd,level=9 --pcluster-size 64K small.erofs base.erofs app.erofs
  larder erofs merge merged.erofs base.erofs,base.blob app.erofs
                                                            a layer with a device of its own

The lowest layer comes first. The files that the result refers to are printed in the order in which
they are its devices: mount -t erofs -o device=FIRST,device=SECOND merged.erofs /mnt";

/// Arguments of `larder erofs merge`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The image to be written: a new file
    out: PathBuf,
    /// Layers, the lowest first: image files, each with its devices behind commas
    #[arg(value_name = "IMAGE[,DEVICE...]", required = true)]
    layers: Vec<OsString>,
    /// Copy all data, so that the result needs no other file
    #[arg(long)]
    copy: bool,
    /// Compress what is copied: lz4, lz4hc, lzma, deflate, libdeflate or zstd, and options behind commas
    #[arg(long, value_name = "HOW", requires = "copy")]
    compress: Option<Compressor>,
    /// Compressed bytes that are decoded together, at most: a multiple of the block size up to 1M [default: the
    /// block size]
    #[arg(long, value_name = "SIZE", requires = "compress")]
    pcluster_size: Option<Size>,
    /// Leave whiteouts and opaque directories in, for a result that is to lie above other layers
    #[arg(long)]
    keep_whiteouts: bool,
    /// Take names that begin with .wh. as they are, not as whiteouts
    #[arg(long)]
    plain_names: bool,
    /// Threads that read and compress [default: one a processor]; the result is the same with any number
    #[arg(short, long, value_name = "N")]
    jobs: Option<NonZero<usize>>,
}

pub(super) fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let layers: Vec<Parts> = args.layers.iter().map(|layer| parts(layer)).collect();
    let options = MergeOptions { oci_whiteouts: !args.plain_names, strip_overlay: !args.keep_whiteouts };
    let tree = tree(&layers, &options)?;
    let progress = Progress::bytes("copying", None);
    let told = |bytes| progress.set(bytes);
    let mut options =
        ImageOptions { jobs: super::jobs(args.jobs), progress: Some(&told), ..ImageOptions::default() };
    options.compressors.extend(args.compress);
    if let Some(size) = args.pcluster_size {
        options.pcluster_bytes = u32::try_from(size.0).unwrap_or(u32::MAX);
    }
    let (image, devices, copied_bytes) = if args.copy {
        let image = into_new_file(&args.out, |out| Ok(write_image(tree, &options, out)?))?;
        (image, Vec::new(), image.file_bytes)
    } else {
        let merged =
            into_new_file(&args.out, |out| Ok(write_merged(tree, &options, LayerDevices::Needed, out)?))?;
        (merged.image, merged.devices, merged.copied_bytes)
    };
    progress.clear();
    show(args, global, &image, &files(&layers, &devices)?, copied_bytes)?;
    Ok(ExitCode::SUCCESS)
}

fn show(
    args: &Args,
    global: &Global,
    image: &ImageSummary,
    devices: &[&Path],
    copied_bytes: u64,
) -> anyhow::Result<()> {
    if global.json {
        return output::json(&json!({
            "image": args.out.display().to_string(),
            "uuid": describe::uuid(&image.uuid),
            "bytes": image.bytes,
            "inodes": image.inodes,
            "file_bytes": image.file_bytes,
            "copied_bytes": copied_bytes,
            "devices": devices.iter().map(|device| device.display().to_string()).collect::<Vec<_>>(),
        }));
    }
    output::note(format!(
        "{} inodes, {} in files of which {} were copied: {} in {}",
        image.inodes,
        human(image.file_bytes),
        human(copied_bytes),
        human(image.bytes),
        args.out.display()
    ));
    devices.iter().try_for_each(|device| output::write(&[device.as_os_str().as_bytes(), b"\n"].concat()))
}

/// The files that are the devices of the result.
fn files<'a>(layers: &'a [Parts], devices: &[LayerDevice]) -> anyhow::Result<Vec<&'a Path>> {
    let file = |device: &LayerDevice| {
        let layer = layers.get(device.layer)?;
        match device.device.slot() {
            None => Some(layer.image.as_path()),
            Some(slot) => layer.devices.get(slot).map(PathBuf::as_path),
        }
    };
    let files: Option<Vec<&Path>> = devices.iter().map(file).collect();
    files.ok_or_else(|| {
        told(
            Kind::Failed,
            "the result refers to a device that no layer has",
            "this is a fault of Larder: report it",
        )
    })
}
