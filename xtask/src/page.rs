//! Pages of which a command writes all or a part.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Writes a page; the one that is there stays until the new one is whole.
pub(crate) fn write(page: &Path, text: &[u8]) -> Result<()> {
    let mut beside = page.as_os_str().to_owned();
    beside.push(".part");
    fs::write(&beside, text)
        .and_then(|()| fs::rename(&beside, page))
        .with_context(|| format!("failed to write {}", page.display()))
}

/// A part of a page that is a command's to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) page: &'static str,
    pub(crate) part: &'static str,
}

impl Place {
    /// Fails where [`write`](Self::write) would find no place: before long work, not after it.
    pub(crate) fn check(self) -> Result<()> {
        self.with("").map(drop)
    }

    /// Writes the page with `text` in place of what the part was.
    pub(crate) fn write(self, text: &str) -> Result<()> {
        write(Path::new(self.page), self.with(text)?.as_bytes())
    }

    fn with(self, part: &str) -> Result<String> {
        let Self { page, part: name } = self;
        let text = fs::read_to_string(page).with_context(|| format!("failed to read {page}"))?;
        with_part(&text, name, part).with_context(|| format!("failed to find the place of {name} in {page}"))
    }
}

/// `text` with `part` between its lines `<!-- name -->` and `<!-- /name -->`, in place of what is there.
fn with_part(text: &str, name: &str, part: &str) -> Result<String> {
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let halves = text.split_once(&start).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let Some((before, after)) = halves else {
        bail!("there is no line `{}` with a line `{end}` after it", start.trim_end());
    };
    if after.contains(&start) || before.contains(&end) {
        bail!("`{}` or `{end}` stands there more than once", start.trim_end());
    }
    Ok(format!("{before}{start}\n{}\n\n{end}{after}", part.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# Title\n\nbefore\n<!-- bench -->\nold\n<!-- /bench -->\nafter | <!-- heads -->\n";

    #[test]
    fn a_part_is_replaced_and_the_rest_kept() {
        let page = with_part(PAGE, "bench", "new\n").unwrap();
        assert_eq!(
            page,
            "# Title\n\nbefore\n<!-- bench -->\n\nnew\n\n<!-- /bench -->\nafter | <!-- heads -->\n"
        );
        assert_eq!(with_part(&page, "bench", "new\n").unwrap(), page);
    }

    #[test]
    fn without_its_marks_a_part_has_no_place() {
        let reversed = "<!-- /bench -->\n<!-- bench -->\n";
        let open = "<!-- bench -->\ntext to keep\n";
        for page in ["", "# Title\n", "<!-- /bench -->\n", open, reversed, &PAGE.replace("bench", "other")] {
            let error = with_part(page, "bench", "new").unwrap_err().to_string();
            assert!(error.contains("`<!-- bench -->`") && error.contains("`<!-- /bench -->`"), "{error}");
        }
    }

    #[test]
    fn two_places_for_a_part_are_one_too_many() {
        let error = with_part(&format!("{PAGE}{PAGE}"), "bench", "new").unwrap_err().to_string();
        assert!(error.contains("more than once"), "{error}");
    }

    #[test]
    fn a_page_is_written_whole() {
        let folder = std::env::temp_dir().join(format!("headstock-page-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let page = folder.join("page.md");
        write(&page, b"first, and longer").unwrap();
        write(&page, b"second").unwrap();
        let (text, files) = (fs::read_to_string(&page).unwrap(), fs::read_dir(&folder).unwrap().count());
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!((text.as_str(), files), ("second", 1));
    }
}
