//! `larder mount`: mount an image or a remote tree on demand.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use larder_image::Reference;
use larder_remote::tree::TreeAddress;

use crate::api::types::{ImageName, MountRequest};
use crate::cache_options::CacheOptions;
use crate::cli::{FrontEndName, Global};
use crate::daemon::start;
use crate::errors::{Kind, told};
use crate::output;
use crate::runtime;
use crate::tree::TreeOptions;

const EXAMPLES: &str = "\
Examples:
  larder mount oci:/srv/images:app /mnt/app               from a layout directory
  larder mount registry.example/app:1 /mnt/app            from a registry, by tag
  larder mount 127.0.0.1:5000/app@sha256:… /mnt/app       from a registry, by digest
  larder mount --frontend fuse oci:/srv/images /mnt/app   by a front end of your choice
  larder mount https://models.example/llm/ /mnt/llm       a directory of a web server, read-only
  larder mount s3://bucket/datasets /mnt/data             a part of a bucket; credentials and endpoint from AWS_…
  larder mount --anonymous s3://open-data/x /mnt/x        a bucket that everybody may read
  larder mount --revalidate 10m https://… /mnt/llm        take a file for unchanged for ten minutes";

/// Arguments of `larder mount`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The image: oci:DIR[:TAG] or HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]; or a tree: https://HOST/path/ or
    /// s3://BUCKET[/PREFIX]. Without TAG: the only image of a layout, `latest` of a registry
    image: String,
    /// An existing directory
    target: PathBuf,
    /// Mount through this front end instead of the best that works
    #[arg(long, value_enum)]
    frontend: Option<FrontEndName>,
    /// Speak plain HTTP to the registry (loopback addresses always do), or allow a tree at http://, or an s3://
    /// endpoint (AWS_ENDPOINT_URL) at http://
    #[arg(long)]
    insecure: bool,
    /// With s3://: ask without credentials
    #[arg(long)]
    anonymous: bool,
    /// With a tree: take a file for unchanged for so long, instead of asking whenever it is opened
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    revalidate: Option<Duration>,
}

/// Runs `larder mount`.
///
/// # Errors
///
/// When the daemon cannot be started, or what kept it from mounting.
pub fn run(args: Args, global: &Global) -> anyhow::Result<ExitCode> {
    let paths = global.paths()?;
    let request = args.request()?;
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

impl Args {
    fn request(&self) -> anyhow::Result<MountRequest> {
        let mut request = if TreeAddress::is_meant(&self.image) {
            self.tree_request()?
        } else if self.anonymous || self.revalidate.is_some() {
            let option = if self.anonymous { "--anonymous" } else { "--revalidate" };
            return Err(told(
                Kind::BadRequest,
                format!("{}: {option} is for trees, not for images", self.image),
                "a tree begins with https:// or s3://",
            ));
        } else {
            request(&self.image, &self.target, self.frontend, self.insecure)?
        };
        request.insecure = self.insecure;
        Ok(request)
    }

    fn tree_request(&self) -> anyhow::Result<MountRequest> {
        let address: TreeAddress = self.image.parse()?;
        let refused =
            |message: &str, hint: &str| Err(told(Kind::BadRequest, format!("{address}: {message}"), hint));
        if self.frontend.is_some_and(|name| name != FrontEndName::Fuse) {
            return refused("a tree is served by fuse", "leave --frontend out");
        }
        if self.anonymous && matches!(address, TreeAddress::Http(_)) {
            return refused("--anonymous is for s3://", "a web server is never sent credentials");
        }
        let revalidate = self.revalidate.unwrap_or_default();
        let tree = TreeOptions {
            anonymous: self.anonymous,
            revalidate_ms: u64::try_from(revalidate.as_millis()).unwrap_or(u64::MAX),
        };
        let target = absolute(&self.target)?;
        Ok(MountRequest {
            image: address.to_string(),
            target,
            frontend: None,
            insecure: self.insecure,
            tree: Some(tree),
        })
    }
}

fn absolute(target: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(target).with_context(|| format!("{}: cannot be made absolute", target.display()))
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
    let target = absolute(target)?;
    let frontend = frontend.map(|name| name.as_str().to_owned());
    Ok(MountRequest { image: absolute_reference(image)?, target, frontend, insecure, tree: None })
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
