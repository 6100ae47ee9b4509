//! The frame of the HTML pages: one file without scripts.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The CSS of all pages. Numbers in a table with the class `numbers` are aligned to the right.
const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#222}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .6rem;text-align:left;border-bottom:1px solid #ddd}\
.numbers td,.numbers th{text-align:right}.numbers td:first-child,.numbers th:first-child{text-align:left}\
.confusion td{min-width:2.2rem;text-align:center}.confusion th{font-weight:normal}.scroll{overflow-x:auto}\
code{background:#f3f3f3;padding:0 .2rem}\
.error{color:#b00020}.warning{color:#9a6700}.note{color:#555}.items{display:flex;flex-wrap:wrap;gap:.8rem}\
.item{border:1px solid #ddd;border-radius:4px;padding:.4rem;display:flex;flex-wrap:wrap;gap:.4rem;max-width:100%}\
figure{margin:0;width:8.5rem}img{max-width:8rem;max-height:8rem;display:block}\
figcaption,.detail{font-size:12px;line-height:1.3;overflow-wrap:anywhere}.detail{width:100%}";

/// The page with this title and body.
#[expect(clippy::needless_pass_by_value, reason = "a body is made for its page only")]
pub(crate) fn page(title: &str, body: Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    };
    page.into_string()
}
