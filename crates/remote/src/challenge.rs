//! `WWW-Authenticate: Bearer`: where a token is to be had and for what.
//!
//! Source of truth: RFC 9110, section 11 (grammar); the distribution project's token authentication (parameters).

/// What a registry says that a token is needed for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Challenge {
    pub realm: String,
    pub service: Option<String>,
    pub scope: Option<String>,
}

impl Challenge {
    /// Reads one header value; anything but one sound Bearer challenge with a realm is `None`.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let (scheme, mut rest) = value.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("Bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        loop {
            let (name, value, after) = parameter(rest.trim_start_matches([' ', '\t']))?;
            let field = match name.to_ascii_lowercase().as_str() {
                "realm" => &mut realm,
                "service" => &mut service,
                "scope" => &mut scope,
                _ => &mut None,
            };
            if field.replace(value).is_some() {
                return None;
            }
            let after = after.trim_matches([' ', '\t']);
            if after.is_empty() {
                return Some(Self { realm: realm?, service, scope });
            }
            rest = after.strip_prefix(',')?;
        }
    }
}

/// Splits `name=value` or `name="value"` off `text`: name, value, what follows.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = text.split_once('=')?;
    if name.is_empty() || !name.bytes().all(is_token_byte) {
        return None;
    }
    match rest.strip_prefix('"') {
        Some(quoted) => quoted_string(quoted).map(|(value, after)| (name, value, after)),
        None => {
            let end = rest.bytes().position(|b| !is_token_byte(b)).unwrap_or(rest.len());
            let (value, after) = rest.split_at(end);
            (!value.is_empty()).then(|| (name, value.to_owned(), after))
        }
    }
}

/// Reads up to the closing quote, resolving `\x`.
fn quoted_string(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c if c.is_control() => return None,
            c => value.push(c),
        }
    }
    None
}

fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_challenges_are_read() {
        let full = r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#;
        let found = Challenge::parse(full).expect("sound");
        assert_eq!(found.realm, "https://auth.example/token");
        assert_eq!(found.service.as_deref(), Some("registry.example"));
        assert_eq!(found.scope.as_deref(), Some("repository:a/b:pull,push"));
        for (text, realm) in [
            (r#"bearer  Realm="x""#, "x"),
            (r#"Bearer realm=x , error="invalid_token""#, "x"),
            (r#"Bearer realm="a\"b\\c""#, r#"a"b\c"#),
        ] {
            assert_eq!(Challenge::parse(text).map(|found| found.realm).as_deref(), Some(realm), "{text}");
        }
    }

    #[test]
    fn unsound_challenges_are_refused() {
        for text in [
            "",
            "Bearer",
            "Bearer ",
            r#"Basic realm="x""#,
            r#"Bearer service="x""#,
            r#"Bearer realm="x"#,
            r#"Bearer realm="x\"#,
            r#"Bearer realm="x","#,
            r#"Bearer realm="x" scope="y""#,
            r#"Bearer realm="x",realm="y""#,
            r#"Bearer realm="x", Basic realm="y""#,
            "Bearer realm=",
            "Bearer =x",
            "Bearer re alm=x",
            "Bearer realm=\"a\nb\"",
        ] {
            assert_eq!(Challenge::parse(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_quoted_text_is_read_back_and_any_other_ends_quietly(realm in "[^\\p{Cc}]*", other: String) {
            let quoted = realm.replace('\\', r"\\").replace('"', "\\\"");
            let text = format!("Bearer realm=\"{quoted}\"");
            assert_eq!(Challenge::parse(&text).expect("sound").realm, realm);
            let _ = Challenge::parse(&format!("Bearer {other}"));
        }
    }
}
