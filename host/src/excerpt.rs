//! What others wrote, at a length that the log can take.

use std::borrow::Cow;

/// The text where it has at most `most` bytes, else its beginning and its end, in as many, and how many
/// are left out between them.
pub(crate) fn excerpt(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    let begin = &text[..text.floor_char_boundary(most - most / 4)];
    let end = &text[text.ceil_char_boundary(text.len() - most / 4)..];
    format!("{begin}[{} bytes left out]{end}", text.len() - begin.len() - end.len()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_stay_and_long_ones_keep_both_ends() {
        assert_eq!(excerpt("", 8), "");
        assert_eq!(excerpt("12345678", 8), "12345678");
        assert_eq!(excerpt("123456789", 8), "123456[1 bytes left out]89");
        assert_eq!(excerpt("ééééééééé", 8), "ééé[10 bytes left out]é");
        assert_eq!(excerpt("aéééé", 4), "aé[6 bytes left out]");
    }
}
