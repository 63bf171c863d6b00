//! Show 5: a registry that flips one bit. The reader gets an error, the cache keeps nothing of it, and the same read
//! succeeds once the registry is honest.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use larder_testkit::Fault;

use crate::support::program::User;
use crate::support::{Image, Larder, skip, tree};

const PIECE: usize = 64 << 10;

fn p1_a_flipped_bit_is_an_error_until_the_registry_is_honest_through(frontend: &str) {
    let larder = Larder::new(User::Same);
    if let Some(why) = larder.cannot(frontend) {
        return skip(
            &format!("p1_a_flipped_bit_is_an_error_until_the_registry_is_honest_through_{frontend}"),
            &why,
        );
    }
    let source = larder.dir("source");
    let content = tree::noise(6, 8 << 20);
    std::fs::write(source.join("big"), &content).expect("a file");
    let image = Image::build(&larder, &source, "layout");
    let target = larder.mount(&image.reference(), "mnt", frontend);
    let blob = image.devices().remove(0);
    let len = std::fs::metadata(image.blob(&blob)).expect("it is there").len();
    // Noise does not compress: places in the blob are places in the file, within a chunk or so.
    let place = 4 << 20;
    assert!(place < len);
    for offset in [place, place + 1, place + 65_536, place + 400_000] {
        image.registry.fail(Fault::FlipBit { blob: blob.clone(), offset });
    }
    let file = target.join("big");
    let error = read(&file, place).expect_err("the bytes are not the image's");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{error}");
    let mount = larder.mount_status(&target);
    assert!(mount["last_error"].as_str().is_some_and(|text| text.contains("chunk")), "{mount:#}");
    // What is untouched can be read, and stays so.
    assert!(read(&file, 1 << 20).expect("an honest chunk") == content[1 << 20..(1 << 20) + PIECE]);
    read(&file, place).expect_err("still not the image's");
    image.registry.clear_faults();
    let found = read(&file, place).expect("the registry is honest again");
    let at = usize::try_from(place).expect("small");
    assert!(found == content[at..at + PIECE], "other bytes than the image's");
    assert!(std::fs::read(&file).expect("the registry is honest again") == content);
}

fn read(path: &Path, at: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; PIECE];
    File::open(path)?.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

#[test]
fn p1_a_flipped_bit_is_an_error_until_the_registry_is_honest_through_fanotify() {
    p1_a_flipped_bit_is_an_error_until_the_registry_is_honest_through("fanotify");
}

#[test]
fn p1_a_flipped_bit_is_an_error_until_the_registry_is_honest_through_fuse_blob() {
    p1_a_flipped_bit_is_an_error_until_the_registry_is_honest_through("fuse-blob");
}

#[test]
fn p1_a_flipped_bit_is_an_error_until_the_registry_is_honest_through_cachefiles() {
    p1_a_flipped_bit_is_an_error_until_the_registry_is_honest_through("cachefiles");
}

#[test]
fn p1_a_flipped_bit_is_an_error_until_the_registry_is_honest_through_fuse() {
    p1_a_flipped_bit_is_an_error_until_the_registry_is_honest_through("fuse");
}
