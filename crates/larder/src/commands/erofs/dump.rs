//! `larder erofs dump`: the superblock, the devices, statistics, or where a file lies.

use std::ffi::OsString;
use std::process::ExitCode;

use larder_erofs::{Extent, ExtentKind, Image, Inode, LogicalAddr, Nid, Place};
use serde::Serialize;
use serde_json::{Value, json};

use super::ImageArgs;
use crate::cli::Global;
use crate::erofs::describe::{self, Device};
use crate::erofs::open::LocalImage;
use crate::erofs::statistics::Statistics;
use crate::output;
use crate::output::table::Rows;

const EXAMPLES: &str = "\
Examples:
  larder erofs dump app.erofs                       the superblock and the devices
  larder erofs dump --statistics app.erofs          how many objects of which kind
  larder erofs dump --extents app.erofs /bin/sh     where the bytes of a file lie
  larder erofs dump --extents --nid 36 app.erofs    the same, by inode";

/// Arguments of `larder erofs dump`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    image: ImageArgs,
    /// An object, from the image's root
    path: Option<OsString>,
    /// The object with this node number
    #[arg(long, conflicts_with = "path", value_name = "NID")]
    nid: Option<u64>,
    /// Show the extents of the object (what a path or --nid shows anyhow; needs one of them)
    #[arg(short, long)]
    extents: bool,
    /// Count objects by kind and size, of the whole image
    #[arg(short = 'S', long, conflicts_with_all = ["path", "nid", "extents"])]
    statistics: bool,
}

