//! Circles of modules: modules of a crate that use each other, directly or through others.
//!
//! Read from the source, by the paths in it: a path that leads through `use` lines to an item of another
//! module is an arrow to that module. Arrows between a module and the modules inside it do not
//! count. Code for tests is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use proc_macro2::{Delimiter, Group, LexError, TokenStream, TokenTree};

use crate::source_files::read_file;

/// Adds a fault for each circle of modules in the packages.
pub(crate) fn check(packages: &[&str], faults: &mut Vec<String>) -> Result<()> {
    for package in packages {
        let folder = Path::new(package).join("src");
        let root =
            ["lib.rs", "main.rs"].map(|name| folder.join(name)).into_iter().find(|file| file.is_file());
        let root = root.with_context(|| format!("{} has no lib.rs and no main.rs", folder.display()))?;
        let mut modules = BTreeMap::new();
        read_module(&root, &folder, &[], &mut modules)?;
        for circle in find_circles(&arrows(&modules)) {
            faults.push(format!("{package}: circle of modules: {circle}"));
        }
    }
    Ok(())
}

/// The names from the root of a crate to a module, or to an item in it; empty for the root.
type ModulePath = Vec<String>;

/// What a file says of its module.
#[derive(Debug, Default)]
struct Module {
    /// The names that `use` lines bring in, with their paths from the root. `*` for all names of a module.
    imports: Vec<(String, ModulePath)>,
    /// All paths in the file, from the root.
    paths: BTreeSet<ModulePath>,
    /// The modules that the file declares.
    children: Vec<String>,
}

/// Reads the module `name` in `file`, and the modules inside it, whose files are in `folder`, into `modules`.
fn read_module(
    file: &Path,
    folder: &Path,
    name: &[String],
    modules: &mut BTreeMap<ModulePath, Module>,
) -> Result<()> {
    let tokens: TokenStream = read_file(file)?
        .parse()
        .map_err(|error: LexError| anyhow!("{} is not Rust: {error}", file.display()))?;
    let mut module = Module::default();
    module.read(&tokens.into_iter().collect::<Vec<_>>(), name);
    for child in module.children.clone() {
        let inner = folder.join(&child);
        let files = [folder.join(format!("{child}.rs")), inner.join("mod.rs")];
        let file = files.iter().find(|file| file.is_file());
        let file = file.with_context(|| format!("{} declares no file of `{child}`", file_list(&files)))?;
        read_module(file, &inner, &[name, &[child]].concat(), modules)?;
    }
    modules.insert(name.to_vec(), module);
    Ok(())
}

/// The paths of files, for an error.
fn file_list(files: &[std::path::PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(" or ")
}

impl Module {
    /// Reads the tokens of the module `name`, without its code for tests.
    fn read(&mut self, tokens: &[TokenTree], name: &[String]) {
        let tokens = without_tests(tokens);
        let mut rest = tokens.as_slice();
        while let Some((token, after)) = rest.split_first() {
            rest = after;
            match token {
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    if let Some(TokenTree::Group(_)) = rest.first() {
                        rest = &rest[1..];
                    }
                }
                TokenTree::Group(group) => self.read(&group.stream().into_iter().collect::<Vec<_>>(), name),
                TokenTree::Ident(word) if word == "use" => {
                    let end = rest.iter().position(|token| is_punct(token, ';')).unwrap_or(rest.len());
                    self.read_use(&rest[..end], &[], name);
                    rest = &rest[end..];
                }
                TokenTree::Ident(word) if word == "mod" => {
                    // A module in braces belongs to the file.
                    if let [TokenTree::Ident(child), end, ..] = rest
                        && is_punct(end, ';')
                    {
                        self.children.push(child.to_string());
                    }
                }
                TokenTree::Ident(word) => {
                    let mut segments = vec![word.to_string()];
                    while let [a, b, TokenTree::Ident(next), after @ ..] = rest
                        && is_punct(a, ':')
                        && is_punct(b, ':')
                    {
                        segments.push(next.to_string());
                        rest = after;
                    }
                    if segments.len() > 1 || self.imports.iter().any(|(import, _)| *import == segments[0]) {
                        self.paths.insert(absolute(&segments, name));
                    }
                }
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
        }
    }

    /// Reads the tree of a `use` line, without `use` and `;`. `prefix` is the path before the tree.
    fn read_use(&mut self, tree: &[TokenTree], prefix: &[String], name: &[String]) {
        let mut segments = prefix.to_vec();
        let mut alias = None;
        for (index, token) in tree.iter().enumerate() {
            match token {
                TokenTree::Ident(word) if word == "as" => {
                    alias = tree.get(index + 1).map(ToString::to_string);
                    break;
                }
                TokenTree::Ident(word) => segments.push(word.to_string()),
                TokenTree::Punct(punct) if punct.as_char() == '*' => segments.push("*".into()),
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    for part in inner.split(|token| is_punct(token, ',')).filter(|part| !part.is_empty()) {
                        self.read_use(part, &segments, name);
                    }
                    return;
                }
                _ => {}
            }
        }
        // `a::{self, b}` brings in `a` itself.
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        let path = absolute(&segments, name);
        let local = alias.or_else(|| segments.last().cloned()).unwrap_or_default();
        self.paths.insert(path.clone());
        self.imports.push((local, path));
    }
}

