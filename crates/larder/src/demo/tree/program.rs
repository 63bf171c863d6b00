//! [`Program`]: what runs out of the image, and what it cannot do without.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::closure::closure;
use super::source::Source;
use super::workload;

/// What runs out of the image. Its first byte of output marks that it is ready.
#[derive(Clone, Debug)]
pub struct Program {
    /// What it is called in the table.
    pub name: String,
    /// Its command line; the first word is its path in the image.
    pub argv: Vec<OsString>,
    /// Files on this host that it cannot do without.
    pub files: BTreeSet<PathBuf>,
    /// Directories on this host with what it loads.
    pub directories: BTreeSet<PathBuf>,
}

impl Program {
    /// Chooses the program: `command` when given, else the first of Python, Perl and git that the tree has.
    ///
    /// # Errors
    ///
    /// When the tree has none of them.
    pub fn choose(source: &Source, command: &[OsString]) -> anyhow::Result<Self> {
        if let Some((name, arguments)) = command.split_first() {
            let host = source.find(name).ok_or_else(|| source.no_program(&name.to_string_lossy()))?;
            return Ok(Self::new(source, &host, arguments, BTreeSet::new()));
        }
        let native = |name: &str| source.find(OsStr::new(name)).filter(|host| is_elf(host));
        if let Some(host) = native("python3") {
            return Ok(Self::python(source, &host));
        }
        if let Some(host) = native("perl") {
            let libraries =
                directories(source, &["lib/*/perl", "lib/*/perl-base", "share/perl", "lib/perl5"]);
            return Ok(Self::new(source, &host, &arguments(&["-e", workload::PERL]), libraries));
        }
        if let Some(host) = native("git") {
            let libraries = directories(source, &["share/git-core/templates"]);
            return Ok(Self::new(source, &host, &arguments(&["--version", "--build-options"]), libraries));
        }
        Err(source.no_program("python3, perl or git"))
    }

    /// The standard library lies in a directory of the interpreter's name, which has the version in it.
    fn python(source: &Source, host: &Path) -> Self {
        let library = host.file_name().map(|name| Path::new("lib").join(name));
        let prefix = host.parent().and_then(Path::parent);
        let libraries = prefix.zip(library).map(|(prefix, library)| prefix.join(library));
        let libraries = libraries.into_iter().filter(|path| path.is_dir()).collect();
        // Isolated: nothing of the user's environment or home directory is looked at.
        Self::new(source, host, &arguments(&["-I", "-c", workload::PYTHON]), libraries)
    }

    fn new(source: &Source, host: &Path, arguments: &[OsString], directories: BTreeSet<PathBuf>) -> Self {
        let path = source.in_image(host).unwrap_or_else(|| host.to_owned());
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let argv = std::iter::once(path.into_os_string()).chain(arguments.iter().cloned()).collect();
        let files = closure(source, host, &directories);
        Self { name, argv, files, directories }
    }

    /// Whether the program cannot do without the file at `host`.
    pub fn needs(&self, host: &Path) -> bool {
        self.files.contains(host)
            || host.ancestors().skip(1).any(|dir| self.directories.contains(dir)) && !is_extra(host)
    }
}

/// Whether a file in a library's directory is a test or somebody else's package.
fn is_extra(host: &Path) -> bool {
    host.components().any(|part| {
        matches!(part.as_os_str().to_str(), Some("test" | "tests" | "dist-packages" | "site-packages"))
    })
}

fn arguments(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// The directories of the tree that match; `*` stands for one name.
fn directories(source: &Source, patterns: &[&str]) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for prefix in ["usr", "usr/local", ""].iter().filter_map(|prefix| source.on_host(Path::new(prefix))) {
        for pattern in patterns {
            match pattern.split_once("/*/") {
                Some((before, after)) => {
                    found.extend(children(&prefix.join(before)).map(|child| child.join(after)))
                }
                None => drop(found.insert(prefix.join(pattern))),
            }
        }
    }
    found.retain(|path| path.is_dir());
    found
}

fn children(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"\x7fELF"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::tree::Source;

    #[test]
    fn a_command_is_taken_from_the_tree_and_may_be_given_by_name() {
        let source = Source::choose(None).expect("every host has /usr");
        let program =
            Program::choose(&source, &arguments(&["env", "--version"])).expect("env is in /usr/bin");
        assert_eq!(program.name, "env");
        assert_eq!(program.argv[0], "/usr/bin/env");
        assert_eq!(program.argv[1], "--version");
        let host = source.find(OsStr::new("env")).expect("it was found before");
        assert!(program.needs(&host));
        assert!(
            program.files.iter().any(|path| path.to_string_lossy().contains("libc.so")),
            "{:?}",
            program.files
        );
    }

    #[test]
    fn a_tree_without_a_program_says_what_to_do() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let source = Source::choose(Some(temp.path())).expect("it is a directory");
        let error = Program::choose(&source, &[]).expect_err("it has none");
        assert!(error.to_string().contains("python3, perl or git"), "{error}");
        Program::choose(&source, &arguments(&["sh"])).expect_err("it has no sh");
    }

    #[test]
    fn a_script_of_another_language_is_not_taken_for_the_interpreter() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(temp.path().join("usr/bin")).expect("directories can be made");
        let path = temp.path().join("usr/bin/python3");
        fs::write(&path, "#!/bin/sh\n").expect("a file can be written");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
        let source = Source::choose(Some(temp.path())).expect("it is a directory");
        Program::choose(&source, &[]).expect_err("a shell script is no interpreter");
    }
}
