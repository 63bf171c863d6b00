//! `erofsfuse`: mounts an image file in user space.

use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use anyhow::Context as _;
use larder_mount::fuse::{FileSystem, ImageServer, OwnMount};

use super::getopt::{Options, Takes};
use super::line::{Line, begin, number_of, unsupported};
use super::{Say, Tool};
use crate::erofs::open::{LocalImage, Parts};

const OPTIONS: Options = Options(&[
    ("h", Takes::Nothing),
    ("help", Takes::Nothing),
    ("V", Takes::Nothing),
    ("version", Takes::Nothing),
    ("d", Takes::Nothing),
    ("f", Takes::Nothing),
    ("s", Takes::Nothing),
    ("o", Takes::Value),
    ("offset", Takes::Value),
    ("dbglevel", Takes::Value),
    ("device", Takes::Value),
    (READY, Takes::Nothing),
]);

/// For ourselves: the mount is to be announced on standard output, and the terminal left then.
const READY: &str = "announce";

const HELP: &str = "\
usage: erofsfuse [options] IMAGE MOUNTPOINT

Options:
    --offset=#             skip # bytes at the beginning of IMAGE
    --dbglevel=#           set output message level to # (maximum 9)
    --device=#             specify an extra device to be used together

FUSE options:
    -h   --help            print help
    -V   --version         print version
    -d   -o debug          enable debug output (implies -f)
    -f                     foreground operation
    -s                     serve with one thread
    -o allow_other         let other users in (root's mounts always do)
    -o fsname=NAME         what the mount table shows as source
    -o subtype=NAME        what the mount table shows behind fuse.
    -o max_threads=N       the number of threads (default: one a processor)
    -o ro,nosuid,nodev,default_permissions
                           what is done anyhow
    -o clone_fd,max_idle_threads=N,noatime,async_read
                           taken, and change nothing
";

/// How far the kernel is let to read ahead, in bytes, where this user may say so. It reads as much for each fault of a program's
/// pages; with more that takes longer, and files that are read through gain nothing.
const READ_AHEAD_BYTES: u64 = 512 << 10;

#[derive(Debug)]
struct Asked {
    parts: Parts,
    target: PathBuf,
    foreground: bool,
    debug: u8,
    announce: bool,
    allow_other: bool,
    source: Option<String>,
    subtype: String,
    threads: NonZero<usize>,
}

pub(super) fn run(args: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let line = match begin(Tool::Fuse, &OPTIONS, HELP, args.clone())? {
        ControlFlow::Continue(line) => line,
        ControlFlow::Break(status) => return Ok(status),
    };
    let done = asked(line).map_err(anyhow::Error::msg).and_then(|asked| {
        if asked.foreground || asked.announce {
            serve(&asked).map(|()| ExitCode::SUCCESS)
        } else {
            detach(args)
        }
    });
    done.or_else(|error| {
        Say::default().failure(&error);
        Ok(ExitCode::FAILURE)
    })
}

fn asked(line: Line) -> Result<Asked, String> {
    let mut asked = Asked {
        parts: Parts::default(),
        target: PathBuf::new(),
        foreground: false,
        debug: 0,
        announce: false,
        allow_other: false,
        source: None,
        subtype: "erofsfuse".to_owned(),
        threads: std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
    };
    for (name, value) in line.options {
        let value = value.unwrap_or_default();
        let value_number = || number_of(name, Some(&value));
        match name {
            "d" => (asked.foreground, asked.debug) = (true, 2),
            "f" => asked.foreground = true,
            "s" => asked.threads = NonZero::<usize>::MIN,
            "o" => mount_options(&value, &mut asked)?,
            "offset" => asked.parts.offset = value_number()?,
            "dbglevel" => asked.debug = u8::try_from(value_number()?.saturating_sub(2)).unwrap_or(u8::MAX),
            "device" => asked.parts.devices.push(value.into()),
            READY => asked.announce = true,
            other => return Err(unsupported(other)),
        }
    }
    let [image, target] = line.operands.as_slice() else {
        return Err("usage: erofsfuse [options] IMAGE MOUNTPOINT".to_owned());
    };
    asked.parts.image = image.into();
    asked.target = target.into();
    Ok(asked)
}

/// Takes `-o a,b=c` apart.
fn mount_options(list: &OsStr, asked: &mut Asked) -> Result<(), String> {
    let list = list.to_str().ok_or("-o is no text")?;
    for option in list.split(',').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "ro"
            | "nosuid"
            | "nodev"
            | "default_permissions"
            | "clone_fd"
            | "max_idle_threads"
            | "noatime"
            | "async_read" => {}
            "allow_other" => asked.allow_other = true,
            "debug" => (asked.foreground, asked.debug) = (true, 2),
            "fsname" => asked.source = Some(value.to_owned()),
            "subtype" => asked.subtype = value.to_owned(),
            "max_threads" => {
                let threads = value.parse::<NonZero<usize>>();
                asked.threads = threads.map_err(|_| format!("invalid number: -o {option}"))?;
            }
            "device" => asked.parts.devices.push(value.into()),
            "offset" | "dbglevel" => return Err(format!("write --{option} instead of -o {option}")),
            _ => return Err(format!("mount option {name} is not supported by larder")),
        }
    }
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    if word(&asked.subtype) { Ok(()) } else { Err("subtype is no word".to_owned()) }
}

