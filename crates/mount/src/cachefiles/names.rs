//! [`Names`]: what the objects are that the kernel asks for, by its own names.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::message::Name;
use crate::content::Content;
use crate::mounts::{self, User};
use crate::{Error, MountSpec};

/// The words with which an image is mounted: EROFS makes the kernel's names of them (fs/erofs/fscache.c, v6.12).
///
/// Mounts of one volume share a domain, and in it the blobs that they have in common. The metadata's name is the
/// mount's own, because a domain takes no primary device twice.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct MountNames {
    pub(super) domain: String,
    pub(super) fsid: String,
    pub(super) devices: Vec<String>,
}

impl MountNames {
    pub(super) fn of(spec: &MountSpec) -> Self {
        let volume = spec.devices.first().map(|blob| blob.cookie().volume().key().as_str());
        Self {
            domain: volume.unwrap_or("larder").to_owned(),
            fsid: format!("mount.{}", spec.id),
            devices: spec.devices.iter().map(|blob| blob.cookie().key().as_str().to_owned()).collect(),
        }
    }

    fn named(&self, cookie: &str) -> Name {
        let volume = format!("erofs,{}", self.domain).into_bytes().into();
        Name { volume, cookie: cookie.as_bytes().into() }
    }
}

struct Entry {
    content: Content,
    users: Vec<User>,
}

/// The objects of all mounts.
#[derive(Default)]
pub(super) struct Names {
    entries: RwLock<HashMap<Name, Entry>>,
}

impl Names {
    /// What `name` stands for.
    pub(super) fn get(&self, name: &Name) -> Option<Content> {
        self.read().get(name).map(|entry| entry.content.clone())
    }

    /// Enters everything that the mount `user` is made of. On an error nothing of it is left.
    pub(super) fn enter(
        &self,
        user: User,
        names: &MountNames,
        metadata: Content,
        spec: &MountSpec,
    ) -> Result<(), Error> {
        let mut all = vec![(names.named(&names.fsid), metadata)];
        let devices = spec.devices.iter().zip(&names.devices);
        all.extend(devices.map(|(blob, name)| (names.named(name), Content::Blob(Arc::clone(blob)))));
        let result = all.into_iter().try_for_each(|(name, content)| self.enter_one(user, name, content));
        result.inspect_err(|_| mounts::Names::leave(self, user))
    }

    fn enter_one(&self, user: User, name: Name, content: Content) -> Result<(), Error> {
        let mut entries = self.write();
        let entry_name = name.clone();
        let entry =
            entries.entry(name).or_insert_with(|| Entry { content: content.clone(), users: Vec::new() });
        if !entry.content.is_same(&content) {
            // The kernel tells objects apart by nothing but their names.
            return Err(Error::NameInUse { name: String::from_utf8_lossy(&entry_name.cookie).into_owned() });
        }
        entry.users.push(user);
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Name, Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Name, Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl mounts::Names for Names {
    fn leave(&self, user: User) {
        self.write().retain(|_, entry| {
            entry.users.retain(|other| *other != user);
            !entry.users.is_empty()
        });
    }
}
