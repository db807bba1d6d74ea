//! Every example of `docs/filter.md` is what the document says.

use phalanx_engine::filter::{Filter, LinkType};

const DOCUMENT: &str = include_str!("../../docs/filter.md");

/// Rows of the table under a heading, cell by cell; `\|` is not a border.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let (_, section) = DOCUMENT.split_once(heading).expect("the heading is there");
    let table = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = table.take_while(|line| line.starts_with('|')).skip(2);
    let cells = |line: &str| {
        let line = line.replace("\\|", "\u{1}");
        let cells = line.trim_matches('|').split('|').map(str::trim);
        cells.map(|cell| cell.replace('\u{1}', "|")).collect()
    };
    rows.map(cells).collect()
}

#[test]
fn every_construct_has_an_example_that_compiles() {
    let rows = rows("## Constructs");
    assert!(rows.len() >= 35, "{}", rows.len());
    for row in rows {
        let example = row[2].trim_matches('`');
        let filter = Filter::parse(example).unwrap_or_else(|error| panic!("{example}: {error}"));
        assert!(filter.compile(LinkType::Ethernet).is_ok(), "{example}");
    }
}

#[test]
fn what_is_said_to_be_refused_is_refused() {
    let (_, block) = DOCUMENT
        .split_once("```refused\n")
        .expect("the block is there");
    let (block, _) = block.split_once("```").expect("the block ends");
    assert!(block.lines().count() >= 10);
    for example in block.lines() {
        let error = Filter::parse(example).expect_err(example);
        assert!(error.position <= example.len(), "{example}: {error}");
    }
}

#[test]
fn the_kernel_gets_what_the_document_says() {
    let rows = rows("## Live captures");
    assert_eq!(rows.len(), 4);
    for row in rows {
        let pushdown = Filter::parse(row[0].trim_matches('`')).unwrap().pushdown();
        assert_eq!(
            pushdown.matches_ip(),
            !row[1].starts_with("refused"),
            "{}",
            row[0]
        );
        assert_eq!(
            pushdown.residual.is_none(),
            row[2] == "nothing more",
            "{}",
            row[0]
        );
    }
}
