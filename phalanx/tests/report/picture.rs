//! The picture of a ladder: what stands in it, and that no name breaks out of its place.

use phalanx::report::{Report, svg};
use phalanx_engine::stitch::Ladder;

use crate::across::is_harmful;
use crate::hops::{hostile, long, report, with_ladder};

fn picture(report: &Report) -> String {
    let mut bytes = Vec::new();
    svg::write(report, &report.conversations[0], &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// How often each class of strokes stands in a picture.
fn count(picture: &str, class: &str) -> usize {
    picture.matches(&format!("class=\"{class}\"")).count()
}

#[test]
fn a_picture_has_all_that_can_become_of_a_packet() {
    let picture = picture(&report());
    assert_eq!(count(&picture, "life"), 4);
    assert_eq!(count(&picture, "cross"), 2);
    assert_eq!(picture.matches("<circle class=\"tip lost\"").count(), 1);
    assert_eq!(count(&picture, "mark"), 1);
    // Once in the legend, and where hops did not see a packet.
    assert_eq!(count(&picture, "way bare unseen"), 2);
    assert_eq!(count(&picture, "way bare open"), 1);
    assert_eq!(count(&picture, "link"), 1);
    assert_eq!(count(&picture, "link copy"), 1);
    assert!(picture.contains("2.23 s later"), "{picture}");
    insta::assert_snapshot!(picture);
}

#[test]
fn names_of_enemies_stay_in_their_places() {
    let picture = picture(&hostile());
    assert_eq!(
        picture.chars().find(|it| is_harmful(*it)),
        None,
        "{picture}"
    );
    for tag in ["<script", "<img", "</script"] {
        assert!(!picture.contains(tag), "{tag}");
    }
    assert!(picture.contains("&lt;/script&gt;"));
}

#[test]
fn an_empty_ladder_is_a_picture() {
    let picture = picture(&with_ladder(Ladder::default()));
    assert!(picture.contains(">No packets.<"), "{picture}");
    assert!(picture.ends_with("</svg>\n"));
}

#[test]
fn a_long_ladder_ends_with_what_is_left_out() {
    for hops in [2, 16] {
        let picture = picture(&with_ladder(long(hops, 5_000)));
        assert_eq!(picture.matches("class=\"tip ").count(), 2_000);
        assert!(picture.contains(">3,000 more packets<"));
        assert!(picture.len() < 16_000_000, "{}", picture.len());
    }
}

#[test]
fn time_never_goes_up() {
    let picture = picture(&with_ladder(long(16, 300)));
    // Numbers of packets stand at the height where they begin.
    let heights = picture.lines().filter_map(|line| {
        let rest = line.strip_prefix("<text class=\"n\" x=\"52\" y=\"")?;
        rest.split_once('"')?.0.parse::<f64>().ok()
    });
    let heights: Vec<f64> = heights.collect();
    assert_eq!(heights.len(), 300);
    assert!(
        heights.windows(2).all(|it| it[1] - it[0] > 16.8),
        "{heights:?}"
    );
}

#[test]
fn no_packet_goes_up_where_clocks_are_off() {
    let mut ladder = long(4, 30);
    for rung in &mut ladder.rungs {
        // The third hop seems to have seen it before the second.
        if let Some(crossing) = rung.crossings.get_mut(2) {
            crossing.reference_ns -= 6_000_000;
        }
    }
    let picture = picture(&with_ladder(ladder));
    let ways = picture.lines().filter_map(|line| {
        let path = line
            .strip_prefix("<path class=\"way ")?
            .split_once("d=\"M")?
            .1;
        let (from, to) = path.split_once('"')?.0.split_once('L')?;
        let height = |point: &str| point.split_once(' ').unwrap().1.parse::<f64>().unwrap();
        Some((height(from), height(to)))
    });
    let ways: Vec<(f64, f64)> = ways.collect();
    assert!(ways.len() > 80, "{}", ways.len());
    assert!(ways.iter().all(|(from, to)| to >= from), "{ways:?}");
}
