//! Screens in `SCREENS.md`, for tests: a screen is the block of text behind a line such as `<!-- screen: top-peers-80x24 -->`.
//! A test asserts that it is current, and never changes the file unless `UPDATE_SCREENS=1` asks for it.

use std::sync::Mutex;

/// Asserts that the screen called `name` is `screen`; or, if it was asked for, makes it so.
pub(crate) fn assert_screen(name: &str, screen: &str) {
    /// Tests run side by side, and each changes one block.
    static FILE: Mutex<()> = Mutex::new(());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/SCREENS.md");
    let _alone = FILE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let document = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let current = replaced(&document, name, screen).unwrap_or_else(|error| panic!("{path}: {error}"));
    if std::env::var_os("UPDATE_SCREENS").is_some_and(|value| value == "1") {
        std::fs::write(path, current).unwrap_or_else(|error| panic!("{path}: {error}"));
    } else {
        let remedy = "UPDATE_SCREENS=1 cargo test -p broadcasterd screens";
        assert!(current == document, "the screen {name} in {path} is not current; `{remedy}` makes it so:\n{screen}");
    }
}

/// `document` with `screen` as the block behind the marker.
fn replaced(document: &str, name: &str, screen: &str) -> Result<String, String> {
    let marker = format!("<!-- screen: {name} -->\n");
    let (before, after) = document.split_once(&marker).ok_or_else(|| format!("no line {:?}", marker.trim_end()))?;
    let block = after.trim_start_matches('\n').strip_prefix("```text\n");
    let block = block.ok_or_else(|| format!("no block of text behind {:?}", marker.trim_end()))?;
    let rest = match block.strip_prefix("```\n") {
        Some(rest) => rest,
        None => block.split_once("\n```\n").ok_or("a block of text that does not end")?.1,
    };
    Ok(format!("{before}{marker}\n```text\n{}\n```\n{rest}", screen.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "# A\n<!-- screen: one -->\n\n```text\nold\n```\nB\n<!-- screen: two -->\n```text\n```\nC\n";

    #[test]
    fn block_behind_the_marker_is_replaced_and_nothing_else() {
        let once = replaced(DOCUMENT, "one", "new\n\nlines\n").expect("a block");
        assert_eq!(once, DOCUMENT.replace("old", "new\n\nlines"));
        assert_eq!(replaced(&once, "one", "new\n\nlines").expect("a block"), once);
        let both = replaced(&once, "two", "second").expect("a block");
        assert!(both.ends_with("B\n<!-- screen: two -->\n\n```text\nsecond\n```\nC\n") && both.contains("new"));
    }

    #[test]
    fn missing_marker_or_block_is_told() {
        for document in ["", "<!-- screen: one -->\nno block\n", "<!-- screen: one -->\n```text\nno end\n"] {
            assert!(replaced(document, "one", "new").is_err());
        }
    }
}
