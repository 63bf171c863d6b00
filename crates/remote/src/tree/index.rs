//! HTML indexes of directories, as nginx, Apache, Python and others write them.
//!
//! An index is whatever a server makes of a directory; only its links are read. A link counts when it leads to a
//! direct child of the directory; everything else on the page is ignored: parents, sorting, other hosts, decoration.

use std::collections::BTreeMap;

use reqwest::Url;

use super::path::is_name;
use super::{Listed, TreeEntry};

/// Reads the links of `page`, the index of `base`, which ends with `/`. At most `max` entries, else `None`.
pub(crate) fn parse(page: &str, base: &Url, max: usize) -> Option<Vec<TreeEntry>> {
    let mut entries: BTreeMap<String, Listed> = BTreeMap::new();
    for href in Hrefs(page) {
        let Some((name, node)) = child(&unescape(href), base) else { continue };
        if entries.len() >= max && !entries.contains_key(&name) {
            return None;
        }
        let known = entries.entry(name).or_insert_with(|| node.clone());
        // The same name with and without a slash: what has a slash once is a directory.
        if node == Listed::Directory {
            *known = node;
        }
    }
    Some(entries.into_iter().map(|(name, node)| TreeEntry { name, node }).collect())
}

/// The direct child of `base` that a link leads to.
fn child(href: &str, base: &Url) -> Option<(String, Listed)> {
    let url = base.join(href.trim()).ok()?;
    let same_place = url.origin() == base.origin() && url.query().is_none();
    let rest = url.path().strip_prefix(base.path()).filter(|_| same_place)?;
    let (name, node) = match rest.strip_suffix('/') {
        Some(name) => (name, Listed::Directory),
        None => (rest, Listed::File),
    };
    if name.contains('/') {
        return None;
    }
    let name = percent_decode(name)?;
    is_name(&name).then_some((name, node))
}

/// Undoes percent escapes; `None` when what comes out is not UTF-8, or an escape is broken.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let digits =
                after.first_chunk::<2>().filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// The longest character reference that is looked for, with `&` and `;`.
const REFERENCE_BYTES_MAX: usize = 12;

/// Undoes the character references that may stand in an attribute; unknown ones stay as they are.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(REFERENCE_BYTES_MAX).position(|byte| byte == b';');
        match end.and_then(|end| Some((end, character(&rest[1..end])?))) {
            Some((end, character)) => {
                plain.push(character);
                rest = &rest[end + 1..];
            }
            None => {
                plain.push('&');
                rest = &rest[1..];
            }
        }
    }
    plain.push_str(rest);
    plain
}

fn character(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

/// The values of the `href` attributes of a page's `a` tags.
struct Hrefs<'a>(&'a str);

impl<'a> Iterator for Hrefs<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            let at = self.0.find('<')?;
            let inside = &self.0[at + 1..];
            let end = tag_end(inside);
            let (tag, rest) = (&inside[..end], &inside[end..]);
            self.0 = rest;
            let mut letters = tag.bytes();
            let is_link = letters.next().is_some_and(|letter| letter.eq_ignore_ascii_case(&b'a'))
                && letters.next().is_some_and(|letter| letter.is_ascii_whitespace());
            if is_link && let Some(value) = attribute(&tag[1..], "href") {
                return Some(value);
            }
        }
    }
}

/// Where a tag ends: at the first `>` outside quotes, or with the page.
fn tag_end(inside: &str) -> usize {
    let mut quote = None;
    for (at, byte) in inside.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return at,
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            _ => {}
        }
    }
    inside.len()
}

