//! Plain tables: left-aligned columns, two spaces apart, no trailing blanks.

/// A table with a heading.
#[derive(Debug, Clone)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these column names.
    pub fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|&name| name.to_owned()).collect()] }
    }

    /// Adds a row; an empty cell shows as `-`, so that columns can be counted by programs. Characters that would move
    /// the cursor are escaped: what containers are called and run must not be able to rewrite a terminal.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let clean = |cell: String| match cell.is_empty() {
            true => "-".to_owned(),
            false => printable(&cell),
        };
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// The table as text.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let line: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            text.push_str(line.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// The text with control characters escaped.
pub fn printable(text: &str) -> String {
    match text.chars().any(char::is_control) {
        true => text.chars().flat_map(escape).collect(),
        false => text.to_owned(),
    }
}

fn escape(c: char) -> Box<dyn Iterator<Item = char>> {
    match c.is_control() {
        true => Box::new(c.escape_default()),
        false => Box::new(std::iter::once(c)),
    }
}

/// The text cut to `width` characters, the last of which is then `…`.
pub fn cut(text: &str, width: usize) -> String {
    match text.chars().count() > width {
        true => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_rows_end_clean() {
        let mut table = Table::new(&["NAME", "ID", "IP"]);
        table.row(["web".to_owned(), "0123456789ab".to_owned(), String::new()]);
        table.row(["größer".to_owned(), "1".to_owned(), "10.88.0.2".to_owned()]);
        assert_eq!(
            table.render(),
            "NAME    ID            IP\nweb     0123456789ab  -\ngrößer  1             10.88.0.2\n"
        );
    }

    #[test]
    fn cells_cannot_move_the_cursor() {
        let mut table = Table::new(&["COMMAND"]);
        table.row(["sh\n\x1b[2Jx".to_owned()]);
        assert_eq!(table.render(), "COMMAND\nsh\\n\\u{1b}[2Jx\n");
    }

    #[test]
    fn cutting_counts_characters() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
        assert_eq!(cut("ääää", 3), "ää…");
    }
}
