//! `larder erofs merge`, and `mkfs.erofs` with images as its sources: many layers become one image.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::compare::assert_same;
use crate::support::files::{ImageFile, KernelMount};
use crate::support::program::{User, binary, command, run};
use crate::support::{Larder, skip, tree};

/// Three layers in three layouts, and what they show together.
struct Stack {
    layers: Vec<PathBuf>,
    expected: PathBuf,
}

impl Stack {
    fn new(larder: &Larder) -> Self {
        let (base, middle, top) = (larder.dir("base"), larder.dir("middle"), larder.dir("top"));
        tree::plain(&base);
        for (path, text) in [(middle.join("etc"), "x"), (top.join("new/dir"), "y"), (top.join("etc"), "z")] {
            fs::create_dir_all(&path).expect("a directory");
            fs::write(path.join("added"), text.repeat(10_000)).expect("a file");
        }
        // Hides what the base has, and what the layer itself adds stays.
        fs::write(middle.join("etc/.wh.motd"), "").expect("a mark");
        fs::write(top.join("etc/.wh..wh..opq"), "").expect("a mark");
        let options: [&[&str]; 3] =
            [&["-zlz4", "-Eztailpacking"], &[], &["-zzstd", "-C65536", "-Efragments"]];
        let sources = [&base, &middle, &top];
        let write = |(number, (source, options)): (usize, (&&PathBuf, &&[&str]))| {
            let image = larder.path(&format!("{number}.erofs"));
            let mut command = command(User::Same, binary());
            run_ok(command.args(["mkfs.erofs", "--quiet"]).args(*options).arg(&image).arg(source));
            image
        };
        let layers = sources.iter().zip(&options).enumerate().map(write).collect();

        let expected = larder.path("expected");
        run_ok(Command::new("cp").arg("-a").args([&base, &expected]));
        fs::remove_dir_all(expected.join("etc")).expect("ours");
        for name in ["etc", "new"] {
            run_ok(Command::new("cp").arg("-a").args([&top.join(name), &expected.join(name)]));
        }
        fs::remove_file(expected.join("etc/.wh..wh..opq")).expect("ours");
        // Directories have the times and modes of the uppermost layer.
        run_ok(Command::new("touch").arg("-r").arg(&top).arg(&expected));
        run_ok(Command::new("touch").arg("-r").arg(top.join("etc")).arg(expected.join("etc")));
        Self { layers, expected }
    }
}

