//! Prints rows as aligned columns: the first to the left, the others to the right.

/// Formats a heading and its rows; every row has as many cells as the heading.
pub(crate) fn format(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let heading: Vec<String> = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let mut text = line(&heading, &widths);
    text.push_str(&format!(
        "{}\n",
        "-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1))
    ));
    for row in rows {
        text.push_str(&line(row, &widths));
    }
    text
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let mut text = String::new();
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        if index == 0 {
            text.push_str(&format!("{cell:<width$}"));
        } else {
            text.push_str(&format!("  {cell:>width$}"));
        }
    }
    format!("{}\n", text.trim_end())
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["unit".to_owned(), "12".to_owned()],
            vec!["kernels".into(), "3".into()],
        ];
        let text = super::format(&["ring", "passed"], &rows);
        assert_eq!(
            text,
            "ring     passed\n---------------\nunit         12\nkernels       3\n"
        );
    }
}
