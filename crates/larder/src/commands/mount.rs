//! `larder mount`: mount an image on demand.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use larder_image::Reference;

use crate::api::types::{ImageName, MountRequest};
use crate::cache_options::CacheOptions;
use crate::cli::{FrontEndName, Global};
use crate::daemon::start;
use crate::output;
use crate::runtime;

const EXAMPLES: &str = "\
Examples:
  larder mount oci:/srv/images:app /mnt/app               from a layout directory
  larder mount registry.example/app:1 /mnt/app            from a registry, by tag
  larder mount 127.0.0.1:5000/app@sha256:… /mnt/app       from a registry, by digest
  larder mount --frontend fuse oci:/srv/images /mnt/app   by a front end of your choice";

/// Arguments of `larder mount`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The image: oci:DIR[:TAG] or HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]
    image: String,
    /// An existing directory
    target: PathBuf,
    /// Mount through this front end instead of the best that works
    #[arg(long, value_enum)]
    frontend: Option<FrontEndName>,
    /// Speak plain HTTP to the registry (loopback addresses always do)
    #[arg(long)]
    insecure: bool,
}

/// Runs `larder mount`.
///
/// # Errors
///
/// When the daemon cannot be started, or what kept it from mounting.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let paths = global.paths()?;
    let request = request(&args.image, &args.target, args.frontend, args.insecure)?;
    let mount = runtime::for_command()?.block_on(async {
        let (client, started) = start::ensure(&paths, global, &CacheOptions::default()).await?;
        let mounted = client.mount(&request).await;
        start::stop_if_needless(&client, started && mounted.is_err()).await;
        mounted
    })?;
    if global.json {
        output::json(&mount)?;
    } else {
        output::note(format!("{} is mounted on {} ({})", mount.image, mount.path.display(), mount.frontend));
    }
    Ok(ExitCode::SUCCESS)
}

/// Says the same to the daemon, which has another working directory: paths become absolute.
///
/// # Errors
///
/// When `image` is no reference.
pub fn request(
    image: &str,
    target: &Path,
    frontend: Option<FrontEndName>,
    insecure: bool,
) -> anyhow::Result<MountRequest> {
    let target = std::path::absolute(target)
        .with_context(|| format!("{}: cannot be made absolute", target.display()))?;
    let frontend = frontend.map(|name| name.as_str().to_owned());
    Ok(MountRequest { image: absolute_reference(image)?, target, frontend, insecure })
}

/// What a user calls an image, by reference or by path, so that the daemon understands it.
///
/// # Errors
///
/// When there is no working directory.
pub fn image_name(name: &str) -> anyhow::Result<ImageName> {
    Ok(ImageName {
        // What is no reference may still be a directory.
        reference: absolute_reference(name).unwrap_or_else(|_| name.to_owned()),
        path: std::path::absolute(name).with_context(|| format!("{name}: cannot be made absolute"))?,
    })
}

/// Makes the directory of a layout absolute.
///
/// # Errors
///
/// When `image` is no reference.
pub fn absolute_reference(image: &str) -> anyhow::Result<String> {
    Ok(match image.parse::<Reference>()? {
        Reference::Layout { dir, version } => {
            let dir = std::path::absolute(&dir)
                .with_context(|| format!("{}: cannot be made absolute", dir.display()))?;
            Reference::Layout { dir, version }.to_string()
        }
        Reference::Registry { .. } => image.to_owned(),
    })
}