/// The value of an attribute of a tag.
fn attribute<'a>(tag: &'a str, wanted: &str) -> Option<&'a str> {
    let mut rest = tag.trim_start();
    while !rest.is_empty() {
        let name_end = rest.find(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or(rest.len());
        let name = &rest[..name_end];
        rest = rest[name_end..].trim_start();
        let Some(after) = rest.strip_prefix('=') else {
            continue;
        };
        let after = after.trim_start();
        let (value, left) = match after.chars().next() {
            Some(quote @ ('"' | '\'')) => after[1..].split_once(quote)?,
            _ => after.split_at(after.find(|c: char| c.is_ascii_whitespace()).unwrap_or(after.len())),
        };
        if name.eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = left.trim_start();
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn base() -> Url {
        "http://h.example/data/set%201/".parse().expect("a URL")
    }

    fn read(page: &str) -> Vec<(String, bool)> {
        let entries = parse(page, &base(), 100).expect("few");
        entries.into_iter().map(|entry| (entry.name, entry.node == Listed::Directory)).collect()
    }

    #[test]
    fn indexes_of_known_servers_are_read() {
        let nginx = "<html><head><title>Index of /data/set 1/</title></head><body>\n<h1>Index of</h1><hr><pre>\
            <a href=\"../\">../</a>\n<a href=\"a%20b.bin\">a b.bin</a>   06-Nov-1994 08:49   12\n\
            <a href=\"sub/\">sub/</a>   06-Nov-1994 08:49    -\n</pre></body></html>";
        assert_eq!(read(nginx), [("a b.bin".to_owned(), false), ("sub".to_owned(), true)]);
        let apache = "<table><tr><th><a href=\"?C=N;O=D\">Name</a></th></tr><tr><td><img src=\"/icons/back.gif\">\
            </td><td><a href=\"/data/\">Parent Directory</a></td></tr><tr><td><a href=\"x&amp;y.txt\">x&amp;y\
            </a></td></tr></table>";
        assert_eq!(read(apache), [("x&y.txt".to_owned(), false)]);
        let python =
            "<ul>\n<li><a href=\"%C3%A9t%C3%A9.txt\">été.txt</a></li>\n<li><a href='s/'>s/</a></li></ul>";
        assert_eq!(read(python), [("s".to_owned(), true), ("été.txt".to_owned(), false)]);
        assert_eq!(read("<A class=x HREF=plain.txt>"), [("plain.txt".to_owned(), false)]);
        assert_eq!(read("<a href='/data/set%201/abs'>"), [("abs".to_owned(), false)]);
    }

    #[test]
    fn links_that_lead_elsewhere_are_no_entries() {
        for href in [
            "..",
            "../",
            ".",
            "./",
            "/",
            "/data/",
            "/etc/passwd",
            "http://other.example/data/set%201/x",
            "https://h.example/data/set%201/x",
            "a/b",
            "a/b/",
            "%2e%2e",
            "%2E%2E/",
            "%2e%2e%2fx",
            "a%2Fb",
            "a%00b",
            "x?C=N",
            "#here",
            "",
            "javascript:alert(1)",
            "mailto:x@h.example",
            "%ff",
            "%zz",
            "a%2",
            "//other/x",
            "..%2f..%2fetc",
            "\\..\\x/y",
        ] {
            assert_eq!(read(&format!("<a href=\"{href}\">x</a>")), [], "{href:?}");
        }
        assert_eq!(read(&format!("<a href=\"{}\">x</a>", "n".repeat(256))), []);
        assert_eq!(read("<abbr href=\"x\"><link href=\"y\"><!-- a --><a>"), []);
    }

    #[test]
    fn what_is_no_reference_stays_however_much_of_it_there_is() {
        let much = "&éééééééé".repeat(200_000);
        assert_eq!(unescape(&much), much);
        assert_eq!(unescape("&éééé;&amp;&#233;&#x10ffff;&#x110000;&"), "&éééé;&é\u{10ffff}&#x110000;&");
    }

    #[test]
    fn more_entries_than_allowed_are_refused() {
        let page: String = (0..11).map(|n| format!("<a href=\"{n}\">")).collect();
        assert!(parse(&page, &base(), 10).is_none());
        assert_eq!(parse(&page, &base(), 11).map(|entries| entries.len()), Some(11));
    }

    proptest! {
        #[test]
        fn no_page_makes_a_name_that_is_not_sound(page in "(<a href=[\"']?|[a-z./%&#;2eEfF<>\"' =?]){0,80}") {
            for entry in parse(&page, &base(), 100).unwrap_or_default() {
                prop_assert!(is_name(&entry.name), "{:?}", entry.name);
            }
        }

        #[test]
        fn what_a_server_writes_for_a_name_is_read_back(name in "[^/\0]{1,60}") {
            prop_assume!(is_name(&name));
            let escaped: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(read(&format!("<a href=\"{escaped}/\">")), [(name, true)]);
        }
    }
}