/// The tokens without the items for tests and without doc comments.
pub(crate) fn without_tests(tokens: &[TokenTree]) -> Vec<TokenTree> {
    let (mut product, mut rest) = (Vec::new(), tokens);
    while let Some((token, after)) = rest.split_first() {
        rest = match after {
            [TokenTree::Group(attribute), item @ ..]
                if is_punct(token, '#') && is_test_attribute(attribute) =>
            {
                skip_item(item)
            }
            [TokenTree::Group(attribute), item @ ..] if is_punct(token, '#') && is_doc_comment(attribute) => {
                item
            }
            [bang, TokenTree::Group(attribute), item @ ..]
                if is_punct(bang, '!') && is_doc_comment(attribute) =>
            {
                item
            }
            _ => {
                product.push(token.clone());
                after
            }
        };
    }
    product
}

/// Whether an attribute is a doc comment.
fn is_doc_comment(attribute: &Group) -> bool {
    attribute.stream().into_iter().next().is_some_and(|token| token.to_string() == "doc")
}

/// Whether an attribute, such as `#[cfg(test)]`, makes its item code for tests.
fn is_test_attribute(attribute: &Group) -> bool {
    let text = attribute.stream().to_string().replace(' ', "");
    text == "test" || text.starts_with("cfg(test") || text.starts_with("cfg(all(test")
}

/// The tokens after the item at their start: after its `;`, or after its last brace.
fn skip_item(tokens: &[TokenTree]) -> &[TokenTree] {
    let is_end = |token: &TokenTree| {
        is_punct(token, ';')
            || matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
    };
    // The braces of `use a::{b, c};` do not end it.
    let is_use = tokens.iter().take_while(|token| !is_end(token)).any(|token| token.to_string() == "use");
    let end = tokens.iter().position(|token| if is_use { is_punct(token, ';') } else { is_end(token) });
    &tokens[end.map_or(tokens.len(), |end| end + 1)..]
}

/// Whether the token is this punctuation.
fn is_punct(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == character)
}

/// The path from the root that `segments`, a path in the module `name`, stands for.
fn absolute(segments: &[String], name: &[String]) -> ModulePath {
    let n_up = segments.iter().take_while(|segment| *segment == "super").count();
    match segments[0].as_str() {
        "crate" => segments[1..].to_vec(),
        "self" => [name, &segments[1..]].concat(),
        "super" => [&name[..name.len().saturating_sub(n_up)], &segments[n_up..]].concat(),
        _ => [name, segments].concat(),
    }
}

/// The module that has the item at `path`, a path from the root, following `use` lines; `None` for an item of
/// another crate.
fn resolve(path: &[String], modules: &BTreeMap<ModulePath, Module>, depth: usize) -> Option<ModulePath> {
    // `use` lines may lead in a circle.
    if depth > 16 {
        return None;
    }
    // The longest part of the path that is a module, and the name after it.
    let length = (0..=path.len()).rev().find(|&length| modules.contains_key(&path[..length]))?;
    let module = &path[..length];
    let Some(item) = path.get(length) else { return Some(module.to_vec()) };
    let imports = &modules[module].imports;
    let named = imports.iter().find(|(name, target)| name == item && target != path);
    let follow = |target: &[String], after: &[String]| {
        // The first name of a path may be that of another crate.
        let local = resolve(&[target, after].concat(), modules, depth + 1)?;
        let is_here = target.split_last().is_some_and(|(_, before)| before == module);
        (local.as_slice() != module || !is_here).then_some(local)
    };
    match named {
        Some((_, target)) => follow(target, &path[length + 1..]),
        None => Some(module.to_vec()),
    }
}

/// For each module the modules that it uses, with the names that it takes from them.
type Arrows = BTreeMap<ModulePath, BTreeMap<ModulePath, BTreeSet<String>>>;

/// The arrows between the modules of a crate, but for those between a module and the modules inside it.
fn arrows(modules: &BTreeMap<ModulePath, Module>) -> Arrows {
    let mut arrows = Arrows::new();
    for (name, module) in modules {
        for path in &module.paths {
            let Some(used) = resolve(path, modules, 0) else { continue };
            if !used.starts_with(name) && !name.starts_with(&used) {
                let names = arrows.entry(name.clone()).or_default().entry(used).or_default();
                names.extend(path.last().cloned());
            }
        }
    }
    arrows
}

