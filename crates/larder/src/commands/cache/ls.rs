//! `larder cache ls`: list the objects of the cache.

use std::collections::BinaryHeap;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::process::ExitCode;

use clap::ValueEnum;

use super::access::Access;
use crate::api::cache_types::{ListRequest, Object};
use crate::commands::ls::time;
use crate::commands::mount::image_name;
use crate::output;
use crate::output::bytes::mebibytes_and_tenths;

const EXAMPLES: &str = "\
Examples:
  larder cache ls                                       everything, by volume and key
  larder cache ls --image registry.example/app:1        the blobs of one image
  larder cache ls --sort used --limit 20                what would be culled first
  larder cache ls --json | jq -r .cookie                for programs, an object a line";

/// Objects that are sorted at most: they have to be kept until the last one is known.
const SORTED_MAX: u64 = 100_000;

/// Output that is collected before it is written.
const OUTPUT_BYTES: usize = 64 * 1024;

/// Arguments of `larder cache ls`.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only objects of this volume
    #[arg(long)]
    volume: Option<String>,
    /// Only objects of this image: its reference, or the digest of its manifest
    #[arg(long, value_name = "REF")]
    image: Option<String>,
    /// Sort; shows 1000 objects unless --limit says otherwise
    #[arg(long, value_enum)]
    sort: Option<Sort>,
    /// Show so many objects at most; with --sort up to 100000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sort {
    /// Least recently used first
    Used,
    /// What takes most on the disk first
    Size,
}

/// Runs `larder cache ls`.
///
/// # Errors
///
/// When the cache cannot be read, or no image has the name given.
pub async fn run(args: Args, access: &Access, json: bool) -> anyhow::Result<ExitCode> {
    let image = args.image.as_deref().map(image_name).transpose()?;
    let request = ListRequest { volume: args.volume, image };
    let text = Vec::with_capacity(OUTPUT_BYTES + 1024);
    let mut printer = Printer { json, text, minute: Minute::default() };
    printer.header();
    match args.sort {
        None => {
            let mut left = args.limit.unwrap_or(u64::MAX);
            let mut each = |object: Object| {
                printer.print(&object)?;
                left -= 1;
                Ok(if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            };
            access.objects(&request, &mut each).await?;
        }
        Some(sort) => {
            let limit = args.limit.unwrap_or(1000);
            if limit > SORTED_MAX {
                anyhow::bail!("--limit {limit}: with --sort at most {SORTED_MAX} objects are shown");
            }
            for object in sorted(access, &request, sort, usize::try_from(limit)?).await? {
                printer.print(&object)?;
            }
        }
    }
    printer.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The first objects in this order; never more than `limit` are kept.
async fn sorted(
    access: &Access,
    request: &ListRequest,
    sort: Sort,
    limit: usize,
) -> anyhow::Result<impl Iterator<Item = Object>> {
    let mut first = BinaryHeap::new();
    let mut each = |object: Object| {
        let rank = match sort {
            Sort::Used => object.last_used_ms,
            Sort::Size => u64::MAX - object.stored_bytes,
        };
        first.push((rank, object));
        if first.len() > limit {
            first.pop();
        }
        Ok(ControlFlow::Continue(()))
    };
    access.objects(request, &mut each).await?;
    Ok(first.into_sorted_vec().into_iter().map(|(_, object)| object))
}

/// Writes rows as they come: a table of a million of them cannot wait for its widest cell.
struct Printer {
    json: bool,
    text: Vec<u8>,
    minute: Minute,
}

/// A time up to its minutes, as text: neighbours often share it, and a million dates take a second.
#[derive(Default)]
struct Minute {
    number: Option<u64>,
    text: String,
}

impl Minute {
    /// The time so many seconds after 1970, without its seconds.
    fn text(&mut self, seconds: u64) -> anyhow::Result<&str> {
        let number = seconds / 60;
        if self.number != Some(number) {
            self.text = time(i64::try_from(number * 60)?);
            self.text.truncate(self.text.len() - "00Z".len());
            self.number = Some(number);
        }
        Ok(&self.text)
    }
}

impl Printer {
    fn header(&mut self) {
        if !self.json {
            let names =
                b"    SIZE MiB   STORED MiB  STATE     PINNED  LAST USED             VOLUME   COOKIE\n";
            self.text.extend_from_slice(names);
        }
    }

    fn print(&mut self, object: &Object) -> anyhow::Result<()> {
        if self.json {
            serde_json::to_writer(&mut self.text, object)?;
            self.text.push(b'\n');
        } else {
            let state = if object.complete { "complete" } else { "partial" };
            let pinned = if object.pinned { "yes" } else { "no" };
            let used = self.minute.text(object.last_used_ms / 1000)?;
            let (size, size_tenth) = mebibytes_and_tenths(object.size_bytes);
            let (stored, stored_tenth) = mebibytes_and_tenths(object.stored_bytes);
            let (second, volume, cookie) = (object.last_used_ms / 1000 % 60, &object.volume, &object.cookie);
            writeln!(
                self.text,
                "{size:>10}.{size_tenth} {stored:>10}.{stored_tenth}  {state:<8}  {pinned:<6}  {used}{second:02}Z  {volume:<7}  {cookie}"
            )?;
        }
        if self.text.len() < OUTPUT_BYTES { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        output::write(&self.text)?;
        self.text.clear();
        Ok(())
    }
}
