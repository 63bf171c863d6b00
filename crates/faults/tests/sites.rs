//! Every site is one that some code stands at: a plan that draws another one would strike nowhere.

use std::fs;
use std::path::Path;

use larder_faults::Site;

/// The sources of all crates but this one, tests in files of their own apart.
fn sources(dir: &Path, found: &mut String) {
    for entry in fs::read_dir(dir).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            sources(&path, found);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            found.push_str(&fs::read_to_string(&path).expect("readable"));
        }
    }
}

#[test]
fn every_site_stands_in_the_code() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates/");
    let mut code = String::new();
    for entry in fs::read_dir(crates).expect("crates/") {
        let src = entry.expect("an entry").path().join("src");
        if src.is_dir() && !src.starts_with(env!("CARGO_MANIFEST_DIR")) {
            sources(&src, &mut code);
        }
    }
    let stands = |site: &Site| {
        let name = format!("Site::{site:?}");
        code.match_indices(&name)
            .any(|(at, _)| !code[at + name.len()..].starts_with(|next: char| next.is_ascii_alphanumeric()))
    };
    let nowhere: Vec<_> = Site::ALL.iter().filter(|site| !stands(site)).map(|site| site.name()).collect();
    assert_eq!(nowhere, Vec::<&str>::new(), "no code stands at these");
}