/// The circles of modules: for each set of modules that reach each other, its arrows as text.
fn find_circles(arrows: &Arrows) -> Vec<String> {
    let reached: BTreeMap<&ModulePath, BTreeSet<&ModulePath>> =
        arrows.keys().map(|start| (start, reachable(start, arrows))).collect();
    let reaches =
        |from: &ModulePath, to: &ModulePath| reached.get(from).is_some_and(|found| found.contains(to));
    let mut circles = BTreeSet::new();
    for start in arrows.keys().filter(|start| reaches(start, start)) {
        let circle = arrows.keys().filter(|other| reaches(start, other) && reaches(other, start));
        circles.insert(circle.collect::<Vec<_>>());
    }
    circles.into_iter().map(|circle| describe(&circle, arrows)).collect()
}

/// The modules that `start` uses, directly or through others.
fn reachable<'a>(start: &ModulePath, arrows: &'a Arrows) -> BTreeSet<&'a ModulePath> {
    let (mut found, mut next) = (BTreeSet::new(), vec![start]);
    while let Some(module) = next.pop() {
        for used in arrows.get(module).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(used) {
                next.push(used);
            }
        }
    }
    found
}

/// The arrows between the modules of a circle, each with the names that one module takes from the other.
fn describe(circle: &[&ModulePath], arrows: &Arrows) -> String {
    let mut lines = Vec::new();
    for &from in circle {
        for (to, names) in arrows[from].iter().filter(|(to, _)| circle.contains(to)) {
            let names = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            lines.push(format!("\n    {} takes {names} from {}", from.join("::"), to.join("::")));
        }
    }
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The circles of a crate whose modules have these sources, by their paths.
    fn circles(sources: &[(&str, &str)]) -> Vec<String> {
        let mut modules = BTreeMap::new();
        for (path, source) in sources {
            let name: ModulePath = path.split("::").filter(|part| !part.is_empty()).map(Into::into).collect();
            let mut module = Module::default();
            module.read(&source.parse::<TokenStream>().unwrap().into_iter().collect::<Vec<_>>(), &name);
            modules.insert(name, module);
        }
        find_circles(&arrows(&modules))
    }

    #[test]
    fn two_modules_that_use_each_other_are_a_circle() {
        let root = ("", "mod a; mod b;");
        let b = ("b", "pub struct B; fn f(x: crate::a::A) {}");
        let found = circles(&[root, ("a", "use crate::b::B; pub struct A(B);"), b]);
        assert_eq!(found, ["\n    a takes B from b\n    b takes A from a"]);
        let one_way = ("a", "pub struct A;");
        assert!(circles(&[root, one_way, b]).is_empty());
    }

    #[test]
    fn a_circle_is_found_through_other_modules_groups_and_super() {
        let root = ("", "mod a; mod b; mod c;");
        let found = circles(&[
            root,
            ("a", "use super::{b::{self, B}}; fn f() { b::g() }"),
            ("b", "fn f() { if x { crate::c::C::new() } }"),
            ("c", "use super::a::*;"),
        ]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].lines().filter(|line| line.contains(" takes ")).count(), 3, "{found:?}");
    }

    #[test]
    fn an_item_is_in_the_module_that_defines_it_not_in_one_that_exports_it() {
        let inner = ("a", "mod x; mod y; pub use x::X; pub use y::Y;");
        let y = ("a::y", "use super::X; pub struct Y;");
        let found = circles(&[("", "mod a; pub use a::{X, Y};"), inner, ("a::x", "use crate::Y;"), y]);
        assert_eq!(found, ["\n    a::x takes Y from a::y\n    a::y takes X from a::x"]);
        assert!(circles(&[("", "mod a;"), inner, ("a::x", "pub struct X;"), y]).is_empty());
    }

    #[test]
    fn a_module_and_those_inside_it_are_no_circle() {
        let sources = [("", "mod a;"), ("a", "mod x; use x::X; pub struct A;"), ("a::x", "use super::A;")];
        assert!(circles(&sources).is_empty());
    }

    #[test]
    fn code_for_tests_does_not_count() {
        let b = ("b", "use crate::a::A; pub struct B;");
        for test in [
            "#[cfg(test)] mod tests { use crate::b::B; }",
            "#[cfg(test)] use crate::b::{B, C};",
            "#[cfg(test)] impl A { fn f(b: crate::b::B) {} }",
            "#[test] fn f() { crate::b::B }",
        ] {
            let a = format!("pub struct A; {test}");
            assert!(circles(&[("", "mod a; mod b;"), ("a", &a), b]).is_empty(), "{test}");
            let after = format!("{a} fn g(b: crate::b::B) {{}}");
            assert_eq!(circles(&[("", "mod a; mod b;"), ("a", &after), b]).len(), 1, "{test}");
        }
    }
}
