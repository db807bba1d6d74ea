//! The ladder of one conversation as a picture: SVG that needs nothing else and runs nothing.
//!
//! Hops are vertical lines, time goes down, packets slant from hop to hop as long as they took.
//! What a time may be off by is drawn as a band. Silence is cut short, with a mark. All words of
//! others are escaped.

mod draw;
mod place;
mod word;

use std::io::{self, Write};

use super::ladder::Told;
use super::limits::PICTURE_RUNG_COUNT_MAX;
use super::{ConversationReport, Report};
use draw::Drawing;
use word::escape;

const STYLE: &str = include_str!("svg/ladder.css");

/// Writes the picture of a conversation; of one without a ladder only its title.
///
/// # Errors
///
/// What the output cannot take.
pub fn write(
    report: &Report,
    conversation: &ConversationReport,
    mut output: impl Write,
) -> io::Result<()> {
    let empty = phalanx_engine::stitch::Ladder::default();
    let ladder = conversation.ladder.as_ref().unwrap_or(&empty);
    let told = Told::new(ladder, &report.hops);
    let title = title(conversation);
    let drawing = Drawing::new(&told, PICTURE_RUNG_COUNT_MAX);
    let (width, height) = drawing.size();
    write!(
        output,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\" aria-labelledby=\"title about\">\n\
         <title id=\"title\">{}</title>\n<desc id=\"about\">{}</desc>\n\
         <style>\n{STYLE}</style>\n<rect class=\"back\" width=\"{width}\" height=\"{height}\"/>\n\
         <text class=\"title\" x=\"16\" y=\"26\">{}</text>\n",
        escape(&title),
        escape(&drawing.describe()),
        escape(&title),
    )?;
    drawing.write(&mut output)?;
    output.write_all(b"</svg>\n")?;
    output.flush()
}

fn title(conversation: &ConversationReport) -> String {
    let ends = conversation.story.endpoints.as_ref();
    format!(
        "{}: {} → {}, {}",
        super::word::foreign(&conversation.id),
        super::word::endpoint(ends.map(|ends| &ends.client)),
        super::word::endpoint(ends.map(|ends| &ends.server)),
        crate::view::protocol_name(conversation.story.protocol),
    )
}
