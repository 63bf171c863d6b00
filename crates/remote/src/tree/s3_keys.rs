//! Keys of a bucket that no path can have: hidden in a listing before it is read.
//!
//! The `object_store` crate reads a page of a listing whole or not at all: one key with `//`, `.`, `..` or a control character
//! in it would make its directory one that cannot be listed.

use bytes::Bytes;
use object_store::path::Path;
use quick_xml::Reader;
use quick_xml::escape::{escape, unescape};
use quick_xml::events::Event;

/// Gives every key of `page` that no path can have the name of the directory that is listed, `prefix`: no listing shows that
/// one, and yet the directory is seen to have something in it. Says how many they were.
///
/// What is no listing is left as it is: whoever reads it next says what is wrong with it.
pub(super) fn hide(page: Bytes, prefix: &str) -> (Bytes, usize) {
    let mut reader = Reader::from_reader(&page[..]);
    let (mut plain, mut copied, mut hidden) = (Vec::new(), 0, 0);
    let (mut is_inside, mut begins) = (false, None);
    let place = |reader: &Reader<&[u8]>| usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
    loop {
        let before = place(&reader);
        match reader.read_event() {
            Ok(Event::Start(tag)) => match tag.local_name().as_ref() {
                b"Contents" | b"CommonPrefixes" => is_inside = true,
                b"Key" | b"Prefix" if is_inside => begins = Some(place(&reader)),
                _ => {}
            },
            Ok(Event::End(tag)) => match tag.local_name().as_ref() {
                b"Contents" | b"CommonPrefixes" => is_inside = false,
                b"Key" | b"Prefix" => {
                    let Some(begin) = begins.take() else { continue };
                    if !is_shown(&page[begin..before]) {
                        plain.extend_from_slice(&page[copied..begin]);
                        plain.extend_from_slice(escape(prefix).as_bytes());
                        (copied, hidden) = (before, hidden + 1);
                    }
                }
                _ => {}
            },
            Ok(Event::Eof) | Err(_) => break,
            Ok(_) => {}
        }
    }
    if hidden == 0 {
        return (page, 0);
    }
    plain.extend_from_slice(&page[copied..]);
    (plain.into(), hidden)
}

/// Whether a key, as it is written in XML, is the one that its path is asked for by.
fn is_shown(written: &[u8]) -> bool {
    let Some(key) = std::str::from_utf8(written).ok().and_then(|text| unescape(text).ok()) else {
        return false;
    };
    of_path(key.strip_suffix('/').unwrap_or(&key)).is_some()
}

/// The key of a path; the empty one for the root of a bucket, `None` for a path that no key can have.
pub(super) fn of_path(path: &str) -> Option<Path> {
    Path::parse(path).ok().filter(|key| key.as_ref() == path)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn page(keys: &[&str]) -> String {
        let contents = keys.iter().map(|key| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>"));
        let all: String = contents.collect();
        format!(
            "<?xml version=\"1.0\"?><L><Prefix>d//</Prefix>{all}<CommonPrefixes><Prefix>d/s/</Prefix></CommonPrefixes></L>"
        )
    }

    #[test]
    fn a_key_that_no_path_can_have_is_hidden_and_the_others_stay() {
        let sound = ["d/a", "d/", "d/&amp;&#233;", "d/b c"];
        let (same, hidden) = hide(page(&sound).into(), "d/");
        assert_eq!((same, hidden), (page(&sound).into(), 0));
        for odd in ["d//x", "d/./x", "d/..", "d/&#10;", "d/&#x1;x", "d/&unknown;", "/x", "//"] {
            let (plain, hidden) = hide(page(&["d/a", odd, "d/z"]).into(), "d&/");
            assert_eq!(hidden, 1, "{odd}");
            assert_eq!(plain, page(&["d/a", "d&amp;/", "d/z"]), "{odd}");
        }
    }

    proptest! {
        /// Judged by the words that a key was put together from.
        #[test]
        fn just_the_odd_keys_of_any_page_are_hidden(
            keys in vec(vec(select(&WORDS[..]), 0..6), 0..8),
        ) {
            let written: Vec<String> = keys.iter().map(|words| words.concat()).collect();
            let expected: Vec<&str> = keys
                .iter()
                .zip(&written)
                .map(|(words, key)| if is_odd(words) { "d&amp;/" } else { key })
                .collect();
            let hidden = keys.iter().filter(|words| is_odd(words)).count();
            let written: Vec<&str> = written.iter().map(String::as_str).collect();
            prop_assert_eq!(hide(page(&written).into(), "d&/"), (page(&expected).into(), hidden));
        }
    }

    const WORDS: [&str; 8] = ["a", "b ", "/", ".", "&amp;", "&#233;", "&#1;", "&unknown;"];

    fn is_odd(words: &[&str]) -> bool {
        let mut components = words.split(|word| *word == "/");
        // A slash at the end is that of a directory.
        if words.last() == Some(&"/") {
            components.next_back();
        }
        let is_dots = |component: &[&str]| matches!(component, ["."] | [".", "."]);
        words.iter().any(|word| matches!(*word, "&#1;" | "&unknown;"))
            || words.len() > 1 && components.any(|component| component.is_empty() || is_dots(component))
            || words == ["."]
    }

    #[test]
    fn what_is_no_listing_is_left_as_it_is() {
        for page in ["", "<", "<a", "<Contents><Key>d//x", "<Contents></Key></Contents>", "no markup"] {
            assert_eq!(hide(page.into(), "d/"), (page.into(), 0));
        }
    }
}
