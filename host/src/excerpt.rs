//! Text that others wrote, cut to a length that the log can take.

use std::{
    borrow::Cow,
    fmt::{self, Display, Write as _},
};

/// Returns the text where it has at most `most` bytes, else its beginning and its end, in as many, and the
/// number of bytes left out between them.
pub(crate) fn excerpt(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    let begin = &text[..text.floor_char_boundary(most - most / 4)];
    let end = &text[text.ceil_char_boundary(text.len() - most / 4)..];
    format!("{begin}[{} bytes left out]{end}", text.len() - begin.len() - end.len()).into()
}

/// Returns the text of a value, cut after `most` bytes.
pub(crate) fn clipped(value: impl Display, most: usize) -> String {
    let mut clip = Clip::new(most);
    // An error says that the text is cut, which its end shows.
    let _ = write!(clip, "{value}");
    clip.into_text()
}

/// A text of limited length. A write over the limit fails, and so stops the formatting that it comes from:
/// the work is limited, not only its result.
#[derive(Debug)]
pub(crate) struct Clip {
    text: String,
    most: usize,
    is_cut: bool,
}

impl Clip {
    /// Makes an empty text that takes `most` bytes.
    pub(crate) fn new(most: usize) -> Self {
        Self { text: String::new(), most, is_cut: false }
    }

    /// Returns what was written, with a mark where something was cut off.
    pub(crate) fn into_text(mut self) -> String {
        if self.is_cut {
            self.text += "[the rest is left out]";
        }
        self.text
    }
}

impl fmt::Write for Clip {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.most.saturating_sub(self.text.len());
        if text.len() <= room && !self.is_cut {
            self.text += text;
            return Ok(());
        }
        if !self.is_cut {
            self.text += &text[..text.floor_char_boundary(room)];
            self.is_cut = true;
        }
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn short_texts_stay_and_long_ones_keep_both_ends() {
        assert_eq!(excerpt("", 8), "");
        assert_eq!(excerpt("12345678", 8), "12345678");
        assert_eq!(excerpt("123456789", 8), "123456[1 bytes left out]89");
        assert_eq!(excerpt("ééééééééé", 8), "ééé[10 bytes left out]é");
        assert_eq!(excerpt("aéééé", 4), "aé[6 bytes left out]");
    }

    #[test]
    fn a_clipped_text_ends_at_its_limit() {
        assert_eq!(clipped("12345678", 8), "12345678");
        assert_eq!(clipped("123456789", 8), "12345678[the rest is left out]");
        assert_eq!(clipped("éééé", 5), "éé[the rest is left out]");
        assert_eq!(clipped(format_args!("{}{}", "éé", "é"), 5), "éé[the rest is left out]");
    }

    #[test]
    fn formatting_stops_at_the_limit() {
        struct Endless(Cell<usize>);

        impl Display for Endless {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    self.0.set(self.0.get() + 1);
                    formatter.write_str("0123456789")?;
                }
            }
        }

        let endless = Endless(Cell::new(0));
        assert!(clipped(&endless, 100).ends_with("9[the rest is left out]"));
        assert_eq!(endless.0.get(), 11);
    }
}
