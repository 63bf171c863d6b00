//! `larder cat`: print a file of an image without mounting it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use larder_erofs::FileType;
use larder_image::Reference;
use larder_imagefs::ImageFs;

use crate::cli::Global;
use crate::commands::inside;
use crate::errors::{Kind, told};
use crate::output;
use crate::runtime;
use crate::store::Scratch;

/// Bytes read and written at a time; the engine reads ahead of them.
const STEP: usize = 1 << 20;

const EXAMPLES: &str = "\
Examples:
  larder cat oci:/srv/images:app /etc/os-release
  larder cat registry.example/app:1 /bin/app > app";

/// Arguments of `larder cat`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The image: oci:DIR[:TAG] or HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]. Without TAG: the only image of a layout,
    /// `latest` of a registry
    image: String,
    /// The files, from the image's root; links are followed
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
    /// Speak plain HTTP to the registry (loopback addresses always do)
    #[arg(long)]
    insecure: bool,
}

/// Runs `larder cat`.
///
/// # Errors
///
/// When the image cannot be read, or a path is no file of it.
pub fn run(args: Args, _global: &Global) -> anyhow::Result<ExitCode> {
    let reference: Reference = args.image.parse()?;
    runtime::for_worker()?.block_on(async {
        let image = Scratch::open(&reference, args.insecure).await?;
        for path in &args.paths {
            copy(&image.fs, path.as_bytes()).await?;
        }
        anyhow::Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn copy(fs: &ImageFs, path: &[u8]) -> anyhow::Result<()> {
    let inode = inside::follow(fs, path)?;
    if inode.kind != FileType::Regular {
        return Err(told(
            Kind::BadRequest,
            format!("{}: is no regular file", String::from_utf8_lossy(path)),
            "`larder ls` lists what there is",
        ));
    }
    let mut at = 0;
    while at < inode.size {
        let bytes = fs.read(&inode, at, STEP, None).await?;
        anyhow::ensure!(
            !bytes.is_empty(),
            "{}: ends at byte {at} of {}",
            String::from_utf8_lossy(path),
            inode.size
        );
        output::write(&bytes)?;
        at += u64::try_from(bytes.len())?;
    }
    Ok(())
}
