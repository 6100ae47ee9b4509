//! Writes generated pages and generated sections of pages.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::step;

/// Replaces the file `page` by `text` atomically: an interrupted command leaves the old page.
pub(crate) fn write_page(page: &Path, text: &[u8]) -> Result<()> {
    let mut temporary = page.as_os_str().to_owned();
    temporary.push(".part");
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, page))
        .with_context(|| format!("failed to write {}", page.display()))
}

/// A section of a Markdown page that a command generates: the lines between `<!-- name -->` and
/// `<!-- /name -->`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageSection {
    /// Path of the page in the workspace.
    pub(crate) page: &'static str,
    pub(crate) name: &'static str,
}

impl PageSection {
    /// Fails if [`write`](Self::write) would fail to find the section; to be called before long work.
    pub(crate) fn check(self) -> Result<()> {
        self.render("").map(drop)
    }

    /// Replaces the content of the section by `text` in the file of the page.
    pub(crate) fn write(self, text: &str) -> Result<()> {
        write_page(&step::workspace().join(self.page), self.render(text)?.as_bytes())
    }

    /// The text of the whole page with `content` in place of the section's; writes nothing. Fails if the page
    /// has no such section.
    fn render(self, content: &str) -> Result<String> {
        let Self { page, name } = self;
        let text = fs::read_to_string(step::workspace().join(page))
            .with_context(|| format!("failed to read {page}"))?;
        replace_section(&text, name, content)
            .with_context(|| format!("failed to find the section {name} in {page}"))
    }
}

/// Replaces the lines between `<!-- name -->` and `<!-- /name -->` in `text`, a Markdown page, by `content`,
/// and returns the new page. Fails unless both marks appear once and in this order.
fn replace_section(text: &str, name: &str, content: &str) -> Result<String> {
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let halves = text.split_once(&start).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let Some((before, after)) = halves else {
        bail!("there is no line `{}` with a line `{end}` after it", start.trim_end());
    };
    if after.contains(&start) || before.contains(&end) {
        bail!("`{}` or `{end}` appears more than once", start.trim_end());
    }
    Ok(format!("{before}{start}\n{}\n\n{end}{after}", content.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Title\n\nbefore\n<!-- bench -->\nold\n<!-- /bench -->\nafter | <!-- heads -->\n";

    #[test]
    fn a_section_is_replaced_and_the_rest_unchanged() {
        let page = replace_section(PAGE, "bench", "new\n").unwrap();
        assert_eq!(
            page,
            "# Title\n\nbefore\n<!-- bench -->\n\nnew\n\n<!-- /bench -->\nafter | <!-- heads -->\n"
        );
        assert_eq!(replace_section(&page, "bench", "new\n").unwrap(), page);
    }

    #[test]
    fn a_section_needs_its_marks() {
        let reversed = "<!-- /bench -->\n<!-- bench -->\n";
        let open = "<!-- bench -->\ntext to keep\n";
        for page in ["", "# Title\n", "<!-- /bench -->\n", open, reversed, &PAGE.replace("bench", "other")] {
            let error = replace_section(page, "bench", "new").unwrap_err().to_string();
            assert!(error.contains("`<!-- bench -->`") && error.contains("`<!-- /bench -->`"), "{error}");
        }
    }

    #[test]
    fn a_section_may_appear_only_once() {
        let error = replace_section(&format!("{PAGE}{PAGE}"), "bench", "new").unwrap_err().to_string();
        assert!(error.contains("more than once"), "{error}");
    }

    #[test]
    fn a_page_is_replaced() {
        let folder = std::env::temp_dir().join(format!("headstock-page-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let page = folder.join("page.md");
        write_page(&page, b"first, and longer").unwrap();
        write_page(&page, b"second").unwrap();
        let (text, files) = (fs::read_to_string(&page).unwrap(), fs::read_dir(&folder).unwrap().count());
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!((text.as_str(), files), ("second", 1));
    }
}
