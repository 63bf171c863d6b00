//! The front end `fuse-blob`: the kernel's EROFS, mounted on blobs that this process shows as the files of a FUSE.
//!
//! One FUSE for the process, mounted where nobody sees it ([`connection`]): its descriptors are with the keeper, its
//! files are the blobs of all images, each once ([`shown`]), and few threads serve it whatever the number of images.
//! What is missing arrives as a READ, metadata like data. When nobody serves any more, the kernel gives errors.
//!
//! An image that is complete when it is mounted is mounted on its plain files: nobody is asked then.

mod connection;
mod file_system;
mod shown;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use larder_ondemand::Engine;
use rustix::mount::{fsconfig_set_flag, fsconfig_set_string};

pub(crate) use self::connection::Connection;
use self::file_system::BlobFiles;
use self::shown::{Shown, ShownAs};
use crate::content::{Content, is_sealed};
use crate::erofs::{self, Creator, Kept, Options, Origin, Superblock, VALUE_BYTES_MAX};
use crate::grace::Grace;
use crate::keeper::{self, Holder};
use crate::mounts::{Answers as _, NamedMount, Names as _, User};
use crate::target::{self, Spot, What};
use crate::{Error, FrontEnd, FrontEndKind, MountSpec, Mounted};

/// The front end.
pub struct FuseBlob {
    connection: Connection,
    files: Arc<BlobFiles>,
    origin: Origin,
    holder: Arc<dyn Holder>,
    grace: Grace,
}

impl FuseBlob {
    /// Takes over the FUSE that `holder` has, or makes one, and begins to serve.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`] without the privilege or without FUSE, [`Error::Keep`] when the keeper does not take it.
    pub fn open(holder: Arc<dyn Holder>, engine: Arc<Engine>) -> Result<Self, Error> {
        let (connection, origin) = match inherit(&*holder)? {
            Some(connection) => (connection, Origin::Inherited),
            None => {
                let connection = Connection::new().map_err(kernel("making a FUSE"))?;
                Kept::release_all(&*holder, KEPT);
                connection.keep(&*holder)?;
                (connection, Origin::New)
            }
        };
        let runtime = engine.handle().clone();
        let files = Arc::new(BlobFiles::new(Shown::new(origin == Origin::Inherited), engine));
        let grace = Grace::new();
        if origin == Origin::Inherited {
            let (files, grace) = (Arc::clone(&files), grace.clone());
            runtime.spawn(async move {
                while !grace.is_over() {
                    tokio::time::sleep(grace.left()).await;
                }
                files.shown().finish_resume();
            });
        }
        connection.serve(Arc::clone(&files) as _, &runtime).map_err(kernel("starting a thread"))?;
        Ok(Self { connection, files, origin, holder, grace })
    }

    /// Shows everything that `spec` is made of: the metadata first, then the devices.
    fn show(&self, spec: &MountSpec, user: User) -> Result<Vec<ShownAs>, Error> {
        let metadata = match &spec.metadata_blob {
            Some(blob) => Content::Blob(Arc::clone(blob)),
            None => File::open(&spec.metadata)
                .and_then(Content::of_file)
                .map_err(|source| Error::Metadata { path: spec.metadata.clone(), source })?,
        };
        let devices = spec.devices.iter().map(|blob| Content::Blob(Arc::clone(blob)));
        let shown = self.files.shown();
        let all = std::iter::once(metadata).chain(devices);
        let names = all.map(|content| shown.enter(user, &spec.id, content)).collect::<Result<_, _>>();
        names.inspect_err(|_| shown.leave(user))
    }

    /// Mounts on what is shown. The kernel reads it meanwhile, so that a child waits for it and not this process.
    fn mount_shown(&self, spec: &MountSpec, user: User) -> Result<Superblock, Error> {
        self.files.set_given_up(false);
        let names = self.show(spec, user)?;
        let creator = Creator::ChildIn(self.connection.root());
        let configure = |context: &OwnedFd| configure_shown(context, &names, &spec.source_name);
        erofs::mount(&spec.target, &Options::default(), creator, &self.kept(&spec.id), configure)
            .inspect_err(|_| self.files.shown().leave(user))
    }

    fn mounted(&self, id: &str, user: User, (spot, superblock): (Spot, Superblock)) -> Box<dyn Mounted> {
        self.files.mounts().add(user, superblock.clone());
        let (answers, holder) = (Arc::clone(&self.files), Arc::clone(&self.holder));
        Box::new(NamedMount { answers, holder, kept_name: kept_name(id), user, spot, superblock })
    }

    fn kept(&self, id: &str) -> Kept<'_> {
        Kept::new(&*self.holder, kept_name(id))
    }
}

