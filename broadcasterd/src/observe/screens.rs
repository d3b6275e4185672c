//! Checks the screens in `SCREENS.md`: the text blocks that follow a line such as `<!-- screen: top-peers-80x24 -->`. The file is
//! never changed unless `UPDATE_SCREENS=1` is set.

use std::sync::Mutex;

/// Asserts that the block called `name` contains `screen`; with `UPDATE_SCREENS=1`, updates it instead.
pub(crate) fn assert_screen(name: &str, screen: &str) {
    /// Tests run in parallel, and each changes one block.
    static FILE: Mutex<()> = Mutex::new(());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/SCREENS.md");
    let _alone = FILE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let document = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let current = replaced(&document, name, screen).unwrap_or_else(|error| panic!("{path}: {error}"));
    if std::env::var_os("UPDATE_SCREENS").is_some_and(|value| value == "1") {
        std::fs::write(path, current).unwrap_or_else(|error| panic!("{path}: {error}"));
    } else {
        let remedy = "UPDATE_SCREENS=1 cargo test -p broadcasterd screens";
        assert!(current == document, "the screen {name} in {path} is outdated; run `{remedy}`:\n{screen}");
    }
}

/// `document` with `screen` as the block after the marker.
fn replaced(document: &str, name: &str, screen: &str) -> Result<String, String> {
    let marker = format!("<!-- screen: {name} -->\n");
    let (before, after) = document.split_once(&marker).ok_or_else(|| format!("no line {:?}", marker.trim_end()))?;
    let block = after.trim_start_matches('\n').strip_prefix("```text\n");
    let block = block.ok_or_else(|| format!("no text block after {:?}", marker.trim_end()))?;
    let rest = match block.strip_prefix("```\n") {
        Some(rest) => rest,
        None => block.split_once("\n```\n").ok_or("a text block without an end")?.1,
    };
    Ok(format!("{before}{marker}\n```text\n{}\n```\n{rest}", screen.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "# A\n<!-- screen: one -->\n\n```text\nold\n```\nB\n<!-- screen: two -->\n```text\n```\nC\n";

    #[test]
    fn only_the_block_after_the_marker_is_replaced() {
        let once = replaced(DOCUMENT, "one", "new\n\nlines\n").expect("a block");
        assert_eq!(once, DOCUMENT.replace("old", "new\n\nlines"));
        assert_eq!(replaced(&once, "one", "new\n\nlines").expect("a block"), once);
        let both = replaced(&once, "two", "second").expect("a block");
        assert!(both.ends_with("B\n<!-- screen: two -->\n\n```text\nsecond\n```\nC\n") && both.contains("new"));
    }

    #[test]
    fn missing_marker_or_block_is_an_error() {
        for document in ["", "<!-- screen: one -->\nno block\n", "<!-- screen: one -->\n```text\nno end\n"] {
            assert!(replaced(document, "one", "new").is_err());
        }
    }
}
