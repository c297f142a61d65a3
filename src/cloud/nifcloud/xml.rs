//! A small, tolerant reader for the API's XML.
//!
//! The answers mix letter cases (`AccountingType`), namespaces by host and version, `<x/>` and `<x></x>`, and
//! leave out empty lists. So elements are kept as a plain tree, looked up by local name in any letter case, and
//! whatever is missing reads as empty text. Rows of one long list can be handed out one by one as they close,
//! so that an answer of 50 000 disks never stands in memory as a tree.
//!
//! Bounds: depth [`MAX_DEPTH`], [`MAX_NODES`] elements alive at once; the size of the text is bounded by the
//! transport. Document types are refused and so is every entity but XML's own five and character references.

use quick_xml::Reader;
use quick_xml::events::{BytesRef, Event};
use thiserror::Error;

use super::error::bounded;

/// Deepest nesting; the API's own deepest answer has ten levels.
const MAX_DEPTH: usize = 32;
/// Most elements kept at once.
const MAX_NODES: usize = 100_000;

/// One element.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Node {
    name: String,
    text: String,
    children: Vec<Self>,
}

/// A text that is not an XML answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum XmlError {
    /// Not well-formed.
    #[error("not well-formed XML: {0}")]
    Syntax(String),
    /// Well-formed, but outside what the API sends.
    #[error("XML with {0}")]
    Refused(&'static str),
}

/// Rows handed out while reading: where they are, below the root, and who takes them.
pub(crate) struct Rows<'a> {
    /// Names from the root's child down to the row, such as `["volumeSet", "item"]`; empty for no rows.
    pub(crate) path: &'a [&'a str],
    /// Called with each row when it closes.
    pub(crate) take: &'a mut dyn FnMut(&Node),
}

impl Node {
    /// The local name as it came.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// The first child of that name.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.is(name))
    }

    /// The trimmed text of a child; empty when there is none.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.child(name).map_or("", |child| child.text.trim())
    }

    /// The trimmed text of a grandchild and so on; empty when there is none.
    pub(crate) fn text_at(&self, path: &[&str]) -> &str {
        let mut node = self;
        for name in path {
            match node.child(name) {
                Some(child) => node = child,
                None => return "",
            }
        }
        node.text.trim()
    }

    /// The `item` children of a list; none when the list is missing.
    pub(crate) fn items(&self, list: &str) -> impl Iterator<Item = &Self> {
        self.child(list)
            .into_iter()
            .flat_map(|list| list.children.iter().filter(|child| child.is("item")))
    }

    /// Whether the element holds neither text nor, at any depth, an element that does.
    pub(crate) fn is_blank(&self) -> bool {
        self.text.trim().is_empty() && self.children.iter().all(Self::is_blank)
    }
}

/// Reads one document into a tree, without the rows that `rows` takes.
///
/// # Errors
/// [`XmlError`].
pub(crate) fn read(text: &str, rows: &mut Rows<'_>) -> Result<Node, XmlError> {
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
    reader.config_mut().expand_empty_elements = true;
    let mut builder = Builder::default();
    loop {
        match reader.read_event().map_err(|e| syntax(&e))? {
            Event::Start(start) => builder.open(start.local_name().as_ref())?,
            Event::End(_) => builder.close(rows)?,
            Event::Text(text) => builder.text(&text.xml10_content())?,
            Event::CData(text) => builder.text(&text.xml10_content())?,
            Event::GeneralRef(entity) => {
                let c = resolve(&entity)?;
                builder.text(c.encode_utf8(&mut [0; 4]))?;
            }
            Event::DocType(_) => return Err(XmlError::Refused("a document type")),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::Empty(_) => {}
            Event::Eof => return builder.finish(),
        }
    }
}

/// The parser's message quotes the document, so it is bounded as the document is not.
fn syntax(error: &quick_xml::Error) -> XmlError {
    XmlError::Syntax(bounded(&error.to_string(), 120))
}

fn resolve(entity: &BytesRef<'_>) -> Result<char, XmlError> {
    match &**entity {
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "amp" => Ok('&'),
        "apos" => Ok('\''),
        "quot" => Ok('"'),
        _ => entity
            .resolve_char_ref()
            .map_err(|e| syntax(&e))?
            .ok_or(XmlError::Refused("an entity that XML does not define")),
    }
}

#[derive(Default)]
struct Builder {
    open: Vec<Node>,
    root: Option<Node>,
    /// Elements alive, and how many were alive when the current row began.
    alive: usize,
    before_row: usize,
}

