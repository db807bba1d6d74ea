//! Colours of a terminal, or none.

use phalanx_engine::budget::Bucket;

/// How words are set off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    has_colours: bool,
}

impl Style {
    pub(super) const fn new(has_colours: bool) -> Self {
        Self { has_colours }
    }

    pub(super) fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// A part of the bar of a time budget.
    pub(super) fn bucket(self, bucket: Bucket, text: &str) -> String {
        self.paint(
            match bucket {
                Bucket::Handshake => "30;46",
                Bucket::ClientIdle => "37;100",
                Bucket::ServerThink => "30;43",
                Bucket::ReceiverWindow => "30;45",
                Bucket::ZeroWindow => "37;45",
                Bucket::FastRecovery => "30;41",
                Bucket::TimeoutRecovery => "37;41",
                Bucket::SenderLimited => "30;44",
                Bucket::Path => "30;42",
                Bucket::Close => "30;47",
                Bucket::Unknown => "7",
            },
            text,
        )
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.has_colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
