//! The documents of a new image. Keys come in a fixed order, so that the same image has the same digests.

use std::collections::BTreeMap;

use oci_spec::image::Digest;
use serde::Serialize;

use super::types;

/// A descriptor as it is written.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DescriptorDocument {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An image manifest as it is written.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ManifestDocument {
    schema_version: u32,
    media_type: &'static str,
    config: DescriptorDocument,
    layers: Vec<DescriptorDocument>,
}

impl ManifestDocument {
    pub fn new(config: DescriptorDocument, layers: Vec<DescriptorDocument>) -> Self {
        Self { schema_version: 2, media_type: types::MANIFEST, config, layers }
    }
}

/// An image configuration as it is written.
#[derive(Debug, Serialize)]
pub(crate) struct ConfigDocument {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    architecture: String,
    os: &'static str,
    #[serde(rename = "os.features")]
    os_features: [&'static str; 1],
    config: BTreeMap<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rootfs: Option<RootFs>,
}

#[derive(Debug, Serialize)]
struct RootFs {
    r#type: &'static str,
    diff_ids: Vec<Digest>,
}

impl ConfigDocument {
    /// The configuration of an image whose layers have `diff_ids`, in the manifest's order, where all are known;
    /// `created` in seconds since 1970.
    pub fn new(architecture: &str, created: Option<i64>, diff_ids: Option<Vec<Digest>>) -> Self {
        Self {
            created: created.and_then(rfc_3339),
            architecture: architecture.to_owned(),
            os: "linux",
            os_features: ["erofs"],
            config: BTreeMap::new(),
            rootfs: diff_ids.map(|diff_ids| RootFs { r#type: "layers", diff_ids }),
        }
    }
}

/// Returns the bytes of a document: JSON without spaces.
pub(crate) fn canonical(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("a document of strings and numbers can be written")
}

/// A time in UTC as RFC 3339 writes it, or `None` outside the years 0 to 9999 that it has.
fn rfc_3339(seconds: i64) -> Option<String> {
    const DAY: i64 = 86_400;
    let (days, second) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, day) = civil_date(days)?;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    (0..=9999)
        .contains(&year)
        .then(|| format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
fn civil_date(days: i64) -> Option<(i64, i64, i64)> {
    // Counted in eras of 400 years from 0000-03-01, so that a leap day is the last day of its year.
    let shifted = days.checked_add(719_468)?;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Some((year, month, day))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::sha256;

    #[test]
    fn times_are_written_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc_3339(seconds).as_deref(), Some(text));
        }
        assert_eq!(rfc_3339(253_402_300_800), None);
        assert_eq!(rfc_3339(i64::MAX), None);
        assert_eq!(rfc_3339(i64::MIN), None);
    }

    #[test]
    fn documents_have_their_keys_in_a_fixed_order() {
        let descriptor = DescriptorDocument {
            media_type: types::EROFS.to_owned(),
            digest: sha256(b""),
            size: 0,
            annotations: [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into(),
        };
        let text = String::from_utf8(canonical(&descriptor)).expect("JSON is UTF-8");
        assert!(
            text.starts_with(r#"{"mediaType":"application/vnd.erofs","digest":"sha256:e3b0c4"#),
            "{text}"
        );
        assert!(text.ends_with(r#""size":0,"annotations":{"a":"1","b":"2"}}"#), "{text}");
        let config = ConfigDocument::new("amd64", Some(0), Some(vec![]));
        assert_eq!(
            String::from_utf8(canonical(&config)).expect("JSON is UTF-8"),
            r#"{"created":"1970-01-01T00:00:00Z","architecture":"amd64","os":"linux","os.features":["erofs"],"config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#
        );
    }
}