/// The connection that an earlier worker has left with `holder`, if it can be gone on with. It has been asked for what was not
/// answered.
fn inherit(holder: &dyn Holder) -> Result<Option<Connection>, Error> {
    let Some(connection) = Connection::inherit(holder).map_err(kernel("taking over its FUSE"))? else {
        return Ok(None);
    };
    match connection.ask_for_resend() {
        Ok(()) => Ok(Some(connection)),
        // It died before it had answered the kernel's first request, which Linux 7.3 does not send again; nothing has been
        // mounted from it then, as that begins with opening a file. Or the connection was aborted, and what was mounted from it
        // gives EIO for ever.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            tracing::warn!(
                "the FUSE of an earlier worker answers nothing any more: another one takes its place"
            );
            connection.release(holder);
            Ok(None)
        }
        Err(error) => Err(kernel("asking for what was not answered")(error)),
    }
}

impl FrontEnd for FuseBlob {
    fn kind(&self) -> FrontEndKind {
        FrontEndKind::FuseBlob
    }

    /// Metadata is asked for like data.
    fn brings_metadata(&self) -> bool {
        true
    }

    fn mount(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error> {
        spec.check()?;
        target::check_free(&spec.target)?;
        let user = User::new();
        let superblock = match PlainFiles::of(&spec)? {
            Some(files) => files.mount(&spec.target, &self.kept(&spec.id).of_plain_files())?,
            None => self.mount_shown(&spec, user)?,
        };
        Ok(self.mounted(&spec.id, user, (Spot::of(&spec.target, What::Erofs), superblock)))
    }

    fn resume(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error> {
        spec.check()?;
        // On a new one, unless it is on plain files: the FUSE under it ended with its last descriptor, and what is not in the
        // page cache gives EIO for ever.
        let taken_up =
            self.kept(&spec.id).take_up(&spec.target, &spec.identity, self.origin, |superblock| {
                // On a new one its readers get errors, whoever waits for them.
                if self.origin == Origin::Inherited {
                    self.files.mounts().add_leaving(superblock);
                }
            })?;
        let user = User::new();
        self.show(&spec, user)?;
        Ok(self.mounted(&spec.id, user, taken_up))
    }

    fn finish_resume(&self) {
        self.files.shown().finish_resume();
    }

    fn resume_goes_on(&self) {
        self.grace.begin_again();
    }

    fn kept_ids(&self) -> Vec<String> {
        keeper::ids_below(&*self.holder, KEPT)
    }

    fn abandon(&self, id: &str) -> Result<(), Error> {
        self.kept(id).abandon(|superblock| {
            self.files.mounts().add_leaving(superblock);
            Ok(())
        })
    }

    fn give_up(&self) {
        self.files.set_given_up(true);
    }

    /// Without anybody who serves, who still reads from a detached mount would get errors.
    fn is_idle(&self) -> bool {
        self.files.mounts().release_what_is_gone();
        self.files.mounts().is_empty()
    }

    fn hand_over(&self) {
        self.connection.hand_over();
    }
}

/// The files of an image of which nothing is missing any more.
struct PlainFiles<'a> {
    metadata: File,
    devices: Vec<BorrowedFd<'a>>,
}

impl<'a> PlainFiles<'a> {
    /// The files of `spec`; `None` when a byte of it may have to be brought.
    fn of(spec: &'a MountSpec) -> Result<Option<Self>, Error> {
        if !spec.metadata_blob.iter().chain(&spec.devices).all(|blob| is_sealed(blob)) {
            return Ok(None);
        }
        let metadata = File::open(&spec.metadata)
            .map_err(|source| Error::Metadata { path: spec.metadata.clone(), source })?;
        let devices = spec.devices.iter().map(|blob| blob.resources().object().file()).collect();
        Ok(Some(Self { metadata, devices }))
    }

    fn mount(&self, target: &Path, kept: &Kept<'_>) -> Result<Superblock, Error> {
        erofs::mount(target, &Options::default(), Creator::Here, kept, |context| {
            fsconfig_set_string(context, "source", erofs::source_of(self.metadata.as_fd(), None))?;
            for device in &self.devices {
                fsconfig_set_string(context, "device", erofs::by_descriptor(*device))?;
            }
            Ok(())
        })
    }
}

/// Says to a mount's context what to mount, by names in the FUSE's only directory.
fn configure_shown(context: &OwnedFd, names: &[ShownAs], label: &str) -> io::Result<()> {
    let Some((metadata, devices)) = names.split_first() else { return Ok(()) };
    fsconfig_set_string(context, "source", metadata.labelled(label, VALUE_BYTES_MAX))?;
    for device in devices {
        fsconfig_set_string(context, "device", device.to_string())?;
    }
    // Data then goes past the page cache of the FUSE, so that it is held once, by EROFS.
    if let Err(error) = fsconfig_set_flag(context, "directio") {
        tracing::debug!(%error, "this kernel's EROFS keeps data in the page cache of its files, too");
    }
    Ok(())
}

/// What the names of mounts begin with that the keeper has something of.
const KEPT: &str = "fuse-blob/mount/";

fn kept_name(id: &str) -> String {
    format!("{KEPT}{id}")
}

fn kernel(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Kernel { kind: FrontEndKind::FuseBlob, doing, source }
}
