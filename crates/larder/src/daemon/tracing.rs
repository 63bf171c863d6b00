//! Who listens to trace events, and which cookies an image has that they ask for.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use larder_fscache::CookieKey;
use larder_remote::tree::TreeAddress;

use super::Daemon;
use super::live::Live;
use crate::api::types::{ImageName as ApiName, TraceRequest};
use crate::errors::{Kind, told};
use crate::trace::events::matching;
use crate::trace::{ImageName, SUBSCRIBERS_MAX, Select, Subscription};

impl Daemon {
    /// Begins to listen. On return the events are being recorded.
    ///
    /// # Errors
    ///
    /// When no trace point has a name that was given, or too many listen already.
    pub fn subscribe(&self, request: TraceRequest) -> anyhow::Result<Subscription> {
        let mut events = BTreeSet::new();
        for pattern in &request.events {
            let known = events.len();
            events.extend(matching(pattern).map(|event| event.name));
            if events.len() == known && matching(pattern).next().is_none() {
                return Err(told(
                    Kind::BadRequest,
                    format!("{pattern}: no trace event has this name"),
                    "`larder trace --list` lists them; a name may end in *",
                ));
            }
        }
        for image in &request.images {
            self.refuse_tree(image)?;
        }
        let images = request.images.into_iter();
        let select = Select {
            events,
            cookies: request.cookies,
            pids: request.pids.into_iter().collect(),
            images: images.map(|image| ImageName { reference: image.reference, path: image.path }).collect(),
            of_images: BTreeSet::new(),
        };
        let subscription = self.trace.subscribe(select).ok_or_else(|| {
            told(
                Kind::Conflict,
                format!("{SUBSCRIBERS_MAX} listen to trace events already"),
                "end one of them",
            )
        })?;
        for live in self.mounts.all() {
            self.tell_tracers_of(&live);
        }
        Ok(subscription)
    }

    /// The cookies of a tree are as many as its files, and come as these are opened: nobody could be told of them.
    fn refuse_tree(&self, name: &ApiName) -> anyhow::Result<()> {
        let is_tree = |live: &Arc<Live>| live.tree.is_some() && live.record.target == name.path;
        if TreeAddress::is_meant(&name.reference) || self.mounts.all().iter().any(is_tree) {
            return Err(told(
                Kind::BadRequest,
                format!("{}: is a tree, no image", name.reference),
                "`larder cache ls --volume trees` lists keys for --cookie; --pid finds who reads",
            ));
        }
        Ok(())
    }

    /// Tells listeners which cookies the image of a mount has.
    pub(super) fn tell_tracers_of(&self, live: &Live) {
        let record = &live.record;
        self.tell_tracers(&record.image, &record.manifest, &record.target, &live.keys().into_all());
    }

    /// The same before there is a mount, so that its first events are not missed.
    pub(super) fn tell_tracers(&self, image: &str, manifest: &str, target: &Path, keys: &[CookieKey]) {
        let keys: Vec<_> = keys.iter().map(|key| key.as_str().to_owned()).collect();
        self.trace.note_image(|name| name.names(image, manifest, target), &keys);
    }

    /// Ends the answers of those who listen, so that they do not keep the process alive.
    pub(super) fn end_tracing(&self) {
        self.trace.close();
    }
}
