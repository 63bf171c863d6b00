//! Which mount is ours, with a real kernel: what others have mounted over it or in its place stays, and readers of what was ours are
//! not forgotten.

use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use larder_mount::{Detached, Error, FrontEndKind, Identity, MountSpec, detach_mount_of, mount_points};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::common::rig::{Abandoned, KINDS, Rig, start, wait_for};
use crate::common::{MapHolder, Unmount};

/// Mounts the image in `dir` without any front end; `false` where the kernel mounts no files, as before Linux 6.12.
fn mount_by_hand(dir: &Path, target: &Path) -> bool {
    let device = CString::new(format!("device={}", dir.join("blob").display())).unwrap();
    let metadata = dir.join("metadata");
    match rustix::mount::mount(&metadata, target, "erofs", MountFlags::RDONLY, device.as_c_str()) {
        Err(rustix::io::Errno::NOTBLK) => false,
        mounted => mounted.map(|()| true).unwrap(),
    }
}

fn is_mounted_on(target: &Path) -> bool {
    mount_points().unwrap().iter().any(|point| point.path == target)
}

/// Neither the kind nor the device number tells it from ours: the kernel gives that again at once.
#[test]
fn a_mount_that_somebody_has_put_in_the_place_of_ours_stays() {
    for rig in Rig::all() {
        let (kind, spec) = (rig.front_end.kind(), &rig.worker.spec);
        let identity = rig.mounted.identity();
        rustix::mount::unmount(&spec.target, UnmountFlags::empty()).unwrap();
        if !mount_by_hand(rig.dir.path(), &spec.target) {
            println!("skipped ({kind}): this kernel mounts no EROFS from files");
            continue;
        }
        let detached = detach_mount_of(kind, &spec.target, &identity, |_| true).unwrap();
        assert_eq!(detached, Detached::NotOurs, "{kind}");
        rig.mounted.unmount(true).unwrap();
        let resumed = rig.front_end.resume(MountSpec { identity, ..spec.clone() });
        assert!(matches!(resumed, Err(Error::Gone { .. })), "{kind}");
        assert!(is_mounted_on(&spec.target), "{kind}: it is somebody else's");
    }
}

#[test]
fn a_mount_is_known_by_its_identity_and_without_one_by_what_the_caller_says() {
    for rig in Rig::all() {
        let (kind, target) = (rig.front_end.kind(), rig.mounted.target());
        let detach = |identity: &Identity, is_ours: bool| {
            detach_mount_of(kind, target, identity, |_| is_ours).unwrap()
        };
        assert_eq!(detach(&Identity::default(), false), Detached::Unknown, "{kind}");
        assert!(is_mounted_on(target), "{kind}");
        // As on a kernel without unique numbers.
        let identity = Identity { mount_id: None, ..rig.mounted.identity() };
        assert_eq!(detach(&identity, false), Detached::Ours, "{kind}");
        assert_eq!(detach(&identity, true), Detached::Nothing, "{kind}");
        let other = rig.front_end.mount(MountSpec { id: "m2".into(), ..rig.worker.spec.clone() }).unwrap();
        let identity = Identity { mount_id: other.identity().mount_id, ..Identity::default() };
        if identity.mount_id.is_none() {
            println!("skipped: this kernel gives mounts no unique numbers ({kind})");
            continue;
        }
        assert_eq!(detach(&identity, false), Detached::Ours, "{kind}");
        assert_eq!(detach(&identity, true), Detached::Nothing, "{kind}");
    }
}

/// Others had made theirs in the same moment, and one of these has gone since.
#[test]
fn p4_a_mount_without_a_number_is_ours_while_a_backing_device_lives_that_may_be_its_own() {
    for kind in KINDS {
        let Some(rig) = Rig::kept_by(kind, Arc::new(MapHolder::default())) else { continue };
        let mut identity = Identity { mount_id: None, ..rig.mounted.identity() };
        let ours = identity.backing.clone();
        identity.backing.push("erofs-no-such".to_owned());
        let left = rig.hand_over();
        let (next, front_end) = left.next();
        let spec = MountSpec { identity, ..next.spec.clone() };
        let resumed = front_end.resume(spec.clone()).expect("it is mounted");
        assert_eq!(resumed.identity().backing, ours, "{kind}");
        drop((resumed, front_end));
        // Nobody has vouched for what was read meanwhile.
        left.holder.names().iter().for_each(|name| left.holder.release(name));
        let front_end = start(kind, &next, left.dir.path());
        assert!(matches!(front_end.resume(spec), Err(Error::Poisoned { .. })), "{kind}");
        assert!(!is_mounted_on(&left.spec.target), "{kind}");
    }
}

/// What the next worker has of it is its record alone.
#[test]
fn p1_the_reader_of_a_poisoned_mount_is_waited_for_and_mounts_of_others_are_not() {
    let rig = Rig::kept_by(FrontEndKind::Fanotify, Arc::new(MapHolder::default()));
    let Some(rig) = rig else { return };
    let (identity, file) = (rig.mounted.identity(), fs::File::open(rig.path("big")).unwrap());
    let left = rig.hand_over();
    left.holder.release("erofs/m1");
    let elsewhere = left.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let _unmount_other = Unmount(elsewhere.clone());
    assert!(mount_by_hand(left.dir.path(), &elsewhere), "a front end that mounts files has done so");
    let (next, front_end) = left.next();
    let resumed = front_end.resume(MountSpec { identity, ..next.spec.clone() });
    assert!(matches!(resumed, Err(Error::Poisoned { .. })));
    front_end.finish_resume();
    assert!(!front_end.is_idle(), "it is still read");
    drop(file);
    wait_for(|| front_end.is_idle());
    assert!(is_mounted_on(&elsewhere), "it has nothing to do with us");
}

/// Mounts something else on `target`.
fn cover(target: &Path) -> Unmount {
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("none", target, "tmpfs", flags, None).unwrap();
    Unmount(target.to_owned())
}

#[test]
fn p1_a_poisoned_mount_that_lies_under_another_is_detached_when_it_comes_up() {
    for abandoned in Abandoned::all() {
        let (next, kind, spec) = (abandoned.next(), abandoned.kind, &abandoned.worker.spec);
        let over = cover(&spec.target);
        for _ in 0..2 {
            let resumed = next.resume(spec.clone()).err();
            assert!(matches!(resumed, Some(Error::Covered { .. })), "{kind}: {resumed:?}");
        }
        drop(over);
        assert!(spec.target.join("big").exists(), "it is still there");
        assert!(matches!(next.resume(spec.clone()), Err(Error::Poisoned { .. })));
        assert!(!spec.target.join("big").exists(), "detached");
    }
}

#[test]
fn only_our_own_mount_is_taken_away() {
    for rig in Rig::all() {
        let target = &rig.worker.spec.target;
        let over = cover(target);
        fs::write(target.join("somebody's"), "").unwrap();
        assert!(matches!(rig.mounted.unmount(true), Err(Error::Covered { .. })));
        assert!(target.join("somebody's").exists(), "what is not ours stays");
        drop(over);
        // Somebody takes ours away and has the place now.
        rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH).unwrap();
        let _instead = cover(target);
        fs::write(target.join("somebody's"), "").unwrap();
        rig.mounted.unmount(true).unwrap();
        assert!(target.join("somebody's").exists(), "what is not ours stays");
    }
}
