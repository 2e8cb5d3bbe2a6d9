//! The name of a workspace.

use alloc::string::String;

/// The name of a workspace that was given none.
pub const DEFAULT: &str = "Untitled";

/// The longest name a client may send, in Unicode scalar values, outer white space included.
pub const MAX_CHARACTERS: usize = 255;

/// Rule that a name breaks, as the message for the client.
pub(crate) const TOO_LONG: &str = "name is too long: send at most 255 characters";
pub(crate) const FORBIDDEN_CHARACTER: &str =
    "name holds a control character or a text-direction override: send it without";

/// Returns the name to store: trimmed of outer white space (Unicode `White_Space`, line breaks included),
/// [`DEFAULT`] where nothing is left.
///
/// # Errors
///
/// The message for the client, where the name as sent is over [`MAX_CHARACTERS`] or a
/// [forbidden character](is_forbidden) remains after trimming.
pub fn normalize(sent: Option<&str>) -> Result<String, &'static str> {
    let sent = sent.unwrap_or_default();
    if sent.chars().count() > MAX_CHARACTERS {
        return Err(TOO_LONG);
    }
    let name = sent.trim();
    if name.chars().any(is_forbidden) {
        return Err(FORBIDDEN_CHARACTER);
    }
    Ok(String::from(if name.is_empty() { DEFAULT } else { name }))
}

/// Returns whether a character is refused in a name: controls (Unicode `Cc`, NUL among them) break logs
/// and terminals, and the bidirectional embeddings, overrides and isolates (UAX #9, section 2) let a
/// name show as another.
pub fn is_forbidden(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_empty_and_blank_names_become_the_default() {
        for sent in [None, Some(""), Some("  "), Some("\t\r\n\u{85}\u{a0}\u{3000}\u{2028}")] {
            assert_eq!(normalize(sent).as_deref(), Ok("Untitled"), "{sent:?}");
        }
    }

    #[test]
    fn outer_white_space_is_trimmed_before_other_rules() {
        assert_eq!(normalize(Some("\n\t Studio A \r\n")).as_deref(), Ok("Studio A"));
    }

    #[test]
    fn inner_text_stays_as_sent() {
        for name in ["Ünï cødé", "a  b", "🎸🥁", "e\u{301}", "שלום\u{200f}", "\u{feff}x"] {
            assert_eq!(normalize(Some(name)).as_deref(), Ok(name));
        }
    }

    #[test]
    fn length_counts_characters_as_sent() {
        assert!(normalize(Some(&"é".repeat(255))).is_ok());
        assert_eq!(normalize(Some(&"é".repeat(256))), Err(TOO_LONG));
        assert_eq!(normalize(Some(&alloc::format!("{}a", " ".repeat(255)))), Err(TOO_LONG));
    }

    #[test]
    fn control_characters_and_bidi_overrides_inside_are_refused() {
        for character in
            ['\0', '\n', '\t', '\u{1b}', '\u{7f}', '\u{85}', '\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}']
        {
            assert_eq!(normalize(Some(&alloc::format!("a{character}b"))), Err(FORBIDDEN_CHARACTER), "{character:?}");
        }
    }
}
