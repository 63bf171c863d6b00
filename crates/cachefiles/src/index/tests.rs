//! The index against a map that is obviously right.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::storage::FileHandle;

#[derive(Clone, Debug)]
enum Step {
    Put { volume: u8, cookie: u8, row: Row },
    Touch { volume: u8, cookie: u8, used_ms: u64 },
    Fold,
    See { volume: u8, cookie: u8, seen: Option<Sighting> },
    Remove { volume: u8, cookie: u8 },
    RemoveVolume { volume: u8 },
    Flush,
    Damage,
    Reopen { clean: bool },
}

fn row() -> impl Strategy<Value = Row> {
    (
        0..1u64 << 40,
        0..1u64 << 40,
        any::<u64>(),
        any::<bool>(),
        any::<bool>(),
        proptest::option::of(sighting()),
    )
        .prop_map(|(size, stored, used_ms, complete, pinned, seen)| Row {
            size,
            stored,
            used_ms,
            complete,
            pinned,
            seen,
        })
}

fn sighting() -> impl Strategy<Value = Sighting> {
    (any::<[u8; 8]>(), any::<[u8; 8]>(), any::<u64>()).prop_map(|(dir, file, changed_ns)| {
        let [dir, file] = [dir, file].map(|bytes| FileHandle::new(1, &bytes).expect("short"));
        Sighting { dir, file, changed_ns }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u8..3, 0u8..9, row()).prop_map(|(volume, cookie, row)| Step::Put { volume, cookie, row }),
        4 => (0u8..3, 0u8..9, any::<u64>())
            .prop_map(|(volume, cookie, used_ms)| Step::Touch { volume, cookie, used_ms }),
        2 => (0u8..3, 0u8..9, proptest::option::of(sighting()))
            .prop_map(|(volume, cookie, seen)| Step::See { volume, cookie, seen }),
        1 => Just(Step::Fold),
        3 => (0u8..3, 0u8..9).prop_map(|(volume, cookie)| Step::Remove { volume, cookie }),
        1 => (0u8..3).prop_map(|volume| Step::RemoveVolume { volume }),
        2 => Just(Step::Flush),
        1 => Just(Step::Damage),
        1 => any::<bool>().prop_map(|clean| Step::Reopen { clean }),
    ]
}

fn volume(n: u8) -> VolumeKey {
    // One is a prefix of the next: a range must end where a volume ends.
    VolumeKey::new(&"v".repeat(usize::from(n) + 1)).expect("valid")
}

fn name(v: u8, cookie: u8) -> Name {
    (volume(v), CookieKey::new(&format!("c{cookie}")).expect("valid"))
}

fn all(index: &Index) -> BTreeMap<Name, Row> {
    let mut found = BTreeMap::new();
    index.visit(|name, row| {
        assert!(found.insert(name, row).is_none(), "each object once");
        ControlFlow::Continue(())
    });
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn an_index_is_a_map_through_clean_ends_and_empty_after_others(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("index.redb");
        let (mut index, sums) = Index::open(&path).expect("writable");
        prop_assert_eq!(sums, None);
        let (mut model, mut damaged) = (BTreeMap::new(), false);
        for step in steps {
            match step {
                Step::Put { volume, cookie, row } => {
                    index.put(&name(volume, cookie), row);
                    model.insert(name(volume, cookie), row);
                }
                Step::Touch { volume, cookie, used_ms } => {
                    let name = name(volume, cookie);
                    // As clocks do, though they may not.
                    let later = model.get(&name).map_or(0, |row: &Row| row.used_ms.max(used_ms));
                    index.touch(&name, later);
                    if let Some(row) = model.get_mut(&name) {
                        row.used_ms = later;
                    }
                }
                Step::See { volume, cookie, seen } => {
                    let name = name(volume, cookie);
                    index.see(&name, seen);
                    if let Some(row) = model.get_mut(&name) {
                        row.seen = seen;
                    }
                }
                Step::Fold => {
                    let touched = index.lock().touched.clone();
                    index.fold_in(&touched);
                    prop_assert_eq!(index.lock().touched.encode().len(), 0, "all of it is in the rows, or about none");
                }
                Step::Remove { volume, cookie } => {
                    prop_assert_eq!(index.remove(&name(volume, cookie)), model.remove(&name(volume, cookie)));
                }
                Step::RemoveVolume { volume: number } => {
                    let mut charge = 0;
                    model.retain(|name, row: &mut Row| {
                        let gone = name.0 == volume(number);
                        charge += if gone { row.charge() } else { 0 };
                        !gone
                    });
                    prop_assert_eq!(index.remove_volume(&volume(number)), charge);
                }
                Step::Flush => index.flush(Durability::None),
                Step::Damage => {
                    index.lock().damaged = true;
                    damaged = true;
                }
                Step::Reopen { clean } => {
                    let sums = Sums { charged: 7, graves: model.len() as u64 };
                    if clean {
                        // Leaves no mark where it is damaged.
                        index.close(sums);
                    }
                    drop(index);
                    let (again, found) = Index::open(&path).expect("writable");
                    index = again;
                    let clean = !std::mem::take(&mut damaged) && clean;
                    prop_assert_eq!(found, clean.then_some(sums));
                    if !clean {
                        model.clear();
                    }
                }
            }
            prop_assert_eq!(&all(&index), &model);
            let stored = model.values().map(|row| row.stored).sum();
            prop_assert_eq!(index.totals(), Totals { objects: model.len() as u64, stored });
            for cookie in 0..9 {
                let row = model.get(&name(1, cookie)).copied();
                prop_assert_eq!(index.seen(&name(1, cookie)), row.and_then(|row| row.seen));
                prop_assert_eq!(index.get(&name(1, cookie)), row);
            }
        }
    }
}

