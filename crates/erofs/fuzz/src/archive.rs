//! Tar archives made by hand.

/// A ustar header with its checksum.
pub fn header(name: &str, kind: u8, size: u64, link: &str) -> Vec<u8> {
    let mut header = vec![0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(157, link);
    put(257, "ustar\0");
    header[156] = kind;
    mend(&mut header);
    header
}

/// An entry of PAX records of kind `x` or `g`.
pub fn records(kind: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        // The length counts itself.
        let rest = key.len() + value.len() + 3;
        let len = (rest + 1..).find(|len| len.to_string().len() + rest == *len).expect("some length fits");
        body.extend(format!("{len} {key}={value}\n").bytes());
    }
    let mut entry = header("records", kind, body.len() as u64, "");
    entry.extend(body);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

/// A file of `size` bytes, of which the archive has one in block 1 of 4 KiB.
pub fn claims(name: &str, size: u64) -> Vec<u8> {
    let map = [("GNU.sparse.size", size.to_string()), ("GNU.sparse.map", "4096,512".to_owned())];
    let map = [(map[0].0, map[0].1.as_str()), (map[1].0, map[1].1.as_str())];
    [records(b'x', &map), header(name, b'0', 512, ""), vec![7; 512]].concat()
}

/// Makes the checksum right wherever a header may be.
pub fn mend(archive: &mut [u8]) {
    for header in archive.chunks_exact_mut(512).filter(|header| header[257..262] == *b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// Entries of most kinds: name, kind, target of a link, contents.
const ENTRIES: [(&str, u8, &str, &[u8]); 19] = [
    ("dir", b'5', "", b""),
    ("dir/file", b'0', "", b"contents"),
    ("dir/.wh.gone", b'0', "", b""),
    (".wh.dir", b'0', "", b""),
    ("x", b'x', "", b"39 SCHILY.xattr.user.overlay.whiteout=\n"),
    ("dir/hidden", b'0', "", b""),
    ("link", b'2', "dir/file", b""),
    ("twin", b'1', "dir/file", b""),
    ("fifo", b'6', "", b""),
    ("null", b'3', "", b""),
    ("x", b'L', "", b"a long name\0"),
    ("short", b'0', "", &[7; 700]),
    ("x", b'K', "", b"a long target\0"),
    ("other", b'2', "short", b""),
    ("x", b'g', "", b"14 uid=100000\n"),
    ("x", b'x', "", b"20 mtime=1700.00001\n27 SCHILY.xattr.user.a=value\n"),
    ("with records", b'0', "", b"1"),
    ("x", b'x', "", b"30 GNU.sparse.map=0,5,512,200\n23 GNU.sparse.size=900\n"),
    ("sparse by records", b'0', "", &[1; 205]),
];

/// An archive with an entry of every kind that is understood.
pub fn every_kind() -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, kind, link, contents) in ENTRIES {
        archive.extend(header(name, kind, contents.len() as u64, link));
        archive.extend(contents);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    let mut old = header("sparse of old", b'S', 512, "");
    for (at, number) in [(386, 0), (398, 512), (410, 1024), (422, 0), (483, 1024)] {
        old[at..at + 12].copy_from_slice(format!("{number:011o}\0").as_bytes());
    }
    archive.extend(old);
    archive.extend([2; 512]);
    archive.resize(archive.len() + 1024, 0);
    mend(&mut archive);
    archive
}
