//! [`Figures`]: what the demo measured.

use serde::Serialize;

use super::tree::{Amount, LeftOut};
use crate::output::bytes::{human, mebibytes};
use crate::output::table::Rows;

/// What the demo measured. The names are stable; sizes are exact bytes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// The front end that the mount used.
    pub frontend: String,
    /// Whether every byte that was fetched matched its digest, and every file that is here its source.
    pub verified: bool,
    /// What ran.
    pub program: String,
    /// Its command line, first word only: the rest may be a script.
    pub command: String,
    /// Stored bytes of the image's layers.
    pub image_bytes: u64,
    /// Files and bytes of the tree that the image was made of.
    pub tree: Amount,
    /// What stayed out of the image.
    pub left_out: LeftOut,
    /// The link's round trip.
    pub latency_ms: f64,
    /// The link's bandwidth as the command line spells it.
    pub bandwidth: String,
    /// From the wish to start to the program's first byte of output, on demand.
    pub lazy_seconds: f64,
    /// The same to the program's end.
    pub lazy_exit_seconds: f64,
    /// The same with the mount request answered.
    pub lazy_mount_seconds: f64,
    /// Bytes of response bodies that the registry sent, on demand: manifest, indexes, metadata and data.
    pub fetched_bytes: u64,
    /// Requests that the registry answered, on demand.
    pub lazy_requests: u64,
    /// From the wish to start to the program's first byte of output, with everything fetched and unpacked first.
    pub full_seconds: f64,
    /// The same to the program's end.
    pub full_exit_seconds: f64,
    /// The same with everything fetched.
    pub full_fetch_seconds: f64,
    /// The same with everything unpacked.
    pub full_unpack_seconds: f64,
    /// Bytes of response bodies that the registry sent, everything first.
    pub full_bytes: u64,
    /// Requests that the registry answered, everything first.
    pub full_requests: u64,
    /// Files whose bytes are all here, compared with the source through the mount.
    pub compared: Amount,
    /// Resident memory of the worker after the program's end.
    pub worker_resident_bytes: u64,
    /// Resident memory of the keeper.
    pub keeper_resident_bytes: u64,
}

impl Figures {
    /// Share of the stored image that was fetched, in percent.
    pub fn share_percent(&self) -> f64 {
        percent(self.fetched_bytes, self.image_bytes)
    }

    /// How many times sooner the program was ready.
    pub fn times_sooner(&self) -> f64 {
        if self.lazy_seconds > 0.0 { self.full_seconds / self.lazy_seconds } else { 0.0 }
    }

    /// The rows of the comparison: what, unit, on demand, everything first.
    pub fn rows(&self) -> Vec<[String; 4]> {
        let row = |what: &str, unit: &str, lazy: String, full: String| {
            [what.to_owned(), unit.to_owned(), lazy, full]
        };
        let seconds = |value: f64| format!("{value:.2}");
        vec![
            row("first output", "s", seconds(self.lazy_seconds), seconds(self.full_seconds)),
            row("program's end", "s", seconds(self.lazy_exit_seconds), seconds(self.full_exit_seconds)),
            row("fetched", "MiB", mebibytes(self.fetched_bytes), mebibytes(self.full_bytes)),
            row("requests", "", self.lazy_requests.to_string(), self.full_requests.to_string()),
            row(
                "share of the image",
                "%",
                format!("{:.1}", self.share_percent()),
                format!("{:.1}", percent(self.full_bytes, self.image_bytes)),
            ),
        ]
    }

    /// The sentences under the table: name, and what there is to say.
    pub fn remarks(&self) -> Vec<[String; 2]> {
        let remark = |name: &str, text: String| [name.to_owned(), text];
        let verified = if self.verified {
            format!(
                "yes: every fetched byte against its digest, then {} files ({}) against their source",
                self.compared.files,
                human(self.compared.bytes)
            )
        } else {
            "NO".to_owned()
        };
        let mut remarks = vec![
            remark("program", format!("{} ({})", self.program, self.command)),
            remark("front end", self.frontend.clone()),
            remark("verified", verified),
            remark(
                "image",
                format!(
                    "{} stored, {} files of {}",
                    human(self.image_bytes),
                    self.tree.files,
                    human(self.tree.bytes)
                ),
            ),
            remark("link", format!("{} ms round trip, {}", self.latency_ms, self.bandwidth)),
        ];
        if self.left_out.files > 0 {
            remarks.push(remark(
                "left out",
                format!(
                    "{} files of {} or more, {} together (--max-size)",
                    self.left_out.files,
                    human(self.left_out.from_bytes),
                    human(self.left_out.bytes)
                ),
            ));
        }
        if self.left_out.unreadable > 0 {
            remarks.push(remark(
                "unreadable",
                format!("{} files or directories left out", self.left_out.unreadable),
            ));
        }
        remarks
    }

    /// The table and the sentences, as text.
    pub fn text(&self) -> String {
        let mut table = Rows::new(&["", "", "ON DEMAND>", "EVERYTHING FIRST>"]);
        for row in self.rows() {
            table.push(row);
        }
        let remarks = self.remarks();
        let width = remarks.iter().map(|[name, _]| name.len()).max().unwrap_or(0);
        let lines = remarks.iter().map(|[name, text]| format!("\n{name:width$}  {text}"));
        format!("{}\n{}", table.render(), lines.collect::<String>())
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share is shown with one decimal")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_of_the_stored_image() {
        let figures = Figures {
            fetched_bytes: 25,
            image_bytes: 200,
            lazy_seconds: 2.0,
            full_seconds: 9.0,
            ..Figures::default()
        };
        assert!((figures.share_percent() - 12.5).abs() < 1e-9);
        assert!((figures.times_sooner() - 4.5).abs() < 1e-9);
        assert!(Figures::default().share_percent().abs() < 1e-9);
    }

    #[test]
    fn the_text_has_both_ways_side_by_side_and_says_what_stayed_out() {
        let left_out = LeftOut { files: 3, bytes: 3 << 30, from_bytes: 1 << 20, unreadable: 2 };
        let figures =
            Figures { frontend: "fuse".to_owned(), full_requests: 7, left_out, ..Figures::default() };
        let text = figures.text();
        for part in [
            "ON DEMAND",
            "EVERYTHING FIRST",
            "fuse",
            "NO",
            "3 files of 1.00 MiB or more",
            "2 files or directories",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn programs_find_the_promised_names() {
        let json = serde_json::to_value(Figures::default()).expect("figures are JSON");
        for name in [
            "frontend",
            "verified",
            "image_bytes",
            "fetched_bytes",
            "lazy_seconds",
            "full_seconds",
            "lazy_requests",
            "full_requests",
            "full_bytes",
            "program",
            "left_out",
        ] {
            assert!(json.get(name).is_some(), "{name}");
        }
    }
}
