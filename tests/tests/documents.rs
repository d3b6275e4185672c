//! Every relative link of the project's documents leads to a file. It never follows a link into the network.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn relative_links_lead_to_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut documents = Vec::new();
    find_documents(root, &mut documents);
    assert!(documents.len() >= 5, "found only {documents:?}");

    let mut broken = Vec::new();
    for document in &documents {
        let text = fs::read_to_string(document).expect("a document is UTF-8");
        let directory = document.parent().expect("a document is in a directory");
        for target in link_targets(&text) {
            let file = target.split('#').next().unwrap_or_default();
            let is_relative = !file.is_empty() && !file.contains(':');
            if is_relative && !directory.join(file).exists() {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links without a target:\n{}", broken.join("\n"));
}

/// The Markdown files below `directory`, without those of builds and tools.
fn find_documents(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the workspace can be read") {
        let path = entry.expect("the workspace can be read").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !path.is_symlink() {
            if name != "target" && !(name.starts_with('.') && name != ".ci") {
                find_documents(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "md") && !path.is_symlink() {
            found.push(path);
        }
    }
}

/// The targets of inline links, outside code blocks.
fn link_targets(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines()
        .filter(move |line| {
            let is_fence = line.trim_start().starts_with("```");
            in_code ^= is_fence;
            !in_code && !is_fence
        })
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

#[test]
fn links_are_found_outside_code() {
    let text = "see [a](a.md) and [b](b.md#part)\n```\n[c](c.md)\n```\n[d](https://d)";
    assert!(link_targets(text).eq(["a.md", "b.md#part", "https://d"]));
}
