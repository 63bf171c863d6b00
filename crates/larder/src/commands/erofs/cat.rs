//! `larder erofs cat`: print files of an image.

use std::ffi::OsString;
use std::process::ExitCode;

use larder_erofs::FileType;

use super::ImageArgs;
use crate::errors::{Kind, told};
use crate::output;

const EXAMPLES: &str = "\
Examples:
  larder erofs cat app.erofs /etc/os-release
  larder erofs cat --device blob app.erofs /bin/sh | sha256sum";

/// Bytes read and written at once.
const STEP: usize = 1 << 20;

/// Arguments of `larder erofs cat`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    image: ImageArgs,
    /// The files, from the image's root; links are followed
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let image = args.image.open()?;
    let mut buffer = Vec::new();
    for path in &args.paths {
        let inode = super::find(&image, path, true)?;
        if inode.kind != FileType::Regular {
            let shown = path.display();
            let hint = "`larder erofs ls` lists what there is";
            return Err(told(Kind::BadRequest, format!("{shown}: is no regular file"), hint));
        }
        let mut at = 0;
        while at < inode.size {
            let len = usize::try_from(inode.size - at).map_or(STEP, |left| left.min(STEP));
            buffer.resize(len, 0);
            image.read(&inode, at, &mut buffer)?;
            output::write(&buffer)?;
            at += len as u64;
        }
    }
    Ok(ExitCode::SUCCESS)
}