#[track_caller]
fn run_ok(command: &mut Command) {
    let output = command.output().expect("it can be started");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn words(words: &[&str], paths: &[&Path]) -> Vec<OsString> {
    words.iter().map(OsString::from).chain(paths.iter().map(|path| path.into())).collect()
}

#[test]
fn layers_of_any_layout_become_one_image_that_the_kernel_shows() {
    let test = "layers_of_any_layout_become_one_image_that_the_kernel_shows";
    let larder = Larder::new(User::Same);
    let stack = Stack::new(&larder);
    let layers: Vec<&Path> = stack.layers.iter().map(PathBuf::as_path).collect();
    let merged = larder.path("merged.erofs");
    let arguments = |more: &[&str]| {
        [words(&["erofs", "merge"], &[]), words(more, &[&merged]), words(&[], &layers)].concat()
    };
    let told = larder.run(arguments(&["--json"])).json();
    let devices = told["devices"].as_array().expect("a list");
    let devices: Vec<PathBuf> = devices.iter().map(|path| path.as_str().expect("text").into()).collect();
    let [base, _, top] = &stack.layers[..] else { panic!("three layers") };
    assert_eq!(devices, [base.clone(), top.clone()], "nothing is seen of the file of the middle one");
    assert_eq!(told["copied_bytes"], 0, "every layout can be pointed at");
    // Inodes, indexes and the ends of files that stand behind them.
    let (size, file_bytes) = (fs::metadata(&merged).expect("written").len(), told["file_bytes"].as_u64());
    assert!(file_bytes.is_some_and(|bytes| size * 10 < bytes), "{size} bytes of metadata for {file_bytes:?}");

    let kernel = larder.dir("kernel");
    match KernelMount::new(&merged, &devices, &kernel) {
        Ok(_mounted) => assert!(assert_same(&stack.expected, &kernel) > 20),
        Err(why) => skip(test, &why),
    }
    let out = larder.path("out");
    let extract = devices.iter().map(|device| format!("--device={}", device.display()).into());
    let extract =
        [words(&["erofs", "extract"], &[]), extract.collect(), words(&[], &[&merged, &out])].concat();
    larder.run(extract).ok();
    assert!(assert_same(&stack.expected, &out) > 20);

    let again = larder.run(arguments(&[])).failed();
    assert!(again.contains("exists") && again.contains("hint: name a new file"), "{again}");
    fs::remove_file(&merged).expect("ours");
    larder.run(arguments(&["--copy", "--compress", "lz4hc,level=9", "--pcluster-size", "16K"])).ok();
    match KernelMount::new(&merged, &[], &kernel) {
        Ok(_mounted) => assert!(assert_same(&stack.expected, &kernel) > 20),
        Err(why) => skip(test, &why),
    }
    // An image that nothing can be made of leaves nothing behind.
    fs::remove_file(&merged).expect("ours");
    fs::write(larder.path("1.erofs"), [0; 8192]).expect("writable");
    let refused = larder.run(arguments(&[])).failed();
    assert!(refused.contains("1.erofs") && !merged.exists(), "{refused}");
}

#[test]
fn a_layer_may_have_devices_of_its_own() {
    let larder = Larder::new(User::Same);
    let (source, above) = (larder.dir("source"), larder.dir("above"));
    tree::plain(&source);
    fs::create_dir(above.join("etc")).expect("a directory");
    let native = ImageFile::build(&larder, &source, "native");
    let upper = ImageFile::build(&larder, &above, "upper");
    let merged = larder.path("merged.erofs");
    let mut layer = native.image.clone().into_os_string();
    for device in &native.devices {
        layer.push(",");
        layer.push(device);
    }
    let arguments = words(&["erofs", "merge", "--json"], &[&merged]);
    let told = larder.run([arguments, vec![layer], words(&[], &[&upper.image])].concat()).json();
    // Nothing but the data is needed: names and tails are in the result.
    let devices = told["devices"].as_array().expect("a list");
    assert_eq!(devices.len(), native.devices.len(), "{devices:?}");
    let cat = [
        words(&["erofs", "cat"], &[]),
        native.devices.iter().map(|device| format!("--device={}", device.display()).into()).collect(),
        words(&[], &[&merged, Path::new("/etc/motd")]),
    ];
    assert_eq!(larder.run(cat.concat()).ok().stdout, fs::read(source.join("etc/motd")).expect("the source"));
}

/// How containerd's EROFS snapshotter merges the layers of an image.
#[test]
fn the_command_line_of_containerd_merges_layers_of_any_layout() {
    let test = "the_command_line_of_containerd_merges_layers_of_any_layout";
    let larder = Larder::new(User::Same);
    let stack = Stack::new(&larder);
    let layers: Vec<&Path> = stack.layers.iter().map(PathBuf::as_path).collect();
    let (merged, kernel) = (larder.path("merged.fsmeta"), larder.dir("kernel"));
    let call = |options: &[&str]| {
        let mut command = command(User::Same, binary());
        command.arg("mkfs.erofs").args(options).arg(&merged).args(&layers);
        run(command)
    };
    assert_eq!(call(&["--aufs", "--ovlfs-strip=1", "--quiet"]).ok().stdout, b"");
    // It passes every layer as a device.
    match KernelMount::new(&merged, &stack.layers, &kernel) {
        Ok(_mounted) => assert!(assert_same(&stack.expected, &kernel) > 20),
        Err(why) => skip(test, &why),
    }
    call(&["--aufs", "--ovlfs-strip=1", "--quiet", "--clean=data", "-zlz4"]).ok();
    match KernelMount::new(&merged, &[], &kernel) {
        Ok(_mounted) => assert!(assert_same(&stack.expected, &kernel) > 20),
        Err(why) => skip(test, &why),
    }
    let refused = call(&["--quiet", "-zlz4"]);
    assert!(refused.code == 1 && refused.stderr.contains("-z without --clean=data"), "{}", refused.stderr);
}
