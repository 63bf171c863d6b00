//! Names of the distribution spec, parsed once, before any of them becomes part of an address.
//!
//! Source of truth: OCI distribution-spec v1.1, "Pulling manifests" (`<name>`, `<reference>`), and image-spec v1.1,
//! `descriptor.md` (digests).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use oci_spec::image::Digest;

use crate::Error;

const HOST_BYTES_MAX: usize = 255;
const REPOSITORY_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// `host[:port]` of a registry: a domain name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Host {
    text: String,
    loopback: bool,
}

impl Host {
    pub(crate) fn is_loopback(&self) -> bool {
        self.loopback
    }
}

impl FromStr for Host {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |reason: &str| Err(refused(text, reason));
        if text.len() > HOST_BYTES_MAX {
            return refuse("longer than 255 bytes");
        }
        let Some((name, port)) = split_port(text) else {
            return refuse("not host or host:port");
        };
        if let Some(port) = port
            && !is_port(port)
        {
            return refuse("not a port from 1 to 65535");
        }
        match loopback(name) {
            Some(loopback) => Ok(Self { text: text.to_owned(), loopback }),
            None => refuse("not a domain name or address"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Name of a repository, such as `library/debian`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Repository(String);

impl FromStr for Repository {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() > REPOSITORY_BYTES_MAX {
            return Err(refused(text, "a repository name longer than 255 bytes"));
        }
        if !text.split('/').all(is_path_component) {
            return Err(refused(
                text,
                "not a repository name: lower-case letters, digits, '.', '_', '-' and '/'",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What names a manifest within its repository.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ManifestName {
    Tag(String),
    Digest(Digest),
}

impl FromStr for ManifestName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.contains(':') {
            let digest = Digest::from_str(text);
            return digest.map(Self::Digest).map_err(|_| refused(text, "not a digest"));
        }
        let sound = text.len() <= TAG_BYTES_MAX
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
            && !text.is_empty()
            && !text.starts_with(['.', '-']);
        if sound { Ok(Self::Tag(text.to_owned())) } else { Err(refused(text, "not a tag")) }
    }
}

impl fmt::Display for ManifestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

fn refused(text: &str, reason: &str) -> Error {
    Error::Address { place: text.escape_debug().to_string(), reason: reason.to_owned() }
}

/// Splits `name[:port]`; colons inside brackets belong to the name.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    let name_end = match text.strip_prefix('[') {
        Some(inner) => inner.find(']')? + 2,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (name, rest) = text.split_at(name_end);
    if rest.is_empty() { Some((name, None)) } else { Some((name, Some(rest.strip_prefix(':')?))) }
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Whether a sound host name is the loopback; `None` when it is not sound.
fn loopback(name: &str) -> Option<bool> {
    if let Some(inner) = name.strip_prefix('[') {
        let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(IpAddr::from(address).is_loopback());
    }
    if !name.split('.').all(is_domain_label) {
        return None;
    }
    // A last label of digits makes it an address, which must then be in the one form that all parsers agree on.
    let last = name.rsplit('.').next()?;
    if last.starts_with(|first: char| first.is_ascii_digit()) && is_number(last) {
        return Some(name.parse::<Ipv4Addr>().ok()?.is_loopback());
    }
    Some(name.eq_ignore_ascii_case("localhost"))
}

/// Whether address parsers take `label` for a number.
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    hex.map_or_else(
        || label.bytes().all(|b| b.is_ascii_digit()),
        |hex| hex.bytes().all(|b| b.is_ascii_hexdigit()),
    )
}

fn is_domain_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends_well = text.bytes().next().is_some_and(is_word) && text.bytes().last().is_some_and(is_word);
    let separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends_well
        && separators.into_iter().all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_and_the_loopback_is_known() {
        for (text, is_loopback) in [
            ("localhost", true),
            ("LOCALHOST:5000", true),
            ("127.0.0.1:5000", true),
            ("127.8.9.10", true),
            ("[::1]", true),
            ("[::1]:443", true),
            ("registry.example", false),
            ("registry.example:65535", false),
            ("xn--bcher-kva.example", false),
            ("10.0.0.1", false),
            ("[2001:db8::1]:5000", false),
            ("localhost.example", false),
            ("0x7f", false),
        ] {
            let host = Host::from_str(text);
            if text == "0x7f" {
                host.expect_err("an address in a form of its own");
                continue;
            }
            assert_eq!(host.expect(text).is_loopback(), is_loopback, "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let long = "a.".repeat(128);
        for text in [
            "",
            ":",
            ":5000",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            "host:1:2",
            "a..b",
            ".a",
            "a.",
            "-a",
            "a-",
            "a_b",
            "a/b",
            "a@b",
            "me@host",
            "a b",
            "a?b",
            "a#b",
            "a%b",
            "ä.example",
            "127.1",
            "127.0.0.01",
            "256.0.0.1",
            "1",
            "[::1",
            "::1",
            "[]",
            "[::1]x",
            "[::1]:",
            "[fe80::1%eth0]",
            "host\n",
            &long,
        ] {
            assert!(matches!(Host::from_str(text), Err(Error::Address { .. })), "{text:?}");
        }
    }

    #[test]
    fn repository_names_follow_the_grammar() {
        for text in ["a", "library/debian", "a.b/c_d/e__f/g-h/i---j", "0/1", "a-.b".trim_end_matches("-.b")] {
            Repository::from_str(text).expect(text);
        }
        let long = "a".repeat(256);
        for text in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a.-b", "a___b", "_a", "a_", "-a", "a-", ".", "..",
            "a/../b", "a b", "a:b", "a@b", "a?b", "a%2fb", "ä", "a\n", &long,
        ] {
            assert!(matches!(Repository::from_str(text), Err(Error::Address { .. })), "{text:?}");
        }
    }

    #[test]
    fn a_manifest_is_named_by_tag_or_digest() {
        let sha256 = format!("sha256:{}", "0a".repeat(32));
        assert!(matches!(ManifestName::from_str(&sha256), Ok(ManifestName::Digest(_))));
        for text in ["latest", "v1.2-3_4", "_x", "A", &"a".repeat(128)] {
            assert!(matches!(ManifestName::from_str(text), Ok(ManifestName::Tag(_))), "{text}");
        }
        for text in [
            "",
            ".",
            "..",
            "-a",
            ".a",
            "a/b",
            "a b",
            "a?b",
            "a%",
            "sha256:",
            "sha256:0a",
            "sha256:../x",
            ":",
            "a:b c",
            &"a".repeat(129),
            &sha256.to_uppercase(),
            &format!("{sha256}/x"),
            &format!("{sha256}0"),
        ] {
            assert!(matches!(ManifestName::from_str(text), Err(Error::Address { .. })), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn an_accepted_name_means_the_same_within_an_address(
            host in r"[a-zA-Z0-9.:\[\]@_%-]{1,12}|\PC{0,8}",
            repository in r"[a-zA-Z0-9._/%-]{1,12}|\PC{0,8}",
            reference in r"[a-zA-Z0-9._:%/-]{1,12}|\PC{0,8}",
        ) {
            let host = Host::from_str(&host).unwrap_or_else(|_| "r.example".parse().expect("a host"));
            let repository = Repository::from_str(&repository).unwrap_or_else(|_| "r".parse().expect("a name"));
            let reference = ManifestName::from_str(&reference).unwrap_or_else(|_| "t".parse().expect("a tag"));
            let text = format!("http://{host}/v2/{repository}/manifests/{reference}");
            let url = reqwest::Url::parse(&text).expect("an address");
            let name = url.host_str().expect("a host").trim_matches(['[', ']']);
            let loopback = name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
            assert_eq!(loopback, host.is_loopback(), "{text}");
            assert_eq!(url.path(), format!("/v2/{repository}/manifests/{reference}"));
            assert!(url.username().is_empty() && url.query().is_none() && url.fragment().is_none());
        }
    }
}
