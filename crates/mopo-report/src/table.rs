//! Tables for other programs, as CSV.

/// Rows of text below a header: RFC 4180 quoting, `\n` line ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Self {
        Self { header: header.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Appends a row.
    ///
    /// # Panics
    /// If it has not one cell per column.
    pub fn push(&mut self, row: Vec<String>) {
        assert_eq!(row.len(), self.header.len(), "one cell per column");
        self.rows.push(row);
    }

    /// The table as the bytes of a CSV file.
    pub fn csv(&self) -> Vec<u8> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for row in std::iter::once(&self.header).chain(&self.rows) {
            writer
                .write_record(row)
                .expect("rows are as long as the header, and memory takes them");
        }
        writer.into_inner().expect("memory takes them")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_needed() {
        let mut table = Table::new(["one", "two", "three"]);
        table.push(["a", "b,c", "d\"e"].map(str::to_owned).into());
        table.push(["", " x ", "ü\nv"].map(str::to_owned).into());
        let expected = "one,two,three\na,\"b,c\",\"d\"\"e\"\n, x ,\"ü\nv\"\n";
        assert_eq!(String::from_utf8(table.csv()).unwrap(), expected);
    }
}
