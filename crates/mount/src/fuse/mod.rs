//! The front end `fuse`: the whole file system in user space, through imagefs.
//!
//! The loop is our own because it must take over a /dev/fuse that its predecessor has initialised. It answers from
//! metadata and from present bytes at once; a hole goes to the engine's runtime. Node ids are computed from the image
//! ([`node`]), so nothing is lost with a worker.

mod abi;
mod channel;
mod device;
mod dir;
mod node;
mod serve;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder_erofs::Image;
use larder_imagefs::ImageFs;
use larder_ondemand::{Blob, Engine};

use self::channel::Channel;
use self::serve::Server;
use crate::keeper::Holder;
use crate::target::{self, What};
use crate::{Error, FrontEnd, FrontEndKind, MountSpec, Mounted};

pub(crate) use device::fusermount;

/// Stack of a serving thread: it parses, it does not recurse.
const STACK_BYTES: usize = 256 * 1024;

/// The front end.
pub struct Fuse {
    holder: Arc<dyn Holder>,
    engine: Arc<Engine>,
}

impl Fuse {
    /// Gets ready to mount; descriptors of mounts go to `holder`.
    pub fn open(holder: Arc<dyn Holder>, engine: Arc<Engine>) -> Self {
        Self { holder, engine }
    }

    fn image_fs(&self, spec: &MountSpec) -> Result<Arc<ImageFs>, Error> {
        let metadata = |source| Error::Metadata { path: spec.metadata.clone(), source };
        let file = File::open(&spec.metadata).map_err(metadata)?;
        let image = Image::open(file).map_err(|error| metadata(std::io::Error::other(error)))?;
        let fs = ImageFs::new(image, spec.devices.clone(), Arc::clone(&self.engine));
        fs.map(Arc::new).map_err(|error| metadata(std::io::Error::other(error)))
    }

    fn serve(&self, spec: MountSpec, fs: Arc<ImageFs>, channel: Channel) -> Result<Box<dyn Mounted>, Error> {
        let server = Server::new(fs, channel, self.engine.handle().clone());
        std::thread::Builder::new()
            .name("fuse".into())
            .stack_size(STACK_BYTES)
            .spawn(move || server.run())
            .map_err(|source| Error::Kernel { kind: FrontEndKind::Fuse, doing: "starting a thread", source })?;
        let holder = Arc::clone(&self.holder);
        Ok(Box::new(FuseMount { holder, id: spec.id, target: spec.target }))
    }
}

impl FrontEnd for Fuse {
    fn kind(&self) -> FrontEndKind {
        FrontEndKind::Fuse
    }

    fn mount(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error> {
        spec.check()?;
        target::check_free(&spec.target)?;
        let fs = self.image_fs(&spec)?;
        let fd = device::mount(&spec.target, &spec.source_name)?;
        let (name, target) = (kept_name(&spec.id), spec.target.clone());
        let served = self
            .holder
            .keep(&name, fd.as_fd())
            .map_err(|source| Error::Keep { name: name.clone(), source })
            .and_then(|()| self.serve(spec, fs, Channel::new(fd)));
        served.inspect_err(|_| {
            self.holder.release(&name);
            let _ = device::unmount(&target, true);
        })
    }

    fn resume(&self, spec: MountSpec) -> Result<Box<dyn Mounted>, Error> {
        spec.check()?;
        let name = kept_name(&spec.id);
        if target::what(&spec.target) != Some(What::Fuse) {
            self.holder.release(&name);
            return Err(Error::Gone { target: spec.target });
        }
        let Some(fd) = self.holder.take(&name) else {
            // The connection died with its last descriptor: whoever reads gets ENOTCONN, never zeros.
            let _ = device::unmount(&spec.target, true);
            return Err(Error::Gone { target: spec.target });
        };
        let fs = self.image_fs(&spec)?;
        let channel = Channel::new(fd);
        if let Err(error) = channel.ask_for_resend() {
            // Before Linux 6.9 the requests that the dead worker had read are lost; the others are still queued.
            tracing::warn!(mount = spec.id, %error, "this kernel does not send requests again");
        }
        self.serve(spec, fs, channel)
    }
}

/// One FUSE mount.
struct FuseMount {
    holder: Arc<dyn Holder>,
    id: String,
    target: PathBuf,
}

impl Mounted for FuseMount {
    fn target(&self) -> &Path {
        &self.target
    }

    fn unmount(&self, lazy: bool) -> Result<(), Error> {
        device::unmount(&self.target, lazy)?;
        // The loop ends by itself, with ENODEV, when the last user in any mount namespace is gone.
        self.holder.release(&kept_name(&self.id));
        Ok(())
    }

    fn on_complete(&self, _: &Arc<Blob>) {}
}

fn kept_name(id: &str) -> String {
    format!("fuse/{id}")
}