#[test]
fn an_index_of_the_release_before_is_read_and_one_of_a_later_release_is_an_empty_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, seal) = (dir.path().join("index.redb"), dir.path().join("index.seal"));
    for (version, is_read) in [("2", true), ("3", true), ("4", false), ("1", false)] {
        let (index, _) = Index::open(&path).expect("writable");
        index.put(&name(0, 0), Row::default());
        index.close(Sums::default());
        drop(index);
        let sealed = fs::read_to_string(&seal).expect("closed");
        fs::write(&seal, sealed.replace("larder index 3 ", &format!("larder index {version} ")))
            .expect("ours");
        let (index, sums) = Index::open(&path).expect("writable");
        assert_eq!((sums.is_some(), all(&index).len()), (is_read, usize::from(is_read)), "{version}");
        index.remove(&name(0, 0));
        index.close(Sums::default());
    }
}

#[test]
fn a_damaged_index_is_an_empty_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("index.redb");
    for damage in [&b""[..], b"no database", &[0xff; 100_000]] {
        let (index, _) = Index::open(&path).expect("writable");
        index.put(&name(0, 0), Row::default());
        index.close(Sums::default());
        drop(index);
        fs::write(&path, damage).expect("writable");
        let (index, sums) = Index::open(&path).expect("writable");
        assert_eq!((sums, all(&index).len()), (None, 0));
    }
}

#[test]
fn an_index_in_which_any_bit_was_changed_is_an_empty_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("index.redb");
    let closed = || {
        let (index, _) = Index::open(&path).expect("writable");
        index.put(&name(0, 0), Row::default());
        index.close(Sums::default());
        drop(index);
        fs::read(&path).expect("closed")
    };
    let len = closed().len();
    for at in (0..len).step_by(len / 50) {
        let mut bytes = closed();
        bytes[at] ^= 1;
        fs::write(&path, bytes).expect("writable");
        let (index, sums) = Index::open(&path).expect("writable");
        assert_eq!((sums, all(&index).len()), (None, 0), "byte {at}");
    }
}

#[test]
fn a_volume_with_more_rows_than_one_step_takes_is_removed_whole() {
    let index = Index::in_memory().expect("memory does not fail");
    for n in 0..2 * PENDING_MAX + 1 {
        let cookie = CookieKey::new(&format!("c{n}")).expect("valid");
        index.put(&(volume(0), cookie), Row::default());
    }
    index.put(&name(1, 0), Row::default());
    let charge = index.remove_volume(&volume(0));
    assert_eq!(charge, (2 * PENDING_MAX as u64 + 1) * Row::default().charge());
    assert_eq!(all(&index).len(), 1);
}

#[test]
fn more_than_one_step_takes_is_folded_whole() {
    let index = Index::in_memory().expect("memory does not fail");
    let names: Vec<Name> = (0..2 * PENDING_MAX + 1)
        .map(|n| (volume(0), CookieKey::new(&format!("c{n}")).expect("valid")))
        .collect();
    for name in &names {
        index.put(name, Row::default());
    }
    for (name, used_ms) in names.iter().zip(1..) {
        index.touch(name, used_ms);
    }
    let touched = index.lock().touched.clone();
    index.fold_in(&touched);
    index.lock().touched = Touched::default();
    for (name, used_ms) in names.iter().zip(1..) {
        assert_eq!(index.get(name).map(|row| row.used_ms), Some(used_ms));
    }
}

#[test]
fn while_rows_are_visited_pages_are_used_again_and_what_is_changed_does_no_harm() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("index.redb");
    let (index, _) = Index::open(&path).expect("writable");
    let row = |used_ms| Row { used_ms, ..Row::default() };
    let names: Vec<Name> = (0..2 * BATCH + 1)
        .map(|n| (volume(0), CookieKey::new(&format!("c{n:05}")).expect("valid")))
        .collect();
    let put_all = |used_ms| names.iter().for_each(|name| index.put(name, row(used_ms)));
    let round = |used_ms| {
        put_all(used_ms);
        index.flush(Durability::Immediate);
        fs::metadata(&path).expect("there").len()
    };
    let before = (0..4).map(round).max().expect("four");
    let mut visited = Vec::new();
    index.visit(|name, _| {
        if visited.is_empty() {
            // As long as a slow caller takes for one line.
            let after = (4..12).map(round).max().expect("eight");
            assert!(after <= before, "{before} bytes before, {after} meanwhile");
            index.remove(&names[2 * BATCH]);
        }
        visited.push(name);
        ControlFlow::Continue(())
    });
    assert!(visited == names[..2 * BATCH], "each once, without the one that went");
}