impl Builder {
    fn open(&mut self, name: &str) -> Result<(), XmlError> {
        if self.root.is_some() {
            return Err(XmlError::Refused("more than one root element"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(XmlError::Refused("elements nested too deeply"));
        }
        if self.alive >= MAX_NODES {
            return Err(XmlError::Refused("too many elements"));
        }
        self.alive += 1;
        self.open.push(Node {
            name: name.to_owned(),
            ..Node::default()
        });
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), XmlError> {
        match self.open.last_mut() {
            Some(node) => node.text.push_str(text),
            None if text.trim().is_empty() => {}
            None => return Err(XmlError::Refused("text outside the root element")),
        }
        Ok(())
    }

    fn close(&mut self, rows: &mut Rows<'_>) -> Result<(), XmlError> {
        let is_row = self.is_row(rows.path);
        let Some(node) = self.open.pop() else {
            return Err(XmlError::Refused("an end tag without a start"));
        };
        if is_row {
            (rows.take)(&node);
            self.alive = self.before_row;
        } else {
            match self.open.last_mut() {
                Some(parent) => parent.children.push(node),
                None => self.root = Some(node),
            }
        }
        // Everything alive at depth path.len() precedes the next row.
        if self.open.len() <= rows.path.len() {
            self.before_row = self.alive;
        }
        Ok(())
    }

    fn is_row(&self, path: &[&str]) -> bool {
        !path.is_empty()
            && self.open.len() == path.len() + 1
            && self
                .open
                .iter()
                .skip(1)
                .zip(path)
                .all(|(node, name)| node.is(name))
    }

    fn finish(self) -> Result<Node, XmlError> {
        if !self.open.is_empty() {
            return Err(XmlError::Refused("an element that is never closed"));
        }
        self.root.ok_or(XmlError::Refused("no element at all"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Result<Node, XmlError> {
        read(
            text,
            &mut Rows {
                path: &[],
                take: &mut |_| {},
            },
        )
    }

    #[test]
    fn names_are_found_in_any_letter_case_and_any_namespace() {
        let root = tree(
            r#"<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
               <a:R xmlns:a="https://example.invalid/"><AccountingType>2</AccountingType><e/><f></f></a:R>"#,
        )
        .unwrap();
        assert_eq!(root.name(), "R");
        assert_eq!(root.text("accountingType"), "2");
        assert_eq!(root.text("e"), "");
        assert_eq!(root.text("f"), "");
        assert_eq!(root.text("missing"), "");
        assert_eq!(root.items("missing").count(), 0);
        assert!(root.child("f").unwrap().is_blank());
    }

    #[test]
    fn text_may_come_in_pieces_with_entities_and_cdata() {
        let root = tree("<r><t>a &lt;b&gt; &amp;&#x3042;<![CDATA[<c>]]></t></r>").unwrap();
        assert_eq!(root.text("t"), "a <b> &あ<c>");
    }

    #[test]
    fn what_the_api_never_sends_is_refused_not_guessed() {
        for text in [
            "",
            "   ",
            "plain text",
            "<html><body>502</html>",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a/>text",
            "</a>",
            "<a>&nbsp;</a>",
            "<a>&</a>",
            "<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>",
            "{\"message\":\"json\"}",
        ] {
            assert!(tree(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_message_about_a_document_is_shorter_than_the_document() {
        let name = "n\u{1}".repeat(100_000);
        let error = tree(&format!("<{name}></b>")).unwrap_err().to_string();
        assert!(error.chars().count() < 200, "{}", error.len());
        assert!(!error.chars().any(char::is_control), "{error:?}");
    }

    #[test]
    fn depth_and_number_of_elements_are_bounded() {
        let deep = "<a>".repeat(10_000);
        assert_eq!(
            tree(&deep),
            Err(XmlError::Refused("elements nested too deeply"))
        );
        let wide = format!("<a>{}</a>", "<b/>".repeat(MAX_NODES));
        assert_eq!(tree(&wide), Err(XmlError::Refused("too many elements")));
    }

    #[test]
    fn rows_are_handed_out_one_by_one_and_not_kept() {
        let rows = MAX_NODES; // two elements each: kept, they would be too many
        let text = format!(
            "<r><id>7</id><volumeSet>{}</volumeSet><after/></r>",
            "<item><x>1</x></item>".repeat(rows)
        );
        let mut seen = 0;
        let root = read(
            &text,
            &mut Rows {
                path: &["volumeSet", "item"],
                take: &mut |row| seen += usize::from(row.text("x") == "1"),
            },
        )
        .unwrap();
        assert_eq!(seen, rows);
        assert_eq!(root.text("id"), "7");
        assert_eq!(root.items("volumeSet").count(), 0);
        assert!(root.child("after").is_some());
    }

    #[test]
    fn a_list_of_the_same_name_elsewhere_is_not_a_row() {
        let mut seen = 0;
        let root = read(
            "<r><other><volumeSet><item/></volumeSet></other><volumeSet><thing/></volumeSet></r>",
            &mut Rows {
                path: &["volumeSet", "item"],
                take: &mut |_| seen += 1,
            },
        )
        .unwrap();
        assert_eq!(seen, 0);
        assert_eq!(root.child("other").unwrap().items("volumeSet").count(), 1);
    }
}
