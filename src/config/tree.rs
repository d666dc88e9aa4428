//! A small XML tree that knows its lines; bounded.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Largest configuration file, bytes.
pub(super) const FILE_BYTES_MAX: usize = 16 << 20;
/// Deepest nesting, elements.
const DEPTH_MAX: usize = 32;

/// An element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    /// Where its start tag begins, from 1.
    pub(super) line: u32,
    pub(super) attrs: Vec<(String, String)>,
    /// All text directly inside, joined; not trimmed.
    pub(super) text: String,
    pub(super) children: Vec<Node>,
}

impl Node {
    /// An attribute's value.
    pub(super) fn attr(&self, name: &str) -> Option<&str> {
        self.attrs
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// All children of that name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Node> {
        self.children.iter().filter(move |child| child.name == name)
    }
}

/// A file that is no XML: where, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadXml {
    pub(super) line: u32,
    pub(super) reason: String,
}

/// The root element of a file.
pub(super) fn parse(bytes: &[u8]) -> Result<Node, BadXml> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(BadXml {
            line: 0,
            reason: format!("the file is longer than {} MiB", FILE_BYTES_MAX >> 20),
        });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| BadXml {
        line: 1 + newlines(&bytes[..error.valid_up_to()]),
        reason: "not UTF-8; save the file in UTF-8".to_owned(),
    })?;
    Builder {
        line: 1,
        open: Vec::new(),
        root: None,
    }
    .run(text)
}

struct Builder {
    line: u32,
    open: Vec<Node>,
    root: Option<Node>,
}

impl Builder {
    fn run(mut self, text: &str) -> Result<Node, BadXml> {
        let mut reader = Reader::from_str(text);
        reader.config_mut().expand_empty_elements = true;
        let mut at = 0;
        loop {
            let event = match reader.read_event() {
                Ok(event) => event,
                Err(error) => {
                    let broken = (reader.error_position() as usize).clamp(at, text.len());
                    self.line += newlines(&text.as_bytes()[at..broken]);
                    return Err(self.bad(error.to_string()));
                }
            };
            if matches!(event, Event::Eof) {
                return self.finish();
            }
            self.take(event)?;
            let end = (reader.buffer_position() as usize).clamp(at, text.len());
            self.line += newlines(&text.as_bytes()[at..end]);
            at = end;
        }
    }

    fn take(&mut self, event: Event<'_>) -> Result<(), BadXml> {
        match event {
            Event::Start(tag) => self.start(&tag),
            Event::End(_) => {
                if let Some(node) = self.open.pop() {
                    match self.open.last_mut() {
                        Some(parent) => parent.children.push(node),
                        None => self.root = Some(node),
                    }
                }
                Ok(())
            }
            Event::Text(text) => {
                let text = text.xml_content().map_err(|error| self.bad(error.to_string()))?;
                self.text(&text)
            }
            Event::CData(data) => {
                let text = data.decode().map_err(|error| self.bad(error.to_string()))?;
                self.text(&text)
            }
            Event::GeneralRef(entity) => {
                let character = entity.resolve_char_ref().map_err(|error| self.bad(error.to_string()))?;
                if let Some(character) = character {
                    return self.text(character.encode_utf8(&mut [0; 4]));
                }
                let name = entity.decode().map_err(|error| self.bad(error.to_string()))?;
                match quick_xml::escape::resolve_predefined_entity(&name) {
                    Some(text) => self.text(text),
                    None => Err(self.bad(format!("unknown entity '&{name};'; for a plain & write &amp;"))),
                }
            }
            _ => Ok(()),
        }
    }

    fn start(&mut self, tag: &BytesStart<'_>) -> Result<(), BadXml> {
        if self.open.len() == DEPTH_MAX {
            return Err(self.bad(format!("elements are nested deeper than {DEPTH_MAX}")));
        }
        if self.root.is_some() {
            return Err(self.bad("a second root element; a file has one".to_owned()));
        }
        let mut node = Node {
            line: self.line,
            ..Node::default()
        };
        node.name = String::from_utf8_lossy(tag.name().as_ref()).into_owned();
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|error| self.bad(error.to_string()))?;
            let value = attribute
                .unescape_value()
                .map_err(|error| self.bad(error.to_string()))?;
            let key = String::from_utf8_lossy(attribute.key.as_ref()).into_owned();
            node.attrs.push((key, value.into_owned()));
        }
        self.open.push(node);
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), BadXml> {
        match self.open.last_mut() {
            Some(node) => node.text.push_str(text),
            None if text.trim_matches(['\u{feff}', ' ', '\t', '\r', '\n']).is_empty() => {}
            None => {
                let space = text.len() - text.trim_start().len();
                self.line += newlines(&text.as_bytes()[..space]);
                return Err(self.bad("text outside of the root element".to_owned()));
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Node, BadXml> {
        if let Some(node) = self.open.pop() {
            return Err(BadXml {
                line: node.line,
                reason: format!("<{0}> is never closed; add </{0}>", node.name),
            });
        }
        let line = self.line;
        self.root.ok_or(BadXml {
            line,
            reason: "the file holds no element".to_owned(),
        })
    }

    fn bad(&self, reason: String) -> BadXml {
        BadXml {
            line: self.line,
            reason,
        }
    }
}

fn newlines(bytes: &[u8]) -> u32 {
    u32::try_from(memchr::memchr_iter(b'\n', bytes).count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bad(text: &str) -> (u32, String) {
        let error = parse(text.as_bytes()).unwrap_err();
        (error.line, error.reason)
    }

    #[test]
    fn knows_names_attributes_text_and_lines() {
        let root = parse(b"<?xml version='1.0'?>\n<!-- a\n b -->\n<a>\n <b k='&lt;1&#50;'\n   l=\"x\"/>\n t&amp;<![CDATA[<]]>&#x41;</a>\n")
            .unwrap();
        assert_eq!((root.name.as_str(), root.line), ("a", 4));
        let b = &root.children[0];
        assert_eq!(
            (b.line, b.attr("k"), b.attr("l"), b.attr("m")),
            (5, Some("<12"), Some("x"), None)
        );
        assert_eq!(root.text.trim(), "t&<A");
    }

    #[test]
    fn bad_files_name_the_line() {
        assert_eq!(bad("<a>\n<b>\n</a>").0, 3);
        assert_eq!(bad("<a>\n<b>").0, 2);
        assert_eq!(bad("<a/>\n<b/>").0, 2);
        assert_eq!(bad("<a>\n\n&nope;</a>").0, 3);
        assert_eq!(bad("<a>\n<b x='1' x='2'/></a>").0, 2);
        assert_eq!(bad("\n<a/>\nrest").0, 3);
        assert_eq!(bad("\n\n").1, "the file holds no element");
        assert_eq!(parse(b"<a>\n\xff</a>").unwrap_err().line, 2);
        assert!(bad(&"<a>".repeat(100)).1.contains("deeper"));
    }
}
