//! Any tree that is written reads as the model it was made from.

use std::collections::BTreeMap;

use larder_erofs::writer::{Attributes, Options, Tree, write_image};
use larder_erofs::{FileType, Image, Rdev, Timestamp, Xattr};
use proptest::prelude::*;

use crate::support::{Listing, Object, assert_same, build, list_image, options, recipes};

/// What can be put into a tree.
#[derive(Clone, Debug)]
enum Thing {
    Dir,
    File(Vec<u8>),
    Link(Vec<u8>),
    Special(FileType, u32, u32),
}

#[derive(Clone, Debug)]
struct Plant {
    path: Vec<Vec<u8>>,
    thing: Thing,
    attributes: Attributes,
    xattrs: BTreeMap<String, Vec<u8>>,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => "[a-d]{1,2}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>().prop_filter("no slash, no NUL", |b| *b != b'/' && *b != 0), 1..40)
            .prop_filter("no dots", |name| name != b"." && name != b".."),
        1 => Just(vec![b'L'; 255]),
    ]
}

/// Contents from few values, in pieces of chunk size: equal chunks and zero chunks are frequent.
fn contents() -> impl Strategy<Value = Vec<u8>> {
    let piece = (0_u8..4, prop_oneof![3 => Just(4096_usize), 1 => 0_usize..9000]);
    prop::collection::vec(piece, 0..6).prop_map(|pieces| {
        pieces.into_iter().flat_map(|(byte, len)| std::iter::repeat_n(byte, len)).collect()
    })
}

fn thing() -> impl Strategy<Value = Thing> {
    let special = prop::sample::select(vec![
        FileType::CharDevice,
        FileType::BlockDevice,
        FileType::Fifo,
        FileType::Socket,
    ]);
    prop_oneof![
        2 => Just(Thing::Dir),
        5 => contents().prop_map(Thing::File),
        1 => prop::collection::vec(1..=255_u8, 1..4095).prop_map(Thing::Link),
        1 => (special, 0..4096_u32, 0..1_u32 << 20).prop_map(|(kind, major, minor)| Thing::Special(kind, major, minor)),
    ]
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let owner = prop_oneof![3 => Just(0_u32), 1 => any::<u32>()];
    let mtime = prop_oneof![3 => Just((0_i64, 0_u32)), 1 => (any::<i64>(), 0..1_000_000_000_u32)];
    (0..0o10000_u16, owner.clone(), owner, mtime).prop_map(|(mode, uid, gid, (seconds, nanoseconds))| {
        Attributes { mode, uid, gid, mtime: Timestamp::new(seconds, nanoseconds) }
    })
}

fn xattrs() -> impl Strategy<Value = BTreeMap<String, Vec<u8>>> {
    let name = prop::sample::select(vec![
        "user.a",
        "user.b",
        "trusted.overlay.opaque",
        "security.capability",
        "system.posix_acl_access",
        "system.posix_acl_default",
    ]);
    let value =
        prop_oneof![Just(vec![]), Just(b"same".to_vec()), prop::collection::vec(any::<u8>(), 0..3000)];
    prop::collection::btree_map(name.prop_map(String::from), value, 0..4)
}

fn plant() -> impl Strategy<Value = Plant> {
    (prop::collection::vec(name(), 1..5), thing(), attributes(), xattrs())
        .prop_map(|(path, thing, attributes, xattrs)| Plant { path, thing, attributes, xattrs })
}

fn object(kind: FileType, attributes: &Attributes, data: Vec<u8>, rdev: Rdev) -> Object {
    let Attributes { mode, uid, gid, mtime } = *attributes;
    Object { kind, mode, uid, gid, nlink: 1, size: data.len() as u64, mtime, rdev, data, xattrs: vec![] }
}