/// Starts the server apart from this terminal and returns when it has mounted, or with its status.
fn detach(args: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut child = Command::new(program)
        .args([OsStr::new(Tool::Fuse.name()), OsStr::new("--announce")])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the server")?;
    let mut word = [0];
    let announced = child.stdout.take().is_some_and(|mut pipe| pipe.read_exact(&mut word).is_ok());
    if announced {
        return Ok(ExitCode::SUCCESS);
    }
    // It has said why.
    let status = child.wait().context("waiting for the server")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

fn serve(asked: &Asked) -> anyhow::Result<()> {
    drop(crate::output::log::start(asked.debug, crate::output::log::LogOf::Command)?);
    let image = LocalImage::open(&asked.parts)?;
    let target = absolute(&asked.target)?;
    let source = match &asked.source {
        Some(source) => source.clone(),
        None => absolute(&asked.parts.image)?.display().to_string(),
    };
    let fs: Arc<dyn FileSystem> = Arc::new(ImageServer::new(image));
    let runtime = crate::runtime::for_command()?;
    let mount = OwnMount::new(&target, &source, &asked.subtype, asked.allow_other)?;
    mount.read_ahead(READ_AHEAD_BYTES);
    if asked.announce {
        leave_terminal().context("leaving the terminal")?;
    }
    mount.serve(&fs, asked.threads, runtime.handle())?;
    Ok(())
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize().with_context(|| path.display().to_string())
}

/// Becomes a process of its own, and says that the mount is there.
fn leave_terminal() -> anyhow::Result<()> {
    // Who leads a group already, as when a shell started it, has a session of its own enough.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/")?;
    crate::output::write(b"!")?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(args: &[&str]) -> Result<Asked, String> {
        let parsed = super::super::getopt::parse(&OPTIONS, args.iter().map(OsString::from).collect());
        asked(Line::of(parsed.map_err(|error| error.to_string())?))
    }

    #[test]
    fn mount_options_are_understood_or_refused_by_name() {
        let asked =
            of(&["-o", "ro,allow_other,fsname=x", "-omax_threads=3", "image", "mnt", "-f"]).expect("good");
        assert!(asked.foreground && asked.allow_other);
        assert_eq!((asked.source.as_deref(), asked.threads.get()), (Some("x"), 3));
        for (args, word) in [
            (&["-o", "rw", "i", "m"][..], "rw"),
            (&["-o", "auto_unmount", "i", "m"], "auto_unmount"),
            (&["-o", "subtype=a,b", "i", "m"], "option b "),
            (&["-o", "subtype=a b", "i", "m"], "subtype"),
            (&["i"], "usage"),
            (&["i", "m", "n"], "usage"),
            (&["--offset=x", "i", "m"], "offset"),
        ] {
            let wrong = of(args).expect_err("refused");
            assert!(wrong.contains(word), "{args:?}: {wrong}");
        }
    }
}
