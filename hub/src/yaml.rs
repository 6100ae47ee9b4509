//! YAML as a tree of texts, for the front matter of a README.md: what a text means is left to the reader.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle};

/// How deep lists and tables may be in each other.
const MAX_DEPTH: usize = 64;

/// How many nodes may be copied, because an alias repeats what an anchor names: a few lines of aliases of
/// aliases would otherwise fill the memory.
const MAX_COPIES: usize = 100_000;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Null,
    /// Also a number or a truth value, as it is written.
    Text(String),
    List(Vec<Self>),
    Table(BTreeMap<String, Self>),
}

impl Node {
    /// The value of `key` in a table; `None` if it is missing or null.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Table(table) => table.get(key).filter(|value| **value != Self::Null),
            _ => None,
        }
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number of nodes in this one, with itself.
    fn count(&self) -> usize {
        1 + match self {
            Self::Null | Self::Text(_) => 0,
            Self::List(items) => items.iter().map(Self::count).sum(),
            Self::Table(table) => table.values().map(Self::count).sum(),
        }
    }
}

/// Parses the first document of `text`. The error is the problem, with the line counted from 1.
pub(crate) fn parse(text: &str) -> Result<Node, String> {
    let mut parser = Parser::new_from_str(text);
    let mut tree = Tree::default();
    while let Some(event) = parser.next_event() {
        let (event, span) =
            event.map_err(|error| format!("line {}: {}", error.marker().line(), error.info()))?;
        let added = match event {
            Event::Scalar(text, style, anchor, _) => {
                let is_null =
                    style == ScalarStyle::Plain && ["", "~", "null", "Null", "NULL"].contains(&text.as_ref());
                let node = if is_null { Node::Null } else { Node::Text(text.into_owned()) };
                tree.add(node, anchor)
            }
            Event::SequenceStart(anchor, _) => tree.open(Node::List(Vec::new()), anchor),
            Event::MappingStart(anchor, _) => tree.open(Node::Table(BTreeMap::new()), anchor),
            Event::SequenceEnd | Event::MappingEnd => tree.close(),
            Event::Alias(anchor) => tree.repeat(anchor),
            Event::DocumentEnd => break,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => Ok(()),
        };
        added.map_err(|problem| format!("line {}: {problem}", span.start.line()))?;
    }
    Ok(tree.root.unwrap_or(Node::Null))
}

/// A document while it is read.
#[derive(Default)]
struct Tree {
    root: Option<Node>,
    open: Vec<OpenNode>,
    /// Complete nodes by the number of their anchor.
    anchors: BTreeMap<usize, Node>,
    n_copies: usize,
}

/// A list or table whose end is not read yet.
struct OpenNode {
    node: Node,
    /// In a table, the key whose value comes next.
    key: Option<String>,
    /// 0 without an anchor.
    anchor: usize,
}

impl Tree {
    fn open(&mut self, node: Node, anchor: usize) -> Result<(), String> {
        if self.open.len() == MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} lists and tables are in each other"));
        }
        self.open.push(OpenNode { node, key: None, anchor });
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        let OpenNode { node, anchor, .. } =
            self.open.pop().ok_or("a list or table ends that did not begin")?;
        self.add(node, anchor)
    }

    fn repeat(&mut self, anchor: usize) -> Result<(), String> {
        let node = self.anchors.get(&anchor).cloned().ok_or("an alias is inside of what it repeats")?;
        self.add_copy(&node)?;
        self.add(node, 0)
    }

    /// Counts a copy of `node`.
    fn add_copy(&mut self, node: &Node) -> Result<(), String> {
        self.n_copies += node.count();
        if self.n_copies > MAX_COPIES {
            return Err(format!("aliases repeat more than {MAX_COPIES} values"));
        }
        Ok(())
    }

    /// Adds a complete `node`, as a key, a value or an item.
    fn add(&mut self, node: Node, anchor: usize) -> Result<(), String> {
        if anchor != 0 {
            self.add_copy(&node)?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(OpenNode { node: parent, key, .. }) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match parent {
            Node::Table(table) => match (key.take(), node) {
                (None, Node::Text(name)) => *key = Some(name),
                (None, _) => return Err("a key is not a text".into()),
                (Some(name), value) => {
                    if table.contains_key(&name) {
                        return Err(format!("the key `{name}` is there twice"));
                    }
                    table.insert(name, value);
                }
            },
            Node::List(items) => items.push(node),
            Node::Null | Node::Text(_) => unreachable!("only lists and tables are opened"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Node {
        Node::Text(text.into())
    }

    fn table<const N: usize>(entries: [(&str, Node); N]) -> Node {
        Node::Table(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    #[test]
    fn lists_and_tables_of_both_styles_are_a_tree() {
        let expected = table([
            ("a", Node::List(vec![text("1"), text("x: y"), Node::Null])),
            ("b", table([("c", text("true"))])),
        ]);
        for yaml in ["a:\n- 1\n- 'x: y'\n-\nb:\n  c: true\n", "{a: [1, \"x: y\", null], b: {c: true}}"] {
            assert_eq!(parse(yaml).unwrap(), expected, "{yaml}");
        }
        assert_eq!(parse("a: '~'\nb: ~").unwrap(), table([("a", text("~")), ("b", Node::Null)]));
        assert_eq!(parse(""), Ok(Node::Null));
        // Only the first document.
        assert_eq!(parse("a: 1\n---\nb: 2\n").unwrap(), table([("a", text("1"))]));
        let node = parse("a: 1\nb:\n").unwrap();
        assert_eq!((node.get("a"), node.get("b"), node.get("c")), (Some(&text("1")), None, None));
    }

    #[test]
    fn an_alias_repeats_what_the_anchor_names() {
        let node = parse("a: &x [1, 2]\nb: *x\nc: &y t\nd: *y").unwrap();
        assert_eq!((node.get("b"), node.get("d")), (node.get("a"), Some(&text("t"))));
        assert!(parse("a: *x").is_err());
        assert!(parse("a: &x [*x]").unwrap_err().contains("inside of what it repeats"));
    }

    #[test]
    fn what_is_no_yaml_is_an_error_with_its_line() {
        for (yaml, expected) in [
            ("a: 1\nb: ]", "line 2"),
            ("a: 1\na: 2", "line 2: the key `a` is there twice"),
            ("x: 1\n? [a]\n: b", "a key is not a text"),
        ] {
            let error = parse(yaml).unwrap_err();
            assert!(error.contains(expected), "{yaml}: {error}");
        }
    }

    #[test]
    fn neither_depth_nor_aliases_fill_the_memory() {
        for deep in ["[".repeat(1_000_000), "- ".repeat(1_000_000), "{a: ".repeat(1_000_000)] {
            assert!(parse(&deep).is_err());
        }
        let levels = (1..40).map(|n| format!("a{n}: &a{n} [*a{}, *a{}]\n", n - 1, n - 1));
        let bomb = format!("a0: &a0 x\n{}", levels.collect::<String>());
        assert!(parse(&bomb).unwrap_err().contains("aliases repeat more than"));
        assert_eq!(parse(&format!("{}{}", "[".repeat(64), "]".repeat(64))).unwrap().count(), 64);
    }
}
