//! Deduplication against other images.

use larder_erofs::writer::{Attributes, DataDevice, Dictionary, Options, Tree, write_data};
use larder_erofs::{DeviceTag, Error, Image};

use crate::support::{build, list_image, options, pattern};

#[test]
fn what_a_dictionary_has_is_referred_to_and_only_the_rest_is_stored() {
    let attributes = Attributes::default();
    let old_file = pattern(1, 200_000);
    let mut tree = Tree::new();
    tree.add_file(b"old", old_file.clone(), &attributes).expect("new");
    tree.add_file(b"hole", vec![0; 1 << 20], &attributes).expect("new");
    let old = build(tree, &options(1)).expect("can be written");
    let old_image = Image::open(old.metadata.clone()).expect("opens");
    let dictionary = || {
        Dictionary::from_image(&old_image, 16, &mut |_, pa, buf| {
            let start = usize::try_from(pa.get()).expect("small");
            buf.copy_from_slice(&old.blob[start..start + buf.len()]);
            Ok(())
        })
        .expect("readable")
    };
    assert_eq!(dictionary().len(), 4);

    let mut new_file = old_file.clone();
    new_file[70_000] ^= 1;
    let mut tree = Tree::new();
    tree.add_file(b"a-copy", old_file.clone(), &attributes).expect("new");
    tree.add_file(b"b-changed", new_file.clone(), &attributes).expect("new");
    let unused = Dictionary::new(old_image.superblock().block_size, dictionary().devices().to_vec());
    let options = Options { dictionaries: vec![unused, dictionary()], ..options(2) };
    let mut blob = Vec::new();
    let data = write_data(tree, &options, &mut blob).expect("can be written");
    assert_eq!(blob.len(), 65536, "one chunk differs");
    let expected = [
        DataDevice::Blob { bytes: 65536 },
        DataDevice::Dictionary { dictionary: 1, device: 0, slot: dictionary().devices()[0] },
    ];
    assert_eq!(data.devices(), expected);

    let tags = [DeviceTag::new(b"new").expect("short"), DeviceTag::new(b"old").expect("short")];
    let mut metadata = Vec::new();
    let wrong = data.write_metadata(&tags[..1], &mut metadata).expect_err("a tag is missing");
    assert!(matches!(wrong, Error::DeviceTags { found: 1, expected: 2 }));
    data.write_metadata(&tags, &mut metadata).expect("can be written");
    let image = Image::open(metadata).expect("opens");
    assert_eq!(image.devices()[1].tag.text(), b"old");
    assert_eq!(image.devices()[1].blocks * 4096, old.blob.len() as u64);
    let listing = list_image(&image, &[&blob, &old.blob]).expect("readable");
    assert!(listing[b"a-copy".as_slice()].data == old_file);
    assert!(listing[b"b-changed".as_slice()].data == new_file);
}

#[test]
fn an_image_that_dictionaries_cover_has_no_blob_of_its_own() {
    let mut tree = Tree::new();
    tree.add_file(b"file", pattern(1, 100), &Attributes::default()).expect("new");
    let old = build(tree, &options(1)).expect("can be written");
    let image = Image::open(old.metadata).expect("opens");
    let mut dictionary = Dictionary::from_image(&image, 16, &mut |_, _, buf| {
        buf.copy_from_slice(&old.blob[..buf.len()]);
        Ok(())
    })
    .expect("readable");
    assert!(!dictionary.insert(&[0; 32], larder_erofs::DeviceId::new(2), 0), "there is one device");

    let mut tree = Tree::new();
    tree.add_file(b"same", pattern(1, 100), &Attributes::default()).expect("new");
    let options = Options { dictionaries: vec![dictionary], ..options(1) };
    let built = build(tree, &options).expect("can be written");
    assert!(built.blob.is_empty());
    let image = Image::open(built.metadata).expect("opens");
    assert_eq!(image.devices().len(), 1);
    let listing = list_image(&image, &[&old.blob]).expect("readable");
    assert!(listing[b"same".as_slice()].data == pattern(1, 100));
}
