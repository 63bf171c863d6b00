//! Plain tables: a header with units, numbers on the right, no lines.

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};

/// A table that is written with [`Rows::print`].
pub struct Rows {
    table: Table,
    right: Vec<bool>,
}

impl Rows {
    /// A table with these columns; a name that ends in `>` stands over a column of numbers.
    pub fn new(columns: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            table.force_no_tty();
        }
        let right: Vec<bool> = columns.iter().map(|name| name.ends_with('>')).collect();
        let header = columns
            .iter()
            .zip(&right)
            .map(|(name, right)| cell(name.trim_end_matches('>'), *right).add_attribute(Attribute::Bold));
        table.set_header(header.collect::<Vec<_>>());
        Self { table, right }
    }

    /// Adds a row.
    pub fn push<I>(&mut self, row: I)
    where
        I: IntoIterator,
        I::Item: ToString,
    {
        let cells = row.into_iter().enumerate().map(|(column, text)| {
            cell(&text.to_string(), self.right.get(column).copied().unwrap_or_default())
        });
        self.table.add_row(cells.collect::<Vec<_>>());
    }

    /// The table as text, with spaces at line ends cut off.
    pub fn render(&self) -> String {
        let lines = self.table.lines().map(|line| {
            let line = line.trim_end();
            line.strip_prefix(' ').unwrap_or(line).to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Writes the table to standard output.
    ///
    /// # Errors
    ///
    /// See [`super::write`].
    pub fn print(&self) -> anyhow::Result<()> {
        super::line(self.render())
    }
}

fn cell(text: &str, right: bool) -> Cell {
    let align = if right { CellAlignment::Right } else { CellAlignment::Left };
    // Control characters in a path or an error must not reach the terminal.
    let clean: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    Cell::new(clean).set_alignment(align)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_on_the_right_and_controls_are_shown_as_question_marks() {
        let mut rows = Rows::new(&["PATH", "MiB>"]);
        rows.table.force_no_tty();
        rows.push(["/mnt/a", "1.5"]);
        rows.push(["/mnt/\u{1b}b", "1024.0"]);
        assert_eq!(rows.render(), "PATH        MiB\n/mnt/a      1.5\n/mnt/?b  1024.0");
    }
}
