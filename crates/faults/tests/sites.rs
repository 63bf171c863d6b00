//! Every site is one that some code stands at: a plan that draws another one would strike nowhere.

use std::fs;
use std::path::Path;

use larder_faults::Site;

/// Adds the code of a file: without comments, and without its tests, which come last.
fn code_of(source: &str, found: &mut String) {
    let lines = source.lines().take_while(|line| !line.starts_with("mod tests {"));
    for line in lines.filter(|line| !line.trim_start().starts_with("//")) {
        found.push_str(line);
        found.push('\n');
    }
}

/// The modules of a file that are built for tests only.
fn test_modules(source: &str) -> impl Iterator<Item = &str> {
    source.lines().zip(source.lines().skip(1)).filter(|(before, _)| *before == "#[cfg(test)]").filter_map(
        |(_, line)| {
            let (_, name) = line.strip_suffix(';')?.rsplit_once("mod ")?;
            Some(name)
        },
    )
}

/// The code in file `path` and in the modules that have files of their own below it, those for tests apart.
fn module(path: &Path, found: &mut String) {
    let source = fs::read_to_string(path).expect("readable");
    code_of(&source, found);
    let is_root = ["lib.rs", "main.rs", "mod.rs"].iter().any(|name| path.ends_with(name));
    let below =
        if is_root { path.parent().expect("a directory").to_owned() } else { path.with_extension("") };
    let tests: Vec<&str> = test_modules(&source).collect();
    for line in source.lines() {
        let Some((_, name)) = line.strip_suffix(';').and_then(|line| line.rsplit_once("mod ")) else {
            continue;
        };
        let files = [below.join(format!("{name}.rs")), below.join(name).join("mod.rs")];
        if !tests.contains(&name)
            && let Some(file) = files.iter().find(|file| file.is_file())
        {
            module(file, found);
        }
    }
}

#[test]
fn every_site_stands_in_the_code() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates/");
    let mut code = String::new();
    for entry in fs::read_dir(crates).expect("crates/") {
        let src = entry.expect("an entry").path().join("src");
        if src.starts_with(env!("CARGO_MANIFEST_DIR")) {
            continue;
        }
        for root in ["lib.rs", "main.rs"].map(|name| src.join(name)).iter().filter(|root| root.is_file()) {
            module(root, &mut code);
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

#[test]
fn comments_and_tests_are_no_code() {
    let mut code = String::new();
    code_of("a\n    // Site::A\n/// Site::B\nb\n#[cfg(test)]\nmod tests {\n    Site::C\n}\n", &mut code);
    assert_eq!(code, "a\nb\n#[cfg(test)]\n");
    let modules = "mod code;\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\npub(crate) mod sim;\nmod more;\n";
    assert_eq!(test_modules(modules).collect::<Vec<_>>(), ["tests", "sim"]);
}
