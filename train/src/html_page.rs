//! The frame of an HTML page without scripts.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The CSS of a page.
const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}\
td:first-child,th:first-child{text-align:left}.confusion td{min-width:2.2rem;text-align:center}\
.confusion th{font-weight:normal}.scroll{overflow-x:auto}code{background:#f3f3f3;padding:0 .2rem}";

/// The page with this title and body.
pub(crate) fn page(title: &str, body: Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; title { (title) } style { (PreEscaped(STYLE)) } }
            body { (body) }
        }
    }
    .into_string()
}
