//! The table of trace points: their names, what they say, and how ftrace would print them.
//!
//! Names, fields and print forms follow include/trace/events/{cachefiles,netfs,fscache}.h (v6.12). An event of a
//! library whose message stands here reaches `larder trace`, with all its fields; any other is a log line and
//! nothing else. `docs/tracing.md` shows the same table, and a test compares the two.

/// A trace point.
#[derive(Debug)]
pub struct Event {
    /// Its name, which is the message of the `tracing` event.
    pub name: &'static str,
    /// How its fields are printed: words with one `{field}` or `{field:x}` each (`08x` and `02x` as in printf).
    ///
    /// A word whose field is missing is left out; fields that are not named here follow as `name=value`.
    pub print: &'static str,
    /// What it tells.
    pub says: &'static str,
}

/// The trace point called `name`.
pub fn known(name: &str) -> Option<&'static Event> {
    let at = EVENTS.binary_search_by(|event| event.name.cmp(name)).ok()?;
    EVENTS.get(at)
}

/// Those that `pattern` names: a name, or the beginning of some and a `*`.
pub fn matching(pattern: &str) -> impl Iterator<Item = &'static Event> + '_ {
    EVENTS.iter().filter(move |event| match pattern.strip_suffix('*') {
        Some(beginning) => event.name.starts_with(beginning),
        None => event.name == pattern,
    })
}

macro_rules! events {
    ($($name:literal, $print:literal, $says:literal;)*) => {
        &[$(Event { name: $name, print: $print, says: $says }),*]
    };
}

