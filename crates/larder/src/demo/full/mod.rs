//! Everything first: what a container engine does today, over the same link.
//!
//! Fetch every layer whole, three side by side; check each against its digest; unpack the tree; run.

mod extract;
mod fetch;
mod pull;
mod segments;

use std::time::{Duration, Instant};

use larder_image::LoadedImage;

use super::program::{self, Ran};
use super::scratch::Scratch;
use super::tree::Program;
use crate::output;
use crate::serve::{Server, Traffic};

/// What fetching everything first gave.
pub struct Full {
    /// From the wish to start to the last verified byte.
    pub fetched: Duration,
    /// To the unpacked tree.
    pub unpacked: Duration,
    /// To the first byte of output.
    pub first_output: Duration,
    /// To the program's end.
    pub end: Duration,
    /// What the program said.
    pub output: Vec<u8>,
    /// What crossed the link.
    pub traffic: Traffic,
}

/// Fetches the image that `server` has, unpacks it, runs the program in it. `image` tells how the layers are cut into
/// chunks; an engine's layers are decoded as streams, which needs no such thing.
///
/// # Errors
///
/// Whatever fails first.
pub fn run(
    scratch: &Scratch,
    server: &Server,
    image: &LoadedImage,
    program: &Program,
) -> anyhow::Result<Full> {
    let blobs = scratch.make_dir("pulled")?;
    let root = scratch.make_dir("unpacked")?;
    let before = server.traffic();
    let begun = Instant::now();
    pull::pull(server.address(), image, &blobs)?;
    let fetched = begun.elapsed();
    extract::extract(image, &blobs, &root)?;
    let unpacked = begun.elapsed();
    output::note(format!("running {} from the unpacked tree", program.name));
    let Ran { first_output, end, output } = program::run(&root, &program.argv, scratch)?;
    let since = |at: Instant| at.saturating_duration_since(begun);
    let traffic = server.traffic() - before;
    Ok(Full { fetched, unpacked, first_output: since(first_output), end: since(end), output, traffic })
}
