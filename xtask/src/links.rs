//! Links between the Markdown pages of the project. Links to the web are not followed: the check needs no
//! network.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::source_files::read_file;
use crate::step;

/// Adds a fault for each link in a Markdown page of the repository to a file or folder that does not exist,
/// or to a heading that the page does not have.
pub(crate) fn check(faults: &mut Vec<String>) -> Result<()> {
    let mut git = step::command("git", &["ls-files", "-z", "--", "*.md"]);
    let listed = step::capture_output("git ls-files", &mut git)?;
    let listed = String::from_utf8(listed.stdout).context("git ls-files: a name that is not UTF-8")?;
    for page in listed.split('\0').filter(|page| !page.is_empty()).map(Path::new) {
        // A page that was deleted and not yet committed.
        if page.exists() {
            check_page(page, &read_file(page)?, faults)?;
        }
    }
    Ok(())
}

/// Adds a fault for each link of `page`, whose text is `text`, that leads nowhere.
fn check_page(page: &Path, text: &str, faults: &mut Vec<String>) -> Result<()> {
    for (line, target) in links(text) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (path, heading) = target.split_once('#').map_or((target, None), |(path, id)| (path, Some(id)));
        let file = if path.is_empty() { page.to_owned() } else { target_path(page, path) };
        if !file.exists() {
            faults.push(format!(
                "{}:{line}: a link to {}, which does not exist",
                page.display(),
                file.display()
            ));
        } else if let Some(heading) = heading
            && file.extension().is_some_and(|extension| extension == "md")
            && !heading_ids(&read_file(&file)?).contains(&heading.to_owned())
        {
            let file = file.display();
            faults.push(format!(
                "{}:{line}: a link to #{heading}, a heading that {file} lacks",
                page.display()
            ));
        }
    }
    Ok(())
}

/// The path to which a link `path` on `page` leads.
fn target_path(page: &Path, path: &str) -> PathBuf {
    page.parent().unwrap_or(Path::new("")).join(path)
}

/// The targets of the links in Markdown, `[text](target)`, with the numbers of their lines. Blocks and spans
/// of code have none.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    for (number, line) in prose_lines(text) {
        let outside_code = line.split('`').step_by(2);
        // A link whose text is code, [`name`](target), begins in one part and ends in the next.
        for part in outside_code {
            for (start, _) in part.match_indices("](") {
                let rest = &part[start + 2..];
                if let Some(end) = rest.find([')', ' ']) {
                    links.push((number, &rest[..end]));
                }
            }
        }
    }
    links
}

/// The lines of Markdown that are not in a block of code, with their numbers from 1.
fn prose_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        (!in_code && !is_fence).then_some((index + 1, line))
    })
}

/// The identifiers that GitHub gives to the headings of a page: lower case, without punctuation, hyphens in
/// place of spaces; the second of the same name ends in `-1`.
fn heading_ids(text: &str) -> Vec<String> {
    let mut uses: HashMap<String, usize> = HashMap::new();
    let headings = prose_lines(text).filter_map(|(_, line)| {
        let rest = line.trim_start_matches('#');
        (rest.len() < line.len()).then(|| rest.strip_prefix(' ')).flatten()
    });
    let mut ids = Vec::new();
    for heading in headings {
        let id: String = heading.trim().to_lowercase().chars().filter_map(id_character).collect();
        let n_before = uses.entry(id.clone()).or_default();
        ids.push(if *n_before == 0 { id } else { format!("{id}-{n_before}") });
        *n_before += 1;
    }
    ids
}

/// What a character of a heading is in its identifier; nothing for punctuation.
fn id_character(character: char) -> Option<char> {
    match character {
        ' ' => Some('-'),
        '-' | '_' => Some(character),
        _ => character.is_alphanumeric().then_some(character),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_outside_of_code() {
        let text = "[a](b.md) and [`c`](d.md#e \"title\")\n```\n[no](no.md)\n```\n`[no](no.md)` [x](y)\n";
        assert_eq!(links(text), [(1, "b.md"), (1, "d.md#e"), (5, "y")]);
    }

    #[test]
    fn headings_have_the_identifiers_of_github() {
        let text = "# `headstock.toml`\n## A head, and *more*\n### Tests\n# Tests\n#no heading\n";
        assert_eq!(heading_ids(text), ["headstocktoml", "a-head-and-more", "tests", "tests-1"]);
    }

    #[test]
    fn links_that_lead_nowhere_are_faults() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
        let mut faults = Vec::new();
        let text = "[1](Cargo.toml) [2](README.md#install) [3](https://no.example)\n[4](no.md)\n[5](README.md#two)\n";
        check_page(&page, text, &mut faults).unwrap();
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].contains("README.md:2: ") && faults[0].contains("no.md"), "{faults:?}");
        assert!(faults[1].contains("README.md:3: ") && faults[1].contains("#two"), "{faults:?}");
    }
}