/// Puts a plant into the tree and the model; both refuse the same ones.
fn add(tree: &mut Tree, model: &mut Listing, plant: &Plant) {
    let path = plant.path.join(&b'/');
    let parents = (1..plant.path.len()).map(|len| plant.path[..len].join(&b'/'));
    let parents: Vec<_> = parents.collect();
    let blocked =
        parents.iter().any(|parent| model.get(parent).is_some_and(|o| o.kind != FileType::Directory));
    let taken = model.get(&path).map(|object| object.kind);
    let attributes = &plant.attributes;
    let (result, new) = match &plant.thing {
        Thing::Dir => (
            tree.add_dir(&path, attributes),
            object(FileType::Directory, attributes, vec![], Rdev::default()),
        ),
        Thing::File(data) => (
            tree.add_file(&path, data.clone(), attributes),
            object(FileType::Regular, attributes, data.clone(), Rdev::default()),
        ),
        Thing::Link(target) => (
            tree.add_symlink(&path, target, attributes),
            object(FileType::Symlink, attributes, target.clone(), Rdev::default()),
        ),
        Thing::Special(kind, major, minor) => {
            let rdev = Rdev::new(*major, *minor).expect("within range");
            let shown = if kind.is_device() { rdev } else { Rdev::default() };
            (tree.add_special(&path, *kind, rdev, attributes), object(*kind, attributes, vec![], shown))
        }
    };
    let merges = taken == Some(FileType::Directory) && new.kind == FileType::Directory;
    assert_eq!(result.is_ok(), !blocked && (taken.is_none() || merges), "{result:?}");
    if result.is_err() {
        return;
    }
    for parent in parents {
        model
            .entry(parent)
            .or_insert_with(|| object(FileType::Directory, &Attributes::default(), vec![], Rdev::default()));
    }
    let xattrs: Vec<_> = plant
        .xattrs
        .iter()
        .map(|(name, value)| Xattr { name: name.as_bytes().to_vec(), value: value.clone() })
        .collect();
    tree.set_xattrs(&path, &xattrs).expect("storable");
    model.insert(path, Object { xattrs, ..new });
}

/// Sets the link counts of directories.
fn count_links(model: &mut Listing) {
    let dirs: Vec<Vec<u8>> = model
        .iter()
        .filter(|(_, object)| object.kind == FileType::Directory)
        .map(|(path, _)| path.clone())
        .collect();
    for dir in &dirs {
        let below = dirs.iter().filter(|other| {
            !other.is_empty()
                && other.iter().rposition(|&b| b == b'/').map_or(&[][..], |at| &other[..at]) == dir
        });
        model.get_mut(dir).expect("listed").nlink = 2 + below.count() as u64;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(
        plants in prop::collection::vec(plant(), 0..40),
        block_bits in 9_u8..=16,
        chunk_more in 0_u8..3,
        jobs in 1_usize..5,
    ) {
        let make = || {
            let mut tree = Tree::new();
            let root = object(FileType::Directory, &Attributes::default(), vec![], Rdev::default());
            let mut model = Listing::from([(vec![], root)]);
            for plant in &plants {
                add(&mut tree, &mut model, plant);
            }
            count_links(&mut model);
            (tree, model)
        };
        let (tree, model) = make();
        let with = |jobs| Options { block_bits, chunk_bits: block_bits + chunk_more, ..options(jobs) };
        let built = build(tree, &with(jobs)).expect("can be written");
        let image = Image::open(built.metadata.clone()).expect("opens");
        assert_same(&list_image(&image, &[&built.blob]).expect("readable"), &model);
        prop_assert_eq!(built.metadata.len() as u64, built.summary.metadata_bytes);
        prop_assert_eq!(built.blob.len() as u64, built.summary.blob_bytes);
        prop_assert!(build(make().0, &with(1)).expect("can be written") == built, "one thread, other bytes");
    }

    #[test]
    fn what_is_written_in_one_piece_is_read(
        plants in prop::collection::vec(plant(), 0..40),
        recipe in prop::sample::select(recipes::RECIPES.to_vec()).prop_filter("keeps times", |recipe| {
            !recipe.contains("compact") && !recipe.contains("-T") && !recipe.contains("level=19")
        }),
    ) {
        let mut tree = Tree::new();
        let root = object(FileType::Directory, &Attributes::default(), vec![], Rdev::default());
        let mut model = Listing::from([(vec![], root)]);
        for plant in &plants {
            add(&mut tree, &mut model, plant);
        }
        count_links(&mut model);
        let mut out = std::io::Cursor::new(Vec::new());
        let summary = write_image(tree, &recipes::parse(recipe), &mut out).expect("can be written");
        let bytes = out.into_inner();
        prop_assert_eq!(bytes.len() as u64, summary.bytes);
        let image = Image::open(bytes).expect("opens");
        assert_same(&list_image(&image, &[]).expect("readable"), &model);
    }
}