pub(super) fn run(args: &Args, global: &Global) -> anyhow::Result<ExitCode> {
    let image = args.image.open()?;
    let object = match (&args.path, args.nid) {
        (Some(path), _) => Some(super::find(&image, path, false)?),
        (None, Some(nid)) => Some(image.image().inode(Nid::new(nid))?),
        (None, None) => None,
    };
    if args.extents && object.is_none() {
        anyhow::bail!("--extents needs an object: a path or --nid");
    }
    if let Some(inode) = object {
        object_of(&image, &inode, global)?;
    } else if args.statistics {
        statistics(image.image(), global)?;
    } else {
        superblock(image.image(), global)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn superblock(image: &Image, global: &Global) -> anyhow::Result<()> {
    let rows = superblock_rows(image);
    let devices: Vec<Device> = image.devices().iter().map(Device::from).collect();
    if global.json {
        let mut object: serde_json::Map<String, Value> =
            rows.into_iter().map(|(_, name, value)| (name.to_owned(), value)).collect();
        object.insert("devices".to_owned(), serde_json::to_value(devices)?);
        return output::json(&Value::Object(object));
    }
    for (label, _, value) in rows {
        let shown = match value {
            Value::String(text) => text,
            Value::Array(words) => {
                let words: Vec<_> = words.iter().filter_map(Value::as_str).collect();
                words.join(" ")
            }
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        output::line(format!("{label:<22}{}", shown.escape_debug()))?;
    }
    if devices.is_empty() {
        return Ok(());
    }
    let mut table = Rows::new(&["DEVICE>", "BLOCKS>", "FIRST BLOCK>", "TAG"]);
    for (number, device) in (1..).zip(&devices) {
        table.push([
            u64::to_string(&number),
            device.blocks.to_string(),
            device.first_block.to_string(),
            device.tag.clone(),
        ]);
    }
    table.print()
}

/// Label, name in JSON, value.
fn superblock_rows(image: &Image) -> Vec<(&'static str, &'static str, Value)> {
    let superblock = image.superblock();
    let codecs: Vec<_> = superblock.listed_codecs.iter().map(|codec| codec.name()).collect();
    let built = crate::commands::ls::time(superblock.build_time);
    vec![
        ("UUID", "uuid", json!(describe::uuid(&superblock.uuid))),
        ("Volume name", "volume_name", json!(describe::text(&superblock.volume_name))),
        ("Built", "built", json!(built)),
        ("Block size", "block_bytes", json!(superblock.block_size.bytes())),
        ("Blocks", "blocks", json!(superblock.blocks)),
        ("Inodes", "inodes", json!(superblock.inodes)),
        ("Root inode", "root_nid", json!(superblock.root.get())),
        ("Packed inode", "packed_nid", json!(superblock.packed.map(Nid::get))),
        ("Metabox inode", "metabox_nid", json!(superblock.metabox.map(Nid::get))),
        ("Inodes from byte", "inodes_at_byte", json!(superblock.inode_space)),
        ("Xattrs from byte", "xattrs_at_byte", json!(superblock.xattr_space)),
        ("Codecs", "codecs", json!(codecs)),
        ("Compatible features", "compatible", json!(describe::compatible(superblock))),
        ("Needed features", "incompatible", json!(describe::incompatible(image))),
        ("Linux from", "linux_from", json!(describe::oldest_kernel(image))),
    ]
}

fn statistics(image: &Image, global: &Global) -> anyhow::Result<()> {
    let found = Statistics::gather(image)?;
    if global.json {
        return output::json(&found);
    }
    let mut table = Rows::new(&["WHAT", "NUMBER>"]);
    for (what, number) in [
        ("objects", found.objects),
        ("regular files", found.files),
        ("directories", found.directories),
        ("symbolic links", found.symlinks),
        ("character devices", found.char_devices),
        ("block devices", found.block_devices),
        ("fifos", found.fifos),
        ("sockets", found.sockets),
        ("compressed", found.compressed),
        ("bytes in files", found.file_bytes),
        ("bytes stored", found.stored_bytes),
    ] {
        table.push([what.to_owned(), number.to_string()]);
    }
    table.print()
}

/// An extent as `--json` shows it.
#[derive(Serialize)]
struct Piece {
    start: u64,
    bytes: u64,
    /// `hole`, `plain`, or the codec.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_at: Option<u64>,
    stored_bytes: u64,
}

impl From<Extent> for Piece {
    fn from(extent: Extent) -> Self {
        let (start, bytes) = (extent.start.get(), extent.len);
        let (kind, device, stored_at, stored_bytes) = match extent.kind {
            ExtentKind::Hole => ("hole", None, None, 0),
            ExtentKind::Meta { pa } => ("plain", Some(0), Some(pa.get()), bytes),
            ExtentKind::Device { device, pa } => ("plain", Some(device.get()), Some(pa.get()), bytes),
            ExtentKind::Encoded(encoded) => {
                let (device, at) = match encoded.place {
                    Place::Device { device, pa } => (Some(device.get()), pa.get()),
                    Place::Metabox { at } => (None, at),
                };
                (encoded.codec.name(), device, Some(at), u64::from(encoded.len))
            }
        };
        Self { start, bytes, kind, device, stored_at, stored_bytes }
    }
}

fn object_of(image: &LocalImage, inode: &Inode, global: &Global) -> anyhow::Result<()> {
    let extents = image.image().extents(inode, LogicalAddr::new(0));
    if global.json {
        let pieces: Vec<Piece> = extents.map(|extent| extent.map(Piece::from)).collect::<Result<_, _>>()?;
        return output::json(&json!({ "nid": inode.nid.get(), "size_bytes": inode.size, "extents": pieces }));
    }
    output::line(format!(
        "inode {}: {} of {} bytes, {}",
        inode.nid,
        inode.kind,
        inode.size,
        describe::layout(inode.layout)
    ))?;
    let mut table = Rows::new(&["START>", "BYTES>", "HOW", "DEVICE>", "AT>", "STORED>"]);
    for extent in extents {
        let piece = Piece::from(extent?);
        let or_none =
            |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        table.push([
            piece.start.to_string(),
            piece.bytes.to_string(),
            piece.kind.to_owned(),
            or_none(piece.device.map(u64::from)),
            or_none(piece.stored_at),
            piece.stored_bytes.to_string(),
        ]);
    }
    table.print()
}