/// Every trace point, in the order of their names.
pub const EVENTS: &[Event] = events![
    "cachefiles_coherency", "o={object:08x} {why} {content} B={ino:x}", "Kept coherency data of an object was compared with what it must be.";
    "cachefiles_commit", "o={object:08x} p={present:x}", "What is present was made durable.";
    "cachefiles_cull", "o={object:08x} l={len:x} {why}", "An idle object, or a range of one, was given up for its space.";
    "cachefiles_io_error", "o={object:08x} B={backer:x} {what} e={error}", "A call on the backing file failed.";
    "cachefiles_link", "o={object:08x} B={backer:x}", "A new backing file got its name.";
    "cachefiles_lookup", "o={object:08x} dB={dino:x} B={ino:x} e={error}", "An object was looked for on the disk.";
    "cachefiles_mark_active", "o={object:08x} B={inode:x}", "A backing file is in use.";
    "cachefiles_mark_inactive", "o={object:08x} B={inode:x}", "A backing file is no longer in use.";
    "cachefiles_ondemand_close", "o={object:08x} m={msg_id:x} oid={object_id:x}", "Nobody needs the object any more.";
    "cachefiles_ondemand_copen", "o={object:08x} m={msg_id:x} l={len:x}", "An open was answered: the object has this size.";
    "cachefiles_ondemand_cread", "o={object:08x} m={msg_id:x}", "A read was answered: its bytes are present.";
    "cachefiles_ondemand_fd_release", "o={object:08x} oid={object_id:x}", "The fill engine let the object go.";
    "cachefiles_ondemand_fd_write", "o={object:08x} B={backer:x} s={start:x} l={len:x}", "Verified bytes are written to the backing file.";
    "cachefiles_ondemand_open", "o={object:08x} m={msg_id:x} oid={object_id:x} f={flags:x}", "An object is wanted that the fill engine did not know.";
    "cachefiles_ondemand_read", "o={object:08x} m={msg_id:x} oid={object_id:x} {source} {why} f={flags:02x} s={start:x} l={len:x}", "A hole is asked for: somebody waits for these bytes.";
    "cachefiles_prep_read", "o={object:08x} {source} {why} f={flags:02x} s={start:x} {len:x} ni={netfs_inode:x} B={cache_inode:x}", "A decision: where the bytes come from, and why.";
    "cachefiles_read", "o={object:08x} B={backer:x} s={start:x} l={len:x}", "Bytes are read from the backing file.";
    "cachefiles_rename", "o={object:08x} B={ino:x} {why}", "A backing file was moved out of the way.";
    "cachefiles_seal", "o={object:08x} l={len:x}", "An object is complete and read-only.";
    "cachefiles_tmpfile", "o={object:08x} B={backer:x}", "A new backing file was made, without a name yet.";
    "cachefiles_trunc", "o={object:08x} B={backer:x} {why} l={from:x}->{to:x}", "A backing file changed its size.";
    "cachefiles_unlink", "o={object:08x} B={ino:x} {why}", "A backing file was removed.";
    "cachefiles_vfs_error", "o={object:08x} B={backer:x} {what} e={error}", "A call on names of the cache failed.";
    "cachefiles_vol_coherency", "V={volume} {why} B={ino:x}", "Kept coherency data of a volume was compared with what it must be.";
    "cachefiles_write", "o={object:08x} B={backer:x} s={start:x} l={len:x}", "Bytes are written to the backing file.";
    "fscache_acquire", "c={object:08x} V={volume} s={size:x} r={ref}", "A cookie was acquired.";
    "fscache_acquire_volume", "V={volume}", "A volume was acquired.";
    "fscache_invalidate", "c={object:08x} s={size:x}", "A cookie's data is void: other content has the name now.";
    "fscache_lookup", "c={object:08x} s={size:x} p={present:x}", "A cookie's object was looked up at its first use.";
    "fscache_lru", "c={object:08x}", "A cookie that nobody used for a while was closed.";
    "fscache_relinquish", "c={object:08x} r={retire}", "A cookie was given back.";
    "fscache_resize", "c={object:08x} os={old:x} sz={size:x}", "A cookie's size changed.";
    "fscache_withdraw", "c={object:08x}", "A cookie's object was withdrawn while in use.";
    "netfs_failure", "R={rreq:08x}[{index}] {source} f={flags:02x} s={start:x} {len:x} {what} e={error}", "A subrequest failed.";
    "netfs_read", "R={rreq:08x} {what} ni={netfs_inode:x} s={start:x} l={len:x} sz={i_size:x}", "A read request of a network file system begins.";
    "netfs_rreq", "R={rreq:08x} {what} f={flags:02x}", "A step of a read request.";
    "netfs_sreq", "R={rreq:08x}[{index}] {what} {source} f={flags:02x} s={start:x} {transferred:x}/{len:x} e={error}", "A step of a subrequest.";
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_unique_and_of_a_known_system() {
        assert!(EVENTS.is_sorted_by(|a, b| a.name < b.name));
        for event in EVENTS {
            let system = event.name.split('_').next().expect("a first word");
            assert!(["cachefiles", "fscache", "netfs"].contains(&system), "{}", event.name);
        }
    }

    #[test]
    fn a_name_and_a_beginning_find_what_they_name() {
        assert_eq!(known("netfs_rreq").map(|event| event.name), Some("netfs_rreq"));
        assert!(known("netfs_").is_none() && known("").is_none());
        assert_eq!(matching("netfs_*").count(), 4);
        assert_eq!(matching("*").count(), EVENTS.len());
        assert_eq!(matching("netfs").count(), 0);
    }

    /// An event is known by its whole message, so the name stands somewhere as one.
    #[test]
    fn p7_every_trace_point_is_emitted_by_some_library() {
        let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let (mut folders, mut sources) = (vec![crates], String::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("our own sources") {
                let path = entry.expect("our own sources").path();
                let is_ours =
                    !path.ends_with("larder") && !path.ends_with("tests") && !path.ends_with("target");
                if path.is_dir() && is_ours {
                    folders.push(path);
                } else if path.extension().is_some_and(|ext| ext == "rs") {
                    sources += &std::fs::read_to_string(path).expect("our own sources");
                }
            }
        }
        let silent = EVENTS.iter().filter(|event| !sources.contains(&format!("\"{}\"", event.name)));
        assert_eq!(silent.map(|event| event.name).collect::<Vec<_>>(), Vec::<&str>::new());
    }

    /// `LARDER_BLESS=1` writes the table of the document anew.
    #[test]
    fn the_document_has_this_table() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/tracing.md");
        let document = std::fs::read_to_string(&path).expect("the document is there");
        let (head, rest) = document.split_once("<!-- events -->\n").expect("the table has a beginning");
        let (table, tail) = rest.split_once("<!-- end of events -->").expect("the table has an end");
        let mut now = "| event | printed | what it tells |\n| --- | --- | --- |\n".to_owned();
        for event in EVENTS {
            now += &format!("| `{}` | `{}` | {} |\n", event.name, event.print, event.says);
        }
        if std::env::var_os("LARDER_BLESS").is_some() {
            let anew = format!("{head}<!-- events -->\n{now}<!-- end of events -->{tail}");
            std::fs::write(&path, anew).expect("our own file");
        } else {
            assert_eq!(table, now, "run with LARDER_BLESS=1");
        }
    }
}
